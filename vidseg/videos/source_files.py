"""The video files that a data set was converted from, as far as the conversion's report leads to them."""

from __future__ import annotations

import json
from pathlib import Path

from vidseg.frames import FrameDatabase
from vidseg.labels import VideoFile
from vidseg.videos.decoding import VideoError

__all__ = ["SourceFiles"]


class SourceFiles:
    """Finds the file behind each database of a data set.

    Args:
        root: folder of the data set; conversion_report.json in it says where the videos were.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sources: dict[str, str] | None = None

    def find(self, folder: str) -> VideoFile:
        """The file of the video in `folder`, jpg/<class>/<video>, and what of it was converted.

        Raises:
            VideoError: the file is not known, not there any more, or another one now.
            FrameDatabaseError: the database cannot be read.
        """
        meta = FrameDatabase(self.root / folder / "frames.db").meta
        source = self._known().get(folder.removeprefix("jpg/"))
        path = None if source is None else Path(source)
        if path is None or path.name != meta.get("source"):
            raise VideoError(
                f"{self.root / folder}: conversion_report.json does not say where its video lies; {_REMEDY}"
            )
        if not path.is_file():
            raise VideoError(f"{self.root / folder}: its video {path} is not there any more; {_REMEDY}")
        if path.stat().st_size != meta.get("source_bytes"):
            raise VideoError(f"{self.root / folder}: {path} has changed since it was converted; {_REMEDY}")
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
                raise VideoError(f"{report}: not the report of a conversion ({error}); {_REMEDY}") from error
        return self._sources


_REMEDY = 'use backend="native", or open the videos themselves with vidseg.open_videos(folder)'
