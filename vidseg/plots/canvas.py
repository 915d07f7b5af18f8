"""Figure creation, common style and atomic saving for all plots."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vidseg.frames.whole_file import whole_file

__all__ = ["BLUE", "INK", "MUTED", "ORANGE", "SURFACE", "new_figure", "quiet", "save_figure"]

SURFACE = "#fcfcfb"
INK = "#1d1d1b"
MUTED = "#6f6e69"
GRID = "#e4e3df"
BLUE = "#2a78d6"
ORANGE = "#d9622b"


def new_figure(width: float, height: float, *, gap: float = 0.06, top: float = 0.0) -> Figure:
    """Create an empty figure.

    Args:
        width: width in inches.
        height: height in inches.
        gap: padding around the axes in inches.
        top: free space above the axes in inches.
    """
    layout = ConstrainedLayoutEngine(w_pad=gap, h_pad=gap, wspace=0, hspace=0, rect=(0, 0, 1, 1 - top / height))
    figure = Figure(figsize=(width, height), facecolor=SURFACE, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def quiet(axes: Axes) -> None:
    """Style axes with no frame, thin horizontal grid lines behind the data and muted labels."""
    axes.set_facecolor(SURFACE)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=MUTED, labelsize=9, length=0)


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
