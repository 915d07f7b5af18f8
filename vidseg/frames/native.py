"""The compiled library of `vidseg.frames` (csrc/frames) as torch operators."""

from typing import Any

import torch

from vidseg.ops.library import load_library

__all__ = ["LIBRARY", "operators", "versions"]

LIBRARY = "frames/_frames"
load_library(LIBRARY)
operators: Any = torch.ops.vidseg_frames


def versions() -> str:
    """Return names and versions of the libraries that the compiled library was built with."""
    return str(operators.versions())
