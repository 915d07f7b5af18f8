"""Verification of all databases of a data set, with optional upgrade or repair in place (`vidseg check`)."""

import contextlib
import os
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vidseg.convert.conversion_lock import TargetError, lock_dataset, locked_dataset
from vidseg.frames import (
    FlowDatabase,
    FrameDatabase,
    FrameDatabaseError,
    FrameWriter,
    decode_jpeg,
    encode_rgb,
    open_database,
)
from vidseg.frames.schema import COUNT_NAME, DATABASE_NAME, DATABASE_NAMES
from vidseg.frames.writer import temporary_files
from vidseg.labels.catalog import catalog_path, read_catalog
from vidseg.labels.catalog_videos import VideoRecord, update_catalog
from vidseg.labels.counting import counted

__all__ = ["CheckReport", "DatabaseCheck", "check_databases"]

_BESIDE_FRAMES = set(DATABASE_NAMES.values()) - {DATABASE_NAME}
_EXTRACT = "run `vidseg extract-flow` with --overwrite"


@dataclass
class DatabaseCheck:
    """Result of the check of one database.

    Attributes:
        path: path of the database.
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
    """Verify all frame databases at or below `path`, and the databases of flow, motion vectors and residuals.

    With `index` or `repair` the lock of each data set is held, as in a conversion, temporary files of interrupted
    conversions are deleted, and the catalog is updated.

    Args:
        path: a database or a folder.
        index: rewrite databases in the format of dataset2database 1.2 with an integer key, frames in order and
            metadata.
        repair: rewrite faulty databases: damaged smaller copies are made again from their frame, and frames that cannot
            be decoded are dropped. Write missing n_frames files. Databases of flow are not repaired, because their
            rows belong to those of frames.db.

    Returns:
        A report with the faults of each database.

    Raises:
        FileNotFoundError: `path` holds no database.
        TargetError: a data set is to be changed, and a conversion is writing to it or its folder cannot be written.
    """
    root = Path(path)
    paths = (
        [root] if root.is_file() else sorted(found for name in DATABASE_NAMES.values() for found in root.rglob(name))
    )
    if not paths:
        raise FileNotFoundError(f"{root}: no {DATABASE_NAME} at or below this path; run `vidseg convert` first")
    datasets = {dataset for file in paths if (dataset := _dataset_of(file)) is not None}
    changing = index or repair
    with _locked(datasets) if changing else contextlib.nullcontext():
        leftovers = [] if root.is_file() else _leftovers(root, datasets, changing=changing)
        # The compiled decoder releases the GIL, so threads are enough.
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            checks = list(threads.map(lambda file: _check_one(file, index, repair), paths))
        if changing:
            for leftover in leftovers:
                Path(leftover).unlink(missing_ok=True)
            _update_catalogs(check.path for check in checks if check.actions and Path(check.path).name == DATABASE_NAME)
    return CheckReport(str(root), checks, leftovers, changing)


def _dataset_of(database: Path) -> Path | None:
    """Return the root of the data set `<root>/jpg/<class>/<video>/frames.db`, or None for a database elsewhere."""
    parents = database.resolve().parents
    return parents[3] if len(parents) > 3 and parents[2].name == "jpg" else None


@contextlib.contextmanager
def _locked(datasets: Iterable[Path]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for dataset in sorted(datasets):
            try:
                stack.enter_context(lock_dataset(dataset))
            except OSError as error:
                raise TargetError(f"{dataset}: cannot write to this folder: {error.strerror or error}") from error
        yield


def _leftovers(root: Path, datasets: Iterable[Path], *, changing: bool) -> list[str]:
    """Return temporary files of conversions that no longer run."""
    running = set() if changing else {dataset for dataset in datasets if locked_dataset(dataset)}
    found = []
    for folder, _, _ in os.walk(root):
        here = Path(folder)
        if running and not running.isdisjoint({here.resolve(), *here.resolve().parents}):
            continue
        found += [str(path) for path in temporary_files(here)]
    return sorted(found)


def _check_one(path: Path, index: bool, repair: bool) -> DatabaseCheck:
    check = DatabaseCheck(str(path))
    try:
        database = open_database(path)
    except FrameDatabaseError as error:
        remedy = "convert the video again" if path.name not in _BESIDE_FRAMES else _EXTRACT
        check.problems.append(f"{str(error).removeprefix(f'{path}: ')}; {remedy}")
        return check
    check.frames = len(database)
    check.problems = database.verify()
    if isinstance(database, FlowDatabase):
        check.problems += _check_beside(database)
        if repair and check.problems:
            check.actions.append(f"not repaired: {_EXTRACT}")
        return check
    try:
        if repair and check.problems and all(problem.startswith(COUNT_NAME) for problem in check.problems):
            _write_count(path.with_name(COUNT_NAME), len(database))
            check.actions.append(f"{COUNT_NAME} written")
        elif repair and database.coded is not None and check.problems:
            check.actions.append("not repaired, because the frames of a group depend on each other; convert it again")
            return check
        elif repair and any("CRC-32" in problem for problem in check.problems):
            # A new checksum would hide the fault.
            check.actions.append("not repaired, because it is unknown which frame has changed; convert the video again")
            return check
        elif repair and check.problems:
            check.actions.append(_rewrite(database, repair=True))
        elif index and "format" not in database.meta and not check.problems:
            _rewrite(database, repair=False)
            check.actions.append("upgraded with an integer key, frames in order and metadata")
        if check.actions:
            changed = FrameDatabase(path)
            check.frames = len(changed)
            left = changed.verify()
            check.repaired = not left
            check.actions += [f"not repaired: {problem}; convert the video again" for problem in left]
    except (FrameDatabaseError, OSError) as error:
        check.problems.append(f"cannot be rewritten: {error}")
    return check


def _check_beside(database: FlowDatabase) -> list[str]:
    """Compare a database of flow with the frames beside it, if there are any."""
    path = database.path.with_name(DATABASE_NAME)
    try:
        frames = FrameDatabase(path)
    except FileNotFoundError:  # extracted from a video file
        return []
    except FrameDatabaseError:  # reported for that database
        return []
    if len(frames) != len(database):
        return [f"{counted(len(database), 'row')} for {counted(len(frames), 'frame')} of {DATABASE_NAME}"]
    if "frames_crc32" in database.meta and database.meta["frames_crc32"] != frames.meta.get("crc32"):
        return [f"made from other frames than those of {DATABASE_NAME}; {_EXTRACT}"]
    return []


def _rewrite(database: FrameDatabase, *, repair: bool) -> str:
    """Rewrite a database in place and return what was changed.

    The JPEG data is copied unchanged. With `repair`, frames that cannot be decoded are dropped, and damaged smaller
    copies are made again from their frame.
    """
    times = database.timestamps
    if times is not None and len(times) != len(database):
        times = None
    own = {"format", "frames", "levels", "crc32"}  # set by the writer
    meta = {key: value for key, value in database.meta.items() if key not in own}
    kept: list[int] = []
    made = 0
    with FrameWriter(database.path, levels=database.levels) as writer:
        for index in range(len(database)):
            try:
                (jpeg,) = database.read([index])
                height, width = database.decode([index], level=0).shape[1:3]
            except FrameDatabaseError:
                if not repair:
                    raise
                continue
            levels = [_level(database, index, level) for level in range(1, database.levels + 1)]
            if None in levels:
                copies = _copies(jpeg, database)
                made += levels.count(None)
                levels = [copies[level] if blob is None else blob for level, blob in enumerate(levels)]
            moment = None if times is None else float(times[index])
            writer.add(jpeg, width=width, timestamp=moment, levels=levels)  # type: ignore[arg-type]
            kept.append(index)
        writer.timestamps.sort()
        dropped = len(database) - len(kept)
        if dropped:
            meta["dropped_frames"] = dropped + int(meta.get("dropped_frames", 0))
        writer.meta = {"height": height, "width": width, **meta} if kept else meta
    text = f"rewritten with {counted(len(kept), 'frame')}"
    if made:
        text += f"; {counted(made, 'smaller copy', 'smaller copies')} made again"
    if dropped:
        text += f"; {counted(dropped, 'damaged frame')} dropped, so that later frames have smaller numbers"
    return text


def _level(database: FrameDatabase, index: int, level: int) -> bytes | None:
    """Return the JPEG of a smaller copy, or None if it is missing, damaged or of a wrong size."""
    expected = tuple(-(-side // 2**level) for side in database.frame_size)
    try:
        size = tuple(database.decode([index], level=level).shape[1:3])
        return database.read([index], level=level)[0] if size == expected else None
    except FrameDatabaseError:
        return None


def _copies(jpeg: bytes, database: FrameDatabase) -> list[bytes]:
    """Encode the smaller copies of a frame as the conversion does, the one of half the side first."""
    meta = database.meta
    return encode_rgb(
        decode_jpeg(jpeg),
        int(meta.get("quality", 90)),
        chroma=int(meta.get("chroma", 420)),
        restart_interval=int(meta.get("restart_interval", -1)),
        levels=database.levels,
    )[1:]


def _write_count(path: Path, frames: int) -> None:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_text(str(frames))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _update_catalogs(changed: Iterable[str]) -> None:
    """Write the properties of changed databases to the catalogs that list them."""
    by_dataset: dict[Path, list[VideoRecord]] = defaultdict(list)
    for path in changed:
        dataset = _dataset_of(Path(path))
        if dataset is None or not catalog_path(dataset).is_file():
            continue
        database = FrameDatabase(path)
        height, width = database.frame_size
        by_dataset[dataset].append(
            VideoRecord(
                path=database.path.resolve().parent.relative_to(dataset).as_posix(),
                label=None,
                frames=len(database),
                height=height,
                width=width,
                fps=database.meta.get("fps") or 0.0,
                seconds=database.meta.get("duration") or 0.0,
                size_bytes=database.path.stat().st_size,
            )
        )
    for dataset, records in by_dataset.items():
        with read_catalog(dataset) as connection:
            listed = {path for (path,) in connection.execute("SELECT path FROM videos")}
        update_catalog(dataset, [record for record in records if record.path in listed])
