"""Hyper-parameter search against the default recipe and random search, on test videos that no search has seen.

    python benchmarks/search.py [--data features shapes] [--searches N] [--trials N] [--folder DIR] [--json]

Two data sets, see search_data.py: MS-TCN labels the frames of "features" (score: mean of accuracy, edit and F1@50), and
R(2+1)D recognizes the motion of "shapes" (score: top-1). For each of several seeds the table has the test score of

    default         the recipe of the library for the epochs of one trial
    default, long   one run with the epochs of all trials of a search
    random          the best of N random trials on the validation data
    search          the best of N trials of `vidseg search` with method tpe

Every trial has the epochs of "default" and the training seed of the row. The search has no pruner, so that it has the
budget of the random search. A given folder keeps everything; a second run continues.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
import yaml
from machine import hardware
from search_data import moving_shapes, planted_features

from vidseg.metrics import sign_flip_test
from vidseg.search.scores import read_test_scores

FEATURES: dict[str, Any] = {
    "program": "segmentation",
    "options": {
        "epochs": 30,
        "validation-share": 0.25,
        "test-every": 5,
        "pictures": False,
        "device": "cpu",
        "network-option.maps": 16,
    },
    "space": {
        "lr": {"low": 1e-4, "high": 0.1, "log": True},
        "optimizer": ["adam", "adamw", "sgd"],
        "weight-decay": {"low": 1e-6, "high": 1e-2, "log": True},
        "schedule": ["steps", "cosine"],
        "batch-size": [1, 2, 4],
        "network-option.dropout": [0.0, 0.25, 0.5],
        "loss-option.smoothing": {"low": 0.01, "high": 1.0, "log": True},
    },
    "pruner": "none",
}
SHAPES: dict[str, Any] = {
    "program": "synth",
    "options": {
        "network": "r2plus1d_18",
        "network-option.width": 0.125,
        "epochs": 16,
        "frames": 8,
        "interval": 3,
        "train-interval": [3],
        "size": 40,
        "mirror": False,
        "test-every": 4,
        "pictures": False,
        "device": "cpu",
    },
    "space": {
        "lr": {"low": 1e-3, "high": 1.0, "log": True},
        "optimizer": ["sgd", "adamw"],
        "weight-decay": {"low": 1e-6, "high": 1e-2, "log": True},
        "schedule": ["steps", "cosine"],
        "batch-size": [8, 16, 32],
        "label-smoothing": [0.0, 0.1, 0.2],
        "warmup-epochs": [0, 3, 9],
    },
    "pruner": "none",
}


@dataclass
class Options:
    """Compare search, random search and the default recipe."""

    data: tuple[str, ...] = ("features", "shapes")
    """Data sets: features, shapes."""
    searches: int = 3
    """Searches with different seeds."""
    trials: int = 12
    """Trials of each search."""
    jobs: int = 2
    """Trials at the same time."""
    folder: Path | None = None
    """Folder of data and runs; default: a temporary folder."""
    json: bool = False
    """Print one JSON object instead of the tables."""


def main() -> int:
    """Run everything and print the tables."""
    options = tyro.cli(Options, description=__doc__)
    if options.folder is not None:
        return _run(options, options.folder)
    with tempfile.TemporaryDirectory() as folder:
        return _run(options, Path(folder))


def _run(options: Options, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name in options.data:
        start = time.perf_counter()
        make, content = {"features": (planted_features, FEATURES), "shapes": (moving_shapes, SHAPES)}[name]
        data = make(folder / name)
        rows: dict[str, list[float]] = {"default": [], "default, long": [], "random": [], "search": []}
        for seed in range(1, options.searches + 1):
            place = folder / f"{name}_{seed}"
            rows["default"].append(_default(content, data, place / "default", seed, 1))
            rows["default, long"].append(_default(content, data, place / "long", seed, options.trials))
            for method in ("random", "tpe"):
                score = _search(content, data, place / method, seed, method, options)
                rows["search" if method == "tpe" else method].append(score)
            print(f"{name}, seed {seed}: { ({key: values[-1] for key, values in rows.items()}) }", file=sys.stderr)
        gains = {
            other: [mine - its for mine, its in zip(rows["search"], rows[other], strict=True)]
            for other in rows
            if other != "search"
        }
        found[name] = {
            "test": rows,
            "wins": {other: sum(gain > 0 for gain in values) for other, values in gains.items()},
            "p": {other: sign_flip_test(values) for other, values in gains.items()},
            "seconds": time.perf_counter() - start,
        }
    if options.json:
        print(
            json.dumps({"hardware": hardware(), "trials": options.trials, "searches": options.searches, "data": found})
        )
    else:
        print(hardware())
        for name, result in found.items():
            _print(name, result, options)
    return 0


def _print(name: str, result: dict[str, Any], options: Options) -> None:
    unit = "score (mean of accuracy, edit and F1@50)" if name == "features" else "top-1"
    print(f"{name}: test {unit}, {options.searches} searches of {options.trials} trials, {result['seconds']:.0f} s")
    print(
        f"{'':16}"
        + "".join(f"{f'seed {seed}':>9}" for seed in range(1, options.searches + 1))
        + f"{'mean':>9}  exceeded"
    )
    for row, values in result["test"].items():
        cells = "".join(f"{value:9.4g}" for value in [*values, statistics.mean(values)])
        wins = "" if row == "search" else f"  {result['wins'][row]} of {options.searches}"
        print(f"{row:16}{cells}{wins}")


def _command(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vidseg.cli.main", *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"vidseg {' '.join(map(str, words))}\n{done.stderr[-3000:]}")
    return done.stdout


def _search(content: dict[str, Any], data: Path, out: Path, seed: int, method: str, options: Options) -> float:
    """Search, test the best trial, and return its test score."""
    out.parent.mkdir(parents=True, exist_ok=True)
    space = out.with_suffix(".yaml")
    fixed = {**content["options"], "seed": seed}
    space.write_text(yaml.safe_dump({**content, "options": fixed, "method": method, "seed": seed}))
    words = ("--trials", options.trials, "--jobs", options.jobs, "--out", out, "--json")
    found = json.loads(_command("search", space, data, *words))
    return _test(Path(found["best"]["run"]), found["task"])


def _default(content: dict[str, Any], data: Path, out: Path, seed: int, times: int) -> float:
    """Train with the options of the file alone, `times` the epochs, and return the test score."""
    program = content["program"]
    given = {**content["options"], "seed": seed, "epochs": content["options"]["epochs"] * times}
    words: list[str] = []
    for name, value in given.items():
        option, dot, key = name.partition(".")
        if dot:  # each file above has one
            words += [f"--{option}", f"{key}={value}"]
        elif isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{name}")
        else:
            words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    _command("train", program, data, "--out", out, "--resume", *words)
    return _test(out, "segmentation" if program == "segmentation" else "recognition")


def _test(run: Path, task: str) -> float:
    scores = read_test_scores(run, task)
    if scores is None:
        _command("test", run)
        scores = read_test_scores(run, task)
    assert scores is not None
    return scores["score"]


if __name__ == "__main__":
    sys.exit(main())
