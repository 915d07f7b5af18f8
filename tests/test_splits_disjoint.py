"""A video in both the training and the test split is an error of training and of testing."""

import contextlib
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from segmentation_data import segmentation_dataset

from vidseg.engine.options import NetworkOptions, RunOptions, ScheduleOptions
from vidseg.labels import VideoRecord, apply_segmentation, read_segmentation, update_catalog
from vidseg.labels.parts import choose_parts
from vidseg.tasks import load_trained
from vidseg.tasks.recognition.data import choose_splits
from vidseg.tasks.recognition.options import RecognitionData
from vidseg.tasks.segmentation.cross_validation import cross_validate
from vidseg.tasks.segmentation.options import SegmentationData, SegmentationOptions
from vidseg.tasks.streaming.options import StreamData, StreamingOptions
from vidseg.tasks.streaming.runs import train_streaming

SHARED = "S1_Tea_0"  # a test video of the first division


def add_to_training(root: Path, *videos: str) -> None:
    """Append videos to the training split of the first division, and update the catalog."""
    with (root / "splits/train.split1.bundle").open("a") as bundle:
        bundle.writelines(f"{video}.txt\n" for video in videos)
    apply_segmentation(root, read_segmentation(root, rate=15.0), mapping=root / "mapping.txt")


@pytest.fixture
def root(tmp_path) -> Path:
    return segmentation_dataset(tmp_path / "data")


@pytest.fixture
def options(root, tmp_path) -> SegmentationOptions:
    """One short run on the first division."""
    return SegmentationOptions(
        data=SegmentationData(dataset=str(root), splits=("split1",), select="last"),
        network=NetworkOptions("mstcn", network_option=("layers=2", "stages=1", "maps=8")),
        schedule=ScheduleOptions(warmup_epochs=0.0),
        session=RunOptions(epochs=1, out=str(tmp_path / "run")),
    )


def refused(root: Path) -> "pytest.RaisesContext[ValueError]":
    message = f"{root}: video jpg/unlabeled/{SHARED} is in both the training and the test split of split1"
    return pytest.raises(ValueError, match=re.escape(message))


@pytest.mark.parametrize("select", ["validation", "last", "test"])
def test_parts_of_a_division(root, select):
    chosen = {"select": select, "validation_share": 0.5, "seed": 0}
    parts = choose_parts(root, "split1", **chosen)
    assert {video.name for video in parts.test} == {f"S1_Tea_{video}" for video in range(4)}
    assert not {video.name for video in parts.train} & {video.name for video in parts.test}
    add_to_training(root, SHARED)
    with refused(root):
        choose_parts(root, "split1", **chosen)
    assert choose_parts(root, "split2", **chosen).division == "split2"


def test_segmentation_training(root, options, tmp_path):
    add_to_training(root, SHARED)
    with refused(root):
        cross_validate(options)
    assert not (tmp_path / "run/split1").exists()


def test_stream_training(root, tmp_path):
    add_to_training(root, SHARED)
    options = StreamingOptions(
        data=StreamData(dataset=str(root), split="split1", select="last"),
        session=RunOptions(out=str(tmp_path / "run")),
    )
    with refused(root):
        train_streaming(options)
    assert not (tmp_path / "run").exists()


def test_evaluation_of_a_trained_model(root, options, tmp_path):
    cross_validate(options)
    trained = load_trained(tmp_path / "run/split1")
    assert trained.test(picture=False)["scores"]["frames"] > 0
    add_to_training(root, SHARED)
    with refused(root):
        trained.test(picture=False)
    assert trained.test(picture=False, split="split1/test")["scores"]["frames"] > 0


@pytest.mark.parametrize("other", ["val", "test"])
def test_recognition_training(tmp_path, other):
    records = [VideoRecord(f"jpg/run/{number}", "run", 9, 8, 8, 5, 2, 9, "train") for number in range(3)]
    update_catalog(tmp_path, records)
    with contextlib.closing(sqlite3.connect(tmp_path / "catalog.db")) as catalog, catalog:
        catalog.execute("INSERT INTO splits (name) VALUES (?)", (other,))
        catalog.execute("INSERT INTO split_videos SELECT splits.id, 2 FROM splits WHERE name = ?", (other,))
    message = f"video jpg/run/1 is in both the training and the {other} split of the data set; remove it from one"
    with pytest.raises(ValueError, match=message):
        choose_splits(RecognitionData(str(tmp_path)), seed=0)
    overfitted = choose_splits(RecognitionData(str(tmp_path), val_split="train", test_split="train"), seed=0)
    assert len(overfitted.train) == len(overfitted.validation) == 3


def test_disjoint_divisions_are_trained(root, options):
    assert len(cross_validate(replace(options, data=replace(options.data, splits=()))).splits) == 2
