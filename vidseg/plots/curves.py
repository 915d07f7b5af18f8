"""Plot of loss and accuracy by epoch, from the score tables of a run."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vidseg.plots.canvas import BLUE, INK, MUTED, ORANGE, new_figure, quiet, save_figure

__all__ = ["plot_curves", "read_scores"]

_SERIES = (("train", "training", BLUE), ("val", "held out", ORANGE))


def read_scores(path: Path) -> np.ndarray:
    """Read a score table as float64 (N, 4): epoch from 0, top-1, top-5, loss.

    Raises:
        ValueError: the header is not Epoch,Top1,Top5,Loss, or a cell is not a number.
    """
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if header != ["Epoch", "Top1", "Top5", "Loss"]:
        raise ValueError(f"{path}:1: header {','.join(header)!r}, expected Epoch,Top1,Top5,Loss")
    try:
        return np.array(rows, dtype=np.float64).reshape(len(rows), 4)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def plot_curves(run: str | Path, out: str | Path, *, title: str = "") -> Path:
    """Plot loss and top-1 accuracy over the epochs of a run, and save the figure.

    Args:
        run: folder with `train_results_s*.csv` and, if the run was evaluated, `val_results_s*.csv`.
        out: output file.
        title: heading, such as the name of the run.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: the folder has no score table with a finished epoch.
    """
    run = Path(run)
    found = []
    for kind, label, color in _SERIES:
        scores = np.empty((0, 4))
        for path in sorted(run.glob(f"{kind}_results_s*.csv")):
            # A resumed run has a further table, which replaces the epochs that both tables contain.
            first = int(path.stem.rpartition("_s")[2])
            scores = np.concatenate([scores[scores[:, 0] < first], read_scores(path)])
        if len(scores):
            found.append((label, color, scores))
    if not found:
        raise FileNotFoundError(f"{run}: no train_results_s*.csv with a finished epoch; pass the folder of a run")
    figure = new_figure(10, 3.9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK, fontweight="bold")
    loss, accuracy = figure.subplots(1, 2)
    for axes, column, name in ((loss, 3, "loss (cross entropy)"), (accuracy, 1, "top-1 accuracy")):
        quiet(axes)
        axes.set_title(name, loc="left", fontsize=10, color=MUTED)
        axes.set_xlabel("epoch", fontsize=9, color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for label, color, scores in found:
            marker = "o" if len(scores) < 3 else None
            axes.plot(scores[:, 0] + 1, scores[:, column], color=color, linewidth=2, label=label, marker=marker)
    # Limit the axis so that single outliers, common early in training with batch norm, do not compress the curves.
    loss.set_ylim(0, 1.15 * max(np.quantile(scores[:, 3], 0.9) for *_, scores in found))
    accuracy.set_ylim(0, 1.02)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _mark_last(accuracy, found)
    loss.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best")
    return save_figure(figure, out)


def _mark_last(axes: Axes, found: list[tuple[str, str, np.ndarray]]) -> None:
    """Write the last held-out accuracy, or the last training accuracy without one, at the end of its curve."""
    _, color, scores = found[-1]
    epoch, top1 = scores[-1, 0] + 1, scores[-1, 1]
    axes.plot([epoch], [top1], "o", color=color, markersize=6)
    axes.annotate(
        f"{top1:.1%}", (epoch, top1), xytext=(0, -16), textcoords="offset points", ha="right", fontsize=10, color=INK
    )
