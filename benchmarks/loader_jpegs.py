"""Peers that read the JPEGs of the plans: the published reader, and what faster decoders offer."""

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader_clips import Frames, Read, in_processes, in_threads
from loader_job import Job, Peer, crop_box, load
from torch import Tensor

from vidseg.clips import BatchPlan

__all__ = ["JPEG_PEERS", "read_published"]


def _paths(job: Job, plan: BatchPlan, clip: int, folder: Path) -> list[Path]:
    return [folder / f"frame_{number + 1:05d}.jpg" for number in plan.frames[clip].tolist()]


def _read_files(job: Job, plan: BatchPlan, clip: int) -> Frames:
    cv2, folder = load("cv2"), job.sources.files(job.name(int(plan.videos[clip])))
    return [cv2.imread(str(path), cv2.IMREAD_COLOR) for path in _paths(job, plan, clip, folder)]


def _read_small(job: Job, plan: BatchPlan, clip: int) -> Frames:
    """Read copies whose short side has 128 pixels, as many recipes prepare them for sizes up to 112."""
    cv2, folder = load("cv2"), job.sources.small(job.name(int(plan.videos[clip])))
    return [cv2.imread(str(path), cv2.IMREAD_COLOR) for path in _paths(job, plan, clip, folder)]


def read_published(job: Job, plan: BatchPlan, clip: int) -> Frames:
    """Read as described in the published README: connect, one IN query by name, decode every row, sort."""
    cv2 = load("cv2")
    path = job.sources.published(job.name(int(plan.videos[clip])))
    names = [f"{path.parent.name}/frame_{number + 1:05d}" for number in plan.frames[clip].tolist()]
    connection = sqlite3.connect(path)
    query = f"SELECT ObjId, frames FROM Images WHERE ObjId IN ({','.join('?' * len(names))})"
    rows = connection.execute(query, names).fetchall()
    connection.close()
    decoded = {name: cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_COLOR) for name, blob in rows}
    return [decoded[name] for name in names]


def _shrink(job: Job, plan: BatchPlan, clip: int) -> float:
    """Number of stored pixels per output pixel along the axis that is reduced less."""
    matrix = (job.crops or (plan,))[plan.index if job.crops else 0].matrices[clip]
    return float(np.abs(matrix[[0, 1], [0, 1]]).min())


def _read_simplejpeg(job: Job, plan: BatchPlan, clip: int) -> Frames:
    """Decode in the DCT domain at 1/2 or 1/4 of the size where the output needs no more, with the fast options."""
    simplejpeg, folder = load("simplejpeg"), job.sources.files(job.name(int(plan.videos[clip])))
    video, factor = plan.videos[clip], max(1.0, _shrink(job, plan, clip))
    # The library takes the smallest scale whose frame has at least this size.
    least = int(job.data.heights[video] / factor), int(job.data.widths[video] / factor)
    return [
        simplejpeg.decode_jpeg(
            path.read_bytes(), "RGB", fastdct=True, fastupsample=True, min_height=least[0], min_width=least[1]
        )
        for path in _paths(job, plan, clip, folder)
    ]


def _spdl(job: Job, *, tuned: bool) -> Iterator[Tensor]:
    """Yield the batches of SPDL's thread pipeline on the JPEG files; FFmpeg decodes, crops and resizes.

    Args:
        job: plans and data.
        tuned: decode at 1/2 or 1/4 of the size where the output needs no more (`lowres` of FFmpeg's decoder), take
            swscale's fast filter, and write each clip into its batch.
    """
    io = load("spdl.io")
    mean = torch.tensor(job.mean).view(3, 1, 1, 1) * 255
    scale = 1 / (torch.tensor(job.std).view(3, 1, 1, 1) * 255)
    torch.set_num_threads(1)  # the threads of the pipeline are enough

    def clip(place: tuple[BatchPlan, int, Tensor]) -> Tensor:
        plan, row, out = place
        factor = _shrink(job, plan, row)
        lowres = (2 if factor >= 4 else 1 if factor >= 2 else 0) if tuned else 0
        size = plan.width, plan.height
        box = crop_box(plan.matrices[row], plan.height, plan.width, scale=(0.5**lowres,) * 2)
        left, top, across, down, mirrored = box
        options: dict[str, Any] = {}
        if lowres:
            options["decode_config"] = io.decode_config("mjpeg", {"lowres": str(lowres)})
        buffer = io.load_image_batch(
            [str(path) for path in _paths(job, plan, row, job.sources.files(job.name(int(plan.videos[row]))))],
            width=None,
            height=None,
            filter_desc=f"crop={across}:{down}:{left}:{top}:exact=1,scale={size[0]}:{size[1]}"
            f":flags={'fast_bilinear' if tuned else 'bilinear'}{',hflip' if mirrored else ''}"
            ",format=pix_fmts=rgb24",
            **options,
        )
        torch.sub(io.to_torch(buffer).permute(3, 0, 1, 2), mean, out=out).mul_(scale)
        return out

    for plans in job.passes:
        yield from _spdl_pass(plans, clip, job.workers)


def _spdl_pass(
    plans: list[BatchPlan], clip: Callable[[tuple[BatchPlan, int, Tensor]], Tensor], workers: int
) -> Iterator[Tensor]:
    pipeline, batches = load("spdl.pipeline"), deque[Tensor]()

    def places() -> Iterator[tuple[BatchPlan, int, Tensor]]:
        for plan in plans:
            batches.append(torch.empty(len(plan), 3, *plan.shape[1:]))
            for row, out in enumerate(batches[-1]):
                yield plan, row, out

    builder = pipeline.PipelineBuilder().add_source(places())
    builder = builder.pipe(clip, concurrency=workers, output_order="input").add_sink(2 * workers)
    running = builder.build(num_threads=workers)
    with running.auto_stop():
        clips = iter(running)
        for plan in plans:
            for _ in range(len(plan)):
                next(clips)
            yield batches.popleft()


def _rows(name: str, module: str, read: Read, *, bgr: bool, store: str) -> tuple[Peer, Peer]:
    """The same reader in worker processes and in threads."""
    processes = partial(in_processes, read=read, bgr=bgr)
    threads = partial(in_threads, read=read, bgr=bgr)
    return (
        Peer(f"{name}, DataLoader", ("cv2", module), processes, store),
        Peer(f"{name}, threads", ("cv2", module), threads, store),
    )


FILES = _rows("JPEG files, OpenCV", "cv2", _read_files, bgr=True, store="files")
PUBLISHED = _rows("published reader: sqlite3, OpenCV", "cv2", read_published, bgr=True, store="published")
SMALL = _rows("JPEG files of short side 128, OpenCV", "cv2", _read_small, bgr=True, store="small")
SIMPLEJPEG = _rows("simplejpeg, scaled and fast decoding", "simplejpeg", _read_simplejpeg, bgr=False, store="files")

JPEG_PEERS = {
    "files": FILES[0],
    "files-threads": FILES[1],
    "published": PUBLISHED[0],
    "published-threads": PUBLISHED[1],
    "small": SMALL[0],
    "small-threads": SMALL[1],
    "simplejpeg": SIMPLEJPEG[0],
    "simplejpeg-threads": SIMPLEJPEG[1],
    "spdl": Peer("SPDL from the JPEG files", ("spdl.io", "spdl.pipeline"), partial(_spdl, tuned=False), "files"),
    "spdl-tuned": Peer("SPDL, tuned", ("spdl.io", "spdl.pipeline"), partial(_spdl, tuned=True), "files"),
}
