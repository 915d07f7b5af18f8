"""Worker process of an extraction of flow, see `vidseg.convert.worker`."""

import functools
import os
from pathlib import Path
from typing import Any

import torch

from vidseg.convert.conversion import Heartbeat, Outcome
from vidseg.convert.worker import serve
from vidseg.tasks.flow.extraction_job import Request, extract_one
from vidseg.videos.listing import Job


@functools.cache
def _use_threads(threads: int) -> None:
    """Leave the other cores to the other workers."""
    torch.set_num_threads(threads)
    os.environ["OPENCV_FOR_THREADS_NUM"] = str(threads)  # OpenCV reads it when it is imported


def _extract(job: Job, jpg_folder: Path, options: dict[str, Any], heartbeat: Heartbeat) -> Outcome:
    request = Request(**options)
    _use_threads(request.threads)
    return extract_one(job, jpg_folder, request, heartbeat)


if __name__ == "__main__":
    serve(_extract)
