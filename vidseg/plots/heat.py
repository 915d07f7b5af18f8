"""Heat maps over video frames."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from vidseg.plots.canvas import new_figure, save_figure
from vidseg.plots.palette import theme

__all__ = ["overlay_heat", "plot_heat"]

_COLORS = colormaps["inferno"]
_STRENGTH = 0.6  # opacity of the highest heat


def overlay_heat(
    pixels: npt.NDArray[np.uint8],
    heat: npt.NDArray[np.float32],
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
) -> npt.NDArray[np.uint8]:
    """Draw heat over a frame; the higher the heat, the more opaque its color.

    Args:
        pixels: (H, W, 3) frame.
        heat: (h, w) from 0 to 1.
        region: part of the frame that the heat covers, (left, top, right, bottom) as fractions; the rest of the frame
            is darkened.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = pixels.shape[:2]
    left, right = round(region[0] * width), round(region[2] * width)
    top, bottom = round(region[1] * height), round(region[3] * height)
    size = (max(1, right - left), max(1, bottom - top))
    large = np.asarray(Image.fromarray(np.asarray(heat, np.float32)).resize(size, Image.Resampling.BILINEAR))
    spread = np.zeros((height, width), np.float32)
    inside = np.zeros((height, width), bool)
    rows, columns = slice(max(0, top), min(height, bottom)), slice(max(0, left), min(width, right))
    spread[rows, columns] = large[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    inside[rows, columns] = True
    spread = spread.clip(0, 1)
    colors = np.asarray(_COLORS(spread), np.float32)[..., :3] * 255
    opacity = _STRENGTH * spread[..., None]
    base = np.where(inside[..., None], pixels, pixels // 2).astype(np.float32)
    return (base * (1 - opacity) + colors * opacity).round().astype(np.uint8)


def plot_heat(
    frames: Sequence[tuple[str, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]], out: str | Path, *, title: str = ""
) -> Path:
    """Plot frames with and without heat, one column per frame, and save the figure.

    Args:
        frames: caption, frame (H, W, 3) and frame with heat (H, W, 3); all of one size.
        out: output file.
        title: heading.

    Returns:
        The path of the file.

    Raises:
        ValueError: there is no frame.
    """
    if not frames:
        raise ValueError("no frame to plot")
    height, width = frames[0][1].shape[:2]
    cell = 2.4
    lines = max(caption.count("\n") + 1 for caption, _, _ in frames)
    total = 2 * cell * height / width + 0.2 * lines + 0.2
    figure = new_figure(cell * max(2, len(frames)), total, gap=0.03, title=title)
    grid = figure.subplots(2, len(frames), squeeze=False)
    for column, (caption, plain, heated) in enumerate(frames):
        for axes, picture in zip(grid[:, column], (plain, heated), strict=True):
            axes.axis("off")
            axes.imshow(picture, interpolation="nearest")
        grid[0, column].set_title(caption, fontsize=8, color=theme().ink, loc="left")
    return save_figure(figure, out)
