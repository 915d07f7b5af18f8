"""Time to write and open a catalog of the size of Kinetics-700, memory of the open data set, and time of a scan.

    python benchmarks/catalog_speed.py [--videos 650000] [--databases 10000] [--json]

The catalog is written to a temporary folder. Each opening is a new process, after the file is dropped from the page
cache. `vidseg labels scan` reads databases of 30 frames, which the page cache holds, in a new process: first without a
catalog, then again. Limits: 3 seconds for each process, and 500 MB for the opened data set; exit status 1 if one is
exceeded.
"""

import json
import os
import platform
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from machine import hardware

import vidseg
from vidseg.frames import FrameWriter
from vidseg.labels import VideoRecord, update_catalog

SECONDS, MEGABYTES = 3.0, 500.0

OPEN = """
import json, resource, sys, time
start = time.perf_counter()
from vidseg.labels import open_dataset
imported = time.perf_counter()
data = open_dataset(sys.argv[1], sys.argv[2] or None)
opened = time.perf_counter()
first = data[0], data[-1]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"videos": len(data), "import_s": imported - start, "open_s": opened - imported, "peak_mb": peak}))
"""


@dataclass
class Options:
    """Measure time and memory of opening a catalog."""

    videos: int = 650_000
    """Number of videos."""
    databases: int = 10_000
    """Number of frame databases to scan."""
    json: bool = False
    """Print one JSON object instead of a table."""


def records(count: int) -> Iterator[VideoRecord]:
    """Yield videos of 700 classes in arbitrary order, as conversion workers finish them; every tenth is for
    validation."""
    numbers = list(range(count))
    random.Random(0).shuffle(numbers)
    for number in numbers:
        label = f"name of class number {number % 700:03d}"
        path = f"jpg/{label}/{number:011x}_000012_000022"
        split = "val" if number % 10 == 0 else "train"
        yield VideoRecord(path, label, 250 + number % 60, 256, 340, 29.97, 10.0, 5_000_000 + number, split)


def write_databases(root: Path, count: int) -> None:
    """Write `count` equal databases of 50 classes, with the metadata of a conversion."""
    first = root / "jpg/class 00/video 00000/frames.db"
    properties = {"fps": 30.0, "duration": 1.0, "width": 340, "height": 256, "codec": "h264", "source": "video.mp4"}
    with FrameWriter(first, levels=2, meta={**properties, "source_sha256": 64 * "0"}) as writer:
        for frame in range(30):
            writer.add(bytes(512), width=340, timestamp=frame / 30, levels=(bytes(128), bytes(32)))
    for number in range(1, count):
        folder = root / f"jpg/class {number % 50:02}/video {number:05}"
        folder.mkdir(parents=True)
        for name in ("frames.db", "n_frames"):
            shutil.copyfile(first.with_name(name), folder / name)


def scan_in_fresh_process(root: Path) -> float:
    """Return the seconds of `vidseg labels scan`, the start of Python included."""
    environment = {**os.environ, "PYTHONPATH": str(Path(vidseg.__file__).parents[1])}
    command = [sys.executable, "-m", "vidseg.cli.main", "labels", "scan", str(root)]
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def open_in_fresh_process(root: str, split: str) -> dict[str, float]:
    """Measure `open_dataset` with an empty page cache."""
    with open(Path(root) / "catalog.db", "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    environment = {**os.environ, "PYTHONPATH": str(Path(vidseg.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, root, split], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def main(options: Options) -> int:
    with tempfile.TemporaryDirectory() as root:
        start = time.perf_counter()
        update_catalog(root, records(options.videos))
        written = time.perf_counter() - start
        size = (Path(root) / "catalog.db").stat().st_size
        rows = {split or "all": open_in_fresh_process(root, split) for split in ("", "train", "val")}
    with tempfile.TemporaryDirectory() as root:
        write_databases(Path(root), options.databases)
        scans = [scan_in_fresh_process(Path(root)) for _ in range(2)]
    met = all(row["import_s"] + row["open_s"] <= SECONDS and row["peak_mb"] <= MEGABYTES for row in rows.values())
    met = met and max(scans) <= SECONDS
    machine = {
        "machine": hardware(),
        "versions": f"vidseg {vidseg.__version__}, Python {platform.python_version()}, NumPy {np.__version__},"
        f" SQLite {sqlite3.sqlite_version}",
    }
    if options.json:
        print(
            json.dumps(
                {**machine, "write_s": written, "size_mb": size / 1e6, "open": rows, "scan_s": scans, "limits_met": met}
            )
        )
    else:
        print(machine["machine"], machine["versions"], sep="\n")
        print(f"written: {options.videos} videos, {size / 1e6:.0f} MB, {written:.1f} s\n")
        print("split   videos  import s  open s  peak MB")
        for split, row in rows.items():
            print(f"{split:6}{row['videos']:8}{row['import_s']:10.2f}{row['open_s']:8.2f}{row['peak_mb']:9.0f}")
        first, again = scans
        print(f"\nscan of {options.databases} databases: {first:.2f} s, again {again:.2f} s")
        print(f"limits: {SECONDS:g} s and {MEGABYTES:g} MB: {'met' if met else 'EXCEEDED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
