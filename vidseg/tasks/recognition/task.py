"""Recognition: one class for each clip, cross entropy, top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.clips.mixing import draw_mixup, mix_clips, mix_targets
from vidseg.engine.distributed import rank
from vidseg.engine.task import BatchResult, Position, Task, sums_of
from vidseg.metrics import top_k_hits
from vidseg.tasks.recognition.evaluation import Evaluation, evaluate

__all__ = ["RecognitionTask"]


class RecognitionTask(Task):
    """Clips (B, 3, T, H, W) to logits (B, K).

    Args:
        label_smoothing: epsilon in [0, 1): the target is 1 - epsilon on the true class, and epsilon spread evenly over
            all K classes (Szegedy et al., CVPR 2016).
        mixup: alpha of the Beta distribution from which each batch's mixing weight is drawn (Zhang et al., ICLR 2018);
            0 disables mixup. The training accuracy counts each clip's own class.
    """

    columns: tuple[str, ...] = ("Top1", "Top5", "Loss")

    def __init__(self, *, label_smoothing: float = 0.0, mixup: float = 0.0):
        self.label_smoothing, self.mixup = label_smoothing, mixup

    def check(self, model: nn.Module, loader: Any) -> None:
        classes = getattr(model, "num_classes", None)
        labels = getattr(getattr(loader, "data", None), "labels", None)
        if labels is None:
            return
        if len(labels) == 0:
            raise ValueError(f"{loader.data}: the split is empty; `vidseg labels show` lists what the data set has")
        if labels.min() < 0:
            count = int((labels < 0).sum())
            text = "1 video has no class" if count == 1 else f"{count} videos have no class"
            raise ValueError(f"{loader.data}: {text}; apply labels, or use data.subset(data.labels >= 0)")
        if classes is not None and labels.max() >= classes:
            raise ValueError(
                f"{loader.data} has {len(loader.data.classes)} classes, the network has {classes} outputs: create it "
                f"with num_classes={len(loader.data.classes)}"
            )

    def train_batch(
        self, model: nn.Module, batch: Any, position: Position, backward: Callable[[Tensor], None]
    ) -> BatchResult:
        frames, labels = batch.inputs, batch.labels
        mixing = None
        if self.mixup:
            mixing = draw_mixup(
                position.seed, position.epoch, position.batch, clips=len(labels), alpha=self.mixup, rank=rank()
            )
            frames = mix_clips(frames, mixing)
        logits = model(frames).float()
        if mixing is None:
            losses = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, reduction="none")
        else:
            targets = mix_targets(labels, mixing, logits.shape[1], smoothing=self.label_smoothing)
            losses = F.cross_entropy(logits, targets.to(logits.device), reduction="none")
        valid = getattr(batch, "valid", None)
        weights = torch.ones_like(losses) if valid is None else valid.to(losses.dtype)
        # Over all rows, padding included: every process divides by the same number, so every clip weighs alike.
        backward((losses * weights).sum() / len(losses))
        hits = (top_k_hits(logits.detach(), labels, k) * weights for k in (1, 5))
        sums = [*(row.sum() for row in hits), (losses.detach() * weights).sum()]
        return BatchResult(sums_of(sums, weights.sum(), device=losses.device))

    def evaluate(self, model: nn.Module, loader: Iterable[Any], **options: Any) -> Evaluation:
        return evaluate(model, loader, **options)

    def scores_text(self, values: tuple[float, ...]) -> str:
        top1, top5, loss = values
        return f"loss-ce = {loss:.5f}, top1 = {top1:.5f}, top5 = {top5:.5f}"

    def epoch_text(self, kind: str, epoch: int, values: tuple[float, ...], *, iteration: int | None = None) -> str:
        top1, top5, loss = values
        if kind == "train":
            head, equals = f"Epoch [{epoch}]  (train)", ": "
        else:
            part = "" if iteration is None else f" Iteration [{iteration}]:"
            head, equals = f"Epoch [{epoch}]:{part}  (val)", " "
        return f"{head}  average top-1 acc: {top1:.5f}   average top-5 acc: {top5:.5f}   average loss{equals}{loss:.5f}"
