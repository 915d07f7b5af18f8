"""Worker processes on this machine: start, feed, watch, end."""

import contextlib
import json
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vidseg.convert.conversion import Outcome
from vidseg.convert.options import ConvertOptions
from vidseg.frames.writer import TEMPORARY_SUFFIX
from vidseg.videos.listing import Job

__all__ = ["Worker", "run_local"]

_POLL_SECONDS = 0.5


class WorkerStartError(RuntimeError):
    """A worker process ended before it took a job."""


class Worker:
    """One worker process and the job it has.

    Args:
        jpg_folder: the data set's jpg/.
        options: the user's choices.
    """

    def __init__(self, jpg_folder: Path, options: ConvertOptions) -> None:
        self.jpg_folder = jpg_folder
        self.options = options
        self.job: Job | None = None
        self.frames = 0
        self._began = self._heard = 0.0
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - lives as long as the worker
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vidseg.convert.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def start(self, job: Job) -> None:
        """Hand over a job."""
        self.job, self.frames = job, 0
        self._began = self._heard = time.monotonic()
        request = {"job": asdict(job), "options": asdict(self.options), "jpg_folder": str(self.jpg_folder)}
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a dead worker is noticed when its answer is read
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def read(self) -> Outcome | None:
        """Take in one line of the worker; the outcome of its job once there is one."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            return self._lost(self._cause_of_death())
        self._heard = time.monotonic()
        message: dict[str, Any] = json.loads(line)
        self.frames = message.get("frames", self.frames)
        if "done" not in message:
            return None
        self.job = None
        return Outcome(**message["done"])

    def overdue(self) -> Outcome | None:
        """End a worker that hangs or takes too long; the outcome of its job then."""
        now = time.monotonic()
        limit = self.options.time_limit
        if self.job is None:
            return None
        if limit is not None and now - self._began > limit:
            return self._lost(f"took more than the time limit of {limit:g} s ({self.frames} frames done)")
        if now - self._heard > self.options.stall_limit:
            return self._lost(
                f"no new frame for {self.options.stall_limit:g} s after frame {self.frames}: decoder hangs"
            )
        return None

    def stop(self) -> None:
        """End the process, at once if it is in the middle of a job, and remove what it had begun to write."""
        if self.job is not None:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.process.wait()
        self._errors.close()
        if self.job is not None:
            folder = self.jpg_folder / self.job.target
            for leftover in folder.glob(f"*{TEMPORARY_SUFFIX}"):
                leftover.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # absent, or with an earlier conversion's database in it
                folder.rmdir()

    def _lost(self, reason: str) -> Outcome:
        job = self.job
        if job is None:
            self.stop()
            raise WorkerStartError(f"a conversion worker ended before it took a job: {reason}")
        self.stop()
        return Outcome(job.source, job.target, "failed", job.label, job.split, problem=reason)

    def _cause_of_death(self) -> str:
        code = self.process.wait()
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"the decoder crashed its worker ({cause})" + (f": {said[-1]}" if said else "")


def run_local(jobs: Iterable[Job], jpg_folder: Path, options: ConvertOptions) -> Generator[Outcome | int, None, None]:
    """Convert jobs with `options.workers` processes; yields each outcome as it comes.

    In between, about twice a second, yields the number of frames that the running jobs have so far, so that a caller
    can show progress. Closing the generator ends all workers and leaves nothing half-written.
    """
    waiting = iter(jobs)
    selector = selectors.DefaultSelector()
    workers: list[Worker] = []

    def employ(worker: Worker | None) -> None:
        job = next(waiting, None)
        if job is None:
            return
        if worker is None:
            worker = Worker(jpg_folder, options)
            workers.append(worker)
            selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
        worker.start(job)

    def dismiss(worker: Worker) -> None:
        workers.remove(worker)
        selector.unregister(worker.process.stdout)  # type: ignore[arg-type]

    try:
        for _ in range(options.worker_count()):
            employ(None)
        while any(worker.job for worker in workers):
            ready = {key.data for key, _ in selector.select(_POLL_SECONDS)}
            for worker in list(workers):
                # a dead worker's pipe is closed by `_lost`, so it leaves the selector first
                outcome = worker.read() if worker in ready else worker.overdue()
                if outcome is None:
                    continue
                alive = worker.process.returncode is None
                yield outcome
                if not alive:
                    dismiss(worker)
                employ(worker if alive else None)
            yield sum(worker.frames for worker in workers if worker.job)
    finally:
        for worker in workers:
            worker.stop()
        selector.close()
