"""Whether the source of a conversion is still the one that a database was made from: size, time and checksum."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidseg.videos.listing import Job, numbered_jpegs

__all__ = ["SourceState", "same_source", "source_digest", "source_state"]

_BLOCK = 1 << 20
_MOST_KNOWN = 1024


@dataclass(frozen=True)
class SourceState:
    """What can be seen of a source without reading it.

    Attributes:
        bytes: size of the file, or of all frames of a folder of JPEGs.
        modified: time of the last modification in nanoseconds since 1970; of a folder of JPEGs, the latest of the
            frames and of the folder, which changes when a frame is renamed.
    """

    bytes: int
    modified: int


_known: dict[tuple[tuple[str, ...], SourceState], str] = {}  # many clips may have one video as their source


def source_state(job: Job) -> SourceState:
    """Return size and time of a job's source.

    Raises:
        OSError: the source cannot be read.
        ValueError: a folder of JPEGs has several series of frames.
    """
    found = [path.stat() for path in _files(job)]
    modified = [info.st_mtime_ns for info in (*found, Path(job.source).stat())]
    return SourceState(sum(info.st_size for info in found), max(modified))


def source_digest(job: Job, *, progress: Callable[[], object] | None = None) -> dict[str, str]:
    """Return the SHA-256 of a job's source as an entry of the meta table.

    The key is `source_sha256`. A frame database has the key `database_sha256`, because its `source_sha256` is the
    checksum of the video that it was made from. The digest of a folder of JPEGs is that of its frames in order.

    Args:
        job: the job.
        progress: called after each megabyte that is read.

    Raises:
        OSError: the source cannot be read.
    """
    files = tuple(str(path) for path in _files(job))
    key = (files, source_state(job))
    if key not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = _sha256(files, progress)
    return {"database_sha256" if job.kind == "database" else "source_sha256": _known[key]}


def same_source(job: Job, meta: Mapping[str, Any]) -> bool:
    """Return whether a database with these entries of the meta table was made from the present source of a job.

    The name, the size and the clip times must be equal, and the time of the last modification or the checksum.

    Raises:
        OSError: the source cannot be read.
    """
    state = source_state(job)
    if (meta.get("source"), meta.get("source_bytes")) != (Path(job.source).name, state.bytes):
        return False
    if (meta.get("clip_start"), meta.get("clip_stop")) != (job.start, job.stop):
        return False
    return meta.get("source_modified") == state.modified or source_digest(job).items() <= meta.items()


def _files(job: Job) -> list[Path]:
    path = Path(job.source)
    return [frame for _, frame in numbered_jpegs(path)] if job.kind == "jpegs" else [path]


def _sha256(files: tuple[str, ...], progress: Callable[[], object] | None) -> str:
    digest = hashlib.sha256()
    for name in files:
        with open(name, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                if progress is not None:
                    progress()
    return digest.hexdigest()
