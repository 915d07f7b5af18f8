"""Identification of the network of a state dict by its keys and shapes.

File names are not reliable: the published programs built a plain network for every name "srtg_..." and MTNet-S for
"mtnet_xs", so files with such names may contain either network.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import NamedTuple

import torch

from vidseg.models import i3d, raft, resnet3d, slowfast, timesformer, tsn, video_resnet, videomae, vjepa2, x3d
from vidseg.models._registry import create_model, list_models, model_task
from vidseg.models.mtnet import BLOCKS
from vidseg.models.srtg import DESIGNS, Design

__all__ = ["Identity", "identify", "with_names"]

Shapes = Mapping[str, tuple[int, ...]]

_LAST_WIDTH = 512


class Identity(NamedTuple):
    """Network of a state dict."""

    names: tuple[str, ...]
    """Registered names; several if these networks have the same entries."""
    width: float
    """Option `width` of the network; published weights have 1.0."""

    @property
    def ambiguous(self) -> bool:
        """Whether the entries fit networks that compute different values."""
        return len({name in video_resnet.NETWORKS for name in self.names}) > 1

    def __str__(self) -> str:
        names = " or ".join(self.names)
        return names if self.width == 1 else f"{names} of width {self.width:g}"


def identify(shapes: Shapes, *, modules: Collection[str] | None = None) -> Identity | None:
    """Return the recognition or optical-flow network that has these entries.

    Args:
        shapes: key -> shape, without prefixes of wrappers; keys of every supported publication are recognized. Entries
            outside the stages of a network are ignored.
        modules: paths of all modules, including those without entries; None if unknown. The module `pool` separates
            `r2plus1d_18` from `torchvision_r2plus1d_18`; without `modules` the result has both names.

    Returns:
        The network, or None if no recognition or optical-flow network fits.
    """
    if found := _i3d(shapes) or _tsn(shapes) or _slowfast(shapes) or _x3d(shapes) or _resnet3d(shapes):
        return found
    if found := _video(shapes, modules) or _transformer(shapes) or _flow(shapes):
        return found
    blocks = _blocks(shapes, "")
    if "stem.0.weight" not in shapes or 0 in blocks:
        return None
    if "layer1.0.conv1_1.conv_short.weight" in shapes:
        return _mtnet(shapes, blocks)
    if "layer1.0.conv1.0.weight" in shapes or "layer1.0.conv1.0.0.weight" in shapes:
        return _resnet(shapes, blocks)
    return None


def _blocks(shapes: Shapes, prefix: str) -> tuple[int, ...]:
    """Return the number of blocks of each of the four stages."""
    return tuple(_count(shapes, f"{prefix}layer{stage}.") for stage in (1, 2, 3, 4))


def _count(shapes: Shapes, prefix: str) -> int:
    """Return the number of blocks of the stage whose keys begin with `prefix`."""
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)}
    return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)


def _i3d(shapes: Shapes) -> Identity | None:
    named = {i3d.own_key(key): shape for key, shape in shapes.items()}
    first = named.get("Conv3d_1a_7x7.conv3d.weight", ())
    if len(first) != 5 or "Mixed_5c.b3b.conv3d.weight" not in named:
        return None
    names = {3: ("i3d_rgb",), 2: ("i3d_flow",)}.get(first[1])
    return None if names is None else Identity(names, first[0] / 64)


def _transformer(shapes: Shapes) -> Identity | None:
    """Return a video transformer of a published size."""
    name = next(filter(None, (module.recognize(shapes) for module in (videomae, vjepa2, timesformer))), None)
    return None if name is None else Identity((name,), 1.0)


def _flow(shapes: Shapes) -> Identity | None:
    """Return an optical-flow network."""
    for name, design in raft.NETWORKS.items():
        named = {raft.own_key(key, small=design.small): shape for key, shape in shapes.items()}
        step = "" if design.small else "1"
        if f"update_block.gru.convz{step}.weight" in named and named.get("fnet.conv2.weight", ())[:1] == (
            design.features,
        ):
            return Identity((name,), 1.0)
    names = {"netRegularization.3.netScaleX.weight": "liteflownet3", "decoder2.conv7.weight": "fastflownet"}
    found = next((name for key, name in names.items() if key in shapes), None)
    return None if found is None else Identity((found,), 1.0)


def _tsn(shapes: Shapes) -> Identity | None:
    """Return TSN or TSM; None for an image network of torchvision, whose keys have no prefix."""
    if not any(key.startswith(("backbone.layer1.", "base_model.layer1.", "base_model.features.")) for key in shapes):
        return None
    named = {tsn.own_key(key): shape for key, shape in shapes.items()}
    kind = "tsm" if any(".net." in key for key in shapes) else "tsn"
    mobile = named.get("backbone.conv2.conv.weight", ())
    if len(mobile) == 4 and "cls_head.fc_cls.weight" in named:  # streaming networks have the same trunk
        return Identity((f"{kind}_mobilenet_v2",), mobile[0] / 1280)
    found, basic = _blocks(named, "backbone."), "backbone.layer4.0.conv3.conv.weight" not in named
    depth = next((depth for depth, blocks in tsn.BLOCKS.items() if (blocks, depth < 50) == (found, basic)), None)
    inner = named.get("backbone.layer4.0.conv2.conv.weight", ())
    if depth is None or len(inner) != 4:
        return None
    return Identity((f"{kind}_r{depth}",), inner[0] / _LAST_WIDTH)


def _slowfast(shapes: Shapes) -> Identity | None:
    named = {slowfast.own_key(key): shape for key, shape in shapes.items()}
    lateral = named.get("blocks.0.multipathway_fusion.conv_fast_to_slow.weight", ())
    if len(lateral) != 5 or "blocks.4.multipathway_blocks.0.res_blocks.0.branch2.conv_c.weight" not in named:
        return None
    normed = "blocks.0.multipathway_fusion.norm.weight" in named
    kernels = [_kernels(named, f"blocks.{stage}.multipathway_blocks.0.") for stage in (1, 2, 3, 4)]
    names = [
        name
        for name, design in slowfast.NETWORKS.items()
        if kernels == [design.kernels(stage, fast=False) for stage in range(4)]
        and lateral[2] == (design.lateral if normed else design.mmaction_lateral)
    ]
    last = named["blocks.4.multipathway_blocks.0.res_blocks.0.branch2.conv_c.weight"]
    return Identity(tuple(names), last[1] / _LAST_WIDTH) if names else None


def _x3d(shapes: Shapes) -> Identity | None:
    named = {x3d.own_key(key): shape for key, shape in shapes.items()}
    last = named.get("blocks.5.pool.post_conv.weight", ())
    if len(last) != 5 or "blocks.0.conv.conv_t.weight" not in named:
        return None
    found = tuple(_count(named, f"blocks.{stage}.res_blocks.") for stage in (1, 2, 3, 4))
    names = [name for name, design in x3d.NETWORKS.items() if design.blocks == found]
    return Identity(tuple(names), last[0] / 2048) if names else None


def _resnet3d(shapes: Shapes) -> Identity | None:
    for pooled in (False, True):
        named = {resnet3d.own_key(key, pooled=pooled): shape for key, shape in shapes.items()}
        for design in resnet3d.NETWORKS.values():
            kernels = [_kernels(named, f"blocks.{stage}.") for stage in design.stages]
            if design.pooled == pooled and kernels == [design.stage_kernels(stage) for stage in range(4)]:
                alike = [name for name, other in resnet3d.NETWORKS.items() if other == design]
                last = named[f"blocks.{design.stages[3]}.res_blocks.0.branch2.conv_c.weight"]
                return Identity(tuple(alike), last[1] / _LAST_WIDTH)
    return None


def _kernels(shapes: Shapes, stage: str) -> list[int]:
    """Return the temporal kernel size of each block of a stage of a 3-D bottleneck ResNet."""
    blocks = range(_count(shapes, f"{stage}res_blocks."))
    found = [shapes.get(f"{stage}res_blocks.{block}.branch2.conv_a.weight", ()) for block in blocks]
    return [shape[2] if len(shape) == 5 else 0 for shape in found]


def _video(shapes: Shapes, modules: Collection[str] | None) -> Identity | None:
    """Return a network of torchvision or IG-65M; None for the other plain networks of `srtg`."""
    named = {video_resnet.own_key(key): shape for key, shape in shapes.items()}
    blocks = _blocks(named, "")
    outputs = named.get("layer4.0.downsample.0.weight", ())
    if "stem.0.weight" not in named or len(outputs) != 5 or any(".sar." in key for key in named):
        return None
    width = outputs[0] / _LAST_WIDTH
    kernels = [named.get(f"layer{stage}.0.conv1.0.weight", ())[2:] for stage in (1, 2)]
    if blocks == (2, 2, 2, 2) and kernels[0] == (3, 3, 3):
        return Identity(("torchvision_r3d_18" if kernels[1] == (3, 3, 3) else "torchvision_mc3_18",), width)
    middles = [named.get(f"layer2.0.conv{number}.0.0.weight", ())[:1] for number in (1, 2)]
    if "stem.3.weight" not in named or "layer1.0.conv3.0.weight" in named or () in middles:
        return None
    if blocks == (3, 4, 6, 3) and middles[0] != middles[1]:
        return Identity(("ig65m_r2plus1d_34",), width)
    if blocks != (2, 2, 2, 2) or middles[0] != middles[1]:
        return None
    if modules is None:
        return Identity(("r2plus1d_18", "torchvision_r2plus1d_18"), width)
    return Identity(("r2plus1d_18" if "pool" in modules else "torchvision_r2plus1d_18",), width)


def _mtnet(shapes: Shapes, blocks: tuple[int, ...]) -> Identity | None:
    sizes = [size for size, published in BLOCKS.items() if published == blocks]
    norm = "layer4.0.downsample.norm_{}.weight"
    if not sizes or norm.format("short") not in shapes or norm.format("long") not in shapes:
        return None
    # Networks with sub-streams have group norms, which have no running statistics.
    tail = "" if "layer1.0.conv2.norm_short.running_mean" in shapes else "_g8"
    outputs = shapes[norm.format("short")][0] + shapes[norm.format("long")][0]
    return Identity(tuple(f"mtnet_{size}{tail}" for size in sizes), outputs / _LAST_WIDTH)


def _resnet(shapes: Shapes, blocks: tuple[int, ...]) -> Identity | None:
    outputs = shapes.get("layer4.0.downsample.0.weight", (0,))[0]
    if not outputs:
        return None
    kind = "r2plus1d" if "stem.3.weight" in shapes else "r3d"
    bottleneck = "layer1.0.conv3.0.weight" in shapes
    recurrent = "srtg_" if any(".sar.lstm." in key for key in shapes) else ""
    alike = {
        name: design
        for name, design in DESIGNS.items()
        if (design.kind, design.blocks, design.bottleneck) == (kind, blocks, bottleneck)
    }
    if bottleneck:
        alike = {name: design for name, design in alike.items() if _fits(design, shapes)}
    return Identity(tuple(recurrent + name for name in alike), outputs / _LAST_WIDTH) if alike else None


def _fits(design: Design, shapes: Shapes) -> bool:
    """Return whether the inner widths of the first bottleneck of each stage are those of the design."""
    for stage in (1, 2, 3, 4):
        inner, inputs = shapes[f"layer{stage}.0.conv1.0.weight"][:2]
        outputs = shapes[f"layer{stage}.0.conv3.0.weight"][0]
        if inner != design.widen(outputs):
            return False
        if design.kind == "r2plus1d" and shapes[f"layer{stage}.0.conv2.0.0.weight"][0] != design.middle(
            inputs, outputs
        ):
            return False
    return True


def with_names(keys: Iterable[str]) -> list[str]:
    """Return the segmentation, streaming and detection networks with these keys.

    Shapes and numbers in the keys are ignored.
    """
    wanted = _patterns(keys)
    return [
        name
        for name, (patterns, unused) in _registered_patterns().items()
        if patterns == {pattern for pattern in wanted if not pattern.startswith(unused)}
    ]


def _patterns(keys: Iterable[str]) -> frozenset[str]:
    return frozenset(re.sub(r"\d+", "#", key) for key in keys if not key.endswith("num_batches_tracked"))


@cache
def _registered_patterns() -> dict[str, tuple[frozenset[str], tuple[str, ...]]]:
    """Return the patterns of each network's keys, and the prefixes of entries of files that it does not use."""
    names = [name for name in list_models() if model_task(name) in ("segmentation", "streaming", "detection")]
    found = {}
    for name in names:
        with torch.device("meta"):
            model = create_model(name, num_classes=2)
        found[name] = _patterns(model.state_dict()), tuple(getattr(model, "other_heads", ()))
    return found
