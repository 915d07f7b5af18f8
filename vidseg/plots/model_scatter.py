"""Picture of a comparison of models: score against latency, with the size of the model as area."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import FuncFormatter

from vidseg.plots.canvas import new_figure, quiet, save_figure
from vidseg.plots.palette import BLUE, theme

__all__ = ["plot_models"]

_AREA = 900.0  # of the largest model, in points²
_LEAST = 25.0


def plot_models(
    names: Sequence[str],
    latencies: Sequence[float],
    scores: Sequence[float],
    sizes: Sequence[float],
    out: str | Path,
    *,
    score: str,
    latency: str = "latency, ms",
    title: str = "",
) -> Path:
    """Draw one point for each model, and save the figure.

    Args:
        names: of the models.
        latencies: milliseconds, drawn to a logarithmic scale.
        scores: score of each model.
        sizes: bytes of each model, the area of its point.
        out: file to write.
        score: name of the score.
        latency: name of the latency.
        title: heading.

    Returns:
        The path of the file.
    """
    figure = new_figure(8, 5, title=title)
    axes = figure.subplots()
    quiet(axes)
    largest = max(sizes)
    areas = [max(_LEAST, _AREA * size / largest) for size in sizes]
    axes.scatter(latencies, scores, s=areas, color=BLUE, alpha=0.45, zorder=3)
    for name, x, y, size, area in zip(names, latencies, scores, sizes, areas, strict=True):
        axes.annotate(
            f"{name}, {size / 1e6:.1f} MB",
            (x, y),
            xytext=(0, math.sqrt(area) / 2 + 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=theme().ink,
        )
    axes.set_xscale("log")
    for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        ticks(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(0.25)
    axes.set_xlabel(latency, color=theme().muted)
    axes.set_ylabel(score, color=theme().muted)
    return save_figure(figure, out)
