"""Post-processing of detections: filtering, non-maximum suppression, voting, classes of whole videos, windows.

All suppression is done by `vidseg.ops.nms_1d` and `vidseg.ops.soft_nms_1d`, with their tie rule: of equal scores the
first row is first. `PUBLISHED_SUPPRESSIONS` has the settings of published detectors. One difference is deliberate: the
published Python loops of ETAD, BMN and G-TAD drop the last candidate, here it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vidseg import ops

__all__ = [
    "PUBLISHED_SUPPRESSIONS",
    "Selected",
    "SuppressionOptions",
    "boundary_filter",
    "boundary_mask",
    "classify_proposals",
    "suppress",
    "suppress_windows",
]


class Selected(NamedTuple):
    """Detections of one video in order of falling score: segments (M, 2), labels (M,) int64, scores (M,)."""

    segments: Tensor
    labels: Tensor
    scores: Tensor


@dataclass(frozen=True)
class SuppressionOptions:
    """Selection of detections among overlapping candidates."""

    nms: Literal["gaussian", "linear", "hard", "none"] = "gaussian"
    """Suppression: gaussian or linear lower the scores of candidates that overlap a better one, hard removes them."""
    nms_sigma: float = 0.5
    """Width of the gaussian decay exp(-IoU^2 / sigma)."""
    nms_iou: float = 0.0
    """IoU from which a candidate is suppressed; hard suppression needs a value above 0."""
    nms_slope: float = 0.0
    """Increase of --nms-iou per length of the better segment, as a share of the video (BMN: 0.4); not for hard."""
    nms_by_class: bool = True
    """Suppress only candidates of the same class."""
    voting: float = 0.0
    """Replace each selected segment by the mean of the candidates with at least this IoU, weighted by score; 0: off."""
    min_score: float = 0.001
    """Candidates with a score below this are removed, before and after suppression."""
    max_candidates: int = 2000
    """Candidates of a video that are considered, those with the highest scores."""
    max_detections: int = 200
    """Detections of a video that are kept."""
    max_length: float | None = None
    """Candidates of this length or longer are removed, in the unit of the segments; default: no limit."""
    nms_each_window: bool = False
    """Sliding windows: suppress within each window first, then among the results of all windows, as G-TAD does."""

    def __post_init__(self) -> None:
        if self.nms not in ("gaussian", "linear", "hard", "none"):
            raise ValueError(f"nms={self.nms!r} is not one of gaussian, linear, hard, none")
        for name in ("nms_iou", "voting", "min_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be from 0 to 1")
        if not self.nms_sigma > 0 or not self.nms_slope >= 0:
            raise ValueError(f"nms_sigma={self.nms_sigma} must be above 0 and nms_slope={self.nms_slope} at least 0")
        if self.nms == "hard" and (self.nms_iou == 0 or self.nms_slope):
            raise ValueError(f"nms=hard with nms_iou={self.nms_iou}, nms_slope={self.nms_slope}: set nms_iou alone")
        for name in ("max_candidates", "max_detections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.max_length is not None and not self.max_length > 0:
            raise ValueError(f"max_length={self.max_length} must be above 0")


_PROPOSALS = SuppressionOptions(nms_by_class=False, min_score=0.0, max_candidates=100_000, max_detections=100)

PUBLISHED_SUPPRESSIONS: dict[str, SuppressionOptions] = {
    "etad": replace(_PROPOSALS, nms_sigma=0.35),
    "bmn": replace(_PROPOSALS, nms_sigma=0.4, nms_iou=0.5, nms_slope=0.4),
    "gtad": replace(_PROPOSALS, nms_sigma=0.46, max_length=300, nms_each_window=True, max_detections=200),
    "actionformer_thumos14": SuppressionOptions(nms_sigma=0.5, voting=0.7, max_detections=2000),
    "actionformer_activitynet": SuppressionOptions(nms_sigma=0.75, nms_by_class=False, voting=0.9, max_detections=100),
    "tridet_activitynet": SuppressionOptions(nms_sigma=0.7, nms_by_class=False, voting=0.95, max_detections=200),
}
"""Settings of published detectors: ETAD, BMN and G-TAD of their own code, the others of OpenTAD. The length limit of
G-TAD is in its snippets of 5 frames."""


def _check(segments: Tensor, scores: Tensor) -> None:
    if segments.ndim != 2 or segments.shape[1] != 2 or scores.ndim != 2 or len(scores) != len(segments):
        raise ValueError(
            f"segments {tuple(segments.shape)} and scores {tuple(scores.shape)}: expected (N, 2) and (N, K)"
        )
    if not (torch.isfinite(segments).all() and torch.isfinite(scores).all()):
        raise ValueError("a segment or score is not finite; the network's output has NaN or infinite values")


def _candidates(segments: Tensor, scores: Tensor, options: SuppressionOptions) -> Selected:
    """Return a candidate for each segment and class, by falling score."""
    _check(segments, scores)
    kept = scores >= options.min_score
    if options.max_length is not None:
        kept &= (segments[:, 1] - segments[:, 0] < options.max_length)[:, None]
    rows, labels = kept.nonzero(as_tuple=True)
    return _best(Selected(segments[rows], labels, scores[rows, labels]), options.max_candidates)


def _best(found: Selected, most: int) -> Selected:
    order = found.scores.argsort(descending=True, stable=True)[:most]
    return Selected(*(part[order] for part in found))


def _select(found: Selected, options: SuppressionOptions, duration: float) -> Selected:
    """Apply suppression and voting to candidates."""
    if options.nms == "none" or not len(found.scores):
        return _best(found, options.max_detections)
    labels = found.labels if options.nms_by_class else None
    if options.nms == "hard":
        rows = ops.nms_1d(
            found.segments,
            found.scores,
            iou_threshold=options.nms_iou,
            labels=labels,
            max_segments=options.max_detections,
        )
        scores = found.scores[rows]
    else:
        rows, scores = ops.soft_nms_1d(
            found.segments,
            found.scores,
            method=options.nms,
            sigma=options.nms_sigma,
            iou_threshold=options.nms_iou,
            threshold_slope=options.nms_slope / duration,
            labels=labels,
            min_score=options.min_score,
            max_segments=options.max_detections,
        )
    selected = Selected(found.segments[rows], found.labels[rows], scores)
    return _voted(selected, found, options) if options.voting > 0 else selected


def _voted(selected: Selected, found: Selected, options: SuppressionOptions) -> Selected:
    """Replace each segment by the mean of the candidates that overlap it, weighted by their scores."""
    ours, all_of_them = selected.segments[:, None], found.segments[None]
    shared = torch.minimum(ours[..., 1], all_of_them[..., 1]) - torch.maximum(ours[..., 0], all_of_them[..., 0])
    shared = shared.clamp(min=0)
    union = (ours[..., 1] - ours[..., 0]) + (all_of_them[..., 1] - all_of_them[..., 0]) - shared
    near = (shared >= options.voting * union) & (union > 0)
    if options.nms_by_class:
        near &= selected.labels[:, None] == found.labels
    weights = near * found.scores
    total = weights.sum(dim=1, keepdim=True)
    means = weights.to(found.segments.dtype) @ found.segments / total.clamp(min=torch.finfo(total.dtype).tiny)
    # A segment without length overlaps nothing, itself included, and stays as it is.
    return selected._replace(segments=torch.where(total > 0, means, selected.segments))


def suppress(segments: Tensor, scores: Tensor, options: SuppressionOptions, *, duration: float = 1.0) -> Selected:
    """Select the detections of one video.

    Args:
        segments: (N, 2) candidates, start and stop in any unit.
        scores: (N, K) probability of each class; K = 1 for proposals without a class.
        options: what is selected.
        duration: duration of the video in the unit of the segments, which `nms_slope` refers to.

    Returns:
        Segments (M, 2), class numbers (M,) and scores (M,), by falling score, M at most `max_detections`.

    Raises:
        ValueError: the shapes do not match, a value is not finite, or the duration is not above 0.
    """
    return suppress_windows([(segments, scores)], options, duration=duration)


def suppress_windows(
    windows: Sequence[tuple[Tensor, Tensor]],
    options: SuppressionOptions,
    *,
    offsets: Sequence[float] | None = None,
    duration: float = 1.0,
) -> Selected:
    """Select the detections of one video among the candidates of its windows.

    Args:
        windows: segments (N, 2) and scores (N, K) of each window; N may differ.
        options: what is selected.
        offsets: start of each window, added to its segments; None: the segments refer to the video.
        duration: duration of the video in the unit of the segments, which `nms_slope` refers to.

    Raises:
        ValueError: there is no window, the shapes do not match, or the duration is not above 0.
    """
    starts = [0.0] * len(windows) if offsets is None else list(offsets)
    if not windows or len(starts) != len(windows) or not duration > 0:
        raise ValueError(
            f"{len(windows)} windows, {len(starts)} offsets and duration={duration}: expected at least one window, an"
            " offset for each and a duration above 0"
        )
    parts = []
    for (segments, scores), start in zip(windows, starts, strict=True):
        part = _candidates(segments, scores, options)
        part = part._replace(segments=part.segments + start)
        parts.append(_select(part, options, duration) if options.nms_each_window and len(windows) > 1 else part)
    union = Selected(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
    return _select(_best(union, options.max_candidates), options, duration)


def classify_proposals(segments: Tensor, scores: Tensor, class_scores: Tensor, *, top: int = 2) -> Selected:
    """Give each proposal the best classes of its whole video, scored with the product of both scores.

    Args:
        segments: (N, 2) proposals.
        scores: (N,) or (N, 1) scores of the proposals.
        class_scores: (K,) scores of the classes of the video, from a recognition network.
        top: number of classes; ETAD and G-TAD use 2.

    Returns:
        N * top detections: all classes of the first proposal, by falling score, then those of the second.

    Raises:
        ValueError: the shapes do not match, or there are fewer classes than `top`.
    """
    _check(segments, scores.reshape(len(scores), -1))
    if class_scores.ndim != 1 or scores.numel() != len(segments) or not 1 <= top <= len(class_scores):
        raise ValueError(
            f"scores {tuple(scores.shape)}, class_scores {tuple(class_scores.shape)} and top={top}: expected (N,), (K,)"
            " and 1 to K classes"
        )
    order = class_scores.argsort(descending=True, stable=True)[:top]
    products = scores.reshape(-1, 1) * class_scores[order].to(scores)
    return Selected(
        segments.repeat_interleave(top, dim=0), order.to(segments.device).repeat(len(segments)), products.reshape(-1)
    )


def boundary_mask(probabilities: Tensor, *, plateaus: bool = False) -> Tensor:
    """Return the bins that are above half of the maximum or a local peak; outside the sequence is 0.

    Args:
        probabilities: (T,) startness or endness.
        plateaus: also count bins that equal a neighbor and are not below the other, as OpenTAD does; ETAD does not.

    Returns:
        bool (T,).
    """
    if probabilities.ndim != 1 or not len(probabilities):
        raise ValueError(f"probabilities {tuple(probabilities.shape)}: expected (T,)")
    edge = probabilities.new_zeros(1)
    before, after = torch.cat([edge, probabilities[:-1]]), torch.cat([probabilities[1:], edge])
    peak = (
        (probabilities >= before) & (probabilities >= after)
        if plateaus
        else (probabilities > before) & (probabilities > after)
    )
    return peak | (probabilities > 0.5 * probabilities.max())


def boundary_filter(segments: Tensor, starts: Tensor, ends: Tensor, *, plateaus: bool = False) -> Tensor:
    """Return the proposals whose start and end are in bins of `boundary_mask`, as in ETAD.

    The first bin always counts as a start and the last one as an end.

    Args:
        segments: (N, 2) proposals in shares of the video; values outside 0 to 1 are in the outer bins.
        starts: (T,) startness.
        ends: (T,) endness.
        plateaus: see `boundary_mask`.

    Returns:
        bool (N,).
    """
    if segments.ndim != 2 or segments.shape[1] != 2 or starts.shape != ends.shape:
        raise ValueError(
            f"segments {tuple(segments.shape)}, starts {tuple(starts.shape)}, ends {tuple(ends.shape)}: expected"
            " (N, 2), (T,) and (T,)"
        )
    start_mask, end_mask = boundary_mask(starts, plateaus=plateaus), boundary_mask(ends, plateaus=plateaus)
    start_mask[0] = end_mask[-1] = True
    bins = (segments * len(starts)).floor().clamp(0, len(starts) - 1).long()
    return start_mask[bins[:, 0]] & end_mask[bins[:, 1]]
