"""Other loaders of the loader benchmark: each fills the batches of the same plans in its usual way.

A peer is a function from a `Job` to an iterator over its batches, float32 (B, 3, T, H, W) in RGB, normalized with the
constants of the job. All peers use the same frames, crops, sizes and mirroring. Their resampling differs (bilinear
filters of OpenCV and FFmpeg do not average when shrinking); the benchmark prints the distance of the pixels from an
exact reference.

Peers that decode in Python run in the worker processes of a torch DataLoader, one per core, with one thread each.
`MissingError` reports a peer that is not installed. To install all of them without replacing torch:

    pip install --no-deps opencv-python-headless decord torchcodec==0.13.0 spdl spdl_core spdl_io
    pip install nvidia-dali-cuda120
"""

import importlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import torch
from loader_data import FPS, Sources
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vidseg.clips import BatchPlan
from vidseg.labels import VideoDataset

__all__ = ["PEERS", "Job", "MissingError", "crop_box"]

Frames = list[np.ndarray]


class MissingError(RuntimeError):
    """Raised when a peer is not installed; the message names the missing package."""


@dataclass(frozen=True)
class Job:
    """Batches that a loader has to deliver, and the location of the data."""

    data: VideoDataset
    sources: Sources
    plans: list[BatchPlan]
    workers: int
    mean: tuple[float, float, float]
    """Mean and deviation of RGB values in 0..1."""
    std: tuple[float, float, float]

    def name(self, video: int) -> str:
        return self.data.video_path(video).rpartition("/")[2]


def load(module: str) -> Any:
    """Import the module of a peer.

    Raises:
        MissingError: the module is not installed or cannot be loaded (missing FFmpeg, another torch version).
    """
    try:
        return importlib.import_module(module)
    except (
        ImportError,
        OSError,
        RuntimeError,
    ) as error:  # torchcodec raises OSError or RuntimeError for missing libraries
        reason = str(error).strip().split("\n")[0]
        raise MissingError(f"{module.split('.')[0]}: {reason}") from None


def crop_box(matrix: np.ndarray, height: int, width: int) -> tuple[int, int, int, int, bool]:
    """Return (left, top, width, height) in whole pixels, and whether it is mirrored, of a plan's crop-and-resize
    matrix."""
    (scale_x, _, left), (_, scale_y, top), _ = matrix.tolist()
    across, down = scale_x * width, scale_y * height
    mirrored = across < 0
    if mirrored:
        left, across = left + across, -across
    return round(left), round(top), max(1, round(across)), max(1, round(down)), mirrored


Read = Callable[[Job, int, np.ndarray], Frames]


class Clips(Dataset[Tensor]):
    """Clips of all batches, one item each, for a DataLoader.

    `read` returns the T whole frames of one clip as uint8 (H, W, 3) arrays, in RGB or, with `bgr`, in BGR.
    """

    def __init__(self, job: Job, read: Read, *, bgr: bool) -> None:
        self.job, self.read, self.bgr = job, read, bgr
        self.places = [(batch, clip) for batch, plan in enumerate(job.plans) for clip in range(len(plan))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        cv2 = load("cv2")
        batch, clip = self.places[index]
        plan = self.job.plans[batch]
        left, top, across, down, mirrored = crop_box(plan.matrices[clip], plan.height, plan.width)
        pixels = np.empty((plan.shape[1], plan.height, plan.width, 3), np.uint8)
        for target, frame in zip(pixels, self.read(self.job, int(plan.videos[clip]), plan.frames[clip]), strict=True):
            crop = frame[top : top + down, left : left + across]
            cv2.resize(crop, (plan.width, plan.height), dst=target, interpolation=cv2.INTER_LINEAR)
        if self.bgr:
            pixels = pixels[..., ::-1]
        if mirrored:
            pixels = pixels[:, :, ::-1]
        # one NumPy pass per channel, which is faster than torch for negative strides
        result = np.empty((3, *pixels.shape[:3]), np.float32)
        for channel, (mean, std) in enumerate(zip(self.job.mean, self.job.std, strict=True)):
            np.multiply(pixels[..., channel], np.float32(1 / 255 / std), out=result[channel])
            result[channel] -= np.float32(mean / std)
        return torch.from_numpy(result)


def in_processes(job: Job, *, read: Read, bgr: bool) -> Iterator[Tensor]:
    """Yield the batches of a DataLoader with the number of worker processes of the job."""
    clips = Clips(job, read, bgr=bgr)
    stops = np.cumsum([len(plan) for plan in job.plans])
    batches = [list(range(stop - len(plan), stop)) for stop, plan in zip(stops.tolist(), job.plans, strict=True)]
    loader = DataLoader(
        clips,
        batch_sampler=batches,
        num_workers=job.workers,
        worker_init_fn=_one_thread,
        persistent_workers=True,  # keep the workers for measurement after the last batch
    )
    yield from loader


def _one_thread(worker: int) -> None:
    load("cv2").setNumThreads(1)


def _read_files(job: Job, video: int, frames: np.ndarray) -> Frames:
    cv2 = load("cv2")
    folder = job.sources.files(job.name(video))
    return [cv2.imread(str(folder / f"frame_{number + 1:05d}.jpg"), cv2.IMREAD_COLOR) for number in frames.tolist()]


def _read_published(job: Job, video: int, frames: np.ndarray) -> Frames:
    """Read as described in the published README: connect, one IN query by name, decode every row, sort."""
    cv2 = load("cv2")
    path = job.sources.published(job.name(video))
    names = [f"{path.parent.name}/frame_{number + 1:05d}" for number in frames.tolist()]
    connection = sqlite3.connect(path)
    query = f"SELECT ObjId, frames FROM Images WHERE ObjId IN ({','.join('?' * len(names))})"
    rows = connection.execute(query, names).fetchall()
    connection.close()
    decoded = {name: cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_COLOR) for name, blob in rows}
    return [decoded[name] for name in names]


def _read_decord(job: Job, video: int, frames: np.ndarray) -> Frames:
    decord = load("decord")
    reader = decord.VideoReader(str(job.sources.video(job.name(video))), num_threads=1)
    return list(reader.get_batch(frames.tolist()).asnumpy())


def _read_torchcodec(job: Job, video: int, frames: np.ndarray) -> Frames:
    decoders = load("torchcodec.decoders")
    decoder = decoders.VideoDecoder(
        str(job.sources.video(job.name(video))),
        dimension_order="NHWC",
        num_ffmpeg_threads=1,
        seek_mode="approximate",  # no scan of the file; exact for videos of constant frame rate such as these
    )
    return list(decoder.get_frames_at(frames.tolist()).data.numpy())


def _read_av(job: Job, video: int, frames: np.ndarray) -> Frames:
    """Seek to the key frame before the first frame, decode up to the last one, and convert the requested frames."""
    av = load("av")
    found = {}
    numbers = set(frames.tolist())
    with av.open(str(job.sources.video(job.name(video)))) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        container.seek(int(Fraction(min(numbers), FPS) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            number = round(frame.pts * stream.time_base * FPS)
            if number in numbers:
                found[number] = frame.to_ndarray(format="rgb24")
            if len(found) == len(numbers):
                break
    return [found[number] for number in frames.tolist()]


def _spdl(job: Job) -> Iterator[Tensor]:
    """Yield the batches of SPDL's thread pipeline on the JPEG files; FFmpeg decodes, crops and resizes."""
    io, pipeline = load("spdl.io"), load("spdl.pipeline")
    mean = torch.tensor(job.mean).view(3, 1, 1, 1) * 255
    scale = 1 / (torch.tensor(job.std).view(3, 1, 1, 1) * 255)

    def clip(place: tuple[BatchPlan, int]) -> Tensor:
        plan, row = place
        folder = job.sources.files(job.name(int(plan.videos[row])))
        left, top, across, down, mirrored = crop_box(plan.matrices[row], plan.height, plan.width)
        flip = ",hflip" if mirrored else ""
        buffer = io.load_image_batch(
            [str(folder / f"frame_{number + 1:05d}.jpg") for number in plan.frames[row].tolist()],
            width=None,
            height=None,
            filter_desc=f"crop={across}:{down}:{left}:{top}:exact=1,scale={plan.width}:{plan.height}:flags=bilinear"
            f"{flip},format=pix_fmts=rgb24",
        )
        return (io.to_torch(buffer).permute(3, 0, 1, 2) - mean).mul_(scale)

    places = [(plan, row) for plan in job.plans for row in range(len(plan))]
    builder = pipeline.PipelineBuilder().add_source(places)
    builder = builder.pipe(clip, concurrency=job.workers, output_order="input").add_sink(2 * job.workers)
    running = builder.build(num_threads=job.workers)
    with running.auto_stop():
        clips = iter(running)
        for plan in job.plans:
            batch = torch.empty(len(plan), 3, *plan.shape[1:])
            for row in range(len(plan)):
                batch[row] = next(clips)
            yield batch


@dataclass(frozen=True)
class Peer:
    """Peer of the benchmark, a row of the table."""

    what: str
    modules: tuple[str, ...]
    """Modules that must be importable."""
    batches: Callable[[Job], Iterator[Tensor]]
    from_jpegs: bool = True
    """Whether its frames are the stored JPEGs, so that pixels can be compared."""

    def start(self, job: Job) -> Iterator[Tensor]:
        """Return the iterator over its batches.

        Raises:
            MissingError: it is not installed.
        """
        for module in self.modules:
            load(module)
        return self.batches(job)


def _dataloader(name: str, module: str, read: Read, *, from_jpegs: bool) -> Peer:
    batches = partial(in_processes, read=read, bgr=from_jpegs)  # OpenCV decodes to BGR, the others to RGB
    return Peer(f"{name}, DataLoader", ("cv2", module), batches, from_jpegs)


PEERS = {
    "files": _dataloader("JPEG files, OpenCV", "cv2", _read_files, from_jpegs=True),
    "published": _dataloader("published reader: sqlite3, OpenCV", "cv2", _read_published, from_jpegs=True),
    "spdl": Peer("SPDL from the JPEG files", ("spdl.io", "spdl.pipeline"), _spdl),
    "decord": _dataloader("decord from the videos", "decord", _read_decord, from_jpegs=False),
    "torchcodec": _dataloader("torchcodec from the videos", "torchcodec.decoders", _read_torchcodec, from_jpegs=False),
    "av": _dataloader("PyAV from the videos", "av", _read_av, from_jpegs=False),
}
