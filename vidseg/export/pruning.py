"""Pruning of trained networks by magnitude: whole channels, so that layers become smaller, or single weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidseg.engine.trained import TrainedModel
from vidseg.export.channel_groups import ChannelGroup, find_channel_groups
from vidseg.export.exporting import trace
from vidseg.frames.whole_file import whole_file
from vidseg.models._quantized import quantized_layers
from vidseg.models._shapes import SHAPES

__all__ = ["Pruned", "prune_channels", "prune_weights", "write_pruned"]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Pruned:
    """Weights of a pruned network.

    Attributes:
        state: values by name.
        shapes: shapes that differ from those of the network, for its option `shapes`; empty for single weights.
        removed: number of removed channels, or of weights that are zero now.
        candidates: number of channels, or weights, that could be removed.
        parameters: number of parameters before and after; zeros are counted.
    """

    state: dict[str, Tensor]
    shapes: dict[str, list[int]]
    removed: int
    candidates: int
    parameters: tuple[int, int]


def prune_channels(trained: TrainedModel, share: float, *, multiple: int = 1) -> Pruned:
    """Remove the channels with the smallest weights.

    Channels are removed where only the next layers read them, such as within residual blocks (Li et al., Pruning
    Filters for Efficient ConvNets, ICLR 2017): the L1 norm of a channel's filter, multiplied by the scale of its batch
    normalization, decides. Every group of channels loses the same share.

    Args:
        trained: network.
        share: share of the channels of each group to remove, above 0 and below 1.
        multiple: keep a multiple of this number of channels, such as 8; groups with fewer channels stay as they are.

    Raises:
        ValueError: `share` is out of range, or the network has no such channels, or is trained for int8.
    """
    _check(trained, share)
    program, _, _ = trace(trained)
    groups = [_own_names(group) for group in find_channel_groups(program)]
    if not groups:
        raise ValueError(
            f"{trained.network} has no channels that only one layer reads, so none can be removed; --unstructured sets"
            " single weights to zero"
        )
    before = {name: value.detach().cpu().clone() for name, value in trained.model.state_dict().items()}
    state, removed = dict(before), 0
    for group in groups:
        kept = _kept(group, before, share, multiple)
        removed += group.channels - len(kept)
        for name in group.along:
            state[name] = state[name][kept]
        for name in group.readers:
            state[name] = state[name][:, kept]
    shapes = {name: list(value.shape) for name, value in state.items() if value.shape != before[name].shape}
    count = sum(group.channels for group in groups)
    return Pruned(state, shapes, removed, count, _parameters(trained.model, before, state))


def prune_weights(trained: TrainedModel, share: float) -> Pruned:
    """Set the weights of convolutions and linear layers with the smallest magnitude to zero.

    All layers have one threshold. Biases and normalization layers stay.

    Args:
        trained: network.
        share: share of the weights that are zero then, above 0 and below 1.

    Raises:
        ValueError: `share` is out of range, or the network is trained for int8.
    """
    _check(trained, share)
    state = {name: value.detach().cpu().clone() for name, value in trained.model.state_dict().items()}
    names = [f"{name}.weight" for name, layer in trained.model.named_modules() if isinstance(layer, _LAYERS)]
    values = torch.cat([state[name].abs().flatten() for name in names])
    count = round(share * len(values))
    threshold = values.kthvalue(max(1, count)).values
    for name in names:
        state[name] = torch.where(state[name].abs() <= threshold, 0.0, state[name])
    zero = sum(int((state[name] == 0).sum()) for name in names)
    return Pruned(state, {}, zero, len(values), _parameters(trained.model, state, state))


def write_pruned(trained: TrainedModel, pruned: Pruned, path: str | Path) -> Path:
    """Write a checkpoint of a pruned network, which `vidseg.load_trained` reads.

    Args:
        trained: network that was pruned.
        pruned: its new weights.
        path: file to write; an existing one is replaced.
    """
    path, source = Path(path), trained.source
    path.parent.mkdir(parents=True, exist_ok=True)
    options = pruned_options(trained, pruned)
    record = {
        "task": trained.task,
        "network": trained.network,
        "classes": list(trained.classes),
        "dataset": "",
        "division": "",
        "validation_videos": [],
        "data": {},
        "options": {},
        **source.record,
        "network_options": options,
        "input": trained.input_spec.as_dict(),
    }
    with whole_file(path) as temporary:
        torch.save({"state_dict": pruned.state, "record": record, "epoch": source.epoch or 0}, temporary)
    return path


def pruned_options(trained: TrainedModel, pruned: Pruned) -> dict[str, Any]:
    """Return the options of the network that has the shapes of the pruned weights."""
    shapes = {**trained.source.network_options.get(SHAPES, {}), **pruned.shapes}
    return {**trained.source.network_options, **({SHAPES: shapes} if shapes else {})}


def _check(trained: TrainedModel, share: float) -> None:
    if quantized_layers(trained.model):
        raise ValueError(f"{trained.source.path}: is trained for int8; prune the run that it came from, then quantize")
    if not 0 < share < 1:
        raise ValueError(f"prune={share} must be above 0 and below 1")


def _own_names(group: ChannelGroup) -> ChannelGroup:
    """Name the weights as the network does, not as the module that was traced."""

    def own(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name.removeprefix("model.") for name in names)

    return ChannelGroup(group.channels, own([group.layer])[0], own(group.along), own(group.readers))


def _kept(group: ChannelGroup, state: dict[str, Tensor], share: float, multiple: int) -> Tensor:
    """Return the numbers of the channels that stay, ascending."""
    importance = state[group.layer].abs().flatten(1).sum(dim=1).double()
    scale = next((state[name] for name in group.along if name.endswith("weight") and state[name].dim() == 1), None)
    if scale is not None:
        importance = importance * scale.abs().double()
    count = max(1, round((1 - share) * group.channels))
    count = min(group.channels, -(-count // multiple) * multiple)
    return importance.topk(count).indices.sort().values


def _parameters(model: nn.Module, before: dict[str, Tensor], after: dict[str, Tensor]) -> tuple[int, int]:
    names = [name for name, _ in model.named_parameters()]
    return sum(before[name].numel() for name in names), sum(after[name].numel() for name in names)
