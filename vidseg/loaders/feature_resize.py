"""Resizing of feature sequences to a fixed length, for detectors with a fixed input length.

Source: ETAD (arXiv 2205.07134), whose published code resizes the features of a whole video during loading.
"""

import torch
from torch import Tensor

from vidseg.ops import align1d

__all__ = ["resize_features"]


def resize_features(features: Tensor, *, frames: int = 128, half: bool = False) -> Tensor:
    """Resize sequences to `frames` frames by averaging linearly interpolated samples.

    Input frame i has position i. Output frame n covers the positions from n * L / frames - 0.5 to
    (n + 1) * L / frames - 0.5 and is the mean of ceil(L / frames) evenly spaced samples. Samples outside the sequence
    take the value of its first or last frame.

    Args:
        features: (B, D, L), floating point; all videos have the same length.
        frames: number of output frames, at least 1.
        half: round the features and the length to float16 first, as the published code does.

    Returns:
        (B, D, frames), computed in double precision and rounded once to the dtype of `features`.
    """
    videos, _, length = features.shape
    ends = torch.tensor([[float(video), -0.5, length - 0.5] for video in range(videos)], dtype=torch.float64)
    exact = features.double()
    if half:
        exact, ends = features.half().double(), ends.half().double()
    return align1d(exact, ends.to(features.device), frames).to(features.dtype)
