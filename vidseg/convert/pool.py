"""Local worker processes: start, job assignment, supervision and shutdown."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

from vidseg.convert.conversion import Outcome
from vidseg.frames.open_files import allow_open_files
from vidseg.frames.writer import remove_temporary_files
from vidseg.labels.counting import counted
from vidseg.videos.listing import Job

__all__ = ["PoolOptions", "Worker", "run_local"]

_COMMAND = (sys.executable, "-m", "vidseg.convert.worker")
_POLL_SECONDS = 0.5
_START_SECONDS = 600.0  # imports from a cold network disk take minutes
_READ_BYTES = 65536
_FILES_PER_WORKER = 3  # two pipes and a file for its messages
# A signal for the process group, or one that a scheduler sends to every process of a job, stops the parent, which then
# stops its workers.
_PARENT_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class PoolOptions(Protocol):
    """What the pool reads of the options of a run, a dataclass that the workers receive as JSON."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def time_limit(self) -> float | None:
        """Maximum time per video in seconds."""

    @property
    def stall_limit(self) -> float:
        """Maximum time without a new frame in seconds."""

    def worker_count(self) -> int:
        """Return the number of workers to start."""


class WorkerStartError(RuntimeError):
    """Raised when a worker process exits, or hangs, before it starts its first job."""


class Worker:
    """One worker process and its current job.

    Args:
        jpg_folder: the data set's jpg/ folder.
        options: options of the run.
        module: module that the process runs; None: the worker of conversions.
    """

    def __init__(self, jpg_folder: Path, options: PoolOptions, module: str | None = None) -> None:
        self.jpg_folder = jpg_folder
        self.options = options
        self.job: Job | None = None
        self.frames = 0
        self._assigned = 0.0
        self._began: float | None = None
        self._heard = 0.0
        self._unread = b""
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the worker
        with _blocked(_PARENT_SIGNALS):  # the worker inherits this and ignores the signals from its first instruction
            self.process = subprocess.Popen(
                [*(_COMMAND if module is None else (*_COMMAND[:-1], module)), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )

    def start(self, job: Job) -> None:
        """Send a job to the worker."""
        self.job, self.frames = job, 0
        self._assigned, self._began = time.monotonic(), None
        request = {"job": asdict(job), "options": asdict(self.options), "jpg_folder": str(self.jpg_folder)}
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a dead worker is detected on the next read
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def read(self) -> Outcome | None:
        """Read every message that the worker has sent; return the outcome once the job is done, else None.

        Call it when the pipe is readable, because it waits for at least one byte.
        """
        assert self.process.stdout is not None
        # Not readline(): its buffer would hold further lines, which a selector on the pipe does not report.
        received = os.read(self.process.stdout.fileno(), _READ_BYTES)
        if not received:
            return self._lost(self._exit_reason())
        *lines, self._unread = (self._unread + received).split(b"\n")
        outcome = None
        for line in lines:
            outcome = self._take(json.loads(line)) or outcome
        return outcome

    def _take(self, message: dict[str, Any]) -> Outcome | None:
        self._heard = time.monotonic()
        if "began" in message:
            self._began = self._heard
        self.frames = message.get("frames", self.frames)
        if "done" not in message:
            return None
        self.job = None
        return Outcome(**message["done"])

    def overdue(self) -> Outcome | None:
        """Stop a worker that exceeds a time limit and return the outcome of its job, else None.

        The time limits of a video start when the worker has imported its modules and begins with the video.
        """
        now = time.monotonic()
        limit = self.options.time_limit
        if self.job is None:
            return None
        if self._began is None:
            if now - self._assigned > _START_SECONDS:
                self.stop()
                raise WorkerStartError(
                    f"a worker process did not start within {_START_SECONDS:g} s; check the disk that Python and "
                    "its packages are on"
                )
            return None
        if limit is not None and now - self._began > limit:
            return self._lost(f"exceeded the time limit of {limit:g} s after {counted(self.frames, 'frame')}")
        if now - self._heard > self.options.stall_limit:
            return self._lost(
                f"no new frame for {self.options.stall_limit:g} s after frame {self.frames}: the decoder hangs"
            )
        return None

    def stop(self) -> None:
        """Stop the process, also in the middle of a job, and delete its temporary files."""
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
            remove_temporary_files(folder)
            with contextlib.suppress(OSError):  # missing, or holds the database of an earlier conversion
                folder.rmdir()

    def _lost(self, reason: str) -> Outcome:
        job = self.job
        if job is None:
            self.stop()
            raise WorkerStartError(f"a worker process exited before it accepted a job: {reason}")
        self.stop()
        return Outcome(job.source, job.target, "failed", job.label, job.split, problem=reason)

    def _exit_reason(self) -> str:
        code = self.process.wait()
        self._errors.seek(0)
        output = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"the worker process crashed while decoding ({cause})" + (f": {output[-1]}" if output else "")


@contextlib.contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Hold back signals for this thread; they arrive at the end of the context."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_local(
    jobs: Iterable[Job], jpg_folder: Path, options: PoolOptions, module: str | None = None
) -> Generator[Outcome | int, None, None]:
    """Do jobs, such as conversions, in worker processes on this machine.

    Closing the generator stops all workers and deletes their temporary files.

    Args:
        jobs: the jobs.
        jpg_folder: the data set's jpg/ folder.
        options: options of the run.
        module: module that each process runs, which calls `vidseg.convert.worker.serve`; None: the worker of
            conversions.

    Yields:
        The outcome of each job as it finishes and, about twice a second, the number of frames that the running jobs
        have finished so far.
    """
    waiting = iter(jobs)
    selector = selectors.DefaultSelector()
    workers: list[Worker] = []

    def assign(worker: Worker | None) -> None:
        job = next(waiting, None)
        if job is None:
            return
        if worker is None:
            worker = Worker(jpg_folder, options, module)
            workers.append(worker)
            selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
        worker.start(job)

    def release(worker: Worker) -> None:
        workers.remove(worker)
        selector.unregister(worker.process.stdout)  # type: ignore[arg-type]

    count = options.worker_count()
    allow_open_files(_FILES_PER_WORKER * count, f"a run with {count} workers")
    try:
        for _ in range(count):
            assign(None)
        while any(worker.job for worker in workers):
            ready = {key.data for key, _ in selector.select(_POLL_SECONDS)}
            for worker in list(workers):
                # `_lost` closes the pipe of a dead worker, so the selector has to drop it first
                outcome = worker.read() if worker in ready else worker.overdue()
                if outcome is None:
                    continue
                alive = worker.process.returncode is None
                yield outcome
                if not alive:
                    release(worker)
                assign(worker if alive else None)
            yield sum(worker.frames for worker in workers if worker.job)
    finally:
        for worker in workers:
            worker.stop()
        selector.close()
