"""Post-processing of segmentation outputs: prediction, boundary refinement, smoothing, upsampling of labels.

Sources: ASRF (arXiv 2007.06866, section 3.4, and its published code) for boundaries, relabeling and Gaussian smoothing;
DiffAct (arXiv 2303.17959, published code) for the median filter, upsampling and removal of short segments.

Shapes: B videos, K classes, L frames.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vidseg.models._segmentation import SegmentationOutput

__all__ = [
    "boundary_peaks",
    "median_filter",
    "predict",
    "purge_short_segments",
    "refine_by_boundaries",
    "relabel_short_segments",
    "restore_frames",
    "smooth_probabilities",
]

PADDING_LABEL = -100
"""Label of padded frames, ignored by losses."""


def predict(
    output: SegmentationOutput, mask: Tensor | None = None, *, refine: bool = True, threshold: float = 0.5
) -> Tensor:
    """Return the class of each frame with the highest score of the last stage, refined by boundaries if there are any.

    Args:
        output: output of a segmentation network.
        mask: bool (B, L), True on valid frames; None: no frame is padding.
        refine: refine the labels with the boundaries of the output, see `refine_by_boundaries`.
        threshold: minimum probability of a boundary.

    Returns:
        int64 (B, L), -100 on padded frames.
    """
    labels = output.logits[-1].argmax(dim=1)
    if mask is None:
        mask = torch.ones_like(labels, dtype=torch.bool)
    if refine and output.boundaries is not None:
        starts = output.boundaries[-1, :, 0].sigmoid()
        for video, frames in enumerate(mask.sum(dim=1).tolist()):
            labels[video, :frames] = refine_by_boundaries(
                output.logits[-1, video, :, :frames], starts[video, :frames], threshold=threshold
            )
    return labels.masked_fill(~mask, PADDING_LABEL)


def boundary_peaks(probabilities: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Return the frames whose boundary probability is at least `threshold` and higher than at both neighbors.

    The first frame is always a boundary, and the last frame never. Plateaus contain no boundary.

    Args:
        probabilities: (L,).
        threshold: lower probabilities are set to 0.

    Returns:
        int64 (N,): frame numbers from 0, in ascending order.
    """
    scores = probabilities.where(probabilities >= threshold, 0)
    inner = (scores[1:-1] > scores[:-2]) & (scores[1:-1] > scores[2:])
    return torch.cat([inner.new_zeros(1).long(), inner.nonzero()[:, 0] + 1])


def refine_by_boundaries(logits: Tensor, boundaries: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Assign the most frequent class between two boundaries to all frames between them.

    Ties are resolved by the largest sum of logits between the boundaries. (The published code considers only sums
    above 0, and repeats the previous segment if there is none.)

    Args:
        logits: (K, L) of one video without padding.
        boundaries: (L,) boundary probabilities.
        threshold: minimum probability of a boundary, see `boundary_peaks`.

    Returns:
        int64 (L,): labels.
    """
    classes, frames = logits.shape
    votes = F.one_hot(logits.argmax(dim=0), classes)
    cuts = [*boundary_peaks(boundaries, threshold=threshold).tolist(), frames]
    winners = []
    for start, end in pairwise(cuts):
        count = votes[start:end].sum(dim=0)
        score = logits[:, start:end].sum(dim=1)
        winners.append(score.masked_fill(count < count.max(), -math.inf).argmax())
    lengths = torch.tensor(cuts, device=logits.device).diff()
    return torch.stack(winners).repeat_interleave(lengths)


def _runs(labels: Tensor) -> tuple[list[int], list[int]]:
    """Return the label and the number of frames of each segment."""
    values, counts = labels.unique_consecutive(return_counts=True)
    return values.tolist(), counts.tolist()


def relabel_short_segments(
    labels: Tensor, *, max_frames: int = 15, ends: Literal["exact", "published"] = "exact"
) -> Tensor:
    """Relabel segments of at most `max_frames` frames with the label of the previous segment, from left to right.

    Args:
        labels: int64 (L,).
        max_frames: maximum length of a segment that is relabeled, in frames.
        ends: "exact": a short first segment keeps its label. "published": as in the published code, a short first
            segment takes the label of the last frame of the video, and the frames relabeled for a short last segment
            are shifted by one frame, so that the last frame keeps its label.

    Returns:
        int64 (L,).
    """
    values, counts = _runs(labels)
    published = ends == "published"
    before = values[-1] if published else values[0]
    relabeled: list[int] = []
    for value, count in zip(values, counts, strict=True):
        if count > max_frames:
            before = value
        relabeled += [before] * count
    if published and counts[-1] <= max_frames:
        relabeled[-1] = values[-1]
        # The shifted frames take the label of the frame before them; index -1 is the last frame.
        early = len(relabeled) - 1 - counts[-1]
        if early >= 0:
            relabeled[early:-1] = [relabeled[early - 1]] * counts[-1]
    return torch.tensor(relabeled, device=labels.device)


def smooth_probabilities(probabilities: Tensor, *, kernel: int = 15, sigma: float = 1.0) -> Tensor:
    """Smooth probabilities over time with a truncated Gaussian filter and reflection padding.

    Args:
        probabilities: (K, L), L > kernel // 2.
        kernel: size of the filter in frames, odd.
        sigma: standard deviation of the Gaussian in frames.

    Returns:
        (K, L). The columns sum to approximately 1: as in the published code, the truncated Gaussian is not normalized.

    Raises:
        ValueError: `kernel` is even, or the video is too short for reflection padding.
    """
    half = kernel // 2
    if kernel % 2 == 0 or probabilities.shape[1] <= half:
        raise ValueError(f"kernel={kernel} must be odd and less than twice the video's {probabilities.shape[1]} frames")
    offsets = torch.arange(-half, half + 1, device=probabilities.device, dtype=probabilities.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    mirrored = F.pad(probabilities[:, None], (half, half), mode="reflect")
    return F.conv1d(mirrored, weights[None, None])[:, 0]


def median_filter(probabilities: Tensor, size: int) -> Tensor:
    """Return the running median of each class over `size` frames, with symmetric padding at both ends.

    For an even size, the window has one more frame before the current frame than after it, and the upper median is
    returned.

    Args:
        probabilities: (K, L).
        size: size of the window in frames, at least 1.

    Returns:
        (K, L).

    Raises:
        ValueError: size < 1.
    """
    if size < 1:
        raise ValueError(f"size={size} must be at least 1")
    frames = probabilities.shape[1]
    padded = torch.arange(-(size // 2), frames + (size - 1) // 2, device=probabilities.device) % (2 * frames)
    mirrored = probabilities[:, torch.minimum(padded, 2 * frames - 1 - padded)]
    return mirrored.unfold(1, size, 1).sort(dim=2).values[..., size // 2]


def restore_frames(labels: Tensor, *, frames: int, sample_rate: int) -> Tensor:
    """Upsample the labels of every `sample_rate`-th frame to all frames by nearest-neighbor interpolation.

    Sample n has the position n * sample_rate + sample_rate // 2. A frame at the same distance from two samples takes
    the label of the earlier one.

    Args:
        labels: int64 (N,), N = frames / sample_rate, rounded up or down.
        frames: number of frames of the result.
        sample_rate: distance between samples in frames.

    Returns:
        int64 (frames,).

    Raises:
        ValueError: the number of samples does not fit the number of frames.
    """
    if not frames // sample_rate <= len(labels) <= -(-frames // sample_rate) or not len(labels):
        raise ValueError(f"{len(labels)} samples with sample_rate={sample_rate} do not fit {frames} frames")
    beyond = torch.arange(frames, device=labels.device) - sample_rate // 2
    nearest = -((sample_rate - 2 * beyond) // (2 * sample_rate))
    return labels[nearest.clamp(0, len(labels) - 1)]


def purge_short_segments(
    labels: Tensor, *, max_frames: int = 3, ends: Literal["exact", "published"] = "exact"
) -> Tensor:
    """Remove segments of at most `max_frames` frames by dividing their frames between both neighboring segments.

    The later neighbor receives the additional frame of an odd number. Adjacent short segments take the original labels
    of their neighbors. A short first or last segment takes the label of its only neighbor.

    Args:
        labels: int64 (L,).
        max_frames: maximum length of a removed segment, in frames.
        ends: "exact": the last segment is treated as any other. "published": as in the published code, the length of
            the last segment is counted without its last frame, which keeps its label.

    Returns:
        int64 (L,).
    """
    values, counts = _runs(labels)
    last = len(values) - 1
    purged: list[int] = []
    for index, (value, count) in enumerate(zip(values, counts, strict=True)):
        kept = 1 if ends == "published" and index == last else 0
        length = count - kept
        if length > max_frames or last == 0:
            purged += [value] * count
            continue
        earlier = 0 if index == 0 else length if index == last else length // 2
        if earlier:
            purged += [values[index - 1]] * earlier
        if length > earlier:
            purged += [values[index + 1]] * (length - earlier)
        purged += [value] * kept
    return torch.tensor(purged, device=labels.device)
