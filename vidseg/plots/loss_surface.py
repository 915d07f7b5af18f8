"""Plot of the loss around the weights of a network."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm

from vidseg.plots.canvas import new_figure, quiet, save_figure
from vidseg.plots.palette import BLUE, ORANGE, theme

__all__ = ["plot_landscape"]


def plot_landscape(
    steps: npt.NDArray[np.float64], losses: npt.NDArray[np.float64], out: str | Path, *, title: str = ""
) -> Path:
    """Plot the loss along one direction as a line, or along two as contours, and save the figure.

    Args:
        steps: (P,) multiples of the directions.
        losses: (P,) or (P, P); values that are not finite are left out.
        out: output file.
        title: heading.

    Returns:
        The path of the file.

    Raises:
        ValueError: the shapes do not match, or no loss is finite.
    """
    if losses.shape not in {(len(steps),), (len(steps), len(steps))} or not np.isfinite(losses).any():
        raise ValueError(f"steps {steps.shape} and losses {losses.shape}, {int(np.isfinite(losses).sum())} finite")
    figure = new_figure(7.2, 5.6, title=title)
    axes = figure.add_subplot()
    quiet(axes)
    if losses.ndim == 1:
        axes.plot(steps, np.where(np.isfinite(losses), losses, np.nan), color=BLUE, linewidth=2, marker="o")
        axes.axvline(0, color=theme().muted, linewidth=0.8)
        axes.set_ylabel("loss", fontsize=9, color=theme().muted)
    else:
        axes.grid(visible=False)
        shown = np.ma.masked_invalid(losses)
        low, high = float(shown.min()), float(shown.max())
        wide = low > 0 and high > 10 * low
        levels = np.geomspace(low, high, 16) if wide else np.linspace(low, high or 1.0, 16)
        levels = np.unique(levels)
        if len(levels) > 1:
            filled = axes.contourf(
                steps, steps, shown, levels=levels, cmap="viridis_r", norm=LogNorm(low, high) if wide else None
            )
            axes.contour(steps, steps, shown, levels=levels, colors="white", linewidths=0.4)
            bar = figure.colorbar(filled, ax=axes, format="%.3g")
            bar.outline.set_visible(False)
            bar.ax.tick_params(colors=theme().muted, labelsize=8, length=0)
        axes.plot([0], [0], marker="+", color=ORANGE, markersize=12, markeredgewidth=2.5)
        axes.set_aspect("equal")
        axes.set_ylabel("second direction", fontsize=9, color=theme().muted)
    axes.set_xlabel("first direction", fontsize=9, color=theme().muted)
    return save_figure(figure, out)
