"""Evidence that training learns: small networks on moving shapes, held-out accuracy and what it cost.

    python benchmarks/learning.py [--only ROW ...] [--seeds 1 2 3] [--folder learning] [--json] [--quick]

Rows: the SRTG network and MTNet; the same 3-D ResNet without recursion; the constant schedule with fewer and with more
epochs; the multigrid schedule, against the constant one with more epochs; float16 and bfloat16 arithmetic (O1, bf16)
against float32 (O0). Each row is trained once for each seed, on one thread, as many runs at a time as there are cores.
Cost is the CPU time that the run took of its process, evaluations included, which other programs on the machine disturb
far less than seconds on the clock. Targets, of the means over the seeds: both networks reach 95 % top-1, multigrid the
constant schedule's accuracy in 60 % of its time, O1 and bf16 that of O0. Exit status 1 where one is missed. A run that
is in the folder already is not repeated, only reported. `--quick` trains for one epoch on a few videos and checks no
target.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import platform
import re
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import tyro

from vidseg.convert import ConvertOptions, convert_videos
from vidseg.convert.synth import SynthOptions, synthesize_videos
from vidseg.engine import train_run
from vidseg.engine.options import TrainOptions, options_from
from vidseg.labels import apply_labels, read_label_csv
from vidseg.plots.canvas import INK, MUTED, new_figure, quiet, save_figure
from vidseg.tasks.recognition.recipes import PRESETS

# What differs from `vidseg train synth` in all rows. With cycles, SGD stayed at chance for 10 epochs in trials.
COMMON: dict[str, Any] = {
    "clip_size": 80,
    "optimizer": "adamw",
    "lr_base": 0.002,
    "warmup_start": 0.0002,
    "weight_decay": 0.01,
}
# Name of a row -> what differs in it; epochs as parts of --epochs
ROWS: dict[str, dict[str, Any]] = {
    "srtg_r3d_18": {},
    "r3d_18 (no recursion)": {"network": "r3d_18", "placement": None},
    "mtnet_xs": {"network": "mtnet_xs", "placement": None, "end_epoch": 1.5},
    "srtg_r3d_18, fewer epochs": {"end_epoch": 14 / 24},
    "srtg_r3d_18, more epochs": {"end_epoch": 1.5},
    # Against the row above. Short cycles alone: clips of 80, 56 and 40 pixels; long cycles would go down to 28, on
    # which this network has one feature a clip. Epochs with cycles cost half of the others. On other videos accuracy
    # rose with the share of epochs without, and twice the rate of the constant schedule did no harm.
    "srtg_r3d_18, multigrid": {
        "batch_size": 8,
        "short_cycles": True,
        "end_epoch": 25 / 24,
        "cycle_epochs": 12 / 24,
        "precise_bn": 12,
        "lr_base": 0.004,
        "warmup_start": 0.0004,
    },
    "srtg_r3d_18, O1": {"opt_level": "O1"},
    "srtg_r3d_18, bf16": {"opt_level": "bf16"},
}
EPOCHS = ("end_epoch", "cycle_epochs")
REACH, SHARE, SLACK = 0.95, 0.6, 0.02
"""Top-1 to reach; multigrid's share of the constant schedule's time; accuracy that counts as equal (4 of 240)."""


@dataclass
class Options:
    """Train small networks on moving shapes and report what they learned."""

    only: tuple[str, ...] = ()
    """Rows to run; default: all."""
    seeds: tuple[int, ...] = (1,)
    """Seeds of weights, order and clips; scores and costs are means over them."""
    folder: Path = Path("learning")
    """Data and runs; kept, so that a stopped benchmark goes on with the runs that are missing."""
    epochs: int = 24
    """Passes over the training videos."""
    videos: int = 960
    """Synthetic videos, a quarter of them held out."""
    workers: int | None = None
    """Runs at a time; default: one for each core."""
    json: bool = False
    """Print JSON rows instead of a table."""
    quick: bool = False
    """One epoch on 48 videos, no targets."""


def prepare(folder: Path, videos: int) -> Path:
    """Make and convert the videos, unless they are there."""
    data = folder / f"data{videos}"
    if (data / "labels_report.json").is_file():
        return data
    source = folder / f"synth{videos}"
    # Clips have 80 pixels. No setting was chosen on the videos of this seed.
    synthesize_videos(source, SynthOptions(videos=videos, width=170, height=128, seed=11))
    if not convert_videos(source / "videos", data, options=ConvertOptions()).ok:
        raise SystemExit(f"{source}: not all videos could be converted")
    apply_labels(data, read_label_csv(source / "labels.csv"))
    return data


def settings(name: str, seed: int, data: Path, folder: Path, epochs: int) -> TrainOptions:
    """Options of a row's run."""
    row: dict[str, Any] = {"end_epoch": 1, **ROWS[name]}
    row |= {key: max(1, round(epochs * row[key])) for key in EPOCHS if key in row}
    out = folder / f"{re.sub(r'[^a-z0-9.]+', '_', name.lower())}-{seed}"
    run = {"dataset": str(data), "out": str(out), "overwrite": True, "random_seed": seed, "threads": 1, "test_every": 5}
    chosen = options_from({**COMMON, **run, **row}, defaults=PRESETS["synth"].defaults())
    warmup = 0.3 * chosen.session.end_epoch
    return replace(chosen, schedule=replace(chosen.schedule, warmup_epochs=warmup))


def measure(options: TrainOptions) -> dict[str, Any]:
    """Train, if that is not done, and read what the run left."""
    run = Path(str(options.session.out))
    done = run / "cost.json"
    if not done.is_file():
        torch.set_num_threads(1)
        began = time.process_time()
        train_run(options)
        done.write_text(json.dumps({"cpu_s": time.process_time() - began}))
    train, held_out = (_rows(run / f"{kind}_results_s0000.csv") for kind in ("train", "val"))
    # The log has the seconds of each epoch, on the clock: they say how the CPU time spreads over the epochs.
    spent = [0.0, *accumulate(map(float, re.findall(r"time cost: (\S+) sec", (run / "train.log").read_text())))]
    cost = json.loads(done.read_text())["cpu_s"]
    ends = [int(row["Epoch"]) + 1 for row in held_out]
    return {
        "top1": held_out[-1]["Top1"],
        "loss": held_out[-1]["Loss"],
        "train_top1": train[-1]["Top1"],
        "cpu_s": cost,
        "epochs": options.session.end_epoch,
        "curve": [(end, cost * spent[end] / spent[-1], row["Top1"]) for end, row in zip(ends, held_out, strict=True)],
    }


def _rows(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def train_all(runs: dict[tuple[str, int], TrainOptions], workers: int | None) -> list[dict[str, Any]]:
    """One row for each name, its values averaged over the seeds."""
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or len(os.sched_getaffinity(0)), mp_context=spawn) as pool:
        waiting = {pool.submit(measure, options): run for run, options in runs.items()}
        for future in as_completed(waiting):
            (name, seed), result = waiting[future], future.result()
            found[name][seed] = result
            print(f"{name}, seed {seed}: top-1 {result['top1']:.3f}, {result['cpu_s']:.0f} s", file=sys.stderr)
    rows = []
    for name in dict.fromkeys(name for name, _ in runs):
        each = [found[name][seed] for seed in sorted(found[name])]
        row = {key: mean(one[key] for one in each) for key in ("top1", "loss", "train_top1", "cpu_s", "epochs")}
        points = zip(*(one["curve"] for one in each), strict=True)
        curve = [tuple(map(mean, zip(*of_seeds, strict=True))) for of_seeds in points]
        rows.append({"row": name, **row, "curve": curve, "by_seed": [one["top1"] for one in each]})
    return rows


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Targets that the rows do not reach."""
    by_name = {row["row"]: row for row in rows}
    found = [
        f"{name}: top-1 {by_name[name]['top1']:.3f}, wanted {REACH}"
        for name in ("srtg_r3d_18", "mtnet_xs")
        if name in by_name and by_name[name]["top1"] < REACH
    ]
    # What is compared, with what, and which share of its time it may take
    for kind, reference, share in (("multigrid", ", more epochs", SHARE), ("O1", "", None), ("bf16", "", None)):
        first, row = by_name.get(f"srtg_r3d_18{reference}"), by_name.get(f"srtg_r3d_18, {kind}")
        if first is None or row is None:
            continue
        if row["top1"] < first["top1"] - SLACK:
            found.append(f"{row['row']}: top-1 {row['top1']:.3f}, that of {first['row']} is {first['top1']:.3f}")
        if share is not None and row["cpu_s"] > share * first["cpu_s"]:
            found.append(f"{row['row']}: {row['cpu_s'] / first['cpu_s']:.0%} of the time of {first['row']}")
    return found


def draw(rows: list[dict[str, Any]], out: Path) -> Path:
    """Held-out accuracy by epoch and by seconds of training."""
    figure = new_figure(10, 4)
    axes = figure.subplots(1, 2, sharey=True)
    for place, (panel, title) in enumerate(zip(axes, ("epoch", "CPU seconds"), strict=True)):
        quiet(panel)
        panel.set_xlabel(title, fontsize=9, color=MUTED)
        for row in rows:
            columns = list(zip(*row["curve"], strict=True))
            panel.plot(columns[place], columns[2], linewidth=1.6, label=row["row"])
    axes[0].set_ylim(0, 1.02)
    axes[0].set_title("top-1 on held-out videos", loc="left", fontsize=10, color=MUTED)
    axes[1].legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower right")
    return save_figure(figure, out)


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    names = options.only or tuple(ROWS)
    for name in names:
        if name not in ROWS:
            print(f"no row {name!r}; there are: {', '.join(ROWS)}", file=sys.stderr)
            return 2
    videos, epochs = (48, 1) if options.quick else (options.videos, options.epochs)
    data = prepare(options.folder, videos)
    folder = options.folder / f"runs{videos}x{epochs}"
    runs = {(name, seed): settings(name, seed, data, folder, epochs) for name in names for seed in options.seeds}
    rows = train_all(runs, options.workers)
    picture = draw(rows, folder / "learning.png")
    if options.json:
        print(json.dumps(rows))
    else:
        cores = len(os.sched_getaffinity(0))
        print(f"{platform.machine()}, {cores} cores, torch {torch.__version__}; {videos} videos, {epochs} epochs\n")
        print("| network | top-1 held out | by seed | top-1 training | CPU s | / first row |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for row in rows:
            seeds = " ".join(f"{score:.3f}" for score in row["by_seed"])
            ratio = row["cpu_s"] / rows[0]["cpu_s"]
            values = f"{row['top1']:.3f} | {seeds} | {row['train_top1']:.3f} | {row['cpu_s']:.0f} | {ratio:.2f}"
            print(f"| {row['row']} | {values} |")
        print(f"\ncurves: {picture}")
    wrong = [] if options.quick else missed(rows)
    for line in wrong:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
