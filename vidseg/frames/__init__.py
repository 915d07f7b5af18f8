"""Frame databases: one SQLite file of JPEG frames per video. The only package that knows the on-disk format."""

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
