"""Plot of the gain of every class between two runs."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vidseg.plots.canvas import new_figure, quiet, save_figure, shortened
from vidseg.plots.palette import BLUE, ORANGE, theme

__all__ = ["plot_class_gains"]

_CLASSES = 60  # maximum number of classes shown
_LETTERS = 32  # of a class name


def plot_class_gains(gains: Mapping[str, float], out: str | Path, *, title: str = "", unit: str = "gain") -> Path:
    """Plot one bar per class, the highest gain first, and save the figure.

    Args:
        gains: gain by class name; with more than 60 classes the 30 highest and the 30 lowest are shown.
        out: output file.
        title: heading.
        unit: name of the axis.

    Returns:
        The path of the file.

    Raises:
        ValueError: there is no class.
    """
    if not gains:
        raise ValueError("no class has a score in both runs")
    ordered = sorted(gains.items(), key=lambda pair: -pair[1])
    half, total, detail = _CLASSES // 2, len(ordered), ""
    if total > _CLASSES:
        ordered = ordered[:half] + ordered[-half:]
        detail = f"{half} highest and {half} lowest of {total} classes"
    values = np.array([gain for _, gain in ordered])
    figure = new_figure(8, 0.9 + 0.22 * len(ordered), title=title, detail=detail)
    axes = figure.add_subplot()
    quiet(axes, grid="x")
    colors = [BLUE if value >= 0 else ORANGE for value in values]
    axes.barh(range(len(values)), values, height=0.7, color=colors)
    axes.axvline(0, color=theme().muted, linewidth=0.8)
    axes.set_yticks(
        range(len(values)), [shortened(name, _LETTERS) for name, _ in ordered], fontsize=8, color=theme().ink
    )
    axes.set_ylim(len(values) - 0.4, -0.6)
    limit = 1.05 * max(1e-9, float(np.abs(values).max()))
    axes.set_xlim(-limit, limit)
    axes.set_xlabel(unit, fontsize=9, color=theme().muted)
    return save_figure(figure, out)
