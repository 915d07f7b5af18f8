"""Contact sheets: evenly spaced frames of one or several videos with their timestamps."""

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from vidseg.frames import FrameDatabase, FrameDatabaseError
from vidseg.labels.counting import counted
from vidseg.plots.canvas import new_figure, save_figure, shortened
from vidseg.plots.palette import ORANGE, theme

__all__ = ["contact_sheet", "time_code"]

_CELL = 2.0  # width of one frame in inches
_PIXELS = 320  # maximum width of decoded frames
_LABELS = 1.9  # width of the titles of the rows in inches
_NAME = 9.5  # font size of a title
_LETTERS = 24  # of a line of a title
_SHAPE = 0.56  # height relative to the width where no video can be opened


def time_code(seconds: float) -> str:
    """Format seconds as minutes, seconds and milliseconds, with hours if needed: 0:03.120, 1:02:03.004."""
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    tail = f"{rest // 1000:02d}.{rest % 1000:03d}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def contact_sheet(
    videos: Sequence[tuple[str, FrameDatabase | FrameDatabaseError]],
    out: str | Path,
    *,
    columns: int = 6,
    rows: int | None = None,
    row_each: bool = False,
    title: str = "",
) -> Path:
    """Plot frames with their numbers and timestamps, and save the sheet.

    A single video fills a grid; several videos have one row each. Videos that were converted from damaged files, or
    that cannot be read, are marked with the damage.

    Args:
        videos: (title, database) pairs, or the error in place of a database that cannot be opened; lines of a title
            are shown one below the other.
        out: output file.
        columns: frames per row, at least 1.
        rows: rows of a single video; None: 2 to 6 rows with about one frame per second.
        row_each: a single video has one row, like several.
        title: heading of the sheet; default: the title of a single video in a grid.

    Returns:
        The path of the file.

    Raises:
        ValueError: there is no video, or `columns` or `rows` is less than 1.
    """
    if not videos or columns < 1 or (rows is not None and rows < 1):
        raise ValueError(f"{counted(len(videos), 'video')}, columns={columns}, rows={rows}: each must be at least 1")
    detail = ""
    (name, database), *more = videos
    if more or row_each or isinstance(database, FrameDatabaseError):
        strips = [_row(name, database, columns) for name, database in videos]
    else:
        lines = rows or min(6, max(2, math.ceil(_seconds(database) / columns)))
        shown = min(lines * columns, len(database))
        picks = _spread(database, shown)
        strips = [_Strip("", "", database, picks[start : start + columns]) for start in range(0, shown, columns)]
        frame_height, frame_width = database.frame_size
        title = title or " ".join(name.split())
        detail = f"{counted(len(database), 'frame')}   {frame_width} x {frame_height}   {time_code(_seconds(database))}"
        if damage := _damage(database):
            detail += f"   damaged: {damage}"
    labeled = any(strip.label for strip in strips)
    height = max((strip.shape for strip in strips), default=_SHAPE) * _CELL
    figure = new_figure(
        columns * _CELL + (_LABELS if labeled else 0), len(strips) * (height + 0.04), gap=0.02, title=title,
        detail=detail,
    )  # fmt: skip
    widths = ([_LABELS] if labeled else []) + [_CELL] * columns
    grid = figure.subplots(len(strips), len(widths), squeeze=False, width_ratios=widths)
    for line, strip in zip(grid, strips, strict=True):
        for axes in line:
            axes.axis("off")
        _draw(line[1:] if labeled else line, strip)
        if labeled:
            _label(line[0], strip)
    return save_figure(figure, out)


@dataclass(frozen=True)
class _Strip:
    """Row of frames of one video; `damage` is "" for an undamaged one."""

    label: str
    damage: str
    database: FrameDatabase | None
    picks: npt.NDArray[np.int64]

    @property
    def shape(self) -> float:
        """Height of a frame relative to its width."""
        return _SHAPE if self.database is None else self.database.frame_size[0] / self.database.frame_size[1]


def _row(name: str, database: FrameDatabase | FrameDatabaseError, columns: int) -> _Strip:
    if isinstance(database, FrameDatabaseError):
        return _Strip(name, str(database), None, np.zeros(0, np.int64))
    return _Strip(name, _damage(database), database, _spread(database, min(columns, len(database))))


def _damage(database: FrameDatabase) -> str:
    """Return the faults of the file that a video was converted from; "" without any."""
    return "; ".join(json.loads(database.meta["damage"])) if "damage" in database.meta else ""


def _draw(line: Sequence[Axes], strip: _Strip) -> None:
    database = strip.database
    if database is None:
        note = "\n".join(textwrap.wrap(f"cannot be read: {strip.damage}", 30 * len(line))[:6])
        text = line[0].text(0.03, 0.5, note, transform=line[0].transAxes, va="center", fontsize=9, color=ORANGE)
        text.set_in_layout(False)
        return
    frame_height, frame_width = database.frame_size
    scale = min(1.0, _PIXELS / frame_width)
    size = max(1, round(frame_height * scale)), max(1, round(frame_width * scale))
    times = database.timestamps
    for axes, index in zip(line, strip.picks, strict=False):
        caption = f"{index}" if times is None else f"{time_code(times[index])}  #{index}"
        try:
            picture = database.decode([index], size=size)[0].numpy()
        except FrameDatabaseError:
            axes.imshow(np.full((*size, 3), 225, np.uint8))
            axes.text(
                0.5,
                0.5,
                "cannot be decoded",
                transform=axes.transAxes,
                ha="center",
                va="center",
                fontsize=9,
                color=theme().ink,
            )
            _edge(axes)
        else:
            axes.imshow(picture, interpolation="nearest")
        _caption(axes, caption)
    if strip.damage:
        for axes in line[: len(strip.picks)]:
            _edge(axes)


def _edge(axes: Axes) -> None:
    """Draw an orange edge around a picture of a damaged video."""
    axes.add_patch(
        Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=ORANGE, linewidth=4, clip_on=True)
    )


def _label(axes: Axes, strip: _Strip) -> None:
    lines = [
        part
        for line in strip.label.split("\n")
        for part in textwrap.wrap(shortened(line, 2 * _LETTERS - 4), _LETTERS) or [""]
    ]
    text = axes.text(
        0.98,
        0.5,
        "\n".join(lines),
        transform=axes.transAxes,
        ha="right",
        va="center",
        fontsize=_NAME,
        color=theme().ink,
    )
    text.set_in_layout(False)
    width, room = text.get_window_extent().width, (_LABELS - 0.3) * axes.get_figure().dpi  # type: ignore[union-attr]
    if width > room:
        text.set_fontsize(_NAME * room / width)
    if strip.damage and strip.database is not None:
        faults = textwrap.wrap(f"damaged: {strip.damage}", _LETTERS + 6)
        note = "\n".join([*faults[:2], *(["…"] if len(faults) > 2 else [])])
        fault = axes.text(0.98, 0.02, note, transform=axes.transAxes, ha="right", va="bottom", fontsize=7, color=ORANGE)
        fault.set_in_layout(False)


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
