"""The search: asks for values, trains trials in processes of their own, reports validations, and prunes.

Everything is in the folder of the search:

    search.db       Optuna study: values, validations and outcome of every trial
    trials/0007/    the run of trial 7, see `vidseg.search.trial`
    search.json     results as data; trials.csv and report.html show them

The search is one loop in one thread. A trial's values are a function of the seed, its number and the trials that were
finished when it started, so a search with one job repeats exactly, also one that was killed and continued.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidseg.labels.counting import counted
from vidseg.labels.json_files import write_json
from vidseg.search.costs import CostMeter, over_budget
from vidseg.search.program import TrainProgram
from vidseg.search.results import SearchResults, results_of, values_text, write_trials
from vidseg.search.scores import RunScores, mean_scores, read_run_scores
from vidseg.search.search_options import SearchOptions
from vidseg.search.slots import Slots
from vidseg.search.space import SearchSpace
from vidseg.search.storage import (
    STORAGE,
    create_storage,
    load_optuna,
    make_pruner,
    make_sampler,
    only_search,
    trial_seed,
)
from vidseg.search.suggested_values import first_values, stored_value, suggested
from vidseg.search.trial import LOG, Failure, explain_failure, train_launch, trial_folder, write_trial
from vidseg.search.trial_process import Launch, LocalProcess, Process
from vidseg.tasks.flow.options import SHAPES

__all__ = ["search"]

logger = logging.getLogger(__name__)

_DEFAULT_TRIALS = 20
_POLL_SECONDS = 0.1
_USELESS = 30
"""Candidates in a row that are over the budget or repeat a trial, after which the search ends."""
_HOPELESS = 3
"""Failures before the first complete trial after which the search ends, as all trials would fail alike."""
_LEFT = (STORAGE, "trials", "repeat", "pictures", "search.json", "trials.csv", "repeat.json", "report.html")
"""What a search leaves in its folder."""
_LESSONS = ("out of memory", "diverged")
"""Failures that the values cause: the sampler avoids such values."""


@dataclass
class _Running:
    """A trial whose process runs."""

    trial: Any
    values: dict[str, Any]
    process: Process
    slot: int
    folder: Path
    started: float
    before: float
    reported: int = 0
    scores: list[RunScores] = field(default_factory=list)

    @property
    def number(self) -> int:
        return int(self.trial.number)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started


def search(
    space: SearchSpace, data: str | Path, *, program: TrainProgram, options: SearchOptions, out: str | Path
) -> SearchResults:
    """Search as the file of the space and the options say, and write the results into `out`.

    A search in the folder is continued: finished trials are kept, and trials that were running continue from their
    checkpoints.

    Args:
        space: of `bound_space`.
        data: folder of the data set.
        program: what trains.
        options: of this start.
        out: folder of the search.

    Raises:
        ImportError: Optuna or Ray is not installed.
        OSError: another process searches in the folder.
        RuntimeError: the first trials failed alike.
        ValueError: the folder holds another search, or the runs do not have the score.
    """
    out, data = Path(out), _dataset(data, program)
    optuna = load_optuna()
    with only_search(out):
        if options.overwrite:
            _remove(out)
        description = {**space.identity(), "task": program.task, "dataset": str(data)}
        study = create_storage(out, description, space.objectives)
        jobs = options.jobs or space.jobs or 1
        with Slots(jobs, threads=options.threads(jobs), gpus=options.gpus_per_trial, ray=options.ray) as slots:
            start: Callable[[Launch], Process] = LocalProcess
            if options.ray:
                start = slots.ray_process
            loop = _Loop(study, space, program, data, out, options, slots, start, optuna)
            try:
                loop.run()
            finally:
                loop.stop()
                results = results_of(study, out)
                write_json(out / "search.json", results.summary())
                write_trials(out / "trials.csv", results)
    return results


def _dataset(data: str | Path, program: TrainProgram) -> Path:
    """The data set as trials name it: an absolute path, or the generated pairs of optical flow."""
    return Path(data) if program.task == "flow" and str(data) == SHAPES else Path(data).resolve()


def _remove(out: Path) -> None:
    """Remove what a search has left in its folder."""
    for name in _LEFT:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class _Loop:
    def __init__(
        self,
        study: Any,
        space: SearchSpace,
        program: TrainProgram,
        data: Path,
        out: Path,
        options: SearchOptions,
        slots: Slots,
        start: Callable[[Launch], Process],
        optuna: Any,
    ) -> None:
        self.study, self.space, self.program, self.out = study, space, program, out
        self.slots, self.start, self.states = slots, start, optuna.trial.TrialState
        self.trial_type = optuna.trial.Trial
        hours = options.time or space.time
        self.end = math.inf if hours is None else time.monotonic() + 3600 * hours
        self.limit = options.trials or space.trials or (_DEFAULT_TRIALS if hours is None else None)
        self.fixed = {**space.options, "dataset": str(data)}
        self.threads = slots.threads
        if "threads" in program.types and "threads" not in {*space.options, *space.parameters}:
            self.fixed["threads"] = self.threads
        self.base = self._base()
        self.validations = math.ceil(self.base.get("epochs", 1) / self.base.get("test_every", 1))
        self.study.pruner = make_pruner(space.pruner, trials=self.limit, validations=self.validations)
        names = {one.name for one in space.objectives if one.cost} | set(space.budget)
        self.meter = CostMeter(data, program.task, tuple(sorted(names)), self.threads)
        self.grid = list(space.combinations(self.base)) if space.method == "grid" else None
        self.running: list[_Running] = []
        self.useless = 0
        self.ended = False

    def _base(self) -> dict[str, Any]:
        try:
            return self.program.options(self.fixed)
        except ValueError:  # valid with the values of a trial, see `bound_space`
            return dict(self.fixed)

    def run(self) -> None:
        """Continue the trials that were running, and start others until a limit is reached."""
        for frozen in self.study.get_trials(deepcopy=False, states=(self.states.RUNNING,)):
            self._wait_for_slot()
            self._begin(self.trial_type(self.study, frozen._trial_id), continued=True)
        while not self._over():
            if self.slots.free and self._wanted():
                self._ask()
            elif self.running:
                self._poll()
            else:
                return

    def stop(self) -> None:
        """Stop the trials that run; they continue at the next start."""
        for one in self.running:
            one.process.stop()
            self.study._storage.set_trial_user_attr(one.trial._trial_id, "seconds", one.seconds)
        if self.running:
            logger.info("%s stopped; the same command continues", counted(len(self.running), "trial"))
        self.running.clear()

    def _over(self) -> bool:
        return time.monotonic() >= self.end

    def _wanted(self) -> bool:
        """Whether another trial shall start."""
        if self.ended:
            return False
        if self.useless >= _USELESS:
            logger.info("%d candidates in a row were over the budget or known; the search ends", _USELESS)
            self.ended = True
        elif self.limit is not None:
            trials = self.study.get_trials(deepcopy=False)
            self.ended = sum(not self._skipped(one) for one in trials) >= self.limit
        return not self.ended

    @staticmethod
    def _skipped(trial: Any) -> bool:
        """Whether a trial was refused before training or repeats another one; it does not count."""
        failure = trial.user_attrs.get("failure") or {}
        return trial.user_attrs.get("repeats") is not None or failure.get("kind") == "over budget"

    def _wait_for_slot(self) -> None:
        while not self.slots.free and not self._over():
            self._poll()

    def _ask(self) -> None:
        """Start the next trial."""
        trials = self.study.get_trials(deepcopy=False)
        waiting = next((one.number for one in trials if one.state == self.states.WAITING), None)
        number = len(trials) if waiting is None else waiting
        if self.grid is not None and waiting is None:
            if number >= len(self.grid):
                self.ended = True
                return
            values = self.grid[number]
            self.study.enqueue_trial(
                {name: stored_value(self.space.parameters[name], value) for name, value in values.items()}
            )
        elif number == 0 and waiting is None and (values := first_values(self.space, self.base)):
            self.study.enqueue_trial(values)  # of the recipe
        self._set_sampler(number)
        self._begin(self.study.ask())

    def _set_sampler(self, number: int) -> None:
        self.study.sampler = make_sampler(
            self.space.method,
            trials=self.limit,
            seed=trial_seed(self.space.seed, number),
            parallel=self.slots.count > 1,
            conditions=any(one.when for one in self.space.parameters.values()),
        )

    def _begin(self, trial: Any, *, continued: bool = False) -> None:
        """Suggest values, and train with them unless they are refused or known."""
        if continued:  # a killed search may have left it before all values were drawn
            self._set_sampler(trial.number)
        values = suggested(trial, self.space, self.base)
        trial.set_user_attr("values", json.dumps(values))
        if not continued and self._repeats(trial, values):
            return
        given = {**self.fixed, **values}
        try:
            resolved = self.program.options(given)
            costs = trial.user_attrs.get("costs") if continued else None
            if costs is None:
                costs = self.meter.measure(resolved)
                trial.set_user_attr("costs", costs)
        except (ValueError, TypeError) as error:
            self._fail(trial, Failure("refused", str(error)))
            return
        if excess := over_budget(costs, self.space.budget):
            self.useless += 1
            self._fail(trial, Failure("over budget", excess))
            return
        self.useless = 0
        folder = trial_folder(self.out, trial.number)
        write_trial(folder, self.program, given, threads=self.threads, trial=trial.number)
        slot, gpus = self.slots.take()
        process = self.start(train_launch(folder, self.program, threads=self.threads, gpus=gpus))
        before = trial.user_attrs.get("seconds", 0.0) if continued else 0.0
        one = _Running(trial, values, process, slot, folder, time.monotonic(), before)
        one.reported = len(self._frozen(trial).intermediate_values)
        self.running.append(one)
        logger.info("trial %04d %s: %s", trial.number, "continues" if continued else "starts", values_text(values))
        if one.reported and (scores := read_run_scores(folder, self.program.task)):
            one.scores = scores
            self._prune(one)  # the search may have been killed before it recorded this

    def _frozen(self, trial: Any) -> Any:
        return self.study._storage.get_trial(trial._trial_id)

    def _repeats(self, trial: Any, values: Mapping[str, Any]) -> bool:
        """Whether a trial with these values exists, whose result is taken: training is a function of its options."""
        text = json.dumps(values)
        for other in self.study.get_trials(deepcopy=False):
            if other.number == trial.number or other.user_attrs.get("values") != text:
                continue
            trial.set_user_attr("repeats", other.number)
            self.useless += 1
            if other.state == self.states.COMPLETE:
                self.study.tell(trial, list(other.values))
            else:
                self.study.tell(trial, state=self.states.FAIL)
            return True
        return False

    def _poll(self) -> None:
        """Look after every running trial once; waits a moment if nothing has happened."""
        busy = False
        for one in list(self.running):
            status = one.process.poll()
            busy |= self._read(one)
            if one not in self.running:
                continue
            if status is not None:
                busy = True
                self._finish(one, status)
        if not busy:
            time.sleep(_POLL_SECONDS)

    def _read(self, one: _Running) -> bool:
        """Report new validations of a trial, and prune it; whether there was one."""
        one.scores = read_run_scores(one.folder, self.program.task)
        if len(self.space.objectives) > 1 or not one.scores:
            return False
        name = self.space.objectives[0].name
        values = [value for scores in one.scores for value in self._column(scores, name)]
        new = values[one.reported :]
        for value in new:
            one.reported += 1
            one.trial.report(value, one.reported)
            if self._prune(one):
                break
        return bool(new)

    def _prune(self, one: _Running) -> bool:
        """Stop a trial that the pruner gives up; never at its last validation, which decides nothing anymore.

        The decision depends on the validations alone, not on how far the process is.
        """
        if one.reported >= self.validations or not one.trial.should_prune():
            return False
        self._end(one)
        place = one.scores[0].best(one.reported)
        if place is not None:
            self._record(one, one.scores[0].at(place), [one.scores[0].epochs[place]])
        self.study.tell(one.trial, state=self.states.PRUNED)
        logger.info("trial %04d: pruned after validation %d of %d", one.number, one.reported, self.validations)
        return True

    def _column(self, scores: RunScores, name: str) -> list[float]:
        if name not in scores.columns:
            raise ValueError(
                f"{self.space.path}: objectives: the runs have no score {name!r} on this data set; they have "
                f"{', '.join(scores.columns)}"
            )
        return scores.columns[name]

    def _end(self, one: _Running) -> None:
        """Stop the process of a trial and free its place."""
        one.process.stop()
        self.running.remove(one)
        self.slots.give(one.slot)

    def _record(self, one: _Running, scores: Mapping[str, float], epochs: list[int]) -> None:
        one.trial.set_user_attr("scores", {name: value for name, value in scores.items() if math.isfinite(value)})
        one.trial.set_user_attr("epochs", epochs)
        one.trial.set_user_attr("seconds", one.seconds)

    def _finish(self, one: _Running, status: int) -> None:
        """Record the result of a trial whose process has ended."""
        self._end(one)
        found = mean_scores(one.scores)
        if status:
            one.trial.set_user_attr("seconds", one.seconds)
            self._fail(one.trial, explain_failure(status, one.folder / LOG))
            return
        if found is None:
            raise ValueError(
                f"{one.folder}: the run has no validation scores, which a search compares; the data set needs "
                "validation videos, and segmentation the option select: validation"
            )
        scores, epochs = found
        self._record(one, scores, epochs)
        values = []
        for objective in self.space.objectives:
            if not objective.cost:
                self._column(one.scores[0], objective.name)
            values.append((one.trial.user_attrs["costs"] if objective.cost else scores)[objective.name])
        self.study.tell(one.trial, values)
        text = ", ".join(f"{each.name} {value:.5g}" for each, value in zip(self.space.objectives, values, strict=True))
        logger.info("trial %04d: %s, epoch %s, %.0f s", one.number, text, " ".join(map(str, epochs)), one.seconds)

    def _fail(self, trial: Any, failure: Failure) -> None:
        """Record a failure, from which the sampler learns where the values are the cause."""
        trial.set_user_attr("failure", vars(failure))
        learned = failure.kind in _LESSONS and len(self.space.objectives) == 1
        self.study.tell(trial, state=self.states.PRUNED if learned else self.states.FAIL)
        level = logging.INFO if failure.kind == "over budget" else logging.WARNING
        logger.log(level, "trial %04d: %s: %s", trial.number, failure.kind, failure.message)
        self._check_hopeless(trial.number)

    def _check_hopeless(self, number: int) -> None:
        trials = self.study.get_trials(deepcopy=False)
        if any(one.state == self.states.COMPLETE for one in trials):
            return
        messages = [
            one.user_attrs["failure"]["message"]
            for one in trials
            if one.user_attrs.get("failure", {}).get("kind") in ("refused", "error", "killed")
        ]
        if len(messages) >= _HOPELESS:
            raise RuntimeError(
                f"the first trials failed, the last one with: {messages[-1]}; see "
                f"{trial_folder(self.out, number) / LOG}; try `vidseg train` with these options, then --overwrite"
            )
