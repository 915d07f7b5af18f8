"""vidseg: video frame databases, a compiled loader, and training of video models.

The names below are loaded on first use: `import vidseg` itself imports neither torch nor any optional package, which
keeps every `--help` instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vidseg.convert import convert_videos
    from vidseg.engine import Trainer
    from vidseg.frames import FrameDatabase, FrameWriter
    from vidseg.labels import open_dataset
    from vidseg.loaders import ClipLoader
    from vidseg.models import create_model, list_models, load_weights
    from vidseg.tasks import load_trained
    from vidseg.videos import open_videos

_HOME = {
    "ClipLoader": "vidseg.loaders",
    "FrameDatabase": "vidseg.frames",
    "FrameWriter": "vidseg.frames",
    "Trainer": "vidseg.engine",
    "convert_videos": "vidseg.convert",
    "create_model": "vidseg.models",
    "list_models": "vidseg.models",
    "load_trained": "vidseg.tasks",
    "load_weights": "vidseg.models",
    "open_dataset": "vidseg.labels",
    "open_videos": "vidseg.videos",
}
_PACKAGES = set(
    "clips convert engine export frames labels learn live loaders losses metrics models ops plots search serve tasks "
    "videos".split()
)

__all__ = [
    "ClipLoader",
    "FrameDatabase",
    "FrameWriter",
    "Trainer",
    "convert_videos",
    "create_model",
    "list_models",
    "load_trained",
    "load_weights",
    "open_dataset",
    "open_videos",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"vidseg.{name}")
    raise AttributeError(f"module 'vidseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES, *(name for name in globals() if name.startswith("__"))})
