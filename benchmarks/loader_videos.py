"""Peers that decode videos: the source files, and files with a key frame every 12 frames."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from loader_clips import Frames, in_processes
from loader_job import Job, Peer, load

from vidseg.clips import BatchPlan

__all__ = ["VIDEO_PEERS"]

Open = Callable[[Path, np.ndarray], Frames]


def _decord(path: Path, frames: np.ndarray) -> Frames:
    reader = load("decord").VideoReader(str(path), num_threads=1)
    return list(reader.get_batch(frames.tolist()).asnumpy())


def _torchcodec(path: Path, frames: np.ndarray) -> Frames:
    decoder = load("torchcodec.decoders").VideoDecoder(
        str(path),
        dimension_order="NHWC",
        num_ffmpeg_threads=1,
        seek_mode="approximate",  # no scan of the file; exact for videos of constant frame rate
    )
    return list(decoder.get_frames_at(frames.tolist()).data.numpy())


def _av(path: Path, frames: np.ndarray) -> Frames:
    """Seek to the key frame before the first frame, decode up to the last one, and convert the requested frames."""
    av = load("av")
    found: dict[int, Any] = {}
    numbers = set(frames.tolist())
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        rate, start = stream.average_rate, stream.start_time or 0
        container.seek(start + int(min(numbers) / rate / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            number = round((frame.pts - start) * stream.time_base * rate)
            if number in numbers:
                found[number] = frame.to_ndarray(format="rgb24")
            if len(found) == len(numbers):
                break
    return [found[number] for number in frames.tolist()]


def _read(job: Job, plan: BatchPlan, clip: int, *, store: str, decode: Open) -> Frames:
    return decode(getattr(job.sources, store)(job.name(int(plan.videos[clip]))), plan.frames[clip])


def _peer(name: str, module: str, decode: Open, store: str) -> Peer:
    files = {"video": "the videos", "gop12": "videos with a key frame every 12 frames"}[store]
    batches = partial(in_processes, read=partial(_read, store=store, decode=decode), bgr=False)
    return Peer(
        f"{name} from {files}, DataLoader", ("cv2", module), batches, store, from_jpegs=False, batches_per_worker=2
    )


VIDEO_PEERS = {
    "decord": _peer("decord", "decord", _decord, "video"),
    "torchcodec": _peer("torchcodec", "torchcodec.decoders", _torchcodec, "video"),
    "av": _peer("PyAV", "av", _av, "video"),
    "decord-gop12": _peer("decord", "decord", _decord, "gop12"),
    "torchcodec-gop12": _peer("torchcodec", "torchcodec.decoders", _torchcodec, "gop12"),
}
