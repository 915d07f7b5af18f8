"""The threads that run the jobs of a store."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from vidseg.serve.job_store import Job, JobStore
from vidseg.serve.predictors import PredictOptions, Predictor, upload_in
from vidseg.serve.request_progress import CanceledError, Progress, TimeLimitError
from vidseg.serve.serve_options import ServeOptions
from vidseg.serve.upload_checks import RequestError

__all__ = ["JobRunner"]

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 0.2  # between two writes of the progress of a job
_POLL_SECONDS = 1.0  # between two looks for jobs of other servers, and after an error of the store


class JobRunner:
    """Threads that run the jobs of a store.

    Args:
        store: the jobs.
        predictors: models by name.
        options: limits, and number of threads.
        observe: called with the state and the seconds of each ended job.
    """

    def __init__(
        self,
        store: JobStore,
        predictors: Mapping[str, Predictor],
        options: ServeOptions,
        observe: Callable[[str, float], None],
    ) -> None:
        self.store, self.predictors, self.options, self.observe = store, predictors, options, observe
        self._wake = threading.Condition()
        self._added, self._stopping = 0, False
        self._threads = [
            threading.Thread(target=self._work, name=f"vidseg-job-{number}", daemon=True)
            for number in range(options.job_workers)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def notify(self) -> None:
        """Wake a thread: a job was added."""
        with self._wake:
            self._added += 1
            self._wake.notify()

    def stop(self) -> None:
        """End the threads; running jobs end at their next check and wait for the next server."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stopping:
            seen, failed, job = self._added, False, None
            try:
                if self.store.shared:
                    self.store.recover()
                job = self.store.claim()
            except (sqlite3.Error, OSError):  # such as a full disk, or a lock that was held for too long
                logger.exception("the store of jobs failed")
                failed = True
            if job is not None:
                self._run(job)
                continue
            pause = _POLL_SECONDS if failed or self.store.shared else None
            with self._wake:
                if self._added == seen and not self._stopping:
                    self._wake.wait(pause)

    def _run(self, job: Job) -> None:
        begin, state = time.monotonic(), "failed"
        checked, canceled = 0.0, False

        def ended() -> bool:
            """Whether the job was canceled, or the server stops; the store is asked now and then."""
            nonlocal checked, canceled
            now = time.monotonic()
            if now - checked >= _REPORT_SECONDS:
                checked, canceled = now, self.store.is_canceled(job)
            return canceled or self._stopping

        reported = 0.0

        def report(done: float) -> None:
            nonlocal reported
            now = time.monotonic()
            if now - reported >= _REPORT_SECONDS:
                reported = now
                self.store.report(job, done)

        result, error = None, None
        progress = Progress(self.options.job_time_limit, canceled=ended, report=report)
        try:
            predictor = self.predictors.get(job.model)
            if predictor is None:
                raise RequestError(404, f"the server has no model {job.model!r} any more")
            upload = upload_in(self.store.uploads / job.id, job.kind)
            options = PredictOptions.stored(job.options)
            result = predictor.predict(upload, options, progress, max_seconds=self.options.max_job_seconds)
            state = "done"
        except CanceledError:
            if self._until_done(lambda: self.store.is_canceled(job)) is not True:
                self._until_done(lambda: self.store.release(job))
                return
            state = "canceled"
        except (RequestError, TimeLimitError) as problem:
            error = str(problem)
        except Exception as problem:
            logger.exception("job %s failed", job.id)
            error = f"the prediction failed: {type(problem).__name__}"
        self._until_done(lambda: self.store.finish(job, state, result=result, error=error))
        self.observe(state, time.monotonic() - begin)

    def _until_done(self, change: Callable[[], Any]) -> Any:
        """Repeat a change of the store that fails, so that the job does not run for ever.

        When the server stops, the change fails for good, and the job runs again in the next server.
        """
        while True:
            try:
                return change()
            except (sqlite3.Error, OSError):  # such as a full disk, or a lock that was held for too long
                logger.exception("the store of jobs failed")
            with self._wake:
                if self._wake.wait_for(lambda: self._stopping, _POLL_SECONDS):
                    return None
