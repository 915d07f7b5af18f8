"""MS-TCN and MS-TCN++: stages of dilated temporal convolutions; each stage refines the previous one.

"MS-TCN: Multi-Stage Temporal Convolutional Network for Action Segmentation", CVPR 2019, arXiv 1903.01945. "MS-TCN++",
TPAMI 2020, arXiv 2006.09220. The first stage reads the features, each later stage the softmax of the previous stage.
Parameter names are those of the published weights.

Shapes: B videos, D feature width, K classes, L frames, S stages.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._registry import register_model
from vidseg.models._search_space import ModelSearchSpace, Sharing
from vidseg.models._segmentation import SegmentationOutput, clear_padding, find_padding

__all__ = ["MsTcn", "MsTcn2"]


class _Layer(nn.Module):
    """Residual layer: dilated convolution with kernel size 3, ReLU, pointwise convolution."""

    def __init__(self, dilation: int, maps: int, dropout: float):
        super().__init__()
        self.conv_dilated = nn.Conv1d(maps, maps, 3, padding=dilation, dilation=dilation)
        self.conv_1x1 = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        return clear_padding(x + self.dropout(self.conv_1x1(F.relu(self.conv_dilated(x)))), padding)


class _Stage(nn.Module):
    """Dilated layers between two pointwise convolutions."""

    def __init__(
        self, inputs: int, maps: int, outputs: int, *, dilations: Sequence[int], dropout: float, clear_entry: bool
    ):
        super().__init__()
        self.conv_1x1 = nn.Conv1d(inputs, maps, 1)
        self.layers = nn.ModuleList(_Layer(dilation, maps, dropout) for dilation in dilations)
        self.conv_out = nn.Conv1d(maps, outputs, 1)
        self.clear_entry = clear_entry

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        x = self.conv_1x1(x)
        if self.clear_entry:
            x = clear_padding(x, padding)
        for layer in self.layers:
            x = layer(x, padding)
        return clear_padding(self.conv_out(x), padding)


def _schedule(layers: int, dilations: Sequence[int] | None) -> list[int]:
    """Return the dilation of each layer of a stage.

    Raises:
        ValueError: a dilation is not a positive integer, or there are more of them than layers.
    """
    given = [2**index for index in range(layers)] if dilations is None else list(dilations)
    if not given or not all(isinstance(dilation, int) and dilation >= 1 for dilation in given):
        raise ValueError(f"dilations={dilations} must be integers of at least 1")
    if len(given) > layers:
        raise ValueError(f"dilations={dilations} has {len(given)} numbers, but a stage has layers={layers}")
    return [given[index % len(given)] for index in range(layers)]


class MsTcn(nn.Module):
    """MS-TCN; the receptive field of a stage of 10 layers is 2047 frames.

    Args:
        num_classes: K.
        in_features: D.
        stages: S, including the first stage.
        layers: number of layers of a stage.
        maps: number of channels.
        dilations: dilations of the first layers of a stage, which the further layers repeat, such as (1, 2, 4, 8, 16)
            for 10 layers; None: 1, 2, 4, ..., doubled from layer to layer, as published.
        dropout: dropout probability of values inside a layer.
        padding: values of padded frames in the input of the first layer of a stage. "published": the bias of the first
            convolution, as in the published code; the output for a video in a padded batch differs slightly from that
            for the video alone. "exact": zeros. Both agree without padding, as in all published training.

    Raises:
        ValueError: `padding` is unknown, stages or layers is below 1, or a dilation is wrong.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_features: int = 2048,
        stages: int = 4,
        layers: int = 10,
        maps: int = 64,
        dilations: Sequence[int] | None = None,
        dropout: float = 0.5,
        padding: Literal["published", "exact"] = "published",
    ):
        super().__init__()
        if padding not in ("published", "exact"):
            raise ValueError(f"padding={padding!r} must be 'published' or 'exact'")
        if stages < 1 or layers < 1:
            raise ValueError(f"stages={stages} and layers={layers} must be at least 1")
        schedule = _schedule(layers, dilations)

        def stage(inputs: int) -> _Stage:
            exact = padding == "exact"
            return _Stage(inputs, maps, num_classes, dilations=schedule, dropout=dropout, clear_entry=exact)

        self.in_features = in_features
        self.stage1 = stage(in_features)
        self.stages = nn.ModuleList(stage(num_classes) for _ in range(stages - 1))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> SegmentationOutput:
        """Compute logits (S, B, K, L) from features (B, D, L) and a bool mask (B, L), True on valid frames."""
        padding = find_padding(features, mask, in_features=self.in_features)
        logits = [self.stage1(clear_padding(features, padding), padding)]
        for stage in self.stages:
            logits.append(stage(clear_padding(logits[-1].softmax(dim=1), padding), padding))
        return SegmentationOutput(torch.stack(logits))


class _DualDilatedStage(nn.Module):
    """Stage of dual dilated layers: one dilation increases with depth, the other decreases."""

    def __init__(self, inputs: int, maps: int, outputs: int, *, layers: int, dropout: float):
        super().__init__()

        def branch(dilations: list[int]) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv1d(maps, maps, 3, padding=step, dilation=step) for step in dilations)

        dilations = [2**index for index in range(layers)]
        self.conv_1x1_in = nn.Conv1d(inputs, maps, 1)
        self.conv_dilated_1 = branch(dilations[::-1])
        self.conv_dilated_2 = branch(dilations)
        self.conv_fusion = nn.ModuleList(nn.Conv1d(2 * maps, maps, 1) for _ in dilations)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = nn.Conv1d(maps, outputs, 1)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        x = clear_padding(self.conv_1x1_in(x), padding)
        for far, near, fuse in zip(self.conv_dilated_1, self.conv_dilated_2, self.conv_fusion, strict=True):
            fused = fuse(torch.cat([far(x), near(x)], dim=1))
            x = clear_padding(x + self.dropout(F.relu(fused)), padding)
        return clear_padding(self.conv_out(x), padding)


class MsTcn2(nn.Module):
    """MS-TCN++: a first stage of dual dilated layers and refinement stages as in MS-TCN.

    Args:
        num_classes: K.
        in_features: D.
        first_layers: number of layers of the first stage.
        refinements: number of refinement stages; S = refinements + 1.
        layers: number of layers of a refinement stage.
        maps: number of channels.
        dilations: dilations of the refinement stages, see `MsTcn`.
        dropout: dropout probability of values inside a layer.
        shared: share the weights of all refinement stages, a variant of the paper; False for published weights.

    Raises:
        ValueError: refinements is negative, or a dilation is wrong.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_features: int = 2048,
        first_layers: int = 11,
        refinements: int = 3,
        layers: int = 10,
        maps: int = 64,
        dilations: Sequence[int] | None = None,
        dropout: float = 0.5,
        shared: bool = False,
    ):
        super().__init__()
        if refinements < 0:
            raise ValueError(f"refinements={refinements} must not be negative")
        self.in_features = in_features
        self.refinements = refinements
        self.PG = _DualDilatedStage(in_features, maps, num_classes, layers=first_layers, dropout=dropout)
        schedule = _schedule(layers, dilations)
        self.Rs = nn.ModuleList(
            _Stage(num_classes, maps, num_classes, dilations=schedule, dropout=dropout, clear_entry=True)
            for _ in range(min(1, refinements) if shared else refinements)
        )

    def forward(self, features: Tensor, mask: Tensor | None = None) -> SegmentationOutput:
        """Compute logits (S, B, K, L) from features (B, D, L) and a bool mask (B, L), True on valid frames."""
        padding = find_padding(features, mask, in_features=self.in_features)
        logits = [self.PG(clear_padding(features, padding), padding)]
        for index in range(self.refinements):
            stage = self.Rs[index % len(self.Rs)]
            logits.append(stage(clear_padding(logits[-1].softmax(dim=1), padding), padding))
        return SegmentationOutput(torch.stack(logits))


def _layer_of_dilation(name: str, own: Mapping[str, Any], largest: Mapping[str, Any]) -> str:
    """Return the name in the largest network for a name in a smaller one: that of the layer with the same dilation.

    Raises:
        ValueError: no layer of the largest network has this dilation.
    """
    found = re.match(r"((?:stage1|stages\.\d+|Rs\.\d+)\.layers\.)(\d+)(.*)", name)
    if found is None:
        return name
    schedules = [_schedule(options.get("layers", 10), options.get("dilations")) for options in (own, largest)]
    dilation = schedules[0][int(found[2])]
    if dilation not in schedules[1]:
        raise ValueError(f"the largest network has no layer of dilation {dilation}, only {schedules[1]}")
    return f"{found[1]}{schedules[1].index(dilation)}{found[3]}"


_DILATIONS: list[tuple[int, ...] | None] = [None, (1, 2, 4, 8), (1, 4, 16, 64), (8, 4, 2, 1)]
_COMMON: dict[str, Any] = {"layers": {"low": 4, "high": 10}, "maps": [16, 24, 32, 48, 64], "dilations": _DILATIONS}

register_model(
    "mstcn",
    MsTcn,
    task="segmentation",
    search_space=ModelSearchSpace({"stages": {"low": 1, "high": 4}, **_COMMON}, Sharing(source=_layer_of_dilation)),
)
register_model(
    "mstcn2",
    MsTcn2,
    task="segmentation",
    search_space=ModelSearchSpace(
        {"refinements": {"low": 0, "high": 3}, **_COMMON},
        Sharing(source=_layer_of_dilation, joined={"conv_fusion": 2}),
    ),
)
