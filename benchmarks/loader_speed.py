"""Throughput in clips/s of vidseg's loader, of other loaders, and of the limits, on the same plans, frames and cores.

    python benchmarks/loader_speed.py [--quick] [--data FOLDER] [--rows native,published] [--json FILE] [--plot FILE]

The shapes are those of the published table (batch, frames, height, width). The plans are training plans: random starts,
random resized crops, mirroring. Every row delivers normalized float32 (B, 3, T, H, W) (one row uint8, for normalization
on the GPU) over a whole pass in a separate process. The time includes starting the workers, from the start of iteration
to the last batch. The consumer reads one value of each page of each batch. Rows alternate within each round; the table
shows medians. All files are in the page cache. See loader_peers.py for installing the other loaders.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from loader_data import DataOptions, Sources, make_data
from loader_measure import measure
from loader_peers import PEERS, Job, MissingError
from loader_rows import LIMITS, OURS, make_plans, some_videos

from vidseg.clips import BatchShape
from vidseg.frames.native import versions
from vidseg.labels import open_dataset
from vidseg.loaders.output import MEAN, STD
from vidseg.plots import plot_rates

CORES = len(os.sched_getaffinity(0))
# shapes of the published table, and number of batches per pass: full, and with --quick
SHAPES = {
    "1536x4x80x80": (16, 8),
    "384x8x112x112": (24, 12),
    "96x16x158x158": (32, 16),
    "48x16x224x224": (32, 16),
}
NAMES = {name: row.what for table in (OURS, PEERS, LIMITS) for name, row in table.items()}
PUBLISHED = "published"
LEGEND = """\
CPU ms: CPU time per clip of all processes and threads. wait: fraction of the pass that the consumer waited. RSS: peak
memory (VmHWM) of all processes, MB. extra: part of RSS added by loading (for workers, relative to their parent). shm:
peak use of /dev/shm, MB. off: mean distance of the pixels from an exact reference, gray levels of 0..255 (rows that
read JPEGs). spread: (slowest round - fastest round) / median."""


def run_row(name: str, shape: str, batches: int, folder: Path) -> dict[str, Any]:
    """Measure one row in this process."""
    batch = BatchShape(*map(int, shape.split("x")))
    data = some_videos(open_dataset(Sources(folder).dataset), batches * batch.clips)
    job = Job(data, Sources(folder), make_plans(data, batch), CORES, MEAN, STD)
    try:
        if name in PEERS:
            return measure(PEERS[name].start(job), job, compare=PEERS[name].from_jpegs)
        return measure({**OURS, **LIMITS}[name].start(job), job, compare=name in OURS)
    except MissingError as reason:
        return {"missing": str(reason)}


def run_elsewhere(name: str, shape: str, batches: int, folder: Path) -> dict[str, Any]:
    """Measure one row in a separate process.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, __file__, "--data", str(folder), "--row", name, "--shape", shape]
    result = subprocess.run([*command, "--batches", str(batches)], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"row {name} at {shape} ended with status {result.returncode}:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def run_shape(shape: str, names: list[str], batches: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Measure all rows of one shape, alternating within each round; return medians."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            if not any("missing" in result for result in results[name]):
                results[name].append(run_elsewhere(name, shape, batches, folder))
    reference = results.get(PUBLISHED, [])
    rows = []
    for name, values in results.items():
        row: dict[str, Any] = {"shape": shape, "row": name, "what": NAMES[name]}
        if "missing" in values[0]:
            rows.append({**row, **values[0]})
            continue
        for key in values[0]:
            row[key] = None if values[0][key] is None else statistics.median(value[key] for value in values)
        speeds = [value["clips_per_s"] for value in values]
        row["spread"] = (max(speeds) - min(speeds)) / statistics.median(speeds)
        row["frames_per_s"] = row["clips_per_s"] * int(shape.split("x")[1])
        if reference:
            pairs = zip(speeds, reference, strict=True)
            row["of_published"] = statistics.median(speed / other["clips_per_s"] for speed, other in pairs)
        rows.append(row)
    return rows


def print_shape(shape: str, rows: list[dict[str, Any]]) -> None:
    print(
        f"\n{shape:47}{'clips/s':>9}{'/ published':>12}{'CPU ms':>8}{'wait':>6}{'RSS':>7}{'extra':>7}{'shm':>6}", end=""
    )
    print(f"{'off':>6}{'spread':>8}")
    for row in rows:
        if "missing" in row:
            print(f"{row['what']:47}  not installed: {row['missing']}")
            continue
        ratio = f"{row['of_published']:.2f}" if "of_published" in row else ""
        off = "" if row["off"] is None else f"{row['off']:.2f}"
        print(
            f"{row['what']:47}{row['clips_per_s']:>9.1f}{ratio:>12}{row['cpu_ms_per_clip']:>8.2f}{row['wait_share']:>6.0%}"
            f"{row['rss_mb']:>7.0f}{row['extra_mb']:>7.0f}{row['shm_mb']:>6.0f}{off:>6}{row['spread']:>8.0%}",
            flush=True,
        )


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return required and measured ratios of this run; ratios whose rows did not run are omitted."""
    speed = {(row["shape"], row["row"]): row.get("clips_per_s") for row in rows}
    large, middle, small, tiny = reversed(SHAPES)
    required = [(large, "native", PUBLISHED, 4), (middle, "native", PUBLISHED, 5)]
    required += [(shape, ours, PUBLISHED, 10) for shape in (small, tiny) for ours in ("native", "native-enlarge")]
    required += [(large, "native", peer, 20) for peer in ("decord", "torchcodec", "av")]
    required += [(shape, "native", "dali", 1.5) for shape in SHAPES]
    required += [(large, "native", "decode", 1.3), (small, "native", "decode", 3)]
    required += [(small, "native-enlarge", "decode", 3), (large, "native", "native-1", 1.7)]
    result = []
    for shape, one, other, least in required:
        if speed.get((shape, one)) and speed.get((shape, other)):
            ratio = speed[shape, one] / speed[shape, other]
            result.append({"shape": shape, "ratio": f"{NAMES[one]} / {NAMES[other]}", "is": ratio, "required": least})
    return result


def machine() -> dict[str, str]:
    """Return the hardware and versions."""
    packages = ["torch", "numpy", "av", "opencv-python-headless", "decord", "torchcodec", "spdl", "nvidia-dali-cuda120"]
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    cpu = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in cpu if line.startswith("model name")), "unknown processor")
    return {
        "machine": f"{model}, {CORES} cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join([*found, versions()]),
    }


def _is_drawn(row: dict[str, Any]) -> bool:
    """Return whether a row is plotted; reading, copying and planning are too fast for the common scale."""
    return "missing" not in row and row["row"] not in ("read", "memcpy", "plan", "native-1", "native-uint8")


def warm(folder: Path) -> None:
    """Load the files into the page cache."""
    for path in folder.rglob("*"):
        if path.is_file() and (path.suffix in (".jpg", ".mp4") or path.parent.name.endswith("-00000")):
            path.read_bytes()
    for path in (folder / "published").rglob("*.db"):
        path.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="run fewer batches and one round")
    parser.add_argument("--rounds", type=int, help="number of rounds (default 3; 1 with --quick)")
    parser.add_argument("--rows", help=f"rows to run, separated by commas (default all): {', '.join(NAMES)}")
    parser.add_argument("--shapes", help=f"shapes to run, separated by commas (default all): {', '.join(SHAPES)}")
    parser.add_argument("--data", type=Path, help="folder of the data, written if missing (default: temporary folder)")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    parser.add_argument("--plot", type=Path, help="plot the throughput to this file")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # set in the process of a row
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(run_row(options.row, options.shape, options.batches, options.data)))
        return
    names = options.rows.split(",") if options.rows else list(NAMES)
    shapes = options.shapes.split(",") if options.shapes else list(SHAPES)
    unknown = [name for name in names if name not in NAMES] + [shape for shape in shapes if shape not in SHAPES]
    if unknown:
        parser.error(f"unknown row or shape {', '.join(unknown)}; see --help")
    rounds = options.rounds or (1 if options.quick else 3)
    with tempfile.TemporaryDirectory() as temporary:
        data = DataOptions(distinct=16, videos=12288) if options.quick else DataOptions()
        folder = make_data(options.data or Path(temporary) / "data", data).folder
        warm(folder)
        about = {**machine(), "data": f"{data}; medians of {rounds} rounds"}
        for name, value in about.items():
            print(f"{name}: {value}")
        rows = []
        for shape in shapes:
            part = run_shape(shape, names, SHAPES[shape][options.quick], rounds, folder)
            print_shape(shape, part)
            rows += part
    print(f"\n{LEGEND}")
    ratios = targets(rows)
    if ratios:
        print(f"\n{'ratio':66}{'is':>7}{'required':>10}")
    for target in ratios:
        text, missed = f"{target['shape']}: {target['ratio']}", target["is"] < target["required"]
        print(f"{text:66}{target['is']:>7.2f}{target['required']:>10}{'  missed' if missed else ''}")
    if options.json:
        options.json.write_text(json.dumps({**about, "rows": rows, "ratios": ratios}, indent=1) + "\n")
    if options.plot:
        rates = {
            shape: {row["what"]: row["clips_per_s"] for row in rows if row["shape"] == shape and _is_drawn(row)}
            for shape in shapes
        }
        ours, limits = ([row.what for row in table.values()] for table in (OURS, LIMITS))
        plot_rates(rates, options.plot, title="Clips per second", unit="clips/s", ours=ours, limits=limits)


if __name__ == "__main__":
    main()
