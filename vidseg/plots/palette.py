"""Colors of all pictures and pages: surface and text, light and dark, series and classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb

__all__ = [
    "BLUE",
    "CLASSES",
    "DARK",
    "GRAY",
    "GREEN",
    "LIGHT",
    "ORANGE",
    "Palette",
    "Theme",
    "ThemeName",
    "class_colors",
    "readable_on",
    "theme",
    "use_theme",
]

Palette = Literal["bright", "voc"]
ThemeName = Literal["light", "dark"]


@dataclass(frozen=True)
class Theme:
    """Colors that differ between light and dark pictures; series and classes have the same colors in both.

    Attributes:
        surface: background.
        ink: text.
        muted: less important text, and lines.
        grid: grid lines.
        mark: marks of errors between colored bars.
        scale: colors from the lowest to the highest value of a map, all of one hue, the lowest being the surface.
        shades: part of the color map viridis that is visible on the surface.
    """

    surface: str
    ink: str
    muted: str
    grid: str
    mark: str
    scale: tuple[str, ...]
    shades: tuple[float, float]


BLUE = "#2a78d6"
ORANGE = "#d9622b"
GREEN = "#1fa187"
GRAY = "#bcbbb6"
"""Background classes, and what has no class."""

LIGHT = Theme(
    surface="#fcfcfb",
    ink="#1d1d1b",
    muted="#6f6e69",
    grid="#e4e3df",
    mark="#191940",  # nearly black, different from all class colors
    scale=("#fcfcfb", "#a9cbf2", BLUE, "#12386b"),
    shades=(0.05, 0.85),
)
DARK = Theme(
    surface="#17181b",
    ink="#ecebe6",
    muted="#a5a49d",
    grid="#3a3b3f",
    mark="#ecebe6",
    scale=("#17181b", "#12386b", BLUE, "#a9cbf2"),
    shades=(0.35, 1.0),
)
_THEMES: dict[ThemeName, Theme] = {"light": LIGHT, "dark": DARK}
_chosen: ContextVar[Theme] = ContextVar("theme", default=LIGHT)


def theme() -> Theme:
    """Return the theme of the pictures that are drawn now: `LIGHT`, or that of `use_theme`."""
    return _chosen.get()


@contextmanager
def use_theme(name: ThemeName) -> Iterator[None]:
    """Draw the pictures inside the `with` statement in a theme.

    Args:
        name: "light" or "dark".

    Raises:
        ValueError: there is no such theme.
    """
    if name not in _THEMES:
        raise ValueError(f"theme={name!r}: expected one of {', '.join(_THEMES)}")
    token = _chosen.set(_THEMES[name])
    try:
        yield
    finally:
        _chosen.reset(token)


# Found by search: after BLUE, ORANGE and GREEN each color is the one that is farthest from all before, and from the
# light surface and GRAY, in CIELAB, for the least favorable of normal vision, protanopia, deuteranopia and tritanopia
# (Machado et al., IEEE TVCG 15(6), 2009, Table 1, severity 1). The first 12 differ by at least 17, the first 20 by at
# least 14.
CLASSES = (
    BLUE, ORANGE, GREEN, "#783c2d", "#ffc32d", "#695a87", "#3cf087", "#a5d2ff", "#962d00", "#781e96", "#78a569",
    "#c378c3", "#a5a5ff", "#00695a", "#e18700", "#87f069", "#c3e1b4", "#b45a3c", "#004bc3", "#f096d2", "#c3005a",
    "#69c34b", "#ffc3e1", "#874ba5", "#8778ff", "#5ad287", "#871e69", "#ff3c87", "#e13ca5", "#b44b1e", "#7896ff",
    "#87c369", "#7878a5", "#c30087", "#5a4bb4", "#008769", "#5a874b", "#5aa53c", "#a569c3", "#96b42d", "#d296e1",
    "#b4d24b", "#87c3ff", "#a587e1", "#69f0f0", "#f078b4", "#c37800", "#69b4c3",
)  # fmt: skip
"""Colors of the first 48 classes."""
_LIGHTER = 0.45  # how much lighter the colors of each further 48 classes are


def class_colors(count: int, palette: Palette = "bright", *, background: Sequence[int] = ()) -> npt.NDArray[np.float64]:
    """Return the RGB colors of the classes, (K, 3) in 0..1.

    Args:
        count: number of classes K.
        palette: "bright": colors that people with a color vision deficiency can tell apart, at least the first 20; of
            more than 48 classes, the further ones have lighter shades of the same colors. "voc": colors of PASCAL VOC,
            with black for class 0; the bits of the class number, three at a time from the lowest, are the high bits of
            red, green and blue.
        background: numbers of background classes, which are gray in the palette "bright".
    """
    if palette == "voc":
        colors = np.zeros((count, 3), np.uint8)
        for number in range(count):
            rest = number
            for bit in range(7, -1, -1):
                for channel in range(3):
                    colors[number, channel] |= (rest >> channel & 1) << bit
                rest >>= 3
        return colors / 255
    first = np.array([to_rgb(color) for color in CLASSES])
    numbers = np.arange(count)
    strength = (1 - _LIGHTER) ** (numbers // len(first))
    bright = 1 - (1 - first[numbers % len(first)]) * strength[:, None]
    for number in background:
        bright[number] = to_rgb(GRAY)
    return bright


def readable_on(color: Sequence[float]) -> str:
    """Return white or the ink of `LIGHT`, whichever has the higher contrast on a color (WCAG 2.2, contrast ratio).

    Args:
        color: red, green and blue in 0..1.
    """
    white, ink = (_contrast(to_rgb(text), color) for text in ("white", LIGHT.ink))
    return "white" if white > ink else LIGHT.ink


def _contrast(one: Sequence[float], other: Sequence[float]) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: Sequence[float]) -> float:
    values = np.asarray(color[:3], np.float64)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
