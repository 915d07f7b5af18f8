"""Throughput in clips/s of vidseg's loader, of other loaders, and of the limits, on the same plans, frames and cores.

    python benchmarks/loader_speed.py [--quick] [--data FOLDER] [--rows native,published] [--json FILE] [--plot FILE]
    python benchmarks/loader_speed.py --join ONE.json OTHER.json [--json FILE] [--plot FILE]

The shapes are those of the published table (batch, frames, height, width). The plans are training plans: random starts,
random resized crops, mirroring, and with --augment the warps and color operations of a preset. Every row delivers
normalized float32 (B, 3, T, H, W) (one row uint8, for normalization on the GPU) over a whole pass in a separate
process. A few batches before the pass start the workers and allocate memory; they are not timed. The time is that from
the beginning of the pass to its last batch. The consumer reads one value of each page of each batch. Rows alternate
within each round; the table shows medians. A measurement is repeated if other processes used the machine meanwhile. All
files are in the page cache. See loader_peers.py for installing the other loaders.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from loader_data import DataOptions, Sources, make_data
from loader_formats import make_store
from loader_job import Job, MissingError
from loader_measure import measure
from loader_peers import PEERS
from loader_rows import LIMITS, OURS, make_plans, some_videos
from loader_table import LEGEND, join_reports, machine, medians, print_ratios, print_shape, ratios

from vidseg.clips import BatchShape
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
UNDISTURBED = 0.03  # largest share of the cores that other processes may use during a pass
# glibc keeps freed memory in the rows of the limits, which allocate the frames that they discard
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
WARM = CORES + 1  # batches before the timed pass: one for each worker, and all memory of vidseg's batches
ROWS = {**OURS, **PEERS, **LIMITS}
NAMES = {name: row.what for name, row in ROWS.items()}
AUGMENTED = [*OURS, *(name for name, peer in PEERS.items() if peer.augments), "plan"]  # rows of --augment


def run_row(name: str, shape: str, batches: int, folder: Path, augment: str | None) -> dict[str, Any]:
    """Measure one row in this process."""
    batch, sources, row = BatchShape(*map(int, shape.split("x"))), Sources(folder), ROWS[name]
    if row.batches_per_worker is not None:
        batches = min(batches, CORES * row.batches_per_worker)
    data = some_videos(open_dataset(sources.dataset), batches * batch.clips)
    plain = make_plans(data, batch)
    plans = make_plans(data, batch, augment) if augment else plain
    job = Job(data, sources, plans, CORES, min(WARM, batches), MEAN, STD, augment, tuple(plain) if augment else ())
    compare = augment is None and (name in OURS or (name in PEERS and PEERS[name].from_jpegs))
    try:
        make_store(sources, row.store)
        smaller = name in LIMITS and LIMITS[name].smaller
        result = measure(row.start(job), job, compare=compare, whole=name not in LIMITS, smaller=smaller)
    except MissingError as reason:
        return {"missing": str(reason)}
    return {**result, "bytes_per_frame": sources.bytes_per_frame(row.store) if row.store else None}


def run_elsewhere(name: str, shape: str, batches: int, folder: Path, augment: str | None) -> dict[str, Any]:
    """Measure one row in a separate process.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, __file__, "--data", str(folder), "--row", name, "--shapes", shape]
    command += ["--batches", str(batches), *(["--augment", augment] if augment else [])]
    environment = {**os.environ, **(KEEP_MEMORY if name in LIMITS else {})}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(f"row {name} at {shape} ended with status {result.returncode}:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def run_undisturbed(tries: int, *row: Any) -> dict[str, Any]:
    """Measure one row, again if other processes used the machine; return the least disturbed measurement."""
    best: dict[str, Any] = {}
    for _ in range(tries):
        result = run_elsewhere(*row)
        if "missing" in result:
            return result
        if not best or result["others"] < best["others"]:
            best = result
        if best["others"] <= UNDISTURBED:
            break
    return best


def run_rounds(
    shape: str, names: list[str], batches: int, folder: Path, augment: str | None, *, rounds: int, tries: int
) -> list[dict[str, Any]]:
    """Measure all rows of one shape, alternating within each round; return every measurement."""
    results: list[dict[str, Any]] = []
    missing: set[str] = set()
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            if name not in missing:
                result = run_undisturbed(tries, name, shape, batches, folder, augment)
                missing |= {name} if "missing" in result else set()
                about = {"shape": shape, "augment": augment or "", "row": name, "what": NAMES[name]}
                results.append({**about, **result})
    return results


def warm(folder: Path) -> None:
    """Load the files into the page cache."""
    for part in folder.iterdir():
        # the databases of the data set are hard links to those of the first videos
        paths = part.glob("jpg/*/*-00000/*") if part.name == "dataset" else part.rglob("*")
        for path in paths:
            if path.is_file():
                path.read_bytes()


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot the rows without augmentation; reading, copying and planning are too fast for the common scale."""
    hidden = ("read", "memcpy", "plan", "step", "native-1", "native-uint8")
    drawn = [row for row in rows if not row["augment"] and "missing" not in row and row["row"] not in hidden]
    rates: dict[str, dict[str, float]] = {}
    for row in drawn:
        rates.setdefault(row["shape"], {})[row["what"]] = row["clips_per_s"]
    ours, limits = ([row.what for row in table.values()] for table in (OURS, LIMITS))
    plot_rates(rates, path, title="Clips per second", unit="clips/s", ours=ours, limits=limits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="run fewer batches and one round")
    parser.add_argument("--rounds", type=int, help="number of rounds (default 3; 1 with --quick)")
    parser.add_argument(
        "--tries", type=int, default=3, help="most measurements of a row per round, if others disturb it"
    )
    parser.add_argument("--rows", help=f"rows to run, separated by commas (default all): {', '.join(NAMES)}")
    parser.add_argument("--shapes", help=f"shapes to run, separated by commas (default all): {', '.join(SHAPES)}")
    parser.add_argument("--batches", type=int, help="batches of a pass; slow rows have at most 2 or 4 per core")
    parser.add_argument("--augment", help=f"preset of the plans; rows: {', '.join(AUGMENTED)}")
    parser.add_argument("--clips", type=Path, help="folder of real videos, which replace the synthetic ones")
    parser.add_argument("--data", type=Path, help="folder of the data, written if missing (default: temporary folder)")
    parser.add_argument("--json", type=Path, help="write the measurements to this file as well")
    parser.add_argument("--join", type=Path, nargs="+", help="print one table of such files instead of measuring")
    parser.add_argument("--plot", type=Path, help="plot the throughput to this file")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # set in the process of a row
    options = parser.parse_args()
    if options.row:
        print(json.dumps(run_row(options.row, options.shapes, options.batches, options.data, options.augment)))
        return
    possible = (
        AUGMENTED if options.augment else [name for name, row in ROWS.items() if name not in PEERS or not row.augments]
    )
    names = options.rows.split(",") if options.rows else possible
    shapes = options.shapes.split(",") if options.shapes else list(SHAPES)
    unknown = [name for name in names if name not in possible] + [shape for shape in shapes if shape not in SHAPES]
    if unknown:
        parser.error(f"unknown row or shape {', '.join(unknown)}; see --help")
    report = join_reports(options.join) if options.join else measured(options, names, shapes)
    rows = medians(report["measurements"])
    for value in (*report["machines"], *report["data"]):
        print(value)
    for key in dict.fromkeys((row["shape"], row["augment"]) for row in rows):
        print_shape(key, [row for row in rows if (row["shape"], row["augment"]) == key])
    print(f"\n{LEGEND}")
    print_ratios(ratios(rows))
    if options.json:
        options.json.write_text(json.dumps({**report, "rows": rows, "ratios": ratios(rows)}, indent=1) + "\n")
    if options.plot:
        draw(rows, options.plot)


def measured(options: argparse.Namespace, names: list[str], shapes: list[str]) -> dict[str, Any]:
    """Run the rows; return machine, data and measurements."""
    rounds = options.rounds or (1 if options.quick else 3)
    with tempfile.TemporaryDirectory() as temporary:
        data = DataOptions(distinct=16, videos=12288) if options.quick else DataOptions()
        if options.clips:
            data = DataOptions(distinct=0, frames=0, videos=data.videos, clips=str(options.clips.resolve()))
        folder = make_data(options.data or Path(temporary) / "data", data).folder
        warm(folder)
        measurements = []
        for shape in shapes:
            batches = options.batches or SHAPES[shape][options.quick]
            part = run_rounds(shape, names, batches, folder, options.augment, rounds=rounds, tries=options.tries)
            print_shape((shape, options.augment or ""), medians(part))
            measurements += part
        return {"machines": [machine(CORES)], "data": [f"data: {data}"], "measurements": measurements}


if __name__ == "__main__":
    main()
