"""Weights, gradients and optimizer states divided over the processes: torch's FSDP2 (`fully_shard`).

Each process holds a slice of every parameter. The blocks of the network's stages gather their parameters before their
forward and backward pass and free them afterwards; the other parameters are gathered together. Buffers are whole in
every process. Checkpoints hold whole tensors, so that one process or any number of them reads them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

from vidseg.engine.options import DeviceOptions, OptLevel
from vidseg.models._stage import Stage

__all__ = [
    "as_stored",
    "check_sharding",
    "is_slice",
    "local_parts",
    "shard_model",
    "stored_optimizer",
    "whole_values",
]


def check_sharding(
    devices: DeviceOptions,
    level: OptLevel,
    *,
    implementation: str = "auto",
    one_backward: bool = True,
    optimizer: object = None,
) -> None:
    """Refuse what does not work with parameters in slices.

    Args:
        devices: options of the run.
        level: opt level of the run.
        implementation: see `OptimizerOptions.implementation`.
        one_backward: whether the task has one backward pass in a batch, the same in every process.
        optimizer: optimizer that a program gives, or the function that makes it.

    Raises:
        ValueError: names the option and what to use instead.
    """
    if level in ("O2", "O3"):
        raise ValueError(f"shard with opt_level={level!r}: its float16 weights are not divided; use O0, O1 or bf16")
    for name in ("compile", "channels_last"):
        if getattr(devices, name):
            raise ValueError(f"shard and {name} exclude each other: give one of them")
    if devices.amp == "apex" or implementation in ("fused", "apex"):
        given = "amp='apex'" if devices.amp == "apex" else f"implementation={implementation!r}"
        raise ValueError(f"shard with {given}: it takes whole parameters; leave it out")
    if not one_backward:
        raise ValueError(
            "shard: this task has several backward passes in a batch, and their number may differ between processes; "
            "train it without shard"
        )
    if isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            "shard changes the parameters: give the optimizer as a function that makes it from parameter groups"
        )


def shard_model(model: nn.Module, device: torch.device) -> None:
    """Divide the parameters over the processes of the group, in place. All processes have the same weights before.

    Args:
        model: on its device, in float32 or float64. Each block of its `Stage`s is a unit that is gathered at once; what
            is left is another one.
        device: device of the model.

    Raises:
        ValueError: a parameter cannot be divided.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    for name, parameter in model.named_parameters():
        if parameter.dim() == 0:
            raise ValueError(f"shard: {name} is a single number, which cannot be divided; train without shard")
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    blocks = dict.fromkeys(block for stage in model.modules() if isinstance(stage, Stage) for block in stage)
    for block in reversed(blocks):  # inner ones first
        if any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # True for the root too: a pass without gradients leaves no parameter gathered.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for module in model.modules():  # the model itself first, which FSDP2 needs
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(device.type == "cpu")  # Gloo has no mean
            # The tensors that hold gathered parameters are made once. Made in an evaluation (inference mode), which may
            # be the first pass of a resumed run, they could not be trained.
            module.unshard()
            module.reshard()


def is_slice(value: object) -> bool:
    """Return whether a tensor is divided over the processes (a DTensor)."""
    module = sys.modules.get("torch.distributed.tensor")  # its import takes half a second, and most runs have no slices
    return module is not None and isinstance(value, module.DTensor)


def whole_tensor(value: Any) -> Tensor:
    """Return a tensor that may be a slice, whole. All processes of the group call it together."""
    found: Tensor = value.full_tensor() if is_slice(value) else value
    return found


def whole_values(values: Mapping[Any, Any], *, keep: bool = True) -> dict[Any, Any]:
    """Return a state, dictionaries within it included, with whole tensors on the CPU.

    All processes of the group call it together if a tensor is divided.

    Args:
        values: a state dict of a model or an optimizer.
        keep: return the tensors; False: take part in the exchange only, and return an empty dictionary.
    """
    found = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            whole: Any = whole_values(value, keep=keep)
        elif isinstance(value, Tensor):
            whole = whole_tensor(value)
            whole = whole.cpu() if keep else None
        else:
            whole = value
        if keep:
            found[name] = whole
    return found


def local_parts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict with this process's slices of divided tensors."""
    return {name: value.to_local() if is_slice(value) else value for name, value in values.items()}


def as_stored(weights: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return whole tensors as slices where those of `own` with their names are.

    Args:
        weights: from a checkpoint, the same in all processes.
        own: state dict of the model.

    Raises:
        RuntimeError: a shape differs.
    """
    return {name: _like(value, own.get(name), name) for name, value in weights.items()}


def stored_optimizer(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer with whole tensors, with slices of them where its parameters are slices.

    Args:
        state: of a checkpoint.
        optimizer: over the parameters of the model.
    """
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    own = dict(zip(numbers, parameters, strict=False))
    parts = {
        number: {
            name: _like(value, own.get(number), name) if isinstance(value, Tensor) and value.dim() else value
            for name, value in entries.items()
        }
        for number, entries in state["state"].items()
    }
    return {**state, "state": parts}


def _like(value: Any, own: Any, name: str) -> Any:
    if not is_slice(own) or not isinstance(value, Tensor):
        return value
    if value.shape != own.shape:
        raise RuntimeError(f"size mismatch for {name}: {tuple(value.shape)}, expected {tuple(own.shape)}")
    from torch.distributed.tensor import distribute_tensor

    # Every process has read the whole tensor: none sends anything.
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
