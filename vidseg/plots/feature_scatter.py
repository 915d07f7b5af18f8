"""Scatter plot of projected features, colored by class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.patheffects import withStroke

from vidseg.plots.canvas import new_figure, save_figure
from vidseg.plots.palette import class_colors, theme

__all__ = ["plot_feature_map"]

_LEGEND = 20  # maximum number of classes in a legend
_NAMED = 80  # maximum number of classes with a name at their median


def plot_feature_map(
    points: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    out: str | Path,
    *,
    axes_names: tuple[str, str] = ("", ""),
    title: str = "",
) -> Path:
    """Plot one point per video in the color of its class, and save the figure.

    Up to 20 classes have a legend; the names of up to 80 classes are drawn at the medians of their points; of more, the
    names of the 80 classes with the most points are.

    Args:
        points: (N, 2).
        labels: (N,) class numbers.
        classes: class names by number.
        out: output file.
        axes_names: names of the two axes.
        title: heading.

    Returns:
        The path of the file.

    Raises:
        ValueError: the shapes do not match, or there is no point.
    """
    if points.ndim != 2 or points.shape != (len(labels), 2) or not len(labels):
        raise ValueError(f"points {points.shape} and labels {labels.shape}; expected (N, 2) and (N,)")
    numbers, counts = np.unique(labels, return_counts=True)
    colors = class_colors(len(classes))
    legend = len(numbers) <= _LEGEND
    figure = new_figure(9.5 if legend else 11, 7.5 if legend else 10, title=title)
    axes = figure.add_subplot()
    axes.set_facecolor(theme().surface)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    size = float(np.clip(6000 / len(labels), 6, 45))
    for number in numbers.tolist():
        part = points[labels == number]
        color = [colors[number]]
        axes.scatter(
            part[:, 0], part[:, 1], s=size, c=color, linewidths=0.3, edgecolors=theme().surface, label=classes[number]
        )
    if not legend:
        for number in numbers[np.argsort(-counts, kind="stable")][:_NAMED].tolist():
            x, y = np.median(points[labels == number], axis=0)
            axes.text(
                float(x), float(y), classes[number], fontsize=7, color=theme().ink, ha="center", va="center",
                path_effects=[withStroke(linewidth=2, foreground=theme().surface, alpha=0.8)],
            )  # fmt: skip
    else:
        axes.legend(frameon=False, fontsize=8, labelcolor=theme().ink, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_xlabel(axes_names[0], fontsize=9, color=theme().muted)
    axes.set_ylabel(axes_names[1], fontsize=9, color=theme().muted)
    return save_figure(figure, out)
