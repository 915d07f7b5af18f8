"""Plot of loss and accuracy by epoch, from the score tables of a run."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, PercentFormatter

from vidseg.plots.canvas import epoch_ticks, new_figure, quiet, save_figure
from vidseg.plots.palette import BLUE, ORANGE, theme

__all__ = ["best_scores", "plot_curves", "read_run", "read_scores"]

_SERIES = (("train", "training", BLUE), ("val", "held out", ORANGE))
_LOWER = {"MAE"}  # scores of which the lowest is the best
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
    """Return the row of a run's validation scores with the best first score; None without a validation.

    Returns:
        Names of the columns in lower case, "epoch" included -> values.
    """
    header, scores = read_run(run, "val")
    if not len(scores):
        return None
    best = scores[_best(scores, header[1])]
    return {name.lower(): float(value) for name, value in zip(header, best, strict=True)} | {"epoch": int(best[0])}


def plot_curves(run: str | Path, out: str | Path, *, title: str = "") -> Path:
    """Plot the loss and the first score (top-1, frame accuracy, mAP) over the epochs of a run, and save the figure.

    A dashed line marks the epoch with the best held-out score. Losses far above the others, which occur early in
    training with batch norm, are marked at the upper edge with their values.

    Args:
        run: folder with `train_results_s*.csv` and, if the run was evaluated, `val_results_s*.csv`.
        out: output file.
        title: heading, such as the name of the run.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: the folder has no score table with a finished epoch.
    """
    found: list[_Series] = []
    names: list[str] = []
    for kind, label, color in _SERIES:
        header, scores = read_run(run, kind)
        if len(scores):
            found.append(_Series(label, color, scores))
            names = header if len(header) > len(names) else names
    if not found:
        raise FileNotFoundError(f"{run}: no train_results_s*.csv with a finished epoch; pass the folder of a run")
    figure = new_figure(10, 3.9, title=title)
    panels = figure.subplots(1, 2)
    scored = [one for one in found if one.scores.shape[1] > 2]  # a table of losses alone has no score
    score = _NAMES.get(names[1], names[1]) if scored else "no score in the tables"
    first = min(one.scores[0, 0] for one in found)
    last = max(one.scores[-1, 0] for one in found)
    for axes, column, name, shown in zip(panels, (-1, 1), ("loss", score), (found, scored), strict=True):
        quiet(axes)
        axes.set_title(name, loc="left", fontsize=10, color=theme().muted, pad=16)
        axes.set_xlabel("epoch", fontsize=9, color=theme().muted)
        axes.xaxis.set_major_locator(FixedLocator(epoch_ticks(first, last)))
        axes.set_xlim(first - 0.02 * max(1, last - first), last + 0.02 * max(1, last - first))
        for one in shown:
            marker = "o" if len(one.scores) < 3 else None
            columns = one.scores[:, 0], one.scores[:, column]
            axes.plot(*columns, color=one.color, linewidth=2, label=one.label, marker=marker, markersize=5)
    _clip(panels[0], found)
    if scored:
        _limit(panels[1], scored, names[1])
        _mark_best(panels, scored[-1], names[1])
    panels[0].legend(frameon=False, fontsize=9, labelcolor=theme().ink, loc="best")
    return save_figure(figure, out)


@dataclass(frozen=True, eq=False)
class _Series:
    """Rows of one score table, its label and color."""

    label: str
    color: str
    scores: np.ndarray


def _clip(axes: Axes, found: list[_Series]) -> None:
    """End the axis of the losses above most of them, and mark those above it."""
    losses = [one.scores[:, -1][np.isfinite(one.scores[:, -1])] for one in found]
    top = 1.15 * max((float(np.quantile(values, 0.9)) for values in losses if len(values)), default=1.0) or 1.0
    largest = max((float(values.max()) for values in losses if len(values)), default=1.0)
    if largest <= 1.3 * top:
        top = 1.05 * largest or 1.0
    low = min((float(values.min()) for values in losses if len(values)), default=0.0)
    bottom = 0.0 if low >= 0 else 1.1 * low
    axes.set_ylim(bottom, top)
    for one in found:
        spikes = one.scores[one.scores[:, -1] > top]
        if not len(spikes):
            continue
        axes.plot(spikes[:, 0], np.full(len(spikes), top), "^", color=one.color, markersize=7, clip_on=False, zorder=5)
        epoch, *_, value = spikes[spikes[:, -1].argmax()]
        text = axes.annotate(
            f"{value:.3g}", (epoch, top), xytext=(0, 6), textcoords="offset points", fontsize=8, color=one.color,
            ha="center", annotation_clip=False,
        )  # fmt: skip
        text.set_in_layout(False)


def _limit(axes: Axes, scored: list[_Series], name: str) -> None:
    """Show fractions from 0 to 100 %, and other scores in their range."""
    values = np.concatenate([one.scores[:, 1] for one in scored])
    if name not in _LOWER and np.nanmin(values) >= 0 and np.nanmax(values) <= 1:
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    else:
        axes.set_ylim(min(0.0, 1.05 * float(np.nanmin(values))), 1.05 * float(np.nanmax(values)) or 1.0)


def _mark_best(panels: Sequence[Axes], one: _Series, name: str) -> None:
    """Mark the epoch with the best score of the held-out videos, or of training without any."""
    place = _best(one.scores, name)
    epoch, value = one.scores[place, 0], one.scores[place, 1]
    for axes in panels:
        axes.axvline(epoch, color=theme().muted, linewidth=1, linestyle=(0, (3, 3)), zorder=0)
    axes = panels[1]
    axes.plot([epoch], [value], "o", color=one.color, markersize=7)
    text = f"{value:.1%}" if axes.get_ylim() == (0, 1.02) else f"{value:.3g}"
    low, high = axes.get_xlim()
    right = epoch > (low + high) / 2
    axes.annotate(
        f"best: {text}, epoch {epoch:.0f}", (epoch, 1), xycoords=("data", "axes fraction"),
        xytext=(0, 3), textcoords="offset points", ha="right" if right else "left", fontsize=9, color=theme().ink,
    )  # fmt: skip


def _best(scores: np.ndarray, name: str) -> int:
    """Return the row with the best first score."""
    return int(np.nanargmin(scores[:, 1]) if name in _LOWER else np.nanargmax(scores[:, 1]))
