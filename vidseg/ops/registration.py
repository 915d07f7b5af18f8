"""Loads the compiled operators into `torch.ops.vidseg`, and helpers for their registration in Python.

Schemas and kernels are C++ (csrc/ops): for CPU, and for CUDA if `_ops_cuda.so` was built. The other modules of this
package register a fake kernel (shapes, for torch.compile), the autograd formula and the autocast rule of each operator.
"""

import torch

from vidseg.ops.library import load_cuda_library, load_library

__all__ = ["compute_in_float32", "refuse_cuda_without_library", "require"]

load_library("ops/_ops")
load_cuda_library()


def compute_in_float32(name: str) -> None:
    """Register float32 as the autocast rule of an operator that sums many products, as for PyTorch's own sums."""
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(f"vidseg::{name}", device, torch.float32)


def refuse_cuda_without_library() -> None:
    """Register an error that states the remedy for operators without a CUDA kernel, where torch has CUDA; torch's own
    message lists dispatch keys."""
    library = load_cuda_library()
    if not torch.version.cuda or library.problem is None:
        return
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("vidseg::") and not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"):
            torch.library.impl(name, "cuda", library.refuse)


def require(holds: bool, message: str) -> None:
    """Raise a ValueError with `message` unless `holds`; for fake kernels and wrappers."""
    if not holds:
        raise ValueError(message)
