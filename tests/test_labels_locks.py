"""A catalog that is locked, or on a file system without locks: what is read, and what the errors say."""

import errno
import fcntl
import logging
import sqlite3
import threading
import time
from dataclasses import replace

import pytest

from vidseg.cli.main import main
from vidseg.labels import (
    LabelRow,
    VideoRecord,
    apply_labels,
    catalog,
    catalog_lock,
    open_dataset,
    scan_catalog,
    update_catalog,
)
from vidseg.labels.frame_labels import label_frames
from vidseg.labels.splitting import divide_videos


def records(*paths):
    return [VideoRecord(f"jpg/{path}", path.split("/")[0], 4, 8, 8, 2.0, 2.0, 9) for path in paths]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "_BUSY_SECONDS", 0.4)
    monkeypatch.setattr(catalog, "_NOTICE_SECONDS", 0.1)
    update_catalog(tmp_path, records("a/1", "b/1"))
    return tmp_path


@pytest.fixture
def writer(root):
    """A connection that has written a row, and holds the lock."""
    connection = sqlite3.connect(root / "catalog.db", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("UPDATE classes SET name = 'changed' WHERE name = 'a'")
    yield connection
    connection.close()


@pytest.mark.usefixtures("writer")
def test_a_locked_catalog_is_called_locked_and_is_never_to_be_removed(root, capsys, caplog):
    actions = (
        lambda: open_dataset(root),
        lambda: update_catalog(root, records("c/1")),
        lambda: catalog.check_writable(root),
    )
    for action in actions:
        with pytest.raises(TimeoutError, match=r"locked by .*process.*\. The catalog is not damaged: run the command"):
            action()
    assert caplog.text.count("waiting up to") == len(actions)
    assert main(["labels", "show", str(root)]) == 1
    log = capsys.readouterr().err
    assert "locked by" in log and "Traceback" not in log
    assert not any(word in (log + caplog.text).lower() for word in ("remove", "delete"))


def test_a_writer_that_ends_is_waited_for(root, writer, monkeypatch):
    monkeypatch.setattr(catalog, "_BUSY_SECONDS", 20.0)

    def finish():
        time.sleep(0.3)
        writer.execute("COMMIT")

    thread = threading.Thread(target=finish)
    thread.start()
    assert open_dataset(root).classes == ["changed", "b"]
    thread.join()


def test_without_file_locks_a_copy_is_read_and_nothing_is_written(root, writer, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(catalog_lock, "has_file_locks", lambda path: False)
    assert open_dataset(root).classes == ["a", "b"]  # what was committed
    assert "no file locks; reading a copy" in caplog.text
    with pytest.raises(OSError, match="no file locks, so the catalog cannot be written safely; it is unchanged"):
        update_catalog(root, records("c/1"))


def test_a_copy_rolls_an_unfinished_transaction_back(root, writer):
    for number in range(300):  # more pages than the cache has, so that the file has changed
        writer.execute("INSERT INTO splits (name) VALUES (?)", (f"{number:05d}" * 400,))
    assert (root / "catalog.db-journal").stat().st_size > 0
    connection = catalog_lock.connect_to_copy(root / "catalog.db")
    assert [name for (name,) in connection.execute("SELECT name FROM classes ORDER BY number")] == ["a", "b"]
    assert connection.execute("SELECT count(*) FROM splits").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.ENOLCK, False), (errno.EOPNOTSUPP, False), (errno.EAGAIN, True)]
)
def test_file_systems_without_locks_are_recognized(root, monkeypatch, number, expected):
    assert catalog_lock.has_file_locks(root / "catalog.db")

    def refuse(*_):
        raise OSError(number, "refused")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert catalog_lock.has_file_locks(root / "catalog.db") is expected
    assert [path.name for path in root.iterdir()] == ["catalog.db"]


def test_no_error_of_the_catalog_advises_to_remove_it(tmp_path):
    (tmp_path / "catalog.db").write_text("not a database, but longer than a header " * 10)
    for action in (lambda: open_dataset(tmp_path), lambda: update_catalog(tmp_path, records("a/1"))):
        with pytest.raises(ValueError, match=r"not a catalog .*keep it under another name") as caught:
            action()
        assert "remove" not in str(caught.value)
    (tmp_path / "jpg").mkdir()
    (tmp_path / "catalog.db").unlink()
    update_catalog(tmp_path, records("a/1"))
    with pytest.raises(ValueError, match="mount the disk") as caught:
        scan_catalog(tmp_path)
    assert "remove" not in str(caught.value)


# Files from elsewhere


def change(root, *statements):
    with sqlite3.connect(root / "catalog.db") as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (
            ["DROP TABLE segments", "CREATE VIEW segments AS SELECT 1 AS id, 1 AS video_id"],
            "segments is a view, not a table",
        ),
        (
            [
                "ALTER TABLE videos RENAME TO v",
                "CREATE VIEW videos AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
                " SELECT x AS id FROM n",
            ],
            "videos is a view",
        ),
        (
            ["ALTER TABLE videos ADD COLUMN g TEXT AS (hex(zeroblob(100000000)))"],
            "table videos has the generated column",
        ),
        (["CREATE TRIGGER t AFTER INSERT ON videos BEGIN DELETE FROM splits; END"], "has the trigger 't'"),
        (
            ["UPDATE videos SET path = 'jpg/a/../../../home' WHERE id = 1"],
            r"video path 'jpg/a/\.\./\.\./\.\./home' is not of the form",
        ),
        (["UPDATE videos SET path = '/etc/passwd' WHERE id = 1"], "video path '/etc/passwd'"),
        (["UPDATE classes SET number = 7 WHERE name = 'b'"], "the class numbers are not 0 to 1"),
        (
            ["PRAGMA foreign_keys = OFF", "UPDATE videos SET class_id = 1 << 60"],
            "class_id is '1152921504606846976', expected NULL or the id of a class",
        ),
        (["UPDATE videos SET frames = -1"], "frames is '-1', expected an integer from 0 to 4294967296"),
        (["UPDATE videos SET height = 1 << 40"], "damaged catalog"),
        (["UPDATE videos SET frames = 'many'"], "table videos: frames is 'many', expected an integer from 0"),
        (["UPDATE videos SET fps = 9e999"], "fps is 'Inf', expected a number from 0 to 1e"),
        (["UPDATE videos SET seconds = x'00ff'"], "seconds is .*, expected a number from 0"),
        (["UPDATE classes SET name = x'61' WHERE number = 0"], "table classes: name is 'a', expected a text"),
        (["UPDATE classes SET name = CAST(x'ff41' AS TEXT) WHERE number = 0"], "not a catalog .*decode to UTF-8"),
        (["UPDATE videos SET path = 'jpg/a/' || CAST(x'ff' AS TEXT) WHERE id = 1"], "path is not UTF-8"),
        (["INSERT INTO segments VALUES (NULL, 1, 0, 'late', 1)"], "table segments: stop is 'late', expected a number"),
        (["PRAGMA foreign_keys = OFF", "INSERT INTO segments VALUES (NULL, 77, 0, 1, 1)"], "the id of a video"),
        (["INSERT INTO splits VALUES (NULL, x'00')"], "table splits: name is .*, expected a text"),
        (["ALTER TABLE classes RENAME COLUMN number TO place"], "not a catalog .no such column: number"),
        (
            ["PRAGMA writable_schema = ON", "UPDATE sqlite_master SET rootpage = 3 WHERE name = 'segments'"],
            r"catalog \(",
        ),
    ],
)
def test_hostile_catalogs_are_refused_by_name(root, statements, message):
    """By the reader, and by the writers, which leave the file as it is."""
    change(root, *statements)
    content = (root / "catalog.db").read_bytes()
    with pytest.raises(ValueError, match=message) as caught:
        open_dataset(root)
    assert str(root / "catalog.db") in str(caught.value)
    if "path" not in message and "class numbers" not in message:
        for write in (
            lambda: update_catalog(root, records("a/1")),
            lambda: apply_labels(root, [LabelRow("a", "1")]),
            lambda: divide_videos(root, (0.5, 0.5)),
            lambda: label_frames(root, background="none", empty=True),
        ):
            with pytest.raises(ValueError, match=message):
                write()
    assert (root / "catalog.db").read_bytes() == content


@pytest.mark.parametrize(
    "change", [{"frames": -1}, {"frames": 1 << 40}, {"width": 70000}, {"fps": float("nan")}, {"seconds": float("inf")}]
)
def test_records_that_no_reader_accepts_are_not_written(tmp_path, change):
    (name,) = change
    with pytest.raises(ValueError, match=rf"jpg/a/1: {name} is .*, must be 0 to"):
        update_catalog(tmp_path, [replace(record, **change) for record in records("a/1")])
