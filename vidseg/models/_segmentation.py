"""Output class, input checks and handling of padding, shared by the segmentation networks.

A batch contains videos of different lengths, padded at the end. The output of a video does not depend on its padding:
networks set padded frames to zero before every operator over several frames, compute statistics over valid frames, and
resize each video by its own length.

Shapes: B videos, D feature width, K classes, L frames, S stages.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SegmentationOutput", "clear_padding", "find_padding", "instance_norm", "video_lengths"]


@dataclass
class SegmentationOutput:
    """Output of a segmentation network."""

    logits: Tensor
    """(S, B, K, L): class scores before the softmax of each stage, the final stage last; 0 on padded frames."""
    boundaries: Tensor | None = None
    """(S, B, 1, L): scores before the sigmoid that an action starts at a frame; None if the network has none."""


torch.export.register_dataclass(SegmentationOutput)


def find_padding(features: Tensor, mask: Tensor | None, *, in_features: int) -> Tensor | None:
    """Check the input of a network and return its padding.

    Args:
        features: (B, D, L), floating point.
        mask: bool (B, L), True on valid frames; None: no frame is padding.
        in_features: D of the network.

    Returns:
        bool (B, 1, L), True on padded frames; None if no frame is padding.

    Raises:
        ValueError: a shape or dtype is wrong, a video has no valid frame, or padding precedes a valid frame.
    """
    if features.dim() != 3 or features.shape[1] != in_features:
        raise ValueError(f"features must be (B, {in_features}, L), but have shape {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"features must be floating point, but are {features.dtype}")
    if not features.shape[2]:
        raise ValueError(f"features have no frame: shape {tuple(features.shape)}")
    if mask is None:
        return None
    if mask.dtype != torch.bool or mask.shape != (features.shape[0], features.shape[2]):
        raise ValueError(
            f"mask must be bool of shape {(features.shape[0], features.shape[2])}, one entry for each frame of "
            f"features {tuple(features.shape)}, but is {mask.dtype} of shape {tuple(mask.shape)}"
        )
    if torch.compiler.is_exporting():
        return ~mask[:, None]  # an exported graph cannot branch on values
    if mask.all():
        return None
    wrong = ~mask[:, 0] | (mask[:, 1:] & ~mask[:, :-1]).any(dim=1)
    if wrong.any():
        raise ValueError(
            f"mask: video {int(wrong.nonzero()[0])} of the batch has no valid frame, or padding before a valid frame; "
            "padding must follow the frames of the video"
        )
    return ~mask[:, None]


def video_lengths(features: Tensor, padding: Tensor | None) -> Tensor:
    """Return the number of valid frames of each video, int64 (B,)."""
    if padding is None:
        frames = torch.ones(features.shape[0], features.shape[2], dtype=torch.int64, device=features.device)
        return frames.sum(dim=1)  # torch.full would fix the length in an exported graph
    return (~padding[:, 0]).sum(dim=1)


def clear_padding(x: Tensor, padding: Tensor | None) -> Tensor:
    """Return `x` (B, C, L) with padded frames set to zero."""
    return x if padding is None else x.masked_fill(padding, 0)


def instance_norm(x: Tensor, padding: Tensor | None, *, eps: float = 1e-5) -> Tensor:
    """Apply instance normalization over the valid frames of each video, without affine parameters.

    Args:
        x: (B, C, L).
        padding: bool (B, 1, L), True on padded frames; None: no frame is padding.
        eps: value added to the variance.

    Returns:
        (B, C, L), 0 on padded frames and for a video of one frame.
    """
    if padding is None and x.shape[2] > 1:
        return F.instance_norm(x, eps=eps)
    count = video_lengths(x, padding)[:, None, None]
    mean = clear_padding(x, padding).sum(dim=2, keepdim=True) / count
    centered = clear_padding(x - mean, padding)
    return centered * (centered.square().sum(dim=2, keepdim=True) / count + eps).rsqrt()
