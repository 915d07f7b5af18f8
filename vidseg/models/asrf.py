"""ASRF: a frame classification branch and a boundary branch, whose boundaries refine the predicted segments.

"Alleviating Over-segmentation Errors by Detecting Action Boundaries", WACV 2021, arXiv 2007.06866. Published results
are refined predictions, see `vidseg.models._refinement.refine_by_boundaries`. Parameter names are those of the
published weights.

Shapes: B videos, D feature width, K classes, L frames, S stages.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._registry import register_model
from vidseg.models._search_space import ModelSearchSpace, Sharing
from vidseg.models._segmentation import SegmentationOutput, clear_padding, find_padding

__all__ = ["Asrf"]


class _Layer(nn.Module):
    """Residual layer: dilated convolution with kernel size 3, ReLU, pointwise convolution."""

    def __init__(self, dilation: int, maps: int, dropout: float):
        super().__init__()
        self.conv_dilated = nn.Conv1d(maps, maps, 3, padding=dilation, dilation=dilation)
        self.conv_in = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        return clear_padding(x + self.dropout(self.conv_in(F.relu(self.conv_dilated(x)))), padding)


def _layers(count: int, maps: int, dropout: float) -> nn.ModuleList:
    return nn.ModuleList(_Layer(2**index, maps, dropout) for index in range(count))


class _Stage(nn.Module):
    """Refinement stage of class or boundary probabilities."""

    def __init__(self, channels: int, maps: int, layers: int, dropout: float):
        super().__init__()
        self.conv_in = nn.Conv1d(channels, maps, 1)
        self.layers = _layers(layers, maps, dropout)
        self.conv_out = nn.Conv1d(maps, channels, 1)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        x = clear_padding(self.conv_in(x), padding)
        for layer in self.layers:
            x = layer(x, padding)
        return clear_padding(self.conv_out(x), padding)


class Asrf(nn.Module):
    """Action segment refinement framework: shared layers, a class branch and a boundary branch.

    Args:
        num_classes: K.
        in_features: D.
        stages: S of the class branch, including the output of the shared layers.
        boundary_stages: S of the boundary branch, including the output of the shared layers.
        layers: number of shared layers and of layers of each stage.
        maps: number of channels.
        dropout: dropout probability of values inside a layer.

    Raises:
        ValueError: stages or boundary_stages is below 1.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_features: int = 2048,
        stages: int = 4,
        boundary_stages: int = 4,
        layers: int = 10,
        maps: int = 64,
        dropout: float = 0.5,
    ):
        super().__init__()
        if stages < 1 or boundary_stages < 1:
            raise ValueError(f"stages={stages} and boundary_stages={boundary_stages} must be at least 1")
        self.in_features = in_features
        self.conv_in = nn.Conv1d(in_features, maps, 1)
        self.shared_layers = _layers(layers, maps, dropout)
        self.conv_cls = nn.Conv1d(maps, num_classes, 1)
        self.conv_bound = nn.Conv1d(maps, 1, 1)
        self.asb = nn.ModuleList(_Stage(num_classes, maps, layers, dropout) for _ in range(stages - 1))
        self.brb = nn.ModuleList(_Stage(1, maps, layers, dropout) for _ in range(boundary_stages - 1))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> SegmentationOutput:
        """Compute logits (S, B, K, L) and boundaries (S, B, 1, L).

        Args:
            features: (B, D, L).
            mask: bool (B, L), True on valid frames; None: no frame is padding.
        """
        padding = find_padding(features, mask, in_features=self.in_features)
        x = clear_padding(self.conv_in(clear_padding(features, padding)), padding)
        for layer in self.shared_layers:
            x = layer(x, padding)
        logits = [clear_padding(self.conv_cls(x), padding)]
        boundaries = [clear_padding(self.conv_bound(x), padding)]
        for stage in self.asb:
            logits.append(stage(clear_padding(logits[-1].softmax(dim=1), padding), padding))
        for stage in self.brb:
            boundaries.append(stage(clear_padding(boundaries[-1].sigmoid(), padding), padding))
        return SegmentationOutput(torch.stack(logits), torch.stack(boundaries))


register_model(
    "asrf",
    Asrf,
    task="segmentation",
    search_space=ModelSearchSpace(
        {
            "stages": {"low": 1, "high": 4},
            "boundary_stages": {"low": 1, "high": 4},
            "layers": {"low": 4, "high": 10},
            "maps": [16, 24, 32, 48, 64],
        },
        Sharing(),
    ),
)
