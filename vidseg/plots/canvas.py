"""Figure creation, common style and atomic saving for all plots."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vidseg.frames.whole_file import whole_file
from vidseg.plots.palette import theme

__all__ = ["epoch_ticks", "label_ends", "new_figure", "quiet", "save_figure", "shortened"]

_TITLE, _DETAIL = 12.0, 9.5  # font sizes in points
_LINE = 1.4  # line height as a multiple of the font size
_LETTER = 0.64  # mean width of a bold letter as a multiple of the font size
_LEFT = 0.08  # inches


def new_figure(width: float, height: float, *, gap: float = 0.06, title: str = "", detail: str = "") -> Figure:
    """Create an empty figure with a heading.

    Args:
        width: width in inches.
        height: height in inches without the heading.
        gap: padding around the axes in inches.
        title: heading; broken into lines where it is wider than the figure.
        detail: smaller line or lines below the heading.
    """
    lines = [(line, _TITLE, theme().ink, "bold") for line in _wrapped(title, width, _TITLE)]
    lines += [(line, _DETAIL, theme().muted, "normal") for line in _wrapped(detail, width, _DETAIL)]
    top = sum(size * _LINE / 72 for _, size, _, _ in lines) + (0.1 if lines else 0.0)
    height += top
    layout = ConstrainedLayoutEngine(w_pad=gap, h_pad=gap, wspace=0, hspace=0, rect=(0, 0, 1, 1 - top / height))
    figure = Figure(figsize=(width, height), facecolor=theme().surface, layout=layout)
    FigureCanvasAgg(figure)
    place = 0.06
    for line, size, color, weight in lines:
        figure.text(_LEFT / width, 1 - place / height, line, va="top", fontsize=size, color=color, fontweight=weight)
        place += size * _LINE / 72
    return figure


def _wrapped(text: str, width: float, size: float) -> list[str]:
    letters = int((width - 2 * _LEFT) * 72 / (_LETTER * size))
    return textwrap.wrap(text, max(8, letters))


def shortened(text: str, letters: int) -> str:
    """Return a text of at most `letters` letters; the middle of a longer one is replaced by an ellipsis."""
    if len(text) <= letters:
        return text
    left = (letters - 1) // 2
    return f"{text[:left]}…{text[len(text) - (letters - 1 - left) :]}"


def epoch_ticks(first: float, last: float) -> list[int]:
    """Return at most 9 epochs for the ticks: the first one, and multiples of a round number."""
    sizes = (size * 10**power for power in range(9) for size in (1, 2, 5))
    step = next(size for size in sizes if (last - first) / size < 8)
    return [int(first), *range((int(first) // step + 1) * step, int(last) + 1, step)]


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, Sequence[float]]]) -> None:
    """Write the names of lines at the right edge of the axes, in the order of their ends and without overlap.

    The limits of the axes must be set before.

    Args:
        axes: axes of the lines.
        ends: x and y of the last point, name, and color of each line.
    """
    low, high = axes.get_ylim()
    height = axes.get_figure().get_figheight()  # type: ignore[union-attr]
    step = 0.2 / height * (high - low)  # height of a name on the axis
    ordered = sorted(ends, key=lambda end: -end[1])
    blocks: list[list[float]] = []  # [sum, count] of names that touch; each block is centered on the ends of its lines
    for place, (_, y, _, _) in enumerate(ordered):
        blocks.append([y + place * step, 1])
        while len(blocks) > 1 and blocks[-1][0] / blocks[-1][1] > blocks[-2][0] / blocks[-2][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    centers = [total / count for total, count in blocks for _ in range(int(count))]
    left, edge = axes.get_xlim()
    for place, ((x, y, name, color), center) in enumerate(zip(ordered, centers, strict=True)):
        level, place_x = center - place * step, edge + 0.03 * (edge - left)
        line = axes.plot([x, edge, place_x], [y, y, level], color=color, linewidth=0.9, linestyle=":", clip_on=False)
        line[0].set_in_layout(False)
        axes.annotate(
            name, (place_x, level), xytext=(3, 0), textcoords="offset points", fontsize=8, color=theme().ink,
            va="center", annotation_clip=False,
        )  # fmt: skip
    axes.set_xlim(left, edge)


def quiet(axes: Axes, *, grid: str = "y") -> None:
    """Style axes with no frame, thin grid lines behind the data and muted labels.

    Args:
        axes: axes to style.
        grid: axis whose ticks have grid lines, "x" or "y".
    """
    axes.set_facecolor(theme().surface)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme().grid)
    axes.grid(visible=False)
    axes.grid(axis=grid, color=theme().grid, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme().muted, labelsize=9, length=0)


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Save the figure in the format of the file extension, replacing an existing file atomically.

    Args:
        figure: figure to save.
        path: output file, .png, .pdf or .svg.
        dpi: resolution of .png files.

    Raises:
        ValueError: the extension is not supported.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"{path}: unsupported file extension; use .png, .pdf or .svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=dpi, facecolor=figure.get_facecolor())
    return path
