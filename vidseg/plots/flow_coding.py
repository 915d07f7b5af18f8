"""Optical flow, motion vectors and residuals as colors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.patches import Circle

from vidseg.plots.canvas import new_figure, save_figure
from vidseg.plots.palette import theme

__all__ = ["FlowPicture", "flow_colors", "flow_radius", "flow_wheel", "plot_flow", "residual_colors"]

Pixels = npt.NDArray[np.uint8]

_STEPS = (15, 6, 4, 11, 13, 6)  # colors from red to yellow, green, cyan, blue, magenta and back to red
_BEYOND = 0.75  # brightness of vectors that are longer than the radius
_MOVING = 0.25  # pixels; shorter vectors do not count for the radius
_SHARE = 98  # percent of the moving pixels that are within the radius


def _wheel() -> npt.NDArray[np.float64]:
    """Return the 55 colors of Baker et al., (55, 3), in 0..1."""
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]], np.float64)
    parts = []
    for index, steps in enumerate(_STEPS):
        first, last = corners[index], corners[(index + 1) % len(corners)]
        share = np.arange(steps)[:, None] / steps
        change = np.floor(255 * share) / 255  # the published colors have 8 bits
        parts.append(np.where(last > first, change, np.where(last < first, 1 - change, first)))
    return np.concatenate(parts)


_COLORS = _wheel()


def flow_colors(flow: npt.NDArray[np.floating], *, radius: float | None = None) -> Pixels:
    """Return flow in the colors of Baker et al., "A Database and Evaluation Methodology for Optical Flow", ICCV 2007.

    The hue is the direction (right: red, down: yellow, left: cyan, up: violet), the saturation the length. No motion is
    white.

    Args:
        flow: (2, H, W), x to the right and y down.
        radius: length with full saturation; longer vectors are darker. None: the longest one.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: the shape is another one, or the radius is not positive.
    """
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise ValueError(f"flow has the shape {flow.shape}, must be (2, H, W)")
    if radius is not None and not radius > 0:
        raise ValueError(f"radius is {radius}, must be greater than 0")
    x, y = np.nan_to_num(np.asarray(flow, np.float64), nan=0.0, posinf=1e9, neginf=-1e9)
    length = np.hypot(x, y)
    length /= (radius or float(length.max(initial=0.0))) or 1.0
    place = (np.arctan2(-y, -x) / np.pi + 1) / 2 * (len(_COLORS) - 1)
    lower = place.astype(np.int64)
    share = (place - lower)[..., None]
    color = (1 - share) * _COLORS[lower] + share * _COLORS[(lower + 1) % len(_COLORS)]
    length = length[..., None]
    color = np.where(length <= 1, 1 - length * (1 - color), color * _BEYOND)
    return np.floor(255 * color).astype(np.uint8)


def flow_wheel(side: int) -> Pixels:
    """Return the legend, a disk of all directions and lengths up to the radius on white, uint8 (side, side, 3)."""
    axis = np.linspace(-1, 1, side) * 1.02
    flow = np.stack(np.meshgrid(axis, axis))
    return np.where(np.hypot(*flow)[..., None] <= 1, flow_colors(flow, radius=1), np.uint8(255))


def flow_radius(flows: Sequence[npt.NDArray[np.floating]]) -> float:
    """Return a radius for fields that are shown together: 98 % of the moving pixels are within it; at least 1 pixel."""
    lengths = [np.hypot(*flow).ravel() for flow in flows]
    moving = np.concatenate([length[length > _MOVING] for length in lengths]) if lengths else np.empty(0)
    return max(1.0, float(np.percentile(moving, _SHARE))) if len(moving) else 1.0


def residual_colors(residual: npt.NDArray[np.number]) -> Pixels:
    """Return a residual in colors: middle gray is 0, and half of a difference is added to it.

    Args:
        residual: (H, W, 3), RGB, -255 to 255.

    Returns:
        uint8 (H, W, 3).
    """
    return (128 + np.asarray(residual, np.float64) / 2).round().clip(0, 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class FlowPicture:
    """Frame beside its motion.

    Attributes:
        caption: text above it.
        frame: uint8 (H, W, 3), or None if there is no picture of the frame.
        motion: flow or residual in colors, uint8 (H, W, 3).
    """

    caption: str
    frame: Pixels | None
    motion: Pixels


def plot_flow(
    pictures: Sequence[FlowPicture], out: str | Path, *, title: str = "", radius: float | None = None
) -> Path:
    """Plot frames above their motion, one column for each frame, and save the figure.

    Args:
        pictures: frames with their motion.
        out: output file.
        title: heading.
        radius: length of the vectors at the edge of the wheel in pixels; None: no wheel (residuals).

    Returns:
        The path of the file.

    Raises:
        ValueError: there is no frame.
    """
    if not pictures:
        raise ValueError("no frame to plot")
    height, width = pictures[0].motion.shape[:2]
    lines = 2 if any(picture.frame is not None for picture in pictures) else 1
    cell, side = 2.4, 1.3 if radius is not None else 0.0
    total = lines * cell * height / width + 0.25
    figure = new_figure(cell * max(2, len(pictures)) + side, total, gap=0.03, title=title)
    widths = [cell] * len(pictures) + ([side] if radius is not None else [])
    grid = figure.subplots(lines, len(widths), squeeze=False, gridspec_kw={"width_ratios": widths})
    for axes in grid.flat:
        axes.axis("off")
    for column, picture in enumerate(pictures):
        shown = [picture.frame, picture.motion][-lines:]
        for axes, pixels in zip(grid[:, column], shown, strict=True):
            if pixels is not None:
                axes.imshow(pixels, interpolation="nearest")
        grid[0, column].set_title(picture.caption, fontsize=8, color=theme().ink, loc="left")
    if radius is not None:
        axes = grid[-1, -1]
        wheel = axes.imshow(flow_wheel(200))
        wheel.set_clip_path(Circle((99.5, 99.5), 98, transform=axes.transData))
        axes.set_title(f"edge: {radius:.3g} pixels", fontsize=8, color=theme().muted)
    return save_figure(figure, out)
