"""Training of networks whose layers round their values (`vidseg.models._quantized`): checks, and what is frozen."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidseg.engine.options import DeviceOptions, OptLevel
from vidseg.models._quantized import QuantizedLayer

__all__ = ["FREEZE_RANGES", "check_quantized", "freeze_ranges"]

FREEZE_RANGES = 0.5
"""Share of a run after which ranges are constant."""


def check_quantized(
    layers: Collection[QuantizedLayer], share: float | None, level: OptLevel, devices: DeviceOptions, **others: object
) -> None:
    """Refuse what excludes layers that round their values, and options for them that have no effect.

    Args:
        layers: such layers of the network.
        share: see `OptimizerOptions.freeze_ranges`.
        level: opt level of the run.
        devices: options of the run.
        **others: further options by name that must not be set.

    Raises:
        ValueError: names the option.
    """
    if not layers:
        if share is not None:
            raise ValueError(
                f"freeze_ranges={share} has no effect: the network does not have the option quantized='int8'"
            )
        return
    if level in ("O2", "O3"):
        raise ValueError(f"opt_level={level!r}: a network with quantized='int8' trains with O0, O1 or bf16")
    excluded = {"shard": devices.shard, "engine='deepspeed'": devices.engine == "deepspeed", **others}
    for name, given in excluded.items():
        if given:
            raise ValueError(f"{name} does not work with quantized='int8': leave it out")


def freeze_ranges(model: nn.Module, layers: Collection[QuantizedLayer], frozen: bool) -> None:
    """Keep the ranges of layers and the statistics of batch norm: the network is then trained as it will be used.

    Args:
        model: network in training mode.
        layers: its layers that round their values; without any, nothing changes.
        frozen: False: layers look at their inputs.
    """
    for layer in layers:
        layer.observing = not frozen
    if layers and frozen:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
