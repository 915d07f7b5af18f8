"""Networks whose convolutions and linear layers round their inputs and weights to int8: quantization-aware training.

Every registered network takes the option `quantized`, "int8": values are rounded to 8 bits and computed in floating
point, and gradients pass the rounding unchanged (Jacob et al., Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference, CVPR 2018, section 3). Such a network is created, trained, resumed, tested
and exported like any other; its state dict has `input_range` in addition for each layer.

Weights have a scale for each output channel, which follows from their largest magnitude. A batch norm behind a layer
can therefore be folded into these scales after training, exactly. Inputs have one range, with 0 in it: a running
average over steps, which `update_ranges` takes after each step.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "QUANTIZED",
    "QuantizedLayer",
    "constant_ranges",
    "fixed_ranges",
    "quantize_layers",
    "quantized_layers",
    "update_ranges",
]

QUANTIZED = "quantized"
"""Name of the option."""
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_SHARE = 0.05  # of a step's range in the running one
_LEVELS = 255
_LARGEST = 127
_SMALLEST_SCALE = 1e-12


class QuantizedLayer(nn.Module):
    """What a layer has in addition that rounds its input to uint8 and its weight to int8.

    Attributes:
        input_range: float32 (2,) running minimum and maximum of the input; both 0 before the first step, and then the
            input is not rounded.
        seen: float32 (2,) minus the smallest input since the last step, and the largest one, or 0; not in the state
            dict.
        observing: whether training looks at inputs.
    """

    input_range: Tensor
    seen: Tensor
    observing = True
    weight_scale: Tensor
    _fixed: tuple[float, int] | None = None

    @property
    def weight(self) -> Tensor:
        """The rounded weight; `parameters()` and the state dict have the one that is trained."""
        own = self._parameters["weight"]
        assert own is not None
        scale = weight_scale(own) if self._fixed is None else self.weight_scale
        zero = torch.zeros_like(scale, dtype=torch.int32)
        found = torch.fake_quantize_per_channel_affine(own.float(), scale, zero, 0, -_LARGEST - 1, _LARGEST)
        return found.to(own.dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Compute the layer from rounded values."""
        if self.training and self.observing:
            self._observe(input.detach())
        found: Tensor = super().forward(self._rounded(input))
        return found

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        low, high = torch.aminmax(x.float())
        self.seen.copy_(torch.maximum(self.seen, torch.stack([-low, high])))

    def _rounded(self, x: Tensor) -> Tensor:
        if self._fixed is None:
            scale, zero = input_scale(self.input_range)
            found = _rounded(x.float(), scale, zero)
            return torch.where((self.input_range == 0).all(), x, found.to(x.dtype))
        factor, offset = self._fixed
        if factor == 0:
            return x
        limits = (factor, offset, 0, _LEVELS, torch.uint8)
        operators = torch.ops.quantized_decomposed
        levels = operators.quantize_per_tensor(x, *limits)
        restored: Tensor = operators.dequantize_per_tensor(levels, *limits)
        return restored


def _rounded(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return the closest of 256 levels, with a gradient of 1 between the first and the last one, and of 0 outside."""
    if not torch.compiler.is_compiling():
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, _LEVELS)
    inside = x.clamp(-zero * scale, (_LEVELS - zero) * scale)  # that operator has no compiled form
    return inside + ((inside / scale).round() * scale - inside).detach()


def weight_scale(weight: Tensor) -> Tensor:
    """Return the step of each output channel of a weight, float32 (D,)."""
    largest = weight.detach().float().abs().flatten(1).amax(dim=1)
    return (largest / _LARGEST).clamp(min=_SMALLEST_SCALE)


def input_scale(limits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the step between two levels of a range and the level of 0, float32 (1,) and int32 (1,).

    Args:
        limits: (2,) lower and upper limit, with 0 between them.
    """
    low, high = limits.float().view(2, 1)
    scale = ((high - low) / _LEVELS).clamp(min=_SMALLEST_SCALE)
    return scale, (-low / scale).round().clamp(0, _LEVELS).to(torch.int32)


@cache
def _kind(layer: type[nn.Module]) -> type[nn.Module]:
    return type(f"Quantized{layer.__name__}", (QuantizedLayer, layer), {"__module__": __name__})


def quantize_layers(model: nn.Module, to: str = "int8") -> nn.Module:
    """Let the convolutions and linear layers of a network compute with rounded values, in place.

    Args:
        model: network; recurrent layers, transposed convolutions and products of activations stay as they are.
        to: "int8".

    Returns:
        The network.

    Raises:
        ValueError: `to` is another type, or the network has no such layers.
    """
    if to != "int8":
        raise ValueError(f"{QUANTIZED}={to!r} must be 'int8'")
    layers = [module for module in model.modules() if isinstance(module, _LAYERS)]
    if not layers:
        raise ValueError(f"{QUANTIZED}={to!r}: {type(model).__name__} has no convolution and no linear layer")
    for layer in layers:
        # The layer stays the same object with the same parameters, whatever subclass it is of.
        layer.__class__ = _kind(type(layer))  # type: ignore[arg-type, assignment]
        weight = layer._parameters["weight"]
        assert weight is not None
        layer.register_buffer("input_range", torch.zeros(2, device=weight.device))
        layer.register_buffer("seen", torch.zeros(2, device=weight.device), persistent=False)
    return model


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """Return the layers of a network that compute with rounded values, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)}


@torch.no_grad()
def update_ranges(
    layers: Collection[QuantizedLayer], combine: Callable[[Tensor], Tensor] = lambda values: values
) -> None:
    """Take the inputs since the last step into the ranges of layers.

    Args:
        layers: layers of a network.
        combine: takes the largest values (N, 2) of all processes; the default is for one process.
    """
    if not layers:
        return
    found = combine(torch.stack([layer.seen for layer in layers]))
    for layer, values in zip(layers, found, strict=True):
        known, limits = layer.input_range, torch.stack([-values[0], values[1]])
        new = torch.where((known == 0).all(), limits, known.lerp(limits.to(known.dtype), _SHARE))
        known.copy_(torch.where((values == 0).all(), known, new))  # a layer that was not called keeps its range
        layer.seen.zero_()


def fixed_ranges(model: nn.Module) -> nn.Module:
    """Return a copy of a network whose scales are constants, for a graph.

    Raises:
        ValueError: no layer has seen an input in training.
    """
    model = copy.deepcopy(model)
    layers = quantized_layers(model)
    if layers:
        importlib.import_module("torch.ao.quantization.fx._decomposed")  # defines operators with ONNX forms
    if layers and not any(bool(layer.input_range.any()) for layer in layers.values()):
        raise ValueError(f"the network has {QUANTIZED}='int8', but no ranges of activations: train it first")
    for layer in layers.values():
        scale, zero = input_scale(layer.input_range)
        factor = float(scale) if bool(layer.input_range.any()) else 0.0
        weight: Any = layer._parameters["weight"]
        layer.register_buffer("weight_scale", weight_scale(weight), persistent=False)
        layer._fixed = (factor, int(zero))
    return model


@contextmanager
def constant_ranges(model: nn.Module) -> Iterator[None]:
    """Do not look at inputs meanwhile."""
    observing = [layer for layer in quantized_layers(model).values() if layer.observing]
    for layer in observing:
        layer.observing = False
    try:
        yield
    finally:
        for layer in observing:
            layer.observing = True
