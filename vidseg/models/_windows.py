"""Windows at equal distances of sequences, for attention within windows."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vidseg.ops import window_scatter

__all__ = ["sliding_windows"]

_MANY = 2**17
"""Values of windows from which `window_scatter` is faster than the gradient of `unfold`."""


def sliding_windows(x: Tensor, length: int, step: int, *, before: int = 0, after: int = 0, dim: int = 1) -> Tensor:
    """Cut windows at equal distances from padded sequences, as a view of them: overlapping windows take no memory.

    `vidseg.ops.window_scatter` sums the gradient, in less time than the gradient of `Tensor.unfold` if the windows have
    many values (docs/operators.md). Fewer values, and tensors on other devices than the CPU, which are not measured,
    use the gradient of `unfold`; so do exported graphs, which contain operators of PyTorch only.

    Args:
        x: (B, ..., T, ...), any dtype and strides.
        length: number of elements per window, at least 1.
        step: number of elements from one window to the next, at least 1.
        before: number of zeros before each sequence; below 0, the number of elements that are left out there.
        after: number of zeros after each sequence, or below 0 of elements that are left out.
        dim: dimension of T, from 1.

    Returns:
        (B, N, ..., length, ...), N = (before + T + after - length) // step + 1: (B, N, length, C) for (B, T, C) with
        dim=1, (B, N, C, length) for (B, C, T) with dim=2. Do not write to it: windows share memory.

    Raises:
        ValueError: a size is out of range, or the padded sequences are shorter than a window.
    """
    what = f"sliding_windows: x has shape {tuple(x.shape)}"
    if x.dim() < 2 or not 1 <= dim < x.dim():
        raise ValueError(f"{what} and dim is {dim}, must be from 1 to the last dimension of (B, ..., T, ...)")
    if length < 1 or step < 1:
        raise ValueError(f"sliding_windows: length={length} and step={step} must be at least 1")
    if torch.compiler.is_exporting():
        return _unfold(x, length, step, before, after, dim)
    room = before + x.shape[dim] + after - length
    if room < 0:
        raise ValueError(f"{what}: with {before} zeros before and {after} after, a window of {length} is longer")
    if x.requires_grad and torch.is_grad_enabled() and x.device.type == "cpu":
        values = x.numel() // max(1, x.shape[dim]) * (room // step + 1) * length
        if values >= _MANY:
            windows: Tensor = _SlidingWindows.apply(x, length, step, before, after, dim)
            return windows
    return _unfold(x, length, step, before, after, dim)


def _unfold(x: Tensor, length: int, step: int, before: int, after: int, dim: int) -> Tensor:
    padded = F.pad(x, (*[0, 0] * (x.dim() - 1 - dim), before, after))
    return padded.unfold(dim, length, step).movedim(dim, 1).movedim(-1, dim + 1)


class _SlidingWindows(torch.autograd.Function):
    """`_unfold` whose gradient is `window_scatter`."""

    @staticmethod
    def forward(x: Tensor, length: int, step: int, before: int, after: int, dim: int) -> Tensor:
        return _unfold(x, length, step, before, after, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, ctx.step, ctx.before, _, ctx.dim = inputs
        ctx.total = x.shape[ctx.dim]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        starts = (torch.arange(grad.shape[1]) * ctx.step - ctx.before).expand(grad.shape[0], -1)
        windows = grad.movedim(ctx.dim + 1, 2)
        total = window_scatter(windows, starts, ctx.total, reduce="sum").movedim(1, ctx.dim)
        return total, None, None, None, None, None
