"""File locks of the catalog: who holds one, and whether the file system has locks at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

__all__ = ["connect_to_copy", "has_file_locks", "is_locked", "lacks_locks", "lock_holder"]

_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_COPIES = 20  # attempts to copy a catalog that another machine is writing
_COPY_PAUSE = 0.25  # seconds between them


def is_locked(error: sqlite3.Error, *, signs: tuple[str, ...] = ("locked", "locking protocol")) -> bool:
    """Return whether SQLite could not lock the file, which says nothing about its content."""
    return isinstance(error, sqlite3.OperationalError) and any(sign in str(error) for sign in signs)


def lacks_locks(error: sqlite3.Error, path: Path) -> bool:
    """Return whether an error of SQLite comes from a file system without file locks."""
    return is_locked(error, signs=("locked", "locking protocol", "disk I/O error")) and not has_file_locks(path)


def has_file_locks(path: Path) -> bool:
    """Return whether the file system of `path` has file locks; some network file systems have none.

    A temporary file beside `path` is locked. `path` itself is opened only where the folder is read-only: closing a file
    releases all locks that the process has on it.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent, prefix=".vidseg_lock_") as probe:
            return _can_lock(probe.fileno(), fcntl.LOCK_EX)
    except OSError:  # a read-only folder or a full disk
        pass
    try:
        with open(path, "rb") as file:
            return _can_lock(file.fileno(), fcntl.LOCK_SH)
    except OSError:
        return True


def _can_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _WITHOUT_LOCKS
    return True


def lock_holder(path: Path) -> str:
    """Return a description of the process on this machine that has locked the file for writing, as far as known."""
    try:
        status = path.stat()
        lines = Path("/proc/locks").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return "another process"
    identity = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for fields in map(str.split, lines):
        if len(fields) > 5 and fields[3] == "WRITE" and fields[5] == identity and int(fields[4]) > 0:
            return f"process {fields[4]} of this machine"
    return "another process, of this or another machine"


def connect_to_copy(path: Path) -> sqlite3.Connection:
    """Open a local copy of a database whose file system has no locks; the copy is deleted when it is closed.

    An unfinished transaction of a writer is rolled back in the copy.

    Raises:
        OSError: the file changes while it is copied, or cannot be read.
    """
    journal = Path(f"{path}-journal")
    for _ in range(_COPIES):
        before = _state(path), _state(journal)
        with tempfile.TemporaryDirectory(prefix="vidseg_catalog_") as folder:
            copy = Path(folder) / "copy.db"
            shutil.copyfile(path, copy)
            if before[1] is not None:
                try:
                    shutil.copyfile(journal, f"{copy}-journal")
                except FileNotFoundError:
                    continue
            if (_state(path), _state(journal)) != before:
                time.sleep(_COPY_PAUSE)
                continue
            connection = sqlite3.connect(copy)
            connection.execute("BEGIN")
            # The first read rolls a journal back and opens the file, which then stays readable without its name.
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return connection
    raise OSError(f"{path}: another machine is writing the catalog; run the command again when it has finished")


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
