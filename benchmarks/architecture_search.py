"""Pareto fronts of a one-shot architecture search and of width scaling alone, on two synthetic tasks.

    python benchmarks/architecture_search.py [--only features shapes] [--seeds 1] [--folder DIR] [--json] [--quick]

features: MS-TCN on planted features; shapes: R(2+1)D-18 on videos of moving shapes; see search_data.py.

Width scaling trains the published layers at several widths, each for --epochs. The search trains one super-network for
as many epochs, chooses networks with evolution on the validation videos, and trains each for a fifth of the epochs from
its shared weights. "alone" trains the same networks from random weights like those of width scaling, which compares the
architectures. All scores are those of test videos that no side saw. `area` is the area under the front of
score against the logarithm (base 10) of the multiply-adds, from the most expensive network and score 0. CPU seconds are
those of the whole side. Training uses one thread.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import hardware
from search_data import moving_shapes, planted_features

import vidseg
from vidseg.engine.options import flat_options
from vidseg.search import Parameter, SearchSpace, search_one_shot
from vidseg.search.architecture import PREFIX, architecture_parameters
from vidseg.search.costs import CostMeter
from vidseg.search.evolution import dominated_area, pareto_front
from vidseg.search.scores import make_objective
from vidseg.search.trial import trial_folder
from vidseg.tasks.recognition.recipes import recipe_options as recognition_options
from vidseg.tasks.recognition.runs import train_recognition
from vidseg.tasks.segmentation.cross_validation import cross_validate
from vidseg.tasks.segmentation.recipes import recipe_options as segmentation_options

SIDES = ("width", "search", "alone")
COMMON: dict[str, Any] = {"device": "cpu", "pictures": False, "threads": 1, "warmup_epochs": 1.0}


@dataclass
class Options:
    """Compare a one-shot architecture search with width scaling."""

    only: tuple[str, ...] = ("features", "shapes")
    """Tasks to run."""
    seeds: tuple[int, ...] = (1,)
    """Seeds of weights, order, and search; each has rows of its own."""
    folder: Path | None = None
    """Folder of data and runs; a second start skips what is finished, also in the CPU time. Default: temporary."""
    epochs: int | None = None
    """Training epochs of each network of width scaling, and of the super-network; default: 24 and 32."""
    trials: int = 32
    """Networks that the search evaluates."""
    networks: int = 5
    """Largest number of networks of the search that are trained further."""
    json: bool = False
    """Print one JSON object instead of tables."""
    quick: bool = False
    """Use a few small videos, one epoch and few networks."""


@dataclass(frozen=True)
class Case:
    """One of the tasks.

    Attributes:
        make_data: writes the data set into a folder.
        network: name of the network.
        options: from options by name, those of a run.
        epochs: training epochs, if the options do not give them.
        widths: NAME=VALUE words of each network of width scaling, the published form first.
        parameters: searched options of the network.
        train: trains a run; returns the folder with test.json, or of a run to test.
    """

    make_data: Callable[..., Path]
    network: str
    options: Callable[..., Any]
    epochs: int
    widths: list[tuple[str, ...]]
    parameters: Mapping[str, Parameter]
    train: Callable[[Any], Path]


def main() -> int:
    """Run the tasks and print their tables."""
    options = tyro.cli(Options, description=__doc__)
    if options.quick:
        options = replace(options, epochs=1, trials=4, networks=2)
    torch.set_num_threads(1)
    if options.folder is not None:
        return _run(options, options.folder)
    with tempfile.TemporaryDirectory() as folder:
        return _run(options, Path(folder))


def _run(options: Options, folder: Path) -> int:
    found = []
    for name in options.only:
        case = cases()[name]
        data = case.make_data(folder / name, quick=options.quick)
        for seed in options.seeds:
            found.append({"task": name, "seed": seed, **compare(case, data, folder / f"{name}_{seed}", options, seed)})
    if options.json:
        print(json.dumps({"hardware": hardware(), "tasks": found}))
        return 0
    print(hardware())
    for one in found:
        size = f"{one['epochs']} epochs, {one['videos']} test videos"
        print(f"\n{one['task']}, seed {one['seed']}: {one['network']}, {size}")
        print(f"{'':16}{'score':>8}{'MMAC':>9}{'parameters':>12}  options")
        for side in SIDES:
            for row in one[side]["rows"]:
                mark = "*" if row["front"] else " "
                costs = f"{row['macs'] / 1e6:9.2f}{row['parameters']:12d}"
                print(f"{side:14}{mark} {row['score']:8.3f}{costs}  {row['options']}")
        for side in SIDES:
            print(f"{side:16}area {one[side]['area']:.3f}, {one[side]['cpu_s']:.0f} CPU s")
    print("\n* on the front of its side")
    return 0


def cases() -> dict[str, Case]:
    """Return the tasks by name."""
    features = {name: one for name, one in architecture_parameters("mstcn").items() if name != f"{PREFIX}maps"}
    shapes = {
        f"{PREFIX}{name}": Parameter(choices=values)
        for stage in range(4)
        for name, values in ((f"blocks.{stage}", (1, 2)), (f"width.{stage}", (0.0625, 0.125, 0.1875)))
    }
    return {
        "features": Case(
            planted_features,
            "mstcn",
            lambda **chosen: segmentation_options(
                "segmentation", "mstcn", lr=0.004, batch_size=2, validation_share=0.25, test_every=4, **COMMON, **chosen
            ),
            24,
            [(f"maps={maps}",) for maps in (48, 32, 24, 16, 8)],
            {**features, f"{PREFIX}maps": Parameter(choices=(8, 16, 24, 32, 48))},
            cross_validated,
        ),
        "shapes": Case(
            moving_shapes,
            "r2plus1d_18",
            lambda **chosen: recognition_options(
                "synth",
                network="r2plus1d_18",
                lr=0.05,
                frames=8,
                interval=3,
                train_interval=(3,),
                size=40,
                mirror=False,
                batch_size=16,
                test_every=4,
                **COMMON,
                **chosen,
            ),
            32,
            [(f"width={width}",) for width in (0.1875, 0.125, 0.0625)],
            shapes,
            train_recognition,
        ),
    }


def cross_validated(options: Any) -> Path:
    """Train and test the one split of the planted features; returns the folder of its run."""
    cross_validate(options)
    return Path(options.session.out) / "all"


def compare(case: Case, data: Path, folder: Path, options: Options, seed: int) -> dict[str, Any]:
    """Return the rows, areas and costs of all sides."""
    epochs = options.epochs or case.epochs
    base = {"dataset": str(data), "epochs": epochs, "seed": seed}
    widths = case.widths[:2] if options.quick else case.widths

    def trained(side: str, every: Sequence[tuple[str, ...]]) -> list[tuple[tuple[str, ...], Path]]:
        runs = []
        for number, words in enumerate(every):
            out = folder / f"{side}_{number}"
            known = next(iter(out.glob("**/test.json")), None)
            chosen = case.options(**base, network_option=words, out=str(out), resume=True)
            runs.append((words, case.train(chosen) if known is None else known.parent))
        return runs

    times = [time.process_time()]
    width = trained("width", widths)
    times.append(time.process_time())
    space = SearchSpace(
        "benchmark",
        parameters=case.parameters,
        architecture=case.network,
        objectives=tuple(make_objective("segmentation", name) for name in ("score", "operations")),
        method="one-shot",
        trials=options.trials,
        seed=seed,
        one_shot={"networks": options.networks, "fine_tune": max(1, epochs // 5), "population": 12},
    )
    largest = case.options(**base, network_option=())
    largest = replace(largest, network=replace(largest.network, network_option=()))
    results = search_one_shot(space, data, options=largest, out=folder / "search")
    times.append(time.process_time())
    found = []
    for one in results.front:
        run = trial_folder(results.folder, one.number)
        if run.is_dir():
            words = tuple(f"{name.removeprefix(PREFIX)}={value!r}" for name, value in one.values.items())
            found.append((words, run))
    alone = trained("alone", [words for words, _ in found])
    times.append(time.process_time())
    sides = {
        side: [row(case, data, largest, words, run) for words, run in runs]
        for side, runs in zip(SIDES, (width, found, alone), strict=True)
    }
    worst = max(one["macs"] for rows in sides.values() for one in rows)
    spent = {side: times[place + 1] - times[place] for place, side in enumerate(SIDES)}
    return {
        "network": case.network,
        "epochs": epochs,
        "videos": len(vidseg.open_dataset(data, split="test")),
        **{side: described(rows, worst) | {"cpu_s": spent[side]} for side, rows in sides.items()},
    }


def described(rows: list[dict[str, Any]], worst: float) -> dict[str, Any]:
    """Return the rows, most expensive first, which of them are on the front, and the area of the front."""
    rows = sorted(rows, key=lambda one: -one["macs"])
    points = [(one["score"], math.log10(worst / one["macs"]) + 1e-9) for one in rows]
    front = pareto_front(points)
    marked = [{**one, "front": place in front} for place, one in enumerate(rows)]
    return {"rows": marked, "area": dominated_area(points, worst=(0.0, 0.0))}


def row(case: Case, data: Path, options: Any, words: tuple[str, ...], run: Path) -> dict[str, Any]:
    """Return test score and costs of a run."""
    tested = run / "test.json"
    if not tested.is_file():
        vidseg.load_trained(run).test()
    scores = json.loads(tested.read_text())
    if "scores" in scores:
        parts = scores["scores"]
        score = (parts["acc"] + parts["edit"] + parts["f1"]["0.5"]) / 300
    else:
        score = scores["top1"]
    task = "segmentation" if "scores" in scores else "recognition"
    meter = CostMeter(data, task, ("operations", "parameters"), length=225 if task == "segmentation" else None)
    costs = meter.measure({**flat_options(options), "network_option": words})
    text = " ".join(words)
    return {"score": score, "macs": costs["operations"], "parameters": int(costs["parameters"]), "options": text}


if __name__ == "__main__":
    sys.exit(main())
