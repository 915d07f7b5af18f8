"""events.jsonl: what happened in a run, for programs; one JSON object in each line.

Every line has "event", "time" (UTC) and "done": finished epochs, and finished batches of the next one. Events:

    start        run, name, resumed, and the facts of the start: options, versions, device, length of the run
    iteration    epoch, batch, number, scores, rate, seconds of its parts; as often as the log has a line
    scores       split, epoch, scores, seconds, and of a validation whether it is the best so far
    checkpoint   path, best, numbered
    warning      text
    end          status, error, seconds

A resumed run removes what lies behind its checkpoint and is trained again, so no epoch is lost or there twice.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from vidseg.engine.loggers import Done, EpochScores, IterationScores, Logger, RunStart, SavedCheckpoint, Status
from vidseg.frames.whole_file import whole_file

__all__ = ["EVENTS", "EventFile", "read_events"]

EVENTS = "events.jsonl"

logger = logging.getLogger(__name__)


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """Return the events of a file, or of the folder of a run.

    A last line that a killed process left incomplete is ignored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not an event.
    """
    path = Path(path)
    path = path / EVENTS if path.is_dir() else path
    lines = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines[:-1], 1):  # behind the last line break is an incomplete line, or nothing
        try:
            event = json.loads(line)
            epochs, batches = event["done"]
            found.append({**event, "done": (int(epochs), int(batches))})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}:{number}: not an event of a run ({error}); delete the line, or the file to start a new one"
            ) from error
    return found


class EventFile(Logger):
    """Writes events.jsonl of a run, and the warnings that vidseg logs meanwhile.

    Each line is handed to the system at once, and on the disk before a checkpoint is written.

    Args:
        folder: of the run.
        resume: keep the events of the run in the folder; the file is replaced otherwise.

    Raises:
        ValueError: a line of the file in the folder is not an event.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        self.path = folder / EVENTS
        self._earlier = read_events(self.path) if resume and self.path.is_file() else []
        starts = [event["run"] for event in self._earlier if event["event"] == "start"]
        self.run_id = str(starts[0]) if starts else uuid.uuid4().hex
        self._file: IO[bytes] | None = None
        self._done: Done = (0, 0)
        self._lock = threading.Lock()  # threads of the loader warn, too
        self._warnings = _Warnings(self)
        self._began = time.monotonic()

    def start(self, run: RunStart) -> None:
        """See `Logger.start`; removes events that lie behind the checkpoint."""
        self._done = run.done
        kept = [event for event in self._earlier if event["done"] <= run.done]
        self._earlier = []
        with whole_file(self.path, sync=True) as temporary:
            temporary.write_bytes(b"".join(map(_line, kept)))
        self._file = self.path.open("ab")
        self._write("start", run=run.run_id, name=run.name, resumed=run.resumed, batches=run.batches, **run.facts)
        logging.getLogger("vidseg").addHandler(self._warnings)

    def iteration(self, iteration: IterationScores) -> None:
        """See `Logger.iteration`."""
        self._done = (iteration.epoch - 1, iteration.batch + 1)
        if iteration.logged:
            self._write(
                "iteration",
                epoch=iteration.epoch,
                batch=iteration.batch,
                number=iteration.number,
                scores=dict(iteration.scores),
                rate=iteration.rate,
                seconds=asdict(iteration.speeds),
            )

    def epoch(self, scores: EpochScores) -> None:
        """See `Logger.epoch`."""
        self._done = scores.done
        best = {} if scores.best is None else {"best": scores.best}
        self._write(
            "scores", split=scores.split, epoch=scores.epoch, scores=dict(scores.scores), seconds=scores.seconds, **best
        )
        if self._file is not None:
            os.fsync(self._file.fileno())

    def checkpoint(self, saved: SavedCheckpoint) -> None:
        """See `Logger.checkpoint`."""
        self._done = saved.done
        self._write("checkpoint", path=saved.path.name, best=saved.best, numbered=saved.numbered)

    def warning(self, text: str) -> None:
        """Record a warning of the log."""
        self._write("warning", text=text)

    def close(self, status: Status, error: str) -> None:
        """See `Logger.close`."""
        logging.getLogger("vidseg").removeHandler(self._warnings)
        self._write("end", status=status, error=error, seconds=time.monotonic() - self._began)
        with self._lock:
            if self._file is not None:
                os.fsync(self._file.fileno())
                self._file.close()
                self._file = None

    def _write(self, event: str, **content: Any) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        with self._lock:
            if self._file is not None:
                self._file.write(_line({"event": event, "time": now, "done": self._done, **content}))
                self._file.flush()


class _Warnings(logging.Handler):
    """Passes warnings of the log to an event file."""

    def __init__(self, events: EventFile) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        """Record the text of a warning."""
        self._events.warning(record.getMessage())


def _line(event: Mapping[str, Any]) -> bytes:
    """Return one line; numbers that are not finite become null, which JSON has no other value for."""
    return json.dumps(_finite(event), ensure_ascii=False, allow_nan=False, default=str).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value
