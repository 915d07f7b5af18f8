"""Speed of motion vectors and residuals beside plain decoding of the same video files.

    python benchmarks/flow_motion.py [VIDEO ...] [--rounds 5] [--cpu-time] [--json FILE]

Without VIDEO, the file is a synthetic 340 x 256 H.264 video of 280 frames. All of it runs in one thread. `decode` reads
the frames without converting them, `rgb` also converts them to RGB. Ways alternate; a ratio is the median over the
rounds of the time of `decode` divided by that of the way. `benchmarks/flow_speed.py` has the same rows as its section
`motion`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vidseg.convert.synth import synthesize_videos
from vidseg.convert.synth_options import SynthOptions
from vidseg.videos import MotionSource, VideoSource
from vidseg.videos.residuals import displayed_picture
from vidseg.videos.upright import UprightFrames

Row = dict[str, Any]


def ways(path: Path) -> dict[str, Callable[[], int]]:
    """Return what is measured, by name; each call reads the whole file and returns the number of frames."""

    def rgb() -> int:
        upright = UprightFrames(size="none")
        return sum(1 for item in VideoSource(path) if displayed_picture(upright, item.frame) is not None)

    return {
        "decode": lambda: sum(1 for _ in VideoSource(path)),
        "rgb": rgb,
        "motion": lambda: sum(1 for _ in MotionSource(path)),
        "accumulated": lambda: sum(1 for _ in MotionSource(path, accumulate=True)),
        "residual": lambda: sum(1 for _ in MotionSource(path, residuals=True)),
    }


def video_row(path: Path, *, rounds: int, clock: Callable[[], float]) -> Row:
    """Measure one file: frames per second of each way, and ratios."""
    calls = ways(path)
    frames = calls["decode"]()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = clock()
            call()
            times[name].append(clock() - began)
    height, width = next(iter(MotionSource(path))).field.shape[1:]
    row: Row = {"video": path.name, "size": [height, width], "frames": frames}
    row |= {f"{name}_fps": frames / statistics.median(each) for name, each in times.items()}
    for name in ("motion", "accumulated", "residual"):
        row[f"{name}_ratio"] = statistics.median(
            plain / own for plain, own in zip(times["decode"], times[name], strict=True)
        )
    row["residual_rgb_ratio"] = statistics.median(
        plain / own for plain, own in zip(times["rgb"], times["residual"], strict=True)
    )
    return row


def motion_rows(options: argparse.Namespace) -> list[Row]:
    """Measure the files of `options.videos`, or a synthetic one."""
    clock = time.process_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        videos = [Path(video) for video in getattr(options, "videos", [])]
        if not videos:
            synthesize_videos(folder, SynthOptions(videos=1, frames=280))
            videos = sorted(Path(folder).glob("videos/*/*.mp4"))
        rows = []
        for video in videos:
            rows.append(video_row(video, rounds=options.rounds, clock=clock))
            print(f"{video.name}: motion vectors, ratio {rows[-1]['motion_ratio']:.2f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", help="video files")
    parser.add_argument("--rounds", type=int, default=5, help="number of measured passes of each way")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time instead of elapsed time")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    options = parser.parse_args()
    rows = motion_rows(options)
    for row in rows:
        print(
            ", ".join(
                f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
