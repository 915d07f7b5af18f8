"""Plot of the schedule of a run: batch shapes of one epoch, and learning rate of the whole run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidseg.plots.canvas import BLUE, INK, MUTED, ORANGE, new_figure, quiet, save_figure

__all__ = ["plot_schedule"]


def plot_schedule(
    shapes: Sequence[tuple[int, int, int, int]], rates: Sequence[float], out: str | Path, *, title: str = ""
) -> Path:
    """Plot a schedule and save the figure.

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
    figure = new_figure(10, 6.4)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK, fontweight="bold")
    columns = np.array(shapes, dtype=np.float64)
    places = np.arange(len(columns))
    rows = figure.subplots(4, 1, height_ratios=(1, 1, 1, 1.6))
    names = ("clips per batch", "frames per clip", "height, pixels")
    for axes, values, name in zip(rows[:3], columns.T[:3], names, strict=True):
        quiet(axes)
        axes.set_title(f"{name}, first epoch", loc="left", fontsize=9, color=MUTED)
        axes.step(places, values, where="mid", color=BLUE, linewidth=1.5)
        axes.fill_between(places, values, step="mid", color=BLUE, alpha=0.15, linewidth=0)
        axes.set_ylim(0, 1.15 * values.max())
        axes.set_xlim(-0.5, max(0.5, len(places) - 0.5))
    quiet(rows[3])
    rows[3].set_title("learning rate, whole run", loc="left", fontsize=9, color=MUTED)
    rows[3].plot(np.arange(len(rates)), rates, color=ORANGE, linewidth=1.5)
    rows[3].set_yscale("log")
    rows[3].set_xlabel("batch", fontsize=9, color=MUTED)
    return save_figure(figure, out)
