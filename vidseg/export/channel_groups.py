"""Channels of a network that can be removed without a change to anything but the layers that make and read them.

The graph of `torch.export` shows which layers read the channels of a convolution or linear layer. A group is complete
if everything between the layer and its readers works on each channel alone: normalization, activations, pooling,
padding, depthwise convolutions, products with one value for all channels. Channels that are added to others, such as
the outputs of residual blocks, or are attended to, belong to no group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

__all__ = ["ChannelGroup", "find_channel_groups"]

_CONVOLUTIONS = {f"aten.conv{dims}d.default" for dims in (1, 2, 3)}
_LINEAR = "aten.linear.default"
_NORMS = {"aten.batch_norm.default"}
_ALONE = {
    *("aten.relu.default", "aten.relu_.default", "aten.gelu.default", "aten.silu.default", "aten.silu_.default"),
    *("aten.leaky_relu.default", "aten.leaky_relu_.default", "aten.hardswish.default", "aten.hardswish_.default"),
    *("aten.sigmoid.default", "aten.tanh.default", "aten.elu.default", "aten.relu6.default", "aten.hardtanh.default"),
    *("aten.dropout.default", "aten.dropout_.default", "aten.feature_dropout.default", "aten.clone.default"),
    *("aten.contiguous.default", "aten.detach.default", "aten.to.dtype", "aten._to_copy.default"),
}
"""Operations on each value alone."""
_POOLS = {f"aten.{name}{dims}d.default" for dims in (1, 2, 3) for name in ("max_pool", "avg_pool", "adaptive_avg_pool")}
_PRODUCTS = {"aten.mul.Tensor", "aten.mul_.Tensor", "aten.div.Tensor"}


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are made by one layer.

    Attributes:
        channels: their number.
        layer: name of the weight of the layer, whose dimension 0 they are.
        along: names of all parameters and buffers with these channels as dimension 0, `layer` among them.
        readers: names of the weights that read the channels as dimension 1.
    """

    channels: int
    layer: str
    along: tuple[str, ...]
    readers: tuple[str, ...]


def find_channel_groups(program: ExportedProgram) -> list[ChannelGroup]:
    """Return the groups of channels of a traced network that can be removed, in the order of the graph.

    Args:
        program: graph of `torch.export.export`, not decomposed.
    """
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    reader = _Reader(names)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            reader.uses[names[node.name]] = len(node.users)
    return [group for node in program.graph.nodes if (group := reader.group(node)) is not None]


class _Reader:
    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.uses: dict[str, int] = {}

    def _name(self, node: Any) -> str | None:
        """Return the parameter or buffer that a node is, if the graph uses it once."""
        name = self.names.get(node.name) if isinstance(node, Node) and node.op == "placeholder" else None
        return name if name is not None and self.uses.get(name) == 1 else None

    def group(self, node: Node) -> ChannelGroup | None:
        """Return the group of the channels that a node makes, if it is complete."""
        kind = str(node.target)
        if node.op != "call_function" or not (kind in _CONVOLUTIONS or kind == _LINEAR):
            return None
        layer = self._name(node.args[1])
        if layer is None or (kind != _LINEAR and _groups(node) != 1):
            return None
        along = [layer]
        bias = node.args[2] if len(node.args) > 2 else None
        if bias is not None:
            if self._name(bias) is None:
                return None
            along.append(str(self._name(bias)))
        channels = int(node.args[1].meta["val"].shape[0])  # type: ignore[union-attr]
        readers: list[str] = []
        if not self._follow(node, kind == _LINEAR, channels, along, readers) or not readers:
            return None
        return ChannelGroup(channels, layer, tuple(along), tuple(readers))

    def _follow(self, start: Node, last: bool, channels: int, along: list[str], readers: list[str]) -> bool:
        """Follow the channels to their readers. Returns whether nothing but they sees them.

        Args:
            start: node that makes them.
            last: whether they are the last dimension, as behind a linear layer, and not dimension 1.
            channels: their number.
            along: completed by what has a value for each channel.
            readers: completed by the weights that read them.
        """
        waiting, seen = [start], {start}
        while waiting:
            node = waiting.pop()
            for user in node.users:
                if user in seen:
                    continue
                seen.add(user)
                kind = str(user.target)
                if user.op != "call_function" or node is not user.args[0]:
                    return False
                if kind == _LINEAR if last else kind in _CONVOLUTIONS and _groups(user) == 1:
                    weight = self._name(user.args[1])
                    if weight is None:
                        return False
                    readers.append(weight)
                    continue
                if not self._alone(user, kind, last, channels, along):
                    return False
                waiting.append(user)
        return True

    def _alone(self, node: Node, kind: str, last: bool, channels: int, along: list[str]) -> bool:
        """Return whether an operation works on each channel alone; what it has for each channel goes into `along`."""
        if kind in _ALONE:
            return True
        if kind in _PRODUCTS:
            other = node.args[1]
            if not isinstance(other, Node):
                return True
            value, own = other.meta["val"], node.meta["val"]
            axis = own.dim() - 1 if last else 1
            missing = own.dim() - value.dim()
            return axis < missing or int(value.shape[axis - missing]) == 1
        if last:
            return False
        if kind in _POOLS:
            return True
        if kind == "aten.pad.default":
            padded = len(node.args[1]) // 2  # type: ignore[arg-type]
            return padded <= node.meta["val"].dim() - 2
        if kind in _NORMS:
            entries = [one for one in node.args[1:5] if one is not None]
        elif kind in _CONVOLUTIONS and _groups(node) == channels == node.meta["val"].shape[1]:
            entries = [one for one in node.args[1:3] if one is not None]
        else:
            return False
        found = [self._name(one) for one in entries]
        if None in found:
            return False
        along += [str(name) for name in found]
        return True


def _groups(node: Node) -> int:
    """Number of groups of a convolution."""
    return int(node.args[6]) if len(node.args) > 6 else int(node.kwargs.get("groups", 1))  # type: ignore[arg-type]
