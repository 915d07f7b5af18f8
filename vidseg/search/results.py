"""Results of a search: its trials with values, scores and failures, read from its storage."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vidseg.frames.whole_file import whole_file
from vidseg.labels.counting import counted
from vidseg.search.program import shown_name
from vidseg.search.scores import Objective, make_objective
from vidseg.search.storage import STORAGE, open_storage, read_description
from vidseg.search.trial import Failure, trial_folder

__all__ = ["SearchResults", "TrialResult", "read_results", "search_importance", "write_trials"]

_SHOWN = 5


@dataclass(frozen=True)
class TrialResult:
    """One trial of a search.

    Attributes:
        number: from 0.
        state: "complete", "pruned", "failed", "running" (it continues at the next start) or "repetition" (a trial with
            the same values exists).
        values: searched options by name.
        objectives: value of each objective; empty unless complete.
        scores: validation scores at the best epoch; of a pruned trial those at its end.
        costs: measured costs of the network.
        history: the objective after each validation so far; empty with several objectives.
        epochs: best epoch, of each split of a cross-validation.
        seconds: time of training, of all starts.
        failure: why a trial failed or was refused.
        repeats: number of the trial with the same values.
    """

    number: int
    state: str
    values: dict[str, Any]
    objectives: list[float] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    seconds: float = 0.0
    failure: Failure | None = None
    repeats: int | None = None

    @property
    def trained(self) -> bool:
        """Whether the trial used training time: it was neither refused before training nor a repetition."""
        return self.state in ("complete", "pruned") or (
            self.state == "failed" and self.failure is not None and self.failure.kind != "over budget"
        )


@dataclass(frozen=True)
class SearchResults:
    """Everything that a search found; `str()` is a table of the best trials.

    Attributes:
        folder: of the search.
        description: what the search is, see `SearchSpace.identity`; with `task` and `dataset`.
        objectives: what was improved.
        trials: in order.
        importance: option -> share of its influence on the first objective; empty with too few trials.
    """

    folder: Path
    description: dict[str, Any]
    objectives: list[Objective]
    trials: list[TrialResult]
    importance: dict[str, float] = field(default_factory=dict)

    @property
    def complete(self) -> list[TrialResult]:
        """Complete trials, without repetitions."""
        return [one for one in self.trials if one.state == "complete"]

    @property
    def best(self) -> TrialResult | None:
        """The trial with the best first objective, the earliest of equal ones; None without a complete trial."""
        return max(self.complete, key=lambda one: (self.sign(0) * one.objectives[0], -one.number), default=None)

    @property
    def front(self) -> list[TrialResult]:
        """The trials that no other one exceeds in all objectives, by rising last objective."""
        found = [one for one in self.complete if not any(self._dominates(other, one) for other in self.complete)]
        return sorted(found, key=lambda one: one.objectives[-1])

    def sign(self, place: int) -> int:
        """Return 1 if higher values of an objective are better, else -1."""
        return 1 if self.objectives[place].direction == "maximize" else -1

    def _dominates(self, one: TrialResult, other: TrialResult) -> bool:
        gains = [
            self.sign(place) * (mine - its)
            for place, (mine, its) in enumerate(zip(one.objectives, other.objectives, strict=True))
        ]
        return min(gains) >= 0 and max(gains) > 0

    def summary(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "task": self.description["task"],
            "folder": str(self.folder),
            "objectives": [asdict(one) for one in self.objectives],
            "best": None if self.best is None else self._plain(self.best),
            "front": [one.number for one in self.front] if len(self.objectives) > 1 else [],
            "importance": self.importance,
            "trials": [self._plain(one) for one in self.trials],
        }

    def _plain(self, one: TrialResult) -> dict[str, Any]:
        return asdict(one) | {"run": str(trial_folder(self.folder, one.number))}

    def counts(self) -> str:
        """Return the number of trials by state, in words."""
        states = [
            (state, sum(one.state == state for one in self.trials)) for state in ("complete", "pruned", "running")
        ]
        text = ", ".join(f"{number} {state}" for state, number in states if number or state == "complete")
        kinds = [one.failure.kind for one in self.trials if one.state == "failed" and one.failure is not None]
        for kind in dict.fromkeys(kinds):
            text += (
                f", {kinds.count(kind)} failed ({kind})" if kind != "over budget" else f", {kinds.count(kind)} {kind}"
            )
        return text

    def __str__(self) -> str:
        several = len(self.objectives) > 1
        shown = (
            self.front
            if several
            else sorted(self.complete, key=lambda one: (-self.sign(0) * one.objectives[0], one.number))[:_SHOWN]
        )
        names = [one.name for one in self.objectives]
        head = ["trial", *names, "epoch", "seconds"]
        rows = [
            [
                f"{one.number:04d}",
                *(f"{value:.5g}" for value in one.objectives),
                " ".join(map(str, one.epochs)),
                f"{one.seconds:.0f}",
            ]
            for one in shown
        ]
        widths = [max(len(row[place]) for row in [head, *rows]) + 2 for place in range(len(head))]
        lines = ["".join(f"{cell:>{width}}" for cell, width in zip(head, widths, strict=True)) + "  values"]
        for one, row in zip(shown, rows, strict=True):
            cells = "".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
            lines.append(f"{cells}  {values_text(one.values)}")
        trained = sum(one.trained for one in self.trials)
        what = "on the Pareto front of" if several else "best of"
        return "\n".join([f"{counted(len(shown), 'trial')} {what} {trained}: {self.counts()}", *lines])


def values_text(values: Mapping[str, Any]) -> str:
    """Return searched options as they are written in flags, such as lr=0.01 network-option.width=0.5."""
    return " ".join(f"{shown_name(name)}={value_text(value)}" for name, value in values.items())


def value_text(value: Any) -> str:
    """Return one value in at most four digits, lists with commas."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(value_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_results(out: str | Path) -> SearchResults:
    """Read the results of a search, finished or not.

    Args:
        out: folder of the search.

    Raises:
        FileNotFoundError: the folder holds no search.
        ValueError: its storage is damaged.
    """
    out = Path(out)
    if not (out / STORAGE).is_file():
        raise FileNotFoundError(f"{out / STORAGE}: not found, so {out} is not the folder of a search")
    return results_of(open_storage(out), out)


def results_of(study: Any, out: Path) -> SearchResults:
    """Return the results of an open Optuna study."""
    description = read_description(study, out)
    objectives = [make_objective(description["task"], name) for name in description["objectives"]]
    trials = [_trial_result(one) for one in study.get_trials(deepcopy=False) if one.state.name != "WAITING"]
    return SearchResults(out, description, objectives, trials, search_importance(study))


def _trial_result(trial: Any) -> TrialResult:
    attributes = trial.user_attrs
    failure = attributes.get("failure")
    state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}[trial.state.name]
    if failure is not None:
        state = "failed"
    if attributes.get("repeats") is not None:
        state = "repetition"
    return TrialResult(
        number=trial.number,
        state=state,
        values=json.loads(attributes.get("values", "{}")),
        objectives=list(trial.values) if trial.state.name == "COMPLETE" else [],
        scores=attributes.get("scores", {}),
        costs=attributes.get("costs", {}),
        history=[value for _, value in sorted(trial.intermediate_values.items())],
        epochs=attributes.get("epochs", []),
        seconds=attributes.get("seconds", 0.0),
        failure=None if failure is None else Failure(**failure),
        repeats=attributes.get("repeats"),
    )


_LEAST_TRIALS = 8
"""Complete trials from which the importance of parameters is estimated."""


def search_importance(study: Any) -> dict[str, float]:
    """Return the share of each parameter in what separates the best 30 % of the trials from the others.

    By the first objective: PED-ANOVA, Watanabe et al., IJCAI 2023.

    Args:
        study: of Optuna.

    Returns:
        Name -> share; empty with fewer than 8 complete trials or equal objectives.
    """
    import optuna

    complete = [one for one in study.get_trials(deepcopy=False) if one.state == optuna.trial.TrialState.COMPLETE]
    values = {one.values[0] for one in complete}
    if len(complete) < _LEAST_TRIALS or len(values) < 2:
        return {}
    sign = -1 if study.directions[0].name == "MAXIMIZE" else 1  # the evaluator takes low values as the better ones
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.3),
            target=lambda one: sign * one.values[0],
            normalize=True,
        )
    return {name: float(value) for name, value in found.items()}


def write_trials(path: Path, results: SearchResults) -> Path:
    """Write all trials as CSV: number, state, objectives, values, costs, seconds, failure."""
    names = list(results.description["space"])
    costs = sorted({name for one in results.trials for name in one.costs})
    head = ["trial", "state", *(one.name for one in results.objectives), *map(shown_name, names)]
    head += [f"cost: {name}" for name in costs] + ["epochs", "seconds", "failure"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        for one in results.trials:
            numbers: Sequence[Any] = one.objectives or [""] * len(results.objectives)
            row = [f"{one.number:04d}", one.state, *numbers, *(_cell(one.values.get(name)) for name in names)]
            row += [one.costs.get(name, "") for name in costs]
            failed = "" if one.failure is None else f"{one.failure.kind}: {one.failure.message}"
            writer.writerow([*row, " ".join(map(str, one.epochs)), f"{one.seconds:.1f}", failed])
    return path


def _cell(value: Any) -> Any:
    return "" if value is None else json.dumps(value) if isinstance(value, (list, bool)) else value
