"""Recognition: a class, a set of classes or a number for each clip; loss and scores are those of its target."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidseg.clips.mixing import draw_mixing, mix_clips
from vidseg.engine.distributed import rank
from vidseg.engine.task import BatchResult, Position, Task, sums_of
from vidseg.metrics import confusion_matrix
from vidseg.tasks.recognition.evaluation import Evaluation, evaluate_target
from vidseg.tasks.recognition.program_run import begin_program_run
from vidseg.tasks.recognition.target_kinds import ClassTarget, Target

__all__ = ["RecognitionTask"]


class RecognitionTask(Task):
    """Clips (B, 3, T, H, W) to logits (B, K).

    Args:
        label_smoothing: epsilon in [0, 1): the target is 1 - epsilon on the true class, and epsilon spread evenly over
            all K classes (Szegedy et al., CVPR 2016); of the default target.
        mixup: alpha of the Beta distribution from which each batch's mixing weight is drawn (Zhang et al., ICLR 2018);
            0 disables mixup. The training accuracy counts each clip's own class.
        cutmix: alpha of CutMix's Beta distribution (Yun et al., ICCV 2019); 0 disables CutMix. With mixup each batch
            has one of them, with equal probability.
        target: what is learned; None: one class for each video.
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        target: Target | None = None,
    ):
        self.target = target or ClassTarget(smoothing=label_smoothing)
        self.mixup, self.cutmix = mixup, cutmix
        self.columns = self.target.columns
        self.classes: list[str] = []

    @property
    def train_columns(self) -> tuple[str, ...]:
        """See `Task.train_columns`."""
        return self.target.train_columns

    def check(self, model: nn.Module, loader: Any) -> None:
        """See `Task.check`."""
        labels = getattr(getattr(loader, "data", None), "labels", None)
        if labels is None:
            return
        if len(labels) == 0:
            raise ValueError(f"{loader.data}: the split is empty; `vidseg labels show` lists what the data set has")
        if not isinstance(self.target, ClassTarget):
            return
        self.classes = list(loader.data.classes)
        classes = getattr(model, "num_classes", None)
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
        """See `Task.train_batch`."""
        frames, rows = batch.inputs, self.target.rows(batch)
        mixing = draw_mixing(
            position.seed,
            position.epoch,
            position.batch,
            clips=len(rows),
            mixup=self.mixup,
            cutmix=self.cutmix,
            height=frames.shape[-2],
            width=frames.shape[-1],
            rank=rank(),
        )
        if mixing is not None:
            frames = mix_clips(frames, mixing)
        logits = model(frames).float()
        losses = self.target.losses(logits, rows, mixing)
        valid = getattr(batch, "valid", None)
        weights = torch.ones_like(losses) if valid is None else valid.to(losses.dtype)
        # Over all rows, padding included: every process divides by the same number, so every clip weighs alike.
        backward((losses * weights).sum() / len(losses))
        scores = [row * weights for row in self.target.scores(logits.detach(), rows)]
        sums = [*(row.sum() for row in scores), (losses.detach() * weights).sum()]
        return BatchResult(sums_of(sums, weights.sum(), device=losses.device))

    def evaluate(self, model: nn.Module, loader: Iterable[Any], **options: Any) -> Any:
        """See `Task.evaluate`."""
        if not isinstance(self.target, ClassTarget):
            options.pop("progress", None)  # a batch has no mean average precision
        return evaluate_target(model, loader, self.target, **options)

    def draw(self, result: Any, folder: Path) -> list[Path]:
        """See `Task.draw`: the confusion matrix, of one class for each video."""
        if not isinstance(result, Evaluation):
            return []
        from vidseg.plots import plot_confusion  # matplotlib, which a run may not need

        number = result.logits.shape[1]
        names = self.classes if len(self.classes) == number else [str(label) for label in range(number)]
        counts = confusion_matrix(result.labels, result.predictions, number)
        return [plot_confusion(counts.tolist(), names, folder / "confusion.png")]

    def begin(self, trainer: Any, out: Path) -> dict[str, Any]:
        """See `Task.begin`."""
        return begin_program_run(trainer, out) if isinstance(self.target, ClassTarget) else {}

    def scores_text(self, values: tuple[float, ...]) -> str:
        """See `Task.scores_text`."""
        if not isinstance(self.target, ClassTarget):
            return super().scores_text(values)
        top1, top5, loss = values
        return f"loss-ce = {loss:.5f}, top1 = {top1:.5f}, top5 = {top5:.5f}"

    def epoch_text(self, kind: str, epoch: int, values: tuple[float, ...], *, iteration: int | None = None) -> str:
        """See `Task.epoch_text`."""
        if not isinstance(self.target, ClassTarget):
            return super().epoch_text(kind, epoch, values, iteration=iteration)
        top1, top5, loss = values
        if kind == "train":
            head, equals = f"Epoch [{epoch}]  (train)", ": "
        else:
            part = "" if iteration is None else f" Iteration [{iteration}]:"
            head, equals = f"Epoch [{epoch}]:{part}  (val)", " "
        return f"{head}  average top-1 acc: {top1:.5f}   average top-5 acc: {top5:.5f}   average loss{equals}{loss:.5f}"
