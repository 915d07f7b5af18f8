"""Frame databases: what is written is what is read, in any order, by any reader, from any thread or process."""

import multiprocessing
import os
import pickle
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture, write_published_database
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.frames import FrameDatabase, FrameDatabaseError, FrameWriter, decode_jpeg, encode_rgb

COUNT = 12


def encoded(index: int, **options: int) -> list[bytes]:
    return encode_rgb(torch.from_numpy(picture(index)), 90, **options)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, count: int = COUNT, levels: int = 2) -> FrameDatabase:
    with FrameWriter(path / "frames.db", levels=levels, meta={"height": 48, "width": 64, "fps": 25.0}) as writer:
        for index in range(count):
            jpeg, *copies = encoded(index, levels=levels)
            writer.add(jpeg, width=64, timestamp=index / 25, levels=copies)
    return FrameDatabase(path)


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> FrameDatabase:
    return write(tmp_path_factory.mktemp("data") / "jpg" / "run" / "clip 'one' [1] 50%")


def test_what_is_written_is_read(database):
    assert len(database) == COUNT
    assert database.frame_size == (48, 64)
    assert database.levels == 2
    assert np.allclose(database.timestamps, np.arange(COUNT) / 25)
    assert database.meta["fps"] == 25.0
    assert database.read(range(COUNT)) == [encoded(index)[0] for index in range(COUNT)]
    assert database.read([3], level=2) == [encoded(3, levels=2)[2]]
    assert (database.path.parent / "n_frames").read_bytes() == b"12"
    assert database.verify() == []
    assert names_in(database.path.parent) == ["frames.db", "n_frames"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, COUNT - 1), max_size=30))
def test_any_order_and_repetition(database, indices):
    assert database.read(indices) == [encoded(index)[0] for index in indices]
    frames = database.decode(indices)
    assert frames.shape == (len(indices), 48, 64, 3)
    for frame, index in zip(frames, indices, strict=True):
        assert torch.equal(frame, decode_jpeg(encoded(index)[0]))


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, iter])
def test_indices_of_every_kind(database, kind):
    assert torch.equal(database.decode(kind([4, 0])), database.decode([4, 0]))


@pytest.mark.parametrize("size, level", [(48, 0), ((24, 32), 1), (12, 2), ((12, 17), 1), (200, 0)])
def test_decode_takes_the_smallest_level_that_is_large_enough(database, size, level):
    height, width = (size, size) if isinstance(size, int) else size
    assert database.level_for(height, width) == level
    frames = database.decode([0, 5, 0], size=size)
    assert frames.shape == (3, height, width, 3)
    assert frames.dtype == torch.uint8
    assert torch.equal(frames, database.decode([0, 5, 0], size, level))
    assert torch.equal(frames[0], frames[2])


def test_wrong_requests_are_named(database):
    with pytest.raises(IndexError, match="frame 12 is outside 0 to 11"):
        database.read([0, 12])
    with pytest.raises(IndexError, match="frame -1 is outside"):
        database.decode([-1])
    with pytest.raises(IndexError, match="integers"):
        database.decode([0.5])
    with pytest.raises(ValueError, match="level 3 of a database with levels 0 to 2"):
        database.read([0], level=3)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        database.decode([0], size=0)
    closed = FrameDatabase(database.path)
    with closed:
        pass
    with pytest.raises(ValueError, match="is closed"):
        closed.read([0])


def test_frames_are_indexed_as_in_python(database):
    frames = database.decode(range(COUNT))
    assert frames.shape == (COUNT, 48, 64, 3)
    for index in (0, 5, -1, -COUNT, np.int64(3), torch.tensor(2)):
        assert torch.equal(database[index], frames[int(index)]) and database[index].shape == (48, 64, 3)
    for part in (slice(2, 5), slice(None), slice(-3, None), slice(None, None, -4), slice(9, 99), slice(5, 5)):
        assert torch.equal(database[part], torch.from_numpy(frames.numpy()[part].copy()))
    assert torch.equal(database.decode(4), frames[4]) and torch.equal(database.decode(np.int64(4)), frames[4])
    assert database.decode(4, size=(10, 20)).shape == (10, 20, 3)
    assert torch.equal(database.decode(4, level=1), database.decode([4], level=1)[0])
    for outside in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match=rf"frames\.db: frame {outside} of a video of 12 frames"):
            database[outside]
    with pytest.raises(IndexError, match="frame -1 is outside"):
        database.decode(-1)
    for wrong in ([0, 1], 1.5, "0", np.array([1])):
        with pytest.raises(TypeError, match=r"neither an integer nor a slice; use decode\(\)"):
            database[wrong]


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        FrameDatabase(tmp_path / "absent" / "frames.db")
    (tmp_path / "text.db").write_text("this is no database, however long it may go on" * 20)
    with pytest.raises(FrameDatabaseError, match=r"text\.db: not a frame database"):
        FrameDatabase(tmp_path / "text.db")
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE Other(x)").connection.commit()
    with pytest.raises(FrameDatabaseError, match="no table Images"):
        FrameDatabase(tmp_path / "other.db")
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE Images(ObjId STRING, frames BLOB, size INT)")
    with pytest.raises(FrameDatabaseError, match="has no frames"):
        FrameDatabase(tmp_path / "empty.db")


# --- the published form, both ways ------------------------------------------------------------------------------


def test_published_databases_are_read_in_frame_order(tmp_path):
    jpegs = [encoded(index)[0] for index in range(COUNT)]
    order = [7, 2, 11, 0, 5, 1, 9, 3, 10, 4, 8, 6]
    path = write_published_database(tmp_path / "jpg" / "jumping" / "part_0", jpegs, width=64, order=order)
    database = FrameDatabase(path)
    assert database.read(range(COUNT)) == jpegs
    assert database.read([11, 0, 11]) == [jpegs[11], jpegs[0], jpegs[11]]
    assert database.frame_size == (48, 64)
    assert (database.levels, database.timestamps, database.meta) == (0, None, {})
    assert database.verify() == []


@pytest.mark.parametrize("frame", [0, 2, 7, 11])
def test_the_error_of_a_published_database_has_the_frame_number(tmp_path, frame):
    """Rows are in any order, so that the number of the row is another one."""
    order = [7, 2, 11, 0, 5, 1, 9, 3, 10, 4, 8, 6]
    jpegs = [encoded(index)[0] for index in range(COUNT)]
    jpegs[frame] = jpegs[frame][:300]
    path = write_published_database(tmp_path / "clip", jpegs, width=64, order=order)
    database = FrameDatabase(path)
    message = rf"clip/frames\.db: frame {frame}: damaged JPEG"
    for read in (lambda: database.decode(range(COUNT)), lambda: database[frame], lambda: list(database)):
        with pytest.raises(FrameDatabaseError, match=message):
            read()
    assert [problem.partition(":")[0] for problem in database.verify()] == [f"frame {frame}"]
    connection = sqlite3.connect(path)
    connection.execute("UPDATE Images SET frames = 'text' WHERE rowid = ?", (order.index(frame) + 1,))
    connection.commit()
    connection.close()
    with pytest.raises(FrameDatabaseError, match=rf"clip/frames\.db: frame {frame}: holds no BLOB"):
        database.read(range(COUNT))


def test_published_readers_work_on_our_files(database):
    """The query of the published training code, word for word in its effect: names, IN, sort by name."""
    video = database.path.parent.name
    names = [f"{video}/frame_{index + 1:05d}" for index in (4, 0, 9)]
    connection = sqlite3.connect(database.path)
    rows = connection.execute(
        f"SELECT ObjId, frames FROM Images WHERE ObjId IN ({','.join('?' * 3)})", names
    ).fetchall()
    assert dict(rows) == {name: encoded(index)[0] for name, index in zip(names, (4, 0, 9), strict=True)}
    plan = connection.execute("EXPLAIN QUERY PLAN SELECT frames FROM Images WHERE ObjId IN (?)", names[:1]).fetchall()
    assert "SEARCH" in plan[0][3]
    assert connection.execute("SELECT DISTINCT size FROM Images").fetchall() == [(64,)]


def test_more_than_99999_frames(tmp_path):
    jpeg = encode_rgb(torch.zeros(8, 8, 3, dtype=torch.uint8))[0]
    other = encode_rgb(torch.full((8, 8, 3), 200, dtype=torch.uint8))[0]
    count = 100_003
    with FrameWriter(tmp_path / "long" / "frames.db") as writer:
        for index in range(count):
            writer.add(other if index == 100_001 else jpeg, width=8)
    ours = FrameDatabase(tmp_path / "long")
    assert ours.read([100_000, 100_001, 99_998, 100_002]) == [jpeg, other, jpeg, jpeg]
    connection = sqlite3.connect(ours.path)
    assert connection.execute("SELECT ObjId FROM Images WHERE rowid = 100002").fetchone() == ("long/frame_100002",)
    blobs = [other if index == 100_001 else jpeg for index in range(count)]
    published = write_published_database(tmp_path / "old", blobs, width=8, order=range(count)[::-1])
    assert FrameDatabase(published).read([100_001, 0, 100_002]) == [other, jpeg, jpeg]


# --- writing: whole or not at all ------------------------------------------------------------------------------


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path):
    before = write(tmp_path / "clip", count=3).path.read_bytes()
    with pytest.raises(RuntimeError, match="interrupted"), FrameWriter(tmp_path / "clip" / "frames.db") as writer:
        writer.add(encoded(0)[0], width=64)
        raise RuntimeError("interrupted")
    assert (tmp_path / "clip" / "frames.db").read_bytes() == before
    assert names_in(tmp_path / "clip") == ["frames.db", "n_frames"]
    with pytest.raises(FrameDatabaseError, match="no frame was added"), FrameWriter(tmp_path / "new" / "frames.db"):
        pass
    assert names_in(tmp_path / "new") == []


def test_the_writer_checks_its_input(tmp_path):
    with FrameWriter(tmp_path / "clip" / "frames.db", levels=1) as writer:
        with pytest.raises(ValueError, match="frame 0 has 0 levels, expected 1"):
            writer.add(encoded(0)[0], width=64)
        writer.add(encoded(0)[0], width=64, timestamp=0.0, levels=[encoded(0)[0]])
        with pytest.raises(ValueError, match="frame 1: give every frame a timestamp"):
            writer.add(encoded(0)[0], width=64, levels=[encoded(0)[0]])


def test_writing_twice_gives_the_same_bytes(tmp_path):
    one, two = (write(tmp_path / part / "clip").path.read_bytes() for part in "ab")
    assert one == two


def test_a_replaced_database_is_read_anew(tmp_path):
    database = write(tmp_path / "clip", count=3)
    assert len(database.read([0, 1, 2])) == 3
    replaced = write(tmp_path / "clip", count=5)
    assert replaced.read([4]) == [encoded(4)[0]]


# --- damage -------------------------------------------------------------------------------------------------------


def damage(path: Path, sql: str, *values: object) -> FrameDatabase:
    connection = sqlite3.connect(path)
    connection.execute(sql, values)
    connection.commit()
    connection.close()
    return FrameDatabase(path)


@pytest.mark.parametrize(
    "sql, value, message",
    [
        ("UPDATE Images SET frames = ? WHERE rowid = 5", encoded(4)[0][:300], "frame 4: damaged JPEG"),
        ("UPDATE Images SET frames = ? WHERE rowid = 5", b"", "frame 4: holds an empty BLOB"),
        ("UPDATE Images SET frames = ? WHERE rowid = 5", "text", "frame 4: holds no BLOB"),
        ("DELETE FROM Images WHERE rowid = 5 AND ? = ?1", 1, "frame 4: not in the database"),
        (
            "UPDATE Images SET frames = ? WHERE rowid = 5",
            encode_rgb(torch.zeros(9, 9, 3, dtype=torch.uint8))[0],
            "frame 4: is 9x9",
        ),
    ],
)
def test_a_damaged_frame_is_named(tmp_path, sql, value, message):
    database = damage(write(tmp_path / "clip").path, sql, value)
    with pytest.raises(FrameDatabaseError, match=message):
        database.decode(range(COUNT))
    assert any(problem.startswith("frame 4") or "rows" in problem for problem in database.verify())
    assert len(database.decode([0, 1])) == 2


def test_verify_finds_what_decoding_alone_does_not(tmp_path):
    database = damage(write(tmp_path / "clip").path, "UPDATE Images SET frames = ? WHERE rowid = 5", encoded(7)[0])
    assert database.verify() == ["the frames differ from those that were written (CRC-32)"]
    database = write(tmp_path / "other")
    (database.path.parent / "n_frames").write_text("13")
    assert database.verify() == ["n_frames says '13' for 12 frames"]
    database = damage(
        write(tmp_path / "swapped").path,
        "UPDATE Images SET ObjId = 'swapped/frame_00020' WHERE rowid = 1 AND ? = ?1",
        1,
    )
    assert "the frame numbers are not 1 to 12, each once" in database.verify()


def test_a_truncated_file_is_an_error_not_a_crash(tmp_path):
    path = write(tmp_path / "clip").path
    whole = path.read_bytes()
    for size in range(0, len(whole), 4096 * 3 + 17):
        path.write_bytes(whole[:size])
        try:
            problems = FrameDatabase(path).verify()
        except FrameDatabaseError:
            continue
        assert problems, f"{size} of {len(whole)} bytes were taken for a whole database"


# --- threads and processes ------------------------------------------------------------------------------------


def test_threads_share_one_object(database):
    expected = database.decode(range(COUNT))

    def work(seed: int) -> bool:
        order = np.random.RandomState(seed).permutation(COUNT)
        return all(torch.equal(database.decode(order), expected[order]) for _ in range(10))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(16)))


def _digest(database: FrameDatabase) -> int:
    # NumPy: a forked child must not enter the OpenMP pool that torch may have started in its parent
    return int(database.decode(range(COUNT)).numpy().sum())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_other_processes_read_what_the_parent_opened(database, method):
    expected = _digest(database)
    with multiprocessing.get_context(method).Pool(2) as processes:
        assert processes.map(_digest, [database] * 4) == [expected] * 4
    assert _digest(database) == expected


def test_forking_while_threads_read(database):
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            database.decode([0, 1, 2])

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(0 if len(database.read([3, 4])) == 2 else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for reader in readers:
            reader.join()


def test_pickling_keeps_the_view(database):
    copy = pickle.loads(pickle.dumps(database))
    assert copy.read([5]) == database.read([5])
    assert len(copy) == COUNT


def test_open_files_stay_bounded(tmp_path):
    databases = [write(tmp_path / f"clip_{index}", count=1, levels=0) for index in range(150)]
    for database in databases * 2:
        database.read([0])
    open_files = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert 0 < sum(str(tmp_path) in name for name in open_files) <= 64


def test_stream_yields_every_frame_in_order(tmp_path):
    path = tmp_path / "clip" / "frames.db"
    jpegs = [encode_rgb(torch.from_numpy(picture(index)), 90)[0] for index in range(37)]
    with FrameWriter(path) as writer:
        for jpeg in jpegs:
            writer.add(jpeg, width=64)
    database = FrameDatabase(path)
    whole = database.decode(range(37))
    assert torch.equal(torch.stack(list(database)), whole)
    assert torch.equal(torch.stack(list(database.stream(3, 30, step=4))), whole[3:30:4])
    assert [tuple(frame.shape) for frame in database.stream(35, size=(20, 30))] == [(20, 30, 3)] * 2
    assert list(database.stream(5, 5)) == []
    with pytest.raises(IndexError, match="frames 0 to 38 of a video of 37"):
        database.stream(0, 38)
    with pytest.raises(ValueError, match="step=0"):
        database.stream(step=0)
