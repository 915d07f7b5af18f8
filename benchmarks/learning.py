"""Accuracy and cost of training small networks on synthetic videos of moving shapes.

    python benchmarks/learning.py [--only ROW ...] [--seeds 1 2 3] [--folder learning] [--json] [--quick]
    python benchmarks/learning.py --plot ROWS.json

Rows: networks from random weights; the constant schedule with fewer and with more epochs; the multigrid schedule,
compared with the constant one with as many epochs and with more; float16 and bfloat16 (O1, bf16) compared with float32
(O0); stored copies that are enlarged up to 1.5 times, and frames of JPEG quality 75, compared with the defaults (1, and
90); a linear classifier on the frozen features of a network that was trained on half of the classes, compared with
fine-tuning all of it. Each row is trained once per seed, on one thread, with as many runs in parallel as there are
cores. Cost is the CPU time of the process, evaluation included, which depends less on other programs than wall-clock
time. Finished runs in the folder are reported, not repeated. `--quick` trains one epoch on a few videos. `--plot` draws
the rows that an earlier run has printed with `--json`, without training.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import tyro
from machine import hardware
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vidseg.convert import ConvertOptions, convert_videos
from vidseg.convert.synth import SynthOptions, synthesize_videos
from vidseg.labels import apply_labels, read_label_csv
from vidseg.labels.scan import scan_catalog
from vidseg.plots.canvas import label_ends, new_figure, quiet, save_figure
from vidseg.plots.palette import class_colors, theme
from vidseg.tasks.recognition.options import RecognitionOptions
from vidseg.tasks.recognition.recipes import recipe_options
from vidseg.tasks.recognition.runs import train_recognition

# Differences of all rows from `vidseg train synth`. With cycles, SGD does not leave chance level within 10 epochs.
COMMON: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 0.002,
    "warmup_start": 0.0002,
    "weight_decay": 0.01,
    "pictures": False,
    "device": "cpu",
}
# Row name -> options of the row; epochs as multiples of --epochs
ROWS: dict[str, dict[str, Any]] = {
    "srtg_r3d_18": {},
    "r3d_18 (no recurrence)": {"network": "r3d_18", "network_option": ("width=0.25",)},
    "mtnet_xs": {"network": "mtnet_xs", "network_option": ("width=0.25",), "epochs": 1.5},
    "tsm_r18": {"network": "tsm_r18", "network_option": ("width=0.25",), "frames": 8},
    "slowfast_r50_4x16": {"network": "slowfast_r50_4x16", "network_option": ("width=0.25",)},
    "x3d_xs": {
        "network": "x3d_xs",
        "network_option": ("width=0.5",),
        "frames": 8,
        "interval": 4,
        "train_interval": (4,),
    },
    "videomae": {
        "network": "videomae_small",
        "network_option": ("width=0.5", "layers=2"),
        "lr": 0.0005,
        "warmup_start": 0.00005,
        "weight_decay": 0.05,
        "epochs": 1.5,
    },
    "srtg_r3d_18, fewer epochs": {"epochs": 14 / 24},
    "srtg_r3d_18, more epochs": {"epochs": 1.5},
    # Short cycles only: long cycles would use clips of 22 pixels, for which this network has a single output position.
    # Epochs with cycles cost half as much as others.
    "srtg_r3d_18, multigrid": {
        "batch_size": 8,
        "short_cycles": True,
        "cycle_epochs": 0.5,
        "precise_bn": 12,
        "lr": 0.004,
        "warmup_start": 0.0004,
    },
    # Weights that were trained on four of the classes, for 48 videos of the four others
    "r3d_18 of four classes": {"network": "r3d_18", "network_option": ("width=0.25",), "part": "first"},
    "48 videos, random weights": {"network": "r3d_18", "network_option": ("width=0.25",), "part": "second"},
    "48 videos, fine-tuned": {
        "network": "r3d_18",
        "network_option": ("width=0.25",),
        "part": "second",
        "after": "r3d_18 of four classes",
        "lr": 0.0005,
        "warmup_start": 0.00005,
    },
    "48 videos, frozen backbone": {
        "network": "r3d_18",
        "network_option": ("width=0.25",),
        "part": "second",
        "after": "r3d_18 of four classes",
        "freeze_backbone": True,
        "lr": 0.01,
        "warmup_start": 0.001,
    },
    "srtg_r3d_18, O1": {"opt_level": "O1"},
    "srtg_r3d_18, bf16": {"opt_level": "bf16"},
    # Frames of 96 lines have copies of 48: 64 lines of a clip are those of a copy, enlarged 1.33 times.
    "srtg_r3d_18, enlarge 1.5": {"enlarge": 1.5},
    "srtg_r3d_18, quality 75": {"part": "quality 75"},
    "tsm_r18, enlarge 1.5": {"network": "tsm_r18", "network_option": ("width=0.25",), "frames": 8, "enlarge": 1.5},
    "tsm_r18, quality 75": {
        "network": "tsm_r18",
        "network_option": ("width=0.25",),
        "frames": 8,
        "part": "quality 75",
    },
}
EPOCHS = ("epochs", "cycle_epochs")
CLASSES = {"first": slice(0, 4), "second": slice(4, 8)}
"""Classes of a part of the videos, in alphabetical order."""
FEW = 12
"""Training videos of each class of the second part."""


@dataclass
class Options:
    """Train small networks on synthetic videos and report accuracy and cost."""

    only: tuple[str, ...] = ()
    """Rows to run; default: all."""
    seeds: tuple[int, ...] = (1,)
    """Random seeds of weights, order and clips; scores and costs are means over the seeds."""
    folder: Path = Path("learning")
    """Folder of data and runs; an interrupted benchmark resumes with the missing runs."""
    epochs: int = 24
    """Number of training epochs."""
    videos: int = 480
    """Number of synthetic videos, a quarter of them held out."""
    workers: int | None = None
    """Number of parallel runs; default: one per core."""
    json: bool = False
    """Print JSON rows instead of a table."""
    quick: bool = False
    """Train one epoch on 48 videos."""
    plot: Path | None = None
    """Draw learning.png beside this file of rows, printed earlier with --json, and train nothing."""


def prepare(folder: Path, videos: int) -> dict[str, Path]:
    """Write and convert the videos unless they exist; returns the data sets of all and of the parts."""
    source = folder / f"synth{videos}"
    found = {"all": folder / f"data{videos}", "quality 75": folder / f"data{videos}_quality75"}
    if not (source / "labels.csv").is_file():
        # Clips have 64 pixels. The settings were chosen on videos of other seeds.
        synthesize_videos(source, SynthOptions(videos=videos, width=128, height=96, seed=11))
    rows = read_label_csv(source / "labels.csv")
    for part, data in found.items():
        if (data / "labels_report.json").is_file():
            continue
        options = ConvertOptions(quality=75) if part == "quality 75" else ConvertOptions()
        if not convert_videos(source / "videos", data, options=options).ok:
            raise SystemExit(f"{source}: not all videos could be converted")
        apply_labels(data, rows)
    data = found["all"]
    classes = sorted({row.label for row in rows if row.label is not None})
    for part, chosen in CLASSES.items():
        found[part] = folder / f"data{videos}_{part}"
        if (found[part] / "labels_report.json").is_file():
            continue
        for name in classes[chosen]:
            shutil.copytree(data / "jpg" / name, found[part] / "jpg" / name, dirs_exist_ok=True)
        kept, counts = [], Counter[str]()
        for row in rows:
            few = part == "second" and row.split == "train"
            if row.label in classes[chosen] and not (few and counts[row.label] == FEW):
                counts[row.label] += few
                kept.append(row)
        scan_catalog(found[part])
        apply_labels(found[part], kept)
    return found


def settings(name: str, seed: int, data: dict[str, Path], folder: Path, epochs: int) -> RecognitionOptions:
    """Return the options of a run."""
    row: dict[str, Any] = {**COMMON, "epochs": 1, **ROWS[name]}
    part, after = row.pop("part", "all"), row.pop("after", None)
    row |= {key: max(1, round(epochs * row[key])) for key in EPOCHS if key in row}
    if after is not None:
        row["pretrained"] = str(run_of(after, seed, folder) / f"{row['network']}_last.pth")
    run = {"dataset": str(data[part]), "out": str(run_of(name, seed, folder)), "overwrite": True, "seed": seed}
    return recipe_options("synth", threads=1, test_every=5, **run, **row, warmup_epochs=0.3 * row["epochs"])


def run_of(name: str, seed: int, folder: Path) -> Path:
    return folder / f"{re.sub(r'[^a-z0-9.]+', '_', name.lower())}-{seed}"


def measure(options: RecognitionOptions) -> dict[str, Any]:
    """Train unless the run is finished, and read its results."""
    run = Path(str(options.session.out))
    done = run / "cost.json"
    if not done.is_file():
        torch.set_num_threads(1)
        began = time.process_time()
        train_recognition(options)
        done.write_text(json.dumps({"cpu_s": time.process_time() - began}))
    train, held_out = (_rows(run / f"{kind}_results_s0001.csv") for kind in ("train", "val"))
    # The wall-clock seconds of the epochs in the log distribute the CPU time over the epochs.
    spent = [0.0, *accumulate(map(float, re.findall(r"time cost: (\S+) sec", (run / "train.log").read_text())))]
    cost = json.loads(done.read_text())["cpu_s"]
    ends = [int(row["Epoch"]) for row in held_out]
    return {
        "top1": held_out[-1]["Top1"],
        "loss": held_out[-1]["Loss"],
        "train_top1": train[-1]["Top1"],
        "cpu_s": cost,
        "epochs": options.session.epochs,
        "curve": [(end, cost * spent[end] / spent[-1], row["Top1"]) for end, row in zip(ends, held_out, strict=True)],
    }


def _rows(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def train_all(runs: dict[tuple[str, int], RecognitionOptions], workers: int | None) -> list[dict[str, Any]]:
    """Return one row per name, averaged over the seeds."""
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or len(os.sched_getaffinity(0)), mp_context=spawn) as pool:
        for later in (False, True):  # runs that begin with the weights of another row come last
            chosen = {run: options for run, options in runs.items() if ("after" in ROWS[run[0]]) == later}
            waiting = {pool.submit(measure, options): run for run, options in chosen.items()}
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


def draw(rows: list[dict[str, Any]], out: Path) -> Path:
    """Plot held-out accuracy by epoch and by CPU seconds; names are at the ends of the lines."""
    figure = new_figure(13, max(4.2, 0.9 + 0.19 * len(rows)), title="top-1 on held-out videos")
    axes = figure.subplots(1, 2, sharey=True)
    colors = class_colors(len(rows))
    for place, (panel, title) in enumerate(zip(axes, ("epoch", "CPU seconds"), strict=True)):
        quiet(panel)
        panel.set_xlabel(title, fontsize=9, color=theme().muted)
        ends = []
        for row, color in zip(rows, colors, strict=True):
            columns = list(zip(*row["curve"], strict=True))
            panel.plot(columns[place], columns[2], color=color, linewidth=1.8)
            ends.append((columns[place][-1], columns[2][-1], row["row"], color))
        if place:
            panel.set_xlim(left=0)
        else:
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_ylim(0, 1.02)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        label_ends(panel, ends)
    return save_figure(figure, out)


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    if options.plot is not None:
        print(draw(json.loads(options.plot.read_text()), options.plot.with_name("learning.png")))
        return 0
    names = options.only or tuple(ROWS)
    for name in names:
        if name not in ROWS:
            print(f"unknown row {name!r}; expected one of {', '.join(ROWS)}", file=sys.stderr)
            return 2
        if ROWS[name].get("after") not in (None, *names):
            print(f"{name!r} begins with the weights of {ROWS[name]['after']!r}: add that row", file=sys.stderr)
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
        print(f"{hardware()}, torch {torch.__version__}; {videos} videos, {epochs} epochs\n")
        print("| network | epochs | held-out top-1 | deviation | by seed | training top-1 | CPU s | / first row |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for row in rows:
            seeds, spread = row["by_seed"], stdev(row["by_seed"]) if len(row["by_seed"]) > 1 else 0.0
            cells = (
                f"{row['epochs']:.0f} | {row['top1']:.3f} | {spread:.3f} | {' '.join(f'{one:.3f}' for one in seeds)}"
            )
            cells += f" | {row['train_top1']:.3f} | {row['cpu_s']:.0f} | {row['cpu_s'] / rows[0]['cpu_s']:.2f}"
            print(f"| {row['row']} | {cells} |")
        print(f"\ncurves: {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
