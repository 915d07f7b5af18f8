"""Writing of videos with text and a color strip drawn into each frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np

from vidseg.frames.whole_file import whole_file
from vidseg.videos.decoding import VideoSource
from vidseg.videos.opening import file_address
from vidseg.videos.orientation import frame_orientation

__all__ = ["LabeledVideoWriter", "draw_labels"]

_CLOCK = Fraction(1, 90000)
_STRIP = 20  # height of the color strip as a fraction of the frame height: 1 / 20


class LabeledVideoWriter:
    """Write H.264 without audio; each frame has text in the upper left corner and a color strip at the bottom.

    MP4 files are fragmented, so they can be played while they are written and after an interruption.

    Args:
        out: output file; the extension selects the container. An existing file is replaced.
        fps: frames per second.
    """

    def __init__(self, out: str | Path, *, fps: float = 25.0) -> None:
        self.out, self.fps = Path(out), fps
        self.frames = 0
        self._stream: Any = None
        self._stamp, self._first = -1, 0.0
        self.out.parent.mkdir(parents=True, exist_ok=True)
        fragments = {"movflags": "frag_keyframe+empty_moov"} if self.out.suffix in {".mp4", ".mov", ".m4v"} else {}
        self._container: Any = av.open(file_address(self.out), "w", container_options=fragments)

    def write(self, frame: Any, moment: float, text: str, color: Sequence[float] | None = None) -> None:
        """Write one frame.

        Args:
            frame: frame to write, `av.VideoFrame`.
            moment: time of the frame in seconds.
            text: one or more lines.
            color: (3,) RGB color of the strip in 0..1; None: no strip.
        """
        from PIL import Image, ImageDraw

        pixels = frame_orientation(frame).apply(frame.to_ndarray(format="rgb24"))
        if self._stream is None:
            self._open(pixels.shape[0], pixels.shape[1], moment)
        if pixels.shape[:2] != (self._stream.height, self._stream.width):
            pixels = pixels[: self._stream.height, : self._stream.width]
        if pixels.shape[:2] != (self._stream.height, self._stream.width):
            picture = Image.fromarray(pixels).resize((self._stream.width, self._stream.height))
        else:
            picture = Image.fromarray(np.ascontiguousarray(pixels))
        strip, size = max(2, picture.height // _STRIP), max(10, picture.height // 18)
        draw = ImageDraw.Draw(picture)
        if color is not None:
            shade = tuple(round(255 * value) for value in color)
            draw.rectangle((0, picture.height - strip, picture.width, picture.height), fill=shade)
        place, stroke = (size // 2, size // 2), max(1, size // 8)
        draw.multiline_text(place, text, fill="white", stroke_width=stroke, stroke_fill="black", font_size=size)
        written = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
        self._stamp = max(self._stamp + 1, round((moment - self._first) / _CLOCK))
        written.pts, written.time_base = self._stamp, _CLOCK
        self._container.mux(self._stream.encode(written))
        self.frames += 1

    def _open(self, height: int, width: int, moment: float) -> None:
        rate = Fraction(self.fps).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate)
        # The pixel format requires even sides.
        self._stream.height, self._stream.width = max(2, height - height % 2), max(2, width - width % 2)
        self._stream.pix_fmt, self._stream.codec_context.time_base = "yuv420p", _CLOCK
        self._first = moment

    def close(self) -> None:
        """Finish the file; no file is written if there was no frame."""
        if self._container is None:
            return
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        self._container = None
        if self._stream is None:
            self.out.unlink(missing_ok=True)

    def __enter__(self) -> LabeledVideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def draw_labels(video: str | Path, out: Path, text_at: Callable[[float], str]) -> Path:
    """Write a video again, as H.264 without sound, with text drawn into each frame; `out` is complete or unchanged.

    Args:
        video: the video file.
        out: file to write; the extension selects the container.
        text_at: text at a time in seconds.

    Returns:
        `out`.

    Raises:
        ValueError: the video has no frame.
    """
    source = VideoSource(Path(video))
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out, suffix=f".tmp{out.suffix}") as temporary, ExitStack() as stack:
        writer: LabeledVideoWriter | None = None
        for timed in source:
            if writer is None:
                fps = float(source.properties["fps"] or 25)
                writer = stack.enter_context(LabeledVideoWriter(temporary, fps=fps))
            writer.write(timed.frame, timed.time, text_at(timed.time))
        if writer is None:
            raise ValueError(f"{video}: no frame to draw on")
    return out
