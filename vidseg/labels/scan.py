"""Rebuild of the catalog from the frame databases on disk, after shards were merged, copied or deleted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vidseg.labels.catalog import catalog_path, read_catalog, write_catalog
from vidseg.labels.catalog_content import MOST_SECONDS
from vidseg.labels.catalog_videos import UNLABELED, VideoRecord, merge_staged, stage_records
from vidseg.labels.counting import counted
from vidseg.labels.names import clean_name

if TYPE_CHECKING:
    from vidseg.frames import FrameDatabase

__all__ = ["ScanReport", "scan_catalog"]

logger = logging.getLogger(__name__)


@dataclass
class ScanReport:
    """Result of a scan.

    Attributes:
        videos: number of videos in the catalog after the scan.
        added: paths added to the catalog.
        removed: paths removed from the catalog, because the database is missing or unreadable.
        unreadable: `<path>: <reason>` of every database that cannot be opened; these are not in the catalog.
    """

    videos: int
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{counted(self.videos, 'video')} in the catalog: {len(self.added)} added, {len(self.removed)} removed"
        ]
        lines += [f"    removed {path}" for path in self.removed[:5]]
        lines += [f"    unreadable {what}" for what in self.unreadable]
        return "\n".join(lines)


def scan_catalog(root: str | Path) -> ScanReport:
    """Update the catalog of `root` to the databases under `<root>/jpg`.

    Classes (with their order), labels, splits and segments of known videos are kept; a new video gets the class of its
    folder. Videos without a database are removed; videos without frames (features only) are kept.

    Returns:
        The added, removed and unreadable databases.

    Raises:
        FileNotFoundError: the folder does not exist or has no databases.
        ValueError: the catalog has videos, but the disk has none, as with an unmounted disk.
        OSError: the catalog cannot be written; it is unchanged.
    """
    root = Path(root)
    if not (root / "jpg").is_dir():
        raise FileNotFoundError(f"{root / 'jpg'}: folder not found; pass the output folder of `vidseg convert`")
    known = set()
    if catalog_path(root).is_file():
        with read_catalog(root) as connection:
            # size_bytes 0: a video with frame labels and features, but without frames
            known = {path for (path,) in connection.execute("SELECT path FROM videos WHERE size_bytes > 0")}
    report = ScanReport(0)
    found: set[str] = set()

    def records() -> Iterator[VideoRecord]:
        for path in _database_folders(root):
            record = _record(root, path, report)
            if record is not None:
                found.add(path)
                yield record
            if len(found) % 10000 == 0 and found:
                logger.info("videos read: %d", len(found))

    with write_catalog(root) as db:
        # Reading the databases may take minutes; the catalog stays locked, so that a second scan waits or fails
        # instead of overwriting this one.
        stage_records(db, records())
        if known and not found:
            raise ValueError(
                f"{root}: the catalog has {counted(len(known), 'video')}, but {root / 'jpg'} has none; mount the"
                " disk, or use another folder for a new data set"
            )
        if not found:
            raise FileNotFoundError(f"{root / 'jpg'}: no readable <class>/<video>/frames.db in this folder")
        merge_staged(db)
        report.added, report.removed = sorted(found - known), sorted(known - found)
        db.conn.executemany("DELETE FROM videos WHERE path = ?", [(path,) for path in report.removed])
        report.videos = db["videos"].count
    return report


def _database_folders(root: Path) -> Iterator[str]:
    for folder in sorted(path for path in (root / "jpg").iterdir() if path.is_dir()):
        for video in sorted(path for path in folder.iterdir() if (path / "frames.db").is_file()):
            yield video.relative_to(root).as_posix()


def _record(root: Path, path: str, report: ScanReport) -> VideoRecord | None:
    from vidseg.frames import FrameDatabase

    file = root / path / "frames.db"
    try:
        with FrameDatabase(file) as database:
            frames, fps = len(database), float(database.meta.get("fps") or 0)
            height, width = database.frame_size
            seconds = _seconds(database, fps)
    except (OSError, ValueError, RuntimeError) as error:
        report.unreadable.append(f"{path}: {error}")
        return None
    if frames == 0:
        report.unreadable.append(f"{path}: the database has no frames")
        return None
    folder = path.split("/")[1]
    if not 0 <= seconds <= MOST_SECONDS:
        report.unreadable.append(f"{path}: it has a duration of {seconds:g} seconds")
        return None
    label = None if folder == UNLABELED else clean_name(folder)
    return VideoRecord(path, label, frames, height, width, fps, seconds, file.stat().st_size)


def _seconds(database: FrameDatabase, fps: float) -> float:
    """Return the duration of a video: the one that its conversion has recorded, else that of its timestamps.

    Databases of dataset2database 1.2 have neither, nor a frame rate; theirs is 0.
    """
    if "duration" in database.meta:
        return round(float(database.meta["duration"]), 6)
    timestamps = database.timestamps if fps else None
    if timestamps is None:
        return 0.0
    return float(timestamps[-1] - timestamps[0]) + 1 / fps  # the last frame has the mean frame duration
