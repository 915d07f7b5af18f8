"""Loading of weights by name and shape, with an account of what was taken and what was not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LoadReport", "load_weights", "read_state"]

_CONTAINERS = ("state_dict", "model_state", "model")


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did; `str()` says it in words."""

    taken: tuple[str, ...]
    """Entries copied: name and shape agree."""
    left: tuple[str, ...]
    """Entries of the file that the model has not, or has in another shape."""
    missing: tuple[str, ...]
    """Entries of the model that keep their old values."""

    def __str__(self) -> str:
        def named(names: tuple[str, ...]) -> str:
            shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            return f"{len(names)} ({shown})" if names else "none"

        return f"{len(self.taken)} entries taken; left in the file: {named(self.left)}; kept: {named(self.missing)}"


def load_weights(model: nn.Module, source: str | Path | Mapping[str, Any]) -> LoadReport:
    """Copy into `model` every entry of `source` whose name and shape agree, and report the rest.

    Args:
        model: filled in place; its device and types stay.
        source: a state dict, a checkpoint that holds one under "state_dict", "model_state" or "model", or the path
            of such a file: safetensors, or anything torch.load reads with weights_only. A prefix "module.", as
            DataParallel leaves it, is ignored.

    Raises:
        ValueError: no entry agrees, or the file holds no state dict.
        FileNotFoundError: the path does not exist.
    """
    origin = "the given state dict" if isinstance(source, Mapping) else str(source)
    entries = _state(source, origin) if isinstance(source, Mapping) else read_state(source)
    own = model.state_dict()
    taken = {key: value for key, value in entries.items() if key in own and own[key].shape == value.shape}
    if not taken:
        raise ValueError(
            f"{origin}: not one of its {len(entries)} entries agrees in name and shape with the model "
            f"(the file has {next(iter(entries))!r}, the model has {next(iter(own))!r}): another network?"
        )
    with torch.no_grad():
        for key, value in taken.items():
            own[key].copy_(value)
    return LoadReport(
        taken=tuple(taken),
        left=tuple(key for key in entries if key not in taken),
        missing=tuple(key for key in own if key not in taken),
    )


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Return the named tensors of a weights file, as `load_weights` reads it.

    Raises:
        ValueError: the file holds no state dict.
        FileNotFoundError: the path does not exist.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return _state(load_file(path), str(path))
    return _state(torch.load(path, map_location="cpu", weights_only=True), str(path))


def _state(checkpoint: Mapping[str, Any], origin: str) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, without the prefix of DataParallel."""
    for name in _CONTAINERS:
        if isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
            break
    entries = {str(key).removeprefix("module."): value for key, value in checkpoint.items()}
    if not entries or not all(isinstance(value, Tensor) for value in entries.values()):
        raise ValueError(f"{origin}: no state dict in it (top-level entries: {', '.join(map(str, checkpoint))[:200]})")
    return entries
