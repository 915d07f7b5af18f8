"""Segmentation of synthetic untrimmed videos from pixels: recognition network, features, segmentation networks.

    python benchmarks/segmentation.py [--quick] [--folder DIR] [--models mstcn asformer] [--json]

Trains a small recognition network on trimmed videos of eight motions, extracts its features in windows over untrimmed
videos, trains each segmentation network on the features of the training split, and evaluates it on the test split. The
row "frame-wise" is a linear classifier of single feature columns, without a segmentation network. The settings were
chosen on the videos of --seed 1 and 2; the default is --seed 3. The recognition network sees whole frames, because the
shapes can leave a center crop.

Exit status 1 if a network does not exceed 85 accuracy and 70 F1@50 (not checked with --quick, which only verifies that
all parts run). A given folder keeps videos, features and runs; a second run skips finished parts.
"""

import csv
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch.nn import functional as F

import vidseg
from vidseg.convert import convert_videos
from vidseg.convert.synth import synthesize_videos
from vidseg.convert.synth_options import SynthOptions
from vidseg.labels import apply_segmentation, open_dataset
from vidseg.labels.apply import apply_labels
from vidseg.labels.catalog import read_catalog
from vidseg.labels.csv_labels import read_label_csv
from vidseg.labels.localization import LocalizedVideo, TimedLabel, frame_labels_of
from vidseg.loaders import FeatureLoader
from vidseg.metrics import segmental_scores
from vidseg.tasks.recognition.feature_extraction import extract_features
from vidseg.tasks.recognition.recipes import recipe_options as recognition_options
from vidseg.tasks.recognition.runs import train_recognition
from vidseg.tasks.segmentation.cross_validation import cross_validate
from vidseg.tasks.segmentation.recipes import recipe_options as segmentation_options

ACCURACY, F1 = 85.0, 70.0
STILL = "still"


@dataclass
class Options:
    """Segment synthetic untrimmed videos from pixels."""

    models: tuple[str, ...] = ("mstcn", "asformer")
    """Segmentation networks to train."""
    folder: Path | None = None
    """Folder of data and runs; default: a temporary folder."""
    quick: bool = False
    """Use a few small videos and epochs."""
    videos: int = 480
    """Number of trimmed videos, a quarter of them held out."""
    untrimmed: int = 64
    """Number of untrimmed videos, a quarter of them held out."""
    frames: int = 48
    """Frames per trimmed video, and approximate length of the actions of untrimmed videos."""
    epochs: int = 30
    """Training epochs of the recognition network."""
    segment_epochs: int = 30
    """Training epochs of each segmentation network."""
    stride: int = 2
    """Frames between feature columns."""
    seed: int = 3
    """Random seed."""
    json: bool = False
    """Print one JSON object instead of the table."""


def main() -> int:
    """Run all parts and print the table."""
    options = tyro.cli(Options, description=__doc__)
    if options.quick:
        options = replace(options, videos=16, untrimmed=8, epochs=1, segment_epochs=2)
    if options.folder is not None:
        return _run(options, options.folder)
    with tempfile.TemporaryDirectory() as folder:
        return _run(options, Path(folder))


def _run(options: Options, folder: Path) -> int:
    times: dict[str, float] = {}
    clock = time.perf_counter()

    def done(part: str) -> None:
        nonlocal clock
        times[part] = time.perf_counter() - clock
        clock = time.perf_counter()
        print(f"{part}: {times[part]:.0f} s", file=sys.stderr)

    size = (96, 72)
    synth = SynthOptions(
        videos=options.videos,
        untrimmed=options.untrimmed,
        frames=options.frames,
        width=size[0],
        height=size[1],
        seed=options.seed,
    )
    workers = len(os.sched_getaffinity(0))
    synthesize_videos(folder / "synth", synth, workers=workers)
    convert_videos(folder / "synth/videos", folder / "trimmed", workers=workers)
    convert_videos(folder / "synth/untrimmed", folder / "long", workers=workers)
    apply_labels(folder / "trimmed", read_label_csv(folder / "synth/labels.csv"))
    _label_frames(folder, synth.fps)
    done("videos")

    run = folder / "recognition"
    if not (run / "options.json").is_file():
        chosen = {
            "dataset": str(folder / "trimmed"),
            "out": str(run),
            "frames": 12,
            "size": 56,
            "mirror": False,
            "test_every": options.epochs,
            "epochs": options.epochs,
            "warmup_epochs": float(min(6, options.epochs - 1)),
            "seed": options.seed,
            "save_frequency": options.epochs,
        }
        train_recognition(recognition_options("synth", **chosen))
    done("recognition network")

    long = open_dataset(folder / "long")
    trained = vidseg.load_trained(run)
    extract_features(long, trained, folder / "long/features", stride=options.stride, geometry="stretch")
    done("features")

    rows = [("frame-wise", _frame_wise(folder, options))]
    done("frame-wise")
    for name in options.models:
        table = cross_validate(
            segmentation_options(
                "gtea",
                name,
                dataset=str(folder / "long"),
                epochs=options.segment_epochs,
                validation_share=0.2,
                labels_per_column=options.stride,
                background=(STILL,),
                out=str(folder / name),
                seed=options.seed,
                resume=True,
            )
        )
        rows.append((name, table.splits[0]))
        done(name)
    failed = [name for name, row in rows[1:] if row["acc"] <= ACCURACY or row["f1"]["0.5"] <= F1]
    if options.json:
        print(json.dumps({"rows": dict(rows), "seconds": times, "failed": failed}))
    else:
        count = rows[0][1]["videos"]
        print(f"{count} held-out videos, {long.num_classes} classes, one feature column per {options.stride} frames")
        print(f"{'network':12}{'F1@10':>8}{'F1@25':>8}{'F1@50':>8}{'edit':>8}{'acc':>8}{'epoch':>8}{'seconds':>9}")
        for name, row in rows:
            scores = [*row["f1"].values(), row["edit"], row["acc"]]
            print(f"{name:12}" + "".join(f"{score:8.2f}" for score in scores) + f"{row['epoch']:8}{times[name]:9.0f}")
        print(", ".join(f"{part} {seconds:.0f} s" for part, seconds in times.items()))
    if failed and not options.quick:
        print(f"below {ACCURACY:g} accuracy or {F1:g} F1@50: {', '.join(failed)}", file=sys.stderr)
        return 1
    return 0


def _label_frames(folder: Path, fps: int) -> None:
    """Write the frame labels of the untrimmed videos to their catalog."""
    videos: dict[str, LocalizedVideo] = {}
    with (folder / "synth/segments.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            video = videos.setdefault(row["id"], LocalizedVideo([], split=row["split"]))
            video.segments.append(TimedLabel(row["label"], float(row["time_start"]), float(row["time_end"])))
    with read_catalog(folder / "long") as connection:
        frames = dict(connection.execute("SELECT path, frames FROM videos"))
    seconds = {path.rpartition("/")[2]: count / fps for path, count in frames.items()}
    apply_segmentation(folder / "long", frame_labels_of(videos, rate=fps, background=STILL, seconds=seconds))


def _frame_wise(folder: Path, options: Options) -> dict[str, Any]:
    """Return the scores of a linear classifier of single feature columns."""
    train, test = (
        FeatureLoader(open_dataset(folder / "long", split), train=False, labels_per_column=options.stride)
        for split in ("train", "test")
    )
    batches = list(train)
    columns = torch.cat([batch.features[0].T for batch in batches])
    labels = torch.cat([batch.labels[0] for batch in batches])
    mean, deviation = columns.mean(0), columns.std(0) + 1e-6
    torch.manual_seed(options.seed)
    linear = torch.nn.Linear(columns.shape[1], train.data.num_classes)
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.01, weight_decay=1e-4)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(linear((columns - mean) / deviation), labels).backward()
        optimizer.step()
    truth, found = [], []
    for batch in test:
        number = int(batch.videos[0])
        with torch.inference_mode():
            predictions = linear((batch.features[0].T - mean) / deviation).argmax(dim=1).numpy()
        truth.append(test.labels[number])
        found.append(np.repeat(predictions, options.stride)[: len(truth[-1])])
    scores = segmental_scores(truth, found, background=[train.data.classes.index(STILL)])
    f1 = {str(overlap): value for overlap, value in scores["f1"].items()}
    return {"epoch": "", "videos": len(truth), "acc": scores["acc"], "edit": scores["edit"], "f1": f1}


if __name__ == "__main__":
    sys.exit(main())
