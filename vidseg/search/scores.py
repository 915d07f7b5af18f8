"""Scores of a training run: their names, which direction is better, and the rows that a run has written so far."""

from __future__ import annotations

import csv
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vidseg.engine.run_record import RECORD

__all__ = [
    "COSTS",
    "OWN",
    "Objective",
    "RunScores",
    "make_objective",
    "mean_scores",
    "read_run_scores",
    "read_test_scores",
    "score_names",
]

Direction = Literal["maximize", "minimize"]

OWN = "score"
"""Name of a task's own score: the one that selects the best checkpoint of a run. Higher is better; an error is
negated."""
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
        Entries in the order in which the splits were trained; none before the first validation.
    """
    if task in ("segmentation", "streaming"):
        parts = [run] if task == "streaming" else _splits(run)
        found = [_frame_label_scores(part / "validation.csv") for part in parts]
    else:
        found = [_table_scores(run, task)]
    return [scores for scores in found if scores is not None and scores.epochs]


def _splits(run: Path) -> list[Path]:
    """Folders of the splits that have a validation, in the order in which their training started."""
    found = [path.parent for path in run.glob("*/validation.csv") if (path.parent / RECORD).is_file()]
    return sorted(found, key=lambda part: ((part / RECORD).stat().st_mtime_ns, part.name))


def _complete_rows(path: Path) -> list[list[str]]:
    """Rows of a CSV file, without one that is being written."""
    text = path.read_text(encoding="utf-8")
    return list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))


def _columns(
    path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[int], dict[str, list[float]]]:
    wrong = next((number for number, row in enumerate(rows, start=2) if len(row) != len(header)), None)
    if wrong is not None:
        raise ValueError(f"{path}:{wrong}: {len(rows[wrong - 2])} values, expected {len(header)}")
    values = {name.lower(): [float(row[place]) for row in rows] for place, name in enumerate(header) if name != "Epoch"}
    return [int(float(row[0])) for row in rows], values


def _frame_label_scores(path: Path) -> RunScores | None:
    table = _complete_rows(path) if path.is_file() else []
    if len(table) < 2:
        return None
    epochs, columns = _columns(path, table[0], table[1:])
    columns["loss"] = columns.pop("crossentropy")
    columns[OWN] = [
        (acc + edit + f1) / 3 for acc, edit, f1 in zip(columns["acc"], columns["edit"], columns["f1@50"], strict=True)
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


def read_test_scores(run: Path, task: str) -> dict[str, float] | None:
    """Return the scores of a tested run, with the names that validation scores have.

    Args:
        run: folder of the run, or of a cross-validation, whose scores are means over its splits.
        task: name of the task.

    Returns:
        None if the run has not been tested.
    """
    if task == "segmentation":
        path = run / "results.json"
        return _frame_label_test(json.loads(path.read_text(encoding="utf-8"))["mean"]) if path.is_file() else None
    path = run / "test.json"
    if not path.is_file():
        return None
    test = json.loads(path.read_text(encoding="utf-8"))
    if task == "streaming":
        return _frame_label_test(test["scores"])
    if task == "recognition":
        found = {name: float(test[name]) for name in ("top1", "top5", "loss") if name in test}
        found |= {name.lower(): float(value) for name, value in test.get("scores", {}).items()}
    elif task == "flow":
        names = {"epe": "loss", "within_1px": "1px", "within_3px": "3px", "within_5px": "5px", "f1_all": "f1-all"}
        found = {name: float(test["scores"][key]) for key, name in names.items()}
    else:
        scores = test["scores"]
        found = {"map": float(scores["average"])} if "average" in scores else {}
        found |= {f"map@{key}": float(value) for key, value in scores.get("map", {}).items()}
        found |= {f"ar@{key}": float(value) for key, value in scores.get("average_recall", {}).items()}
    own = next((name for name in _OWN_SCORES[task] if name in found), None)
    return found if own is None else found | {OWN: found[own] * (-1 if own in _LOWER else 1)}


def _frame_label_test(scores: Mapping[str, Any]) -> dict[str, float]:
    found = {"acc": float(scores["acc"]), "edit": float(scores["edit"])}
    found |= {f"f1@{100 * float(overlap):g}": float(value) for overlap, value in scores["f1"].items()}
    return found | {OWN: (found["acc"] + found["edit"] + found["f1@50"]) / 3}
