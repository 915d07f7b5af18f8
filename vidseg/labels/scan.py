"""Builds the catalog again from the frame databases on disk: after shards were merged, copied or deleted by hand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from vidseg.labels.catalog import (
    UNLABELED,
    VideoRecord,
    catalog_path,
    merge_staged,
    read_catalog,
    stage_records,
    write_catalog,
)

__all__ = ["ScanReport", "scan_catalog"]

logger = logging.getLogger(__name__)


@dataclass
class ScanReport:
    """What a scan found.

    Attributes:
        videos: number of videos in the catalog now.
        added: paths that the catalog did not have.
        removed: paths that it had and that are no longer on disk, or no longer readable.
        unreadable: `<path>: <reason>` of every database that cannot be opened; these are not in the catalog.
    """

    videos: int
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.videos} videos in the catalog: {len(self.added)} added, {len(self.removed)} removed"]
        lines += [f"    removed {path}" for path in self.removed[:5]]
        lines += [f"    unreadable {what}" for what in self.unreadable]
        return "\n".join(lines)


def scan_catalog(root: str | Path) -> ScanReport:
    """Makes the catalog of `root` agree with the databases under `<root>/jpg`.

    Classes (with their order), labels, splits and segments of videos already known stay; a new video takes the class of
    its folder. Videos that are gone leave the catalog; those that never had frames (features only) stay.

    Raises:
        FileNotFoundError: no such folder, or nothing was converted into it.
        ValueError: the catalog has videos, the disk none (a disk that is not mounted must not empty the catalog).
        OSError: the catalog cannot be written; it is as it was before.
    """
    root = Path(root)
    if not (root / "jpg").is_dir():
        raise FileNotFoundError(f"{root / 'jpg'}: no such folder; give the folder that `vidseg convert` wrote into")
    known = set()
    if catalog_path(root).is_file():
        with closing(read_catalog(root)) as connection:
            # size_bytes 0: a video that has frame labels and features, and no frames to be found
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
                logger.info("%d videos read", len(found))

    with write_catalog(root) as db:
        # Reading the databases may take minutes; the catalog is locked meanwhile, so a second scan waits or fails
        # instead of overwriting this one.
        stage_records(db, records())
        if known and not found:
            raise ValueError(
                f"{root}: the catalog has {len(known)} videos, but none of them is under {root / 'jpg'};"
                " is the disk mounted? If the data set is to be empty, remove catalog.db"
            )
        if not found:
            raise FileNotFoundError(f"{root / 'jpg'}: no readable <class>/<video>/frames.db in it")
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
            frames, fps, timestamps = len(database), float(database.meta.get("fps") or 0), database.timestamps
            height, width = database.frame_size
    except (OSError, ValueError, RuntimeError) as error:
        report.unreadable.append(f"{path}: {error}")
        return None
    if frames == 0:
        report.unreadable.append(f"{path}: no frames in it")
        return None
    folder = path.split("/")[1]
    # The last frame is shown for as long as a mean frame. Databases of dataset2database 1.2 know neither time nor rate.
    seconds = float(timestamps[-1] - timestamps[0]) + 1 / fps if fps and timestamps is not None else 0.0
    label = None if folder == UNLABELED else folder
    return VideoRecord(path, label, frames, height, width, fps, seconds, file.stat().st_size)
