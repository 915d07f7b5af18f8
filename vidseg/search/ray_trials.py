"""Trials on a Ray cluster. Every machine must see the data set and the folder of the search under the same paths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vidseg.search.trial_process import Launch, LocalProcess

__all__ = ["RayCluster"]

_RETRIES = 3
_PATIENCE = 60.0
"""Seconds in which a canceled task ends, those of its process included."""


class RayCluster:
    """Starts processes as Ray tasks.

    Uses the cluster of RAY_ADDRESS or one running on this machine, else starts a local one. Ray places each task where
    its processors and GPUs are free, and starts it again elsewhere when its machine is lost; the run then continues
    from its checkpoint.

    Args:
        threads: processors of each task.
        gpus: GPUs of each task, such as 0.5.

    Raises:
        ImportError: Ray is not installed.
        ValueError: no machine of the cluster has so many processors or GPUs.
    """

    def __init__(self, *, threads: int, gpus: float) -> None:
        try:
            import ray
        except ImportError as error:
            raise ImportError('--ray needs Ray: pip install "vidseg[ray]"') from error
        self._ray = ray
        self._started = not ray.is_initialized()
        if self._started:
            ray.init(log_to_driver=False, configure_logging=False)
        try:
            self._check(threads, gpus)
        except ValueError:
            self.close()
            raise
        self._task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=_RETRIES)(_run)

    def _check(self, threads: int, gpus: float) -> None:
        machines = [machine["Resources"] for machine in self._ray.nodes() if machine["Alive"]]
        for name, wanted, option in (("CPU", threads, "--cpus-per-trial"), ("GPU", gpus, "--gpus-per-trial")):
            most = max((machine.get(name, 0.0) for machine in machines), default=0.0)
            if wanted > most:
                raise ValueError(f"{option} {wanted:g}: no machine of the Ray cluster has more than {most:g} {name}s")

    def start(self, launch: Launch) -> _RayProcess:
        """Start a process; Ray chooses machine and GPUs."""
        return _RayProcess(self._ray, self._task.remote(replace(launch, gpus=None)))

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        if self._started:
            self._ray.shutdown()


class _RayProcess:
    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self._reference = ray, reference
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            ready, _ = self._ray.wait([self._reference], timeout=0)
            if ready:
                self._status = self._result()
        return self._status

    def _result(self) -> int:
        try:
            return int(self._ray.get(self._reference))
        except self._ray.exceptions.TaskCancelledError:
            return -15
        except self._ray.exceptions.RayError as error:
            raise RuntimeError(f"Ray: {str(error).splitlines()[0]}") from error

    def stop(self) -> None:
        if self.poll() is None:
            self._ray.cancel(self._reference)
            ended, _ = self._ray.wait([self._reference], timeout=_PATIENCE)
            if not ended:  # the KeyboardInterrupt came where Python ignores it; the process ends with that of the task
                self._ray.cancel(self._reference, force=True)
                self._ray.wait([self._reference])
            self.poll()


def _run(launch: Launch) -> int:
    """Run a process to its end, on the machine of the task; a task that is canceled stops it."""
    process = LocalProcess(launch)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.stop()
        raise
