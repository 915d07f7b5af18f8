"""Compiled tensor operators: correlation, sliding windows, and temporal segments (see docs/operators.md).

All have CPU and CUDA kernels and support autograd, torch.compile, autocast and any strides. Wrong arguments raise a
ValueError with argument, value and rule before any kernel runs.
"""

from vidseg.ops.cost_volume import correlation, correlation_lookup, spatial_correlation
from vidseg.ops.registration import refuse_cuda_without_library
from vidseg.ops.segments import align1d, nms_1d, soft_nms_1d
from vidseg.ops.windows import window_gather, window_scatter

__all__ = [
    "align1d",
    "correlation",
    "correlation_lookup",
    "nms_1d",
    "soft_nms_1d",
    "spatial_correlation",
    "window_gather",
    "window_scatter",
]

refuse_cuda_without_library()
