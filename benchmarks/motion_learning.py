"""Recognition of moving shapes from color, optical flow, motion vectors and residuals, alone and fused.

    python benchmarks/motion_learning.py [--only color dis ...] [--seeds 1 2 3] [--folder motion_learning] [--json]
        [--quick]

The videos are those of `vidseg synth`, whose classes differ in motion only. Rows: one network, trained on each modality
with equal settings; the mean of the probabilities of several of these networks; both streams in one network
(`two_stream`). Flow is that of `vidseg extract-flow --method dis`, which needs OpenCV; motion vectors and residuals are
those of the H.264 files. Scores are top-1 on the held-out videos, by seed. Cost is the CPU time of training, and of the
extraction for a video. Finished runs in the folder are reported, not repeated. `--quick`: 8 epochs on 96 videos.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import tyro

from vidseg.convert import ConvertOptions, convert_videos
from vidseg.convert.synth import SynthOptions, synthesize_videos
from vidseg.labels import apply_labels, read_label_csv
from vidseg.metrics.video_scores import VideoScores, fuse_scores, read_scores
from vidseg.tasks import load_trained
from vidseg.tasks.flow.extraction import extract_flow
from vidseg.tasks.flow.extraction_options import ExtractFlowOptions
from vidseg.tasks.recognition.options import RecognitionOptions
from vidseg.tasks.recognition.recipes import recipe_options
from vidseg.tasks.recognition.runs import train_recognition

COMMON: dict[str, Any] = {
    "network": "r3d_18",
    "network_option": ("width=0.25",),
    "optimizer": "adamw",
    "lr": 0.002,
    "warmup_start": 0.0002,
    "weight_decay": 0.01,
    "precise_bn": 8,
    "pictures": False,
    "device": "cpu",
}
BOTH = ("width=0.25", "frames_network=r3d_18", "motion_network=r3d_18")
# Row -> options of the run
ROWS: dict[str, dict[str, Any]] = {
    "color": {},
    "dis": {"modality": "flow"},
    "motion-vectors": {"modality": "motion"},
    "residual": {"modality": "residual"},
    "one frame of color": {"network": "tsn_r18", "frames": 1, "interval": 1, "sampling": "segments"},
    "one stack of 5 flows": {
        "network": "tsn_r18", "modality": "flow", "stack": 5, "frames": 1, "interval": 1, "sampling": "segments",
    },
    "color and dis in one network": {"network": "two_stream", "network_option": BOTH, "modality": "rgb+flow"},
    "color and motion vectors in one network": {
        "network": "two_stream", "network_option": BOTH, "modality": "rgb+motion",
    },
}  # fmt: skip
FUSED = {
    "color + dis": ("color", "dis"),
    "color + motion-vectors": ("color", "motion-vectors"),
    "color + motion-vectors + residual": ("color", "motion-vectors", "residual"),
    "color + dis + motion-vectors": ("color", "dis", "motion-vectors"),
}
"""Rows whose probabilities are averaged, with equal weights."""
METHODS = {"dis": "flow", "motion-vectors": "motion", "residual": "residual"}


@dataclass
class Options:
    """Train small networks on each modality of synthetic videos and report accuracy and cost."""

    only: tuple[str, ...] = ()
    """Rows to train; default: all. Fused rows are reported where their parts are trained."""
    seeds: tuple[int, ...] = (1,)
    """Random seeds of weights, order and clips."""
    folder: Path = Path("motion_learning")
    """Folder of data and runs; an interrupted benchmark resumes with the missing runs."""
    epochs: int = 16
    """Number of training epochs."""
    videos: int = 320
    """Number of synthetic videos, a quarter of them held out."""
    threads: int = 1
    """Threads of a run."""
    json: bool = False
    """Print JSON rows instead of a table."""
    quick: bool = False
    """Train eight epochs on 96 videos."""


def prepare(folder: Path, videos: int) -> tuple[Path, dict[str, float]]:
    """Write, convert and extract what does not exist; returns the data set and the seconds of each extraction."""
    source, data = folder / f"synth{videos}", folder / f"data{videos}"
    if not (data / "labels_report.json").is_file():
        synthesize_videos(source, SynthOptions(videos=videos, width=160, height=120, seed=21))
        if not convert_videos(source / "videos", data, options=ConvertOptions()).ok:
            raise SystemExit(f"{source}: not all videos could be converted")
        apply_labels(data, read_label_csv(source / "labels.csv"))
    seconds = {}
    for method, name in METHODS.items():
        done = data / f"{name}_seconds.json"
        if not done.is_file():
            began = time.perf_counter()
            report = extract_flow(data, ExtractFlowOptions(method=method), videos=source / "videos")  # type: ignore[arg-type]
            if not report.ok:
                raise SystemExit(f"{method}: not all videos could be extracted: {report}")
            done.write_text(json.dumps(time.perf_counter() - began))
        seconds[method] = json.loads(done.read_text())
    return data, seconds


def settings(row: str, seed: int, data: Path, folder: Path, options: Options, epochs: int) -> RecognitionOptions:
    """Return the options of a run."""
    out = folder / f"{row.replace(' ', '_')}-{seed}"
    run = {"dataset": str(data), "out": str(out), "overwrite": True, "seed": seed, "epochs": epochs}
    run |= {"warmup_epochs": 0.3 * epochs, "threads": options.threads}
    return recipe_options("synth", **{**COMMON, **run, **ROWS[row]})


def measure(options: RecognitionOptions) -> tuple[float, VideoScores]:
    """Train and test unless the run is finished; returns the CPU seconds of training, and the scores."""
    run = Path(str(options.session.out))
    done = run / "cost.json"
    if not done.is_file():
        began = time.process_time()
        train_recognition(options)
        cost = time.process_time() - began
        load_trained(run, checkpoint=run / f"{options.network.network}_last.pth", device="cpu").test(
            dump=run / "last.npz", mistakes=0
        )
        done.write_text(json.dumps({"cpu_s": cost}))
    return json.loads(done.read_text())["cpu_s"], read_scores(run / "last.npz")


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    names = options.only or tuple(ROWS)
    for name in names:
        if name not in ROWS:
            print(f"unknown row {name!r}; expected one of {', '.join(ROWS)}", file=sys.stderr)
            return 2
    torch.set_num_threads(options.threads)
    videos, epochs = (96, 8) if options.quick else (options.videos, options.epochs)
    data, seconds = prepare(options.folder, videos)
    folder = options.folder / f"runs{videos}x{epochs}"
    scores: dict[tuple[str, int], VideoScores] = {}
    costs: dict[tuple[str, int], float] = {}
    for seed in options.seeds:
        for name in names:
            costs[name, seed], scores[name, seed] = measure(settings(name, seed, data, folder, options, epochs))
            print(f"{name}, seed {seed}: top-1 {scores[name, seed].summary()['top1']:.3f}", file=sys.stderr)
    rows = []
    for name in names:
        each = [scores[name, seed].summary()["top1"] for seed in options.seeds]
        rows.append({"row": name, "by_seed": each, "cpu_s": mean(costs[name, seed] for seed in options.seeds)})
    for name, parts in FUSED.items():
        if set(parts) <= set(names):
            fused = [fuse_scores([scores[part, seed] for part in parts]) for seed in options.seeds]
            each = [one.summary()["top1"] for one in fused]
            rows.append(
                {"row": name, "by_seed": each, "cpu_s": sum(row["cpu_s"] for row in rows if row["row"] in parts)}
            )
    if options.json:
        print(json.dumps({"rows": rows, "extraction_s": seconds}))
        return 0
    held_out = len(next(iter(scores.values())).videos)
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}")
    print(f"{videos} videos, {held_out} of them held out; {epochs} epochs; chance 0.125\n")
    print("| modality | held-out top-1 | deviation | by seed | CPU s of training |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        each = row["by_seed"]
        spread = stdev(each) if len(each) > 1 else 0.0
        shown = " ".join(f"{one:.3f}" for one in each)
        print(f"| {row['row']} | {mean(each):.3f} | {spread:.3f} | {shown} | {row['cpu_s']:.0f} |")
    print()
    for method, total in seconds.items():
        print(f"extraction, {method}: {total / videos:.2f} s a video, wall clock, all cores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
