"""Frame databases: one SQLite file of JPEG frames, or of a video stream, per video, and the same of optical flow.

No other package depends on the on-disk format.

Names are loaded on first use, so that the schema is known without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidseg.frames.database import FrameDatabase
    from vidseg.frames.flow_database import FlowDatabase, FlowWriter, open_database
    from vidseg.frames.flow_form import FlowForm
    from vidseg.frames.jpeg import decode_jpeg, encode_channels, encode_rgb, recode_jpeg
    from vidseg.frames.plane_encoder import encode_planes
    from vidseg.frames.schema import FrameDatabaseError
    from vidseg.frames.stream_form import StreamForm
    from vidseg.frames.stream_writer import StreamWriter
    from vidseg.frames.writer import FrameWriter

__all__ = [
    "FlowDatabase",
    "FlowForm",
    "FlowWriter",
    "FrameDatabase",
    "FrameDatabaseError",
    "FrameWriter",
    "StreamForm",
    "StreamWriter",
    "decode_jpeg",
    "encode_channels",
    "encode_planes",
    "encode_rgb",
    "open_database",
    "recode_jpeg",
]

_HOME = {
    "FlowDatabase": "flow_database",
    "FlowForm": "flow_form",
    "FlowWriter": "flow_database",
    "FrameDatabase": "database",
    "FrameDatabaseError": "schema",
    "FrameWriter": "writer",
    "StreamForm": "stream_form",
    "StreamWriter": "stream_writer",
    "decode_jpeg": "jpeg",
    "encode_channels": "jpeg",
    "encode_planes": "plane_encoder",
    "encode_rgb": "jpeg",
    "open_database": "flow_database",
    "recode_jpeg": "jpeg",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"vidseg.frames.{_HOME[name]}"), name)
    raise AttributeError(f"module 'vidseg.frames' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
