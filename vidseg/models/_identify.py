"""Which network a state dict belongs to, by its keys and shapes alone.

File names cannot be trusted: the published look-up built a plain network for every name "srtg_...", and MTNet-S for
"mtnet_xs", so files under such names may hold either.
"""

from collections.abc import Mapping
from typing import NamedTuple

from vidseg.models import i3d, tsn
from vidseg.models.mtnet import BLOCKS
from vidseg.models.srtg import DESIGNS, Design

__all__ = ["Identity", "identify"]

Shapes = Mapping[str, tuple[int, ...]]

_LAST_WIDTH = 512


class Identity(NamedTuple):
    """What a state dict belongs to."""

    names: tuple[str, ...]
    """Names of the registry; several where they stand for the same weights."""
    width: float
    """The option `width`: 1.0 as published."""

    def __str__(self) -> str:
        names = " or ".join(self.names)
        return names if self.width == 1 else f"{names} of width {self.width:g}"


def identify(shapes: Shapes) -> Identity | None:
    """Name the plain, SRTG, MTNet, TSN, TSM or I3D network that has these entries.

    Args:
        shapes: key -> shape, without prefixes, in any publication's names; other entries than those of the network's
            stages do not matter.

    Returns:
        None for any other network.
    """
    if found := _i3d(shapes) or _tsn(shapes):
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
    """Blocks of the four stages."""
    return tuple(_count(shapes, f"{prefix}layer{stage}.") for stage in (1, 2, 3, 4))


def _count(shapes: Shapes, prefix: str) -> int:
    """Blocks of the stage whose keys begin with `prefix`."""
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)}
    return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)


def _i3d(shapes: Shapes) -> Identity | None:
    named = {i3d.own_key(key): shape for key, shape in shapes.items()}
    first = named.get("Conv3d_1a_7x7.conv3d.weight", ())
    if len(first) != 5 or "Mixed_5c.b3b.conv3d.weight" not in named:
        return None
    names = {3: ("i3d_rgb",), 2: ("i3d_flow",)}.get(first[1])
    return None if names is None else Identity(names, first[0] / 64)


def _tsn(shapes: Shapes) -> Identity | None:
    """Not a torchvision ResNet, which is neither of the two."""
    if not any(key.startswith(("backbone.layer1.", "base_model.layer1.")) for key in shapes):
        return None
    named = {tsn.own_key(key): shape for key, shape in shapes.items()}
    found = _blocks(named, "backbone.")
    depth = next((depth for depth, blocks in tsn.BLOCKS.items() if blocks == found), None)
    last = named.get("backbone.layer4.0.conv3.conv.weight", ())
    if depth is None or len(last) != 4:
        return None
    kind = "tsm" if any(".net." in key for key in shapes) else "tsn"
    return Identity((f"{kind}_r{depth}",), last[1] / _LAST_WIDTH)


def _mtnet(shapes: Shapes, blocks: tuple[int, ...]) -> Identity | None:
    sizes = [size for size, published in BLOCKS.items() if published == blocks]
    norm = "layer4.0.downsample.norm_{}.weight"
    if not sizes or norm.format("short") not in shapes or norm.format("long") not in shapes:
        return None
    # Sub-streams have group norms, which keep no statistics.
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
    """Whether the inner widths of each stage's first bottleneck are the design's."""
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
