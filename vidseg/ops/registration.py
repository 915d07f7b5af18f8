"""Loads the compiled operators into `torch.ops.vidseg` and registers what all of them need in Python.

The schemas and kernels are C++ (csrc/ops): CPU always, CUDA where `_ops_cuda.so` was built. The modules beside this one
add, for each operator, its fake kernel (shapes, for torch.compile), its autograd formula and its autocast rule.
"""

from pathlib import Path

import torch

from vidseg.ops.library import load_library

__all__ = ["compute_in_float32", "require"]

load_library("ops/_ops")
if torch.version.cuda and (Path(__file__).parent / "_ops_cuda.so").is_file():
    load_library("ops/_ops_cuda")


def compute_in_float32(name: str) -> None:
    """Register the autocast rule of the operators that sum many products: run in float32, as PyTorch's own sums do."""
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(f"vidseg::{name}", device, torch.float32)


def require(holds: bool, message: str) -> None:
    """Raise a ValueError with `message` unless `holds`: for what fake kernels and wrappers check before C++ does."""
    if not holds:
        raise ValueError(message)
