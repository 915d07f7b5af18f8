"""Video files: probing, decoding, frames by number, motion vectors, upright display, and writing labeled videos.

Names are loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidseg.videos.decoding import VideoSource
    from vidseg.videos.file_dataset import open_videos
    from vidseg.videos.frame_reader import FrameReader
    from vidseg.videos.motion_vectors import CodecMotion, MotionSource, read_motion
    from vidseg.videos.opening import VideoError
    from vidseg.videos.residuals import compensated, residual_of
    from vidseg.videos.video_writer import LabeledVideoWriter, draw_labels

__all__ = [
    "CodecMotion",
    "FrameReader",
    "LabeledVideoWriter",
    "MotionSource",
    "VideoError",
    "VideoSource",
    "compensated",
    "draw_labels",
    "open_videos",
    "read_motion",
    "residual_of",
]

_HOME = {
    "CodecMotion": "motion_vectors",
    "FrameReader": "frame_reader",
    "LabeledVideoWriter": "video_writer",
    "MotionSource": "motion_vectors",
    "VideoError": "opening",
    "VideoSource": "decoding",
    "compensated": "residuals",
    "draw_labels": "video_writer",
    "open_videos": "file_dataset",
    "read_motion": "motion_vectors",
    "residual_of": "residuals",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"vidseg.videos.{_HOME[name]}"), name)
    raise AttributeError(f"module 'vidseg.videos' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
