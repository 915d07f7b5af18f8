"""What a loader of streams gives: the same window of each video of a group, with its labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vidseg.clips.windows import StreamItem

__all__ = ["StreamBatch"]


@dataclass
class StreamBatch:
    """Window k of B videos.

    Attributes:
        clips: (B, C, T, H, W), normalized; black frames behind the end of a video.
        labels: (B, T * R) int64 at full frame rate, -100 where there is none.
        mask: bool (B, T), True on real frames.
        item: what it is: videos, window, group.
    """

    clips: Tensor
    labels: Tensor
    mask: Tensor
    item: StreamItem

    def __post_init__(self) -> None:
        batch, frames = self.item.frames.shape
        if self.clips.dim() != 5 or (self.clips.shape[0], self.clips.shape[2]) != (batch, frames):
            raise ValueError(f"clips of shape {tuple(self.clips.shape)} for {batch} windows of {frames} frames")
        if self.mask.shape != (batch, frames):
            raise ValueError(f"a mask of shape {tuple(self.mask.shape)} for {batch} windows of {frames} frames")
        if self.labels.shape != (batch, frames * self.item.interval):
            raise ValueError(
                f"labels of shape {tuple(self.labels.shape)} for {batch} windows of {frames} x {self.item.interval}"
            )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "StreamBatch":
        """On another device."""
        clips, labels, mask = (
            value.to(device, non_blocking=non_blocking) for value in (self.clips, self.labels, self.mask)
        )
        return StreamBatch(clips, labels, mask, self.item)
