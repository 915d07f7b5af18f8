"""Writing of videos with text and a color strip drawn into each frame, and with the sound of another file."""

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
from vidseg.videos.sound_track import SoundTrack

__all__ = ["LabeledVideoWriter", "draw_labels"]

_CLOCK = Fraction(1, 90000)
_OPACITY = 0.55  # of the strip behind text
_SMALLEST = 7  # font size
_STRIP = 20  # height of the color strip as a fraction of the frame height: 1 / 20


class LabeledVideoWriter:
    """Write H.264; each frame has text on a translucent strip at the top and a color strip at the bottom.

    MP4 files are fragmented, so they can be played while they are written and after an interruption.

    Args:
        out: output file; the extension selects the container. An existing file is replaced.
        fps: frames per second.
        sound: video file whose sound is copied, or a track, which is closed with the video; None: no sound. Times of
            the frames are then on its clock.
    """

    def __init__(self, out: str | Path, *, fps: float = 25.0, sound: str | Path | SoundTrack | None = None) -> None:
        self.out, self.fps = Path(out), fps
        self._sound = SoundTrack(sound) if isinstance(sound, str | Path) else sound
        self.frames = 0
        self._stream: Any = None
        self._stamp, self._first = -1, 0.0
        self.out.parent.mkdir(parents=True, exist_ok=True)
        fragments = {"movflags": "frag_keyframe+delay_moov"} if self.out.suffix in {".mp4", ".mov", ".m4v"} else {}
        self._container: Any = av.open(file_address(self.out), "w", container_options=fragments)

    def write(self, frame: Any, moment: float, text: str, color: Sequence[float] | None = None) -> None:
        """Write one frame.

        Args:
            frame: frame to write, `av.VideoFrame`.
            moment: time of the frame in seconds.
            text: one or more lines; "": no text.
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
        if text:
            _draw_text(picture, text, size)
        written = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
        self._stamp = max(self._stamp + 1, round((moment - self._first) / _CLOCK))
        written.pts, written.time_base = self._stamp, _CLOCK
        self._container.mux(self._stream.encode(written))
        if self._sound is not None:
            self._sound.write(until=moment)
        self.frames += 1

    def _open(self, height: int, width: int, moment: float) -> None:
        rate = Fraction(self.fps).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate)
        # The pixel format requires even sides.
        self._stream.height, self._stream.width = max(2, height - height % 2), max(2, width - width % 2)
        self._stream.pix_fmt, self._stream.codec_context.time_base = "yuv420p", _CLOCK
        self._first = moment
        if self._sound is not None:
            self._sound.open(self._container, moment)

    def close(self, *, until: float | None = None) -> None:
        """Finish the file; no file is written if there was no frame.

        Args:
            until: time at which the sound ends, in seconds; None: its own end.
        """
        if self._container is None:
            return
        try:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
                if self._sound is not None:
                    self._sound.write(until)
        finally:
            self._container.close()
            if self._sound is not None:
                self._sound.close()
        self._container = None
        if self._stream is None:
            self.out.unlink(missing_ok=True)

    def __enter__(self) -> LabeledVideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _draw_text(picture: Any, text: str, size: int) -> None:
    """Darken a strip at the top of a picture and write text on it, smaller where a line is wider than the picture."""
    from PIL import Image, ImageDraw

    draw = ImageDraw.Draw(picture)
    pad = max(2, size // 3)
    box = draw.multiline_textbbox((0, 0), text, font_size=size)
    room = picture.width - 2 * pad
    if box[2] > room:
        size = max(_SMALLEST, int(size * room / box[2]))
        box = draw.multiline_textbbox((0, 0), text, font_size=size)
    area = (0, 0, picture.width, min(picture.height, round(box[3]) + 2 * pad))
    strip = picture.crop(area)
    picture.paste(Image.blend(strip, Image.new("RGB", strip.size), _OPACITY), area)
    draw.multiline_text((pad, pad), text, fill="white", font_size=size)


def draw_labels(video: str | Path, out: Path, text_at: Callable[[float], str]) -> Path:
    """Write a video again, as H.264 with its sound, with text drawn into each frame; `out` is complete or unchanged.

    Frames are upright and keep their times, also those of variable rates.

    Args:
        video: the video file.
        out: file to write; the extension selects the container.
        text_at: text at a time in seconds from the start of the video; "" for none.

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
                writer = stack.enter_context(LabeledVideoWriter(temporary, fps=fps, sound=video))
            writer.write(timed.frame, timed.time, text_at(timed.time - source.origin))
        if writer is None:
            raise ValueError(f"{video}: no frame to draw on")
    return out
