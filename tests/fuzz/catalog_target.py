"""Hostile catalogs: every reader and writer of catalog.db."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from hostile import damage_database
from inputs import Call, Target

from vidseg.clips import ClipPlanner
from vidseg.labels import (
    FrameLabels,
    LabelRow,
    SegmentationLabels,
    VideoRecord,
    apply_labels,
    apply_segmentation,
    label_statistics,
    open_dataset,
    update_catalog,
)
from vidseg.labels.frame_labels import label_frames
from vidseg.labels.segmentation_labels import has_frame_labels
from vidseg.labels.splitting import divide_videos
from vidseg.labels.summary import summarize_catalog

ERRORS = (ValueError, OSError)


@lru_cache(1)
def valid_catalog(folder: Path) -> bytes:
    """A catalog with classes, splits, segments and frame labels, in each of which hostile values can be put."""
    records = [
        VideoRecord(f"jpg/{label}/{label}_{number}", label, 40 + number, 120, 160, 25.0, 1.6, 9000, split)
        for label in ("run", "jump")
        for number, split in enumerate(("train", "train", "val", "split1/test"))
    ]
    update_catalog(folder, [*records, VideoRecord("jpg/unlabeled/long", None, 250, 120, 160, 25.0, 10.0, 9000)])
    apply_labels(folder, [LabelRow("run", "long", 1.0, 3.0, "train"), LabelRow("jump", "long", 4.0, 6.5, "train")])
    label_frames(folder, background="nothing")
    labels = {name: np.repeat([0, 1, 2], 9) for name in ("first", "second")}
    apply_segmentation(folder, SegmentationLabels(["jump", "run", "nothing"], labels, {"train": ["first"]}, 15.0))
    return (folder / "catalog.db").read_bytes()


def make(draw: random.Random, folder: Path) -> tuple[str, bytes]:
    path = folder / "changed" / "catalog.db"
    path.parent.mkdir()
    path.write_bytes(_seed(folder))
    damage_database(draw, path)
    return "catalog.db", path.read_bytes()


def _seed(folder: Path) -> bytes:
    if not _SEED:
        (folder / "valid").mkdir()
        _SEED.append(valid_catalog(folder / "valid"))
    return _SEED[0]


_SEED: list[bytes] = []


def read_everything(root: Path) -> None:
    """Read the rows of a data set, and what a planner makes of them."""
    data = open_dataset(root)
    for split in (None, *data.splits[:5]):
        part = data if split is None else open_dataset(root, split)
        for video in part:
            assert video.frames >= 0 and video.height >= 0 and video.width >= 0 and video.fps >= 0
            assert -1 <= video.label < len(data.classes)
            video.path.relative_to(root / "jpg")
    data.split(0.5, seed=0)


def read_segments(root: Path) -> None:
    data = open_dataset(root)
    for index in range(len(data)):
        for segment in data.segments(index):
            assert 0 <= segment.label < len(data.classes)
            assert np.isfinite([segment.start, segment.stop]).all()


def read_frame_labels(root: Path) -> None:
    data = open_dataset(root)
    labels = FrameLabels(data)
    for index in range(min(len(labels), 20)):
        assert labels[index].min() >= 0 and labels[index].max() < len(data.classes)


def plan(root: Path) -> None:
    data = open_dataset(root)
    data = data.subset(data.widths > 0)
    planner = ClipPlanner(data, frames=4, size=16, batch_size=4)
    for index in range(min(planner.batches(0), 4)):
        made = planner.plan(0, index)
        assert (made.frames >= 0).all() and (made.frames < data.frames[made.videos][:, None]).all()
        assert np.isfinite(made.matrices).all()


def calls(path: Path) -> Iterator[Call]:
    root = path.parent
    content = path.read_bytes()
    named = str(root)
    yield Call("open_dataset", lambda: read_everything(root), ERRORS, named)
    yield Call("segments", lambda: read_segments(root), ERRORS, named)
    yield Call("FrameLabels", lambda: read_frame_labels(root), ERRORS, named)
    yield Call("has_frame_labels", lambda: has_frame_labels(root), ERRORS, named)
    yield Call("summarize_catalog", lambda: str(summarize_catalog(root)), ERRORS, named)
    yield Call("label_statistics", lambda: label_statistics(open_dataset(root)), ERRORS, named)
    yield Call("plan", lambda: plan(root), ERRORS, named)
    rows = [LabelRow("run", "long", 1.0, 2.0, "val"), LabelRow("walk", "run_1", None, None, "val")]
    record = VideoRecord("jpg/walk/new", "walk", 10, 120, 160, 25.0, 0.4, 900, "train")
    labels = SegmentationLabels(["jump", "run", "nothing"], {"first": np.array([0, 1, 2])}, {"val": ["first"]}, 15.0)
    writers = {
        "apply_labels": lambda: apply_labels(root, rows),
        "update_catalog": lambda: update_catalog(root, [record]),
        "apply_segmentation": lambda: apply_segmentation(root, labels),
        "label_frames": lambda: label_frames(root, background="nothing", replace=True, empty=True),
        "divide_videos": lambda: divide_videos(root, (0.5, 0.5), names=("a", "b")),
    }
    for name, write in writers.items():
        yield Call(name, write, ERRORS)  # of what is in the catalog, the message names the video or the class
        shutil.rmtree(root)
        root.mkdir()
        path.write_bytes(content)


TARGET = Target(make, calls)
