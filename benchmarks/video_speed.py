"""Speed of loading clips from video files: vidseg's backend "video" against torchcodec, with the same plans and cores.

    python benchmarks/video_speed.py                                  # synthetic videos, written once to --data
    python benchmarks/video_speed.py --clips FOLDER                   # own videos, <class>/<video>
    python benchmarks/video_speed.py --stores gop12 --shapes 8x16x112x112 --rows video,torchcodec

Each video is loaded from its source file (x264's default of a key frame every 250 frames) and from a file with a key
frame every 12 frames and without B frames. A pass loads one clip of each video with random start, interval 1 or 2, and
random resized crop, as uint8 (B, 3, T, H, W). Rows run in processes of their own; the number is the median of
--repeats passes after a first one, whose speed is listed, too: vidseg reads the frame indices in it.

torchcodec runs with one FFmpeg thread, in the worker processes of a DataLoader or in threads, and crops and resizes
with OpenCV (bilinear, without antialiasing) or with its decoder transforms (FFmpeg's filters). The row "limit" decodes
the frames from the key frame to the last one of each clip with PyAV, in threads, and discards them.

Requires: pip install --no-deps opencv-python-headless torchcodec==0.13.0
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from loader_job import crop_box
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vidseg import ClipLoader, open_videos
from vidseg.clips import BatchPlan
from vidseg.clips.planner import ClipPlanner
from vidseg.convert.synth import ACTIONS
from vidseg.videos.frame_index import read_frame_index


@dataclass(frozen=True)
class Job:
    """Folder of videos, shape (B, T, H, W) of the batches, and number of cores."""

    folder: Path
    shape: tuple[int, int, int, int]
    workers: int

    def options(self) -> dict[str, Any]:
        """Return the options of vidseg's planner: random starts, interval 1 or 2, random resized crops."""
        clips, frames, height, width = self.shape
        return {"frames": frames, "size": (height, width), "batch_size": clips, "interval": (1, 2), "seed": 0}

    def plans(self, epoch: int) -> list[BatchPlan]:
        """Return the plans of a pass."""
        planner = ClipPlanner(open_videos(self.folder), **self.options())
        return [planner.plan(epoch, index) for index in range(planner.batches(epoch))]

    def paths(self) -> list[Path]:
        """Return the file of each video of the data set."""
        data = open_videos(self.folder)
        return [data.video_file(row).path for row in range(len(data))]  # type: ignore[union-attr]


Passes = Iterator[Iterator[Tensor]]


def _vidseg(job: Job) -> Passes:
    loader = ClipLoader(
        open_videos(job.folder), backend="video", threads=job.workers, dtype=torch.uint8, **job.options()
    )
    for epoch in range(1000):
        loader.set_epoch(epoch)
        yield (batch.frames for batch in loader)


def _with_opencv(path: Path, plan: BatchPlan, clip: int, *, mode: str) -> Tensor:
    """Return a clip that torchcodec has decoded as whole frames, (3, T, H, W)."""
    import cv2
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=mode)  # type: ignore[arg-type]
    frames = decoder.get_frames_at(plan.frames[clip].tolist()).data.numpy()
    left, top, across, down, mirrored = crop_box(plan.matrices[clip], plan.height, plan.width)
    pixels = np.empty((len(frames), plan.height, plan.width, 3), np.uint8)
    for target, frame in zip(pixels, frames, strict=True):
        crop = frame[top : top + down, left : left + across]
        cv2.resize(crop, (plan.width, plan.height), dst=target, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(np.flip(pixels, 2).copy() if mirrored else pixels).permute(3, 0, 1, 2)


def _with_filters(path: Path, plan: BatchPlan, clip: int, *, mode: str) -> Tensor:
    """Return a clip that FFmpeg's filters have cropped and resized before torchcodec converts it to RGB."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import DecoderTransform, Resize

    left, top, across, down, mirrored = crop_box(plan.matrices[clip], plan.height, plan.width)

    class Crop(DecoderTransform):
        def _make_transform_spec(self, input_dims: tuple[int | None, int | None]) -> str:
            return f"crop, {down}, {across}, {left}, {top}"

        def _get_output_dims(self) -> tuple[int | None, int | None]:
            return down, across

    decoder = VideoDecoder(
        path,
        num_ffmpeg_threads=1,
        seek_mode=mode,  # type: ignore[arg-type]
        transforms=[Crop(), Resize((plan.height, plan.width))],
    )
    frames = decoder.get_frames_at(plan.frames[clip].tolist()).data
    return (frames.flip(-1) if mirrored else frames).transpose(0, 1)


Read = Callable[[Path, BatchPlan, int], Tensor]


class _Clips(Dataset[Tensor]):
    """Clips of the batches of all passes, one item each."""

    def __init__(self, paths: list[Path], plans: list[BatchPlan], read: Read) -> None:
        self.paths, self.plans, self.read = paths, plans, read
        self.places = [(batch, clip) for batch, plan in enumerate(plans) for clip in range(len(plan))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        batch, clip = self.places[index]
        plan = self.plans[batch]
        return self.read(self.paths[int(plan.videos[clip])], plan, clip)


class _Order(torch.utils.data.Sampler[list[int]]):
    """Item numbers of the batches of the current pass."""

    def __init__(self, batches: list[list[list[int]]]) -> None:
        self.batches, self.number = batches, 0

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches[self.number])

    def __len__(self) -> int:
        return len(self.batches[self.number])


def _processes(job: Job, read: Read, passes: int = 16) -> Passes:
    plans = [job.plans(epoch) for epoch in range(passes)]
    count, batches = 0, []
    for each in plans:
        rows = []
        for plan in each:
            rows.append(list(range(count, count + len(plan))))
            count += len(plan)
        batches.append(rows)
    order = _Order(batches)
    clips = _Clips(job.paths(), [plan for each in plans for plan in each], read)
    loader = DataLoader(
        clips, batch_sampler=order, num_workers=job.workers, persistent_workers=True, worker_init_fn=_one_thread
    )
    for number in range(passes):
        order.number = number
        yield iter(loader)


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)


def _threads(job: Job, read: Read) -> Passes:
    """Load in threads, with up to two batches of clips ahead."""
    paths = job.paths()
    with ThreadPoolExecutor(job.workers) as pool:
        for epoch in range(1000):
            yield _thread_pass(job.plans(epoch), paths, read, pool)


def _thread_pass(plans: list[BatchPlan], paths: list[Path], read: Read, pool: ThreadPoolExecutor) -> Iterator[Tensor]:
    clips = [
        [pool.submit(read, paths[int(plan.videos[clip])], plan, clip) for clip in range(len(plan))] for plan in plans
    ]
    for batch in clips:
        yield torch.stack([clip.result() for clip in batch])


def _decode(path: Path, plan: BatchPlan, clip: int, *, indices: dict[Path, Any]) -> Tensor:
    """Decode the frames from the key frame to the last one of a clip, and discard them."""
    index = indices.get(path)
    if index is None:
        index = indices[path] = read_frame_index(path)
    key = index.key_before(int(plan.frames[clip].min()))
    last = int(index.stamps[int(plan.frames[clip].max())])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        container.seek(int(index.key_stamps[key]), stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts >= last:
                break
    return torch.zeros(1)


ROWS: dict[str, tuple[str, Callable[[Job], Passes]]] = {
    "video": ('vidseg, backend="video"', _vidseg),
    "torchcodec": (
        "torchcodec + OpenCV, processes",
        partial(_processes, read=partial(_with_opencv, mode="approximate")),
    ),
    "torchcodec-exact": ("the same, exact seeking", partial(_processes, read=partial(_with_opencv, mode="exact"))),
    "torchcodec-threads": ("the same, threads", partial(_threads, read=partial(_with_opencv, mode="approximate"))),
    "torchcodec-filters": (
        "torchcodec with decoder transforms, processes",
        partial(_processes, read=partial(_with_filters, mode="approximate")),
    ),
    "torchcodec-filter-threads": (
        "the same, threads",
        partial(_threads, read=partial(_with_filters, mode="approximate")),
    ),
    "limit": ("limit: decoding with PyAV, threads", lambda job: _threads(job, partial(_decode, indices={}))),
}


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of its children, also of running ones."""
    total = time.process_time()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total += ended.ru_utime + ended.ru_stime
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return total


def _measure(job: Job, row: str, repeats: int) -> tuple[list[float], list[float]]:
    """Return clips/s and CPU time per clip, in milliseconds, of each pass of a row."""
    torch.set_num_threads(1)
    speeds, costs = [], []
    passes = ROWS[row][1](job)
    for _ in range(repeats + 1):
        batches, count = next(passes), 0
        cpu, began = _cpu_seconds(), time.perf_counter()
        for batch in batches:
            count += job.shape[0] if row == "limit" else len(batch)
        speeds.append(count / (time.perf_counter() - began))
        costs.append(1000 * (_cpu_seconds() - cpu) / count)
    return speeds, costs


def _write_gop12(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as video, av.open(str(target), "w") as container:
        stream_in = video.streams.video[0]
        stream = container.add_stream("libx264", rate=stream_in.average_rate)
        stream.width, stream.height, stream.pix_fmt = stream_in.width, stream_in.height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "20", "g": "12", "bf": "0", "tune": "fastdecode"}
        for frame in video.decode(stream_in):
            frame.pict_type = 0  # type: ignore[assignment]
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))


def _make_data(folder: Path, clips: Path | None, videos: int) -> dict[str, Path]:
    """Write the source files, unless `clips` has them, and those with a key frame every 12 frames."""
    from loader_data import _write_video

    source = clips or folder / "source"
    if clips is None and not source.exists():
        for number in range(videos):
            name = f"{list(ACTIONS)[number % len(ACTIONS)]}-{number:03d}"
            _write_video(source / name.split("-")[0] / f"{name}.mp4", name, 250)
    gop12 = folder / "gop12"
    if not gop12.exists():
        for path in sorted(source.rglob("*.*")):
            if path.is_file() and not path.name.startswith("."):
                _write_gop12(path, gop12 / path.parent.name / f"{path.stem}.mp4")
    return {"source": source, "gop12": gop12}


def main() -> None:
    """Measure and print a table for each store and shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("video_speed_data"), help="folder of the written videos")
    parser.add_argument("--clips", type=Path, help="folder of own videos instead of synthetic ones")
    parser.add_argument("--videos", type=int, default=16, help="number of synthetic videos of 250 frames")
    parser.add_argument("--stores", default="source,gop12")
    parser.add_argument("--shapes", default="8x16x112x112,8x8x224x224", help="BxTxHxW")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="append the results to this file, one object a line")
    options = parser.parse_args()
    stores = _make_data(options.data, options.clips, options.videos)
    context = multiprocessing.get_context("spawn")
    for store in options.stores.split(","):
        for text in options.shapes.split(","):
            shape = tuple(map(int, text.split("x")))
            job = Job(stores[store], shape, options.workers)  # type: ignore[arg-type]
            print(f"\n{store}, {text}, {options.workers} workers\n")
            print("| loader | clips/s | CPU ms/clip | first pass, clips/s |\n| --- | --- | --- | --- |")
            for row in options.rows.split(","):
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    speeds, costs = pool.submit(_measure, job, row, options.repeats).result()
                speed, cost = statistics.median(speeds[1:]), statistics.median(costs[1:])
                print(f"| {ROWS[row][0]} | {speed:.2f} | {cost:.1f} | {speeds[0]:.2f} |")
                sys.stdout.flush()
                if options.json is not None:
                    record = {"store": store, "shape": text, "row": row, "clips_per_s": speeds, "cpu_ms": costs}
                    with open(options.json, "a") as file:
                        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
