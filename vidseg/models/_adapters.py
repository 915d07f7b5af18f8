"""Low-rank adapters: a frozen linear layer plus a trained product of two thin matrices.

"LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685, with a scale of 1 (alpha equal to the
rank). At the start the second matrix is 0, so the network computes what it did without adapters.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LowRankLinear", "add_adapters", "merge_adapters", "merged_entries"]


class LowRankLinear(nn.Module):
    """Linear layer with an adapter.

    Args:
        base: the adapted layer; its weights are kept and frozen.
        rank: width between the two matrices.
        generator: source of the random values of the first matrix.
    """

    def __init__(self, base: nn.Linear, rank: int, *, generator: torch.Generator | None = None):
        super().__init__()
        self.base = base.requires_grad_(False)
        bound = 1 / math.sqrt(base.in_features)
        down = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down.to(base.weight))
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.down), self.up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Add the adapter to the weight of the layer, and return the layer."""
        self.base.weight += self.up @ self.down
        return self.base


def add_adapters(model: nn.Module, rank: int, *, seed: int = 0) -> list[str]:
    """Add adapters to the linear layers in the blocks of a transformer, in place.

    All parameters are frozen but those of the adapters and of the head.

    Args:
        model: network with the attributes `adapted` and `head_modules`, such as VideoMAE.
        rank: width of the adapters, at least 1.
        seed: seed of the adapters' initial values.

    Returns:
        Names of the adapted layers.

    Raises:
        ValueError: the network has no layers to adapt, or already has adapters, or `rank` is below 1.
    """
    ends: tuple[str, ...] = getattr(model, "adapted", ())
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.") and name.endswith(ends)
    }
    if rank < 1:
        raise ValueError(f"adapter_rank={rank} must be at least 1")
    if any(isinstance(module, LowRankLinear) for module in model.modules()):
        raise ValueError(f"adapter_rank={rank}: this {type(model).__name__} already has adapters")
    if not ends or not layers:
        raise ValueError(
            f"adapter_rank={rank}: {type(model).__name__} has no layers for adapters; use a transformer such as "
            "videomae_base, vjepa2_large or timesformer_base"
        )
    heads = tuple(f"{name}." for name in model.head_modules)  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(heads))
    generator = torch.Generator().manual_seed(seed)
    for name, layer in layers.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, LowRankLinear(layer, rank, generator=generator))
    return list(layers)


def merge_adapters(model: nn.Module) -> list[str]:
    """Add the adapters of a network to the weights of its layers, in place; all parameters can be trained afterwards.

    Args:
        model: network of `add_adapters`; others do not change.

    Returns:
        Names of the layers that had adapters.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, LowRankLinear)]
    for name, module in found:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module.merged())
    if found:
        model.requires_grad_(True)
    return [name for name, _ in found]


def merged_entries(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of a network without adapters for those of one with adapters.

    Args:
        entries: state dict; without adapters it is returned as it is.
    """
    found = dict(entries)
    for key in entries:
        name = key.removesuffix(".down")
        base = f"{name}.base."
        if name == key or f"{name}.up" not in entries or f"{base}weight" not in entries:
            continue
        down, up, weight = found.pop(key), found.pop(f"{name}.up"), found.pop(f"{base}weight")
        found[f"{name}.weight"] = (weight.float() + up.float() @ down.float()).to(weight.dtype)
        for other in [other for other in found if other.startswith(base)]:
            found[f"{name}.{other.removeprefix(base)}"] = found.pop(other)
    return found
