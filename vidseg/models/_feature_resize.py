"""Feature sequences of any length, resized to a fixed one, as detectors with a fixed input take them.

Source: ETAD (arXiv 2205.07134), whose published code resizes the features of a whole video online.
"""

import torch
from torch import Tensor

from vidseg.ops import align1d

__all__ = ["resize_features"]


def resize_features(features: Tensor, *, frames: int = 128, half: bool = False) -> Tensor:
    """Resize whole sequences: each new frame is the mean of evenly spaced linear interpolations within its share.

    New frame n stands for the old ones from n * L / frames - 0.5 to (n + 1) * L / frames - 0.5, each old frame at its
    number; it is the mean of as many samples as old frames in it, rounded up. Beyond its ends the sequence is repeated.

    Args:
        features: (B, D, L), floating point, of videos of the same length.
        frames: L of the result, at least 1.
        half: round the features, and the length that they are cut by, to float16 first, as the published code does.

    Returns:
        (B, D, frames), computed in double precision and rounded once to the type of `features`.
    """
    videos, _, length = features.shape
    ends = torch.tensor([[float(video), -0.5, length - 0.5] for video in range(videos)], dtype=torch.float64)
    exact = features.double()
    if half:
        exact, ends = features.half().double(), ends.half().double()
    return align1d(exact, ends.to(features.device), frames).to(features.dtype)
