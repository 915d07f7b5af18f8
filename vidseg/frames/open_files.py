"""The limit on open files of this process (`ulimit -n`)."""

import errno
import os
import resource
from pathlib import Path

__all__ = ["allow_open_files", "too_many_open_files"]

_SPARE = 32  # libraries, logs, sockets
_ASSUMED = 64  # open files where the system does not list them


def allow_open_files(count: int, purpose: str) -> None:
    """Raise the soft limit so that this process can open `count` more files.

    Args:
        count: number of files to open in addition to those that are open now.
        purpose: what opens them, for the message.

    Raises:
        RuntimeError: the hard limit is too small.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _open_now() + count + _SPARE
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise RuntimeError(
            f"{purpose} needs {needed} open files, and this process may have {hard}: raise the limit with "
            f"`ulimit -n {needed}` (or in /etc/security/limits.conf, or the scheduler's options)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def too_many_open_files(path: str | Path) -> str | None:
    """Return a sentence if `path` cannot be opened because too many files are open, else None."""
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            return f"too many open files: the limit is {soft} (hard limit {hard}); raise it with `ulimit -n`"
    return None


def _open_now() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no objects for each of them
    except OSError:
        return _ASSUMED
