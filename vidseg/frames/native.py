"""The compiled library of `vidseg.frames` (csrc/frames) as torch operators."""

from typing import Any

import torch

from vidseg.ops.library import load_library

__all__ = ["LIBRARY", "operators", "simd", "versions"]

LIBRARY = "frames/_frames"
load_library(LIBRARY)
operators: Any = torch.ops.vidseg_frames


def versions() -> str:
    """Return names and versions of the libraries that the compiled library was built with, and its instruction set."""
    return f"{operators.versions()}, vector instructions {simd()}"


def simd() -> str:
    """Return the widest instruction set that the compiled library uses: avx512, avx2 or baseline (SSE2 or NEON).

    Raises:
        RuntimeError: the environment variable VIDSEG_SIMD names an unknown or unsupported instruction set.
    """
    return str(operators.simd())
