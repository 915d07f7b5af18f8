"""Contact sheets: evenly spaced frames of one or several videos with their timestamps."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from vidseg.frames import FrameDatabase
from vidseg.labels.counting import counted
from vidseg.plots.canvas import INK, MUTED, new_figure, save_figure

__all__ = ["contact_sheet", "time_code"]

_CELL = 2.0  # width of one frame in inches
_PIXELS = 320  # maximum width of decoded frames


def time_code(seconds: float) -> str:
    """Format seconds as minutes, seconds and milliseconds, with hours if needed: 0:03.120, 1:02:03.004."""
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    tail = f"{rest // 1000:02d}.{rest % 1000:03d}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def contact_sheet(
    videos: Sequence[tuple[str, FrameDatabase]], out: str | Path, *, columns: int = 6, rows: int | None = None
) -> Path:
    """Plot frames with their numbers and timestamps, and save the sheet.

    A single video fills a grid; several videos have one row each.

    Args:
        videos: (title, database) pairs.
        out: output file.
        columns: frames per row, at least 1.
        rows: rows of a single video; None: 2 to 6 rows with about one frame per second.

    Returns:
        The path of the file.

    Raises:
        ValueError: there is no video, or `columns` or `rows` is less than 1.
    """
    if not videos or columns < 1 or (rows is not None and rows < 1):
        raise ValueError(f"{counted(len(videos), 'video')}, columns={columns}, rows={rows}: each must be at least 1")
    if len(videos) == 1:
        title, database = videos[0]
        title = " ".join(title.split("\n"))  # the heading has one line
        lines = rows or min(6, max(2, math.ceil(_seconds(database) / columns)))
        shown = min(lines * columns, len(database))
        picks = _spread(database, shown)
        strips = [(database, picks[start : start + columns]) for start in range(0, shown, columns)]
        labels = [""] * len(strips)
    else:
        title = ""
        strips = [(database, _spread(database, min(columns, len(database)))) for _, database in videos]
        labels = [name for name, _ in videos]
    height = max(database.frame_size[0] / database.frame_size[1] for database, _ in strips) * _CELL
    margin = 0.3 if title else 0.0  # height of the title in inches
    total = len(strips) * (height + 0.04) + margin
    figure = new_figure(columns * _CELL + (1.4 if any(labels) else 0), total, gap=0.02, top=margin)
    if title:
        database = strips[0][0]
        frame_height, frame_width = database.frame_size
        facts = f"{counted(len(database), 'frame')}   {frame_width} x {frame_height}   {time_code(_seconds(database))}"
        middle = 1 - margin / total / 2
        figure.text(0.006, middle, title, va="center_baseline", fontsize=11, color=INK, fontweight="bold")
        figure.text(0.994, middle, facts, ha="right", va="center_baseline", fontsize=9, color=MUTED)
    grid = figure.subplots(len(strips), columns, squeeze=False)
    for line, label, (database, indices) in zip(grid, labels, strips, strict=True):
        frame_height, frame_width = database.frame_size
        scale = min(1.0, _PIXELS / frame_width)
        size = max(1, round(frame_height * scale)), max(1, round(frame_width * scale))
        pictures = database.decode(indices, size=size).numpy()
        times = database.timestamps
        for axes in line:
            axes.axis("off")
        for axes, index, picture in zip(line, indices, pictures, strict=False):
            axes.imshow(picture, interpolation="nearest")
            _caption(axes, f"{index}" if times is None else f"{time_code(times[index])}  #{index}")
        if label:
            line[0].text(
                -0.06, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=10, color=INK
            )
    return save_figure(figure, out)


def _caption(axes: Axes, text: str) -> None:
    axes.text(
        0.02,
        0.03,
        text,
        transform=axes.transAxes,
        fontsize=7.5,
        family="monospace",
        color="white",
        path_effects=[withStroke(linewidth=2, foreground="black", alpha=0.75)],
    )


def _spread(database: FrameDatabase, count: int) -> np.ndarray:
    """Return evenly spaced frame numbers from the first to the last frame."""
    return np.linspace(0, len(database) - 1, count).round().astype(np.int64)


def _seconds(database: FrameDatabase) -> float:
    times = database.timestamps
    if times is None or len(times) < 2:
        return len(database) / 25
    return float(times[-1] - times[0]) * len(times) / (len(times) - 1)
