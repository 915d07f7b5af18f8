"""What the segmentation networks share: the form of their output, the check of their input, and care of padding.

A batch holds videos of different lengths, each padded at its end. Padded frames must look to a video's last frames like
the zeros beyond the end of a video that is alone: networks clear them before every operator that looks sideways, take
statistics over valid frames only, and resize each video by its own length.

Shapes: B videos, D feature width, K classes, L frames, S stages.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SegmentationOutput", "clear_padding", "find_padding", "instance_norm", "video_lengths"]


@dataclass
class SegmentationOutput:
    """What a segmentation network computes."""

    logits: Tensor
    """(S, B, K, L): class scores of each stage before the softmax, the final ones last; 0 on padded frames."""
    boundaries: Tensor | None = None
    """(S, B, 1, L): scores before the sigmoid of an action starting at a frame, for networks that have them."""


torch.export.register_dataclass(SegmentationOutput)


def find_padding(features: Tensor, mask: Tensor | None, *, in_features: int) -> Tensor | None:
    """Check what a network is given, and say which frames are padding.

    Args:
        features: (B, D, L) floating point.
        mask: bool (B, L), True on the frames of a video; None: no frame is padding.
        in_features: the D that the network was built for.

    Returns:
        bool (B, 1, L), True on padding; None where no frame is padding.

    Raises:
        ValueError: a shape or type is wrong, a video has no frame, or padding stands before a video's last frame.
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
        return ~mask[:, None]  # a graph cannot depend on values: neither check them nor leave out what they allow
    if mask.all():
        return None
    wrong = ~mask[:, 0] | (mask[:, 1:] & ~mask[:, :-1]).any(dim=1)
    if wrong.any():
        raise ValueError(
            f"mask: video {int(wrong.nonzero()[0])} of the batch has no frame, or padding before its last frame; "
            "a video's frames come first, padding after them"
        )
    return ~mask[:, None]


def video_lengths(features: Tensor, padding: Tensor | None) -> Tensor:
    """Frames of each video: int64 (B,)."""
    if padding is None:
        frames = torch.ones(features.shape[0], features.shape[2], dtype=torch.int64, device=features.device)
        return frames.sum(dim=1)  # a fill with the number itself would fix it in an exported graph
    return (~padding[:, 0]).sum(dim=1)


def clear_padding(x: Tensor, padding: Tensor | None) -> Tensor:
    """`x` (B, C, L) with zeros on padded frames, whatever stood there."""
    return x if padding is None else x.masked_fill(padding, 0)


def instance_norm(x: Tensor, padding: Tensor | None, *, eps: float = 1e-5) -> Tensor:
    """Normalize each channel of each video over its valid frames, without scale or shift.

    Args:
        x: (B, C, L).
        padding: bool (B, 1, L), or None.
        eps: added to the variance.

    Returns:
        (B, C, L), 0 on padded frames; a video of one frame becomes 0.
    """
    if padding is None and x.shape[2] > 1:
        return F.instance_norm(x, eps=eps)
    count = video_lengths(x, padding)[:, None, None]
    mean = clear_padding(x, padding).sum(dim=2, keepdim=True) / count
    centered = clear_padding(x - mean, padding)
    return centered * (centered.square().sum(dim=2, keepdim=True) / count + eps).rsqrt()
