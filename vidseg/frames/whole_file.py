"""Output files that are there whole or not at all, whenever the process is killed."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["NO_LOCKS", "whole_file", "write_text"]

NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""Errors of disks that have no locks."""


@contextlib.contextmanager
def whole_file(path: str | Path, *, suffix: str = ".tmp", sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it is renamed to `path` at the end, or deleted after an error.

    The temporary name is the same in each call, so that a file that a killed process has left is replaced by the next
    one. A lock excludes two processes that write the same file.

    Args:
        path: the file to write; an existing file is replaced.
        suffix: end of the temporary name, where the writer depends on it, such as ".tmp.mp4".
        sync: wait until the disk has the data.

    Raises:
        OSError: the file cannot be written, or another process is writing it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}{suffix}")
    with _locked(temporary, path):
        try:
            yield temporary
            if sync:
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, so that it is complete or absent.

    Raises:
        OSError: see `whole_file`.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _locked(temporary: Path, path: Path) -> Iterator[None]:
    """Hold the lock of a temporary file, which the system frees when the process ends."""
    while True:
        with temporary.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(f"{path}: another process is writing this file; wait for its end") from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            # The process that held the lock before may have renamed the file after it was opened here.
            if temporary.is_file() and os.path.samestat(os.fstat(file.fileno()), temporary.stat()):
                yield
                return
