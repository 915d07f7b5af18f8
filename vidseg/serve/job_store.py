"""Jobs for long videos in an SQLite store that survives a crash, and that several servers may share.

A job is accepted when its row is committed; its upload is on the disk by then. A job that was running when its server
died runs again at the next start, or in another server. Its result is written in the transaction that ends it, and only
by the attempt that runs it now, so that a job has one result.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidseg.serve.store_lock import StoreLock

__all__ = ["Job", "JobStore", "sync_folder"]

_ATTEMPTS = 3  # starts of a job, each of which the server did not survive
_STATES = ("waiting", "running", "done", "failed", "canceled")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs(
    id TEXT PRIMARY KEY, request TEXT UNIQUE, model TEXT NOT NULL, options TEXT NOT NULL, kind TEXT NOT NULL,
    name TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, progress REAL NOT NULL, cancel INTEGER NOT NULL,
    created REAL NOT NULL, started REAL, finished REAL, error TEXT, result TEXT, owner TEXT);
CREATE INDEX IF NOT EXISTS jobs_of_state ON jobs(state, created);
CREATE TABLE IF NOT EXISTS open_streams(id TEXT PRIMARY KEY, owner TEXT NOT NULL);
"""
_MINE = "state='running' AND id=? AND attempts=? AND owner=?"
_LOCKED_SECONDS = 60.0  # for which a transaction waits for those of other servers
_COLUMNS = "id, model, options, kind, name, state, attempts, progress, cancel, created, started, finished, error"


@dataclass(frozen=True)
class Job:
    """One job, without its result.

    Attributes:
        id: name in addresses.
        model: name of the model.
        options: of the prediction.
        kind: of the upload.
        name: name that the client gave, for display.
        state: "waiting", "running", "done", "failed" or "canceled".
        attempts: number of starts.
        progress: finished fraction, 0 to 1.
        cancel: whether a client canceled it.
        created: time of acceptance, seconds since 1970.
        started: time of the last start, likewise.
        finished: time of the end, likewise.
        error: reason of a failure.
    """

    id: str
    model: str
    options: dict[str, Any]
    kind: str
    name: str
    state: str
    attempts: int
    progress: float
    cancel: bool
    created: float
    started: float | None
    finished: float | None
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return what clients see."""
        hidden = {"cancel", "kind"}
        return {name: value for name, value in vars(self).items() if name not in hidden}


def sync_folder(folder: Path) -> None:
    """Write the files of a folder, and their names, to the disk."""
    for path in [*folder.iterdir(), folder, folder.parent]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class JobStore:
    """Jobs and their uploads in a folder.

    Args:
        folder: made if it does not exist. It has `jobs.db`, and a folder `uploads/<id>` for each unfinished job.
        shared: whether other servers may use the folder at the same time.

    Attributes:
        uploads: folder of the uploads of jobs.
        received: folder of this server for uploads that are being received.

    Raises:
        ValueError: another server uses the folder, and one of both does not share it.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self.folder, self.shared, self.uploads = folder, shared, folder / "uploads"
        self.uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._servers = StoreLock(folder, shared=shared)
        self.received = self._received_by(self._servers.owner)
        self.received.mkdir(parents=True, mode=0o700)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            folder / "jobs.db", check_same_thread=False, isolation_level=None, timeout=_LOCKED_SECONDS
        )
        if self._servers.alone:
            # A write-ahead log needs memory that all processes share, which those of several machines do not have.
            self._connection.execute(f"PRAGMA journal_mode={'DELETE' if shared else 'WAL'}")
            self._connection.executescript(_SCHEMA)
            if "owner" not in {row[1] for row in self._connection.execute("PRAGMA table_info(jobs)")}:
                self._connection.execute("ALTER TABLE jobs ADD COLUMN owner TEXT")  # of an earlier version
        self._connection.execute("PRAGMA synchronous=FULL")
        self.recover()
        if self._servers.alone:
            self._remove_orphans()
        if shared and self._servers.alone:
            self._servers.share()

    @property
    def owner(self) -> str:
        """Name of this server in the store."""
        return self._servers.owner

    def _received_by(self, owner: str) -> Path:
        return self.folder / "requests" / owner

    def recover(self) -> None:
        """Put back the jobs of servers that died."""
        ended = self._servers.ended()
        with self._transaction() as run:
            found = run("SELECT DISTINCT owner FROM jobs WHERE state='running' UNION SELECT owner FROM open_streams")
            dead = [(owner,) for (owner,) in found.fetchall() if not self._servers.is_alive(owner)]
            now = time.time()
            for owner in dead:
                mine = (now, *owner)
                run(
                    "UPDATE jobs SET state='canceled', finished=? WHERE cancel AND state='running' AND owner IS ?", mine
                )
                run(
                    "UPDATE jobs SET state='failed', finished=?, error=? WHERE state='running' AND attempts >= ? AND "
                    "owner IS ?",
                    (now, f"the server stopped {_ATTEMPTS} times while this job was running", _ATTEMPTS, *owner),
                )
                run("UPDATE jobs SET state='waiting', progress=0 WHERE state='running' AND owner IS ?", owner)
                run("DELETE FROM open_streams WHERE owner IS ?", owner)
        for name in ended:
            shutil.rmtree(self._received_by(name), ignore_errors=True)
            self._servers.forget(name)

    def _remove_orphans(self) -> None:
        """Remove uploads without an unfinished job; no other server uses the folder."""
        with self._transaction() as run:
            run("UPDATE jobs SET state='canceled', finished=? WHERE cancel AND state='waiting'", (time.time(),))
            needed = {row[0] for row in run("SELECT id FROM jobs WHERE state='waiting'")}
        for path in [*self.uploads.iterdir(), *self.received.parent.iterdir()]:
            if path.name not in {*needed, self.owner}:
                shutil.rmtree(path, ignore_errors=True)

    def _transaction(self) -> _Transaction:
        return _Transaction(self._connection, self._lock, "BEGIN IMMEDIATE")

    def _reading(self) -> _Transaction:
        return _Transaction(self._connection, self._lock, "BEGIN")

    def add(
        self, job: str, *, request: str | None, model: str, options: Mapping[str, Any], kind: str, name: str
    ) -> Job:
        """Accept a job whose upload is in `uploads/<job>`.

        Args:
            job: id of the job.
            request: key of the request; a second request with this key gets the first one's job.
            model: name of the model.
            options: of the prediction.
            kind: of the upload.
            name: for display.

        Returns:
            The job, or the earlier one of the same request.
        """
        with self._transaction() as run:
            run(
                "INSERT OR IGNORE INTO jobs(id, request, model, options, kind, name, state, attempts, progress, cancel,"
                " created) VALUES (?, ?, ?, ?, ?, ?, 'waiting', 0, 0, 0, ?)",
                (job, request, model, json.dumps(dict(options)), kind, name, time.time()),
            )
            found = run(f"SELECT {_COLUMNS} FROM jobs WHERE id=? OR request=?", (job, request)).fetchone()
        return _job(found)

    def find(self, job: str) -> Job | None:
        """Return a job, or None."""
        with self._reading() as run:
            row = run(f"SELECT {_COLUMNS} FROM jobs WHERE id=?", (job,)).fetchone()
        return None if row is None else _job(row)

    def find_request(self, request: str) -> Job | None:
        """Return the job of a request, or None."""
        with self._reading() as run:
            row = run(f"SELECT {_COLUMNS} FROM jobs WHERE request=?", (request,)).fetchone()
        return None if row is None else _job(row)

    def latest(self, count: int) -> list[Job]:
        """Return the jobs that were accepted last, the newest first."""
        with self._reading() as run:
            rows = run(f"SELECT {_COLUMNS} FROM jobs ORDER BY created DESC, rowid DESC LIMIT ?", (count,)).fetchall()
        return [_job(row) for row in rows]

    def result(self, job: str) -> dict[str, Any] | None:
        """Return the result of a job that is done, else None."""
        with self._reading() as run:
            row = run("SELECT result FROM jobs WHERE id=? AND state='done'", (job,)).fetchone()
        found: dict[str, Any] | None = None if row is None else json.loads(row[0])
        return found

    def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        with self._reading() as run:
            rows = dict(run("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall())
        return {state: rows.get(state, 0) for state in _STATES}

    def claim(self) -> Job | None:
        """Start the job that waits longest; None: no job waits."""
        with self._transaction() as run:
            row = run("SELECT id FROM jobs WHERE state='waiting' ORDER BY created, rowid LIMIT 1").fetchone()
            if row is None:
                return None
            run(
                "UPDATE jobs SET state='running', attempts=attempts+1, started=?, owner=? WHERE id=?",
                (time.time(), self.owner, row[0]),
            )
            return _job(run(f"SELECT {_COLUMNS} FROM jobs WHERE id=?", (row[0],)).fetchone())

    def report(self, job: Job, progress: float) -> None:
        """Store the progress of a running job."""
        with self._transaction() as run:
            run(f"UPDATE jobs SET progress=? WHERE {_MINE}", (progress, *self._mine(job)))

    def _mine(self, job: Job) -> tuple[str, int, str]:
        return job.id, job.attempts, self.owner

    def is_canceled(self, job: Job) -> bool:
        """Return whether a client canceled a job."""
        with self._reading() as run:
            return bool(run("SELECT cancel FROM jobs WHERE id=?", (job.id,)).fetchone()[0])

    def finish(
        self, job: Job, state: str, *, result: Mapping[str, Any] | None = None, error: str | None = None
    ) -> bool:
        """End a job that this attempt runs.

        Args:
            job: as claimed.
            state: "done", "failed" or "canceled".
            result: of a job that is done.
            error: reason of a failure.

        Returns:
            False if another attempt runs it, or it has ended.
        """
        text = None if result is None else json.dumps(result, ensure_ascii=False)
        with self._transaction() as run:
            done = run(
                "UPDATE jobs SET state=?, finished=?, result=?, error=?, progress=CASE WHEN ?='done' THEN 1 ELSE "
                f"progress END WHERE {_MINE}",
                (state, time.time(), text, error, state, *self._mine(job)),
            ).rowcount
        if done:  # else another attempt reads the upload
            shutil.rmtree(self.uploads / job.id, ignore_errors=True)
        return bool(done)

    def release(self, job: Job) -> None:
        """Let a job that this attempt runs wait again; the attempt does not count."""
        with self._transaction() as run:
            run(
                f"UPDATE jobs SET state='waiting', attempts=attempts-1, progress=0 WHERE {_MINE}",
                self._mine(job),
            )

    def cancel(self, job: str) -> Job | None:
        """Cancel a job: a waiting one ends now, a running one at its next check; an ended one stays as it is."""
        with self._transaction() as run:
            now = time.time()
            run("UPDATE jobs SET cancel=1 WHERE id=? AND state IN ('waiting', 'running')", (job,))
            ended = run("UPDATE jobs SET state='canceled', finished=? WHERE id=? AND state='waiting'", (now, job))
            row = run(f"SELECT {_COLUMNS} FROM jobs WHERE id=?", (job,)).fetchone()
        if ended.rowcount:
            shutil.rmtree(self.uploads / job, ignore_errors=True)
        return None if row is None else _job(row)

    def forget(self, seconds: float) -> int:
        """Remove the jobs that ended longer ago than this; returns their number."""
        with self._transaction() as run:
            return run("DELETE FROM jobs WHERE finished < ?", (time.time() - seconds,)).rowcount

    def open_stream(self, stream: str) -> bool:
        """Reserve a stream for this server; False: it is open here or in another server."""
        with self._transaction() as run:
            row = run("SELECT owner FROM open_streams WHERE id=?", (stream,)).fetchone()
            if row is not None and self._servers.is_alive(row[0]):
                return False
            run("INSERT OR REPLACE INTO open_streams(id, owner) VALUES (?, ?)", (stream, self.owner))
        return True

    def close_stream(self, stream: str) -> None:
        """Let other connections open a stream that this server has reserved."""
        with self._transaction() as run:
            run("DELETE FROM open_streams WHERE id=? AND owner=?", (stream, self.owner))

    def close(self) -> None:
        """Close the database and release the folder; jobs that still run wait for another server."""
        with self._lock:
            self._connection.close()
        shutil.rmtree(self.received, ignore_errors=True)
        self._servers.close()


class _Transaction:
    """A transaction of one thread."""

    def __init__(self, connection: sqlite3.Connection, lock: threading.Lock, begin: str) -> None:
        self._connection, self._lock, self._begin = connection, lock, begin

    def __enter__(self) -> Callable[..., sqlite3.Cursor]:
        self._lock.acquire()
        try:
            self._connection.execute(self._begin)
        except sqlite3.Error:
            self._lock.release()
            raise
        return self._connection.execute

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
        finally:
            self._lock.release()


def _job(row: tuple[Any, ...]) -> Job:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    return Job(**{**values, "options": json.loads(values["options"]), "cancel": bool(values["cancel"])})
