"""Jobs for long videos in an SQLite store that survives a crash.

A job is accepted when its row is committed; its upload is on the disk by then. A job that was running when the server
died runs again at the next start. Its result is written in the transaction that ends it, and only by the attempt that
runs it now, so that a job has one result.
"""

from __future__ import annotations

import fcntl
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

__all__ = ["Job", "JobStore", "sync_folder"]

_ATTEMPTS = 3  # starts of a job, each of which the server did not survive
_STATES = ("waiting", "running", "done", "failed", "canceled")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs(
    id TEXT PRIMARY KEY, request TEXT UNIQUE, model TEXT NOT NULL, options TEXT NOT NULL, kind TEXT NOT NULL,
    name TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, progress REAL NOT NULL, cancel INTEGER NOT NULL,
    created REAL NOT NULL, started REAL, finished REAL, error TEXT, result TEXT);
CREATE INDEX IF NOT EXISTS jobs_of_state ON jobs(state, created);
"""
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

    Raises:
        ValueError: another server uses the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.uploads = folder, folder / "uploads"
        self.uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock_file = open(folder / "lock", "w")  # noqa: SIM115  (held as long as the store is open)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.close()
            raise ValueError(f"{folder}: another server uses this folder; choose another one with --store") from error
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(folder / "jobs.db", check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(_SCHEMA)
        self._recover()

    def _recover(self) -> None:
        """Put back the jobs that the last server was running, and remove uploads without a job."""
        with self._transaction() as run:
            now = time.time()
            run("UPDATE jobs SET state='canceled', finished=? WHERE cancel AND state IN ('waiting', 'running')", (now,))
            run(
                "UPDATE jobs SET state='failed', finished=?, error=? WHERE state='running' AND attempts >= ?",
                (now, f"the server stopped {_ATTEMPTS} times while this job was running", _ATTEMPTS),
            )
            run("UPDATE jobs SET state='waiting', progress=0 WHERE state='running'")
            needed = {row[0] for row in run("SELECT id FROM jobs WHERE state='waiting'")}
        for path in self.uploads.iterdir():
            if path.name not in needed:
                shutil.rmtree(path, ignore_errors=True)

    def _transaction(self) -> _Transaction:
        return _Transaction(self._connection, self._lock)

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
        with self._transaction() as run:
            row = run(f"SELECT {_COLUMNS} FROM jobs WHERE id=?", (job,)).fetchone()
        return None if row is None else _job(row)

    def find_request(self, request: str) -> Job | None:
        """Return the job of a request, or None."""
        with self._transaction() as run:
            row = run(f"SELECT {_COLUMNS} FROM jobs WHERE request=?", (request,)).fetchone()
        return None if row is None else _job(row)

    def latest(self, count: int) -> list[Job]:
        """Return the jobs that were accepted last, the newest first."""
        with self._transaction() as run:
            rows = run(f"SELECT {_COLUMNS} FROM jobs ORDER BY created DESC, rowid DESC LIMIT ?", (count,)).fetchall()
        return [_job(row) for row in rows]

    def result(self, job: str) -> dict[str, Any] | None:
        """Return the result of a job that is done, else None."""
        with self._transaction() as run:
            row = run("SELECT result FROM jobs WHERE id=? AND state='done'", (job,)).fetchone()
        found: dict[str, Any] | None = None if row is None else json.loads(row[0])
        return found

    def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        with self._transaction() as run:
            rows = dict(run("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall())
        return {state: rows.get(state, 0) for state in _STATES}

    def claim(self) -> Job | None:
        """Start the job that waits longest; None: no job waits."""
        with self._transaction() as run:
            row = run("SELECT id FROM jobs WHERE state='waiting' ORDER BY created, rowid LIMIT 1").fetchone()
            if row is None:
                return None
            run("UPDATE jobs SET state='running', attempts=attempts+1, started=? WHERE id=?", (time.time(), row[0]))
            return _job(run(f"SELECT {_COLUMNS} FROM jobs WHERE id=?", (row[0],)).fetchone())

    def report(self, job: Job, progress: float) -> None:
        """Store the progress of a running job."""
        with self._transaction() as run:
            run("UPDATE jobs SET progress=? WHERE id=? AND attempts=?", (progress, job.id, job.attempts))

    def is_canceled(self, job: Job) -> bool:
        """Return whether a client canceled a job."""
        with self._transaction() as run:
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
                "progress END WHERE id=? AND state='running' AND attempts=?",
                (state, time.time(), text, error, state, job.id, job.attempts),
            ).rowcount
        shutil.rmtree(self.uploads / job.id, ignore_errors=True)
        return bool(done)

    def release(self, job: Job) -> None:
        """Let a job that this attempt runs wait again; the attempt does not count."""
        with self._transaction() as run:
            run(
                "UPDATE jobs SET state='waiting', attempts=attempts-1, progress=0 WHERE id=? AND state='running' AND "
                "attempts=?",
                (job.id, job.attempts),
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

    def close(self) -> None:
        """Close the database and release the folder."""
        with self._lock:
            self._connection.close()
        self._lock_file.close()


class _Transaction:
    """A transaction of one thread."""

    def __init__(self, connection: sqlite3.Connection, lock: threading.Lock) -> None:
        self._connection, self._lock = connection, lock

    def __enter__(self) -> Callable[..., sqlite3.Cursor]:
        self._lock.acquire()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
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
