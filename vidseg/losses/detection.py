"""Targets and base class of the losses of detection networks.

Training code is the same for every network:

    loss = create_loss(name, num_classes=K)
    output = model(features, mask, **loss.model_inputs(targets, mask, seeds=seeds))
    loss(output, targets, mask, seeds=seeds).backward()

A loss is a mean over its proposals, columns or points in the whole batch, also if processes share the batch
(`vidseg.losses.shared`). Padding does not change it.

Shapes: B videos, K classes, L columns, M instances, N proposals. Positions are in columns of the features: column n
covers the positions from n to n + 1.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["DetectedOutput", "DetectionLoss", "DetectionTargets", "draw_uniform", "seeded_generator"]


class DetectedOutput(Protocol):
    """Fields of a network's output that losses read (`vidseg.models._detection.DetectionOutput`)."""

    @property
    def segments(self) -> Tensor: ...
    @property
    def scores(self) -> Tensor: ...
    @property
    def valid(self) -> Tensor: ...
    @property
    def predictions(self) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class DetectionTargets:
    """Action instances of a batch of videos.

    Raises:
        ValueError: shapes do not match.
    """

    segments: Tensor
    """(B, M, 2): start and end in columns of the features, floating point; 0 where padded."""
    labels: Tensor
    """int64 (B, M): class numbers, -1 where padded."""

    def __post_init__(self) -> None:
        if self.segments.dim() != 3 or self.segments.shape[2] != 2 or self.labels.shape != self.segments.shape[:2]:
            raise ValueError(
                f"segments must be (B, M, 2) and labels (B, M), but have shapes {tuple(self.segments.shape)} and "
                f"{tuple(self.labels.shape)}"
            )

    @property
    def valid(self) -> Tensor:
        """bool (B, M): True for instances, False for padding."""
        return self.labels >= 0

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "DetectionTargets":
        """Return the targets on `device`."""
        return DetectionTargets(
            self.segments.to(device, non_blocking=non_blocking), self.labels.to(device, non_blocking=non_blocking)
        )

    def check(self, *, num_classes: int) -> None:
        """Check the values; on a GPU this waits for the device.

        Raises:
            ValueError: a label is not a class number, or the start of an instance is not before its end.
        """
        start, end = self.segments.unbind(dim=2)
        wrong = (self.labels < -1) | (self.labels >= num_classes) | (self.valid & ~(start < end))
        if wrong.any():
            video, row = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"instance {row} of video {video} of the batch has label {int(self.labels[video, row])} and segment "
                f"{self.segments[video, row].tolist()}; expected a label from 0 to {num_classes - 1} (or -1 for "
                "padding) and a start before the end"
            )


class DetectionLoss(nn.Module, ABC):
    """Base class of detection losses; the loss is the sum of its terms.

    State that a run must resume, such as a moving average, is a buffer.

    Args:
        num_classes: K.
    """

    def __init__(self, *, num_classes: int):
        super().__init__()
        self.num_classes = num_classes

    def model_inputs(self, targets: DetectionTargets, mask: Tensor, *, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Return additional inputs of the network for training and validation losses; most networks have none.

        Random draws are made in training mode; in evaluation mode (`loss.eval()`) the inputs do not depend on the
        seeds.

        Args:
            targets: instances of the batch.
            mask: bool (B, L), True for the columns of a video.
            seeds: random seed of each video for this step, derived from (seed, epoch, sample number).
        """
        return {}

    @abstractmethod
    def terms(
        self,
        output: DetectedOutput,
        targets: DetectionTargets,
        mask: Tensor | None = None,
        *,
        seeds: Sequence[int],
    ) -> dict[str, Tensor]:
        """Return the weighted terms by name, each a scalar; arguments as for `forward`."""

    def forward(
        self,
        output: DetectedOutput,
        targets: DetectionTargets,
        mask: Tensor | None = None,
        *,
        seeds: Sequence[int],
    ) -> Tensor:
        """Compute the loss of a batch, a scalar; finite also without any instance.

        Args:
            output: output of the network for the inputs of `model_inputs`.
            targets: instances of the batch, on the device of the output.
            mask: bool (B, L), True for the columns of a video; None: no column is padding.
            seeds: random seed of each video for this step, as for `model_inputs`.

        Raises:
            ValueError: numbers of videos differ, or a target on the CPU is wrong (`DetectionTargets.check`).
        """
        videos = len(output.segments)
        if len(targets.labels) != videos or len(seeds) != videos:
            raise ValueError(
                f"{len(targets.labels)} videos with targets and {len(seeds)} seeds for an output of {videos} videos"
            )
        if targets.labels.device.type == "cpu":  # on another device each step would wait for the answer
            targets.check(num_classes=self.num_classes)
        return torch.stack(list(self.terms(output, targets, mask, seeds=seeds).values())).sum()


def seeded_generator(seed: int, purpose: str) -> torch.Generator:
    """Return a CPU generator whose numbers depend on the seed and the purpose only."""
    return torch.Generator("cpu").manual_seed((seed ^ zlib.crc32(purpose.encode())) & 0xFFFFFFFF)


def draw_uniform(valid: Tensor, seeds: Sequence[int], purpose: str, *, count: int = 1) -> Tensor:
    """Draw uniform numbers from 0 to 1 for each valid entry.

    The numbers of a video depend on its seed and on its number of valid entries, not on the batch.

    Args:
        valid: bool (B, N).
        seeds: one seed per video.
        purpose: name of the use; different purposes have independent numbers.
        count: numbers per entry.

    Returns:
        float32 (count, B, N) on the device of `valid`; 1 for entries that are not valid.
    """
    inside = valid.cpu()
    drawn = torch.ones(count, *valid.shape)
    for video, (own, seed) in enumerate(zip(inside, seeds, strict=True)):
        drawn[:, video, own] = torch.rand(count, int(own.sum()), generator=seeded_generator(seed, purpose))
    return drawn.to(valid.device)
