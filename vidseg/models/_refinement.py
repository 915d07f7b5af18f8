"""From what a network computes to one label for each frame: prediction, refinement, smoothing, restoring of frames.

These stand beside the models because they read the models' outputs: metrics and losses never need them.

Sources: ASRF (arXiv 2007.06866, section 3.4 and the published code) for boundaries, relabeling and Gaussian smoothing;
DiffAct (arXiv 2303.17959, published code) for the median filter, restoring and purging.

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
"""The label of padded frames; losses ignore it."""


def predict(
    output: SegmentationOutput, mask: Tensor | None = None, *, refine: bool = True, threshold: float = 0.5
) -> Tensor:
    """One label for each frame: the last stage's likeliest class, refined by boundaries where the network has them.

    Args:
        output: of any segmentation network.
        mask: bool (B, L), True on the frames of a video; None: no frame is padding.
        refine: use the output's boundaries, if it has them (`refine_by_boundaries`).
        threshold: probability from which a frame may be a boundary.

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
    """Frames where the probability of a boundary is at least `threshold` and higher than at both neighbors.

    The first frame always counts and the last never does; of a plateau no frame counts.

    Args:
        probabilities: (L,).
        threshold: lower ones count as 0.

    Returns:
        int64 (N,), rising, from 0.
    """
    scores = probabilities.where(probabilities >= threshold, 0)
    inner = (scores[1:-1] > scores[:-2]) & (scores[1:-1] > scores[2:])
    return torch.cat([inner.new_zeros(1).long(), inner.nonzero()[:, 0] + 1])


def refine_by_boundaries(logits: Tensor, boundaries: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Give all frames between two boundaries the class that most of them have.

    Among equally frequent classes the one with the largest sum of logits between the boundaries wins. (The published
    code considers only sums above 0, and repeats the segment before where there is none.)

    Args:
        logits: (K, L), of one video without padding.
        boundaries: (L,), probabilities.
        threshold: see `boundary_peaks`.

    Returns:
        int64 (L,).
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
    """The label and the number of frames of each segment."""
    values, counts = labels.unique_consecutive(return_counts=True)
    return values.tolist(), counts.tolist()


def relabel_short_segments(
    labels: Tensor, *, max_frames: int = 15, ends: Literal["exact", "published"] = "exact"
) -> Tensor:
    """Give segments of at most `max_frames` frames the label of the segment before, from left to right.

    Args:
        labels: int64 (L,).
        max_frames: of a segment that is too short.
        ends: "exact": a short first segment keeps its label, since none is before it. "published": as the published
            code counts, a short first segment takes the label of the video's last frame, and a short last segment is
            relabeled one frame early, so that its last frame keeps its label.

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
        # As many frames, from one before the segment, take the label in front of them; at frame 0, of the last frame.
        early = len(relabeled) - 1 - counts[-1]
        if early >= 0:
            relabeled[early:-1] = [relabeled[early - 1]] * counts[-1]
    return torch.tensor(relabeled, device=labels.device)


def smooth_probabilities(probabilities: Tensor, *, kernel: int = 15, sigma: float = 1.0) -> Tensor:
    """Filter over time by a Gaussian cut off at `kernel` frames, the video mirrored at its ends.

    Args:
        probabilities: (K, L), L more than kernel // 2.
        kernel: odd.
        sigma: in frames.

    Returns:
        (K, L). Columns sum to 1 only about: the cut-off Gaussian is not normalized again, as published.

    Raises:
        ValueError: kernel is even, or the video is too short to be mirrored.
    """
    half = kernel // 2
    if kernel % 2 == 0 or probabilities.shape[1] <= half:
        raise ValueError(f"kernel={kernel} must be odd and less than twice the video's {probabilities.shape[1]} frames")
    offsets = torch.arange(-half, half + 1, device=probabilities.device, dtype=probabilities.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    mirrored = F.pad(probabilities[:, None], (half, half), mode="reflect")
    return F.conv1d(mirrored, weights[None, None])[:, 0]


def median_filter(probabilities: Tensor, size: int) -> Tensor:
    """The median over `size` frames, of each class by itself, the video repeated backwards at its ends.

    Of an even number of frames the upper median is taken, over one more frame before than after.

    Args:
        probabilities: (K, L).
        size: frames, at least 1.

    Returns:
        (K, L).
    """
    if size < 1:
        raise ValueError(f"size={size} must be at least 1")
    frames = probabilities.shape[1]
    wanted = torch.arange(-(size // 2), frames + (size - 1) // 2, device=probabilities.device) % (2 * frames)
    mirrored = probabilities[:, torch.minimum(wanted, 2 * frames - 1 - wanted)]
    return mirrored.unfold(1, size, 1).sort(dim=2).values[..., size // 2]


def restore_frames(labels: Tensor, *, frames: int, sample_rate: int) -> Tensor:
    """Bring labels of every `sample_rate`-th frame back to all frames: each frame takes the nearest sample's.

    Sample n stands at frame n * sample_rate + sample_rate // 2, the middle of the frames that it stands for; between
    two samples the earlier one wins a tie.

    Args:
        labels: int64 (N,), N = frames / sample_rate rounded up or down.
        frames: L of the result.
        sample_rate: frames from sample to sample.

    Returns:
        int64 (frames,).

    Raises:
        ValueError: there are too many or too few samples for these frames.
    """
    if not frames // sample_rate <= len(labels) <= -(-frames // sample_rate) or not len(labels):
        raise ValueError(f"{len(labels)} samples, one in {sample_rate} frames, do not stand for {frames} frames")
    beyond = torch.arange(frames, device=labels.device) - sample_rate // 2
    nearest = -((sample_rate - 2 * beyond) // (2 * sample_rate))
    return labels[nearest.clamp(0, len(labels) - 1)]


def purge_short_segments(
    labels: Tensor, *, max_frames: int = 3, ends: Literal["exact", "published"] = "exact"
) -> Tensor:
    """Split segments of at most `max_frames` frames between their neighbors; the later one gets the odd frame.

    All segments are judged as they were found: where short ones stand side by side, each takes its neighbors' old
    labels. The first and the last segment go to their only neighbor.

    Args:
        labels: int64 (L,).
        max_frames: of a segment that is too short.
        ends: "published": the last segment counts one frame less, and its last frame keeps its label, as the published
            code computes.

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
