"""Temporal action detection: segments with classes and scores in long videos.

Shapes: B samples, D feature width, L columns, N proposals, M segments, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vidseg.clips.draws import uniform
from vidseg.engine import distributed
from vidseg.engine.task import BatchResult, Position, Task, sums_of
from vidseg.loaders import DetectionBatch
from vidseg.losses import DetectionLoss, create_loss
from vidseg.losses.detection import DetectionTargets
from vidseg.metrics import detection_map, detection_protocol
from vidseg.models._candidates import Candidates, top_candidates
from vidseg.models._snippets import SnippetDetector
from vidseg.tasks.detection.external_scores import ExternalScores
from vidseg.tasks.detection.result import DetectionResult, FoundSegments, score_detections
from vidseg.tasks.detection.result_scores import ResultScores
from vidseg.tasks.detection.sampled_gradients import SnippetSampling, backward_sampled, sample_snippets
from vidseg.tasks.detection.suppression import (
    Selected,
    boundary_filter,
    classify_proposals,
    select_candidates,
)
from vidseg.tasks.detection.suppression_options import SuppressionOptions

__all__ = ["DetectionTask", "Gradients"]

Gradients = Literal["sampled", "all", "recomputed", "none"]

_EVALUATION_SEED = 0


class DetectionTask(Task):
    """Features (B, D, L), or snippets (B, L, 3, T, H, W), to segments with scores.

    Args:
        loss: `vidseg.losses.create_loss` of the network's name; None: made in `check`.
        suppression: how detections are selected among a network's proposals.
        protocol: name in `vidseg.metrics.PROTOCOLS`.
        gradients: how the encoder of a `SnippetDetector` is trained: with a sample of the snippets, all of them, all of
            them with activations computed twice, or not at all.
        sampling: of the snippets, with gradients="sampled".
        class_scores: scores of the classes of whole videos, for a network that proposes segments without a class.
        class_top: classes of a video that each proposal gets from them.
        name: name of the network, for the loss.

    Raises:
        ValueError: there is no such protocol.
    """

    def __init__(
        self,
        loss: DetectionLoss | None = None,
        *,
        suppression: SuppressionOptions | None = None,
        protocol: str = "thumos14",
        gradients: Gradients = "sampled",
        sampling: SnippetSampling | None = None,
        class_scores: ExternalScores | None = None,
        class_top: int = 2,
        name: str = "",
    ) -> None:
        detection_protocol(protocol)  # an unknown name is refused now
        self.loss, self.suppression, self.protocol = loss, suppression or SuppressionOptions(), protocol
        self.gradients, self.sampling = gradients, sampling or SnippetSampling()
        self.class_scores, self.class_top, self.name = class_scores, class_top, name
        self.columns = ("mAP@0.5", "mAP", "Loss")
        self.proposals_only = False

    @property
    def train_columns(self) -> tuple[str, ...]:
        """See `Task.train_columns`."""
        return ("Loss",)

    def check(self, model: nn.Module, loader: Any) -> None:
        """See `Task.check`."""
        classes = len(loader.data.classes)
        outputs = getattr(model, "num_classes", classes)
        if outputs != classes:
            raise ValueError(f"{loader.data}: {classes} classes, but the network has {outputs}")
        pixels = getattr(model, "reads_pixels", False)
        if pixels != (loader.feature_size is None):
            wanted, given = ("snippets", "features") if pixels else ("features", "snippets")
            raise ValueError(f"the network takes {wanted}, the loader has {given}")
        width = getattr(model, "in_features", loader.feature_size)
        if not pixels and width != loader.feature_size:
            raise ValueError(
                f"{loader.files.folders[0]}: features of {loader.feature_size} values a column, but the network takes "
                f"{width}"
            )
        detector = getattr(model, "detector", model)
        if (
            pixels
            and not getattr(model, "exported", False)  # which can only be tested
            and self.gradients != "none"
            and not any(value.requires_grad for name, value in model.named_parameters() if name.startswith("backbone."))
        ):
            raise ValueError(
                f"gradients={self.gradients!r}: the encoder is frozen and has no gradient; use --gradients none"
            )
        # Wrapped for several processes, the encoder could not be called apart from the detector.
        self.one_backward = not pixels or self.gradients == "all"
        class_agnostic = bool(getattr(detector, "class_agnostic", False))
        self.proposals_only = class_agnostic and self.class_scores is None
        self.columns = ("AR@100", "AUC", "Loss") if self.proposals_only else ("mAP@0.5", "mAP", "Loss")
        if self.loss is None:
            name = self.name or type(detector).__name__.lower()
            loss = create_loss(name, num_classes=classes, class_agnostic=class_agnostic)
            if not isinstance(loss, DetectionLoss):
                raise TypeError(f"{type(loss).__name__} is not a loss of detection")
            self.loss = loss

    def _seeds(self, seed: int, epoch: int, batch: DetectionBatch) -> list[int]:
        draws = uniform(seed, epoch, batch.numbers.numpy(), purpose="detection")[:, 0]
        return [int(draw * 2**53) for draw in draws]

    def _objective(self, device: torch.device) -> DetectionLoss:
        assert self.loss is not None
        return self.loss.to(device)

    def train_batch(
        self, model: nn.Module, batch: DetectionBatch, position: Position, backward: Callable[[Tensor], None]
    ) -> BatchResult:
        """See `Task.train_batch`."""
        if not bool(batch.valid.all()):  # a row that only fills up a rank's batch has no segment to train on
            kept = batch.valid.nonzero()[:, 0]  # in host memory, as all that describes the samples
            columns = {one.name: getattr(batch, one.name) for one in fields(batch)}
            batch = replace(batch, **{name: value[kept.to(value.device)] for name, value in columns.items()})
        loss, seeds = self._objective(batch.inputs.device).train(), self._seeds(position.seed, position.epoch, batch)
        targets, mask = DetectionTargets(batch.segments, batch.labels), batch.mask

        def loss_of(inputs: Tensor, network: nn.Module) -> Tensor:
            output = network(inputs, mask, **loss.model_inputs(targets, mask, seeds=seeds))
            with distributed.shared_losses():
                return loss(output, targets, mask, seeds=seeds)

        if self.gradients != "all" and isinstance(model, SnippetDetector):
            value = self._train_snippets(model, batch, position, loss_of, backward)
        else:
            value = loss_of(batch.inputs, model)
            backward(value)
        count = len(batch)
        return BatchResult(sums_of([value.detach() * count], count, device=batch.inputs.device))

    def _train_snippets(
        self,
        model: SnippetDetector,
        batch: DetectionBatch,
        position: Position,
        loss_of: Callable[[Tensor, nn.Module], Tensor],
        backward: Callable[[Tensor], None],
    ) -> Tensor:
        """Train the detector, and the encoder as `gradients` says."""
        if self.gradients == "recomputed":
            value = loss_of(model.encode(batch.inputs, batch.mask, recompute=True), model.detector)
            backward(value)
            return value
        if self.gradients == "none":
            with torch.no_grad():
                features = model.encode(batch.inputs, batch.mask)
            value = loss_of(features, model.detector)
            backward(value)
            return value
        lengths = batch.mask.sum(dim=1).tolist()
        draws = uniform(position.seed, position.epoch, batch.numbers.numpy(), purpose="snippets", count=max(lengths))
        ends: list[Any] = [None] * len(batch)
        if self.sampling.strategy == "boundary":
            inside = zip(batch.segments.double().cpu(), batch.labels.cpu() >= 0, strict=True)
            ends = [rows[kept].flatten().numpy() for rows, kept in inside]
        chosen = [
            sample_snippets(self.sampling, length, row, boundaries=near)
            for length, row, near in zip(lengths, draws, ends, strict=True)
        ]
        return backward_sampled(
            model,
            batch.inputs,
            batch.mask,
            lambda features: loss_of(features, model.detector),
            backward,
            chosen,
            unbiased=self.sampling.unbiased,
        )

    def forward(self, model: nn.Module, batch: DetectionBatch) -> Any:
        """See `Task.forward`."""
        return model(batch.inputs, batch.mask)

    def evaluate(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        *_: Any,
        device: torch.device | str = "cpu",
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        progress: Callable[[int, Any], None] | None = None,
        thorough: bool = False,
    ) -> DetectionResult:
        """Detect in every video of a loader with `train=False`, and score the detections; in all processes alike.

        Args:
            model: on `device`; its mode is restored afterwards.
            loader: of the videos.
            device: device of the model.
            context: made around each forward pass.
            progress: not called, since mAP is computed from the detections of all videos.
            thorough: score all proposals of a network that samples them in training, instead of its validation's.
        """
        training, device = model.training, torch.device(device)
        model.eval()
        loss = self._objective(device).eval()
        windows: dict[int, list[Selected]] = {}
        total = torch.zeros(2, dtype=torch.float64)
        try:
            with torch.inference_mode():
                for batch in loader:
                    batch = batch.to(device)
                    targets = DetectionTargets(batch.segments, batch.labels)
                    seeds = self._seeds(_EVALUATION_SEED, 0, batch)
                    with context():
                        columns, network = batch.inputs, model
                        if isinstance(model, SnippetDetector):
                            columns, network = model.encode(batch.inputs, batch.mask), model.detector
                        inputs = loss.model_inputs(targets, batch.mask, seeds=seeds)
                        if inputs and getattr(network, "exported", False):  # a graph without the inputs of training
                            inputs, value = {}, torch.tensor(math.nan)
                            output = network(columns, batch.mask)
                        else:
                            output = network(columns, batch.mask, **inputs)
                            value = loss(output, targets, batch.mask, seeds=seeds)
                        if thorough and "proposals" in inputs:
                            output = network(columns, batch.mask)
                    count = int(batch.valid.sum())
                    total += torch.tensor([float(value) * count, count], dtype=torch.float64)
                    for number, found in self.detect(output, batch):
                        windows.setdefault(number, []).append(found)
        finally:
            model.train(training)
        return self._result(windows, total, loader.data, loader.table)  # type: ignore[attr-defined]

    def detect(self, output: Any, batch: DetectionBatch) -> Iterator[tuple[int, Selected]]:
        """Yield the video and the candidates, in seconds, of each sample of a batch.

        Args:
            output: of the network.
            batch: what it was computed from.
        """
        starts, ends = output.predictions.get("starts"), output.predictions.get("ends")
        points = output.predictions.get("points")
        found = top_candidates(
            replace(output, scores=output.scores.float() * output.valid[..., None]),
            count=self.suppression.max_candidates,
            minimum_score=self.suppression.min_score,
            minimum_length=0.0,
            groups=None if points is None else points[:, 1],  # the levels of a pyramid
        )
        lengths = batch.mask.sum(dim=1).tolist()
        for row in torch.nonzero(batch.valid)[:, 0].tolist():
            part, length = found[row], lengths[row]
            if self.suppression.boundary_filter and starts is not None and ends is not None:
                bounds = (starts[row, :length].float(), ends[row, :length].float())
                kept = boundary_filter(part.segments.float() / length, *bounds)
                part = Candidates(*(each[kept] for each in part))
            seconds = batch.offsets[row] + part.segments.double() * batch.scales[row]
            yield int(batch.videos[row]), Selected(seconds.cpu(), part.labels.cpu(), part.scores.cpu())

    def select(self, windows: Sequence[Selected], *, name: str, seconds: float) -> Selected:
        """Return the detections of a video from the candidates of its windows.

        Args:
            windows: of `detect`.
            name: of the video, for its class scores.
            seconds: its duration.
        """
        found = select_candidates(windows, self.suppression, duration=seconds)
        found = found._replace(segments=found.segments.clamp(0, seconds))
        if self.class_scores is None:
            return found
        scores = torch.from_numpy(self.class_scores.of(name))
        return classify_proposals(found.segments, found.scores, scores, top=min(self.class_top, len(scores)))

    def _result(self, windows: dict[int, list[Selected]], total: Tensor, data: Any, table: Any) -> DetectionResult:
        if distributed.world_size() > 1:
            parts: list[Any] = [None] * distributed.world_size()
            torch.distributed.all_gather_object(parts, (windows, total))
            windows, total = {}, torch.zeros(2, dtype=torch.float64)
            for part, sums in parts:
                total += sums
                for number, found in part.items():
                    windows.setdefault(number, []).extend(found)
        if not windows:
            raise ValueError(f"{data}: no video to evaluate: is the split empty?")
        videos = []
        for number in sorted(windows):
            name = data.video_path(number).rpartition("/")[2]
            # Processes take windows in turn; the order in time makes equal scores come out alike.
            ordered = sorted(windows[number], key=lambda one: float(one.segments.min()) if len(one.scores) else 0.0)
            found = self.select(ordered, name=name, seconds=float(table.seconds[number]))
            videos.append(
                FoundSegments(
                    number,
                    name,
                    np.asarray(found.segments, np.float64),
                    np.asarray(found.labels, np.int64),
                    np.asarray(found.scores, np.float64),
                )
            )
        return score_detections(
            videos,
            table,
            classes=data.classes,
            loss=float(total[0] / total[1].clamp(min=1)),
            protocol=self.protocol,
            proposals_only=self.proposals_only,
        )

    def draw(self, result: DetectionResult, folder: Path) -> list[Path]:
        """See `Task.draw`: timelines of detections, and for detections with classes their precision and recall."""
        from vidseg.tasks.detection.result_pictures import draw_scores  # matplotlib, which a run may not need

        pair, scores = result.pair, None
        if pair.has_classes:
            scores = detection_map(pair.truth, pair.detections, protocol=pair.protocol)
        return draw_scores(ResultScores(pair, None, scores), folder)

    def sample_clips(self, batch: Any) -> Tensor | None:
        """See `Task.sample_clips`: snippets of the first video; features have no pictures."""
        inputs: Tensor = batch.inputs
        return inputs[0] if inputs.dim() == 6 and inputs.shape[2] == 3 else None

    def state_dict(self) -> dict[str, Any]:
        """See `Task.state_dict`."""
        return {} if self.loss is None else {"loss": self.loss.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Task.load_state_dict`."""
        if "loss" in state and self.loss is not None:
            self.loss.load_state_dict(state["loss"])
