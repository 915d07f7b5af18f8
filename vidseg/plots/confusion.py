"""Plot of a confusion matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import PercentFormatter

from vidseg.plots.canvas import new_figure, save_figure, shortened
from vidseg.plots.palette import readable_on, theme

__all__ = ["plot_confusion"]

_NAMED = 60  # maximum number of classes with legible names
_COUNTED = 25  # maximum number of classes with legible counts
_CELL = 0.52  # inches
_SMALLEST = 3.2  # side of the matrix in inches
_LETTERS = 24  # of a class name
_LETTER = 0.075  # width of a letter in inches


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
    names = [shortened(name, _LETTERS) for name in classes]
    longest = max(map(len, names)) if number <= _NAMED else 0
    margin = _LETTER * longest
    turned = longest * _LETTER > 0.9 * max(_CELL, _SMALLEST / number)
    side = min(13.0, max(_SMALLEST, _CELL * number))
    accuracy = np.trace(counts) / max(1, counts.sum())
    facts = f"top-1 {accuracy:.1%} of {counts.sum():,} {unit}; color: share of the true class".replace(",", " ")
    figure = new_figure(
        side + margin + 1.6,
        side + (0.75 * margin if turned else 0.15) + 0.5,
        title=title or "Confusion matrix",
        detail=facts,
    )
    axes = figure.add_subplot()
    blues = LinearSegmentedColormap.from_list("blues", theme().scale)
    image = axes.imshow(shares, cmap=blues, vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("predicted", fontsize=10, color=theme().muted)
    axes.set_ylabel("true", fontsize=10, color=theme().muted)
    axes.tick_params(colors=theme().ink, labelsize=9 if number <= _COUNTED else 6, length=0)
    if number <= _NAMED:
        slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if turned else {}
        axes.set_xticks(range(number), names, **slanted)
        axes.set_yticks(range(number), names)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if number <= _COUNTED:
        axes.set_xticks(np.arange(number - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(number - 1) + 0.5, minor=True)
        axes.grid(which="minor", color=theme().surface, linewidth=2)
        axes.tick_params(which="minor", length=0)
        for row, column in np.argwhere(counts > 0):
            text = _short(int(counts[row, column]))
            size = 11 if len(text) <= 3 else 9.5
            color = readable_on(blues(shares[row, column])[:3])
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, format=PercentFormatter(1.0, decimals=0))
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=theme().muted, labelsize=8, length=0)
    return save_figure(figure, out)


def _short(count: int) -> str:
    """Format a count with at most four characters: 9999, 12k, 3.4M."""
    if count < 10_000:
        return str(count)
    if count < 999_500:
        return f"{count / 1000:.0f}k"
    return f"{count / 1e6:.1f}M" if count < 9_950_000 else f"{count / 1e6:.0f}M"
