"""Source videos of a data set for a browser: each has an address with a random name, and times of its frames."""

from __future__ import annotations

import mimetypes
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidseg.frames import FrameDatabase
from vidseg.frames.schema import FrameDatabaseError
from vidseg.videos.decoding import VideoSource
from vidseg.videos.opening import VideoError
from vidseg.videos.source_files import SourceFiles

__all__ = ["PlayableVideo", "SourceVideos"]

_KEPT = 1000  # addresses
_REMEDY = "start with `--videos FOLDER` where it is now"


@dataclass(frozen=True)
class PlayableVideo:
    """A source video.

    Attributes:
        name: random name in its address.
        file: name of the file, to show.
        codec: of the video stream.
        times: seconds of each frame of the database from the first frame of the file.
        seconds: end of the last frame.
    """

    name: str
    file: str
    codec: str
    times: list[float]
    seconds: float


class SourceVideos:
    """Finds and checks the source videos of a data set.

    A browser's player cannot send a token. The address of a file therefore has a random name, which only the answer to
    a request with the token contains.

    Args:
        root: folder of the data set.
        videos: folder to search for the files by name and size; None: they are where the conversion has read them.
    """

    def __init__(self, root: Path, *, videos: Path | None = None) -> None:
        self._root, self._sources = root, SourceFiles(root, videos=videos, remedy=_REMEDY)
        self._found: dict[str, tuple[PlayableVideo, Path]] = {}  # by the video's path
        self._lock = threading.Lock()

    def find(self, path: str) -> PlayableVideo:
        """Return the source of a video of the catalog.

        Args:
            path: folder of the video, which the caller has found in the catalog.

        Raises:
            ValueError: it has no source that can be shown frame by frame; the message says why.
        """
        with self._lock:
            known = self._found.get(path)
            if known is not None and known[1].is_file():
                return known[0]
            try:
                found = self._check(path)
            except (FrameDatabaseError, OSError, VideoError) as error:
                raise ValueError(str(error)) from error
            self._found[path] = found
            while len(self._found) > _KEPT:
                self._found.pop(next(iter(self._found)))
            return found[0]

    def file(self, name: str) -> Path | None:
        """Return the file with the random name of an address, or None."""
        with self._lock:
            return next(
                (file for video, file in self._found.values() if secrets.compare_digest(video.name, name)), None
            )

    def media_type(self, path: Path) -> str:
        """Return the media type of a video file by its ending."""
        found = mimetypes.guess_type(path.name)[0] or ""
        return found if found.startswith("video/") else "application/octet-stream"

    def _check(self, path: str) -> tuple[PlayableVideo, Path]:
        source = self._sources.find(path)
        with FrameDatabase(self._root / path / "frames.db") as database:
            times, meta = database.timestamps, database.meta
        if times is None or not len(times) or (np.diff(times) <= 0).any() or meta.get("times_replaced"):
            raise ValueError(f"{source.path.name}: its frames have no reliable times")
        if source.fps is not None:
            raise ValueError(f"{source.path.name}: its frames were converted to {source.fps:g} frames per second")
        try:
            first = next(iter(VideoSource(source.path)))  # refuses what is no video, such as a playlist
        except VideoError as error:
            raise ValueError(f"{source.path.name}: {error}") from error
        relative = (times - first.time).round(9).tolist()
        last = float(np.median(np.diff(times))) if len(times) > 1 else 0.04
        name = secrets.token_urlsafe(24)
        codec = str(meta.get("codec", "unknown"))
        return PlayableVideo(name, source.path.name, codec, relative, relative[-1] + last), source.path
