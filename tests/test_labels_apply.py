"""Label files put into the catalog: matching, class order, segments, splits, the report, and `vidseg labels`."""

import json

import pytest

from vidseg.cli.main import main
from vidseg.labels import (
    LabelReport,
    LabelRow,
    VideoRecord,
    apply_labels,
    open_dataset,
    update_catalog,
    write_label_csv,
)


def put(root, *paths):
    update_catalog(
        root,
        [
            VideoRecord(
                f"jpg/{path}", None if path.startswith("unlabeled/") else path.split("/")[0], 100, 8, 8, 5, 20, 9
            )
            for path in paths
        ],
    )


def labels_of(root, split=None):
    data = open_dataset(root, split)
    return {data.video_path(i)[4:]: data.classes[video.label] for i, video in enumerate(data)}


def test_rows_find_videos_by_class_folder_then_by_name(tmp_path):
    put(tmp_path, "run/1", "walk/1", "Long_Jump/2", "unlabeled/3", "run/clip_000012_000014")
    rows = [
        LabelRow("walk", "1", split="train"),
        LabelRow("Long Jump", "2", split="train"),
        LabelRow("walk", "3", split="validate"),
        LabelRow("run", "clip", 12.7, 14.2, split="testing"),
        LabelRow("run", "1", split="odd one"),
    ]
    report = apply_labels(tmp_path, rows)
    assert report == LabelReport(5)
    assert labels_of(tmp_path, "train") == {"walk/1": "walk", "Long_Jump/2": "Long Jump"}
    assert labels_of(tmp_path, "val") == {"unlabeled/3": "walk"}
    assert labels_of(tmp_path, "test") == {"run/clip_000012_000014": "run"}
    assert labels_of(tmp_path, "odd one") == {"run/1": "run"}
    assert json.loads((tmp_path / "labels_report.json").read_text())["matched"] == 5


def test_a_row_never_matches_a_video_of_another_class(tmp_path):
    put(tmp_path, "run/1", "jump/2")
    report = apply_labels(tmp_path, [LabelRow("jump", "1", split="val"), LabelRow("run", "2", 0, 1, split="val")])
    assert report.missing_videos == ["jump/1", "run/2_000000_000001"] and report.matched == 0
    assert labels_of(tmp_path) == {"run/1": "run", "jump/2": "jump"}


def test_unmatched_rows_and_videos_are_listed(tmp_path):
    put(tmp_path, "run/1", "run/2", "Sit_up/2", "Sit-up/2", "unlabeled/4", "run/5")
    rows = [
        LabelRow("run", "1", split="train"),
        LabelRow("run", "1", split="train"),  # twice the same: nothing to say
        LabelRow("jump", "1", split="train"),  # run/1 is not it
        LabelRow("Sit up", "2", split="train"),  # two videos that it may mean
        LabelRow("run", "9", 3, 5, split="val"),
        LabelRow("Sit up", "4", split="train"),
        LabelRow("jump", "4", split="train"),
    ]
    report = apply_labels(tmp_path, rows)
    assert report.matched == 2
    assert report.missing_videos == ["jump/1", "run/9_000003_000005"]
    assert report.unlabeled_videos == ["jpg/Sit-up/2", "jpg/Sit_up/2", "jpg/run/2", "jpg/run/5"]
    assert report.conflicts == [
        "2: label 'Sit up' matches 2 videos: jpg/Sit-up/2, jpg/Sit_up/2",
        "jpg/unlabeled/4: label 'jump', but an earlier row has 'Sit up'",
    ]
    text = str(report)
    assert "2 videos labeled" in text and "2 labels without a video:\n    jump/1\n" in text
    assert json.loads((tmp_path / "labels_report.json").read_text())["conflicts"] == report.conflicts
    with pytest.raises(ValueError, match="split 'val' has no converted video"):
        open_dataset(tmp_path, "val")


def test_long_reports_are_cut_on_the_screen_only(tmp_path):
    put(tmp_path, "run/1")
    report = apply_labels(tmp_path, [LabelRow("run", f"x{number}") for number in range(30)])
    assert str(report).count("run/x") == 5 and "... and 25 more" in str(report)
    assert len(json.loads((tmp_path / "labels_report.json").read_text())["missing_videos"]) == 30


def test_a_split_holds_exactly_what_was_applied_last(tmp_path):
    put(tmp_path, "a/1", "a/2", "a/3")
    apply_labels(tmp_path, [LabelRow("a", "1"), LabelRow("a", "2")], split="train")
    apply_labels(tmp_path, [LabelRow("a", "2", split="ignored"), LabelRow("a", "3")], split="train")
    assert list(labels_of(tmp_path, "train")) == ["a/2", "a/3"]
    report = apply_labels(tmp_path, [LabelRow("a", "1", split="val")])
    assert report.unlabeled_videos == []  # the others are in a split already


def test_no_training_video_is_in_another_part_of_its_division(tmp_path):
    """A row that would put a training video into the validation split is a conflict, also of two commands."""
    put(tmp_path, "run/1", "run/2", "run/3")
    first = [LabelRow("run", "1", split="train"), LabelRow("run", "2", split="train")]
    both = apply_labels(tmp_path, [*first, LabelRow("run", "2", split="val"), LabelRow("run", "3", split="val")])
    (conflict,) = both.conflicts
    assert conflict.startswith("jpg/run/2: split 'val', but an earlier row has 'train'; remove the video from one")
    assert [[*labels_of(tmp_path, split)] for split in ("train", "val")] == [["run/1", "run/2"], ["run/3"]]

    later = apply_labels(tmp_path, [LabelRow("run", "1", split="test"), LabelRow("run", "3", split="other/test")])
    (conflict,) = later.conflicts
    assert conflict.startswith("jpg/run/1: split 'test', but the catalog has it in 'train'; apply the label files of")
    assert [[*labels_of(tmp_path, split)] for split in ("train", "other/test")] == [["run/1", "run/2"], ["run/3"]]

    apply_labels(tmp_path, [LabelRow("run", "2", split="train"), LabelRow("run", "1", split="val")])
    assert [[*labels_of(tmp_path, split)] for split in ("train", "val")] == [["run/2"], ["run/1"]]
    assert not apply_labels(tmp_path, [LabelRow("run", "2", split="all"), LabelRow("run", "1", split="test")]).conflicts


def test_rows_without_a_label_only_place_videos_in_splits(tmp_path):
    put(tmp_path, "a/1", "unlabeled/2")
    report = apply_labels(tmp_path, [LabelRow(None, "1", split="test"), LabelRow(None, "2", split="test")])
    assert report == LabelReport(2)
    assert open_dataset(tmp_path, "test").labels.tolist() == [0, -1]


def test_timed_rows_of_whole_videos_become_segments(tmp_path):
    put(tmp_path, "unlabeled/film", "cut_000001_000002/x", "run/film2")
    rows = [
        LabelRow("wave", "film", 4.5, 6.25, "train"),
        LabelRow("jump", "film", 1, 2, "train"),
        LabelRow("jump", "film", 1, 2, "train"),
        LabelRow("jump", "film2", 0, 1, "val"),
        LabelRow(None, "film2", 0, 1, "val"),
        LabelRow("jump", "film3", 0, 1, "val"),
    ]
    report = apply_labels(tmp_path, rows)
    assert (report.matched, report.missing_videos) == (2, ["jump/film3_000000_000001"])
    train = open_dataset(tmp_path, "train")
    assert train.classes == ["cut_000001_000002", "run", "jump", "wave"] and train.labels.tolist() == [-1]
    assert [(s.start, s.stop, s.label) for s in train.segments(0)] == [(1.0, 2.0, 2), (4.5, 6.25, 3)]
    assert len(open_dataset(tmp_path, "val").segments(0)) == 1
    apply_labels(tmp_path, [LabelRow("wave", "film", 7, 8)])
    assert [s.start for s in open_dataset(tmp_path, "train").segments(0)] == [7.0]


# Class order


def test_official_list_numbers_the_classes(tmp_path, caplog):
    put(tmp_path, "HammerThrow/1", "Hammering/1", "Own/1")
    assert open_dataset(tmp_path).classes == ["HammerThrow", "Hammering", "Own"]
    rows = [LabelRow("HammerThrow", "1", split="train"), LabelRow("Hammering", "1", split="train")]
    official = ["Archery", "Hammering", "HammerThrow"]
    apply_labels(tmp_path, rows, classes=official)
    data = open_dataset(tmp_path)
    assert data.classes == [*official, "Own"]
    assert labels_of(tmp_path) == {"HammerThrow/1": "HammerThrow", "Hammering/1": "Hammering", "Own/1": "Own"}
    assert "2 of 4 class numbers have changed ('HammerThrow' is now 2)" in caplog.text


def test_an_official_order_never_changes(tmp_path, caplog):
    put(tmp_path, "b/1", "a/1")
    apply_labels(tmp_path, [LabelRow("a", "1")], classes=["b", "a"])
    caplog.clear()
    with pytest.raises(ValueError, match=r"class 'b' has number 0 in the catalog.*but number 1 in the new list"):
        apply_labels(tmp_path, [LabelRow("a", "1", split="new")], classes=["a", "b"])
    with pytest.raises(ValueError, match="unknown split 'new'"):
        open_dataset(tmp_path, "new")
    apply_labels(tmp_path, [LabelRow("a", "1")], classes=["b", "a"])
    apply_labels(tmp_path, [LabelRow("a", "1")], classes=["b", "a", "c"])
    put(tmp_path, "B/2")
    apply_labels(tmp_path, [LabelRow("b", "2")])  # class B is empty again and goes; the official ones stay
    assert open_dataset(tmp_path).classes == ["b", "a", "c"]
    assert "new number" not in caplog.text


def test_without_a_list_known_classes_keep_their_numbers(tmp_path, caplog):
    put(tmp_path, "m/1", "z/1")
    put(tmp_path, "unlabeled/2")
    apply_labels(tmp_path, [LabelRow("m", "1"), LabelRow("b", "2")])
    assert open_dataset(tmp_path).classes == ["m", "z", "b"] and not caplog.records


def test_other_spellings_of_folder_names_leave_no_empty_class(tmp_path, caplog):
    put(tmp_path, "Long_Jump/1", "Archery/2")
    apply_labels(tmp_path, [LabelRow("Long Jump", "1"), LabelRow("Archery", "2")])
    assert open_dataset(tmp_path).classes == ["Archery", "Long Jump"]
    assert "'Long_Jump'" in caplog.text and "new number" not in caplog.text


@pytest.mark.parametrize(("official", "message"), [(["a", "a"], "'a' occurs 2 times"), ([], "no classes")])
def test_faulty_official_lists(tmp_path, official, message):
    put(tmp_path, "a/1")
    with pytest.raises(ValueError, match=message):
        apply_labels(tmp_path, [LabelRow("a", "1")], classes=official)


# The command


def run(capsys, *words):
    status = main(["labels", *map(str, words)])
    return status, capsys.readouterr().out


def test_apply_and_show(tmp_path, capsys):
    put(tmp_path, "a/1", "a/2", "b/1", "unlabeled/f")
    write_label_csv(tmp_path / "train.csv", [LabelRow("a", "1", split="train"), LabelRow("b", "1", split="train")])
    write_label_csv(tmp_path / "val.csv", [LabelRow("a", "2", split="val"), LabelRow("a", "f", 1, 2, split="val")])
    (tmp_path / "classes.txt").write_text("b\na\n")
    words = ["apply", tmp_path, tmp_path / "train.csv", tmp_path / "val.csv", "--classes", tmp_path / "classes.txt"]
    status, out = run(capsys, *words)
    assert status == 0 and "4 videos labeled" in out
    status, out = run(capsys, "show", tmp_path)
    assert status == 0
    assert out.splitlines()[0] == "4 videos, 400 frames, 0.00 GB, 2 classes, 1 segment"
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["class", "videos", "segments", "train", "val"],
        ["0", "b", "1", "0", "1", "0"],
        ["1", "a", "2", "1", "1", "1"],
        ["-", "(no", "class)", "1", "0", "0", "1"],
        ["all", "4", "1", "2", "2"],
    ]
    status, out = run(capsys, "show", tmp_path, "--json")
    content = json.loads(out)
    assert content["splits"] == {"train": 2, "val": 2} and content["classes"]["b"] == {"videos": 1, "train": 1}
    status, out = run(capsys, "apply", tmp_path, tmp_path / "train.csv", "--split", "all", "--json")
    assert status == 0 and json.loads(out)["matched"] == 2
    assert len(open_dataset(tmp_path, "all")) == 2


def test_conflicts_set_exit_status_1_and_wrong_use_2(tmp_path, capsys):
    put(tmp_path, "unlabeled/1")
    write_label_csv(tmp_path / "both.csv", [LabelRow("a", "1"), LabelRow("b", "1")])
    assert run(capsys, "apply", tmp_path, tmp_path / "both.csv")[0] == 1
    assert main(["labels", "apply", str(tmp_path)]) == 2
    assert main(["labels", "show", str(tmp_path / "nowhere")]) == 2
    assert main(["labels", "scan", str(tmp_path)]) == 2
    assert "jpg: folder not found" in capsys.readouterr().err
