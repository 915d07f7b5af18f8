"""Speed of detection mAP on results of the size of THUMOS-14 and ActivityNet, beside OpenTAD's evaluator.

    git clone https://github.com/sming256/OpenTAD
    python benchmarks/detection_speed.py OpenTAD [--sizes thumos14 activitynet] [--json]

OpenTAD's evaluator is the published ActivityNet evaluator in Python 3, run in processes; it needs pandas. It reads the
truth from a JSON file, which is excluded: the benchmark measures its `evaluate` method. Detections are made at random
around the instances, with the number per video of published results. Each variant runs several times in this process,
and the shortest time is reported; OpenTAD's runs once. Limit: 20 times the speed of OpenTAD's evaluator; exit status 1
if it is missed or a value differs by more than 1e-9.
"""

import importlib
import json
import os
import platform
import sys
import tempfile
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np
import tyro
from machine import hardware

import vidseg
from vidseg.metrics import DetectionProtocol, Detections, detection_map

TIMES = 20.0
TOLERANCE = 1e-9
SIZES = {  # videos, classes, mean number of instances per video, thresholds
    "thumos14": (213, 20, 15.8, np.linspace(0.3, 0.7, 5)),
    "activitynet": (4728, 200, 1.54, np.linspace(0.5, 0.95, 10)),
}


@dataclass
class Options:
    """Measure the speed of detection mAP."""

    opentad: tyro.conf.Positional[Path | None] = None
    """Checkout of OpenTAD; without it, only vidseg is measured."""
    sizes: tuple[Literal["thumos14", "activitynet"], ...] = ("thumos14", "activitynet")
    """Sizes to measure."""
    detections: int = 200
    """Detections per video."""
    repeat: int = 5
    """Number of runs of vidseg."""
    processes: int = os.cpu_count() or 1
    """Processes of OpenTAD's evaluator."""
    json: bool = False
    """Print one JSON object instead of a table."""


def made_results(videos: int, classes: int, mean: float, count: int) -> tuple[Detections, Detections]:
    """Return instances and detections: half of the detections near an instance, half anywhere."""
    rng = np.random.default_rng(0)
    truth, found = [], []
    for video in range(videos):
        seconds, own, mine = rng.uniform(30, 240), rng.integers(classes), []
        for _ in range(1 + rng.poisson(mean - 1)):
            start, length = rng.uniform(0, 0.8 * seconds), seconds * rng.uniform(0.02, 0.5)
            mine.append((start, min(seconds, start + length)))
        truth += [(video, segment, own) for segment in mine]
        for row in range(count):
            start, stop = mine[row % len(mine)]
            if row % 2:
                start, stop = sorted(rng.uniform(0, seconds, 2))
            else:
                start, stop = start + rng.normal(0, 0.1) * (stop - start), stop + rng.normal(0, 0.1) * (stop - start)
            label = own if row % 4 < 2 else rng.integers(classes)
            found.append((video, (start, max(stop, start + 0.01)), label, rng.random()))
    return Detections.of(*zip(*truth, strict=True)), Detections.of(*zip(*found, strict=True))


def as_json(truth: Detections, found: Detections) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both as the official JSON objects."""
    database: dict[str, Any] = {f"v{video}": {"subset": "validation", "annotations": []} for video in truth.videos}
    for video, segment, label in zip(truth.videos, truth.segments.tolist(), truth.labels, strict=True):
        database[f"v{video}"]["annotations"].append({"segment": segment, "label": str(label)})
    results: dict[str, Any] = {}
    rows = zip(found.videos, found.segments.tolist(), found.labels, found.scores.tolist(), strict=True)
    for video, segment, label, score in rows:
        results.setdefault(f"v{video}", []).append({"segment": segment, "label": str(label), "score": score})
    return {"database": database}, {"results": results}


def opentad_evaluator(folder: Path) -> Any:
    """Import OpenTAD's class `mAP`; its registry, the only use of mmengine, is replaced if mmengine is missing."""

    class Registry:
        def __init__(self, *_: Any) -> None: ...

        def register_module(self) -> Any:
            return lambda found: found

    if not (folder / "opentad" / "evaluations" / "mAP.py").is_file():
        raise FileNotFoundError(f"{folder}: opentad/evaluations/mAP.py not found; pass a checkout of OpenTAD")
    try:
        importlib.import_module("mmengine.registry")
    except ImportError:
        registry = types.ModuleType("mmengine.registry")
        registry.Registry = Registry
        sys.modules |= {"mmengine": types.ModuleType("mmengine"), "mmengine.registry": registry}
    package = types.ModuleType("opentad_evaluations")
    package.__path__ = [str(folder / "opentad" / "evaluations")]
    sys.modules["opentad_evaluations"] = package
    return importlib.import_module("opentad_evaluations.mAP").mAP


def measured(size: str, options: Options) -> dict[str, Any]:
    videos, classes, mean, thresholds = SIZES[size]
    truth, found = made_results(videos, classes, mean, options.detections)
    protocol = DetectionProtocol(tuple(thresholds), duplicate_tolerance=1e-3, min_length=0.0)
    times = []
    for _ in range(options.repeat + 1):
        start = time.perf_counter()
        scores = detection_map(truth, found, protocol=protocol)
        times.append(time.perf_counter() - start)
    row = {
        "size": size, "videos": videos, "instances": len(truth), "detections": len(found), "first_s": times[0],
        "vidseg_s": min(times[1:]), "average_map": scores.average,
    }  # fmt: skip
    if options.opentad is not None:
        database, results = as_json(truth, found)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "truth.json").write_text(json.dumps(database))
            evaluator = opentad_evaluator(options.opentad)(
                str(Path(folder) / "truth.json"), results, "validation", thresholds, thread=options.processes
            )
        start = time.perf_counter()
        evaluator.evaluate()
        row["opentad_s"] = time.perf_counter() - start
        numbers = [int(name) for name in evaluator.activity_index]
        columns = {number: column for column, number in enumerate(numbers)}
        theirs = evaluator.ap.T[[columns[number] for number in scores.classes.tolist()]]
        row["largest_difference"] = float(np.abs(theirs - scores.ap).max())
        row["times"] = row["opentad_s"] / row["vidseg_s"]
        row["limit_met"] = row["times"] >= TIMES and row["largest_difference"] <= TOLERANCE
    return row


def main(options: Options) -> int:
    rows = [measured(size, options) for size in options.sizes]
    machine = {
        "machine": hardware(),
        "versions": f"vidseg {vidseg.__version__}, Python {platform.python_version()}, NumPy {np.__version__},"
        f" numba {numba.__version__}",
    }
    if options.json:
        print(json.dumps({**machine, "rows": rows}))
    else:
        print(machine["machine"], machine["versions"], sep="\n")
        columns = ["size", "videos", "instances", "detections", "vidseg_s", "opentad_s", "times", "largest_difference"]
        print(f"{'':12}" + "".join(f"{name:>20}" for name in columns[1:]))
        for row in rows:
            cells = [f"{row[name]:>20.4g}" if name in row else f"{'-':>20}" for name in columns[1:]]
            print(f"{row['size']:12}" + "".join(cells))
        print(f"first call, with the kernels compiled or read from the cache: {rows[0]['first_s']:.2f} s")
        met = all(row.get("limit_met", True) for row in rows)
        print(f"limit {TIMES:g} times, equal to {TOLERANCE:g}: {'met' if met else 'MISSED'}")
    return 0 if all(row.get("limit_met", True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
