"""NVIDIA apex, where it is installed and asked for: its mixed precision (until May 2025) and its fused optimizers."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["apex_amp", "apex_optimizer", "missing_optimizers"]

# What importing an old or half-built apex has been seen to raise.
_BROKEN = (ImportError, AttributeError, RuntimeError, OSError)


def apex_amp() -> Any:
    """The module `apex.amp`.

    Raises:
        ImportError: no apex is installed, one without `amp`, or one that does not go with this PyTorch.
    """
    try:
        amp = importlib.import_module("apex.amp")
        needed = (amp.initialize, amp.scale_loss, amp.master_params, amp.state_dict, amp.load_state_dict)
    except _BROKEN as error:
        raise ImportError(
            f"amp='apex' needs an NVIDIA apex with `amp`, which was removed from it in May 2025 ({error}); amp='torch'"
            " has the same opt levels and needs none"
        ) from error
    assert all(map(callable, needed))
    return amp


def apex_optimizer(name: str) -> Any:
    """The class `name` of apex.optimizers: FusedSGD or FusedAdam.

    Raises:
        ImportError: no apex is installed, one without it, or one that does not go with this PyTorch.
    """
    try:
        return getattr(importlib.import_module("apex.optimizers"), name)
    except _BROKEN as error:
        raise missing_optimizers(error) from error


def missing_optimizers(error: Exception) -> ImportError:
    """What to say where apex's optimizers cannot be imported, or lack the extensions that they need when made."""
    return ImportError(
        f"implementation='apex' needs NVIDIA apex with its CUDA extensions ({error}); implementation='fused' is torch's"
        " own"
    )
