"""Throughput of vidseg's loader with all threads, divided by that with one thread.

    python benchmarks/loader_threads.py [--data FOLDER] [--rounds 4] [--augment hacs] [--json FILE]

Loaders with one thread and with one thread per core iterate over the same batches of synthetic videos, in turn, in one
process; the consumer reads one value of each memory page. The first batches of each loader allocate memory and are not
timed. Of the rounds, the table shows the one in which other processes used the least CPU time. With one thread, the
consumer has a core to itself.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from loader_data import DataOptions, make_data
from loader_measure import machine_seconds, touch
from loader_rows import some_videos
from loader_speed import SHAPES, WARM
from loader_table import machine

from vidseg import ClipLoader
from vidseg.clips import BatchShape
from vidseg.labels import VideoDataset, open_dataset

CORES = len(os.sched_getaffinity(0))


def measure(data: VideoDataset, shape: BatchShape, threads: int, augment: str | None) -> dict[str, float]:
    """Iterate over the data set once; return clips/s after the first batches, and the use of the machine by others."""
    size = (shape.height, shape.width)
    with ClipLoader(
        data,
        frames=shape.frames,
        interval=(1, 2),
        size=size,
        batch_size=shape.clips,
        threads=threads,
        augment=augment,
    ) as loader:
        for number, batch in enumerate(loader, start=1):
            touch(batch.frames)
            if number == WARM:
                began, cpu, busy = time.perf_counter(), time.process_time(), machine_seconds()
        seconds = time.perf_counter() - began
        others = machine_seconds() - busy - (time.process_time() - cpu)
    clips = (number - WARM) * shape.clips
    return {"clips_per_s": clips / seconds, "others": max(0.0, others) / seconds / CORES}


def compare(data: VideoDataset, name: str, augment: str | None, rounds: int) -> dict[str, Any]:
    """Measure both numbers of threads in each round; return the least disturbed measurements and their ratio."""
    shape = BatchShape(*map(int, name.split("x")))
    part = some_videos(data, min(2 * WARM + 6, len(data) // shape.clips) * shape.clips)
    best: dict[int, dict[str, float]] = {}
    for _ in range(rounds):
        for threads in (1, CORES):
            result = measure(part, shape, threads, augment)
            if threads not in best or result["others"] < best[threads]["others"]:
                best[threads] = result
    one, many = best[1], best[CORES]
    return {
        "shape": name,
        "augment": augment or "none",
        "one": one["clips_per_s"],
        "many": many["clips_per_s"],
        "ratio": many["clips_per_s"] / one["clips_per_s"],
        "others": max(one["others"], many["others"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data, written if missing (default: temporary folder)")
    parser.add_argument("--rounds", type=int, default=4, help="number of rounds")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="shapes, separated by commas")
    parser.add_argument("--augment", default="hacs", help="preset, measured besides no augmentation")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    options = parser.parse_args()
    print(machine(CORES))
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_data(options.data or Path(temporary) / "data", DataOptions(distinct=16, videos=12288)).folder
        data = open_dataset(folder / "dataset")
        print(f"\n| shape | preset | clips/s, 1 thread | clips/s, {CORES} threads | ratio | other processes |")
        print("| --- | --- | ---: | ---: | ---: | ---: |")
        rows = []
        for name in options.shapes.split(","):
            for augment in (None, options.augment):
                rows.append(compare(data, name, augment, options.rounds))
                row = "| {shape} | {augment} | {one:.0f} | {many:.0f} | {ratio:.2f} | {others:.0%} |".format(**rows[-1])
                print(row, flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(CORES), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
