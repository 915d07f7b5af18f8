"""Sampling of proposals for training, and targets of proposals and of boundaries (ETAD, BMN).

Shapes: B videos, L columns, M instances, N proposals. Positions are in columns of the features.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vidseg.losses.detection import DetectionTargets, draw_uniform, seeded_generator

__all__ = [
    "Sampling",
    "assign_instances",
    "boundary_targets",
    "clip_instances",
    "jittered_instances",
    "paired_iou",
    "proposal_offsets",
    "sample_batch",
    "sample_proposals",
]

Sampling = Literal["random", "grid", "block"]

_WINDOW = 3.0
"""Length in columns of the window around a boundary."""


def sample_proposals(
    length: int,
    *,
    sampling: Sampling = "random",
    ratio: float = 0.06,
    max_duration: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Sample segments between two column edges (arXiv 2205.07134, section 3.3).

    Args:
        length: number of columns L, at least 1.
        sampling: "random": without replacement, in random order. "grid": every sqrt(1 / ratio)-th duration and start,
            independent of the seed. "block": all segments of one square of durations and starts at a random place,
            which requires ratio <= 0.5.
        ratio: share of all segments, above 0, at most 1.
        max_duration: longest segment in columns; None: L.
        seed: seed of the draw.

    Returns:
        int64 (N, 2), start and end in columns, N >= 1.
    """
    rows = length if max_duration is None else min(length, max_duration)
    counts = length - torch.arange(rows)  # segments of each duration
    if sampling == "grid":
        step = math.sqrt(1 / ratio)
        duration, start = (torch.arange(1, end, step, dtype=torch.float64).round().long() for end in (rows, length))
        duration, start = (each.flatten() for each in torch.meshgrid(duration, start, indexing="ij"))
        inside = (duration < rows) & (duration + start < length)
        duration, start = duration[inside], start[inside]
    elif sampling == "block":
        generator = seeded_generator(seed, "block")
        side = min(max(1, int(math.sqrt(int(counts.sum()) * ratio))), rows, (length + 1) // 2)
        at = int(torch.randint(max(0, min(length - 2 * side, rows - side)) + 1, (), generator=generator))
        first = int(torch.randint(max(0, length - 2 * side - at) + 1, (), generator=generator))
        duration, start = (
            each.flatten()
            for each in torch.meshgrid(at + torch.arange(side), first + torch.arange(side), indexing="ij")
        )
    else:
        total = int(counts.sum())
        chosen = torch.randperm(total, generator=seeded_generator(seed, "random"))[: max(1, int(total * ratio))]
        before = counts.cumsum(0)
        duration = torch.searchsorted(before, chosen, right=True)
        start = chosen - (before - counts)[duration]
    if not len(start):  # a video too short for the grid
        duration, start = torch.tensor([rows - 1]), torch.tensor([0])
    return torch.stack([start, start + duration + 1], dim=1)


def sample_batch(
    mask: Tensor, *, seeds: Sequence[int], sampling: Sampling, ratio: float, max_duration: int | None
) -> Tensor:
    """Sample segments of each video, see `sample_proposals`.

    Args:
        mask: bool (B, L), True for the columns of a video.
        seeds: one seed per video.
        sampling, ratio, max_duration: see `sample_proposals`.

    Returns:
        float32 (B, N, 2) on the device of the mask; 0 in entries that fill the batch.
    """
    lengths = mask.sum(dim=1).tolist()
    each = [
        sample_proposals(length, sampling=sampling, ratio=ratio, max_duration=max_duration, seed=seed).float()
        for length, seed in zip(lengths, seeds, strict=True)
    ]
    return pad_sequence(each, batch_first=True).to(mask.device)


def jittered_instances(targets: DetectionTargets, *, seeds: Sequence[int], copies: int, jitter: float) -> Tensor:
    """Return copies of the instances with moved ends, for a classifier of proposals.

    Args:
        targets: instances.
        seeds: one seed per video.
        copies: number of copies of each instance.
        jitter: largest move of an end, in lengths of the instance; 0: not moved.

    Returns:
        (B, M * copies, 2), the copies of an instance next to each other.
    """
    segments = targets.segments.repeat_interleave(copies, dim=1)
    if jitter == 0:
        return segments
    valid = targets.valid.repeat_interleave(copies, dim=1)
    moves = draw_uniform(valid, seeds, "instances", count=2).permute(1, 2, 0).to(segments)
    length = segments[..., 1:] - segments[..., :1]
    return segments + (2 * moves - 1) * jitter * length


def clip_instances(targets: DetectionTargets, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Limit instances to their videos.

    Args:
        targets: instances.
        inside: bool (B, L), True for the columns of a video.

    Returns:
        (B, M, 2) segments and bool (B, M), True for instances; M is at least 1.
    """
    segments, valid = targets.segments, targets.valid
    if not segments.shape[1]:
        segments, valid = segments.new_zeros(len(segments), 1, 2), valid.new_zeros(len(segments), 1)
    ends = inside.sum(dim=1).to(segments)[:, None, None]
    return segments.clamp(min=0).minimum(ends), valid


def boundary_targets(positions: Tensor, valid: Tensor, inside: Tensor, *, offset: float, eps: float = 0.0) -> Tensor:
    """Return the share of each bin that a window of three columns around a boundary covers, the largest of all.

    Args:
        positions: (B, M), starts or ends of the instances.
        valid: bool (B, M), True for instances.
        inside: bool (B, L), True for the columns of a video.
        offset: start of the bin of column 0, which is one column long: 0 for ETAD, -0.5 for BMN.
        eps: value added to the length of a bin, in lengths of the video: 1e-6 for ETAD.

    Returns:
        (B, L), from 0 to 1; 0 on padding.
    """
    bins = torch.arange(inside.shape[1], device=positions.device) + offset
    middle = positions[:, None]
    upper, lower = (middle + _WINDOW / 2).minimum(bins[:, None] + 1), (middle - _WINDOW / 2).maximum(bins[:, None])
    shares = (upper - lower).clamp(min=0).masked_fill(~valid[:, None], 0).amax(dim=2)
    return shares / (1 + eps * inside.sum(dim=1, keepdim=True)) * inside


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU of segments (..., 2) and (..., 2), with broadcasting; that of a reversed segment is 0."""
    overlap = (torch.minimum(first[..., 1], second[..., 1]) - torch.maximum(first[..., 0], second[..., 0])).clamp(min=0)
    lengths = [(each[..., 1] - each[..., 0]).clamp(min=0) for each in (first, second)]
    union = lengths[0] + lengths[1] - overlap
    return torch.where(union > 0, overlap / union.where(union > 0, 1), 0)


def assign_instances(proposals: Tensor, segments: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Assign to each proposal the instance with the highest IoU, the first of several.

    Args:
        proposals: (B, N, 2).
        segments: (B, M, 2), instances, M >= 1.
        valid: bool (B, M), True for instances.

    Returns:
        (B, N) IoU, 0 in a video without instances, and int64 (B, N) row of the instance.
    """
    found = paired_iou(proposals[:, :, None], segments[:, None]).masked_fill(~valid[:, None], -1)
    iou, rows = found.amax(dim=2), found.argmax(dim=2)
    return iou.clamp(min=0), rows


def proposal_offsets(proposals: Tensor, assigned: Tensor) -> Tensor:
    """Return the regression targets of proposals (arXiv 2205.07134, section 3.2).

    Args:
        proposals: (..., 2).
        assigned: (..., 2), assigned instances.

    Returns:
        (..., 4): offsets of start, end and center in lengths of the proposal, and the logarithm of the change of its
        length.
    """
    length = (proposals[..., 1] - proposals[..., 0]).clamp(min=1e-6)
    by_start, by_end = ((assigned - proposals) / length[..., None]).unbind(dim=-1)
    width = (assigned[..., 1] - assigned[..., 0]).clamp(min=1e-6)
    return torch.stack([by_start, by_end, (by_start + by_end) / 2, (width / length + 1e-6).log()], dim=-1)
