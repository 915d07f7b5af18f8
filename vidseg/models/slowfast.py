"""SlowFast: two pathways with lateral connections, one for few frames and one with few channels for all frames.

"SlowFast Networks for Video Recognition", ICCV 2019, arXiv 1812.03982. The network takes the clips of the fast pathway
and selects the frames of the slow pathway itself. Parameter names are those of PyTorchVideo; `load_weights` also reads
files of PySlowFast, and those of mmaction2 into a network with port="mmaction2".

Shapes: B clips, C channels, T frames of the fast pathway, H, W, K classes.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vidseg.models._input_spec import InputSpec
from vidseg.models._registry import register_model
from vidseg.models._residual3d import DEPTHS, ResStage, Stem, check_clips, initialize, pysf_block_key, window_mean
from vidseg.models._width import scaled
from vidseg.models.resnet3d import mmaction_block_key, published_input

__all__ = ["NETWORKS", "Port", "SlowFast", "SlowFastDesign", "own_key", "slow_frames"]

Port = Literal["pytorchvideo", "mmaction2"]
"""Variant of the network. "pytorchvideo": norm and ReLU after lateral convolutions, slow frames from the first to the
last frame. "mmaction2": lateral convolutions alone, every alpha-th frame, one pooling window for every size."""

_WINDOW = 7  # side of the maps of a published training clip, 224 / 32
_FAST_CHANNELS = 8  # beta: the slow pathway has this many times the channels of the fast one


@dataclass(frozen=True)
class SlowFastDesign:
    """Architecture of a registered network.

    Attributes:
        blocks: number of residual blocks of each stage.
        alpha: ratio of the numbers of frames of the fast and the slow pathway.
        lateral: temporal kernel size of the lateral convolutions.
        temporal_blocks: number of blocks of the third stage with temporal convolutions; None: all.
        mmaction_lateral: temporal kernel size of the lateral convolutions of mmaction2's network.
    """

    blocks: tuple[int, int, int, int]
    alpha: int
    lateral: int
    temporal_blocks: int | None = None
    mmaction_lateral: int = 7

    def kernels(self, stage: int, *, fast: bool) -> list[int]:
        """Return the temporal kernel size of each block of a stage, counted from 0."""
        count = self.blocks[stage]
        temporal = count if fast or stage > 1 else 0
        if stage == 2 and self.temporal_blocks is not None:
            temporal = min(count, self.temporal_blocks)
        return [3] * temporal + [1] * (count - temporal)


NETWORKS = {
    "slowfast_r50_4x16": SlowFastDesign(DEPTHS[50], alpha=8, lateral=5, mmaction_lateral=5),
    "slowfast_r50_8x8": SlowFastDesign(DEPTHS[50], alpha=4, lateral=7),
    "slowfast_r101_8x8": SlowFastDesign(DEPTHS[101], alpha=4, lateral=5),
    "slowfast_r101_16x8": SlowFastDesign(DEPTHS[101], alpha=4, lateral=5, temporal_blocks=6),
}
"""Networks of this module by name: slow frames x their interval in frames of the video."""


def own_key(key: str) -> str:
    """Return the key of PyTorchVideo for a key of PySlowFast or mmaction2; other keys are returned unchanged."""
    if found := re.fullmatch(r"s([2-5])\.pathway([01])_res(\d+)\.(.+)", key):
        stage, path, block, entry = int(found[1]) - 1, found[2], found[3], pysf_block_key(found[4])
        return f"blocks.{stage}.multipathway_blocks.{path}.res_blocks.{block}.{entry}"
    if found := re.fullmatch(r"backbone\.(slow|fast)_path\.layer([1-4])\.(\d+)\.(.+)", key):
        path = "01"[found[1] == "fast"]
        return f"blocks.{found[2]}.multipathway_blocks.{path}.res_blocks.{found[3]}.{mmaction_block_key(found[4])}"
    if found := re.fullmatch(r"(?:s1\.pathway([01])_stem|backbone\.(slow|fast)_path\.conv1)\.(conv|bn)\.(\w+)", key):
        path = found[1] or "01"[found[2] == "fast"]
        return f"blocks.0.multipathway_blocks.{path}.{'conv' if found[3] == 'conv' else 'norm'}.{found[4]}"
    if found := re.fullmatch(r"s([1-4])_fuse\.(conv_f2s|bn)\.(\w+)", key):
        layer = "conv_fast_to_slow" if found[2] == "conv_f2s" else "norm"
        return f"blocks.{int(found[1]) - 1}.multipathway_fusion.{layer}.{found[3]}"
    if found := re.fullmatch(r"backbone\.slow_path\.(conv1|layer([1-3]))_lateral\.conv\.(\w+)", key):
        return f"blocks.{found[2] or 0}.multipathway_fusion.conv_fast_to_slow.{found[3]}"
    for head in ("head.projection.", "cls_head.fc_cls."):
        if key.startswith(head):
            return f"blocks.6.proj.{key.removeprefix(head)}"
    return key


def slow_frames(frames: int, alpha: int, device: torch.device) -> Tensor:
    """Return the numbers of the frames of the slow pathway: evenly spaced from the first to the last, rounded down.

    For 32 frames and alpha=8 these are 0, 10, 20 and 31, as published, not 0, 8, 16 and 24.

    Args:
        frames: T.
        alpha: number of fast frames for each slow frame.
        device: device of the result.

    Returns:
        int64, T / alpha, rounded up.
    """
    count = (frames - 1) // alpha + 1  # as many as a convolution with this stride has
    # Exact integers. The published code rounds a linspace of floats down, which is the same for 2 to 32 slow frames.
    return torch.arange(count, device=device) * (frames - 1) // max(count - 1, 1)


class _Lateral(nn.Sequential):
    """Convolution from the fast to the slow pathway, with the temporal stride alpha; twice the channels."""

    def __init__(self, channels: int, kernel: int, alpha: int, *, norm: bool):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv_fast_to_slow"] = nn.Conv3d(
            channels, 2 * channels, (kernel, 1, 1), (alpha, 1, 1), (kernel // 2, 0, 0), bias=False
        )
        if norm:
            layers["norm"] = nn.BatchNorm3d(2 * channels)
            layers["relu"] = nn.ReLU(inplace=True)
        super().__init__(layers)


class _Pathways(nn.Module):
    """A stage of both pathways, and the lateral connection behind it."""

    def __init__(self, slow: nn.Module, fast: nn.Module, lateral: nn.Module | None):
        super().__init__()
        self.multipathway_blocks = nn.ModuleList([slow, fast])
        self.multipathway_fusion = lateral

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        slow, fast = self.multipathway_blocks[0](slow), self.multipathway_blocks[1](fast)
        if self.multipathway_fusion is not None:
            slow = torch.cat([slow, self.multipathway_fusion(fast)], dim=1)
        return slow, fast


class SlowFast(nn.Module):
    """SlowFast; 34 480 216 parameters for 4x16 and 34 566 488 for 8x8, with a depth of 50 and 400 classes.

    Args:
        design: see `NETWORKS`.
        num_classes: K.
        port: variant of the network, see `Port`.
        dropout: dropout probability before the classifier.
        zero_init: set the scale of the last norm of each block to 0 at initialization, as published.
        width: multiplier of the widths of the slow pathway, rounded to multiples of 8; the fast pathway has 1/8 of
            them. Published: 1.0.
        in_channels: channels of the clips; 3 for RGB, 2 for each flow of a stack.

    Raises:
        ValueError: `port` is unknown, or width is not positive.
    """

    classifier_name = "blocks.6.proj"
    own_key = staticmethod(own_key)

    def __init__(
        self,
        design: SlowFastDesign,
        *,
        num_classes: int,
        port: Port = "pytorchvideo",
        dropout: float = 0.5,
        zero_init: bool = True,
        width: float = 1.0,
        in_channels: int = 3,
    ):
        super().__init__()
        if port not in get_args(Port):
            raise ValueError(f"port={port!r} is not one of {', '.join(get_args(Port))}")
        widths = [scaled(inner, width) for inner in (64, 128, 256, 512)]
        self.design, self.port, self.num_classes = design, port, num_classes
        kernel = design.lateral if port == "pytorchvideo" else design.mmaction_lateral
        lateral = partial(_Lateral, kernel=kernel, alpha=design.alpha, norm=port == "pytorchvideo")
        slow, fast = widths[0], widths[0] // _FAST_CHANNELS
        stem = partial(Stem, in_channels=in_channels)
        self.blocks = nn.ModuleList([_Pathways(stem(slow, 1), stem(fast, 5), lateral(fast))])
        for stage, inner in enumerate(widths):
            thin, stride = inner // _FAST_CHANNELS, 1 if stage == 0 else 2
            self.blocks.append(
                _Pathways(
                    ResStage(slow + 2 * fast, inner, design.kernels(stage, fast=False), stride=stride),
                    ResStage(fast, thin, design.kernels(stage, fast=True), stride=stride),
                    lateral(4 * thin) if stage < 3 else None,
                )
            )
            slow, fast = 4 * inner, 4 * thin
        self.num_features = slow + fast
        classifier = nn.Linear(self.num_features, num_classes)
        self.blocks.append(nn.Identity())  # block 5 of PyTorchVideo, the pooling, has no entries
        self.blocks.append(nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), proj=classifier)))
        initialize(self, classifier, zero_init=zero_init)

    def differences(self, entries: Mapping[str, Tensor]) -> list[str]:
        """Return a note if a file belongs to the other port.

        Args:
            entries: entries of the file.
        """
        named = {own_key(key) for key in entries}
        if "blocks.0.multipathway_fusion.conv_fast_to_slow.weight" not in named:
            return []
        port = "pytorchvideo" if "blocks.0.multipathway_fusion.norm.weight" in named else "mmaction2"
        if port == self.port:
            return []
        return [f"the weights are those of the network with port={port!r}, the model has port={self.port!r}"]

    def published_input(self, entries: Mapping[str, Tensor], spec: InputSpec) -> InputSpec:
        """Return the input spec of a weights file, see `published_input` of `resnet3d`."""
        return published_input(entries, spec)

    def forward_pathways(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the feature maps of the last stage of both pathways.

        Args:
            slow: (B, C, T / alpha, H, W), T / alpha rounded up.
            fast: (B, C, T, H, W).

        Returns:
            (B, 2048, T / alpha, H / 32, W / 32) and (B, 256, T, H / 32, W / 32), sizes rounded up.
        """
        for block in self.blocks[:5]:
            slow, fast = block(slow, fast)
        return slow, fast

    def pathways(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frames of both pathways of clips (B, C, T, H, W)."""
        if self.port == "mmaction2":
            return clips[:, :, :: self.design.alpha], clips
        return clips.index_select(2, slow_frames(clips.shape[2], self.design.alpha, clips.device)), clips

    def forward_features(self, clips: Tensor) -> Tensor:
        """Compute the feature maps of the last stage, those of the fast pathway averaged over alpha frames.

        Args:
            clips: (B, C, T, H, W), normalized.

        Returns:
            (B, 2304, T / alpha, H / 32, W / 32), sizes rounded up.

        Raises:
            ValueError: the clips have fewer than alpha frames of 32x32 pixels.
        """
        check_clips(self, clips, frames=self.design.alpha)
        slow, fast = self.forward_pathways(*self.pathways(clips))
        alpha = self.design.alpha
        fast = nn.functional.avg_pool3d(fast, (alpha, 1, 1), ceil_mode=True)
        return torch.cat([slow, fast], dim=1)

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K) of normalized clips (B, C, T, H, W); errors as in `forward_features`.

        Features are averaged over time and over windows of 7x7 positions, as published for clips of 224 pixels; over
        all positions with port="mmaction2".
        """
        check_clips(self, clips, frames=self.design.alpha)
        maps = self.forward_pathways(*self.pathways(clips))
        if self.port == "mmaction2":
            pooled = [part.mean(dim=(2, 3, 4)) for part in maps]
        else:
            pooled = [window_mean(part, _WINDOW).mean(dim=(2, 3)) for part in maps]
        return self.blocks[6](torch.cat(pooled, dim=1))


_INPUT = InputSpec(frames=32, interval=2, size=224, resize=256, mean=(0.45,) * 3, std=(0.225,) * 3)

for _name, _design in NETWORKS.items():
    _frames = 64 if _name.endswith("16x8") else 32
    register_model(_name, partial(SlowFast, _design), input_spec=replace(_INPUT, frames=_frames))
