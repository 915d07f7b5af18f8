"""Streams of clients: frames in, labels out, with a memory that is saved and resumed."""

from __future__ import annotations

import asyncio
import re
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import av.error

from vidseg.engine.checkpoints import save_checkpoint
from vidseg.live.frame_segments import join_frames
from vidseg.live.session import LabeledFrame
from vidseg.live.source import LiveSource
from vidseg.models._torch_file import read_torch_file
from vidseg.serve.predictors import Predictor
from vidseg.serve.upload_checks import RequestError, check_jpeg
from vidseg.videos.container_check import ContainerCheck

__all__ = ["ChunkQueue", "ChunkSource", "JpegSource", "StreamSession", "check_session_id"]

_HISTORY = 4096  # labeled frames that can be sent again
_HELD_BYTES = 16 << 20
_HELD_CHUNKS = 64
_ID = re.compile(r"[0-9a-f]{32}")


def check_session_id(name: str) -> str:
    """Return the id of a stream, which is also the name of its file.

    Raises:
        RequestError: it is not an id that the server gave (404).
    """
    if not _ID.fullmatch(name):
        raise RequestError(404, f"no stream {name!r:.40}")
    return name


class ChunkQueue:
    """Bounded queue from the connection's coroutine to the stream's thread.

    Args:
        loop: of the connection.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._space = loop, asyncio.Event()
        self._chunks: deque[tuple[bytes, float]] = deque()
        self._bytes, self._closed = 0, False
        self._changed = threading.Condition()
        self.taken_at = time.monotonic()

    async def put(self, data: bytes) -> None:
        """Add a chunk; waits while the queue is full."""
        while (
            not self._closed
            and self._chunks
            and (self._bytes + len(data) > _HELD_BYTES or len(self._chunks) >= _HELD_CHUNKS)
        ):
            self._space.clear()
            await self._space.wait()
        with self._changed:
            self._chunks.append((data, time.monotonic()))
            self._bytes += len(data)
            self._changed.notify()

    def close(self, *, drop: bool = False) -> None:
        """Let the queue end behind its last chunk; `drop`: the waiting chunks are lost."""
        with self._changed:
            self._closed = True
            if drop:
                self._chunks.clear()
                self._bytes = 0
            self._changed.notify()

    def get(self) -> bytes | None:
        """Return the next chunk, and wait for it; None: the queue has ended."""
        with self._changed:
            while not self._chunks and not self._closed:
                self._changed.wait()
            if not self._chunks:
                return None
            data, self.taken_at = self._chunks.popleft()
            self._bytes -= len(data)
        self._loop.call_soon_threadsafe(self._space.set)
        return data


class JpegSource:
    """Frames of a stream of JPEGs.

    Args:
        chunks: JPEGs, each behind its time if `timed`.
        fps: frames per second.
        first: number of the first frame.
        timed: whether the time in seconds, a little-endian float64, comes before each JPEG.
        max_pixels: largest frame.
        refuse: called with number and reason of each frame that cannot be decoded.
    """

    def __init__(
        self,
        chunks: ChunkQueue,
        *,
        fps: float,
        first: int,
        timed: bool,
        max_pixels: int,
        refuse: Callable[[int, str], None],
    ) -> None:
        self.chunks, self.fps, self.next, self.timed = chunks, fps, first, timed
        self.max_pixels, self._refuse = max_pixels, refuse
        self._time = struct.Struct("<d")
        self._decoder = av.CodecContext.create("mjpeg", "r")
        self._decoder.thread_count = 1
        self.damage: list[str] = []

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        """Yield frames and their times in seconds."""
        while (data := self.chunks.get()) is not None:
            number, self.next = self.next, self.next + 1
            moment = number / self.fps
            if self.timed:
                if len(data) < self._time.size:
                    self._refuse(number, "the message is shorter than its time")
                    continue
                moment, data = self._time.unpack_from(data)[0], data[self._time.size :]
                if not 0 <= moment < 1e9:
                    self._refuse(number, f"its time {moment} is not a number of seconds")
                    continue
            try:
                check_jpeg(data, max_pixels=self.max_pixels)
                frames = self._decoder.decode(av.Packet(data))
            except RequestError as error:
                self._refuse(number, str(error))
                continue
            except av.error.FFmpegError as error:
                self._refuse(number, f"the JPEG cannot be decoded: {error.strerror}")
                continue
            if not frames:
                self._refuse(number, "the JPEG has no picture")
                continue
            yield frames[0], moment


class ChunkSource(LiveSource):
    """Frames of a container that arrives in chunks, such as WebM of a browser's recorder or MPEG-TS.

    Args:
        chunks: pieces of the container, in order.
        max_pixels: largest frame.
    """

    def __init__(self, chunks: ChunkQueue, *, max_pixels: int) -> None:
        super().__init__("-", options={"max_pixels": str(max_pixels)})
        self.chunks, self._rest = chunks, b""
        self._check = ContainerCheck()

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes and wait for the first one; FFmpeg calls this."""
        if not self._rest:
            self._rest = self.chunks.get() or b""
            self._check.feed(self._rest)
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


class StreamSession:
    """One stream of a client: a live session and what is needed to resume it.

    Args:
        predictor: the model.
        name: id of the stream.

    Attributes:
        id: name in messages and of the file.
        received: frames that were received, damaged ones included.
        windows: labeled windows.
        last: time of the last frame in seconds; None: none yet.
    """

    def __init__(self, predictor: Predictor, name: str) -> None:
        self.predictor, self.live, self.id = predictor, predictor.session(), name
        self.received = self.windows = 0
        self.last: float | None = None
        self._history: deque[LabeledFrame] = deque(maxlen=_HISTORY)

    def push(self, frame: Any, moment: float, *, step: float, queue_seconds: float) -> dict[str, Any] | None:
        """Process a frame.

        Args:
            frame: `av.VideoFrame`.
            moment: its time in seconds.
            step: duration of a frame in seconds.
            queue_seconds: time for which the frame waited.

        Returns:
            The message for the client if labels are known now.
        """
        windows, self.last = self.live.windows, moment
        begin = time.monotonic()
        ready = self.live.push(frame, moment)
        spent = queue_seconds + time.monotonic() - begin
        if self.live.windows > windows:
            self.windows += self.live.windows - windows
            return self._message(ready, step, queue_seconds, spent, self.live.latency + queue_seconds)
        # The last frames of a window may arrive after it was labeled.
        return self._message(ready, step, queue_seconds, spent, spent) if ready else None

    def finish(self, *, step: float) -> dict[str, Any] | None:
        """End the stream; returns the message for the remaining frames."""
        begin, windows = time.monotonic(), self.live.windows
        ready = self.live.finish()
        spent = time.monotonic() - begin
        self.windows += self.live.windows - windows
        return self._message(ready, step, 0.0, spent, spent) if ready else None

    def _message(
        self, frames: Sequence[LabeledFrame], step: float, queue_seconds: float, spent: float, latency: float
    ) -> dict[str, Any]:
        self._history.extend(frames)
        return {
            **self._labels(frames, step),
            "latency": round(latency, 4),
            "network_seconds": round(self.live.network_seconds, 4),
            "queue_seconds": round(queue_seconds, 4),
            "window_seconds": round(spent, 4),
        }

    def _labels(self, frames: Sequence[LabeledFrame], step: float) -> dict[str, Any]:
        segments = join_frames(frames, self.live.classes, step=step)
        return {
            "type": "labels",
            "first": frames[0].number if frames else None,
            "frames": len(frames),
            "segments": [segment._asdict() for segment in segments],
        }

    def again(self, labeled: int, *, step: float) -> dict[str, Any] | None:
        """Return the message with the labels that a client may have missed.

        Args:
            labeled: number of frames whose labels the client has.
            step: duration of a frame in seconds.

        Raises:
            RequestError: labels from there on are no longer known (409).
        """
        missing = [frame for frame in self._history if frame.number >= labeled]
        total = self._history[-1].number + 1 if self._history else 0
        if total - labeled > len(missing):
            raise RequestError(409, f"labels of frame {labeled} are no longer known; start a new stream")
        if not missing:
            return None
        return {**self._labels(missing, step), "again": True, "latency": None}

    def save(self, folder: Path) -> None:
        """Write the stream to its file."""
        content = {
            "model": self.predictor.name,
            "received": self.received,
            "windows": self.windows,
            "last": self.last,
            "live": self.live.state_dict(),
            "history": [(each.number, each.time, each.label, each.probability) for each in self._history],
        }
        save_checkpoint(folder / f"{self.id}.pt", content)

    @classmethod
    def load(cls, predictor: Predictor, folder: Path, name: str) -> StreamSession:
        """Read a saved stream.

        Raises:
            RequestError: there is none of this id (404), or it is of another model (409).
        """
        path = folder / f"{check_session_id(name)}.pt"
        if not path.is_file():
            raise RequestError(404, f"no stream {name}; saved streams are kept for some time only")
        saved: Mapping[str, Any] = read_torch_file(path)
        if saved["model"] != predictor.name:
            raise RequestError(409, f"stream {name} is one of the model {saved['model']}, not of {predictor.name}")
        session = cls(predictor, name)
        try:
            session.live.load_state_dict(saved["live"])
        except ValueError as error:
            raise RequestError(409, f"stream {name}: {error}") from error
        session.received, session.windows, session.last = saved["received"], saved["windows"], saved["last"]
        session._history.extend(
            LabeledFrame(number, moment, label, share, None) for number, moment, label, share in saved["history"]
        )
        return session

    def forget(self, folder: Path) -> None:
        """Delete the file of a stream that has ended."""
        (folder / f"{self.id}.pt").unlink(missing_ok=True)
