"""Frame databases: one SQLite file of JPEG frames per video. No other package depends on the on-disk format."""

from vidseg.frames.database import FrameDatabase
from vidseg.frames.jpeg import decode_jpeg, encode_planes, encode_rgb, recode_jpeg
from vidseg.frames.schema import FrameDatabaseError
from vidseg.frames.writer import FrameWriter

__all__ = [
    "FrameDatabase",
    "FrameDatabaseError",
    "FrameWriter",
    "decode_jpeg",
    "encode_planes",
    "encode_rgb",
    "recode_jpeg",
]
