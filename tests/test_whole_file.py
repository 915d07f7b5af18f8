"""Output files are complete or absent, and a killed writer leaves nothing that stops the next one."""

import multiprocessing
import os
import signal

import pytest

from vidseg.frames.whole_file import whole_file, write_text


def killed_while_writing(path):
    with whole_file(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with whole_file(path, suffix=".tmp.csv") as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.name == ".scores.csv.tmp.csv"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores.csv"
    write_text(path, "old")
    with pytest.raises(FileNotFoundError, match="of the body"), whole_file(path) as temporary:
        temporary.write_text("half")
        raise FileNotFoundError("of the body")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_leaves_is_replaced(tmp_path):
    path = tmp_path / "scores.csv"
    process = multiprocessing.get_context("forkserver").Process(target=killed_while_writing, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and [left.name for left in tmp_path.iterdir()] == [".scores.csv.tmp"]
    write_text(path, "whole")
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_exclude_each_other(tmp_path):
    path = tmp_path / "scores.csv"
    with whole_file(path) as temporary:
        temporary.write_text("first")
        with pytest.raises(OSError, match=r"scores.csv: another process is writing this file"):
            write_text(path, "second")
    assert path.read_text() == "first"


def test_a_disk_without_locks_is_no_error(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    write_text(tmp_path / "scores.csv", "whole")
    assert (tmp_path / "scores.csv").read_text() == "whole"
