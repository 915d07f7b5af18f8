"""What the routes of a server share: models, jobs, threads, counts, and the number of open requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vidseg.engine.trained import TrainedModel
from vidseg.serve.job_store import JobStore
from vidseg.serve.jobs import JobRunner
from vidseg.serve.predictors import Predictor
from vidseg.serve.request_progress import Progress
from vidseg.serve.serve_options import ServeOptions
from vidseg.serve.server_metrics import ServerMetrics
from vidseg.serve.upload_checks import RequestError

__all__ = ["BusyError", "ServerState", "log_event"]

_LOG = logging.getLogger("vidseg.serve")
_CLEANING_SECONDS = 60.0
_DISCONNECT_SECONDS = 0.25  # between two checks whether the client has gone


class BusyError(RequestError):
    """Raised where a queue is full.

    Args:
        message: one sentence.
        seconds: time after which the client can try again.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(503, message)
        self.seconds = max(1, min(60, math.ceil(seconds)))


def log_event(event: str, **values: object) -> None:
    """Write one line of JSON to the log."""
    _LOG.info(json.dumps({"time": round(time.time(), 3), "event": event, **values}, ensure_ascii=False))


class ServerState:
    """Models and resources of one server.

    Args:
        models: trained models by name.
        options: limits and batching.

    Attributes:
        stopping: whether the server is shutting down.
        open_streams: number of open streams.
    """

    def __init__(self, models: Mapping[str, TrainedModel], options: ServeOptions) -> None:
        if not models:
            raise ValueError("there is no model to serve")
        self.options, self.folder = options, Path(options.store)
        self.store = JobStore(self.folder, shared=options.shared)
        self.metrics = ServerMetrics(self.store.owner if options.shared else None)
        self.saved_streams = self.folder / "streams"
        self.saved_streams.mkdir(exist_ok=True, mode=0o700)
        self.predictors: dict[str, Predictor] = {}
        try:
            for name, trained in models.items():
                self.predictors[name] = Predictor(name, trained, options)
        except ValueError:
            for predictor in self.predictors.values():
                predictor.close()
            self.store.close()
            raise
        for name, predictor in self.predictors.items():
            if predictor.batcher is not None:
                predictor.batcher.observe = self._observe_rows(name)
        self.runner = JobRunner(self.store, self.predictors, options, self._observe_job)
        self.pool = ThreadPoolExecutor(options.workers, thread_name_prefix="vidseg-request")
        self.stream_pool = ThreadPoolExecutor(options.streams, thread_name_prefix="vidseg-stream")
        self.disk = ThreadPoolExecutor(1, thread_name_prefix="vidseg-disk")
        self.stopping, self.open_streams, self.busy = False, 0, 0
        self._mean_seconds = 0.5
        self._lock = threading.Lock()
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "vidseg_open_requests": ("requests that wait for a worker or are computed", lambda: self.busy),
            "vidseg_open_streams": ("open streams", lambda: self.open_streams),
        }
        for name, (text, value) in gauges.items():
            self.metrics.gauge(name, text, value)
        for job_state in self.store.counts():
            self.metrics.gauge(f'vidseg_jobs{{state="{job_state}"}}', "jobs in the store", self._job_count(job_state))

    def _job_count(self, state: str) -> Callable[[], float]:
        return lambda: self.store.counts()[state]

    def _observe_rows(self, name: str) -> Callable[[int], None]:
        return lambda rows: self.metrics.observe("vidseg_batch_rows", rows, model=name)

    def _observe_job(self, state: str, seconds: float) -> None:
        self.metrics.count("vidseg_jobs_ended_total", state=state)
        self.metrics.observe("vidseg_job_seconds", seconds)
        log_event("job", state=state, seconds=round(seconds, 4))

    def predictor(self, name: str) -> Predictor:
        """Return a model.

        Raises:
            RequestError: there is none of this name (404).
        """
        if name not in self.predictors:
            raise RequestError(404, f"no model {name!r:.80}; there are {', '.join(self.predictors)}")
        return self.predictors[name]

    @contextlib.contextmanager
    def admitted(self) -> Any:
        """Hold a place in the queue of requests.

        Raises:
            BusyError: the queue or the disk is full, or the server is shutting down.
        """
        with self._lock:
            if self.stopping:
                raise BusyError("the server is shutting down", 5)
            if self.busy >= self.options.workers + self.options.queue:
                self.metrics.count("vidseg_rejected_total", kind="request")
                wait = self.busy / self.options.workers * self._mean_seconds
                raise BusyError(f"{self.busy} requests are waiting; try again later", wait)
            if shutil.disk_usage(self.folder).free < self.options.max_bytes:
                self.metrics.count("vidseg_rejected_total", kind="disk")
                raise BusyError("the disk of the server has no space for another upload", 60)
            self.busy += 1
        try:
            yield
        finally:
            with self._lock:
                self.busy -= 1

    @contextlib.contextmanager
    def admitted_stream(self) -> Any:
        """Hold one of the streams.

        Raises:
            BusyError: all streams are in use, or the server is shutting down.
        """
        with self._lock:
            if self.stopping:
                raise BusyError("the server is shutting down", 5)
            if self.open_streams >= self.options.streams:
                self.metrics.count("vidseg_rejected_total", kind="stream")
                raise BusyError(f"all {self.options.streams} streams are in use; try again later", 5)
            self.open_streams += 1
        try:
            yield
        finally:
            with self._lock:
                self.open_streams -= 1

    async def compute(self, work: Callable[[Progress], Any], seconds: float, gone: Callable[[], Any]) -> Any:
        """Run a computation in a worker; it ends early if the client has gone.

        Args:
            work: the computation.
            seconds: its time limit, counted from its start.
            gone: coroutine function that returns whether the client has gone.
        """
        canceled = threading.Event()
        begin = time.monotonic()

        def run() -> Any:
            return work(Progress(seconds, canceled=canceled.is_set))

        future = asyncio.get_running_loop().run_in_executor(self.pool, run)
        try:
            while not (await asyncio.wait({future}, timeout=_DISCONNECT_SECONDS))[0]:
                if await gone():
                    canceled.set()
            return future.result()
        except asyncio.CancelledError:
            canceled.set()
            raise
        finally:
            self._mean_seconds += 0.1 * (time.monotonic() - begin - self._mean_seconds)

    def new_folder(self) -> Path:
        """Make a folder with a new random name for one upload."""
        folder = self.store.received / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        return folder

    @contextlib.asynccontextmanager
    async def reserved_stream(self, stream: str) -> AsyncIterator[None]:
        """Hold a stream, so that no other connection opens it, here or in another server.

        Raises:
            BusyError: another connection has it.
        """
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(self.disk, self.store.open_stream, stream):
            raise BusyError(f"stream {stream} is open in another connection", 5)
        try:
            yield
        finally:
            if not self.stopping:  # the streams of a server that has ended are free
                await asyncio.shield(loop.run_in_executor(self.disk, self.store.close_stream, stream))

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        """Run jobs and clean up as long as the server runs."""
        self.runner.start()
        cleaning = asyncio.create_task(self._clean())
        log_event("start", models=list(self.predictors))
        try:
            yield
        finally:
            self.stopping = True
            cleaning.cancel()
            await asyncio.get_running_loop().run_in_executor(None, self.close)
            log_event("stop")

    def close(self) -> None:
        """Stop the threads; running jobs wait for the next server."""
        self.stopping = True
        self.runner.stop()
        self.pool.shutdown(wait=True, cancel_futures=True)
        for predictor in self.predictors.values():
            predictor.close()
        self.stream_pool.shutdown(wait=True)
        self.disk.shutdown(wait=True)
        self.store.close()

    async def _clean(self) -> None:
        while True:
            await asyncio.get_running_loop().run_in_executor(self.disk, self.forget_old)
            await asyncio.sleep(_CLEANING_SECONDS)

    def forget_old(self) -> None:
        """Remove ended jobs and saved streams that are older than `keep_hours`."""
        seconds = self.options.keep_hours * 3600
        self.store.forget(seconds)
        for path in self.saved_streams.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - seconds:
                    path.unlink()
