"""`vidseg labels split` and `vidseg labels frames`: splits by class and group, and frame labels from segments."""

import json

import numpy as np
import pytest

from vidseg.cli.main import main
from vidseg.labels import FrameLabels, LabelRow, VideoRecord, apply_labels, open_dataset, update_catalog
from vidseg.labels.frame_labels import label_frames
from vidseg.labels.splitting import divide_videos


def put(root, counts, *, per_group=4):
    root.mkdir(exist_ok=True)
    update_catalog(
        root,
        [
            VideoRecord(f"jpg/{label}/{label}_g{n // per_group:02d}_c{n}", label, 50, 8, 8, 10.0, 5.0, 9)
            for label, count in counts.items()
            for n in range(count)
        ],
    )
    return root


def names(root, split):
    return {video.name for video in open_dataset(root, split)}


def test_classes_are_divided_in_the_fractions(tmp_path):
    root = put(tmp_path, {"a": 10, "b": 20, "c": 5, "d": 3})
    report = divide_videos(root, [0.8, 0.1, 0.1])
    assert report.classes["a"] == {"train": 8, "val": 1, "test": 1}
    assert report.classes["b"] == {"train": 16, "val": 2, "test": 2}
    assert report.splits == {"train": 30, "val": 4, "test": 4}
    assert {split: len(open_dataset(root, split)) for split in report.splits} == report.splits
    assert not names(root, "train") & names(root, "val") and not names(root, "val") & names(root, "test")
    gaps = [f"{label}: {part}" for label in "cd" for part, count in report.classes[label].items() if not count]
    assert report.missing == gaps and gaps


def test_fractions_hold_for_many_small_classes(tmp_path):
    root = put(tmp_path, {f"c{number:02d}": 3 for number in range(40)} | {"one": 1})
    report = divide_videos(root, [0.8, 0.1, 0.1])
    assert report.splits == {"train": 97, "val": 12, "test": 12}
    assert all(counts["train"] >= 1 for counts in report.classes.values())  # a class of one video too


def test_the_division_depends_on_seed_and_paths_only(tmp_path):
    counts = {"a": 20, "b": 10}
    roots = [put(tmp_path / name, counts) for name in ("one", "two", "three")]
    update_catalog(roots[1], [VideoRecord("jpg/a/a_g00_c1", "a", 7, 8, 8, 10.0, 5.0, 9)])  # converted again
    for root, seed in zip(roots, (3, 3, 4), strict=True):
        divide_videos(root, [0.5, 0.5], seed=seed)
    assert names(roots[0], "test") == names(roots[1], "test") != names(roots[2], "test")


def test_groups_stay_together(tmp_path):
    root = put(tmp_path, {"a": 40, "b": 40})
    report = divide_videos(root, [0.8, 0.1, 0.1], group=r"_(g\d+)_")
    groups = {split: {name.split("_")[1] for name in names(root, split)} for split in report.splits}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 10  # of both classes together
    assert report.splits == {"train": 64, "val": 8, "test": 8} and report.groups == {"train": 8, "val": 1, "test": 1}
    few = put(tmp_path / "few", {"a": 50}, per_group=10)
    assert divide_videos(few, [0.8, 0.1, 0.1], group=r"g\d+").groups == {"train": 3, "val": 1, "test": 1}


def test_large_groups_are_placed_first(tmp_path):
    update_catalog(
        tmp_path,
        [VideoRecord(f"jpg/a/{'big' if n < 10 else f'p{n}'}_{n}", "a", 50, 8, 8, 10.0, 5.0, 9) for n in range(20)],
    )
    for seed in range(5):
        assert divide_videos(tmp_path, [0.5, 0.5], group="/(.+)_", seed=seed, replace=True).splits == {
            "train": 10,
            "test": 10,
        }


def test_untrimmed_videos_count_for_the_classes_of_their_segments(tmp_path):
    update_catalog(tmp_path, [VideoRecord(f"jpg/unlabeled/f{n}", None, 50, 8, 8, 10.0, 5.0, 9) for n in range(20)])
    apply_labels(tmp_path, [LabelRow("ab"[n % 2], f"f{n}", 1, 2) for n in range(20)])
    report = divide_videos(tmp_path, [0.8, 0.2], names=["fit", "rest"])
    assert report.classes == {"a": {"fit": 8, "rest": 2}, "b": {"fit": 8, "rest": 2}}


@pytest.mark.parametrize(
    ("fractions", "options", "message"),
    [
        ([0.8, 0.1], {}, "have the sum 0.9, expected 1"),
        ([1.0], {}, "1 fraction; expected 2"),
        ([1.2, -0.2], {}, "each must be greater than 0"),
        ([0.5, 0.5], {"names": ["a", "a"]}, "2 fractions for the splits a, a"),
        ([0.5, 0.5], {"group": "("}, "not a regular expression"),
        ([0.5, 0.5], {"group": "x"}, "video a/a_g00_c0: the group 'x' does not match"),
        ([0.5, 0.5], {"group": "a"}, "1 group for 2 splits"),
    ],
)
def test_wrong_divisions(tmp_path, fractions, options, message):
    root = put(tmp_path, {"a": 4})
    with pytest.raises(ValueError, match=message):
        divide_videos(root, fractions, **options)
    assert open_dataset(root).splits == []


def test_split_command_keeps_existing_splits(tmp_path, capsys):
    root = put(tmp_path, {"a": 10})
    apply_labels(root, [LabelRow("a", "a_g00_c1", split="train")])
    words = ["labels", "split", str(root), "0.8", "0.1", "0.1"]
    assert main(words) == 2
    assert "has the splits train (1 video); keep them" in capsys.readouterr().err
    assert names(root, "train") == {"a_g00_c1"}
    assert main([*words, "--replace", "--by-group", r"c(\d)", "--seed", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"] == {"train": 8, "val": 1, "test": 1}
    assert main(["labels", "split", str(root / "none"), "0.8", "0.2"]) == 2


# Frame labels


def films(root):
    update_catalog(
        root,
        [
            VideoRecord("jpg/unlabeled/one", None, 50, 8, 8, 10.0, 5.0, 9),
            VideoRecord("jpg/unlabeled/two", None, 20, 8, 8, 5.0, 4.0, 9),
            VideoRecord("jpg/unlabeled/empty", None, 20, 8, 8, 5.0, 4.0, 9),
        ],
    )
    rows = [
        LabelRow("wave", "one", 1, 3, "train"),
        LabelRow("jump", "one", 2, 2.5, "train"),
        LabelRow("wave", "two", 0, 1, "train"),
    ]
    apply_labels(root, rows)
    return root


def test_segments_become_one_label_per_frame(tmp_path):
    root = films(tmp_path)
    report = label_frames(root, background="still")
    assert (report.videos, report.labels, report.segments, report.background) == (2, 70, 3, 3)
    assert report.without_segments == ["jpg/unlabeled/empty"]
    data = open_dataset(root, "train")
    assert data.classes == ["jump", "wave", "still"]
    labels = FrameLabels(data)
    assert labels.rates.tolist() == [10.0, 5.0]
    assert labels[0].tolist() == [2] * 10 + [1] * 10 + [0] * 5 + [1] * 5 + [2] * 20
    assert labels[1].tolist() == [1] * 5 + [2] * 15
    segments = [(s.start, s.stop, data.classes[s.label]) for s in data.segments(0)]
    assert segments == [(0, 1, "still"), (1, 3, "wave"), (2, 2.5, "jump"), (3, 5, "still")]  # times are kept


def test_rates_repetition_and_videos_without_segments(tmp_path):
    root = films(tmp_path)
    label_frames(root, background="still", rate=2.0, empty=True)
    data = open_dataset(root)
    labels = FrameLabels(data)
    assert [labels[index].tolist() for index in range(3)] == [
        [2] * 8,
        [2, 2, 1, 1, 0, 1, 2, 2, 2, 2],
        [1, 1] + [2] * 6,
    ]
    assert label_frames(root, background="still", rate=10.0).unchanged == 3
    report = label_frames(root, background="still", rate=10.0, replace=True)
    assert (report.videos, report.background) == (3, 4)
    assert np.bincount(FrameLabels(open_dataset(root, "train"))[0]).tolist() == [5, 15, 30]


def test_frames_command_names_segments_that_label_nothing(tmp_path, capsys):
    root = films(tmp_path)
    before = (root / "catalog.db").read_bytes()
    words = ["labels", "frames", str(root), "--background", "still", "--rate", "0.4"]
    assert main(words) == 2
    assert "jpg/unlabeled/one: segment 'jump' from 2 to 2.5 seconds: it contains none" in capsys.readouterr().err
    assert (root / "catalog.db").read_bytes() == before
    assert main([*words, "--on-error", "skip", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["skipped"]) >= 1
    assert main(["labels", "frames", str(root), "--background", "Still"]) == 2
    assert "'Still' and 'still'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"background": " "}, "has no name"),
        ({"background": "b", "rate": 0.0}, "rate is 0.0"),
        ({"background": "b"}, "no video has segments"),
    ],
)
def test_wrong_frame_labels(tmp_path, options, message):
    put(tmp_path, {"a": 2})
    with pytest.raises(ValueError, match=message):
        label_frames(tmp_path, **options)


def test_videos_of_unknown_duration_are_refused(tmp_path):
    update_catalog(tmp_path, [VideoRecord("jpg/unlabeled/old", None, 50, 8, 8, 0.0, 0.0, 9)])
    apply_labels(tmp_path, [LabelRow("a", "old", 1, 2)])
    with pytest.raises(ValueError, match="jpg/unlabeled/old: its frame rate and duration are unknown"):
        label_frames(tmp_path, background="b")
