"""What a run reports: log lines, score tables, events and the pictures for its loggers."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

import vidseg
from vidseg.engine import distributed
from vidseg.engine.event_file import EventFile
from vidseg.engine.loggers import (
    Done,
    EpochScores,
    IterationScores,
    Logger,
    Picture,
    RunStart,
    SavedCheckpoint,
    Status,
)
from vidseg.engine.monitors import ScoreTable, Speeds, iteration_line
from vidseg.engine.options import MonitorOptions
from vidseg.engine.sample_clips import clip_animation
from vidseg.engine.task import Task

__all__ = ["RunReports", "say"]

logger = logging.getLogger(__name__)

Split = Literal["train", "val"]


def say(line: str) -> None:
    """Log a line, in the first process."""
    if distributed.is_first():
        logger.info("%s", line)


class RunReports:
    """Reports of one run; a context, whose end closes the loggers. Other processes than the first one report nothing.

    Args:
        task: of the run.
        monitors: options.
        loggers: trackers, besides the event file.
        folder: of the run; exists.
        name: name of the network.
        done: how far the run is.
        batches: batches of an epoch.
        resume: the run continues, so earlier events are kept.
        splits: splits that have scores.
        facts: see `RunStart`.
    """

    def __init__(
        self,
        task: Task,
        monitors: MonitorOptions,
        *,
        loggers: Sequence[Logger],
        folder: Path,
        name: str,
        done: Done,
        batches: int,
        resume: bool,
        splits: Sequence[Split],
        facts: Mapping[str, Any],
    ) -> None:
        self.task, self.monitors, self.batches = task, monitors, batches
        self._trackers: list[Logger] = []
        self._events: EventFile | None = None
        self._tables: dict[str, ScoreTable] = {}
        if not distributed.is_first():
            return
        self._trackers = list(loggers)
        self._events = EventFile(folder, resume=resume)
        self._tables = {
            split: ScoreTable(folder / f"{split}_results_s{done[0] + 1:04d}.csv", self._columns(split))
            for split in splits
        }
        versions = {"vidseg": vidseg.__version__, "torch": torch.__version__, "python": sys.version.split()[0]}
        start = RunStart(self._events.run_id, folder, name, done, batches, {"versions": versions, **facts})
        self._tell("start", start)

    def __enter__(self) -> RunReports:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        stopped = kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit))
        status: Status = "complete" if kind is None else "interrupted" if stopped else "failed"
        text = "" if kind is None else f"{kind.__name__}: {error}"
        self._tell("close", status, text)

    def iteration(
        self,
        *,
        epoch: int,
        batch: int,
        scores: tuple[float, ...],
        speeds: Speeds,
        shape: Sequence[int],
        rate: float,
        scale: float | None,
    ) -> None:
        """Report a training iteration.

        Args:
            epoch: from 0.
            batch: from 0.
            scores: of the task's `train_columns`.
            speeds: times of the batch.
            shape: of the inputs of all processes.
            rate: learning rate.
            scale: loss scale, None without one.
        """
        logged = batch % self.log_every(self.batches) == 0
        if logged:
            line = iteration_line(
                epoch=epoch + 1,
                batch=batch,
                speed=speeds.text(),
                scores=self.task.scores_text(scores),
                shape=shape,
                lr=rate,
                extra=[*([] if scale is None else [f"scale = {scale:g}"]), speeds.limit()],
            )
            say(line)
        named = dict(zip(self.task.train_columns, scores, strict=True))
        number = epoch * self.batches + batch
        self._tell("iteration", IterationScores(epoch + 1, batch, number, named, rate, speeds, logged))

    def log_every(self, batches: int) -> int:
        """Return the number of batches between lines of the log, of an epoch or evaluation of `batches`."""
        return self.monitors.log_every or max(1, math.ceil(batches / 10))

    def epoch(
        self,
        split: Split,
        epoch: int,
        values: tuple[float, ...],
        *,
        done: Done,
        seconds: float,
        best: bool | None = None,
        result: Any = None,
    ) -> None:
        """Report the scores of an epoch, and draw what an evaluation found.

        Args:
            split: "train" or "val".
            epoch: from 0.
            values: scores.
            done: how far the run is.
            seconds: time they took.
            best: whether the validation is the best so far.
            result: of the evaluation.
        """
        say(self.task.epoch_text(split, epoch + 1, values))
        if split in self._tables:
            self._tables[split].append(epoch + 1, values)
        named = dict(zip(self._columns(split), values, strict=True))
        self._tell("epoch", EpochScores(split, epoch + 1, done, named, seconds, best))
        if result is not None and self._draws():
            with TemporaryDirectory() as folder:
                for path in self.task.draw(result, Path(folder)):
                    name = path.stem.replace("_", " ")
                    self._tell("picture", Picture(name, epoch + 1, path.read_bytes(), "png"))

    def inputs(self, epoch: int, batch: Any) -> None:
        """Report clips of a batch as a moving picture, where the task's inputs are clips."""
        if self._draws():
            clips = self.task.sample_clips(batch)
            if clips is not None:
                self._tell("picture", Picture("clips", epoch + 1, clip_animation(clips), "gif"))

    def checkpoint(self, path: Path, done: Done, *, best: bool, numbered: bool) -> None:
        """Report a checkpoint."""
        self._tell("checkpoint", SavedCheckpoint(path, done, best, numbered))

    def _draws(self) -> bool:
        return bool(self._trackers) and self.monitors.pictures

    def _columns(self, split: str) -> tuple[str, ...]:
        return self.task.train_columns if split == "train" else self.task.columns

    def _tell(self, method: str, *arguments: Any) -> None:
        """Call a method of all loggers; a tracker that fails is dropped, which is a warning in the events, too."""
        events = () if self._events is None else (self._events,)
        for one in events if method != "close" else ():
            getattr(one, method)(*arguments)
        for tracker in tuple(self._trackers):
            try:
                getattr(tracker, method)(*arguments)
            # Trackers raise errors of their own kinds for networks, accounts and quotas; none of them ends a run.
            except Exception as error:
                self._trackers.remove(tracker)
                text = " ".join(str(error).split()) or "no message"
                logger.warning(
                    "%s failed and gets nothing more of this run, which continues: %s: %.300s",
                    type(tracker).__name__,
                    type(error).__name__,
                    text,
                )
                logger.debug("%s", type(tracker).__name__, exc_info=True)
        for one in events if method == "close" else ():
            one.close(*arguments)
