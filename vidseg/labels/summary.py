"""Counts of a catalog: videos, frames and segments per class and split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vidseg.labels.catalog import read_catalog
from vidseg.labels.classes import class_names
from vidseg.labels.counting import counted

__all__ = ["CatalogSummary", "summarize_catalog"]

_NONE = "(no class)"


@dataclass
class CatalogSummary:
    """Counts of a data set.

    Attributes:
        videos: number of videos.
        frames: number of frames.
        size_bytes: size of all databases in bytes.
        segments: number of labeled segments of untrimmed videos.
        splits: number of videos of each split.
        classes: counts of each class in the order of its number: `videos` in all, `segments`, and the videos of each
            split; "(no class)" is last, if there are such videos.
    """

    videos: int
    frames: int
    size_bytes: int
    segments: int
    splits: dict[str, int]
    classes: dict[str, dict[str, int]]

    def __str__(self) -> str:
        lines = [
            f"{counted(self.videos, 'video')}, {counted(self.frames, 'frame')}, {self.size_bytes / 1e9:.2f} GB,"
            f" {counted(len(self.classes.keys() - {_NONE}), 'class', 'classes')}, {counted(self.segments, 'segment')}"
        ]
        columns = ["videos", *(["segments"] if self.segments else []), *self.splits]
        totals = {"videos": self.videos, "segments": self.segments, **self.splits}
        table: list[Sequence[object]] = [["", "class", *columns]]
        for number, (name, counts) in enumerate(self.classes.items()):
            table.append(["-" if name == _NONE else number, name, *(counts.get(column, 0) for column in columns)])
        table.append(["", "all", *(totals[column] for column in columns)])
        widths = [max(len(str(row[column])) for row in table) for column in range(len(columns) + 2)]
        for row in table:
            cells = [str(cell) for cell in row]
            name = cells.pop(1).ljust(widths[1])
            numbers = [cell.rjust(width) for cell, width in zip(cells, (widths[0], *widths[2:]), strict=True)]
            lines.append("  ".join([numbers[0], name, *numbers[1:]]))
        return "\n".join(lines)


def summarize_catalog(root: str | Path) -> CatalogSummary:
    """Count videos, frames and segments in the catalog of `root`.

    Raises:
        FileNotFoundError: the catalog does not exist.
        ValueError: the file is not a catalog.
    """
    with read_catalog(root, content=True) as connection:
        rows = connection.execute
        names = class_names(connection)
        classes: dict[str, dict[str, int]] = {name: {"videos": 0} for name in names}
        for name, count in rows(
            "SELECT c.name, count(*) FROM videos v LEFT JOIN classes c ON c.id = v.class_id GROUP BY c.name"
        ):
            classes.setdefault(name or _NONE, {})["videos"] = count
        for name, count in rows(
            "SELECT c.name, count(*) FROM segments s JOIN classes c ON c.id = s.class_id GROUP BY c.name"
        ):
            classes[name]["segments"] = count
        for name, split, count in rows(
            "SELECT c.name, p.name, count(*) FROM split_videos m JOIN splits p ON p.id = m.split_id"
            " JOIN videos v ON v.id = m.video_id LEFT JOIN classes c ON c.id = v.class_id GROUP BY c.name, p.name"
        ):
            classes[name or _NONE][split] = count
        splits = dict(
            rows(
                "SELECT p.name, count(m.video_id) FROM splits p LEFT JOIN split_videos m ON m.split_id = p.id"
                " GROUP BY p.name ORDER BY p.name"
            ).fetchall()
        )
        videos, frames, size = rows("SELECT count(*), total(frames), total(size_bytes) FROM videos").fetchone()
        (segments,) = rows("SELECT count(*) FROM segments").fetchone()
    return CatalogSummary(videos, int(frames), int(size), segments, splits, classes)
