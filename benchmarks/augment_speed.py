"""Speed of loading with the published augmentations, beside the same clips without.

    python benchmarks/augment_speed.py [--data FOLDER] [--videos 64] [--rounds 5] [--sizes 112 224] [--json FILE]

Batches of 16 clips of 16 frames with random resized crops are filled in the calling thread; the time is its CPU time.
All kinds alternate in each round; a ratio is the median over the rounds of the time without augmentation divided by
that with it. Without --data, the data set are synthetic videos of 340 x 256.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import hardware

from vidseg import ClipLoader
from vidseg.convert import convert_videos
from vidseg.convert.synth import synthesize_videos
from vidseg.convert.synth_options import SynthOptions

PRESETS = ("hmdb51", "ucf101", "hacs", "published")
CLIPS, FRAMES, BATCHES = 16, 16, 4


def seconds(loader: ClipLoader) -> float:
    """Fill the batches and return the CPU time."""
    plans = [loader.plan(0, index) for index in range(BATCHES)]
    began = time.thread_time()
    for plan in plans:
        loader._filler.fill(plan)
    return time.thread_time() - began


def measure(data: Path, size: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each preset."""
    loaders = {
        preset: ClipLoader(
            data,
            frames=FRAMES,
            interval=1,
            size=size,
            batch_size=CLIPS,
            threads=1,
            augment=preset,
            seed=1,
            ahead_bytes=1,
        )
        for preset in (None, *PRESETS)
    }
    times: dict[str | None, list[float]] = {preset: [] for preset in loaders}
    for turn in range(rounds + 1):
        for preset in sorted(loaders, key=str, reverse=turn % 2 == 1):
            times[preset].append(seconds(loaders[preset]))
    plain, frames = times.pop(None)[1:], CLIPS * FRAMES * BATCHES
    return [
        {
            "size": size,
            "preset": preset,
            "plain_ms": 1e3 * statistics.median(plain) / frames,
            "ms": 1e3 * statistics.median(own[1:]) / frames,
            "ratio": statistics.median(one / other for one, other in zip(plain, own[1:], strict=True)),
        }
        for preset, own in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="data set of frame databases, with at least 64 videos")
    parser.add_argument("--videos", type=int, default=64, help="number of synthetic videos")
    parser.add_argument("--rounds", type=int, default=5, help="number of measured rounds")
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 224], help="sizes of the clips in pixels")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = {"machine": hardware(), "torch": torch.__version__, "clock": "CPU time of one thread"}
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if data is None:
            data = Path(folder) / "data"
            synthesize_videos(Path(folder) / "synth", SynthOptions(videos=options.videos))
            convert_videos(Path(folder) / "synth/videos", data)
        rows = [row for size in options.sizes for row in measure(data, size, options.rounds)]
    print("\n| size | preset | without (ms a frame) | with (ms a frame) | clips/s with / without |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for row in rows:
        print("| {size} | {preset} | {plain_ms:.3f} | {ms:.3f} | {ratio:.2f} |".format(**row))
    if options.json:
        options.json.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
