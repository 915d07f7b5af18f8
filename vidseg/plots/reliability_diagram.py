"""Reliability diagram: accuracy by confidence, and the number of predictions of each bin."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.ticker import PercentFormatter

from vidseg.metrics import Reliability
from vidseg.plots.canvas import new_figure, quiet, save_figure
from vidseg.plots.palette import BLUE, ORANGE, theme

__all__ = ["plot_reliability"]


def plot_reliability(found: Mapping[str, Reliability], out: str | Path, *, title: str = "") -> Path:
    """Plot one reliability diagram per entry, side by side, and save the figure.

    Bars show the accuracy of each bin, the orange lines its mean confidence; a calibrated model has both at the same
    height. The panel below shows the share of the predictions.

    Args:
        found: results of `vidseg.metrics.reliability` by name, such as before and after temperature scaling.
        out: output file.
        title: heading.

    Returns:
        The path of the file.

    Raises:
        ValueError: there is no result.
    """
    if not found:
        raise ValueError("no reliability to plot; pass at least one result")
    figure = new_figure(4.6 * len(found) + 0.6, 5.0, title=title)
    upper, lower = figure.subplots(2, len(found), squeeze=False, sharex=True, height_ratios=(3, 1))
    for axes, below, (name, one) in zip(upper, lower, found.items(), strict=True):
        edges = one.edges.numpy()
        width, middle = np.diff(edges), (edges[1:] + edges[:-1]) / 2
        used = one.counts.numpy() > 0
        quiet(axes)
        axes.plot([0, 1], [0, 1], color=theme().muted, linewidth=1, linestyle=(0, (4, 3)))
        axes.bar(middle[used], one.accuracy.numpy()[used], width=0.92 * width[used], color=BLUE, label="accuracy")
        left, right = middle[used] - 0.46 * width[used], middle[used] + 0.46 * width[used]
        levels = one.confidence.numpy()[used]
        axes.hlines(levels, left, right, color=ORANGE, linewidth=2.5, label="mean confidence")
        axes.set_ylim(0, 1.02)
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_title(
            f"{name}: ECE {one.ece:.1%}, largest gap {one.mce:.1%}", loc="left", fontsize=10, color=theme().muted
        )
        axes.legend(frameon=False, fontsize=8, labelcolor=theme().ink, loc="upper left")
        quiet(below)
        below.bar(middle, one.counts.numpy() / max(1, int(one.counts.sum())), width=0.92 * width, color=theme().muted)
        below.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        below.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        below.set_title(f"share of {int(one.counts.sum())} predictions", loc="left", fontsize=9, color=theme().muted)
        below.set_xlabel("confidence", fontsize=9, color=theme().muted)
    return save_figure(figure, out)
