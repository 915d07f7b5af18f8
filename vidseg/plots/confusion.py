"""Plot of a confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import PercentFormatter

from vidseg.plots.canvas import INK, MUTED, SURFACE, new_figure, save_figure

__all__ = ["plot_confusion"]

_BLUES = LinearSegmentedColormap.from_list("blues", [SURFACE, "#a9cbf2", "#2a78d6", "#12386b"])
_NAMED = 60  # maximum number of classes with legible names
_COUNTED = 25  # maximum number of classes with legible counts


def plot_confusion(
    confusion: Sequence[Sequence[int]],
    classes: Sequence[str],
    out: str | Path,
    *,
    title: str = "",
    unit: str = "videos",
) -> Path:
    """Plot a confusion matrix with rows in percent of the true class, and save it.

    Args:
        confusion: (K, K) counts; rows are true classes, columns predicted classes.
        classes: K class names.
        out: output file.
        title: heading, such as the name of the run.
        unit: unit of the counts, such as "videos" or "frames".

    Returns:
        The path of the file.

    Raises:
        ValueError: the matrix is not square, or its size differs from the number of names.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    number = len(classes)
    if counts.shape != (number, number) or number == 0:
        raise ValueError(f"confusion has shape {counts.shape}, expected ({number}, {number}) for {number} class names")
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = min(14.0, max(4.2, 2.4 + 0.48 * number))
    figure = new_figure(side + 1.0, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap=_BLUES, vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("predicted", fontsize=10, color=MUTED)
    axes.set_ylabel("true", fontsize=10, color=MUTED)
    axes.tick_params(colors=INK, labelsize=9 if number <= _COUNTED else 6, length=0)
    if number <= _NAMED:
        axes.set_xticks(range(number), classes, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(number), classes)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if number <= _COUNTED:
        axes.set_xticks(np.arange(number - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(number - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=2)
        axes.tick_params(which="minor", length=0)
        for row, column in np.argwhere(counts > 0):
            color = "white" if shares[row, column] > 0.45 else INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=9, color=color)
    accuracy = np.trace(counts) / max(1, counts.sum())
    head = f"{title}   " if title else ""
    axes.set_title(
        f"{head}top-1 {accuracy:.1%} of {counts.sum()} {unit}", loc="left", fontsize=11, color=INK, fontweight="bold"
    )
    bar = figure.colorbar(image, ax=axes, shrink=0.6, format=PercentFormatter(1.0, decimals=0))
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    return save_figure(figure, out)
