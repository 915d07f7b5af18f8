"""The same workers, spread over a Ray cluster. Every node must see the sources and the target under the same paths."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from vidseg.convert.conversion import Outcome
from vidseg.convert.options import ConvertOptions
from vidseg.convert.pool import run_local
from vidseg.videos.listing import Job

__all__ = ["run_ray"]

_POLL_SECONDS = 0.5


def run_ray(jobs: list[Job], jpg_folder: Path, options: ConvertOptions) -> Generator[Outcome | int, None, None]:
    """Convert jobs as Ray tasks of one processor each; yields each outcome as it comes.

    Uses the cluster that RAY_ADDRESS names or that is running here, else starts a local one. Inside a task the job
    runs in a worker process as everywhere, so a crash or a hang costs one video there as well. A task whose node is
    lost is done again elsewhere.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError('--executor ray needs Ray: pip install "vidseg[ray]"') from error
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, configure_logging=False)
    task = ray.remote(num_cpus=1, max_retries=3)(_convert_in_task)
    try:
        folder, waiting = str(jpg_folder.resolve()), {}
        for job in jobs:
            waiting[task.remote(job, folder, options)] = job
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_POLL_SECONDS)
            for reference in ready:
                job = waiting.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as error:
                    problem = f"Ray: {str(error).splitlines()[0]}"
                    yield Outcome(job.source, job.target, "failed", job.label, job.split, problem=problem)
            yield 0
    finally:
        if started:
            ray.shutdown()


def _convert_in_task(job: Job, jpg_folder: str, options: ConvertOptions) -> Any:
    (outcome,) = (result for result in run_local([job], Path(jpg_folder), options) if isinstance(result, Outcome))
    return outcome
