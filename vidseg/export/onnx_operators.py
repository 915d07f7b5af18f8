"""The compiled operators of `vidseg.ops` as standard operators, for runtimes that do not have them.

Each function computes what the operator of the same name computes, for the arguments that the networks use, and is
traced into the graph in its place.

Shapes: B pairs or videos, C channels, T elements, H, W, R rois.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import ExportedProgram

from vidseg import ops as _ops  # noqa: F401, registers the operators

__all__ = ["DECOMPOSITIONS", "without_own_operators"]


def _shifted_products(f1: Tensor, f2: Tensor, shifts: range) -> Tensor:
    """Return sums over channels of `f1` and shifted `f2`, float32 (B, n * n, H, W), for all pairs of vertical and
    horizontal shifts; outside the map `f2` is 0."""
    reach, width = max(abs(shifts.start), abs(shifts[-1])), f1.shape[3]
    first, padded = f1.float()[:, :, :, None], F.pad(f2.float(), (reach,) * 4)
    right = torch.arange(len(shifts), device=f1.device) * shifts.step + shifts.start + reach
    places = (right[:, None] + torch.arange(width, device=f1.device)).flatten()
    costs = []
    for down in shifts:  # all horizontal shifts at once: a graph of single shifts has thousands of nodes
        rows = padded[:, :, reach + down : _stop(reach - down)]
        moved = rows.index_select(3, places).unflatten(3, (len(shifts), -1))  # (B, C, H, n, W)
        costs.append((first * moved).sum(dim=1).transpose(1, 2))
    return torch.cat(costs, dim=1)


def _stop(left_out: int) -> int | None:
    return -left_out if left_out else None


def _correlation(
    f1: Tensor, f2: Tensor, max_displacement: int, pad: int, kernel: int, stride1: int, stride2: int
) -> Tensor:
    if (pad, kernel, stride1) != (max_displacement, 1, 1):
        raise ValueError(
            f"vidseg::correlation with pad_size={pad}, kernel_size={kernel}, stride1={stride1} has no form in standard "
            "operators; only pad_size=max_displacement, kernel_size=1 and stride1=1 have"
        )
    reach = max_displacement // stride2
    shifts = range(-reach * stride2, reach * stride2 + 1, stride2)
    return (_shifted_products(f1, f2, shifts) / f1.shape[1]).to(f1.dtype)


def _spatial_correlation(
    f1: Tensor, f2: Tensor, patch: int, kernel: int, stride: int, padding: int, dilation: int, dilation_patch: int
) -> Tensor:
    if (kernel, stride, padding) != (1, 1, 0):
        raise ValueError(
            f"vidseg::spatial_correlation with kernel_size={kernel}, stride={stride}, padding={padding} has no form in "
            "standard operators; only kernel_size=1, stride=1 and padding=0 have"
        )
    first = -((patch - 1) // 2) * dilation_patch
    shifts = range(first, first + patch * dilation_patch, dilation_patch)
    return _shifted_products(f1, f2, shifts).unflatten(1, (patch, patch)).to(f1.dtype)


def _correlation_lookup(f1: Tensor, f2: Tensor, coords: Tensor, radius: int) -> Tensor:
    """All pairs of vectors, then the square around each position: memory grows with H * W * h * w."""
    batch, channels, height, width = f1.shape
    rows, columns = f2.shape[2:]
    pairs = torch.matmul(f1.float().flatten(2).transpose(1, 2), f2.float().flatten(2)) / channels**0.5
    steps = torch.arange(-radius, radius + 1, device=f1.device, dtype=torch.float32)
    x, y = coords.float().permute(0, 2, 3, 1).reshape(-1, 1, 1, 2).unbind(dim=-1)
    x, y = torch.broadcast_tensors(x + steps[None, :, None], y + steps[None, None, :])
    grid = torch.stack([(2 * x + 1) / columns - 1, (2 * y + 1) / rows - 1], dim=-1)
    maps = pairs.reshape(-1, 1, rows, columns)
    found = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    side = 2 * radius + 1
    return found.reshape(batch, height, width, side * side).permute(0, 3, 1, 2).to(f1.dtype)


def _align1d(x: Tensor, rois: Tensor, output_size: int, sampling_ratio: int) -> Tensor:
    """Product of the sequences with the weight of each element in each bin, which has a closed form: the samples of a
    bin are evenly spaced, and a sample weighs its two neighbors.

    The rois must be sorted by sequence, with the same number for each, as `align_segments` makes them.
    """
    batch, _, total = x.shape
    start, end = rois.float()[:, 1:].unflatten(0, (batch, -1)).unbind(dim=2)  # (B, N)
    size = ((end - start).clamp(min=1) / output_size)[..., None]
    samples = torch.full_like(size, sampling_ratio) if sampling_ratio else size.ceil()
    step = (size / samples)[..., None]  # (B, N, 1, 1)
    bins = torch.arange(output_size, device=x.device, dtype=torch.float32)
    first = (start[..., None] + bins * size + 0.5 * size / samples)[..., None]  # (B, N, bins, 1), first sample
    count = samples[..., None]
    edges = torch.arange(total + 2, device=x.device, dtype=torch.float32) - 1  # -1 to T
    before = ((edges - first) / step).ceil().clamp(min=0).minimum(count)  # samples before each edge
    # A sample on the last edge belongs to the last interval.
    last = (((edges[-1:] - first) / step).floor() + 1).clamp(min=0).minimum(count)
    after = torch.cat([before[..., 1:-1], last], dim=-1)
    before = before[..., :-1]
    inside = after - before  # (B, N, bins, T + 1), samples of each interval
    # Sum over the samples of an interval of their distance from its left edge.
    distance = inside * (first + before * step - edges[:-1]) + step * inside * (inside - 1) / 2
    left, right = inside - distance, distance
    # Before element 0 and behind the last one, samples have the value of that element.
    head, tail = inside[..., :1], inside[..., -1:]
    right = torch.cat([head, right[..., 1:-1], torch.zeros_like(tail)], dim=-1)
    left = torch.cat([torch.zeros_like(head), left[..., 1:-1], tail], dim=-1)
    weights = (right[..., :-1] + left[..., 1:]) / count  # (B, N, bins, T)
    found = torch.matmul(weights.flatten(1, 2), x.float().transpose(1, 2))  # (B, N * bins, C)
    return found.unflatten(1, (-1, output_size)).flatten(0, 1).transpose(1, 2).to(x.dtype)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention of any number of dimensions; the exporter has four. The value of a query without a key is 0."""
    if dropout_p or is_causal or enable_gqa:
        raise ValueError("scaled_dot_product_attention with dropout, is_causal or enable_gqa has no form here")
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(query * factor, key.transpose(-2, -1))
    if attn_mask is None:
        shares = scores.softmax(dim=-1)
    elif attn_mask.dtype == torch.bool:
        lowest = torch.finfo(scores.dtype).min
        shares = torch.where(attn_mask, torch.where(attn_mask, scores, lowest).softmax(dim=-1), 0.0)
    else:
        shares = (scores + attn_mask.clamp(min=torch.finfo(scores.dtype).min / 2)).softmax(dim=-1)
    found = torch.matmul(shares, value)
    # The layout of PyTorch's kernel, on which the views behind it depend.
    return found.transpose(1, 2).contiguous().transpose(1, 2) if found.dim() == 4 else found


def _searchsorted(
    sorted_sequence: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    if sorted_sequence.dim() != 1 or sorter is not None:
        raise ValueError("searchsorted of several sequences has no form in standard operators")
    behind = right or side == "right"
    below = sorted_sequence <= values[..., None] if behind else sorted_sequence < values[..., None]
    return below.to(torch.int32 if out_int32 else torch.int64).sum(dim=-1)


def _nearest(x: Tensor, size: list[int] | None, factors: list[float] | None) -> Tensor:
    """Interpolation with mode="nearest": ONNX rounds the scale, which moves elements of some sizes."""
    for number, axis in enumerate(range(2, x.dim())):
        have = x.shape[axis]
        want = int(have * factors[number]) if size is None else size[number]  # type: ignore[index]
        places = torch.arange(want, device=x.device) * have // want
        x = x.index_select(axis, places)
    return x


DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.vidseg.correlation.default: _correlation,
    torch.ops.vidseg.spatial_correlation.default: _spatial_correlation,
    torch.ops.vidseg.correlation_lookup.default: _correlation_lookup,
    torch.ops.vidseg.align1d.default: _align1d,
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
    torch.ops.aten.searchsorted.Tensor: _searchsorted,
    torch.ops.aten.upsample_nearest1d.vec: _nearest,
    torch.ops.aten.upsample_nearest2d.vec: _nearest,
}
"""Operator -> function of standard operators; also those of PyTorch that the exporter lacks or that ONNX has not as
they are."""


def without_own_operators(program: ExportedProgram, *, only: str = "") -> ExportedProgram:
    """Replace the operators of `vidseg.ops` in a graph by standard operators.

    Args:
        program: graph of a network.
        only: first part of the names of the operators to replace, such as "vidseg."; "": also those of PyTorch that
            the ONNX exporter lacks.

    Raises:
        ValueError: an operator has no such form; names it.
    """
    used = {node.target for node in program.graph.nodes if node.op == "call_function"}
    unknown = sorted(str(one) for one in used - set(DECOMPOSITIONS) if str(one).startswith("vidseg."))
    if unknown:
        raise ValueError(f"{', '.join(unknown)} has no form in standard operators; use --to torch or --to aoti")
    table = {one: function for one, function in DECOMPOSITIONS.items() if one in used and str(one).startswith(only)}
    return program.run_decompositions(table) if table else program
