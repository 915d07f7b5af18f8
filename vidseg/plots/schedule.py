"""Plot of the schedule of a run: batch shapes of one epoch, and learning rate of the whole run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter

from vidseg.plots.canvas import new_figure, quiet, save_figure
from vidseg.plots.palette import BLUE, ORANGE, theme

__all__ = ["plot_schedule"]


def plot_schedule(
    shapes: Sequence[tuple[int, int, int, int]], rates: Sequence[float], out: str | Path, *, title: str = ""
) -> Path:
    """Plot a schedule and save the figure.

    What is the same in all batches is written above the panels instead of plotted.

    Args:
        shapes: (B, T, H, W) of the batches of one epoch.
        rates: learning rate of every batch of the run.
        out: output file.
        title: heading, such as the name of the run.

    Returns:
        The path of the file.

    Raises:
        ValueError: `shapes` or `rates` is empty.
    """
    if not len(shapes) or not len(rates):
        raise ValueError("the schedule is empty; shapes and rates must have at least one entry")
    columns = np.array(shapes, dtype=np.float64).T[:3]
    places = np.arange(len(shapes))
    names = ("clips per batch", "frames per clip", "height, pixels")
    varying = [(values, name) for values, name in zip(columns, names, strict=True) if np.ptp(values)]
    constant = [f"{name}: {values[0]:g}" for values, name in zip(columns, names, strict=True) if not np.ptp(values)]
    learning_rates = np.asarray(rates, np.float64)
    if not np.ptp(learning_rates):
        constant.append(f"learning rate: {learning_rates[0]:g}")
    rated = bool(np.ptp(learning_rates)) or not varying  # a picture has at least one panel
    heights = [1.0] * len(varying) + [1.6] * rated
    detail = "constant: " + "   ".join(constant) if constant else ""
    figure = new_figure(10, 1.3 * sum(heights) + 0.12, title=title, detail=detail)
    rows = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (values, name) in zip(rows, varying, strict=False):
        quiet(axes)
        axes.set_title(f"{name}, by batch of the first epoch", loc="left", fontsize=9, color=theme().muted)
        axes.step(places, values, where="mid", color=BLUE, linewidth=1.5)
        axes.fill_between(places, values, step="mid", color=BLUE, alpha=0.15, linewidth=0)
        axes.set_ylim(0, 1.15 * values.max())
        axes.set_xlim(-0.5, max(0.5, len(places) - 0.5))
    if rated:
        _rates(rows[-1], learning_rates)
    rows[-1].set_xlabel("batch", fontsize=9, color=theme().muted)
    return save_figure(figure, out)


def _rates(axes: Axes, rates: npt.NDArray[np.float64]) -> None:
    quiet(axes)
    axes.set_title("learning rate, by batch of the whole run", loc="left", fontsize=9, color=theme().muted)
    axes.plot(np.arange(len(rates)), rates, color=ORANGE, linewidth=1.5)
    if rates.min() > 0:
        axes.set_yscale("log")
        for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatter(_PlainFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    axes.set_xlim(0, max(1, len(rates) - 1))


class _PlainFormatter(LogFormatter):
    """Writes 0.01 where matplotlib writes 1e-02."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""
