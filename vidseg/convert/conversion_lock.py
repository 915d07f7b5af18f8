"""The lock of a data set: one conversion or repair at a time, or several shards of one conversion."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from vidseg.frames.whole_file import NO_LOCKS

__all__ = ["TargetError", "lock_dataset", "locked_dataset"]

_log = logging.getLogger("vidseg.convert")

_WHOLE = ".conversion.lock"  # hidden, so that it is no source when a data set is inside the folder of its videos


class TargetError(RuntimeError):
    """Raised when the data set's folder cannot be written, or another conversion is writing to it."""


@contextlib.contextmanager
def lock_dataset(root: Path, *, shard: tuple[int, int] | None = None) -> Iterator[None]:
    """Hold the lock of a data set; the system frees it when the process ends.

    Shards of a conversion share the data set and exclude each other only if they have the same number. Everything else
    has the data set alone. On a disk without locks the context logs a warning and continues.

    Args:
        root: folder of the data set; must exist.
        shard: (i, n) for part i of n of a conversion, or None for the whole data set.

    Raises:
        TargetError: another process holds the lock.
        OSError: the lock file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lock(root, _WHOLE, shared=shard is not None))
        if shard is not None:
            stack.enter_context(_lock(root, ".conversion.shard-{}-of-{}.lock".format(*shard), shared=False))
        yield


def locked_dataset(root: Path) -> bool:
    """Return whether a conversion or repair holds the lock of a data set; writes nothing."""
    try:
        with open(root / _WHOLE) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Shards hold a shared lock.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no lock file, or the disk has no locks
        return False
    return False


@contextlib.contextmanager
def _lock(root: Path, name: str, *, shared: bool) -> Iterator[None]:
    path = root / name
    while True:
        lock = open(path, "a+")  # noqa: SIM115 - closed below
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise TargetError(f"{root}: another conversion is writing to this folder; wait for it to finish") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                lock.close()
                raise
            _log.warning("%s: this disk has no locks; run one conversion at a time in this folder", root)
        # The holder before may have deleted the file after this process had opened it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                break
        lock.close()
    with lock:
        try:
            yield
        finally:
            # Other shards may share the lock; the last one deletes the file.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
