"""Windows of sequences: gathering and scattering, for models that process a stream window by window.

Window n of sequence b consists of the elements at times starts[b, n] + l * dilation, l from 0 to length - 1. Times
outside the sequence are allowed.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from vidseg.ops.registration import require

__all__ = ["window_gather", "window_scatter"]

_REDUCE = ("mean", "sum", "first", "last")  # the position is the number in C++
_SUM = _REDUCE.index("sum")
_LONG = 32  # length of windows from which C++ adds them channel by channel


def window_gather(
    x: Tensor,
    starts: Tensor,
    length: int,
    *,
    dilation: int = 1,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Gather windows of sequences, or normalized clips of uint8 frames in one pass.

    Without `mean`, `std` and `dtype`, elements are copied unchanged. With any of them, `x` must be uint8 frames
    (B, T, H, W, C); the result has channels first and is (x - mean) / std, computed in float32 (float64 for float64)
    and rounded once to `dtype`.

    Args:
        x: (B, T, ...), any dtype and strides.
        starts: (B, N) int64, time of the first element of each window; any value.
        length: number of elements per window, at least 1.
        dilation: step between the elements of a window, at least 1.
        mean: one value per channel, 0 to 255; None is 0.
        std: one value per channel, above 0; None is 1.
        dtype: float64, float32, float16 or bfloat16; None is float32.

    Returns:
        (B, N, length, ...), or (B, N, C, length, H, W) for frames. Elements outside [0, T) are 0, which for normalized
        frames is the mean color.

    Raises:
        ValueError: a shape, dtype, device or size is wrong.
    """
    if mean is None and std is None and dtype is None:
        return torch.ops.vidseg.window_gather(x, starts, length, dilation)
    channels = x.shape[-1] if x.dim() else 0
    means = [0.0] * channels if mean is None else [float(value) for value in mean]
    stds = [1.0] * channels if std is None else [float(value) for value in std]
    return torch.ops.vidseg.window_gather_frames(x, starts, length, dilation, means, stds, dtype or torch.float32)


def window_scatter(
    windows: Tensor,
    starts: Tensor,
    total: int,
    *,
    dilation: int = 1,
    reduce: Literal["mean", "sum", "first", "last"] = "mean",
) -> Tensor:
    """Scatter windows into sequences, the inverse of `window_gather`.

    Args:
        windows: (B, N, length, ...), any strides. For mean and sum float64, float32, float16 or bfloat16 (half types
            are summed in float32), for first and last any dtype.
        starts: (B, N) int64, time of the first element of each window; any value.
        total: length T of the sequences, at least 1. Elements outside [0, T) are ignored.
        dilation: step between the elements of a window, at least 1.
        reduce: value at a time that several windows cover: their mean, their sum, or the element of the first or last
            of them in the order of N.

    Returns:
        (B, T, ...); times without a window are 0.

    Raises:
        ValueError: a shape, dtype, device or size is wrong.
    """
    require(reduce in _REDUCE, f"window_scatter: reduce is {reduce!r}, must be one of {', '.join(_REDUCE)}")
    require(total >= 1, f"window_scatter: total is {total}, must be at least 1")
    return torch.ops.vidseg.window_scatter(windows, starts, total, dilation, _REDUCE.index(reduce))


@torch.library.register_fake("vidseg::window_gather")
def _(x: Tensor, starts: Tensor, length: int, dilation: int) -> Tensor:
    return x.new_empty((x.shape[0], starts.shape[1], length, *x.shape[2:]))


@torch.library.register_fake("vidseg::window_gather_frames")
def _(
    x: Tensor, starts: Tensor, length: int, dilation: int, mean: list[float], std: list[float], dtype: torch.dtype
) -> Tensor:
    require(x.dim() == 5, f"window_gather: x must be frames (B, T, H, W, C), has shape {tuple(x.shape)}")
    batch, _, height, width, channels = x.shape
    return x.new_empty((batch, starts.shape[1], channels, length, height, width), dtype=dtype)


@torch.library.register_fake("vidseg::window_scatter")
def _(windows: Tensor, starts: Tensor, total: int, dilation: int, reduce: int) -> Tensor:
    # On the CPU, sums of windows that adjoin along time do too, as in window_scatter in csrc/ops/windows.cpp.
    if windows.device.type == "cpu" and reduce <= _SUM and dilation == 1 and windows.dim() == 4:
        batch, _, length, channels = windows.shape
        if windows.stride(2) == 1 and windows.stride(3) != 1 and channels > 1 and length >= _LONG:
            return windows.new_empty((batch, channels, total)).transpose(1, 2)
    return windows.new_empty((windows.shape[0], total, *windows.shape[3:]))


@torch.library.register_fake("vidseg::window_scatter_backward")
def _(grad: Tensor, starts: Tensor, length: int, dilation: int, reduce: int) -> Tensor:
    return grad.new_empty((grad.shape[0], starts.shape[1], length, *grad.shape[2:]))


def _setup_gather(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, starts, _, ctx.dilation = inputs
    ctx.total = x.shape[1]
    ctx.save_for_backward(starts)


def _gather_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (starts,) = ctx.saved_tensors
    return torch.ops.vidseg.window_scatter(grad, starts, ctx.total, ctx.dilation, _SUM), None, None, None


def _setup_scatter(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    windows, starts, _, ctx.dilation, ctx.reduce = inputs
    ctx.length = windows.shape[2]
    ctx.save_for_backward(starts)


def _scatter_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (starts,) = ctx.saved_tensors
    gradient = torch.ops.vidseg.window_scatter_backward(grad, starts, ctx.length, ctx.dilation, ctx.reduce)
    return gradient, None, None, None, None


def _setup_scatter_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, starts, _, ctx.dilation, ctx.reduce = inputs
    ctx.total = grad.shape[1]
    ctx.save_for_backward(starts)


def _scatter_backward_gradient(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
    # The backward operator is the transpose of window_scatter, so its own gradient is window_scatter.
    (starts,) = ctx.saved_tensors
    gradient = torch.ops.vidseg.window_scatter(outer, starts, ctx.total, ctx.dilation, ctx.reduce)
    return gradient, None, None, None, None


torch.library.register_autograd("vidseg::window_gather", _gather_gradient, setup_context=_setup_gather)
torch.library.register_autograd("vidseg::window_scatter", _scatter_gradient, setup_context=_setup_scatter)
torch.library.register_autograd(
    "vidseg::window_scatter_backward", _scatter_backward_gradient, setup_context=_setup_scatter_backward
)
