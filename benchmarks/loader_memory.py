"""Memory of the loader over many epochs, and cost of opening many databases.

    python benchmarks/loader_memory.py [--epochs 50] [--databases 100000] [--json FILE]

The first part runs epochs over a small data set with augmentation and changing shapes, and prints the memory of the
process after some of them. The second part loads clips from many databases, each opened once in random order, and the
same clips from open databases; the difference of the CPU time of one thread is the cost of opening.
"""

import argparse
import json
import os
import re
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from loader_data import HEIGHT, WIDTH, DataOptions, make_data
from machine import hardware

from vidseg import ClipLoader, open_dataset
from vidseg.clips import BatchShape
from vidseg.clips.planner import ClipPlanner
from vidseg.labels import VideoRecord, update_catalog
from vidseg.loaders.native_backend import NativeFiller
from vidseg.loaders.output import OutputForm

SHAPES = [BatchShape(16, 4, 80, 80), BatchShape(8, 8, 112, 112), BatchShape(4, 8, 158, 158), BatchShape(4, 8, 224, 224)]
TIMED = 1600  # clips per repetition


def memory_mb() -> float:
    """Return the resident memory of this process in MB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1000  # type: ignore[index]


def shared_bytes() -> int:
    """Return the bytes of /dev/shm mapped by this process."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/dev/shm/" in line:
            first, last = line.split()[0].split("-")
            total += int(last, 16) - int(first, 16)
    return total


def epochs_table(folder: Path, epochs: int) -> list[dict[str, float]]:
    """Return the memory after some of the epochs."""
    data = open_dataset(folder)
    per_epoch = [shape for shape in SHAPES for _ in range(2)]
    loader = ClipLoader(data, shapes=lambda _: per_epoch, augment="hacs", threads=2)
    before = shared_bytes()  # locks of the processes that wrote the data
    rows = []
    for epoch in range(1, epochs + 1):
        clips = sum(len(batch) for batch in loader)
        if epoch in {1, 2, 5, 10, 20, 30, 40, epochs}:
            rows.append({"epoch": epoch, "clips": clips, "rss_mb": memory_mb(), "shm_bytes": shared_bytes() - before})
    return rows


def many_databases(sources: list[Path], folder: Path, count: int) -> Path:
    """Create a data set of hard links to a few databases (at most 65 000 per file), which are opened as separate
    files."""
    root = folder / "many"
    records = []
    for number in range(count):
        name = f"jpg/links/{number // 1000:04d}_{number:07d}"
        target = root / name / "frames.db"
        source = sources[number % len(sources)]
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            os.link(source, target)
        records.append(VideoRecord(name, "links", 250, HEIGHT, WIDTH, 25.0, 10.0, target.stat().st_size))
    update_catalog(root, records)
    return root


def opening_rows(root: Path, *, distinct: int, repeats: int) -> list[dict[str, float | str]]:
    """Return the CPU time of clips from databases opened once, and of the same clips from open databases."""
    data = open_dataset(root)
    rows: list[dict[str, float | str]] = []
    for frames, size in ((4, 80), (8, 112), (16, 158), (16, 224)):
        planner = ClipPlanner(data, frames=frames, size=size, batch_size=TIMED * frames // 16 // 4, seed=1)
        filler = NativeFiller(data, OutputForm(dtype=torch.uint8), threads=1)
        spent: dict[str, list[float]] = {"opened once": [], "open": []}
        files = 0
        for repeat in range(repeats):
            plan = planner.plan(0, repeat)
            same = plan.take(range(len(plan)))
            same.videos[:] %= distinct  # the first links of the same files
            for kind, chosen in (("opened once", plan), ("open", same)):
                filler.fill(chosen)  # load both from the page cache
                start = time.process_time()
                filler.fill(chosen)
                spent[kind].append((time.process_time() - start) / len(plan))
            files = max(files, len(list(Path("/proc/self/fd").iterdir())))
        # Both fills of a repetition run under similar load.
        extra = statistics.median(np.subtract(spent["opened once"], spent["open"]).tolist())
        opened = statistics.median(spent["open"])
        rows.append(
            {
                "shape": f"{frames}x{size}x{size}",
                "clip_us": 1e6 * (opened + extra),
                "open_clip_us": 1e6 * opened,
                "share": extra / (opened + extra),
                "open_files": files,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--databases", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = f"{hardware()}, torch {torch.__version__}"
    print(machine)
    with tempfile.TemporaryDirectory(prefix="vidseg_memory_") as scratch:
        sources = make_data(Path(scratch), DataOptions(distinct=8, frames=250, videos=64))
        epochs = epochs_table(sources.dataset, options.epochs)
        print("\n| epoch | clips | resident MB | bytes in /dev/shm |\n| ---: | ---: | ---: | ---: |")
        for row in epochs:
            print(f"| {row['epoch']:.0f} | {row['clips']:.0f} | {row['rss_mb']:.0f} | {row['shm_bytes']:.0f} |")
        warm = next((row for row in epochs if row["epoch"] == 10), epochs[0])  # each shape has been allocated by then
        change = epochs[-1]["rss_mb"] / warm["rss_mb"] - 1
        print(f"\nfrom epoch {warm['epoch']:.0f} to {epochs[-1]['epoch']:.0f}: {change:+.1%}\n")

        databases = list({path.stat().st_ino: path for path in sources.dataset.rglob("frames.db")}.values())
        opening = opening_rows(
            many_databases(databases, Path(scratch), options.databases),
            distinct=len(databases),
            repeats=options.repeats,
        )
        print(f"{options.databases} databases in random order, one thread:\n")
        print("| clip | us, opened once | us, open | fraction of opening | open files |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for row in opening:
            print(
                f"| {row['shape']} | {row['clip_us']:.0f} | {row['open_clip_us']:.0f} | {row['share']:.1%} |"
                f" {row['open_files']} |"
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"\npeak {peak:.0f} MB")
    if options.json:
        report = {"machine": machine, "epochs": epochs, "change": change, "opening": opening}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
