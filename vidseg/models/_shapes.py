"""Networks whose layers have other sizes than their options give: what channel pruning leaves.

Every registered network takes the option `shapes`: the shape of each parameter that differs. A pruned network is thus
created, trained, exported and profiled like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["SHAPES", "changed_shapes", "set_shapes"]

SHAPES = "shapes"
"""Name of the option."""
_MOST_VALUES = 1 << 34  # of one tensor; bounds the memory that a damaged record can ask for


def changed_shapes(model: nn.Module, state: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the shape of every entry of `state` that differs from that of the network's parameter or buffer."""
    own = model.state_dict()
    return {
        name: list(value.shape)
        for name, value in state.items()
        if name in own and torch.is_tensor(value) and value.shape != own[name].shape
    }


def set_shapes(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give parameters and buffers other shapes, with newly initialized values, and adapt the sizes of their layers.

    Args:
        model: network, changed in place.
        shapes: shape by name of the parameter or buffer, with the same number of dimensions as now.

    Raises:
        ValueError: the network has no such entry, or it cannot have this shape.
    """
    changed: dict[str, dict[str, tuple[int, ...]]] = {}
    entries = model.state_dict()
    for name, wanted in shapes.items():
        owner, _, entry = name.rpartition(".")
        shape = tuple(wanted)
        if name not in entries:
            raise ValueError(f"shapes: {type(model).__name__} has no {name!r}")
        if len(shape) != entries[name].dim() or not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError(f"shapes: {name} cannot have the shape {list(wanted)}, it has {list(entries[name].shape)}")
        if torch.Size(shape).numel() > _MOST_VALUES:
            raise ValueError(f"shapes: {name} would have {torch.Size(shape).numel()} values")
        changed.setdefault(owner, {})[entry] = shape
    for path, entries_of in changed.items():
        module = model.get_submodule(path)
        for entry, shape in entries_of.items():
            old = getattr(module, entry)
            new = torch.empty(shape, dtype=old.dtype, device=old.device)
            if isinstance(old, nn.Parameter):
                setattr(module, entry, nn.Parameter(new, requires_grad=old.requires_grad))
            else:
                module.register_buffer(entry, new)
        _adapt(module, path)
        reset = getattr(module, "reset_parameters", None)
        if reset is None:
            raise ValueError(f"shapes: {path} is a {type(module).__name__}, whose size cannot be changed")
        reset()


def _adapt(module: nn.Module, path: str) -> None:
    """Set the sizes that a layer stores to those of its tensors.

    Raises:
        ValueError: the tensors do not fit each other.
    """
    weight = getattr(module, "weight", None)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        assert weight is not None
        depthwise = module.groups > 1 and module.groups == module.in_channels == module.out_channels
        module.out_channels = weight.shape[0]
        if depthwise:
            module.groups = module.in_channels = weight.shape[0]
        else:
            module.in_channels = weight.shape[1] * module.groups
        if weight.shape[0] % module.groups or tuple(weight.shape[2:]) != tuple(module.kernel_size):
            raise ValueError(f"shapes: {path}.weight cannot have the shape {list(weight.shape)}")
        sizes = [weight.shape[0]]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
        sizes = [module.out_features]
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        entry = weight if weight is not None else module.running_mean
        assert entry is not None
        module.num_features = entry.shape[0]
        sizes = [module.num_features]
    else:
        raise ValueError(f"shapes: {path} is a {type(module).__name__}, whose size cannot be changed")
    for name in ("bias", "running_mean", "running_var"):
        entry = getattr(module, name, None)
        if entry is not None and list(entry.shape) != sizes:
            raise ValueError(
                f"shapes: {path}.{name} has {entry.shape[0]} values, but its layer has {sizes[0]} channels"
            )
