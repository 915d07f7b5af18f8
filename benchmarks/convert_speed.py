"""Conversion speed and memory of vidseg and of dataset2database on the same videos and cores.

    python benchmarks/convert_speed.py [--videos 24] [--rounds 3] [--json FILE]

The baseline does what dataset2database does: the ffmpeg program writes JPEG files, one process per core, which are
inserted into a database and deleted. It runs with a fixed quality (-q:v 2, see PSNR) at the source size, because its
default enlarges frames to 360 lines and has lower quality. The lower bound is the sum of the times of FFmpeg's decoder
and libjpeg-turbo's encoder, each measured alone. All variants alternate within each round; the table shows medians.
The column CPU is the number of frames per second of processor time, which depends less on other programs.
Requires the ffmpeg program (Debian/Ubuntu: apt-get install ffmpeg).
"""

from __future__ import annotations

import argparse
import glob
import itertools
import json
import os
import platform
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from machine import hardware

from vidseg.convert import ConvertOptions, convert_videos
from vidseg.convert.conversion import convert_one
from vidseg.convert.synth import SynthOptions, synthesize_videos
from vidseg.frames import FrameDatabase, encode_planes
from vidseg.videos.listing import Job

CORES = len(os.sched_getaffinity(0))


def published_one(video: Path, folder: Path) -> int:
    """Run dataset2database's steps for one video: ffmpeg to JPEG files, then insert and delete each."""
    folder.mkdir(parents=True)
    pattern = str(folder / "frame_%05d.jpg")
    command = ["ffmpeg", "-v", "quiet", "-threads", "1", "-i", str(video), "-q:v", "2", "-threads", "1", pattern]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    connection = sqlite3.connect(folder / "frames.db")
    connection.execute("CREATE TABLE Images(ObjId STRING, frames BLOB, size INT)")
    files = sorted(folder.glob("*.jpg"))
    for file in files:
        connection.execute(
            "INSERT INTO Images VALUES (?, ?, ?)", (f"{folder.name}/{file.stem}", file.read_bytes(), 340)
        )
        file.unlink()
    connection.commit()
    connection.close()
    return len(files)


class Spent(NamedTuple):
    """Wall-clock seconds, and seconds of processor time of all processes."""

    wall: float
    cpu: float

    def __add__(self, other: Spent) -> Spent:  # type: ignore[override]
        return Spent(self.wall + other.wall, self.cpu + other.cpu)


class Stopwatch:
    """Measures this process and those that it has started and that have ended."""

    def __init__(self) -> None:
        self._began = self._now()

    @staticmethod
    def _now() -> Spent:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Spent(time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime)

    def stop(self) -> Spent:
        now = self._now()
        return Spent(now.wall - self._began.wall, now.cpu - self._began.cpu)


def published(videos: list[Path], target: Path) -> Spent:
    watch = Stopwatch()
    with ProcessPoolExecutor(CORES) as pool:
        list(pool.map(published_one, videos, [target / video.stem for video in videos]))
    return watch.stop()


def ours(source: Path, target: Path, levels: int) -> Spent:
    watch = Stopwatch()
    report = convert_videos(source, target, size="none", levels=levels, workers=CORES)
    spent = watch.stop()
    if not report.ok:
        raise SystemExit(f"the conversion failed:\n{report}")
    return spent


def running_one(video: Path, jpg_folder: Path) -> float:
    """Convert one video in a running process, which measures the cost per video without process start.

    Returns the processor time.
    """
    watch = Stopwatch()
    job = Job(str(video), "video", f"x/{video.stem}")
    outcome = convert_one(job, jpg_folder, ConvertOptions(size="none", levels=0), lambda frames: None)
    if outcome.problem:
        raise SystemExit(outcome.problem)
    return watch.stop().cpu


def running(videos: list[Path], target: Path, pool: ProcessPoolExecutor) -> Spent:
    began = time.perf_counter()
    cpu = sum(pool.map(running_one, videos, [target] * len(videos)))
    return Spent(time.perf_counter() - began, cpu)


def decode_one(video: Path) -> Spent:
    """Return the time of FFmpeg's decoder for one video."""
    watch = Stopwatch()
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for _ in container.decode(stream):
            pass
    return watch.stop()


def count_one(video: Path) -> int:
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


def encode_one(video: Path) -> Spent:
    """Return the time of libjpeg-turbo for the decoded frames of one video, at default quality and restart
    interval."""
    with av.open(str(video)) as container:
        frames = list(container.decode(video=0))
    planes = [[np.frombuffer(plane, np.uint8) for plane in frame.planes] for frame in frames]
    strides = [[plane.line_size for plane in frame.planes] for frame in frames]
    watch = Stopwatch()
    for plane, stride, frame in zip(planes, strides, frames, strict=True):
        encode_planes(plane, stride, width=frame.width, height=frame.height, full_range=True)
    return watch.stop()


def limit(videos: list[Path], pool: ProcessPoolExecutor) -> Spent:
    """Return the time of all cores for decoding alone plus encoding alone."""
    spent = sum([*pool.map(decode_one, videos), *pool.map(encode_one, videos)], Spent(0.0, 0.0))
    return Spent(spent.wall / CORES, spent.cpu)


def psnr(videos: list[Path], database_of) -> float:
    """Return the PSNR in dB against the frames decoded by FFmpeg, in RGB, over the first frames of some videos."""
    errors = []
    for video in videos[:4]:
        with av.open(str(video)) as container:
            frames = itertools.islice(container.decode(video=0), 24)
            truth = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
        decoded = FrameDatabase(database_of(video)).decode(range(len(truth))).numpy()
        errors.append(np.mean((decoded.astype(np.float64) - truth) ** 2))
    return float(10 * np.log10(255**2 / np.mean(errors)))


def peak_memory(video: Path, target: Path) -> float:
    """Return the peak resident size in MB of a worker that converts one video."""
    code = (
        "import sys; from pathlib import Path; from vidseg.convert.conversion import convert_one;"
        "from vidseg.convert import ConvertOptions; from vidseg.videos.listing import Job;"
        "r = convert_one(Job(sys.argv[1], 'video', 'x/v'), Path(sys.argv[2]), ConvertOptions(), lambda n: None);"
        "assert r.problem is None, r.problem;"
        # not ru_maxrss, which includes the size of the parent process
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(video), str(target)], check=True, capture_output=True, text=True
    )
    return float(result.stdout) / 1024


def repeated(video: Path, path: Path, seconds: float) -> Path:
    """Write `video` repeated to a duration, without re-encoding."""
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-stream_loop",
        "-1",
        "-i",
        str(video),
        "-t",
        str(seconds),
        "-c",
        "copy",
        str(path),
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def memory_rows(folder: Path, *, hour: bool) -> list[dict]:
    synthesize_videos(folder / "sd", SynthOptions(videos=1, frames=60, seed=1), workers=1)
    synthesize_videos(folder / "hd", SynthOptions(videos=1, frames=48, width=1920, height=1080, seed=1), workers=1)
    sd, hd = (next((folder / name).rglob("*.mp4")) for name in ("sd", "hd"))
    rows = [{"what": "1080p, 2 s", "peak_mb": peak_memory(hd, folder / "m0"), "limit_mb": 400.0}]
    rows.append(
        {
            "what": "1080p, 20 s",
            "peak_mb": peak_memory(repeated(hd, folder / "hd.mp4", 20), folder / "m1"),
            "limit_mb": 400.0,
        }
    )
    lengths = [("340x256, 1 minute", 60), ("340x256, 10 minutes", 600), *([("340x256, 1 hour", 3600)] if hour else [])]
    for name, seconds in lengths:
        path = repeated(sd, folder / f"sd{seconds}.mp4", seconds)
        rows.append({"what": name, "peak_mb": peak_memory(path, folder / f"m{seconds}"), "limit_mb": 400.0})
    return rows


def measure(folder: Path, source: Path, rounds: int) -> list[dict]:
    videos = sorted(source.rglob("*.mp4"))
    with av.open(str(videos[0])) as container:  # the first pass also loads the files into the page cache
        stream = container.streams.video[0]
        print(f"video: {stream.codec_context.name} {stream.width}x{stream.height}, {stream.bit_rate or 0} bit/s")
    seconds: dict[str, list[Spent]] = {}
    with ProcessPoolExecutor(CORES) as pool:
        total = sum(pool.map(count_one, videos))
        for number in range(rounds):
            place = folder / f"round{number}"
            seconds.setdefault("limit: decoding + encoding", []).append(limit(videos, pool))
            seconds.setdefault("dataset2database: ffmpeg to JPEG files, insert", []).append(
                published(videos, place / "published")
            )
            seconds.setdefault("vidseg, without levels", []).append(ours(source, place / "ours", levels=0))
            seconds.setdefault("vidseg, without levels, workers running", []).append(
                running(videos, place / "running", pool)
            )
            seconds.setdefault("vidseg, with levels 1/2 and 1/4", []).append(ours(source, place / "levels", levels=2))
            if number < rounds - 1:
                shutil.rmtree(place)
    quality = {
        "dataset2database: ffmpeg to JPEG files, insert": psnr(videos, lambda video: place / "published" / video.stem),
        "vidseg, without levels": psnr(
            videos, lambda video: next((place / "ours/jpg").glob(f"*/{glob.escape(video.stem)}"))
        ),
    }
    sizes = {
        "dataset2database: ffmpeg to JPEG files, insert": folder_bytes(place / "published"),
        "vidseg, without levels": folder_bytes(place / "ours"),
        "vidseg, with levels 1/2 and 1/4": folder_bytes(place / "levels"),
    }
    reference = seconds["dataset2database: ffmpeg to JPEG files, insert"]
    best = seconds["limit: decoding + encoding"]
    return [
        {
            "what": what,
            "frames_per_s": total / statistics.median(one.wall for one in values),
            "of_published": statistics.median(a.wall / b.wall for a, b in zip(reference, values, strict=True)),
            "of_limit": statistics.median(a.wall / b.wall for a, b in zip(best, values, strict=True)),
            "frames_per_cpu_s": total / statistics.median(one.cpu for one in values),
            "psnr_db": quality.get(what),
            "kb_per_frame": sizes[what] / total / 1000 if what in sizes else None,
        }
        for what, values in seconds.items()
    ]


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("frames.db"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", type=Path, help="folder of MP4 files to use instead of synthetic videos")
    parser.add_argument("--videos", type=int, default=24, help="number of synthetic videos of 340x256 (default 24)")
    parser.add_argument("--frames", type=int, default=300, help="frames per video (default 300)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default 3)")
    parser.add_argument("--hour", action="store_true", help="also convert one hour of video for the memory table")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    options = parser.parse_args()
    if not shutil.which("ffmpeg"):
        raise SystemExit("the baseline requires the ffmpeg program; run apt-get install ffmpeg")
    with tempfile.TemporaryDirectory() as folder:
        source = options.source
        if source is None:
            source = Path(folder) / "synthetic"
            synthesize_videos(source, SynthOptions(videos=options.videos, frames=options.frames))
        rows = measure(Path(folder), source, options.rounds)
        memory = memory_rows(Path(folder), hour=options.hour)
    ffmpeg = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout.split()[2]
    machine = {
        "machine": f"{hardware()}, Python {platform.python_version()}",
        "versions": f"torch {torch.__version__}, av {av.__version__}, ffmpeg {ffmpeg}",
        "data": f"{options.source or f'{options.videos} synthetic videos of 340x256, {options.frames} frames each'}; "
        f"medians of {options.rounds} rounds",
    }
    for name, value in machine.items():
        print(f"{name}: {value}")
    print(f"\n{'':50}{'frames/s':>9}{'/ published':>13}{'/ limit':>9}{'CPU':>7}{'PSNR dB':>9}{'KB/frame':>10}")
    for row in rows:
        extra = "".join(
            "" if row[key] is None else f"{row[key]:>{width}.1f}"
            for key, width in (("psnr_db", 9), ("kb_per_frame", 10))
        )
        if row["psnr_db"] is None and row["kb_per_frame"] is not None:
            extra = f"{'':9}{row['kb_per_frame']:>10.1f}"
        print(
            f"{row['what']:50}{row['frames_per_s']:>9.0f}{row['of_published']:>13.2f}{row['of_limit']:>9.2f}"
            f"{row['frames_per_cpu_s']:>7.0f}{extra}"
        )
    print(f"\n{'peak memory of one worker':50}{'MB':>9}{'limit':>13}")
    for row in memory:
        print(f"{row['what']:50}{row['peak_mb']:>9.0f}{row['limit_mb']:>13.0f}")
    if options.json:
        options.json.write_text(json.dumps({**machine, "speed": rows, "memory": memory}, indent=1) + "\n")


if __name__ == "__main__":
    main()
