"""Targets and weights of segmentation losses: boundaries, smoothed labels, class weights, feature similarity.

Shapes: B videos, D feature width, K classes, L frames.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "boundary_frames",
    "class_counts",
    "filter_gaussian",
    "gaussian_similarity",
    "median_frequency_weights",
    "smoothed_boundaries",
    "smoothed_labels",
]


def _changes(labels: Tensor, valid: Tensor) -> Tensor:
    """Return whether a frame's label differs from the one before: bool (B, L - 1), False if either frame is padding."""
    return (labels[:, 1:] != labels[:, :-1]) & valid[:, 1:] & valid[:, :-1]


def boundary_frames(labels: Tensor, valid: Tensor, *, ratio: int = 1) -> Tensor:
    """Return 1 at the start of each action, including a video's first frame, and 0 elsewhere (ASRF).

    Args:
        labels: int64 (B, L).
        valid: bool (B, L), True for the frames of a video.
        ratio: keep every `ratio`-th frame; a start on a dropped frame moves to the kept frame before it. The matching
            labels are labels[:, ::ratio].

    Returns:
        float32 (B, 1, N), N = L / ratio rounded up.
    """
    starts = torch.cat([valid[:, :1], _changes(labels, valid)], dim=1).float()[:, None]
    return starts if ratio == 1 else F.max_pool1d(starts, ratio, ceil_mode=True)


def filter_gaussian(x: Tensor, lengths: Tensor, sigma: float) -> Tensor:
    """Filter each video over time with a Gaussian truncated at four sigma, with reflection at the ends of the video.

    Args:
        x: (B, C, L).
        lengths: int64 (B,), number of valid frames of each video, at least 1.
        sigma: deviation in frames, greater than 0.

    Returns:
        (B, C, L); values beyond a video's length are undefined.
    """
    radius = int(4 * sigma + 0.5)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype) / sigma) ** 2)
    around = torch.arange(-radius, x.shape[2] + radius, device=x.device)
    period = 2 * lengths[:, None]
    source = around % period
    source = torch.minimum(source, period - 1 - source)
    mirrored = x.gather(2, source[:, None].expand(-1, x.shape[1], -1))
    filtered = F.conv1d(mirrored.flatten(0, 1)[:, None], (weights / weights.sum())[None, None])
    return filtered[:, 0].unflatten(0, x.shape[:2])


def smoothed_boundaries(labels: Tensor, valid: Tensor, *, sigma: float | None = 1.0) -> Tensor:
    """Return the boundary target of DiffAct: the two frames at a change, blurred, with maximum 1.

    Blurred boundaries are limited to the height of a single boundary in the middle of a video, then divided by the
    maximum. A video without a change has no boundary (the published code fails in this case).

    Args:
        labels: int64 (B, L).
        valid: bool (B, L), True for the frames of a video, which come first.
        sigma: deviation of the Gaussian in frames; None: not blurred.

    Returns:
        float32 (B, 1, L), from 0 to 1, 0 on padding.
    """
    change = _changes(labels, valid)
    sharp = (F.pad(change, (1, 0)) | F.pad(change, (0, 1))).double()[:, None]
    if sigma is None:
        return sharp.float()
    lengths = valid.sum(dim=1)
    middle = (lengths // 2)[:, None, None]
    at = torch.arange(labels.shape[1], device=labels.device)
    single = ((at == middle) | (at == middle - 1)).double()
    padding = ~valid[:, None]
    both = filter_gaussian(torch.cat([sharp, single], dim=1), lengths, sigma).masked_fill(padding, 0)
    blurred = torch.minimum(both[:, :1], both[:, 1:].amax(dim=2, keepdim=True))
    highest = blurred.amax(dim=2, keepdim=True)
    return (blurred / highest.where(highest > 0, 1)).float()


def smoothed_labels(labels: Tensor, valid: Tensor, *, num_classes: int, sigma: float) -> Tensor:
    """Return one-hot labels blurred over time, so that they change gradually at boundaries (DiffAct).

    Args:
        labels: int64 (B, L); negative labels have no class.
        valid: bool (B, L), True for the frames of a video, which come first.
        num_classes: number of classes K.
        sigma: deviation of the Gaussian in frames.

    Returns:
        float32 (B, K, L), from 0 to 1, 0 on padding.
    """
    classes = torch.arange(num_classes, device=labels.device)[:, None]
    hard = ((labels[:, None] == classes) & valid[:, None]).float()
    return filter_gaussian(hard, valid.sum(dim=1), sigma).masked_fill(~valid[:, None], 0)


def gaussian_similarity(features: Tensor, *, sigma: float = 1.0) -> Tensor:
    """Return exp(-distance / (2 sigma^2)) between the features of consecutive frames: (B, D, L) -> (B, L - 1).

    ASRF weights its smoothing with this value. As published, the distance is not squared.
    """
    distance = torch.linalg.vector_norm(features[..., 1:] - features[..., :-1], dim=1)
    return torch.exp(-distance / (2 * sigma**2))


def class_counts(sequences: Iterable[Tensor], *, num_classes: int) -> tuple[Tensor, int]:
    """Count the frames of each class and the boundaries (`boundary_frames`) of label sequences.

    Args:
        sequences: int64 (L,), labels of each video; negative labels have no class.
        num_classes: number of classes K.

    Returns:
        int64 (K,) frame counts, and the number of boundaries.

    Raises:
        ValueError: there is no sequence, or a label is too large.
    """
    counts = torch.zeros(num_classes, dtype=torch.long)
    boundaries, number = 0, 0
    for number, labels in enumerate(sequences, start=1):
        if len(labels) and int(labels.max()) >= num_classes:
            raise ValueError(
                f"sequence {number}: label {int(labels.max())} is out of range; expected 0 to {num_classes - 1}"
            )
        counts += torch.bincount(labels[labels >= 0].cpu(), minlength=num_classes)
        boundaries += int(boundary_frames(labels[None], labels[None] >= 0).sum())
    if not number:
        raise ValueError("no label sequences; pass the labels of the training videos to compute class weights")
    return counts, boundaries


def median_frequency_weights(counts: Tensor) -> Tensor:
    """Return the median class frequency divided by each class's frequency (ASRF): int64 (K,) -> float32 (K,).

    The median of an even number of classes is the lower middle value. A class without frames has weight 1 (infinity in
    the published code).
    """
    weights = counts.median() / counts.double().clamp(min=1)
    return weights.where(counts > 0, 1).float()
