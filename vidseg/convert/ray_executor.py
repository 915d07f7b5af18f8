"""Conversion on a Ray cluster. Every node must see the sources and the target under the same paths."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from vidseg.convert.conversion import Outcome
from vidseg.convert.convert_options import ConvertOptions
from vidseg.convert.pool import run_local
from vidseg.videos.listing import Job

__all__ = ["run_ray"]

_POLL_SECONDS = 0.5


def run_ray(jobs: list[Job], jpg_folder: Path, options: ConvertOptions) -> Generator[Outcome | int, None, None]:
    """Convert jobs as Ray tasks of one processor each.

    Uses the cluster named by RAY_ADDRESS or one running on this machine, else starts a local cluster. Each task runs
    its job in a worker process, so a crash or hang affects one video. Ray repeats the task of a lost node on another
    node.

    Args:
        jobs: jobs to convert.
        jpg_folder: the data set's jpg/ folder.
        options: options of the conversion.

    Yields:
        The outcome of each job as it finishes, and the number of frames converted so far.

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
