"""Lookup of the video files that a data set was converted from."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from vidseg.frames import FrameDatabase
from vidseg.labels import VideoFile
from vidseg.videos.opening import VideoError

__all__ = ["SourceFiles"]


class SourceFiles:
    """Source video file of each database of a data set, read from conversion_report.json.

    Args:
        root: folder of the data set.
        videos: folder to search for the files by name and size instead, at any depth; None: they are where the
            conversion has read them.
        remedy: what to do about a missing file, for the message.
    """

    def __init__(self, root: Path, *, videos: Path | None = None, remedy: str | None = None) -> None:
        self.root, self.videos = root, videos
        self.remedy = remedy or _REMEDY
        self._sources: dict[str, str] | None = None
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, folder: str) -> VideoFile:
        """Return the source file of the video in `folder`, with the clip times and rate of its conversion.

        Args:
            folder: folder of the database relative to the root, jpg/<class>/<video>.

        Raises:
            VideoError: the source file is unknown, missing, or changed since the conversion.
            FrameDatabaseError: the database cannot be read.
        """
        meta = FrameDatabase(self.root / folder / "frames.db").meta
        path = self._listed(folder, meta) if self.videos is None else self._searched(folder, meta, self.videos)
        options = json.loads(str(meta.get("options", "{}")))
        return VideoFile(path, start=meta.get("clip_start"), stop=meta.get("clip_stop"), fps=options.get("fps"))

    def _listed(self, folder: str, meta: dict[str, Any]) -> Path:
        source = self._known().get(folder.removeprefix("jpg/"))
        path = None if source is None else Path(source)
        if path is None or path.name != meta.get("source"):
            raise VideoError(
                f"{self.root / folder}: conversion_report.json does not list its source video; {self.remedy}"
            )
        if not path.is_file():
            raise VideoError(f"{self.root / folder}: its source {path} does not exist; {self.remedy}")
        if path.stat().st_size != meta.get("source_bytes"):
            raise VideoError(f"{self.root / folder}: its source {path} has changed since the conversion; {self.remedy}")
        return path

    def _searched(self, folder: str, meta: dict[str, Any], videos: Path) -> Path:
        if self._by_name is None:
            self._by_name = defaultdict(list)
            for path in sorted(videos.rglob("*")):
                self._by_name[path.name].append(path)
        name, size = meta.get("source"), meta.get("source_bytes")
        found = [path for path in self._by_name.get(str(name), []) if path.is_file() and path.stat().st_size == size]
        if not found:
            raise VideoError(f"{self.root / folder}: no file {name} of {size} bytes below {videos}")
        own_class = folder.split("/")[-2]
        return next((path for path in found if path.parent.name == own_class), found[0])

    def _known(self) -> dict[str, str]:
        if self._sources is None:
            report = self.root / "conversion_report.json"
            try:
                videos = json.loads(report.read_text())["videos"]
                self._sources = {video["target"]: video["source"] for video in videos}
            except FileNotFoundError:
                self._sources = {}
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise VideoError(f"{report}: not a valid conversion report ({error}); {self.remedy}") from error
        return self._sources


_REMEDY = 'use backend="native", or open the video files with vidseg.open_videos(folder)'
