"""Optical flow: picture pairs to the motion of each pixel; loss and end-point errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidseg.engine.distributed import sum_over_group
from vidseg.engine.task import BatchResult, Position, Task, sums_of
from vidseg.losses.flow_losses import PyramidLoss, SequenceLoss
from vidseg.metrics.flow_errors import FlowScores, flow_error_sums

__all__ = ["FlowResult", "FlowSample", "FlowTask"]

_COLUMNS = 6  # of `flow_error_sums`
_SAMPLES = 3

Field = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FlowSample:
    """A pair of an evaluation.

    Attributes:
        frame: first picture, uint8 (H, W, 3).
        truth: true flow (2, H, W); zero where it is not known.
        flow: flow of the network (2, H, W).
    """

    frame: npt.NDArray[np.uint8]
    truth: Field
    flow: Field


@dataclass(frozen=True)
class FlowResult:
    """Result of an evaluation.

    Attributes:
        scores: over the known pixels of all pairs.
        pairs: number of pairs.
        samples: the first pairs of the first batch of this process.
    """

    scores: FlowScores
    pairs: int
    samples: tuple[FlowSample, ...] = ()

    @property
    def values(self) -> tuple[float, ...]:
        """Shares of pixels within 1, 3 and 5 pixels, F1-all, and the end-point error as the loss."""
        return (*self.scores.within, self.scores.f1_all, self.scores.epe)

    @property
    def quality(self) -> float:
        """The negative end-point error."""
        return -self.scores.epe


class FlowTask(Task):
    """Two pictures (B, 3, H, W) to flow (B, 2, H, W).

    Args:
        loss: loss of the network's `FlowOutput.levels`; None: that of RAFT for levels of the pictures' size, that of
            PWC-Net for others.
    """

    columns = ("1px", "3px", "5px", "F1-all", "Loss")

    def __init__(self, loss: SequenceLoss | PyramidLoss | None = None) -> None:
        self.loss = loss

    @property
    def train_columns(self) -> tuple[str, ...]:
        """See `Task.train_columns`."""
        return ("1px", "EPE", "Loss")

    def check(self, model: nn.Module, loader: Any) -> None:
        """See `Task.check`."""
        if not hasattr(loader, "source"):
            raise ValueError(
                f"{type(loader).__name__} has no picture pairs; optical flow is trained with vidseg.loaders.FlowLoader"
            )

    def train_batch(
        self, model: nn.Module, batch: Any, position: Position, backward: Callable[[Tensor], None]
    ) -> BatchResult:
        """See `Task.train_batch`.

        Raises:
            ValueError: the network has no levels for a loss.
        """
        output = self.forward(model, batch)
        if not output.levels:
            raise ValueError(f"{type(model).__name__}: its output has no levels in training mode to compute a loss of")
        if self.loss is None:
            full = output.levels[-1].shape[2:] == batch.flow.shape[2:]
            self.loss = SequenceLoss() if full else PyramidLoss()
        with torch.autocast(batch.flow.device.type, enabled=False):
            loss = self.loss(output.levels, batch.flow, batch.known)
        backward(loss)
        sums = flow_error_sums(output.flow.detach(), batch.flow, batch.known)
        pairs = len(batch)
        return BatchResult(
            sums_of([sums[1], sums[0], loss.detach() * pairs], [sums[5], sums[5], pairs], device=batch.flow.device)
        )

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """See `Task.forward`."""
        return model(batch.first.float() / 255, batch.second.float() / 255)

    def evaluate(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        *_: Any,
        device: torch.device | str = "cpu",
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        progress: Callable[[int, Any], None] | None = None,
        **__: Any,
    ) -> FlowResult:
        """Compare the flow of all pairs with the true flow; in all processes alike.

        Args:
            model: on `device`; its mode is restored afterwards.
            loader: of pairs, with `train=False`.
            device: device of the model.
            context: made around each forward pass.
            progress: not called, since pairs have different numbers of known pixels.
        """
        training = model.training
        model.eval()
        total = torch.zeros(_COLUMNS + 1, dtype=torch.float64, device=device)
        samples: tuple[FlowSample, ...] = ()
        try:
            with torch.inference_mode():
                for batch in loader:
                    moved = batch.to(device)
                    with context():
                        flow = self.forward(model, moved).flow
                    total[:_COLUMNS] += flow_error_sums(flow, moved.flow, moved.known)
                    total[_COLUMNS] += int(batch.valid.sum())
                    samples = samples or _samples(batch, flow)
        finally:
            model.train(training)
        total = sum_over_group(total).cpu()
        return FlowResult(FlowScores.from_sums(total[:_COLUMNS]), int(total[_COLUMNS]), samples)

    def draw(self, result: FlowResult, folder: Path) -> list[Path]:
        """See `Task.draw`: some pairs with their true and their estimated flow."""
        if not result.samples:
            return []
        from vidseg.plots import FlowPicture, flow_colors, plot_flow  # matplotlib, which a run may not need
        from vidseg.plots.flow_coding import flow_radius

        radius = flow_radius([sample.truth for sample in result.samples])
        pictures = [
            FlowPicture(name, sample.frame, flow_colors(field, radius=radius))
            for sample in result.samples
            for name, field in (("true flow", sample.truth), ("estimated flow", sample.flow))
        ]
        title = f"end-point error {result.scores.epe:.2f} pixels over {result.pairs} pairs"
        return [plot_flow(pictures, folder / "flow.png", title=title, radius=radius)]

    def sample_clips(self, batch: Any) -> Tensor | None:
        """See `Task.sample_clips`: the two pictures of each pair."""
        return torch.stack([batch.first, batch.second], dim=2)

    def scores_text(self, values: tuple[float, ...]) -> str:
        """See `Task.scores_text`."""
        if len(values) == len(self.train_columns):
            one, epe, loss = values
            return f"loss = {loss:.5f}, EPE = {epe:.3f} px, within 1 px = {one:.4f}"
        one, three, five, outliers, epe = values
        shares = f"within 1 px = {one:.4f}, 3 px = {three:.4f}, 5 px = {five:.4f}, F1-all = {outliers:.4f}"
        return f"EPE = {epe:.3f} px, {shares}"


def _samples(batch: Any, flow: Tensor) -> tuple[FlowSample, ...]:
    """Return the first pairs of a batch; padding is left out."""
    chosen = batch.valid.nonzero()[:_SAMPLES, 0].tolist()
    return tuple(
        FlowSample(
            batch.first[number].permute(1, 2, 0).cpu().numpy(),
            batch.flow[number].cpu().numpy(),
            flow[number].float().cpu().numpy(),
        )
        for number in chosen
    )
