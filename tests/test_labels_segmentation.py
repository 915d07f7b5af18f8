"""Frame labels: their files, the catalog, localization labels and back, clips, and the data sets' converters."""

import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.cli.converter import load_converter
from vidseg.cli.main import main, run_program
from vidseg.frames import FrameWriter, encode_rgb
from vidseg.labels import (
    FrameLabels,
    LabelRow,
    SegmentationLabels,
    VideoRecord,
    apply_segmentation,
    check_mapping,
    clip_rows,
    labels_from_segments,
    open_dataset,
    read_bundle,
    read_frame_labels,
    read_label_csv,
    read_localization_json,
    read_mapping,
    read_segmentation,
    scan_catalog,
    segments_from_labels,
    update_catalog,
    write_localization_json,
)
from vidseg.labels.csv_labels import folder_names
from vidseg.labels.dataset import Segment
from vidseg.labels.localization import LocalizedVideo, TimedLabel, frame_labels_of
from vidseg.labels.segmentation_files import paired_files, read_frame_names, read_range_names, write_frame_labels
from vidseg.labels.statistics import label_statistics, pixel_statistics

MAPPING = "0 take\n1 open\n2 background\n"
VIDEOS = {"S1_Tea": "background take take open", "S2_Tea": "take open background", "S3_Tea": "open"}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def data_set(folder: Path, **changes: str) -> Path:
    """A small data set in the MS-TCN form."""
    files = {
        "mapping.txt": MAPPING,
        "splits/train.split1.bundle": "S1_Tea.txt\nS2_Tea.txt\n",
        "splits/test.split1.bundle": "S3_Tea.txt",
        **{f"groundTruth/{name}.txt": "\n".join(labels.split()) + "\n" for name, labels in VIDEOS.items()},
    }
    return write(folder, {**files, **changes})


# Files


def test_mapping(tmp_path):
    path = write(tmp_path, {"mapping.txt": "1 open the door\n0 take\n\n"}) / "mapping.txt"
    assert read_mapping(path) == ["take", "open the door"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("0 take\none open\n", r"mapping\.txt:2: 'one open' is not of the form NUMBER CLASS"),
        ("0\n", r"mapping\.txt:1: '0'"),
        ("0 take\n0 open\n", r"mapping\.txt:2: number 0 is already assigned to 'take'"),
        ("0 take\n1 take\n", r"mapping\.txt:2: class 'take' already has a number"),
        ("0 take\n2 open\n", r"mapping\.txt: no class has number 1"),
        ("", r"mapping\.txt: the file is empty"),
    ],
)
def test_wrong_mapping(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_mapping(write(tmp_path, {"mapping.txt": text}) / "mapping.txt")


def test_a_mapping_in_another_order_than_a_checkpoint(tmp_path):
    path = write(tmp_path, {"mapping.txt": MAPPING}) / "mapping.txt"
    check_mapping(path, ["take", "open", "background"])
    with pytest.raises(ValueError, match=r"mapping\.txt:1: class 'take' has number 0, .* 0 is 'background'"):
        check_mapping(path, ["background", "take", "open"])
    with pytest.raises(ValueError, match=r"mapping\.txt:3: class 'background' has number 2, .* the last is 1"):
        check_mapping(path, ["take", "open"])
    with pytest.raises(ValueError, match="3 classes, expected 4"):
        check_mapping(path, ["take", "open", "background", "pour"])


def test_frame_labels_in_both_published_forms(tmp_path):
    write(
        tmp_path,
        {
            "a.txt": "take\nopen\ntake\n",
            "b.txt": "take\r\nopen\r\ntake",
            "c": "### Frame level recognition: ###\ntake open take",
        },
    )
    for name in ("a.txt", "b.txt", "c"):
        assert read_frame_labels(tmp_path / name, ["take", "open"]).tolist() == [0, 1, 0]
    write_frame_labels(tmp_path / "d.txt", np.array([0, 1, 0]), ["take", "open"])
    assert (tmp_path / "d.txt").read_text() == "take\nopen\ntake\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("take\nopne\n", r"a\.txt:2: class 'opne' is not in the mapping; did you mean 'open'\?"),
        ("take\n\nopen\n", r"a\.txt:2: the line is empty"),
        ("\n", r"a\.txt: the file is empty"),
    ],
)
def test_wrong_frame_labels(tmp_path, text, message):
    path = write(tmp_path, {"a.txt": text}) / "a.txt"
    with pytest.raises(ValueError, match=message):
        read_frame_labels(path, ["take", "open"])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_frame_names(path)


def test_bundles(tmp_path):
    path = write(tmp_path, {"x": "S1.txt\r\n\nfolder/S2.txt\nS3"}) / "x"
    assert read_bundle(path) == {"S1": 1, "S2": 3, "S3": 4}
    path.write_text("S1.txt\nS2.txt\nS1.txt\n")
    with pytest.raises(ValueError, match=r"x:3: video 'S1' is already in line 1"):
        read_bundle(path)


def test_ranges(tmp_path):
    path = write(tmp_path, {"x.txt": "1-2 SIL  \n3-5 take_bowl\n5-6 pour\n"}) / "x.txt"
    assert read_range_names(path) == ["SIL", "SIL", "take_bowl", "take_bowl", "pour", "pour"]
    for text, message in (
        ("1-2 SIL\n5-6 pour\n", r":2: the range starts at frame 5"),
        ("1-2\n", ":1: '1-2' is not of the form"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_range_names(path)


def test_pairs_of_files(tmp_path):
    published = write(tmp_path / "a", {"x-1-gt.txt": "", "x-1-pred.txt": "", "y-gt.txt": "", "palette.png": ""})
    pairs, alone = paired_files(published)
    assert pairs == {"x-1": (published / "x-1-gt.txt", published / "x-1-pred.txt")} and alone == ["y"]
    truth = write(tmp_path / "b", {"x.txt": "", "y.txt": "", "z.txt": ""})
    ours = write(tmp_path / "c", {"x": "", "y.txt": "", "q.txt": "", "scores.csv": ""})
    pairs, alone = paired_files(truth, ours)
    assert [(name, path.name) for name, (_, path) in pairs.items()] == [("x", "x"), ("y", "y.txt")]
    assert alone == ["q", "z"]
    with pytest.raises(FileNotFoundError, match="no pair of truth and prediction"):
        paired_files(truth)
    with pytest.raises(FileNotFoundError, match="folder not found"):
        paired_files(truth, tmp_path / "none")


# Segments and frames

labels_of_a_video = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), min_size=1, max_size=30).map(
    lambda runs: np.repeat([label for label, _ in runs], [count for _, count in runs])
)


@settings(deadline=None)
@given(labels=labels_of_a_video, rate=st.sampled_from([1.0, 15.0, 24.0, 29.97, 30.0]))
def test_segments_convert_back_to_the_labels(labels, rate):
    segments = segments_from_labels(labels, rate)
    assert all(a.stop == b.start and a.label != b.label for a, b in itertools.pairwise(segments))
    assert np.array_equal(labels_from_segments(segments, len(labels), rate), labels)
    actions = segments_from_labels(labels, rate, background=[0])
    assert all(segment.label != 0 for segment in actions)
    assert np.array_equal(labels_from_segments(actions, len(labels), rate, background=0), labels)


def test_overlaps_gaps_and_ends():
    segments = [Segment(0.0, 1.0, 1), Segment(0.5, 3.0, 2), Segment(0.5, 0.7, 3)]
    assert labels_from_segments(segments, 20, 10).tolist() == [1] * 5 + [3] * 2 + [2] * 13
    with pytest.raises(ValueError, match=r"frame 10 \(1.00 s\) has no label"):
        labels_from_segments(segments[:1], 20, 10)
    assert labels_from_segments(segments[:1], 12, 10, background=0).tolist() == [1] * 10 + [0] * 2
    assert segments_from_labels([], 10) == []


# Catalog


def test_a_data_set_of_labels_and_features(tmp_path):
    root = data_set(tmp_path)
    report = apply_segmentation(root, read_segmentation(root, rate=2), mapping=root / "mapping.txt")
    assert (report.videos, report.labels, report.segments, report.classes) == (3, 8, 7, 3)
    assert report.splits == {"split1/test": 1, "split1/train": 2} and report.without_frames == 3
    assert "    split1/train     2 videos" in str(report)
    data = open_dataset(root, "split1/train")
    assert data.classes == ["take", "open", "background"]
    assert [(video.name, video.frames, video.fps, video.height) for video in data] == [
        ("S1_Tea", 4, 2.0, 0),
        ("S2_Tea", 3, 2.0, 0),
    ]
    assert data.segments(0) == [Segment(0.0, 0.5, 2), Segment(0.5, 1.5, 0), Segment(1.5, 2.0, 1)]
    labels = FrameLabels(data)
    assert [labels[index].tolist() for index in range(len(labels))] == [[2, 0, 0, 1], [0, 1, 2]]
    assert labels.lengths.tolist() == [4, 3] and labels[0].dtype == np.int64
    assert [FrameLabels(open_dataset(root, "split1/test"))[0].tolist()] == [[1]]


def test_second_import_replaces_and_reports_videos_without_split(tmp_path):
    root = data_set(tmp_path)
    apply_segmentation(root, read_segmentation(root, rate=2))
    (root / "splits/test.split1.bundle").unlink()
    data_set(root, **{"groundTruth/S1_Tea.txt": "open\nopen\n", "splits/test.split1.bundle": "S1_Tea\n"})
    write(root, {"splits/train.split1.bundle": "S2_Tea\nS9_Tea\n"})
    with pytest.raises(ValueError, match=r"train\.split1\.bundle:2: video 'S9_Tea' has no labels"):
        read_segmentation(root, rate=4)
    report = apply_segmentation(root, read_segmentation(root, rate=4, allow_missing=True))
    assert report.without_split == ["S3_Tea"] and report.without_labels == ["S9_Tea"]
    assert "1 video without labels in splits: S9_Tea" in str(report)
    assert FrameLabels(open_dataset(root, "split1/test"))[0].tolist() == [1, 1]
    assert len(open_dataset(root)) == 3 and [v.name for v in open_dataset(root, "split1/train")] == ["S2_Tea"]


def test_labels_find_converted_videos_and_frames_come_later(tmp_path):
    root = data_set(tmp_path)
    update_catalog(root, [VideoRecord("jpg/tea/S1_Tea", "tea", 60, 48, 64, 30.0, 2.0, 999)])
    report = apply_segmentation(root, read_segmentation(root, rate=2))
    assert report.without_frames == 2
    data = open_dataset(root)
    first = next(video for video in data if video.name == "S1_Tea")
    assert (first.frames, first.height, data.classes) == (60, 48, ["take", "open", "background", "tea"])
    update_catalog(root, [VideoRecord("jpg/unlabeled/S2_Tea", None, 45, 48, 64, 30.0, 1.5, 999)])
    data = open_dataset(root, "split1/train")
    assert data.frames.tolist() == [60, 45]
    assert [labels.tolist() for labels in map(FrameLabels(data).__getitem__, range(2))] == [[2, 0, 0, 1], [0, 1, 2]]


def test_scanning_keeps_videos_without_frames(tmp_path):
    from test_labels_catalog import write_database

    root = data_set(tmp_path)
    apply_segmentation(root, read_segmentation(root, rate=2))
    write_database(root / "jpg/unlabeled/S2_Tea")
    report = scan_catalog(root)
    assert report.removed == [] and report.added == ["jpg/unlabeled/S2_Tea"] and report.videos == 3
    assert FrameLabels(open_dataset(root, "split1/train"))[1].tolist() == [0, 1, 2]


def test_classes_in_another_order_are_refused(tmp_path):
    root = data_set(tmp_path)
    apply_segmentation(root, read_segmentation(root, rate=2))
    write(root, {"mapping.txt": "0 open\n1 take\n2 background\n"})
    with pytest.raises(ValueError, match=r"mapping\.txt:1: class 'open' has number 0, .* 0 is 'take'"):
        apply_segmentation(root, read_segmentation(root, rate=2), mapping=root / "mapping.txt")
    assert open_dataset(root).classes == ["take", "open", "background"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"groundTruth/S1_Tea.txt": "take\npour\n"}, r"S1_Tea\.txt:2: class 'pour' is not in the mapping"),
        ({"splits/test.split1.bundle": "S4_Tea.txt\n"}, r"test\.split1\.bundle:1: video 'S4_Tea' has no labels"),
    ],
)
def test_wrong_data_sets(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_segmentation(data_set(tmp_path, **changes), rate=15)


def test_missing_parts(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mapping\.txt: not found"):
        read_segmentation(tmp_path, rate=15)
    with pytest.raises(ValueError, match="rate is 0 labels per second"):
        read_segmentation(tmp_path, rate=0)
    write(tmp_path, {"mapping.txt": MAPPING})
    (tmp_path / "groundTruth").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no <video>\.txt"):
        read_segmentation(tmp_path, rate=15)


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 3], "label 3 at frame 1; every frame needs a class number from 0 to 2"),
        ([-1], "label -1"),
        ([], "no label"),
    ],
)
def test_labels_outside_the_mapping_are_refused(tmp_path, labels, message):
    values = SegmentationLabels(["a", "b", "c"], {"v": np.array(labels, np.int64)}, {}, 15.0)
    with pytest.raises(ValueError, match=message):
        apply_segmentation(tmp_path, values)
    assert not (tmp_path / "catalog.db").exists()


def test_a_name_in_two_class_folders_is_refused(tmp_path):
    root = data_set(tmp_path)
    update_catalog(root, [VideoRecord(f"jpg/{label}/S1_Tea", label, 9, 4, 4, 9.0, 1.0, 9) for label in ("a", "b")])
    with pytest.raises(ValueError, match="several videos have the name 'S1_Tea': jpg/a/S1_Tea, jpg/b/S1_Tea"):
        apply_segmentation(root, read_segmentation(root, rate=2))


def test_videos_without_frame_labels_are_named(tmp_path):
    update_catalog(tmp_path, [VideoRecord("jpg/run/a", "run", 9, 4, 4, 9.0, 1.0, 9)])
    with pytest.raises(ValueError, match="jpg/run/a: no frame labels"):
        FrameLabels(open_dataset(tmp_path))


# Localization labels and clips


def example() -> SegmentationLabels:
    labels = {
        "long": np.repeat([2, 0, 2, 1, 2], [30, 45, 15, 60, 10]),
        "short": np.repeat([0, 2], [20, 40]),
        "empty": np.repeat([2], [25]),
    }
    return SegmentationLabels(["take", "open", "none"], labels, {"test": ["long"], "train": ["short", "empty"]}, 15.0)


def test_segmentation_to_localization_and_back(tmp_path):
    write_localization_json(tmp_path / "label.json", example(), background=["none"])
    content = json.loads((tmp_path / "label.json").read_text())
    assert content["fps"] == 15 and content["database"]["empty"]["annotations"] == []
    assert content["database"]["long"]["annotations"][0] == {
        "label": "take", "segment": [2.0, 5.0], "start_frame": 30, "end_frame": 74, "label_ids": 0,
    }  # fmt: skip
    videos = read_localization_json(tmp_path / "label.json")
    assert videos["long"].split == "test" and videos["long"].seconds == pytest.approx(160 / 15)
    back = frame_labels_of(videos, rate=15, background="none", classes=["take", "open"])
    assert back.classes == ["take", "open", "none"] and back.splits == example().splits
    for name, labels in example().labels.items():
        assert np.array_equal(back.labels[name], labels)
    twice = frame_labels_of(videos, rate=30, background="none", classes=["take", "open"])
    assert np.array_equal(twice.labels["long"], np.repeat(example().labels["long"], 2))


def test_localization_of_activitynet(tmp_path, caplog):
    entry = {"subset": "training", "duration": 10.0, "annotations": [{"label": "run", "segment": [1.0, 2.5]}]}
    path = write(tmp_path, {"a.json": json.dumps({"database": {"v.mp4": entry}})}) / "a.json"
    videos = read_localization_json(path)
    assert videos == {"v": LocalizedVideo([TimedLabel("run", 1.0, 2.5)], 10.0, "training")}
    labels = frame_labels_of(videos, rate=2, background="None").labels["v"]
    assert labels.tolist() == [1, 1, 0, 0, 0, *[1] * 15]
    videos["v"].seconds = None
    with caplog.at_level(logging.WARNING):
        assert len(frame_labels_of(videos, rate=2, background="None").labels["v"]) == 5
    assert "videos of unknown duration, which end with their last segment: 1, such as 'v'" in caplog.text
    assert len(frame_labels_of(videos, rate=2, background="None", seconds={"v": 4.0}).labels["v"]) == 8
    with pytest.raises(ValueError, match="video 'v': class 'run' is not in the class list"):
        frame_labels_of(videos, rate=2, background="None", classes=["walk"])
    with pytest.raises(ValueError, match="video 'w': neither a segment nor a duration"):
        frame_labels_of({"w": LocalizedVideo([])}, rate=2, background="None")


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "the entry 'database'"),
        ("{", "not valid JSON"),
        ('{"database": {"v": {}}}', "video 'v': KeyError: 'annotations'"),
        (
            '{"database": {"v": {"annotations": [{"label": "a", "segment": [3, 2]}]}}}',
            "'a' from 3 to 2 seconds: it ends",
        ),
    ],
)
def test_wrong_localization(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_localization_json(write(tmp_path, {"a.json": text}) / "a.json")


def test_clips_and_negative_samples():
    rows = clip_rows(example(), background=["none"])
    assert rows == [
        LabelRow("take", "long", 2.0, 5.0),
        LabelRow("open", "long", 6.0, 10.0),
        LabelRow("take", "short", 0.0, 20 / 15),
    ]
    for seed in range(5):
        chosen = [row for row in clip_rows(example(), background=["none"], negatives=3, seed=seed) if row not in rows]
        # one of each video before a second one of any
        assert len(chosen) == 3 and {row.name for row in chosen} == {"long", "short", "empty"}
        assert clip_rows(example(), background=["none"], negatives=3, seed=seed) == sorted(
            [*rows, *chosen], key=lambda row: (row.name, row.start)
        )
    assert len(clip_rows(example(), background=["none"], negatives=99)) == 3 + 5
    starts = {
        next(r.start for r in clip_rows(example(), background=["none"], negatives=3, seed=s) if r.name == "long")
        for s in range(20)
    }
    assert len(starts) > 1
    with pytest.raises(ValueError, match="background 'None' is not a class"):
        clip_rows(example(), background=["None"])
    with pytest.raises(ValueError, match="negatives is -1"):
        clip_rows(example(), background=["none"], negatives=-1)
    short = SegmentationLabels(["a", "b"], {"v": np.array([0, 1, 0, 1])}, {}, 15.0)
    clips = clip_rows(short, background=[])
    assert [row.start for row in clips] == [0.0, 1 / 15, 2 / 15, 3 / 15]
    assert folder_names(clips) == [
        "v_000000.000_000000.067", "v_000000.067_000000.133", "v_000000.133_000000.200", "v_000000.200_000000.267"
    ]  # fmt: skip


# Converters


def convert(name: str, *words: object) -> int:
    """Runs converters/<name>.py; returns its exit status."""
    return run_program(load_converter(name), [str(word) for word in words])


@pytest.mark.parametrize("name, rate", [("gtea", 15), ("50salads", 30), ("breakfast", 15), ("egtea", 24)])
def test_converters_read_the_ms_tcn_format(tmp_path, capsys, name, rate):
    root = data_set(tmp_path / "in")
    assert convert(name, root, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["videos"] == 3 and report["splits"] == {"split1/test": 1, "split1/train": 2}
    assert FrameLabels(open_dataset(root)).rates.tolist() == [rate] * 3


def test_gtea_with_all_outputs(tmp_path, capsys):
    root = data_set(tmp_path / "in", **{"groundTruth/S3_Tea.txt": "open\n" * 20 + "background\n" * 20})
    out, clips = tmp_path / "out", tmp_path / "clips"
    assert convert("gtea", root, "--out", out, "--localization", tmp_path / "l.json", "--clips", clips,
                   "--negatives", 1, "--seed", 3) == 0  # fmt: skip
    assert f"{clips / 'split1_test.csv'}: " in capsys.readouterr().out
    for file in ("mapping.txt", "groundTruth/S1_Tea.txt", "splits/train.split1.bundle"):
        assert (out / file).read_text() == (root / file).read_text()
    assert not (root / "catalog.db").exists() and len(open_dataset(out)) == 3
    assert [(s.label, s.start, s.stop) for s in read_localization_json(tmp_path / "l.json")["S3_Tea"].segments] == [
        ("open", 0.0, 20 / 15)
    ]
    rows = read_label_csv(clips / "split1_train.csv") + read_label_csv(clips / "split1_test.csv")
    assert sum(row.label == "background" for row in rows) == 1
    assert {row.split for row in rows} == {"split1/train", "split1/test"}


def test_50salads_from_its_original_annotation(tmp_path, capsys):
    source = write(
        tmp_path / "in",
        {
            "labels/low_to_mid.txt": "cut_cheese_prep cut_cheese\ncut_cheese_core cut_cheese\nadd_oil_core add_oil\n",
            "activity_annotation/01-1-activityAnnotation.txt": (
                "2000000 4000000 cut_cheese_core\n1000000 5000000 cut_and_mix_ingredients\n"
                "1500000 2000000 cut_cheese_prep\n5000000 5500000 add_oil_core\n5500000 5500000 add_oil_core\n"
            ),
            "splits/train.split1.bundle": "rgb-01-1.txt\n",
        },
    )
    assert convert("50salads", source) == 2
    assert "set the output with --dataset or --out" in capsys.readouterr().err
    assert convert("50salads", source, "--out", tmp_path / "out", "--rate", 10) == 2
    assert "Annotation.txt:5: segment 'add_oil_core' from 5.5 to 5.5 seconds: it has no" in capsys.readouterr().err
    assert convert("50salads", source, "--out", tmp_path / "out", "--rate", 10, "--on-error", "skip") == 1
    assert "1 segment skipped:" in capsys.readouterr().err
    data = open_dataset(tmp_path / "out", "split1/train")
    assert data.classes == ["add_oil", "cut_cheese", "background"]
    assert FrameLabels(data)[0].tolist() == [2] * 15 + [1] * 25 + [2] * 10 + [0] * 5
    write(source, {"activity_annotation/01-1-activityAnnotation.txt": "20 10 cut_cheese_core\n"})
    assert convert("50salads", source, "--out", tmp_path / "out") == 2
    assert "01-1-activityAnnotation.txt:1: segment 'cut_cheese_core' from 2e-05 to 1e-05" in capsys.readouterr().err


def test_breakfast_from_its_original_annotation(tmp_path, capsys):
    source = write(
        tmp_path / "in",
        {"P03/P03_cam01_tea.txt": "1-2 garbage\n3-4 take_cup\n", "P04/P04_cam01_tea.txt": "1-3 pour_water\n"},
    )
    assert convert("breakfast", source, "--out", tmp_path / "out") == 0
    data = open_dataset(tmp_path / "out")
    assert data.classes == ["pour_water", "take_cup", "background"]
    assert [FrameLabels(data)[index].tolist() for index in range(2)] == [[2, 2, 1, 1], [0, 0, 0]]
    write(source, {"P05/P03_cam01_tea.txt": "1-2 x\n"})
    assert convert("breakfast", source, "--out", tmp_path / "out") == 2
    assert "'P03_cam01_tea' has a second file" in capsys.readouterr().err


def test_egtea_from_its_clip_lists(tmp_path, capsys):
    clip = "OP01-R01-Tea-{}-{}-F{:06d}-F{:06d} {} {} 1"
    lists = {
        "train_split1.txt": clip.format(0, 1, 24, 47, 2, 1) + "\n" + clip.format(3, 4, 72, 95, 1, 2),
        "test_split1.txt": clip.format(5, 6, 96, 107, 2, 1).replace("OP01", "P02"),
        **{f"{part}_split{n}.txt": clip.format(0, 1, 24, 47, 2, 1) for part in ("train", "test") for n in (2, 3)},
    }
    files = {"verb_idx.txt": "Take 1\nPut down 2\n", "action_idx.txt": "Take cup 1\nTake tea 2\n"}
    source = write(tmp_path / "in", {name: text + "\n" for name, text in {**files, **lists}.items()})
    out = tmp_path / "out"
    assert convert("egtea", source, "--out", out, "--rate", 4) == 0
    data = open_dataset(out)
    assert data.classes == ["Take", "Put down", "None"]
    labels = FrameLabels(data)
    assert labels[0].tolist() == [2] * 4 + [0] * 4 + [2] * 4 + [1] * 4
    assert [video.name for video in open_dataset(out, "split1/train")] == ["OP01-R01-Tea"]
    assert [video.name for video in open_dataset(out, "split1/test")] == ["P02-R01-Tea"]
    assert [video.name for video in open_dataset(out, "split2/test")] == ["OP01-R01-Tea"]  # as many in both: test
    assert convert("egtea", source, "--out", tmp_path / "actions", "--level", "action") == 0
    assert open_dataset(tmp_path / "actions").classes == ["Take cup", "Take tea", "None"]
    write(source, {"test_split3.txt": "OP01-R01-Tea 1 1\n"})
    assert convert("egtea", source, "--out", out) == 2
    assert "test_split3.txt:1: 'OP01-R01-Tea 1 1'" in capsys.readouterr().err


def test_thumos14(tmp_path, capsys):
    source = write(
        tmp_path / "in",
        {
            "val/annotation/CliffDiving_val.txt": "video_validation_0000001  1.0 2.0\n",
            "val/annotation/Diving_val.txt": "video_validation_0000001  1.0 2.0\nvideo_validation_0000001 3.0 3.5\n",
            "val/annotation/Ambiguous_val.txt": "video_validation_0000001  0.0 9.0\n",
            "test/annotation/Diving_test.txt": "video_test_0000002  0.5 1.0\n",
        },
    )
    root = tmp_path / "data"
    root.mkdir()
    update_catalog(root, [VideoRecord("jpg/unlabeled/video_validation_0000001", None, 120, 4, 4, 30.0, 4.0, 9)])
    assert convert("thumos14", source, "--dataset", root, "--out", tmp_path / "out", "--rate", 2) == 0
    train, test = open_dataset(root, "train"), open_dataset(root, "test")
    assert train.classes == ["CliffDiving", "Diving", "None"]
    assert FrameLabels(train)[0].tolist() == [2, 2, 0, 0, 2, 2, 1, 2]  # as long as the converted video
    assert FrameLabels(test)[0].tolist() == [2, 1]
    assert read_segmentation(tmp_path / "out", rate=2).splits == {
        "test": ["video_test_0000002"], "train": ["video_validation_0000001"],
    }  # fmt: skip
    write(source, {"test/annotation/Diving_test.txt": "video_test_0000002  1.0 0.5\n"})
    assert convert("thumos14", source, "--out", tmp_path / "out") == 2
    assert "Diving_test.txt:1: segment 'Diving' from 1 to 0.5 seconds" in capsys.readouterr().err


# Statistics


def test_label_statistics(tmp_path):
    root = data_set(tmp_path)
    apply_segmentation(root, read_segmentation(root, rate=2))
    counts = label_statistics(open_dataset(root))
    assert counts.frames == [3, 3, 2] and counts.segments == [2, 3, 2]
    assert counts.seconds == [[1.0, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5]]
    assert counts.class_weights == [1.0, 1.0, 1.5] and counts.boundary_weight == 8 / 7
    only = label_statistics(open_dataset(root, "split1/test"))
    assert only.frames == [0, 1, 0] and only.class_weights == [0.0, 1.0, 0.0]


def colored(folder: Path, values: list[tuple[int, int, int]]) -> None:
    """A video whose frames are of one color each."""
    with FrameWriter(folder / "frames.db", meta={"fps": 25.0, "height": 16, "width": 16}) as writer:
        for index, value in enumerate(values):
            frame = torch.tensor(value, dtype=torch.uint8).expand(16, 16, 3).contiguous()
            writer.add(encode_rgb(frame, quality=100)[0], width=16, timestamp=index / 25)


def test_pixel_statistics(tmp_path):
    colored(tmp_path / "jpg/a/x", [(0, 100, 200), (200, 100, 200)])
    colored(tmp_path / "jpg/b/y", [(50, 100, 0), (50, 100, 0)])
    scan_catalog(tmp_path)
    data = open_dataset(tmp_path)
    found = pixel_statistics(data)
    assert (found.videos, found.frames, found.failed) == (2, 4, [])
    close = {"abs": 0.01}
    assert found.mean == pytest.approx([75 / 255, 100 / 255, 100 / 255], **close)
    assert found.std == pytest.approx([np.std([0, 200, 50, 50]) / 255, 0, 100 / 255], **close)
    assert found.std_within == pytest.approx([50 / 255, 0, 0], **close)
    one = [pixel_statistics(data, frames_per_video=1, seed=seed).mean[0] for seed in range(8)]
    assert one == [pixel_statistics(data, frames_per_video=1, seed=seed, threads=1).mean[0] for seed in range(8)]
    assert len({round(value, 2) for value in one}) == 2  # one of the two frames of x
    with pytest.raises(ValueError, match="frames_per_video is 0"):
        pixel_statistics(data, frames_per_video=0)


def test_stats_command(tmp_path, capsys):
    root = data_set(tmp_path)
    assert main(["stats", str(root)]) == 2
    apply_segmentation(root, read_segmentation(root, rate=2))
    capsys.readouterr()
    assert main(["stats", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"]["segments"] == [2, 3, 2]
    for name in ("S1_Tea", "S2_Tea"):
        colored(root / f"jpg/unlabeled/{name}", [(255, 0, 0)] * 3)
    scan_catalog(root)
    assert main(["stats", str(root), "--frames", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 frames of 2 videos") and lines[1].split()[0] == "mean"
    assert float(lines[1].split()[1]) > 0.99 and lines[-1] == "boundary weight: 1.1429"
    (root / "jpg/unlabeled/S2_Tea/frames.db").write_bytes(b"no")
    assert main(["stats", str(root)]) == 1
    error = capsys.readouterr().err
    assert "jpg/unlabeled/S2_Tea: " in error and "1 unreadable video" in error
