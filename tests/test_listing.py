"""Listing of the sources of a conversion: splits and classes from folders, names, clips, links and lists."""

import unicodedata

import pytest

from vidseg.videos.listing import find_jobs


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def jobs(source, **options):
    return {job.target: (job.label, job.split) for job in find_jobs(source, **options).jobs}


def test_flat_splits_have_no_class(tmp_path):
    assert jobs(tree(tmp_path, "train/a.mp4", "val/b.mp4", "Testing/c.mp4", "validate/d.mp4")) == {
        "unlabeled/a": (None, "train"),
        "unlabeled/b": (None, "val"),
        "unlabeled/c": (None, "test"),
        "unlabeled/d": (None, "val"),
    }


def test_splits_with_class_folders_have_both(tmp_path):
    assert jobs(tree(tmp_path, "train/run/a.mp4", "val/run/b.mp4", "val/c.mp4", "train/deep/walk/d.mp4")) == {
        "run/a": ("run", "train"),
        "run/b": ("run", "val"),
        "unlabeled/c": (None, "val"),
        "walk/d": ("walk", "train"),
    }


def test_a_class_called_train_beside_other_classes_stays_a_class(tmp_path):
    assert jobs(tree(tmp_path, "bus/a.mp4", "train/b.mp4")) == {"bus/a": ("bus", None), "train/b": ("train", None)}
    assert jobs(tree(tmp_path / "data", "jpg/train/c/frames.db")) == {"train/c": ("train", None)}


def test_folders_of_jpegs_in_flat_splits(tmp_path):
    assert jobs(tree(tmp_path, "train/v1/img_00001.jpg", "val/v2/img_00001.jpg")) == {
        "unlabeled/v1": (None, "train"),
        "unlabeled/v2": (None, "val"),
    }


def test_names_are_composed_stripped_and_keep_their_dots(tmp_path):
    decomposed = unicodedata.normalize("NFD", "gâteau")
    names = ("run /P01.a", "run/P01.b.mp4", f"{decomposed}/{decomposed} .mp4")
    composed = unicodedata.normalize("NFC", decomposed)
    assert list(jobs(tree(tmp_path, *names))) == [f"{composed}/{composed}", "run/P01.a", "run/P01.b"]


def test_clips_within_one_second_have_names_of_their_own(tmp_path):
    tree(tmp_path, "x.mp4")
    rows = ("x,1.2,2.4", "x,1.6,2.8", "x,1.2,2.4", "x,5.5,7.5")
    (tmp_path / "clips.csv").write_text("id,time_start,time_end,label\n" + "".join(f"{row},run\n" for row in rows))
    listing = find_jobs(tmp_path / "clips.csv")
    assert not listing.problems
    assert {job.target: (job.start, job.stop) for job in listing.jobs} == {
        "run/x_000001.200_000002.400": (1.2, 2.4),
        "run/x_000001.600_000002.800": (1.6, 2.8),
        "run/x_000005_000007": (5.5, 7.5),
    }


def test_clips_without_length_are_problems_of_their_own(tmp_path):
    tree(tmp_path, "x.mp4")
    (tmp_path / "clips.csv").write_text("id,time_start,time_end\nx,1,1\nx,2,3\n")
    listing = find_jobs(tmp_path / "clips.csv")
    assert [job.target for job in listing.jobs] == ["unlabeled/x_000002_000003"]
    (problem,) = listing.problems
    assert "clips.csv:2: segment from 1 to 1 seconds: it has no length" in problem.reason


def test_lists_without_header(tmp_path):
    tree(tmp_path / "videos", "run/1.mp4", "walk/1.mp4", "frames/P01.a/img_00001.jpg")
    (tmp_path / "train.txt").write_text("run/1.mp4 0\nwalk/1.mp4 1\n")
    (tmp_path / "val.txt").write_text("frames/P01.a 1 1\n")
    (tmp_path / "classes.txt").write_text("Running\nWalking\n")
    assert jobs(tmp_path / "train.txt", videos=tmp_path / "videos") == {
        "Running/1": ("Running", "train"),
        "Walking/1": ("Walking", "train"),
    }
    (job,) = find_jobs(tmp_path / "val.txt", videos=tmp_path / "videos").jobs
    assert (job.kind, job.target, job.split) == ("jpegs", "Walking/P01.a", "val")


def test_the_class_folder_selects_among_videos_of_one_name(tmp_path):
    tree(tmp_path, "run/1.mp4", "walk/1.mp4")
    (tmp_path / "labels.csv").write_text("label, id,split\nrun ,1, validate\nwalk,1,train\njump,1,train\n")
    listing = find_jobs(tmp_path / "labels.csv")
    assert [(job.source.split("/")[-2], job.target, job.split) for job in listing.jobs] == [
        ("run", "run/1", "val"),
        ("walk", "walk/1", "train"),
    ]
    assert "several videos with this name" in listing.problems[0].reason


def test_links_to_folders_above_end_nothing(tmp_path):
    tree(tmp_path, "run/a.mp4")
    (tmp_path / "run/loop").symlink_to(tmp_path)
    (tmp_path / "run/itself").symlink_to(tmp_path / "run/itself")
    listing = find_jobs(tmp_path)
    assert [job.target for job in listing.jobs] == ["run/a"]
    reasons = {problem.source.rpartition("/")[2]: problem.reason for problem in listing.problems}
    assert reasons["loop"] == "a link to a folder that contains it" and "broken link" in reasons["itself"]


def test_a_data_set_inside_its_source_is_left_out(tmp_path):
    tree(tmp_path, "run/a.mp4", "data/jpg/run/a/frames.db")
    listing = find_jobs(tmp_path, skip=tmp_path / "run/../data")
    assert [job.target for job in listing.jobs] == ["run/a"] and listing.ignored == [str(tmp_path / "data")]


@pytest.mark.parametrize("column", ["label", "path"])
def test_names_that_are_too_long_are_problems(tmp_path, column):
    tree(tmp_path, "a.mp4", "b.mp4")
    long = {"label": "run", "path": "a.mp4", column: "x" * 300}
    (tmp_path / "list.csv").write_text(f"path,label\n{long['path']},{long['label']}\nb.mp4,run\n")
    listing = find_jobs(tmp_path / "list.csv")
    assert [job.target for job in listing.jobs] == ["run/b"]
    assert "has 300 bytes, more than a file system allows" in listing.problems[0].reason
