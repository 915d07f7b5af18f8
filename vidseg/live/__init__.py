"""A stream as it arrives: sources (files, pipes, cameras) and sessions with saved state."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidseg.live.frame_segments import Segment, join_frames
    from vidseg.live.session import LabeledFrame, LiveSession
    from vidseg.live.source import LiveSource

__all__ = ["LabeledFrame", "LiveSession", "LiveSource", "Segment", "join_frames"]

_HOME = {
    "LabeledFrame": "session",
    "LiveSession": "session",
    "LiveSource": "source",
    "Segment": "frame_segments",
    "join_frames": "frame_segments",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"vidseg.live.{_HOME[name]}"), name)
    raise AttributeError(f"module 'vidseg.live' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
