"""The catalog: what is stored, in which order, that it survives being killed, and what a data set gives from it."""

import logging
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import vidseg
from vidseg.frames import FrameWriter, encode_rgb
from vidseg.labels import VideoRecord, open_dataset, scan_catalog, update_catalog
from vidseg.labels.catalog import FORMAT_VERSION, read_catalog
from vidseg.labels.counting import counted


def record(path, label=None, *, frames=40, split=None):
    return VideoRecord(f"jpg/{path}", label, frames, 256, 340, 25.0, frames / 25, 1000 + frames, split)


def labeled(*paths, split=None):
    return [record(path, path.split("/")[0], split=split) for path in paths]


def write_database(folder, frames=3, *, fps=25.0):
    jpeg = encode_rgb(torch.zeros(24, 32, 3, dtype=torch.uint8))[0]
    with FrameWriter(folder / "frames.db", meta={"fps": fps, "height": 24, "width": 32}) as writer:
        for number in range(frames):
            writer.add(jpeg, width=32, timestamp=number / fps)


def write_published_database(folder, frames=3):
    """A database as dataset2database 1.2 writes it: no key, no metadata, rows in directory order."""
    folder.mkdir(parents=True)
    jpeg = encode_rgb(torch.zeros(24, 32, 3, dtype=torch.uint8))[0]
    connection = sqlite3.connect(folder / "frames.db")
    connection.execute("CREATE TABLE Images(ObjId STRING, frames BLOB, size INT)")
    for number in reversed(range(1, frames + 1)):
        connection.execute("INSERT INTO Images VALUES (?, ?, 32)", (f"{folder.name}/frame_{number:05d}", jpeg))
    connection.commit()
    connection.close()


# Data sets


def test_videos_are_ordered_by_path_and_have_all_columns(tmp_path):
    update_catalog(tmp_path, [record("walk/b", "walk", frames=7), record("run/z", "run"), record("run/a é", "run")])
    data = open_dataset(tmp_path)
    assert data.classes == ["run", "walk"] and data.num_classes == 2 and len(data) == 3
    assert data.labels.tolist() == [0, 0, 1] and data.labels.dtype == np.int64
    assert data.frames.tolist() == [40, 40, 7] and data.frames.dtype == np.int64
    assert [video.name for video in data] == ["a é", "z", "b"]
    video = data[-1]
    assert video == data[2]
    assert (video.label, video.frames, video.fps, video.height, video.width) == (1, 7, 25.0, 256, 340)
    assert video.path == tmp_path / "jpg/walk/b/frames.db"
    assert type(video.label) is int and type(video.fps) is float
    with pytest.raises(IndexError, match="video 3 is out of range; the data set has 3 videos"):
        data[3]


def test_splits_share_the_classes_of_the_data_set(tmp_path):
    update_catalog(tmp_path, [*labeled("a/1", "b/1", split="train"), *labeled("b/2", "c/1", split="val")])
    train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, split="val")
    assert train.classes == val.classes == ["a", "b", "c"]
    assert train.labels.tolist() == [0, 1] and val.labels.tolist() == [1, 2]
    assert train.splits == ["train", "val"] and train.split_name == "train"
    assert len(open_dataset(tmp_path)) == 4


def test_a_video_is_in_one_split_of_each_division(tmp_path, caplog):
    for split in ("split1/train", "split2/test", "split1/test", "train", "val"):
        update_catalog(tmp_path, labeled("a/1", split=split))
    with read_catalog(tmp_path) as connection:
        rows = connection.execute("SELECT name FROM splits JOIN split_videos ON split_id = id ORDER BY name")
        assert [name for (name,) in rows] == ["split1/test", "split2/test", "val"]
    assert [record.getMessage() for record in caplog.records] == [
        "1 video moved to the split split1/test, such as jpg/a/1, which was in split1/train",
        "1 video moved to the split val, such as jpg/a/1, which was in train",
    ]


def test_slices_are_data_sets(tmp_path):
    update_catalog(tmp_path, [record(f"{'ab'[index % 2]}/{index}", "ab"[index % 2]) for index in range(5)])
    data = open_dataset(tmp_path)
    names = [video.name for video in data]
    for part in (slice(3), slice(1, 4), slice(None, None, -2), slice(-2, None), slice(9, None)):
        found = data[part]
        assert type(found) is type(data) and [video.name for video in found] == names[part]
        assert (found.classes, found.root) == (data.classes, data.root)
    assert data[np.int64(1)] == data[1] and data[-1].name == names[-1]


def test_subset_keeps_the_order_asked(tmp_path):
    update_catalog(tmp_path, labeled("a/1", "a/2", "b/1", "b/2"))
    data = open_dataset(tmp_path)
    assert [v.name for v in data.subset([3, 0, -1])] == ["2", "1", "2"]
    assert data.subset([3, 0]).labels.tolist() == [1, 0]
    assert data.subset(data.labels == 1).video_path(0) == "jpg/b/1"
    assert len(data.subset([])) == 0
    for wrong in ([4], [-5]):
        with pytest.raises(IndexError, match="but the data set has 4 videos"):
            data.subset(wrong)
    with pytest.raises(IndexError, match="mask of length 2"):
        data.subset(np.array([True, False]))


def test_split_by_class_depends_on_seed_and_paths_only(tmp_path):
    paths = [f"{name}/{number}" for name, count in (("a", 10), ("b", 2), ("c", 1)) for number in range(count)]
    update_catalog(tmp_path, labeled(*paths))
    data = open_dataset(tmp_path)
    first, second = data.split(0.8, seed=3)
    assert np.bincount(first.labels).tolist() == [8, 1, 1]
    assert np.bincount(second.labels, minlength=3).tolist() == [2, 1, 0]
    chosen = {video.path for video in first}
    assert chosen.isdisjoint(video.path for video in second)
    again, _ = data.subset(range(12, -1, -1)).split(0.8, seed=3)
    assert {video.path for video in again} == chosen
    assert any({video.path for video in data.split(0.8, seed=seed)[0]} != chosen for seed in range(5))
    with pytest.raises(ValueError, match="fraction 1"):
        data.split(1, seed=0)


def test_pickled_data_set_is_the_same(tmp_path):
    update_catalog(tmp_path, labeled("a/1", "b/1", split="train"))
    data = open_dataset(tmp_path, "train")
    copy = pickle.loads(pickle.dumps(data))
    assert list(copy) == list(data) and copy.classes == data.classes and repr(copy) == repr(data)


def test_videos_without_a_class(tmp_path, caplog):
    update_catalog(tmp_path, [record("unlabeled/1")])
    data = open_dataset(tmp_path)
    assert data.labels.tolist() == [-1] and not caplog.records
    with pytest.raises(ValueError, match="no video has a class; run `vidseg labels apply"):
        _ = data.num_classes
    update_catalog(tmp_path, labeled("a/1"))
    assert open_dataset(tmp_path).labels.tolist() == [0, -1]
    assert "videos without a class: 1; their label is -1" in caplog.text


def test_more_videos_than_are_read_at_a_time(tmp_path):
    count = 40_000
    update_catalog(tmp_path, (record(f"c{n % 7}/{n:05d}", f"c{n % 7}", frames=n) for n in reversed(range(count))))
    data = open_dataset(tmp_path)
    numbers = np.array([int(data.video_path(row).rpartition("/")[2]) for row in range(count)])
    assert np.array_equal(data.frames, numbers) and np.array_equal(data.labels, numbers % 7)
    assert np.array_equal(np.sort(numbers), np.arange(count))


def test_opening_touches_no_database(tmp_path):
    update_catalog(tmp_path, labeled("a/1"))
    assert not (tmp_path / "jpg").exists() and len(open_dataset(tmp_path)) == 1


# Errors of opening


def test_errors_of_opening_name_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: folder not found"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=f"run `vidseg labels scan {tmp_path}`"):
        open_dataset(tmp_path)
    (tmp_path / "catalog.db").write_text("not a database, but longer than a header " * 10)
    with pytest.raises(ValueError, match="not a catalog"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="not a catalog"):
        update_catalog(tmp_path, labeled("a/1"))
    (tmp_path / "catalog.db").unlink()
    sqlite3.connect(tmp_path / "catalog.db").execute("CREATE TABLE Images(ObjId)").connection.close()
    with pytest.raises(ValueError, match="not a vidseg catalog"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="not a vidseg catalog"):
        update_catalog(tmp_path, labeled("a/1"))


def test_unknown_and_empty_splits(tmp_path):
    update_catalog(tmp_path, labeled("a/1"))
    with pytest.raises(ValueError, match=r"unknown split 'val'; the data set has no splits; .*labels apply"):
        open_dataset(tmp_path, "val")
    update_catalog(tmp_path, [*labeled("a/1", split="train"), *labeled("a/2", split="test")])
    with pytest.raises(ValueError, match="unknown split 'val'; expected test, train"):
        open_dataset(tmp_path, "val")
    update_catalog(tmp_path, labeled("a/2", split="train"))
    with pytest.raises(ValueError, match="split 'test' has no converted video"):
        open_dataset(tmp_path, "test")


def test_catalog_without_videos(tmp_path):
    update_catalog(tmp_path, [])
    with pytest.raises(ValueError, match="the catalog has no videos"):
        open_dataset(tmp_path)


def test_newer_format_is_refused(tmp_path):
    update_catalog(tmp_path, labeled("a/1"))
    with sqlite3.connect(tmp_path / "catalog.db") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT_VERSION,)
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="format 99 by a newer vidseg"):
        open_dataset(tmp_path)


# Updating


def test_update_replaces_videos_and_keeps_the_rest(tmp_path):
    update_catalog(tmp_path, labeled("a/1", "a/2", split="train"))
    update_catalog(tmp_path, [record("a/2", "a", frames=9), record("a/3", "a"), record("a/3", "a", frames=5)])
    assert open_dataset(tmp_path).frames.tolist() == [40, 9, 5]
    assert [video.name for video in open_dataset(tmp_path, "train")] == ["1", "2"]


def test_new_classes_come_after_known_ones(tmp_path):
    update_catalog(tmp_path, labeled("m/1", "c/1"))
    update_catalog(tmp_path, labeled("z/1", "a/1", "c/2"))
    assert open_dataset(tmp_path).classes == ["c", "m", "a", "z"]


def test_folder_name_does_not_replace_a_label(tmp_path):
    update_catalog(tmp_path, [record("Long_Jump/1", "Long Jump"), record("unlabeled/2", "walk")])
    update_catalog(tmp_path, [record("Long_Jump/1", "Long_Jump"), record("unlabeled/2", None)])
    data = open_dataset(tmp_path)
    assert data.classes == ["Long Jump", "walk"] and data.labels.tolist() == [0, 1]
    update_catalog(tmp_path, [record("Long_Jump/1", "walk")])
    assert open_dataset(tmp_path).labels.tolist() == [1, 1]


@pytest.mark.parametrize("path", ["a/1", "jpg/1", "jpg/a/b/1", "/jpg/a/1", "jpg//1", "jpg/../1", "jpg/a/"])
def test_paths_of_another_form_are_refused(tmp_path, path):
    update_catalog(tmp_path, labeled("a/1"))
    with pytest.raises(ValueError, match="expected jpg/<class>/<video>"):
        update_catalog(tmp_path, [*labeled("a/2"), VideoRecord(path, "a", 1, 1, 1, 1.0, 1.0, 1)])
    assert len(open_dataset(tmp_path)) == 1  # nothing of the failed call is there


def test_names_that_cannot_be_stored_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not valid UTF-8"):
        update_catalog(tmp_path, [record("a/\udcff", "a")])
    with pytest.raises(ValueError, match="the label or split is empty"):
        update_catalog(tmp_path, [record("a/1", "")])


def test_every_column_is_described_in_the_file(tmp_path):
    update_catalog(tmp_path, [])
    with read_catalog(tmp_path) as connection:
        for table in ("classes", "videos", "splits", "split_videos", "segments"):
            (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            columns = [line for line in sql.splitlines()[1:-1] if not line.strip().startswith("PRIMARY KEY")]
            assert columns and all("--" in line for line in columns), table
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_concurrent_writers_all_succeed(tmp_path):
    def write(number):
        update_catalog(tmp_path, labeled(*(f"c{number}/{video}" for video in range(50))))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = open_dataset(tmp_path)
    assert len(data) == 300 and sorted(data.classes) == [f"c{number}" for number in range(6)]


def test_killed_writer_leaves_the_catalog_unchanged(tmp_path):
    update_catalog(tmp_path, labeled("a/1", "b/1"))
    before = (tmp_path / "catalog.db").read_bytes()
    # Enough videos that SQLite has written pages of the unfinished transaction into the file when the end comes.
    program = f"""
        import os, signal
        from vidseg.labels import VideoRecord, catalog_videos
        def die(db, names):
            os.kill(os.getpid(), signal.SIGKILL)
        catalog_videos.split_ids = die
        records = [VideoRecord(f"jpg/c/{{i}}", "c", 1, 1, 1, 1.0, 1.0, 1, "train") for i in range(40000)]
        catalog_videos.update_catalog({str(tmp_path)!r}, records)
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(vidseg.__file__).parents[1])}
    child = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], env=environment, check=False)
    assert child.returncode == -signal.SIGKILL
    assert (tmp_path / "catalog.db").read_bytes() != before and (tmp_path / "catalog.db-journal").exists()
    data = open_dataset(tmp_path)
    assert len(data) == 2 and data.classes == ["a", "b"]
    assert not (tmp_path / "catalog.db-journal").exists()


# Scanning


def test_scan_reads_our_databases_and_published_ones(tmp_path):
    write_database(tmp_path / "jpg/run/1", 5, fps=20.0)
    write_published_database(tmp_path / "jpg/walk/2", 12)
    write_database(tmp_path / "jpg/unlabeled/3", 2)
    (tmp_path / "jpg/walk/half done").mkdir()
    (tmp_path / "jpg/notes.txt").write_text("no class")
    report = scan_catalog(tmp_path)
    assert report.videos == 3 and report.removed == report.unreadable == []
    assert report.added == ["jpg/run/1", "jpg/unlabeled/3", "jpg/walk/2"]
    data = open_dataset(tmp_path)
    assert data.classes == ["run", "walk"]
    assert data.labels.tolist() == [0, -1, 1] and data.frames.tolist() == [5, 2, 12]
    assert [(v.height, v.width, v.fps) for v in data] == [(24, 32, 20.0), (24, 32, 25.0), (24, 32, 0.0)]
    with read_catalog(tmp_path) as connection:
        rows = connection.execute("SELECT seconds, size_bytes FROM videos ORDER BY path").fetchall()
    assert [seconds for seconds, _ in rows] == pytest.approx([0.25, 0.08, 0.0])
    assert [size for _, size in rows] == [video.path.stat().st_size for video in data]


def test_scan_keeps_labels_splits_and_class_order(tmp_path):
    for path in ("a/1", "b/1", "unlabeled/1"):
        write_database(tmp_path / "jpg" / path)
    update_catalog(tmp_path, [record("b/1", "b", split="val"), record("unlabeled/1", "b"), record("gone/1", "gone")])
    report = scan_catalog(tmp_path)
    assert (report.added, report.removed) == (["jpg/a/1"], ["jpg/gone/1"])
    data = open_dataset(tmp_path)
    assert data.classes == ["b", "gone", "a"]
    assert data.labels.tolist() == [2, 0, 0] and data.frames.tolist() == [3, 3, 3]
    assert [video.path.parts[-3] for video in open_dataset(tmp_path, "val")] == ["b"]
    again = scan_catalog(tmp_path)
    assert (again.videos, again.added, again.removed) == (3, [], [])


@pytest.mark.parametrize("last", [1e12, -5.0])
def test_scan_leaves_out_a_database_of_impossible_duration(tmp_path, last):
    write_database(tmp_path / "jpg/a/1")
    shutil.copytree(tmp_path / "jpg/a/1", tmp_path / "jpg/a/2")
    with sqlite3.connect(tmp_path / "jpg/a/2/frames.db") as connection:
        times = np.array([0.0, 0.04, last]).tobytes()
        connection.execute("UPDATE meta SET value = ? WHERE key = 'timestamps'", (times,))
    report = scan_catalog(tmp_path)
    assert report.videos == 1 and len(report.unreadable) == 1
    assert "jpg/a/2: it has a duration of" in report.unreadable[0]


def test_scan_takes_the_duration_that_the_conversion_has_recorded(tmp_path):
    write_database(tmp_path / "jpg/a/1")
    with sqlite3.connect(tmp_path / "jpg/a/1/frames.db") as connection:
        connection.execute("INSERT INTO meta VALUES ('duration', 7.1234567)")
    scan_catalog(tmp_path)
    with read_catalog(tmp_path) as connection:
        assert connection.execute("SELECT seconds FROM videos").fetchone() == (7.123457,)


def test_scan_names_unreadable_databases_and_leaves_them_out(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write_database(tmp_path / "jpg/a/1")
    for name, content in (("2", b""), ("3", b"no database " * 100)):
        (tmp_path / "jpg/a" / name).mkdir()
        (tmp_path / "jpg/a" / name / "frames.db").write_bytes(content)
    update_catalog(tmp_path, labeled("a/2"))
    report = scan_catalog(tmp_path)
    assert report.videos == 1 and report.removed == ["jpg/a/2"]
    assert [line.split(":")[0] for line in report.unreadable] == ["jpg/a/2", "jpg/a/3"]
    assert "jpg/a/3" in str(report)


def test_scan_does_not_empty_a_catalog(tmp_path):
    with pytest.raises(FileNotFoundError, match="jpg: folder not found"):
        scan_catalog(tmp_path)
    (tmp_path / "jpg").mkdir()
    with pytest.raises(FileNotFoundError, match="no readable"):
        scan_catalog(tmp_path)
    update_catalog(tmp_path, labeled("a/1"))
    with pytest.raises(ValueError, match="mount the disk"):
        scan_catalog(tmp_path)
    assert len(open_dataset(tmp_path)) == 1


def test_counts_in_messages_agree_with_their_nouns():
    assert [counted(number, "video") for number in (0, 1, 2)] == ["0 videos", "1 video", "2 videos"]
    assert [counted(number, "class", "classes") for number in (1, 3)] == ["1 class", "3 classes"]
