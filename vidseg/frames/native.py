"""The compiled half of `vidseg.frames` (csrc/frames) as torch operators."""

from typing import Any

import torch

from vidseg.ops.library import load_library

__all__ = ["LIBRARY", "operators", "versions"]

LIBRARY = "frames/_frames"
load_library(LIBRARY)
operators: Any = torch.ops.vidseg_frames


def versions() -> str:
    """Name the libraries that the compiled part was built with."""
    return str(operators.versions())
