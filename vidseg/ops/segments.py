"""Operators on temporal segments, for action detection: RoI align in one dimension and non-maximum suppression.

`align1d` is the Align1D layer of G-TAD (arXiv 1911.11462), equal to RoI align with `aligned=False` (Mask R-CNN,
arXiv 1703.06870). Soft suppression follows Bodla et al. (arXiv 1704.04503), with the threshold of BMN
(arXiv 1907.09702) that grows with the length of a segment.
"""

import functools
from typing import Any, Literal

import torch
from torch import Tensor

from vidseg.ops.registration import compute_in_float32, require

__all__ = ["align1d", "nms_1d", "soft_nms_1d"]

_METHODS = ("gaussian", "linear")  # the position is the number in C++

# The number of kept segments depends on the data, so both wait for the device and cannot be part of a CUDA graph.
_TAGS = (torch.Tag.cudagraph_unsafe, torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)
torch.library.define(
    "vidseg::nms_1d",
    "(Tensor segments, Tensor scores, Tensor? labels, float iou_threshold, float min_score, int? max_segments) "
    "-> Tensor",
    tags=_TAGS,
)
torch.library.define(
    "vidseg::soft_nms_1d",
    "(Tensor segments, Tensor scores, Tensor? labels, int method, float sigma, float iou_threshold, "
    "float threshold_slope, float min_score, int? max_segments) -> (Tensor, Tensor)",
    tags=_TAGS,
)


def align1d(x: Tensor, rois: Tensor, output_size: int, *, sampling_ratio: int = 0) -> Tensor:
    """Resample each region of interest (roi) of a sequence to `output_size` bins.

    The length of a roi is max(end - start, 1), so that of a reversed roi is 1. The roi is divided into equal bins. A
    bin is the mean of linear interpolations at start + p * bin + (k + 0.5) * bin / samples. Element n has coordinate n.
    Between -1 and 0 the value is that of the first element, between T - 1 and T that of the last one; samples further
    outside are zero.

    Args:
        x: (B, C, T) float64, float32, float16 or bfloat16, any strides. Half types are summed in float32.
        rois: (R, 3) of batch index, start and end in elements, any of these dtypes. Finite; starts and ends may lie
            outside the sequence. Not differentiable.
        output_size: number of bins per roi, at least 1.
        sampling_ratio: number of samples per bin; 0 uses the length of the bin, rounded up.

    Returns:
        (R, C, output_size), dtype and device of x.

    Raises:
        ValueError: a shape, dtype, device or size is wrong. On the CPU also: a batch index is out of range, or a roi is
            not finite. On CUDA the operator does not wait for the device to check these: the bins of such a roi are
            NaN, and it adds nothing to the gradient of x.
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
    """Return the rows of segments that have no segment of a higher score with an IoU of at least `iou_threshold`.

    Args:
        segments: (N, 2) of start and end, float64, float32, float16 or bfloat16. A reversed segment has length 0 and
            does not overlap any other.
        scores: (N,), any of these dtypes.
        iou_threshold: 0 to 1. Segments that do not overlap are never suppressed, also at 0.
        labels: (N,) int64; segments of different labels do not suppress each other. None treats all alike.
        min_score: only segments with a score above it are kept, as in OpenTAD; at least 0. At 0, segments with a score
            of 0 are kept too.
        max_segments: largest number of segments to keep; None keeps all.

    Returns:
        (K,) int64 in order of falling score; equal scores in order of their rows.

    Raises:
        ValueError: a shape, dtype, device or option is wrong, or a value is not finite.
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
    """Select segments by falling score; each selected segment lowers the scores of the segments that overlap it.

    If the IoU of a segment with the selected one is at least iou_threshold + threshold_slope * (length of the selected
    one), its score is multiplied by exp(-IoU^2 / sigma) (gaussian) or by 1 - IoU (linear). Published settings for
    gaussian: ETAD sigma 0.35; BMN sigma 0.4, threshold 0.5, slope 0.4 (thresholds 0.5 to 0.9 for lengths 0 to 1);
    G-TAD sigma 0.46.

    Args:
        segments: (N, 2) of start and end, float64, float32, float16 or bfloat16. A reversed segment has length 0 and
            does not overlap any other.
        scores: (N,), any of these dtypes. Arithmetic is in float64 if segments or scores are, else in float32.
        method: decay of the scores.
        sigma: width of the gaussian decay, above 0.
        iou_threshold: 0 to 1. Scores of segments that do not overlap are never lowered.
        threshold_slope: increase of the threshold per length of the selected segment.
        labels: (N,) int64; segments of different labels do not change each other's scores. None treats all alike.
        min_score: segments are removed once their score is below it; at least 0.
        max_segments: largest number of segments to keep; None keeps all.

    Returns:
        Rows (K,) int64 and decayed scores (K,), in order of falling score; equal scores in order of their rows. The
        last candidate is included, unlike in the published code of ETAD, BMN and G-TAD. Not differentiable.

    Raises:
        ValueError: a shape, dtype, device or option is wrong, or a value is not finite.
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


def _suppress_on_host(name: str, segments: Tensor, scores: Tensor, labels: Tensor | None, *options: Any) -> Any:
    """Run the CPU operator `name` and return its results on the device of `segments`.

    The checks need the values on the host, and each selection depends on the one before: a processor core is faster
    here than a GPU.
    """
    for argument, tensor in (("scores", scores), ("labels", labels)):
        require(
            tensor is None or tensor.device == segments.device,
            f"{name}: {argument} is on {tensor.device if tensor is not None else ''}, must be on the device of "
            f"segments, {segments.device}",
        )
    host = [None if tensor is None else tensor.cpu() for tensor in (segments, scores, labels)]
    results = getattr(torch.ops.vidseg, name)(*host, *options)
    if isinstance(results, tuple):
        return tuple(result.to(segments.device) for result in results)
    return results.to(segments.device)


for _name in ("nms_1d", "soft_nms_1d"):
    torch.library.impl(f"vidseg::{_name}", "cuda", functools.partial(_suppress_on_host, _name))


def _any_number() -> Any:
    """Number of segments that are kept, which depends on the data."""
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
