"""Which pixels a prediction depends on: Grad-CAM and integrated gradients of any network of clips.

Shapes: B clips, C channels, T frames, H, W; maps have D channels and a grid T' x H' x W'.

"Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017, arXiv 1610.02391,
equations 1 and 2, with the weights averaged over time and space; "Axiomatic Attribution for Deep Networks", ICML 2017,
arXiv 1703.01365, equation 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["grad_cam", "integrated_gradients"]

_FEATURES = "forward_features"


def grad_cam(model: nn.Module, clips: Tensor, score: Callable[[Tensor], Tensor], *, layer: str | None = None) -> Tensor:
    """Return the regions of clips that raise a score, from the last feature maps of a network.

    The maps are those that the network's `forward_features` returns during the call. For a network without it they are
    the output of the last module that has spatial maps and a gradient: (B, D, T', H', W'), (B, T', D, H', W'),
    (B * T', D, H', W'), or tokens (B, N, D) of a grid that a convolution of the network made, with or without class
    token. A network with several maps, such as two pathways, has the sum of their regions.

    Args:
        model: in evaluation mode.
        clips: (B, C, T, H, W), normalized.
        score: calls the network with clips and returns the score (B,) to explain, such as the logit of a class.
        layer: path of the module whose output is used; None: as described.

    Returns:
        float32 (B, T, H, W), at least 0, on the device of the clips.

    Raises:
        ValueError: the network has no such module or no spatial maps.
    """
    batch, _, frames, height, width = clips.shape
    with _differentiable(model), _recorded(model, layer) as outputs:
        value = score(clips.detach().requires_grad_() + 0).sum()  # a copy, for networks that begin in place
        grids = [grid for output in outputs for grid in _grids(output[1], clips.shape)]
        found = _last_maps(outputs, value, clips.shape, grids, model, layer)
    heat = clips.new_zeros(batch, 1, frames, height, width, dtype=torch.float32)
    for maps, gradients in found:
        weights = gradients.mean(dim=(2, 3, 4), keepdim=True)
        part = (weights * maps).sum(dim=1, keepdim=True).relu()
        heat += F.interpolate(part, size=(frames, height, width), mode="trilinear", align_corners=False)
    return heat[:, 0]


def integrated_gradients(
    model: nn.Module,
    clips: Tensor,
    score: Callable[[Tensor], Tensor],
    *,
    baseline: Tensor | None = None,
    steps: int = 32,
) -> Tensor:
    """Return what each value of clips adds to a score on the straight path from a baseline.

    The values of a clip sum to the difference between its score and that of the baseline, up to the error of the
    Gauss-Legendre quadrature.

    Args:
        model: in evaluation mode.
        clips: (B, C, T, H, W), normalized.
        score: calls the network with clips and returns the score (B,) to explain, such as the logit of a class.
        baseline: clips to start from, of a shape that broadcasts to the clips; None: 0, the mean of the training data.
        steps: points of the quadrature; the network runs once for each.

    Returns:
        float32 (B, C, T, H, W), positive and negative, on the device of the clips.

    Raises:
        ValueError: `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    start = torch.zeros_like(clips) if baseline is None else baseline.to(clips).expand_as(clips)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(clips, dtype=torch.float32)
    with _differentiable(model):
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            point = (start + float(node) * (clips - start)).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(score(point + 0).sum(), point)
            total += float(weight) * gradient
    return total * (clips - start)


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """Record gradients with respect to the input; the parameters keep their `requires_grad` and their `grad`."""
    kept = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in kept:
            parameter.requires_grad_(False)
        # cuDNN has no backward pass of recurrent layers in evaluation mode.
        with torch.inference_mode(False), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        for parameter, required in kept:
            parameter.requires_grad_(required)


@contextmanager
def _recorded(model: nn.Module, layer: str | None) -> Iterator[list[tuple[str, Any]]]:
    """Record (name, output) of every module in the order of execution, or of one; `forward_features` is one too."""
    outputs: list[tuple[str, Any]] = []

    def hook(name: str) -> Callable[..., None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            outputs.append((name, output))

        return keep

    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        import difflib

        close = difflib.get_close_matches(layer, modules, n=1)
        raise ValueError(
            f"layer {layer!r}: the network has no such module" + (f"; did you mean {close[0]!r}?" if close else "")
        )
    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items() if name]
    own = getattr(model, _FEATURES, None)
    wrapped = callable(own) and _FEATURES not in vars(model)

    def features(*arguments: Any, **options: Any) -> Any:
        output = own(*arguments, **options)  # type: ignore[misc]
        outputs.append((_FEATURES, output))
        return output

    if wrapped:
        model.__dict__[_FEATURES] = features
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
        if wrapped:
            del model.__dict__[_FEATURES]


_Grid = tuple[int, int, int, int]
"""Width D of tokens, and their grid T', H', W'."""
_Maps = list[tuple[Tensor, Tensor]]
"""Maps (B, D, T', H', W') and their gradients, both float32."""


def _last_maps(
    outputs: list[tuple[str, Any]],
    value: Tensor,
    shape: torch.Size,
    grids: list[_Grid],
    model: nn.Module,
    layer: str | None,
) -> _Maps:
    """Return the maps to explain with: of the named module, of `forward_features`, or of the last module with maps."""
    chosen = [output for name, output in outputs if name == (layer or _FEATURES)]
    others = [] if layer is not None else [output for name, output in reversed(outputs) if name != _FEATURES]
    for output in [*chosen[-1:], *others]:
        found = _maps_of(output, value, shape, grids)
        if found:
            return found
    where = f"layer {layer!r}" if layer is not None else f"the network ({type(model).__name__})"
    raise ValueError(
        f"{where} has no spatial feature maps that the score depends on, which Grad-CAM needs; name another module "
        "with --layer, or use integrated gradients"
    )


def _maps_of(output: Any, value: Tensor, shape: torch.Size, grids: list[_Grid]) -> _Maps:
    tensors = [part for part in (output if isinstance(output, (tuple, list)) else [output]) if isinstance(part, Tensor)]
    found = []
    for tensor in tensors:
        order = _layout(tensor.shape, shape, grids)
        if order is None or not tensor.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(value, tensor, retain_graph=True, allow_unused=True)
        if gradient is not None and bool((gradient != 0).any()):
            found.append((order(tensor.detach().float()), order(gradient.float())))
    return found


def _layout(sizes: torch.Size, clips: torch.Size, grids: list[_Grid]) -> Callable[[Tensor], Tensor] | None:
    """Return the function from an output to maps (B, D, T', H', W'); None for an output without a spatial grid."""
    batch, _, frames, height, width = clips
    if len(sizes) in (4, 5):
        rows, columns = sizes[-2:]
        # Maps have the aspect of the clips, up to less than one cell; logits of frames, for example, do not.
        if rows * columns == 1 or abs(rows * width - columns * height) >= max(height, width):
            return None
    if len(sizes) == 5 and sizes[0] == batch:
        if sizes[2] <= frames:
            return lambda x: x
        return (lambda x: x.transpose(1, 2)) if sizes[1] <= frames else None
    per_video = sizes[0] // batch
    if len(sizes) == 4 and sizes[0] % batch == 0 and sizes[1] > 1 and min(2, frames) <= per_video <= frames:
        return lambda x: x.unflatten(0, (batch, -1)).transpose(1, 2)
    if len(sizes) == 3 and sizes[0] == batch:
        for width, *grid in reversed(grids):
            extra = sizes[1] - math.prod(grid)
            if extra in (0, 1) and width == sizes[2]:  # with a class token first, or without
                return partial(_from_tokens, extra=extra, grid=tuple(grid))
    return None


def _from_tokens(tokens: Tensor, *, extra: int, grid: tuple[int, ...]) -> Tensor:
    return tokens[:, extra:].transpose(1, 2).unflatten(2, grid)


def _grids(output: Any, clips: torch.Size) -> Iterator[_Grid]:
    """Yield width and grid of an output with maps, from which tokens may have been made."""
    if isinstance(output, Tensor) and output.dim() in (4, 5) and output.shape[-1] * output.shape[-2] > 1:
        batch, sizes = clips[0], output.shape
        if output.dim() == 5 and sizes[0] == batch:
            yield (sizes[1], sizes[2], sizes[3], sizes[4])
            yield (sizes[4], sizes[1], sizes[2], sizes[3])  # patches with their channels last
        elif output.dim() == 4 and sizes[0] % batch == 0:
            yield (sizes[1], sizes[0] // batch, sizes[2], sizes[3])
