"""Writer of frames.db with a video stream: short groups of frames, each decoded without the others."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidseg.frames.frame_planes import LUMA_WEIGHTS, FramePlanes, planes_of_rgb
from vidseg.frames.packet_group import pack_group
from vidseg.frames.schema import STREAM_FORMAT, STREAM_MARK, STREAM_TABLES, FrameDatabaseError, connect_read_only
from vidseg.frames.stored_stream import padded_side
from vidseg.frames.stream_form import StreamForm
from vidseg.frames.writer import DatabaseWriter

__all__ = ["StreamWriter", "require_encoder"]

_ENCODERS = {"h264": "libx264", "hevc": "libx265"}
# Decides about quality and speed of both encoders. `fast` gives 8 % smaller files at the same PSNR in 3 times the time.
_PRESET = "veryfast"
_UNSPECIFIED = 2  # color space
_CLOCK = Fraction(1, 25)  # rate control depends on the frame rate; a constant one gives the same quality to all videos


def require_encoder(codec: str) -> None:
    """Check that PyAV can encode a codec.

    Raises:
        ValueError: its FFmpeg was built without the encoder.
    """
    import av

    if _ENCODERS[codec] not in av.codecs_available:
        raise ValueError(
            f"codec={codec!r}: the FFmpeg of this PyAV {av.__version__} has no {_ENCODERS[codec]}; install PyAV from "
            "PyPI (pip install --force-reinstall av), whose wheels have it"
        )


class StreamWriter(DatabaseWriter):
    """Writes one frames.db that holds a video stream, complete or not at all.

        with StreamWriter("data/jpg/run/clip_1/frames.db", StreamForm(crf=18)) as writer:
            writer.add_rgb(pixels, timestamp=0.0)

    The first frame decides size, color matrix and range.

    Args:
        path: the frames.db to write. Its folder, which is made if needed, is the name of the video. An existing
            database is replaced.
        form: how the frames are encoded.
        meta: additional entries of the meta table: text, integers or floats.

    Raises:
        OSError: the folder cannot be made or written to.
        FrameDatabaseError: SQLite cannot write, or reading back gives other data.
    """

    _format = STREAM_FORMAT
    _tables = STREAM_TABLES
    _pragmas = ("page_size=2048", f"application_id={STREAM_MARK}")

    def __init__(
        self,
        path: str | Path,
        form: StreamForm | None = None,
        *,
        meta: Mapping[str, str | int | float | None] | None = None,
    ) -> None:
        super().__init__(path, meta=meta)
        self.form = form or StreamForm()
        self._first: FramePlanes | None = None
        self._encoder: Any = None
        self._packets: list[bytes] = []  # of the group that is not complete
        self._written = 0  # frames in complete groups

    def __enter__(self) -> StreamWriter:
        return self

    def add_rgb(self, pixels: torch.Tensor, *, timestamp: float | None = None) -> None:
        """Append a frame of RGB pixels, uint8 (H, W, 3); errors are those of `add_planes`."""
        self.add_planes(planes_of_rgb(pixels, chroma=self.form.chroma), timestamp=timestamp)

    def add_planes(self, planes: FramePlanes, *, timestamp: float | None = None) -> None:
        """Append a frame; its planes are encoded as they are, so that colors are not converted.

        Args:
            planes: the frame, of the size of the first one.
            timestamp: presentation time in seconds; for all frames of a video or for none.

        Raises:
            ValueError: another size, or a timestamp for some frames only, or a size that the encoder does not support.
            FrameDatabaseError: SQLite cannot write.
        """
        first = self._first = self._first or replace(planes, planes=[], strides=[])
        if (planes.width, planes.height) != (first.width, first.height):
            raise ValueError(
                f"{self.path}: frame {self.count} is {planes.width}x{planes.height} pixels, unlike those before"
            )
        color = first.luma_weights, first.full_range
        if (planes.luma_weights, planes.full_range) != color or planes.sampling != self.form.chroma:
            planes = planes_of_rgb(planes.rgb(), luma_weights=color[0], full_range=color[1], chroma=self.form.chroma)
        self._stamp(timestamp)
        encoder = self._encoder = self._encoder or self._open(first)
        frame = _padded(planes)
        frame.pts, frame.time_base = self.count, _CLOCK
        self.count += 1
        for packet in encoder.encode(frame):
            self._take(packet)

    def finish(self) -> None:
        """Encode what is left, then as `DatabaseWriter.finish`."""
        if self._encoder is not None:
            for packet in self._encoder.encode(None):
                self._take(packet)
            self._write_group()
        if self._written != self.count:
            self.discard()
            raise FrameDatabaseError(f"{self.path}: the encoder returned {self._written} of {self.count} frames")
        super().finish()

    def _open(self, first: FramePlanes) -> Any:
        import av
        import av.error

        require_encoder(self.form.codec)
        encoder: Any = av.CodecContext.create(_ENCODERS[self.form.codec], "w")
        encoder.width, encoder.height = padded_side(first.width), padded_side(first.height)
        encoder.pix_fmt = f"yuv{self.form.chroma}p"
        encoder.time_base, encoder.framerate = _CLOCK, 1 / _CLOCK
        encoder.thread_count = 1  # videos are encoded in parallel
        encoder.gop_size, encoder.max_b_frames = self.form.gop, 0
        spaces = {weights: number for number, weights in reversed(LUMA_WEIGHTS.items())}
        encoder.colorspace = spaces.get(first.luma_weights, _UNSPECIFIED)
        encoder.color_range = 2 if first.full_range else 1
        # A key frame at the start of each group only; frames after it cannot profit from looking further ahead.
        common = f"keyint={self.form.gop}:scenecut=0:bframes=0:open-gop=0:rc-lookahead={min(40, self.form.gop)}"
        private = {
            "h264": ("x264-params", common),
            "hevc": (
                "x265-params",
                f"{common}:min-keyint={self.form.gop}:repeat-headers=1:pools=none:frame-threads=1:info=0"
                ":log-level=none",
            ),
        }
        name, value = private[self.form.codec]
        encoder.options = {"preset": _PRESET, "tune": "fastdecode", "crf": str(self.form.crf), name: value}
        try:
            encoder.open()
        except av.error.FFmpegError as error:
            raise ValueError(
                f"{_ENCODERS[self.form.codec]} cannot encode frames of {first.width}x{first.height} pixels: {error}"
            ) from error
        return encoder

    def _take(self, packet: Any) -> None:
        number = self._written + len(self._packets)
        if number - self._written == self.form.gop:
            self._write_group()
        if packet.pts != number or packet.is_keyframe != (number % self.form.gop == 0):
            raise FrameDatabaseError(f"{self.path}: the encoder returned packet {packet.pts} in place of {number}")
        self._packets.append(bytes(packet))

    def _write_group(self) -> None:
        if not self._packets:
            return
        blob = pack_group(self._packets)
        try:
            self._connection.execute("INSERT INTO Stream VALUES (?, ?)", (self._written + 1, blob))
        except sqlite3.Error as error:
            raise self._failure(error) from error
        self._crc32 = zlib.crc32(blob, self._crc32)
        self._written += len(self._packets)
        self._packets = []

    def _own_meta(self) -> dict[str, object]:
        assert self._first is not None  # there is a frame
        red, blue = self._first.luma_weights
        return {
            "height": self._first.height,
            "width": self._first.width,
            "stream_codec": self.form.codec,
            "crf": self.form.crf,
            "gop": self.form.gop,
            "chroma": self.form.chroma,
            "luma_red": red,
            "luma_blue": blue,
            "full_range": int(self._first.full_range),
        }

    def _read_back(self) -> None:
        connection = connect_read_only(self._temporary)
        try:
            checksum, rows = 0, 0
            for key_frame, blob in connection.execute("SELECT key_frame, packets FROM Stream ORDER BY key_frame"):
                checksum = zlib.crc32(blob, checksum) if key_frame == rows * self.form.gop + 1 else -1
                rows += 1
        finally:
            connection.close()
        if (rows, checksum) != (-(-self.count // self.form.gop), self._crc32):
            raise FrameDatabaseError(
                f"{self.path}: reading back gives {rows} groups that differ from the {self.count} frames written; "
                "check the disk"
            )


def _padded(planes: FramePlanes) -> Any:
    """Return the frame that is encoded; its sides are padded by repeating the last row and column."""
    import av

    frame: Any = av.VideoFrame(padded_side(planes.width), padded_side(planes.height), f"yuv{planes.sampling}p")
    for index, (source, stride, target) in enumerate(zip(planes.planes, planes.strides, frame.planes, strict=True)):
        halved = index > 0 and planes.sampling == 420
        columns, rows = ((side + 1) // 2 if halved else side for side in (planes.width, planes.height))
        pixels = source[: stride * rows]
        if len(pixels) < stride * rows:  # the last row has no padding
            pixels = np.pad(pixels, (0, stride * rows - len(pixels)))
        out = np.frombuffer(target, np.uint8)[: target.line_size * target.height].reshape(-1, target.line_size)
        out[:rows, :columns] = pixels.reshape(rows, stride)[:, :columns]
        out[:rows, columns:] = out[:rows, columns - 1 : columns]
        out[rows:] = out[rows - 1]
    return frame
