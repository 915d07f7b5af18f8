"""Frame databases made to harm their reader: refused at once, by name, in the Python and in the compiled reader."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

import vidseg
from vidseg.frames import FrameDatabase, FrameDatabaseError, FrameWriter, encode_rgb
from vidseg.frames.native import operators
from vidseg.frames.schema import connect_read_only, guard

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"


def write(folder, *, count=3):
    jpeg = encode_rgb(torch.zeros(16, 24, 3, dtype=torch.uint8))[0]
    meta = {"fps": 25.0, "height": 16, "width": 24}
    with FrameWriter(folder / "frames.db", meta=meta) as writer:
        for number in range(count):
            writer.add(jpeg, width=24, timestamp=number / 25)
    return folder / "frames.db"


def change(path, *statements):
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


def published(path, *statements):
    path.parent.mkdir(parents=True, exist_ok=True)
    return change(path, *statements)


@pytest.mark.parametrize(
    "statements",
    [
        [f"CREATE VIEW Images AS {ENDLESS} SELECT 'v/frame_' || x AS ObjId, zeroblob(1000000) AS frames FROM n"],
        [
            "CREATE TABLE Images(ObjId TEXT AS (printf('%0100000000d', 1)), frames BLOB, size INT)",
            "INSERT INTO Images(frames) VALUES (x'00')",
        ],
        [
            "CREATE TABLE Images(ObjId TEXT, frames BLOB GENERATED ALWAYS AS (zeroblob(size)) STORED, size INT)",
            "INSERT INTO Images(ObjId, size) VALUES ('v/frame_1', 10)",
        ],
        ["CREATE VIRTUAL TABLE Images USING fts4(ObjId, frames)"],
        [
            "CREATE TABLE Images(ObjId TEXT, frames BLOB)",
            f"CREATE VIEW meta AS {ENDLESS} SELECT x AS key, x AS value FROM n",
        ],
        ["CREATE TABLE Images(ObjId TEXT, frames BLOB)", f"CREATE VIEW LEVELS AS {ENDLESS} SELECT x AS level FROM n"],
        [
            "BEGIN",
            *(f"CREATE TABLE t{number}(x)" for number in range(1001)),
            "CREATE TABLE Images(ObjId TEXT, frames BLOB)",
        ],
    ],
    ids=["view", "generated", "stored", "virtual", "meta", "levels", "tables"],
)
def test_only_ordinary_tables_are_read(tmp_path, statements):
    path = published(tmp_path / "v/frames.db", *statements)
    began = time.monotonic()
    with pytest.raises(FrameDatabaseError, match="not a frame database") as caught:
        FrameDatabase(path)
    assert str(path) in str(caught.value)
    for level in (0, 1):
        with pytest.raises(RuntimeError, match="not a frame database"):
            operators.read(str(path), level, torch.tensor([1]))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "UPDATE meta SET value = 1 << 60 WHERE key = 'frames'",
            "the entry 'frames' of its metadata is 1152921504606846976",
        ),
        ("UPDATE meta SET value = 'three' WHERE key = 'frames'", "the entry 'frames' of its metadata is 'three'"),
        ("DELETE FROM meta WHERE key = 'frames'", "the entry 'frames' of its metadata is None"),
        (
            "UPDATE meta SET value = 1000000 WHERE key = 'levels'",
            "'levels' of its metadata is 1000000, expected 0 to 8",
        ),
        ("UPDATE meta SET value = -1 WHERE key = 'levels'", "'levels' of its metadata is -1"),
        ("UPDATE meta SET value = 1 << 40 WHERE key = 'height'", "'height' of its metadata"),
        ("DELETE FROM meta WHERE key = 'width'", "'width' of its metadata is None"),
        ("UPDATE meta SET value = 9e999 WHERE key = 'fps'", "'fps' of its metadata is inf"),
        ("UPDATE meta SET value = 'fast' WHERE key = 'fps'", "'fps' of its metadata is 'fast'"),
        ("INSERT OR REPLACE INTO meta VALUES ('duration', 'long')", "'duration' of its metadata is 'long'"),
        ("INSERT INTO meta VALUES ('note', zeroblob(20000000))", "'note' of its metadata has 20000000 bytes"),
        (
            f"INSERT INTO meta {ENDLESS} SELECT 'key' || x, x FROM n LIMIT 2000",
            "its metadata have more than 1000 entries",
        ),
    ],
)
def test_absurd_metadata_are_refused(tmp_path, statement, message):
    path = change(write(tmp_path / "v"), statement)
    with pytest.raises(FrameDatabaseError, match=message) as caught:
        FrameDatabase(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [("zeroblob(23)", "not a BLOB"), ("'text'", "not a BLOB"), ("x'000000000000f87f'", "not finite")],
)
def test_absurd_timestamps_are_refused(tmp_path, value, message):
    path = change(write(tmp_path / "v"), f"UPDATE meta SET value = {value} WHERE key = 'timestamps'")
    with pytest.raises(FrameDatabaseError, match=message):
        _ = FrameDatabase(path).timestamps
    assert any(message in problem for problem in FrameDatabase(path).verify())


def test_long_names_are_cut_in_messages(tmp_path):
    path = published(
        tmp_path / "v/frames.db",
        "CREATE TABLE Images(ObjId TEXT, frames BLOB)",
        "INSERT INTO Images VALUES (hex(zeroblob(1000000)), x'00')",
    )
    with pytest.raises(FrameDatabaseError, match="row 1 has the ObjId") as caught:
        FrameDatabase(path)
    assert len(str(caught.value)) < 1000


def shared_pages(path):
    """A published database whose root page refers to one leaf many times, so that a scan sees its rows many times."""
    published(path, "PRAGMA page_size = 512", "CREATE TABLE Images(ObjId TEXT, frames BLOB)")
    change(path, *(f"INSERT INTO Images VALUES ('v/frame_{number:05d}', x'00')" for number in range(1, 41)))
    data = bytearray(path.read_bytes())
    connection = sqlite3.connect(path)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'Images'").fetchone()
    connection.close()
    page = memoryview(data)[(root - 1) * 512 : root * 512]
    assert page[0] == 5  # an interior page
    child = bytes(page[int.from_bytes(page[12:14], "big") :][:4])
    cells = 70
    page[3:5] = cells.to_bytes(2, "big")
    for cell in range(cells):
        place = 512 - 5 * (cell + 1)
        page[12 + 2 * cell : 14 + 2 * cell] = place.to_bytes(2, "big")
        page[place : place + 5] = child + bytes([min(cell + 1, 127)])
    page[5:7] = (512 - 5 * cells).to_bytes(2, "big")
    page[8:12] = child
    path.write_bytes(bytes(data))
    return path


def test_pages_that_rows_share_are_not_read_without_end(tmp_path):
    with pytest.raises(FrameDatabaseError, match="more rows than a file of its size can have"):
        FrameDatabase(shared_pages(tmp_path / "v/frames.db"))


def test_ctrl_c_ends_a_query(tmp_path):
    program = f"""
        import signal, sqlite3
        from vidseg.frames.schema import guard, raise_interrupt
        signal.signal(signal.SIGINT, signal.default_int_handler)  # programs in the background ignore it
        connection = sqlite3.connect(":memory:")
        guard(connection)
        print("ready", flush=True)
        try:
            connection.execute("{ENDLESS} SELECT count(*) FROM n").fetchone()
        except sqlite3.OperationalError as error:
            raise_interrupt(error)
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(vidseg.__file__).parents[1])}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.2)
            child.send_signal(signal.SIGINT)
            _, log = child.communicate(timeout=20)
        finally:
            child.kill()
    assert log.rstrip().endswith("KeyboardInterrupt")


def test_functions_of_the_schema_do_not_run(tmp_path):
    path = write(tmp_path / "v")
    connection = connect_read_only(path)
    assert connection.execute("PRAGMA trusted_schema").fetchone() == (0,)
    connection.close()
    connection = sqlite3.connect(":memory:")
    guard(connection)
    assert connection.execute("PRAGMA trusted_schema").fetchone() == (0,)


@pytest.mark.parametrize(
    ("text", "faults"), [("3\n", []), (" 3\r\n", []), ("003", []), ("4\n", ["n_frames says '4' for 3 frames"])]
)
def test_n_frames_with_a_newline(tmp_path, text, faults):
    path = write(tmp_path / "v")
    (path.parent / "n_frames").write_bytes(text.encode())
    assert FrameDatabase(path).verify() == faults
