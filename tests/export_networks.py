"""Small trained models of registered networks, for tests of exported models and benchmarks/export_table.py."""

import contextlib
from pathlib import Path

import torch
from test_export import (
    CLASSES,
    DETECTION,
    FEATURE_TASKS,
    FEATURES,
    OPTIONS,
    SEGMENTATION,
    STREAMING,
    shallow,
    small,
    small_width,
)

from vidseg.models import _registry, list_models, model_options, model_task
from vidseg.models._registry import has_classes
from vidseg.tasks import load_trained

__all__ = ["load_small", "network_options", "shallow_registry"]

_FRAMES = {"transeger": 4, "svtas_rl": 8, "videomae_base": 12, "vjepa2_large": 12}
_KEPT = ("timesformer", "videomae", "vjepa2", "raft")


@contextlib.contextmanager
def shallow_registry():
    """Residual recognition networks have one block in each stage."""
    list_models()
    before = dict(_registry._ENTRIES)
    for name, entry in before.items():
        factory = entry.factory
        if hasattr(factory, "func") and name not in ("i3d_rgb", "i3d_flow") and not name.startswith(_KEPT):
            _registry._ENTRIES[name] = entry._replace(factory=shallow(factory))
    try:
        yield
    finally:
        _registry._ENTRIES.update(before)


def network_options(name: str) -> dict:
    """Options of the network that `small` makes."""
    options = (SEGMENTATION.get(name) or DETECTION.get(name) or STREAMING.get(name) or {}) | OPTIONS.get(name, {})
    options |= {"width": small_width(name)} if "width" in model_options(name) and not options else {}
    return options | ({"in_features": FEATURES} if model_task(name) in FEATURE_TASKS else {})


def load_small(name: str, folder: Path):
    """A trained model with random weights and the options of `test_export`, from a file of weights in `folder`."""
    path = folder / f"{name}.pth"
    torch.save(small(name).state_dict(), path)
    changes = {}
    if model_task(name) in ("recognition", "streaming"):
        changes["size"] = 48 if name.startswith("mtnet") else 32
        changes["frames"] = _FRAMES.get(name, 6 if model_task(name) == "streaming" else 12)
        if model_task(name) == "recognition":
            changes["resize"] = changes["size"]
    classes = [f"class {number}" for number in range(CLASSES)] if has_classes(name) else None
    return load_trained(path, network=name, network_options=network_options(name), classes=classes, **changes)
