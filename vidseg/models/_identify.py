"""Which network a state dict belongs to, by its keys and shapes alone.

File names cannot be trusted: the published look-up built a plain network for every name "srtg_...", and MTNet-S for
"mtnet_xs", so files under such names may hold either.
"""

from collections.abc import Mapping
from typing import NamedTuple

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
    """Name the plain, SRTG or MTNet network that has these entries.

    Args:
        shapes: key -> shape, without prefixes; other entries than those of the network's stages do not matter.

    Returns:
        None for any other network.
    """
    blocks = tuple(_count(shapes, f"layer{stage}.") for stage in (1, 2, 3, 4))
    if "stem.0.weight" not in shapes or 0 in blocks:
        return None
    if "layer1.0.conv1_1.conv_short.weight" in shapes:
        return _mtnet(shapes, blocks)
    if "layer1.0.conv1.0.weight" in shapes or "layer1.0.conv1.0.0.weight" in shapes:
        return _resnet(shapes, blocks)
    return None


def _count(shapes: Shapes, prefix: str) -> int:
    """Blocks of the stage whose keys begin with `prefix`."""
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)}
    return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)


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
