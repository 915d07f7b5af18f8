"""Correlation of two feature maps: the cost volumes of optical-flow networks.

`correlation` is the operator of FlowNet 2 (arXiv 1612.01925) and LiteFlowNet 3 (arXiv 2007.09319),
`spatial_correlation` that of FastFlowNet (arXiv 2103.04524), `correlation_lookup` that of RAFT (arXiv 2003.12039). All
are bilinear in the two maps: the gradient of each is a similar product of the output's gradient and the other map, so
gradients of any order exist.
"""

from typing import Any

import torch
from torch import Tensor

from vidseg.ops.registration import compute_in_float32, require

__all__ = ["correlation", "correlation_lookup", "spatial_correlation"]


def correlation(
    f1: Tensor,
    f2: Tensor,
    max_displacement: int,
    *,
    pad_size: int | None = None,
    kernel_size: int = 1,
    stride1: int = 1,
    stride2: int = 1,
) -> Tensor:
    """Return the mean products of the vectors of `f1` and `f2` for all displacements in a square.

    With both images padded by `pad_size` zeros, k = kernel_size, r = (k - 1) // 2, D = max_displacement // stride2 and
    tj, ti from -D to D (tj, the vertical one, is the slow index):

        out[b, (tj + D) * (2 * D + 1) + ti + D, y, x] = 1 / (k * k * C) * sum over c and j, i from -r to r of
            f1[b, c, Y + j, X + i] * f2[b, c, Y + j + tj * stride2, X + i + ti * stride2]
            where Y = y * stride1 + max_displacement, X = x * stride1 + max_displacement

    For kernel size 1 this is the published operator. For larger kernels the published operator reads before the first
    row; here the formula holds and values outside the padded image are zero.

    Args:
        f1: (B, C, H, W) float64, float32, float16 or bfloat16, any strides. Half types are summed in float32.
        f2: like f1.
        max_displacement: largest displacement in pixels, at least 0.
        pad_size: number of zeros around both images; None uses max_displacement, which keeps the size at stride 1.
        kernel_size: side of the square of vectors in one product; odd.
        stride1: step between outputs in pixels.
        stride2: step between displacements in pixels.

    Returns:
        (B, (2D + 1)^2, OH, OW), OH = ceil((H + 2 * pad_size - 2 * (max_displacement + r)) / stride1), OW accordingly.

    Raises:
        ValueError: a shape, dtype, device or size is wrong.
    """
    pad = max_displacement if pad_size is None else pad_size
    return torch.ops.vidseg.correlation(f1, f2, max_displacement, pad, kernel_size, stride1, stride2)


def spatial_correlation(
    f1: Tensor,
    f2: Tensor,
    *,
    patch_size: int,
    kernel_size: int = 1,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    dilation_patch: int = 1,
) -> Tensor:
    """Return the sums (not means) of products of `f1` and `f2` for the displacements of a patch.

        out[b, pj, pi, y, x] = sum over c and j, i from 0 to kernel_size - 1 of
            f1[b, c, Y, X] * f2[b, c, Y + dy, X + dx]
            where Y = y * stride - padding + j * dilation, X = x * stride - padding + i * dilation,
            dy = (pj - (patch_size - 1) // 2) * dilation_patch, dx accordingly; values outside the images are zero

    Args:
        f1: (B, C, H, W) float64, float32, float16 or bfloat16, any strides. Half types are summed in float32.
        f2: like f1.
        patch_size: number of displacements along each axis.
        kernel_size: side of the square of vectors in one product; odd.
        stride: step between outputs in pixels.
        padding: number of zeros around both images.
        dilation: step between the vectors of a kernel in pixels.
        dilation_patch: step between displacements in pixels.

    Returns:
        (B, patch_size, patch_size, OH, OW), OH = (H + 2 * padding - (kernel_size - 1) * dilation - 1) // stride + 1.

    Raises:
        ValueError: a shape, dtype, device or size is wrong.
    """
    return torch.ops.vidseg.spatial_correlation(
        f1, f2, patch_size, kernel_size, stride, padding, dilation, dilation_patch
    )


def correlation_lookup(f1: Tensor, f2: Tensor, coords: Tensor, radius: int) -> Tensor:
    """Correlate each vector of `f1` with the vectors of `f2` in a square around the position given for it.

        out[b, i * (2 * radius + 1) + j, y, x] = 1 / sqrt(C) * sum over c of f1[b, c, y, x] * f2[b, c] at
            (coords[b, 0, y, x] + i - radius, coords[b, 1, y, x] + j - radius), with bilinear interpolation

    This is RAFT's look-up in one level of its correlation pyramid (section 3.2), without the volume of all pairs:
    memory is linear in the number of vectors. The first axis of the square, i, moves x, as in the published code.
    Vectors outside f2 are zero. The operator is fastest for images in `torch.channels_last`; it copies other layouts
    and half types on the CPU.

    Args:
        f1: (B, C, H, W) float64, float32, float16 or bfloat16, any strides. Half types are summed in float32.
        f2: (B, C, h, w), like f1.
        coords: (B, 2, H, W), x and y in vectors of f2, any of these dtypes; element (0, 0) of f2 has coordinates
            (0, 0). Not differentiable: no gradient reaches it, as in RAFT, which detaches it. The outputs of a vector
            whose position is not finite are NaN, and it adds nothing to the gradients.
        radius: half the side of the square, 0 to 15; published 4, small network 3.

    Returns:
        (B, (2 * radius + 1)^2, H, W), dtype and device of f1.

    Raises:
        ValueError: a shape, dtype, device or size is wrong.
    """
    return torch.ops.vidseg.correlation_lookup(f1, f2, coords, radius)


def _outputs(extent: int, stride: int, image: Tensor) -> int:
    require(extent >= 0, f"images of shape {tuple(image.shape)} are {-extent} too small for this kernel and padding")
    return (extent - 1) // stride + 1


@torch.library.register_fake("vidseg::correlation")
def _(f1: Tensor, f2: Tensor, displacement: int, pad: int, kernel: int, stride1: int, stride2: int) -> Tensor:
    require(f1.dim() == 4 and f1.shape == f2.shape, f"f1 and f2 must be (B, C, H, W), are {f1.shape} and {f2.shape}")
    patch = 2 * (displacement // stride2) + 1
    border = 2 * pad - 2 * (displacement + kernel // 2)
    rows = _outputs(f1.shape[2] + border, stride1, f1)
    columns = _outputs(f1.shape[3] + border, stride1, f1)
    return f1.new_empty((f1.shape[0], patch * patch, rows, columns))


@torch.library.register_fake("vidseg::spatial_correlation")
def _(
    f1: Tensor, f2: Tensor, patch: int, kernel: int, stride: int, padding: int, dilation: int, dilation_patch: int
) -> Tensor:
    require(f1.dim() == 4 and f1.shape == f2.shape, f"f1 and f2 must be (B, C, H, W), are {f1.shape} and {f2.shape}")
    border = 2 * padding - (kernel - 1) * dilation
    rows = _outputs(f1.shape[2] + border, stride, f1)
    columns = _outputs(f1.shape[3] + border, stride, f1)
    return f1.new_empty((f1.shape[0], patch, patch, rows, columns))


@torch.library.register_fake("vidseg::correlation_backward")
@torch.library.register_fake("vidseg::spatial_correlation_backward")
def _(grad: Tensor, other: Tensor, *geometry: Any) -> Tensor:
    return other.new_empty(other.shape)


@torch.library.register_fake("vidseg::correlation_lookup")
def _(f1: Tensor, f2: Tensor, coords: Tensor, radius: int) -> Tensor:
    require(
        f1.dim() == f2.dim() == 4 and f1.shape[:2] == f2.shape[:2],
        f"f1 and f2 must be (B, C, H, W) and (B, C, h, w), are {f1.shape} and {f2.shape}",
    )
    return f1.new_empty((f1.shape[0], (2 * radius + 1) ** 2, *f1.shape[2:]))


@torch.library.register_fake("vidseg::correlation_lookup_backward_f1")
def _(grad: Tensor, f2: Tensor, coords: Tensor, radius: int) -> Tensor:
    return grad.new_empty((*f2.shape[:2], *grad.shape[2:]))


@torch.library.register_fake("vidseg::correlation_lookup_backward_f2")
def _(grad: Tensor, f1: Tensor, coords: Tensor, radius: int, height: int, width: int) -> Tensor:
    return grad.new_empty((*f1.shape[:2], height, width))


def _register_gradients(name: str) -> None:
    """Register the gradients of the operator `name` and of its backward operator."""
    forward = getattr(torch.ops.vidseg, name)
    backward = getattr(torch.ops.vidseg, f"{name}_backward")

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        first, second, *ctx.geometry = inputs
        ctx.save_for_backward(first, second)

    def gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        f1, f2 = ctx.saved_tensors
        need1, need2, *rest = ctx.needs_input_grad
        grad1 = backward(grad, f2, *ctx.geometry, False) if need1 else None
        grad2 = backward(grad, f1, *ctx.geometry, True) if need2 else None
        return grad1, grad2, *[None for _ in rest]

    def gradients_of_backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        # grad_f1 = B1(grad, f2) is linear in both: <outer, B1(grad, f2)> = <grad, forward(outer, f2)>.
        grad, other = ctx.saved_tensors
        need_grad, need_other, *rest = ctx.needs_input_grad
        *geometry, second = ctx.geometry
        pair = (other, outer) if second else (outer, other)
        for_grad = forward(*pair, *geometry) if need_grad else None
        for_other = backward(grad, outer, *geometry, not second) if need_other else None
        return for_grad, for_other, *[None for _ in rest]

    torch.library.register_autograd(f"vidseg::{name}", gradients, setup_context=setup)
    torch.library.register_autograd(f"vidseg::{name}_backward", gradients_of_backward, setup_context=setup)
    compute_in_float32(name)


_register_gradients("correlation")
_register_gradients("spatial_correlation")


def _register_lookup() -> None:
    """Register the gradients of `correlation_lookup` and of its two backward operators."""
    forward = torch.ops.vidseg.correlation_lookup
    for_f1 = torch.ops.vidseg.correlation_lookup_backward_f1
    for_f2 = torch.ops.vidseg.correlation_lookup_backward_f2

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.radius = inputs[3]

    def gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        f1, f2, coords = ctx.saved_tensors
        need1, need2, *_ = ctx.needs_input_grad
        grad1 = for_f1(grad, f2, coords, ctx.radius) if need1 else None
        grad2 = for_f2(grad, f1, coords, ctx.radius, *f2.shape[2:]) if need2 else None
        return grad1, grad2, None, None

    # <outer, for_f1(grad, f2)> = <grad, forward(outer, f2)> and <outer, for_f2(grad, f1)> = <grad, forward(f1, outer)>
    def gradients_of_f1(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        grad, f2, coords = ctx.saved_tensors
        need_grad, need_f2, *_ = ctx.needs_input_grad
        of_grad = forward(outer, f2, coords, ctx.radius) if need_grad else None
        of_f2 = for_f2(grad, outer, coords, ctx.radius, *f2.shape[2:]) if need_f2 else None
        return of_grad, of_f2, None, None

    def gradients_of_f2(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        grad, f1, coords = ctx.saved_tensors
        need_grad, need_f1, *_ = ctx.needs_input_grad
        of_grad = forward(f1, outer, coords, ctx.radius) if need_grad else None
        of_f1 = for_f1(grad, outer, coords, ctx.radius) if need_f1 else None
        return of_grad, of_f1, None, None, None, None

    torch.library.register_autograd("vidseg::correlation_lookup", gradients, setup_context=setup)
    for name, formula in (("f1", gradients_of_f1), ("f2", gradients_of_f2)):
        torch.library.register_autograd(
            f"vidseg::correlation_lookup_backward_{name}", formula, setup_context=setup
        )
    compute_in_float32("correlation_lookup")


_register_lookup()
