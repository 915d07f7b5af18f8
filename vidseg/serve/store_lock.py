"""Locks of the folder of a store: one server alone, or several that notice each other's death."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from vidseg.frames.whole_file import NO_LOCKS

__all__ = ["StoreLock"]

_SETUP_SECONDS = 10.0  # for which a server waits while another one sets up the store


class StoreLock:
    """The right of a server to use a folder; the system takes it away when the process ends, however it ends.

    Each server holds the lock of a file of its own in `servers/`, which has its process and machine as JSON. A server
    whose lock is free has ended.

    Args:
        folder: folder of the store; must exist.
        shared: whether other servers may use the folder too.

    Attributes:
        owner: name of this server in the store.
        alone: whether no other server used the folder when this one started; none can until `share`.

    Raises:
        ValueError: another server uses the folder, or the disk has no locks.
    """

    def __init__(self, folder: Path, *, shared: bool) -> None:
        self.owner = secrets.token_hex(8)
        self._servers = folder / "servers"
        self._whole = open(folder / "lock", "a")  # noqa: SIM115  (held until `close`)
        try:
            self.alone = self._acquire(folder, shared)
            self._servers.mkdir(exist_ok=True, mode=0o700)
            self._own = self._register()
        except BaseException:
            self._whole.close()
            raise

    def _acquire(self, folder: Path, shared: bool) -> bool:
        """Lock the folder, alone if possible; returns whether it is."""
        end = time.monotonic() + _SETUP_SECONDS * shared
        while True:
            for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH)[: 1 + shared]:
                try:
                    fcntl.flock(self._whole, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno not in NO_LOCKS:
                        raise
                    raise ValueError(f"{folder}: this disk has no locks; choose another --store") from error
                return kind == fcntl.LOCK_EX
            if time.monotonic() >= end:
                break
            time.sleep(0.02)
        remedy = "stop it, or start it with --shared, too" if shared else "choose another one with --store"
        raise ValueError(f"{folder}: another server uses this folder; {remedy}")

    def _register(self) -> Any:
        """Make the file of this server; it has its name only when it is locked."""
        path = self._servers / self.owner
        hidden = path.with_name(f".{self.owner}")
        file = hidden.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump({"process": os.getpid(), "machine": socket.gethostname()}, file)
        file.flush()
        hidden.rename(path)
        return file

    def share(self) -> None:
        """Let other servers use the folder from now on."""
        fcntl.flock(self._whole, fcntl.LOCK_SH)

    def is_alive(self, owner: str | None) -> bool:
        """Return whether a server holds its lock."""
        if owner == self.owner:
            return True
        if owner is None:
            return False
        try:
            with open(self._servers / owner, "r+") as file:  # NFS gives this lock to writers only
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def ended(self) -> list[str]:
        """Return the servers that ended without `close`."""
        names = [path.name for path in self._servers.iterdir() if not path.name.startswith(".")]
        return [name for name in names if not self.is_alive(name)]

    def forget(self, owner: str) -> None:
        """Delete the file of a server that has ended."""
        (self._servers / owner).unlink(missing_ok=True)

    def close(self) -> None:
        """Give up the folder."""
        with contextlib.suppress(FileNotFoundError):
            (self._servers / self.owner).unlink()
        self._own.close()
        self._whole.close()
