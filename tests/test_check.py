"""`vidseg check`: a repair changes what is damaged and nothing else."""

import contextlib
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidseg.convert import TargetError, convert_videos
from vidseg.convert.checking import check_databases
from vidseg.convert.conversion_lock import lock_dataset, locked_dataset
from vidseg.frames import FrameDatabase
from vidseg.labels import open_dataset


@pytest.fixture(scope="module")
def converted(tmp_path_factory, make_video) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    for name in "ab":
        make_video(folder / f"v/run/{name}.mp4", frames=6)
    assert convert_videos(folder / "v", folder / "data", workers=1).ok
    return folder / "data"


@pytest.fixture
def data(converted, tmp_path) -> Path:
    subprocess.run(["cp", "-r", str(converted), str(tmp_path / "data")], check=True)
    return tmp_path / "data"


def execute(database: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement)


def test_files_of_users_stay(data):
    own = [data / "notes.tmp", data / "jpg/run/a/mine.tmp", data / "jpg/run/a/frames.db.old.tmp", data / "jpg/x.tmp"]
    left = [
        data / "jpg/run/a/frames.db.0123456789abcdef.tmp",
        data / "jpg/run/b/n_frames.0123456789abcdef.tmp",
    ]
    for path in own + left:
        path.write_text("x")
    assert check_databases(data).leftovers == sorted(map(str, left))
    for changes in ({"repair": True}, {"index": True}):
        for path in left:
            path.write_text("x")
        assert check_databases(data, **changes).ok
        assert [path.exists() for path in own + left] == [True] * len(own) + [False] * len(left)


def test_conversion_keeps_files_of_users_beside_a_database(data, tmp_path, make_video):
    own = data / "jpg/run/a/mine.tmp"
    own.write_text("x")
    make_video(tmp_path / "v/run/a.mp4", frames=4)
    assert convert_videos(tmp_path / "v", data, workers=1).count("converted") == 1
    assert own.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE Levels SET jpeg = substr(jpeg, 1, 60) WHERE level = 1 AND frame = 3",
        "DELETE FROM Levels WHERE level = 2 AND frame = 3",
        "UPDATE Levels SET jpeg = (SELECT jpeg FROM Levels WHERE level = 2) WHERE level = 1 AND frame = 3",
    ],
)
def test_a_damaged_copy_is_made_again_from_its_frame(data, statement):
    path = data / "jpg/run/a/frames.db"
    before = FrameDatabase(path)
    frames, half = before.read(range(6)), before.decode(range(6), level=1).float()
    times = before.timestamps.tolist()
    execute(path, statement)
    report = check_databases(data, repair=True)
    assert report.ok, report
    assert "1 smaller copy made again" in str(report)
    after = FrameDatabase(path)
    assert after.verify() == []
    assert after.read(range(6)) == frames
    assert after.timestamps.tolist() == times
    assert "dropped_frames" not in after.meta
    assert (after.decode(range(6), level=1).float() - half).abs().mean() < 3
    assert after.meta["source_sha256"] == before.meta["source_sha256"]


def test_dropped_frames_reach_the_catalog(data):
    execute(data / "jpg/run/a/frames.db", "UPDATE Images SET frames = substr(frames, 1, 60) WHERE rowid IN (2, 5)")
    report = check_databases(data, repair=True)
    assert report.ok
    assert "2 damaged frames dropped" in str(report)
    assert open_dataset(data).frames.tolist() == [4, 6]
    assert (data / "jpg/run/a/n_frames").read_text() == "4"


def test_a_changed_frame_that_decodes_is_not_declared_sound(data):
    path = data / "jpg/run/a/frames.db"
    execute(path, "UPDATE Images SET frames = (SELECT frames FROM Images WHERE rowid = 1) WHERE rowid = 2")
    stored = path.read_bytes()
    for _ in range(2):
        report = check_databases(data, repair=True)
        assert not report.ok
        assert "convert the video again" in str(report)
    assert path.read_bytes() == stored


def test_a_wrong_count_file_is_written_again(data):
    (data / "jpg/run/a/n_frames").write_text("7\n")
    database = (data / "jpg/run/a/frames.db").read_bytes()
    assert check_databases(data, repair=True).ok
    assert (data / "jpg/run/a/n_frames").read_text() == "6"
    assert (data / "jpg/run/a/frames.db").read_bytes() == database


HOLD = """
import sys, time
from pathlib import Path
from vidseg.convert.conversion_lock import lock_dataset
with lock_dataset(Path(sys.argv[1]), shard=(1, 2) if len(sys.argv) > 2 else None):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("shard", [False, True])
def test_repair_is_refused_while_a_conversion_runs(data, shard):
    leftover = data / "jpg/run/a/frames.db.0123456789abcdef.tmp"
    leftover.write_text("of the running conversion")
    command = [sys.executable, "-c", HOLD, str(data), *(["shard"] if shard else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        for target in (data, data / "jpg/run", data / "jpg/run/a/frames.db"):
            for change in ({"repair": True}, {"index": True}):
                with pytest.raises(TargetError, match="another conversion is writing to this folder"):
                    check_databases(target, **change)
        assert check_databases(data).leftovers == []  # not left over: it is being written
        with contextlib.suppress(TargetError), lock_dataset(data, shard=(2, 2)):
            assert shard  # other shards may run, a whole conversion excludes them
        holder.kill()
    assert check_databases(data).leftovers == [str(leftover)]
    assert check_databases(data, repair=True).ok


def test_the_lock_is_released_and_excludes(tmp_path):
    with lock_dataset(tmp_path):
        assert locked_dataset(tmp_path)
        with pytest.raises(TargetError), lock_dataset(tmp_path, shard=(1, 2)):
            pass
    with lock_dataset(tmp_path, shard=(1, 2)), lock_dataset(tmp_path, shard=(2, 2)):
        assert locked_dataset(tmp_path)
        with pytest.raises(TargetError), lock_dataset(tmp_path):
            pass
        with pytest.raises(TargetError), lock_dataset(tmp_path, shard=(2, 2)):
            pass
    assert not locked_dataset(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_never_hold_the_lock_together(tmp_path):
    code = """
import sys, os
from pathlib import Path
from vidseg.convert.conversion_lock import TargetError, lock_dataset
root, wins = Path(sys.argv[1]), 0
while wins < 200:
    try:
        with lock_dataset(root):
            file = os.open(root / "inside", os.O_CREAT | os.O_EXCL)
            os.close(file)
            os.unlink(root / "inside")
            wins += 1
    except TargetError:
        pass
"""
    began = time.monotonic()
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE) for _ in range(2)]
    assert [run.communicate(timeout=120)[1] for run in runs] == [b"", b""]
    assert [run.returncode for run in runs] == [0, 0]
    assert time.monotonic() - began < 120
