"""Loads the compiled operators into `torch.ops.vidseg`, and helpers for their registration in Python.

Schemas and kernels are C++ (csrc/ops): for CPU, and for CUDA if `_ops_cuda.so` was built. The other modules of this
package register a fake kernel (shapes, for torch.compile), the autograd formula and the autocast rule of each operator.
"""

import torch

from vidseg.ops.library import load_cuda_library, load_library

__all__ = ["compute_in_float32", "require"]

load_library("ops/_ops")
_cuda = load_cuda_library()
if torch.version.cuda and _cuda.problem:  # otherwise torch's message lists dispatch keys
    for _name in torch._C._dispatch_get_all_op_names():
        if _name.startswith("vidseg::"):
            torch.library.impl(_name, "cuda", _cuda.refuse)


def compute_in_float32(name: str) -> None:
    """Register float32 as the autocast rule of an operator that sums many products, as for PyTorch's own sums."""
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(f"vidseg::{name}", device, torch.float32)


def require(holds: bool, message: str) -> None:
    """Raise a ValueError with `message` unless `holds`; for fake kernels and wrappers."""
    if not holds:
        raise ValueError(message)
