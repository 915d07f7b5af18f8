"""Verification of all frame databases of a data set, with optional upgrade or repair in place (`vidseg check`)."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vidseg.frames import FrameDatabase, FrameDatabaseError, FrameWriter, decode_jpeg
from vidseg.frames.schema import COUNT_NAME, DATABASE_NAME
from vidseg.frames.writer import TEMPORARY_SUFFIX
from vidseg.labels.counting import counted

__all__ = ["CheckReport", "DatabaseCheck", "check_databases"]


@dataclass
class DatabaseCheck:
    """Result of the check of one database.

    Attributes:
        path: path of the frames.db.
        frames: number of frames after the check.
        problems: faults found, one sentence each.
        actions: changes made to the database.
        repaired: whether the faults were repaired.
    """

    path: str
    frames: int = 0
    problems: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    repaired: bool = False


@dataclass
class CheckReport:
    """Results of the check of all databases below a folder.

    Attributes:
        root: the folder, or the single database.
        databases: one result for each database.
        leftovers: temporary files of interrupted conversions.
        leftovers_removed: whether these files were deleted.
    """

    root: str
    databases: list[DatabaseCheck]
    leftovers: list[str]
    leftovers_removed: bool

    @property
    def ok(self) -> bool:
        """Whether every fault found was repaired."""
        sound = all(not check.problems or check.repaired for check in self.databases)
        return sound and (self.leftovers_removed or not self.leftovers)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        return {**asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        lines = []
        for check in self.databases:
            lines += [f"{check.path}: {problem}" for problem in check.problems]
            lines += [f"{check.path}: {action}" for action in check.actions]
        done = (
            "removed" if self.leftovers_removed else "temporary file of an interrupted conversion; --repair removes it"
        )
        lines += [f"{path}: {done}" for path in self.leftovers]
        faulty = sum(bool(check.problems) and not check.repaired for check in self.databases)
        frames = sum(check.frames for check in self.databases)
        lines.append(f"{counted(len(self.databases), 'database')}, {counted(frames, 'frame')}, {faulty} with faults")
        return "\n".join(lines)


def check_databases(path: str | Path, *, index: bool = False, repair: bool = False) -> CheckReport:
    """Verify all frame databases at or below `path`.

    Args:
        path: a frames.db or a folder.
        index: rewrite databases in the format of dataset2database 1.2 with an integer key, frames in order and
            metadata.
        repair: rewrite faulty databases with the frames that can be decoded, write missing n_frames files and delete
            temporary files.

    Returns:
        A report with the faults of each database.

    Raises:
        FileNotFoundError: `path` holds no database.
    """
    root = Path(path)
    paths = [root] if root.is_file() else sorted(root.rglob(DATABASE_NAME))
    if not paths:
        raise FileNotFoundError(f"{root}: no {DATABASE_NAME} at or below this path; run `vidseg convert` first")
    leftovers = [] if root.is_file() else sorted(map(str, root.rglob(f"*{TEMPORARY_SUFFIX}")))
    # The compiled decoder releases the GIL, so threads are enough.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        checks = list(threads.map(lambda file: _check_one(file, index, repair), paths))
    if repair:
        for leftover in leftovers:
            Path(leftover).unlink(missing_ok=True)
    return CheckReport(str(root), checks, leftovers, repair)


def _check_one(path: Path, index: bool, repair: bool) -> DatabaseCheck:
    check = DatabaseCheck(str(path))
    try:
        database = FrameDatabase(path)
    except FrameDatabaseError as error:
        check.problems.append(f"{str(error).removeprefix(f'{path}: ')}; convert the video again")
        return check
    check.frames = len(database)
    check.problems = database.verify()
    count_file = path.with_name(COUNT_NAME)
    try:
        if repair and not count_file.is_file() and all(problem.startswith(COUNT_NAME) for problem in check.problems):
            count_file.write_text(str(len(database)))
            check.actions.append(f"{COUNT_NAME} written")
            check.repaired = True
        elif repair and check.problems:
            check.frames = _rewrite(database, skip_damaged=True)
            check.actions.append(f"rewritten with {counted(check.frames, 'decodable frame')}")
            check.repaired = True
        elif index and "format" not in database.meta and not check.problems:
            check.frames = _rewrite(database, skip_damaged=False)
            check.actions.append("upgraded with an integer key, frames in order and metadata")
    except (FrameDatabaseError, OSError) as error:
        check.problems.append(f"cannot be rewritten: {error}")
    return check


def _rewrite(database: FrameDatabase, *, skip_damaged: bool) -> int:
    """Rewrite a database in place, copying the JPEG data unchanged; return the number of frames kept."""
    times = database.timestamps
    kept = [index for index in range(len(database)) if not skip_damaged or _decodes(database, index)]
    own = {"format", "frames", "levels", "crc32"}  # set by the writer
    meta = {key: value for key, value in database.meta.items() if key not in own}
    if len(kept) < len(database):
        meta["dropped_frames"] = len(database) - len(kept)
    with FrameWriter(database.path, levels=database.levels) as writer:
        for index in kept:
            (jpeg,) = database.read([index])
            height, width = decode_jpeg(jpeg).shape[:2]
            levels = [database.read([index], level=level)[0] for level in range(1, database.levels + 1)]
            moment = float(times[index]) if times is not None and len(times) == len(database) else None
            writer.add(jpeg, width=width, timestamp=moment, levels=levels)
        writer.meta = {"height": height, "width": width, **meta} if kept else meta
    return len(kept)


def _decodes(database: FrameDatabase, index: int) -> bool:
    try:
        for level in range(database.levels + 1):
            database.decode([index], level=level)
    except FrameDatabaseError:
        return False
    return True
