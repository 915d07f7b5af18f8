"""Plot of segmentation errors: F1 by class, most frequent confusions, and boundary offsets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vidseg.labels.counting import counted
from vidseg.plots.canvas import new_figure, quiet, save_figure, shortened
from vidseg.plots.palette import BLUE, ORANGE, theme

__all__ = ["plot_segment_errors"]

_PAIRS = 15
_LETTERS = 28  # of a class name
_HALF = 18  # of each of two names in one row
_TINTS = (BLUE, "#7fb0ea", "#c4dbf6")  # from the highest IoU threshold to the lowest


def plot_segment_errors(
    classes: Sequence[str],
    f1: Mapping[float, Sequence[float]],
    confusion: npt.ArrayLike,
    offsets: npt.ArrayLike,
    out: str | Path,
    *,
    title: str = "",
) -> Path:
    """Plot F1 by class, most frequent confusions and boundary offsets, and save the figure.

    Args:
        classes: names of the K classes to show.
        f1: IoU threshold -> F1 of each class in percent, (K,), as in the table `classes` of `segmental_scores`.
        confusion: (K, K) frame counts; rows are true classes.
        offsets: (N,) boundary offsets in frames, positive for late.
        out: output file.
        title: heading, such as the name of the run.

    Returns:
        The path of the file.

    Raises:
        ValueError: numbers of classes differ.
    """
    counts, late = np.asarray(confusion, np.int64), np.asarray(offsets, np.int64)
    if not classes or counts.shape != (len(classes),) * 2 or any(len(row) != len(classes) for row in f1.values()):
        lengths = [len(row) for row in f1.values()]
        raise ValueError(f"numbers of classes differ: names {len(classes)}, F1 {lengths}, confusion {counts.shape}")
    accuracy = np.trace(counts) / max(1, counts.sum())
    facts = f"accuracy {accuracy:.1%} over {counted(int(counts.sum()), 'frame')}"
    if len(late):
        offset = float(np.median(np.abs(late)))
        facts += f"; boundaries {offset:g} {'frame' if offset == 1 else 'frames'} off (median)"
    figure = new_figure(
        14, max(3.4, 1.3 + 0.2 * len(classes)), title=title or "Segmentation errors",
        detail=facts,
    )  # fmt: skip
    scores, pairs, boundaries = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 1))
    _scores(scores, classes, f1)
    _pairs(pairs, classes, counts)
    _boundaries(boundaries, late)
    return save_figure(figure, out)


def _rows(axes: Axes, names: Sequence[str], title: str) -> None:
    quiet(axes, grid="x")
    axes.set_title(title, loc="left", fontsize=10, color=theme().muted)
    axes.set_yticks(range(len(names)), names, fontsize=8 if len(names) <= 60 else 5, color=theme().ink)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _scores(axes: Axes, classes: Sequence[str], f1: Mapping[float, Sequence[float]]) -> None:
    """Draw overlapping bars; F1 at a higher IoU threshold never exceeds that at a lower one."""
    strict_first = sorted(f1, reverse=True)
    _rows(axes, [shortened(name, _LETTERS) for name in classes], "F1 by class, %")
    for rank, overlap in reversed(list(enumerate(strict_first))):
        color = _TINTS[min(rank, len(_TINTS) - 1)]
        axes.barh(range(len(classes)), f1[overlap], height=0.7, color=color)
    axes.set_xlim(0, 100)
    thresholds = ", ".join(f"{overlap:g}" for overlap in strict_first)
    axes.set_xlabel(f"IoU, from dark to light: {thresholds}", fontsize=8, color=theme().muted)


def _pairs(axes: Axes, classes: Sequence[str], counts: npt.NDArray[np.int64]) -> None:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    found = [(int(row), int(column)) for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)]
    found = [(row, column) for row, column in found if wrong[row, column]]
    names = [f"{shortened(classes[row], _HALF)} as {shortened(classes[column], _HALF)}" for row, column in found]
    _rows(axes, names or ["none"], "confusions, % of the wrong frames")
    shares = [100 * wrong[row, column] / wrong.sum() for row, column in found]
    axes.barh(range(len(shares)), shares, height=0.7, color=ORANGE)


def _boundaries(axes: Axes, late: npt.NDArray[np.int64]) -> None:
    quiet(axes)
    axes.set_title("boundaries by offset", loc="left", fontsize=10, color=theme().muted)
    reach = int(max(5, np.quantile(np.abs(late), 0.95))) if len(late) else 5
    width = -(-(2 * reach + 1) // 61)  # at most 61 bars, one of them centered on 0
    edges = (np.arange(-(reach // width) - 1, reach // width + 2) + 0.5) * width
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.hist(np.clip(late, edges[0], edges[-1]), bins=edges.tolist(), color=BLUE)
    axes.axvline(0, color=theme().muted, linewidth=0.8)
    axes.set_xlabel("frames, early (-) or late (+)", fontsize=8, color=theme().muted)
