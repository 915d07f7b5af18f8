"""Lookup of the video files that a data set was converted from."""

from __future__ import annotations

import json
from pathlib import Path

from vidseg.frames import FrameDatabase
from vidseg.labels import VideoFile
from vidseg.videos.opening import VideoError

__all__ = ["SourceFiles"]


class SourceFiles:
    """Source video file of each database of a data set, read from conversion_report.json.

    Args:
        root: folder of the data set.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sources: dict[str, str] | None = None

    def find(self, folder: str) -> VideoFile:
        """Return the source file of the video in `folder`, with the clip times and rate of its conversion.

        Args:
            folder: folder of the database relative to the root, jpg/<class>/<video>.

        Raises:
            VideoError: the source file is unknown, missing, or changed since the conversion.
            FrameDatabaseError: the database cannot be read.
        """
        meta = FrameDatabase(self.root / folder / "frames.db").meta
        source = self._known().get(folder.removeprefix("jpg/"))
        path = None if source is None else Path(source)
        if path is None or path.name != meta.get("source"):
            raise VideoError(f"{self.root / folder}: conversion_report.json does not list its source video; {_REMEDY}")
        if not path.is_file():
            raise VideoError(f"{self.root / folder}: its source {path} does not exist; {_REMEDY}")
        if path.stat().st_size != meta.get("source_bytes"):
            raise VideoError(f"{self.root / folder}: its source {path} has changed since the conversion; {_REMEDY}")
        options = json.loads(str(meta.get("options", "{}")))
        return VideoFile(path, start=meta.get("clip_start"), stop=meta.get("clip_stop"), fps=options.get("fps"))

    def _known(self) -> dict[str, str]:
        if self._sources is None:
            report = self.root / "conversion_report.json"
            try:
                videos = json.loads(report.read_text())["videos"]
                self._sources = {video["target"]: video["source"] for video in videos}
            except FileNotFoundError:
                self._sources = {}
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise VideoError(f"{report}: not a valid conversion report ({error}); {_REMEDY}") from error
        return self._sources


_REMEDY = 'use backend="native", or open the video files with vidseg.open_videos(folder)'
