"""Scores of a training run: their names, which direction is better, and the rows that a run has written so far."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = [
    "COSTS",
    "OWN",
    "Objective",
    "RunScores",
    "make_objective",
    "mean_scores",
    "read_run_scores",
    "score_names",
]

Direction = Literal["maximize", "minimize"]

OWN = "score"
"""Name of a task's own score: the one that selects the best checkpoint of a run. Higher is better; of an error it is the
negative."""
COSTS = ("operations", "parameters", "latency")
"""Costs of a network, which are known before it is trained; lower is better."""
_LOWER = ("loss", "mae", "f1-all")
_FRAME_LABELS = ("acc", "edit", "f1@10", "f1@25", "f1@50", "loss")
_SCORES: dict[str, tuple[str, ...]] = {
    "recognition": ("top1", "top5", "map", "hit", "mae", "r2", "loss"),
    "segmentation": _FRAME_LABELS,
    "streaming": _FRAME_LABELS,
    "detection": ("map", "map@0.5", "auc", "ar@100", "loss"),
    "flow": ("1px", "3px", "5px", "f1-all", "loss"),
}
"""Scores of the validation of each task, in lower case; recognition and detection have some of theirs."""
_OWN_SCORES: dict[str, tuple[str, ...]] = {
    "recognition": ("top1", "map", "mae"),
    "detection": ("map", "auc"),
    "flow": ("loss",),
}
"""Scores that select the best epoch, see `Result.quality`; of several the one that the run has."""


@dataclass(frozen=True)
class Objective:
    """What a search improves.

    Attributes:
        name: `OWN`, a score of the task, or one of `COSTS`.
        direction: which values are better.
    """

    name: str
    direction: Direction

    @property
    def cost(self) -> bool:
        """Whether it is a cost of the network, known before training."""
        return self.name in COSTS


@dataclass(frozen=True)
class RunScores:
    """Validation scores of a run, one entry for each validation so far.

    Attributes:
        epochs: number of the epoch, from 1.
        columns: name of a score -> its values; `OWN` included.
    """

    epochs: list[int]
    columns: dict[str, list[float]]

    def best(self, count: int | None = None) -> int | None:
        """Return the place of the validation that the run's best checkpoint is of; None without a finite score.

        Args:
            count: use only the first `count` validations; None: all.
        """
        values = self.columns[OWN][:count]
        places = [place for place, value in enumerate(values) if math.isfinite(value)]
        if not places:
            return None
        return max(places, key=lambda place: (values[place], -place))

    def at(self, place: int) -> dict[str, float]:
        """Return all scores of one validation."""
        return {name: values[place] for name, values in self.columns.items()}


def score_names(task: str) -> tuple[str, ...]:
    """Return the names that an objective of a task may have, costs included."""
    return (OWN, *_SCORES[task], *COSTS)


def make_objective(task: str, name: str) -> Objective:
    """Return the objective called `name`, in any case.

    Raises:
        ValueError: the task has no such score; names a close one.
    """
    known = score_names(task)
    chosen = name.lower()
    if chosen not in known:
        close = difflib.get_close_matches(chosen, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
        raise ValueError(f"{task} has no score {name!r}; {hint}")
    return Objective(chosen, "minimize" if chosen in (*_LOWER, *COSTS) else "maximize")


def read_run_scores(run: Path, task: str) -> list[RunScores]:
    """Read the validation scores of a run while it is written; one entry for each split of a cross-validation.

    A row that is being written is left out.

    Args:
        run: folder of the run, or of a cross-validation.
        task: name of the task.

    Returns:
        Entries in the order of the splits' names; none before the first validation.
    """
    if task in ("segmentation", "streaming"):
        files = [run / "validation.csv"] if task == "streaming" else sorted(run.glob("*/validation.csv"))
        found = [_frame_label_scores(path) for path in files if path.is_file()]
    else:
        found = [_table_scores(run, task)]
    return [scores for scores in found if scores is not None and scores.epochs]


def _complete_rows(path: Path) -> list[list[str]]:
    """Rows of a CSV file, without one that is being written."""
    text = path.read_text(encoding="utf-8")
    return list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))


def _columns(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[int], dict[str, list[float]]]:
    wrong = next((number for number, row in enumerate(rows, start=2) if len(row) != len(header)), None)
    if wrong is not None:
        raise ValueError(f"{path}:{wrong}: {len(rows[wrong - 2])} values, expected {len(header)}")
    values = {
        name.lower(): [float(row[place]) for row in rows] for place, name in enumerate(header) if name != "Epoch"
    }
    return [int(float(row[0])) for row in rows], values


def _frame_label_scores(path: Path) -> RunScores | None:
    table = _complete_rows(path)
    if len(table) < 2:
        return None
    epochs, columns = _columns(path, table[0], table[1:])
    columns["loss"] = columns.pop("crossentropy")
    columns[OWN] = [
        (acc + edit + f1) / 3
        for acc, edit, f1 in zip(columns["acc"], columns["edit"], columns["f1@50"], strict=True)
    ]
    return RunScores(epochs, columns)


def _table_scores(run: Path, task: str) -> RunScores | None:
    header: list[str] = []
    rows: list[list[str]] = []
    for path in sorted(run.glob("val_results_s*.csv")):
        # A resumed run has a further table, which replaces the epochs that both tables contain.
        table = _complete_rows(path)
        if len(table) < 2:
            continue
        first = int(path.stem.rpartition("_s")[2])
        header = table[0]
        rows = [row for row in rows if int(float(row[0])) < first] + table[1:]
    if not rows:
        return None
    epochs, columns = _columns(run / "val_results_s*.csv", header, rows)
    own = next(name for name in _OWN_SCORES[task] if name in columns)
    sign = -1 if own in _LOWER else 1
    return RunScores(epochs, columns | {OWN: [sign * value for value in columns[own]]})


def mean_scores(runs: Sequence[RunScores]) -> tuple[dict[str, float], list[int]] | None:
    """Return the scores at the best epoch, averaged over the splits of a cross-validation, and these epochs.

    Returns:
        None if a split has no finite score.
    """
    found: list[Mapping[str, float]] = []
    epochs = []
    for scores in runs:
        place = scores.best()
        if place is None:
            return None
        found.append(scores.at(place))
        epochs.append(scores.epochs[place])
    if not found:
        return None
    return {name: sum(each[name] for each in found) / len(found) for name in found[0]}, epochs
