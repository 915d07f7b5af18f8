"""Frame databases: one SQLite file of JPEG frames per video. No other package depends on the on-disk format.

Names are loaded on first use, so that the schema is known without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOME = {
    "FrameDatabase": "database",
    "FrameDatabaseError": "schema",
    "FrameWriter": "writer",
    "decode_jpeg": "jpeg",
    "encode_planes": "jpeg",
    "encode_rgb": "jpeg",
    "recode_jpeg": "jpeg",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"vidseg.frames.{_HOME[name]}"), name)
    raise AttributeError(f"module 'vidseg.frames' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
