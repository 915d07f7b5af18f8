"""What every network for temporal segmentation returns."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["SegmentationOutput"]


@dataclass
class SegmentationOutput:
    """Logits of B videos and L frames.

    Attributes:
        logits: (S, B, K, L), the last stage last.
        boundaries: (S, B, 1, L) logits of a segment starting at a frame, for networks that have them.
    """

    logits: Tensor
    boundaries: Tensor | None = None
