"""Operators on temporal segments, for action detection: RoI align in one dimension and non-maximum suppression.

`align1d` is the Align1D layer of G-TAD (arXiv 1911.11462), equal to RoI align with `aligned=False` (Mask R-CNN,
arXiv 1703.06870). Soft suppression is that of arXiv 1704.04503 with the rules of BMN (arXiv 1907.09702) and its kin.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from vidseg.ops.registration import compute_in_float32, require

__all__ = ["align1d", "nms_1d", "soft_nms_1d"]

_METHODS = ("gaussian", "linear")  # their numbers in C++


def align1d(x: Tensor, rois: Tensor, output_size: int, *, sampling_ratio: int = 0) -> Tensor:
    """Return each roi of a sequence resampled to `output_size` bins.

    A roi is max(end - start, 1) long and is cut into equal bins; a bin is the mean of evenly spaced linear
    interpolations at start + p * bin + (k + 0.5) * bin / samples. Element n lies at coordinate n. From -1 to 0 the
    first element is repeated and from T - 1 to T the last; a sample further out counts as zero. Reversed rois have
    length 1.

    Args:
        x: (B, C, T) float64, float32, float16 or bfloat16, any strides. Half types are summed in float32.
        rois: (R, 3) of batch index, start and end in elements, of any of these dtypes; finite, but possibly outside the
            sequence. No gradient flows to them.
        output_size: bins of a roi, at least 1.
        sampling_ratio: samples of a bin; 0 means as many as the bin is long, rounded up.

    Returns:
        (R, C, output_size), like x.

    Raises:
        ValueError: a shape, dtype, device or size breaks a rule, a batch index does not exist or a roi is not finite;
            the message names it.
    """
    return torch.ops.vidseg.align1d(x, rois, output_size, sampling_ratio)


def nms_1d(
    segments: Tensor,
    scores: Tensor,
    *,
    iou_threshold: float,
    labels: Tensor | None = None,
    min_score: float = 0.0,
    max_segments: int | None = None,
) -> Tensor:
    """Return the rows of the segments that no better segment overlaps by `iou_threshold` or more.

    Args:
        segments: (N, 2) of start and end, float64, float32, float16 or bfloat16. A reversed segment has length 0 and
            overlaps nothing.
        scores: (N,) of any of these dtypes.
        iou_threshold: from 0 to 1; segments that do not overlap never suppress each other.
        labels: (N,) int64; segments of different labels do not suppress each other.
        min_score: segments below it are left out; at least 0.
        max_segments: keep at most this many; None keeps all.

    Returns:
        (K,) int64, best score first, equal scores in the order of the rows.

    Raises:
        ValueError: a shape, dtype, device or number breaks a rule, or a value is not finite; the message names it.
    """
    return torch.ops.vidseg.nms_1d(
        segments.detach(), scores.detach(), labels, float(iou_threshold), float(min_score), max_segments
    )


def soft_nms_1d(
    segments: Tensor,
    scores: Tensor,
    *,
    method: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.0,
    threshold_slope: float = 0.0,
    labels: Tensor | None = None,
    min_score: float = 0.0,
    max_segments: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose segments by falling score, each choice lowering the scores of those that overlap it.

    A segment whose IoU with the chosen one is at least iou_threshold + threshold_slope * (length of the chosen one) has
    its score multiplied by exp(-IoU^2 / sigma) (gaussian) or by 1 - IoU (linear). Published settings, gaussian: ETAD
    sigma 0.35; BMN sigma 0.4, threshold 0.5, slope 0.4 (thresholds 0.5 to 0.9, lengths from 0 to 1); G-TAD sigma 0.46.

    Args:
        segments: (N, 2) of start and end, float64, float32, float16 or bfloat16. A reversed segment has length 0 and
            overlaps nothing.
        scores: (N,) of any of these dtypes. Computed in float64 if either is, else in float32.
        method: the decay.
        sigma: width of the gaussian decay, greater than 0.
        iou_threshold: from 0 to 1; segments that do not overlap are never decayed.
        threshold_slope: growth of the threshold with the length of the chosen segment.
        labels: (N,) int64; segments of different labels do not decay each other.
        min_score: segments are left out once their score falls below it; at least 0.
        max_segments: keep at most this many; None keeps all.

    Returns:
        Rows (K,) int64 and their decayed scores (K,), best first, equal scores in the order of the rows. Unlike the
        published loops this includes the last candidate. No gradient flows.

    Raises:
        ValueError: a shape, dtype, device or number breaks a rule, or a value is not finite; the message names it.
    """
    require(method in _METHODS, f"soft_nms_1d: method is {method!r}, must be one of {', '.join(_METHODS)}")
    return torch.ops.vidseg.soft_nms_1d(
        segments.detach(),
        scores.detach(),
        labels,
        _METHODS.index(method),
        float(sigma),
        float(iou_threshold),
        float(threshold_slope),
        float(min_score),
        max_segments,
    )


@torch.library.register_fake("vidseg::align1d")
def _(x: Tensor, rois: Tensor, output_size: int, sampling_ratio: int) -> Tensor:
    require(x.dim() == 3, f"align1d: x must be (B, C, T), has shape {tuple(x.shape)}")
    return x.new_empty((rois.shape[0], x.shape[1], output_size))


@torch.library.register_fake("vidseg::align1d_backward")
def _(grad: Tensor, rois: Tensor, batch: int, total: int, sampling_ratio: int) -> Tensor:
    return grad.new_empty((batch, grad.shape[1], total))


def _any_number() -> Any:
    """How many segments are kept: known only when the kernel has run."""
    return torch.library.get_ctx().new_dynamic_size()


@torch.library.register_fake("vidseg::nms_1d")
def _(segments: Tensor, scores: Tensor, *options: Any) -> Tensor:
    return segments.new_empty((_any_number(),), dtype=torch.int64)


@torch.library.register_fake("vidseg::soft_nms_1d")
def _(segments: Tensor, scores: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    kept = _any_number()
    return segments.new_empty((kept,), dtype=torch.int64), scores.new_empty((kept,))


def _setup_align(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, rois, _, ctx.sampling_ratio = inputs
    ctx.batch, _, ctx.total = x.shape
    ctx.save_for_backward(rois)


def _align_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors
    gradient = torch.ops.vidseg.align1d_backward(grad, rois, ctx.batch, ctx.total, ctx.sampling_ratio)
    return gradient, None, None, None


def _setup_align_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, _, _, ctx.sampling_ratio = inputs
    ctx.output_size = grad.shape[2]
    ctx.save_for_backward(rois)


def _align_backward_gradient(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
    # The backward operator is the transpose of align1d, so its own gradient is align1d.
    (rois,) = ctx.saved_tensors
    return torch.ops.vidseg.align1d(outer, rois, ctx.output_size, ctx.sampling_ratio), None, None, None, None


torch.library.register_autograd("vidseg::align1d", _align_gradient, setup_context=_setup_align)
torch.library.register_autograd(
    "vidseg::align1d_backward", _align_backward_gradient, setup_context=_setup_align_backward
)
for _name in ("align1d", "nms_1d", "soft_nms_1d"):
    compute_in_float32(_name)
