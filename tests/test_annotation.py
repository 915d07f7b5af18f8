"""Labels that people edit: versions, history, undo over sessions, frame labels; labels as files and back."""

import json
import sqlite3
import threading

import numpy as np
import pytest

from vidseg.cli.main import main
from vidseg.labels import (
    FrameLabels,
    LabelRow,
    VideoRecord,
    apply_labels,
    apply_segmentation,
    open_dataset,
    read_detection_labels,
    read_label_csv,
    read_segmentation,
    update_catalog,
)
from vidseg.labels.annotation import Annotations, ChangedMeanwhileError
from vidseg.labels.label_changes import NamedSegment, VideoLabels
from vidseg.labels.label_export import export_labels
from vidseg.labels.segmentation_labels import SegmentationLabels

A, B = "jpg/unlabeled/a", "jpg/run/b"
EMPTY = VideoLabels(None, ())


@pytest.fixture
def root(tmp_path):
    records = [VideoRecord(path, path.split("/")[1], 100, 48, 64, 10.0, 10.0, 1) for path in (A, B)]
    update_catalog(tmp_path, [records[1], VideoRecord(A, None, 100, 48, 64, 10.0, 10.0, 1)])
    return tmp_path


def labels(*segments, label=None):
    return VideoLabels(label, tuple(NamedSegment(*segment) for segment in segments))


def edit(annotations, path, new, author="ann"):
    return annotations.change(path, new, version=annotations.labels(path).version, author=author)


def test_a_change_is_stored_at_once_with_author_and_history(root):
    annotations = Annotations(root)
    assert [video.path for video in annotations.videos()] == [A, B]  # without labels first
    stored = edit(annotations, A, labels((4, 6, "jump"), (1, 2.5, "run"), label="sport"))
    assert stored == labels((1.0, 2.5, "run"), (4.0, 6.0, "jump"), label="sport")
    again = Annotations(root)
    assert again.labels(A) == stored and again.classes() == ["run", "jump", "sport"]
    data = open_dataset(root)
    assert [(one.start, one.stop, data.classes[one.label]) for one in data.segments(1)] == [
        (1.0, 2.5, "run"),
        (4.0, 6.0, "jump"),
    ]
    (change,) = again.changes(A)
    assert (change.author, change.labels, change.undoes) == ("ann", stored, None)
    assert {video.path: video.segments for video in again.videos()} == {A: 2, B: 0}
    assert edit(again, A, stored) == stored and len(again.changes(A)) == 1  # nothing has changed


def test_nobody_is_overwritten(root):
    annotations = Annotations(root)
    seen = annotations.labels(A).version
    first = annotations.change(A, labels((0, 1, "run")), version=seen, author="ann")
    with pytest.raises(ChangedMeanwhileError, match="unlabeled/a: its labels have changed"):
        annotations.change(A, labels((2, 3, "run")), version=seen, author="ben")
    assert annotations.labels(A) == first
    seen = annotations.labels(B).version
    apply_labels(root, [LabelRow("walk", "b", path="run/b")])
    with pytest.raises(ChangedMeanwhileError):
        annotations.change(B, labels((2, 3, "run")), version=seen, author="ben")
    assert annotations.labels(B).label == "walk"


def test_of_many_who_change_the_same_labels_one_succeeds(root):
    annotations = Annotations(root)
    seen, start, outcomes = annotations.labels(A).version, threading.Barrier(4), []

    def work(number):
        start.wait()
        try:
            annotations.change(A, labels((number, number + 1, "run")), version=seen, author=f"p{number}")
            outcomes.append(number)
        except ChangedMeanwhileError:
            outcomes.append(None)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (number for number in outcomes if number is not None)
    assert len(outcomes) == 4
    assert annotations.labels(A) == labels((float(winner), winner + 1.0, "run"))
    assert [change.author for change in annotations.changes(A)] == [f"p{winner}"]


def test_undo_and_redo_over_sessions(root):
    states = [EMPTY]
    for number in range(3):
        states.append(edit(Annotations(root), A, labels((number, number + 1, "run"))))

    def step(name):
        annotations = Annotations(root)
        return getattr(annotations, name)(A, version=annotations.labels(A).version, author="ben")

    assert step("undo") == states[2] and step("undo") == states[1]
    assert step("redo") == states[2] and step("undo") == states[1] and step("undo") == states[0]
    with pytest.raises(ValueError, match="nothing to undo"):
        step("undo")
    assert [step("redo") for _ in range(3)] == states[1:]
    assert step("undo") == states[2]
    other = edit(Annotations(root), A, labels((8, 9, "jump")))
    with pytest.raises(ValueError, match="nothing to redo"):
        step("redo")  # an edit follows the undo
    assert step("undo") == states[2] and step("redo") == other


def test_an_undo_does_not_take_back_an_import(root):
    annotations = Annotations(root)
    edit(annotations, B, labels((0, 1, "run"), label="run"))
    apply_labels(root, [LabelRow("walk", "b", path="run/b")])
    with pytest.raises(ValueError, match="changed by another program"):
        annotations.undo(B, version=annotations.labels(B).version, author="ann")
    assert annotations.labels(B).label == "walk"


@pytest.mark.parametrize(
    "new, message",
    [
        (labels((3, 3, "run")), "3 to 3 s of 'run' labels nothing"),
        (labels((11, 12, "run")), "of the video of 10 s"),
        (labels((float("nan"), 2, "run")), "labels nothing"),
        (labels((1, 2, " ")), "class ''"),
        (labels((1, 2, "Run")), "differ only in upper and lower case"),
        (labels(label="x" * 5000), "1 to 4096 characters"),
    ],
)
def test_wrong_labels_are_refused_and_nothing_is_written(root, new, message):
    annotations = Annotations(root)
    with pytest.raises(ValueError, match=message):
        edit(annotations, A, new)
    assert annotations.labels(A) == EMPTY and not annotations.changes(A) and annotations.classes() == ["run"]


def test_segments_are_cut_to_the_video(root):
    assert edit(Annotations(root), A, labels((-1, 2, "run"), (9, 99, "run"))).segments == (
        NamedSegment(0.0, 2.0, "run"),
        NamedSegment(9.0, 10.0, "run"),
    )


def dense(root):
    truth = np.repeat([0, 1, 0], [10, 5, 15])
    apply_segmentation(root, SegmentationLabels(["none", "pour"], {"a": truth}, {"train": ["a"]}, 3.0))


def test_frame_labels_have_no_gaps(root):
    dense(root)
    annotations = Annotations(root)
    with pytest.raises(ValueError, match=r"frame 0 \(0.00 s\) has no label.*--background CLASS"):
        edit(annotations, A, labels((1, 2, "pour")))
    annotations = Annotations(root, background="none")
    stored = edit(annotations, A, labels((1.02, 2.1, "pour"), (1.9, 3, "stir")))
    assert [one.label for one in stored.segments] == ["none", "pour", "stir", "none"]
    data = open_dataset(root).subset([1])
    expected = np.repeat([0, 1, data.classes.index("stir"), 0], [3, 3, 3, 21])
    assert FrameLabels(data)[0].tolist() == expected.tolist()
    assert annotations.undo(A, version=stored.version, author="x").segments[1].label == "pour"
    with pytest.raises(ValueError, match="'nothing' is not a class"):
        Annotations(root, background="nothing")


def test_boundaries_between_segments_of_one_class_stay(root):
    dense(root)
    annotations = Annotations(root, background="none")
    stored = edit(annotations, A, labels((0, 3, "none"), (3, 4, "pour"), (4, 5, "pour"), (5, 10, "none")))
    assert stored.segments == labels((0, 3, "none"), (3, 4, "pour"), (4, 5, "pour"), (5, 10, "none")).segments
    assert annotations.labels(A) == stored  # the other program, too
    assert FrameLabels(open_dataset(root).subset([1]))[0].tolist() == np.repeat([0, 1, 0], [9, 6, 15]).tolist()
    merged = edit(annotations, A, labels((0, 3, "none"), (3, 5, "pour"), (5, 10, "none")))
    assert [one.label for one in merged.segments] == ["none", "pour", "none"]
    halves = edit(annotations, A, labels((0, 1, "none"), (1, 3, "none"), (5, 10, "none")))  # and a gap
    assert [(one.start, one.stop) for one in halves.segments] == [(0, 1), (1, 10)]


def test_sets_of_classes_are_changes_like_others(root):
    annotations = Annotations(root)
    several = VideoLabels(None, (), ("jump", "run"))
    assert edit(annotations, B, several) == several and annotations.video(B).classes == ("jump", "run")
    data = open_dataset(root)
    assert data.class_sets.tolist() == [[True, True], [False, False]]
    assert data.has_class_set.tolist() == [True, False]
    none = edit(annotations, B, VideoLabels(None, (), ()))
    assert none.classes == () and annotations.video(B).labeled  # none of the classes is a label
    for expected in (several, labels(label="run")):
        found = annotations.undo(B, version=annotations.labels(B).version, author="ben")
        assert found == expected
    assert annotations.video(B).classes is None
    assert annotations.redo(B, version=annotations.labels(B).version, author="ben") == several
    with pytest.raises(ChangedMeanwhileError):
        annotations.change(B, EMPTY, version=none.version, author="ann")
    assert annotations.labels(B) == several


def test_damaged_history_is_named(root):
    edit(Annotations(root), A, labels((1, 2, "run")))
    with sqlite3.connect(root / "catalog.db") as connection:
        connection.execute("UPDATE label_changes SET after = '{'")
    with pytest.raises(ValueError, match=r"table label_changes: after is '{', expected the labels of a video"):
        Annotations(root)


def test_classes_as_a_file(root, tmp_path):
    apply_labels(root, [LabelRow("walk", "b", path="run/b", split="val")])
    report = export_labels(root, tmp_path / "out.csv")
    assert (report.form, report.videos, report.without_labels) == ("classes", 1, [A])
    (row,) = read_label_csv(tmp_path / "out.csv")
    assert row == LabelRow("walk", "b", split="val", path="run/b")  # the folder has the name of another class


@pytest.mark.parametrize("form, name", [("segments", "out.csv"), ("activitynet", "out.json")])
def test_segments_as_a_file(root, tmp_path, form, name):
    edit(Annotations(root), A, labels((1.25, 2, "run"), (4, 1 / 3 + 6, "jump, high")))
    apply_labels(root, [LabelRow(None, "a", split="train")])
    report = export_labels(root, tmp_path / name, form=form)
    assert (report.videos, report.labels) == (1, 2)
    found = read_detection_labels([tmp_path / name])
    assert [(one.start, one.stop, one.label) for one in found.videos["a"].segments] == [
        (1.25, 2.0, "run"),
        (4.0, 1 / 3 + 6, "jump, high"),
    ]
    assert (found.videos["a"].seconds, found.videos["a"].split) == (10.0, "train")


def test_frame_labels_as_files(root, tmp_path, capsys):
    dense(root)
    assert main(["labels", "export", str(root), str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == 30
    found = read_segmentation(tmp_path / "out", rate=3.0)
    assert found.splits == {"train": ["a"]} and found.classes == ["none", "pour", "run"]
    assert found.labels["a"].tolist() == np.repeat([0, 1, 0], [10, 5, 15]).tolist()


def test_what_cannot_be_exported_is_named(root, tmp_path):
    with pytest.raises(ValueError, match="no video has segments"):
        export_labels(root, tmp_path / "x", form="segments")
    with pytest.raises(ValueError, match="no video is labeled frame by frame"):
        export_labels(root, tmp_path / "x", form="frames")
    apply_labels(root, [LabelRow("run", "b", split="split1/train"), LabelRow("run", "b", split="split2/test")])
    with pytest.raises(ValueError, match="choose one with --division: split1, split2"):
        export_labels(root, tmp_path / "x")
    with pytest.raises(ValueError, match="no division 'split9'"):
        export_labels(root, tmp_path / "x", division="split9")
    export_labels(root, tmp_path / "x", division="split2")
    assert read_label_csv(tmp_path / "x") == [LabelRow("run", "b", split="test")]
    update_catalog(root, [VideoRecord("jpg/jump/b", "jump", 9, 4, 4, 1.0, 9.0, 1)])
    with pytest.raises(ValueError, match="have the same name"):
        export_labels(root, tmp_path / "x", division="split1")
