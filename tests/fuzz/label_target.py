"""Hostile label files: every reader of vidseg.labels."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hostile import damage_json, damage_text
from inputs import Call, Target

from vidseg.labels import (
    LabelRow,
    check_mapping,
    clip_rows,
    frame_labels_of,
    read_bundle,
    read_frame_labels,
    read_label_csv,
    read_localization_json,
    read_mapping,
    read_predictions,
    read_segmentation,
    write_label_csv,
)
from vidseg.labels.csv_labels import folder_names
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.label_files import read_label_files
from vidseg.labels.names import division_of_file, video_name
from vidseg.labels.official_csv import read_hacs_csv, read_moments_csv
from vidseg.labels.official_json import read_diving48_json, read_diving48_vocabulary, read_kinetics_json
from vidseg.labels.official_lists import read_class_list, read_hmdb_list, read_id_list, read_ucf_list
from vidseg.labels.segmentation_files import read_range_names

ERRORS = (ValueError, OSError)

CSV = """label,youtube_id,time_start,time_end,split
Archery,abcdEFGH123,12.0,14.0,train
"Long, Jump",P01.a,0.5,2.25,val
run,v_3,,,test
"""
PATHS = "label,path,split\nrun,run/a b.mp4,train\njump,jump/P01.cam01.avi,validation\n"
TABS = "id\tlabel\nv1\trun\nv2\tjump\n"
HACS = """classname,youtube_id,subset,start,end,label
Archery,a2X2hz1G6i8,training,15.5,17.5,1
Archery,b2X2hz1G6i8,validation,5,7,-1
Bowling,c2X2hz1G6i8,testing,1.0,3.0,1
"""
MOMENTS = "clapping/yt-x_12.mp4,clapping,3,0\nrunning/b.mp4,running,2,1\n"
LIST = "Archery/v_Archery_g08_c01.avi 1\nBowling/v_Bowling_g01_c02.avi 2\nBowling/v_Bowling_g01.c03.avi 2\n"
FRAMES = "run/v_1 164 0\njump/v_2 80 1\n"
NAMES = "Archery/v_Archery_g08_c01.avi\nBowling/v_Bowling_g01_c02.avi\n"
CODES = "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1\nb c.avi 2\nd.avi 0\n"
CLASSES = "1 Archery\n2 Bowling\n"
MAPPING = "0 take\n1 pour milk\n2 SIL\n"
FRAME_NAMES = "take\ntake\ntake\nSIL\nSIL\n"
RECOGNITION = "### Frame level recognition: ###\ntake take take SIL SIL\n"
RANGES = "1-30 SIL\n31-90 take\n91-91 pour_milk\n"
BUNDLE = "P01.a.txt\nP02.b.txt\n"
KINETICS = {
    "abc": {"annotations": {"label": "run", "segment": [1.0, 11.0]}, "duration": 10.0, "subset": "train"},
    "def": {"annotations": {"label": "jump", "segment": [0, 2]}, "subset": "validate"},
    "ghi": {"subset": "test"},
}
VOCABULARY = [["Back", "15som", "05Twis", "FREE"], ["Forward", "Dive", "NoTwis", "PIKE"]]
DIVING = [{"vid_name": "a", "label": 1, "start_frame": 0, "end_frame": 9}, {"vid_name": "b", "label": 0}]
ACTIVITYNET = {
    "fps": 15.0,
    "database": {
        "v": {
            "subset": "training",
            "duration": 20.0,
            "frames": 300,
            "annotations": [
                {"label": "run", "segment": [1.0, 3.0], "start_frame": 15, "end_frame": 44},
                {"label": "jump", "segment": [4.0, 6.0]},
            ],
        },
        "w": {"subset": "validation", "duration": 4, "annotations": [{"label": "run", "segment": [0, 2]}]},
    },
}
TEXTS = {
    "published.csv": CSV,
    "paths.csv": PATHS,
    "tabs.tsv": TABS,
    "hacs.csv": HACS,
    "moments.csv": MOMENTS,
    "trainlist01.txt": LIST,
    "frames_val.txt": FRAMES,
    "testlist01.txt": NAMES,
    "hmdb.txt": CODES,
    "classInd.txt": CLASSES,
    "mapping.txt": MAPPING,
    "labels.txt": FRAME_NAMES,
    "recognition": RECOGNITION,
    "ranges.txt": RANGES,
    "train.split1.bundle": BUNDLE,
}
DOCUMENTS: dict[str, Any] = {
    "kinetics.json": KINETICS,
    "diving48.json": DIVING,
    "vocabulary.json": VOCABULARY,
    "activitynet.json": ACTIVITYNET,
    "classes.json": {"run": 0, "jump": 1},
    "categories.json": ["run", "jump"],
}


def make(draw: random.Random, folder: Path) -> tuple[str, bytes]:
    if draw.random() < 0.4:
        name = draw.choice(list(DOCUMENTS))
        return name, damage_json(draw, DOCUMENTS[name])
    name = draw.choice(list(TEXTS))
    return name, damage_text(draw, TEXTS[name].encode())


def _rows(rows: list[LabelRow], folder: Path) -> None:
    """What converters do with rows: names of folders, and a CSV file that is read again."""
    for row, name in zip(rows, folder_names(rows), strict=True):
        assert name and row.exact_folder_name, row
    out = folder / "written.csv"
    write_label_csv(out, rows)
    again = read_label_csv(out)
    assert [(row.label, row.name) for row in again] == [(row.label, row.name) for row in rows]


def _localized(path: Path, *, skip: bool) -> None:
    videos = read_localization_json(path, faults=SegmentFaults(skip))
    labels = frame_labels_of(videos, rate=15, background="nothing", faults=SegmentFaults(skip))
    assert all(values.min() >= 0 and values.max() < len(labels.classes) for values in labels.labels.values())
    clip_rows(labels, background=["nothing"], negatives=2)


def _folder(path: Path, *, mapping: str = MAPPING, frames: str = FRAME_NAMES, bundle: str = BUNDLE) -> Path:
    """A data set in the format of MS-TCN beside a hostile file, which replaces the file of its kind."""
    root = path.parent / "segmentation"
    (root / "groundTruth").mkdir(parents=True, exist_ok=True)
    (root / "splits").mkdir(exist_ok=True)
    for name, text in {
        "mapping.txt": mapping,
        "groundTruth/P01.a.txt": frames,
        "groundTruth/P02.b.txt": FRAME_NAMES,
        "splits/train.split1.bundle": bundle,
    }.items():
        (root / name).write_text(text, encoding="utf-8")
    return root


def _segmentation(path: Path, place: str) -> None:
    root = _folder(path)
    (root / place).write_bytes(path.read_bytes())
    found = read_segmentation(root, rate=15)
    assert all(values.max() < len(found.classes) for values in found.labels.values())


def _predictions(path: Path) -> None:
    root = _folder(path)
    predicted = path.parent / "predictions"
    predicted.mkdir(exist_ok=True)
    (predicted / "P01.a").write_bytes(path.read_bytes())
    (predicted / "P02.b").write_text(RECOGNITION)
    pairs = read_predictions(root / "groundTruth", predicted, truncate=True)
    assert "P02.b" in pairs.names


def _readers(path: Path) -> dict[str, Callable[[], object]]:
    """The readers of a file, by its name."""
    folder = path.parent / "out"
    folder.mkdir(exist_ok=True)
    every: dict[str, Callable[[], object]] = {
        "read_label_files": lambda: _rows(read_label_files([path]).rows, folder),
        "division_of_file": lambda: division_of_file(path),
    }
    own: dict[str, dict[str, Callable[[], object]]] = {
        "hacs.csv": {"read_hacs_csv": lambda: _rows(read_hacs_csv(path)[0], folder)},
        "moments.csv": {"read_moments_csv": lambda: _rows(read_moments_csv(path, split="train"), folder)},
        "trainlist01.txt": {"read_ucf_list": lambda: _rows(read_ucf_list(path, split="train"), folder)},
        "hmdb.txt": {"read_hmdb_list": lambda: _rows(read_hmdb_list(path, label="a", division="split1"), folder)},
        "classInd.txt": {"read_class_list": lambda: read_class_list(path), "read_id_list": lambda: read_id_list(path)},
        "mapping.txt": {
            "read_mapping": lambda: read_mapping(path),
            "check_mapping": lambda: check_mapping(path, ["take", "pour milk", "SIL"]),
        },
        "labels.txt": {
            "read_frame_labels": lambda: read_frame_labels(path, ["take", "SIL"]),
            "read_predictions": lambda: _predictions(path),
        },
        "recognition": {
            "read_frame_labels": lambda: read_frame_labels(path, ["take", "SIL"]),
            "read_predictions": lambda: _predictions(path),
        },
        "ranges.txt": {"read_range_names": lambda: read_range_names(path)},
        "train.split1.bundle": {"read_bundle": lambda: read_bundle(path)},
        "kinetics.json": {"read_kinetics_json": lambda: _rows(read_kinetics_json(path), folder)},
        "vocabulary.json": {"read_diving48_vocabulary": lambda: read_diving48_vocabulary(path)},
        "diving48.json": {
            "read_diving48_json": lambda: _rows(read_diving48_json(path, classes=["a", "b"], split="train"), folder)
        },
        "activitynet.json": {
            "read_localization_json": lambda: _localized(path, skip=False),
            "read_localization_json, skipping": lambda: _localized(path, skip=True),
        },
        "classes.json": {"read_class_list": lambda: read_class_list(path)},
        "categories.json": {"read_class_list": lambda: read_class_list(path)},
    }
    return {**every, **own.get(path.name, {})}


def calls(path: Path) -> Iterator[Call]:
    for name, read in _readers(path).items():
        # The reader of predictions names its own copy of the file.
        yield Call(name, read, ERRORS, "P01.a" if name == "read_predictions" else str(path))
    for file, place in {
        "mapping.txt": "mapping.txt",
        "labels.txt": "groundTruth/P01.a.txt",
        "train.split1.bundle": "splits/train.split1.bundle",
    }.items():
        if path.name == file:
            named = str(path.parent / "segmentation")
            yield Call("read_segmentation", lambda place=place: _segmentation(path, place), ERRORS, named)
    name = path.read_bytes()[:200].decode("utf-8", "replace")
    yield Call("video_name", lambda: video_name(name), ())


TARGET = Target(make, calls)
