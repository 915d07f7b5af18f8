"""Plot of loss and accuracy by epoch, from the score tables of a run."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vidseg.plots.canvas import BLUE, INK, MUTED, ORANGE, new_figure, quiet, save_figure

__all__ = ["best_scores", "plot_curves", "read_run", "read_scores"]

_SERIES = (("train", "training", BLUE), ("val", "held out", ORANGE))
_NAMES = {"Top1": "top-1 accuracy", "Acc": "frame accuracy"}


def read_scores(path: Path) -> tuple[list[str], np.ndarray]:
    """Read a score table.

    Returns:
        Names of the columns, "Epoch" first and "Loss" last, and the rows, float64 (N, columns).

    Raises:
        ValueError: another header, or a row that is not numbers.
    """
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if len(header) < 2 or header[0] != "Epoch" or header[-1] != "Loss":
        raise ValueError(f"{path}:1: header {','.join(header)!r}, expected Epoch, scores and Loss")
    try:
        return header, np.array(rows, dtype=np.float64).reshape(len(rows), len(header))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_run(run: str | Path, kind: str) -> tuple[list[str], np.ndarray]:
    """Read the score tables of a run as one.

    Args:
        run: folder of the run.
        kind: "train" or "val".

    Returns:
        As `read_scores`; no columns and no rows without a table.
    """
    header: list[str] = []
    scores = np.empty((0, 0))
    for path in sorted(Path(run).glob(f"{kind}_results_s*.csv")):
        # A resumed run has a further table, which replaces the epochs that both tables contain.
        first = int(path.stem.rpartition("_s")[2])
        header, rows = read_scores(path)
        scores = rows if not len(scores) else np.concatenate([scores[scores[:, 0] < first], rows])
    return header, scores


def best_scores(run: str | Path) -> dict[str, float] | None:
    """Return the row of a run's validation scores with the highest first score; None without a validation.

    Returns:
        Names of the columns in lower case, "epoch" included -> values.
    """
    header, scores = read_run(run, "val")
    if not len(scores):
        return None
    best = scores[scores[:, 1].argmax()]
    return {name.lower(): float(value) for name, value in zip(header, best, strict=True)} | {"epoch": int(best[0])}


def plot_curves(run: str | Path, out: str | Path, *, title: str = "") -> Path:
    """Plot the loss and the first score (top-1, frame accuracy, mAP) over the epochs of a run, and save the figure.

    Args:
        run: folder with `train_results_s*.csv` and, if the run was evaluated, `val_results_s*.csv`.
        out: output file.
        title: heading, such as the name of the run.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: the folder has no score table with a finished epoch.
    """
    found: list[tuple[str, str, np.ndarray]] = []
    names: list[str] = []
    for kind, label, color in _SERIES:
        header, scores = read_run(run, kind)
        if len(scores):
            found.append((label, color, scores))
            names = header if len(header) > len(names) else names
    if not found:
        raise FileNotFoundError(f"{run}: no train_results_s*.csv with a finished epoch; pass the folder of a run")
    figure = new_figure(10, 3.9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK, fontweight="bold")
    loss, accuracy = figure.subplots(1, 2)
    scored = [series for series in found if series[2].shape[1] > 2]  # a table of losses alone has no score
    score = _NAMES.get(names[1], names[1]) if scored else "no score in the tables"
    for axes, column, name, shown in ((loss, -1, "loss", found), (accuracy, 1, score, scored)):
        quiet(axes)
        axes.set_title(name, loc="left", fontsize=10, color=MUTED)
        axes.set_xlabel("epoch", fontsize=9, color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for label, color, scores in shown:
            marker = "o" if len(scores) < 3 else None
            axes.plot(scores[:, 0], scores[:, column], color=color, linewidth=2, label=label, marker=marker)
    # Limit the axis so that single outliers, common early in training with batch norm, do not compress the curves.
    loss.set_ylim(0, 1.15 * max(np.quantile(scores[:, -1], 0.9) for *_, scores in found))
    accuracy.set_ylim(0, 1.02)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if scored:
        _mark_last(accuracy, scored)
    loss.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best")
    return save_figure(figure, out)


def _mark_last(axes: Axes, found: list[tuple[str, str, np.ndarray]]) -> None:
    """Write the last held-out accuracy, or the last training accuracy without one, at the end of its curve."""
    _, color, scores = found[-1]
    epoch, top1 = scores[-1, 0], scores[-1, 1]
    axes.plot([epoch], [top1], "o", color=color, markersize=6)
    axes.annotate(
        f"{top1:.1%}", (epoch, top1), xytext=(0, -16), textcoords="offset points", ha="right", fontsize=10, color=INK
    )
