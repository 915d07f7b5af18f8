"""Plot of label statistics: frames, segments and durations of each class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from vidseg.labels.counting import counted
from vidseg.plots.canvas import new_figure, quiet, save_figure, shortened
from vidseg.plots.palette import BLUE, ORANGE, theme

__all__ = ["plot_label_counts"]


def plot_label_counts(
    classes: Sequence[str],
    frames: Sequence[int],
    seconds: Sequence[Sequence[float]],
    out: str | Path,
    *,
    title: str = "",
) -> Path:
    """Plot frames by class, durations by class and the histogram of all durations, and save the figure.

    Args:
        classes: K class names.
        frames: (K,) number of labeled frames of each class.
        seconds: durations in seconds of the segments of each class.
        out: output file.
        title: heading, such as the name of the data set.

    Returns:
        The path of the file.

    Raises:
        ValueError: numbers of classes differ, or there is no segment.
    """
    durations = np.concatenate([np.asarray(found, np.float64) for found in seconds]) if seconds else np.zeros(0)
    if not len(classes) == len(frames) == len(seconds) or not len(durations):
        raise ValueError(
            f"numbers of class names ({len(classes)}), frame counts ({len(frames)}) and lists of durations"
            f" ({len(seconds)}) must be equal, and the number of segments ({len(durations)}) at least 1"
        )
    facts = (
        f"{counted(sum(frames), 'frame')} in {counted(len(durations), 'segment')} of"
        f" {counted(len(classes), 'class', 'classes')}"
    )
    figure = new_figure(12, max(3.0, 0.9 + 0.2 * len(classes)), title=title or "Labels", detail=facts)
    share, length, histogram = figure.subplots(1, 3, width_ratios=(1.2, 1, 1.1))
    places = np.arange(len(classes))
    for axes, name in ((share, "frames, %"), (length, "seconds: median, 5 % to 95 %")):
        quiet(axes, grid="x")
        axes.set_title(name, loc="left", fontsize=10, color=theme().muted)
        axes.set_ylim(len(classes) - 0.4, -0.6)
    shares = 100 * np.asarray(frames) / max(1, sum(frames))
    share.barh(places, shares, height=0.7, color=BLUE)
    for place, value, found in zip(places, shares, seconds, strict=True):
        share.text(value, place, f" {len(found)} x", va="center", fontsize=7, color=theme().muted)
    share.set_xlim(0, 1.18 * max(1e-9, shares.max()))
    share.set_yticks(
        places, [shortened(name, 32) for name in classes], fontsize=8 if len(classes) <= 60 else 5, color=theme().ink
    )
    for place, found in zip(places, seconds, strict=True):
        if len(found):
            low, middle, high = np.quantile(found, (0.05, 0.5, 0.95))
            length.plot([low, high], [place, place], color=BLUE, linewidth=2, solid_capstyle="butt")
            length.plot([middle], [place], "o", color=BLUE, markersize=4)
    length.set_yticks([])
    _seconds(length)
    quiet(histogram)
    bins = np.geomspace(durations.min() * 0.999, durations.max() * 1.001, 41)
    histogram.hist(durations, bins=bins, color=BLUE)
    _seconds(histogram)
    histogram.set_title("segments by duration, seconds", loc="left", fontsize=10, color=theme().muted)
    median = float(np.median(durations))
    histogram.axvline(median, color=ORANGE, linewidth=1.5)
    histogram.annotate(
        f"median {median:.2g} s",
        (median, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -10),
        textcoords="offset points",
        fontsize=9,
        color=theme().ink,
    )
    return save_figure(figure, out)


def _seconds(axes: Axes) -> None:
    """Give the x axis a logarithmic scale with ticks at 1, 2, 5, 10, 20, 50 and so on."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
