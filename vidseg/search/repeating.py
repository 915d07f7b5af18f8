"""The best values of a search and the options without them, each trained with several seeds, and compared.

    OUT/repeat/baseline/seed_0002/      run of the options that the search did not change
    OUT/repeat/trial_0007/seed_0002/    run of the best trial's values

The seeds are not that of the trials, which the search has selected on.
"""

from __future__ import annotations

import json
import logging
import shutil
import statistics
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vidseg.labels.json_files import write_json
from vidseg.metrics import sign_flip_test
from vidseg.search.program import TrainProgram
from vidseg.search.results import SearchResults, values_text
from vidseg.search.scores import mean_scores, read_run_scores, read_test_scores
from vidseg.search.search_options import SearchOptions
from vidseg.search.slots import Slots
from vidseg.search.storage import only_search
from vidseg.search.trial import LOG, OPTIONS, Failure, explain_failure, train_launch, write_trial
from vidseg.search.trial_process import Launch, LocalProcess, Process

__all__ = ["Repetition", "Setting", "repeat_best"]

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_SCORES = "seed_scores.json"
_LEVEL = 0.05


@dataclass
class Setting:
    """Options that were trained with several seeds.

    Attributes:
        name: "baseline", or the trial.
        values: searched options by name; empty for the baseline.
        validation: score of the objective on the validation videos, by seed.
        test: the same on the test videos, by seed; empty without a test.
        failures: why a seed has no score.
    """

    name: str
    values: dict[str, Any]
    validation: dict[int, float] = field(default_factory=dict)
    test: dict[int, float] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)


@dataclass(frozen=True)
class Repetition:
    """Comparison of the best trial with the baseline over seeds; `str()` is a table.

    Attributes:
        score: name of the objective.
        direction: which values are better.
        baseline: the options without the search.
        best: the values of the best trial.
        test_is_validation: whether the tested videos are those that selected the epoch.
    """

    score: str
    direction: str
    baseline: Setting
    best: Setting
    test_is_validation: bool = False

    def differences(self, part: str) -> list[float]:
        """Return the differences of the seeds that both settings have, best minus baseline.

        Args:
            part: "validation" or "test".
        """
        first, second = getattr(self.baseline, part), getattr(self.best, part)
        return [second[seed] - first[seed] for seed in first if seed in second]

    def p_value(self, part: str) -> float | None:
        """Return the p-value of the sign-flip test over seeds; None with fewer than two pairs."""
        found = self.differences(part)
        return sign_flip_test(found) if len(found) > 1 else None

    def summary(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        parts = {
            part: {"differences": self.differences(part), "p": self.p_value(part)} for part in ("validation", "test")
        }
        return {**asdict(self), "paired": parts}

    def rows(self) -> list[list[str]]:
        """Return the cells of the table: setting, seeds, validation, test."""
        return [
            [one.name, str(len(one.validation)), _spread(one.validation), _spread(one.test)]
            for one in (self.baseline, self.best)
        ]

    def lines(self) -> list[str]:
        """Return the paired differences and failures, in sentences."""
        lines = []
        for part in ("validation", "test"):
            found, p = self.differences(part), self.p_value(part)
            if p is None:
                continue
            mean = statistics.mean(found)
            text = (
                f"{part}: {self.best.name} minus baseline {mean:+.4g}, p = {p:.3g} (sign-flip test, {len(found)} seeds)"
            )
            smallest = 2 / 2 ** len(found)
            if p <= _LEVEL:
                text += ": unlikely to be chance"
            elif smallest > _LEVEL:
                text += f"; with {len(found)} seeds p is at least {smallest:.3g}"
            else:
                text += ": may be chance"
            lines.append(text)
        if self.test_is_validation:
            lines.append("the data set has no test videos of its own: the test is on the validation videos")
        for one in (self.baseline, self.best):
            for seed, failure in one.failures.items():
                lines.append(f"{one.name}, seed {seed}: {failure.kind}: {failure.message}")
        return lines

    def __str__(self) -> str:
        rows = [["setting", "seeds", f"validation {self.score}", f"test {self.score}"], *self.rows()]
        widths = [max(len(row[place]) for row in rows) + 2 for place in range(4)]
        table = [
            f"{row[0]:{widths[0]}}"
            + "".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
            for row in rows
        ]
        return "\n".join([*table, *self.lines(), f"{self.best.name}: {values_text(self.best.values)}"])


def _spread(values: Mapping[int, float]) -> str:
    """Mean and sample standard deviation."""
    if not values:
        return "-"
    numbers = list(values.values())
    spread = f" ± {statistics.stdev(numbers):.2g}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.4g}{spread}"


@dataclass
class _Work:
    """One run: training, then the test where the task's training has none."""

    setting: Setting
    seed: int
    folder: Path
    launches: deque[Launch]
    process: Process | None = None
    slot: int = -1


def repeat_best(results: SearchResults, program: TrainProgram, *, seeds: int, options: SearchOptions) -> Repetition:
    """Train the best trial's values and the baseline with several seeds, and compare them.

    Finished runs are kept, and runs that were killed continue.

    Args:
        results: of a search with a complete trial.
        program: of the search.
        seeds: number of seeds.
        options: jobs, threads and GPUs of this start.

    Raises:
        OSError: another process searches in the folder.
        ValueError: the search has no complete trial.
    """
    best = results.best
    if best is None:
        raise ValueError(f"{results.folder}: no trial is complete, so there are no best values to repeat")
    objective = next(one for one in results.objectives if not one.cost)
    record = json.loads((results.folder / "trials" / f"{best.number:04d}" / OPTIONS).read_text(encoding="utf-8"))
    fixed = {**results.description["options"], "dataset": results.description["dataset"]}
    own = int(program.options({**fixed, **best.values})["seed"])
    settings = [Setting("baseline", {}), Setting(f"trial_{best.number:04d}", best.values)]
    jobs = options.jobs or 1
    works = []
    with (
        only_search(results.folder),
        Slots(jobs, threads=options.threads(jobs), gpus=options.gpus_per_trial, ray=options.ray) as slots,
    ):
        for number in range(1, seeds + 1):
            for setting in settings:
                values = {**fixed, **setting.values, "seed": own + number}
                if "threads" in record["options"]:
                    values.setdefault("threads", slots.threads)
                folder = results.folder / "repeat" / setting.name / f"seed_{own + number:04d}"
                works.append(_prepare(folder, program, values, setting, own + number, slots.threads))
        _run_all(works, slots, program, slots.ray_process if options.ray else LocalProcess)
    for work in works:
        _collect(work, program, objective.name)
    baseline, repeated = settings
    selected_on = _selected_on(works[0].folder)
    repetition = Repetition(objective.name, objective.direction, baseline, repeated, selected_on)
    write_json(results.folder / "repeat.json", repetition.summary())
    return repetition


def _prepare(
    folder: Path, program: TrainProgram, values: Mapping[str, Any], setting: Setting, seed: int, threads: int
) -> _Work:
    """The processes that a run still needs; a run of other options is removed."""
    path = folder / OPTIONS
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))["options"]
        wanted = json.loads(json.dumps(program.given(values)))
        if {**known, "threads": None} != {**wanted, "threads": None}:  # their number may change with --jobs
            shutil.rmtree(folder)
    launches: deque[Launch] = deque()
    if not (folder / _SCORES).is_file():
        write_trial(folder, program, values, threads=threads, setting=setting.name)
        launches.append(train_launch(folder, program, threads=threads))
        if program.task == "recognition":
            launches.append(Launch((*program.test, str(folder)), str(folder / LOG), threads))
    return _Work(setting, seed, folder, launches)


def _run_all(works: list[_Work], slots: Slots, program: TrainProgram, start: Any) -> None:
    waiting = deque(work for work in works if work.launches)
    running: list[_Work] = []
    try:
        while waiting or running:
            while waiting and slots.free:
                work = waiting.popleft()
                work.slot, gpus = slots.take()
                work.launches = deque(Launch(one.command, one.log, one.threads, gpus) for one in work.launches)
                work.process = start(work.launches.popleft())
                running.append(work)
                logger.info("%s, seed %d starts", work.setting.name, work.seed)
            for work in list(running):
                assert work.process is not None
                status = work.process.poll()
                if status is None:
                    continue
                if status:
                    work.setting.failures[work.seed] = explain_failure(status, work.folder / LOG)
                elif work.launches:
                    work.process = start(work.launches.popleft())
                    continue
                running.remove(work)
                slots.give(work.slot)
                if not status:
                    _save_scores(work.folder, program.task)
            time.sleep(_POLL_SECONDS)
    finally:
        for work in running:
            assert work.process is not None
            work.process.stop()


def _save_scores(folder: Path, task: str) -> None:
    found = mean_scores(read_run_scores(folder, task))
    write_json(
        folder / _SCORES, {"validation": None if found is None else found[0], "test": read_test_scores(folder, task)}
    )


def _collect(work: _Work, program: TrainProgram, score: str) -> None:
    path = work.folder / _SCORES
    if not path.is_file():
        return
    scores = json.loads(path.read_text(encoding="utf-8"))
    for part in ("validation", "test"):
        if score in (scores[part] or {}):
            getattr(work.setting, part)[work.seed] = scores[part][score]


def _selected_on(folder: Path) -> bool:
    """Whether a run was tested on the videos that selected its epoch."""
    path = folder / "test.json"
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("selected_on", False))
