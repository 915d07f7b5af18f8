"""Loading of weights by name and shape, with an account of what was taken and what was not."""

import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidseg.models._identify import identify

__all__ = ["LoadReport", "load_weights", "named_for", "read_state"]

logger = logging.getLogger(__name__)

_CONTAINERS = ("state_dict", "model_state", "model")
_PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did; `str()` says it in words."""

    taken: tuple[str, ...]
    """Entries copied: name and shape agree."""
    left: tuple[str, ...]
    """Entries of the file that the model has not, or has in another shape."""
    missing: tuple[str, ...]
    """Entries of the model that keep their old values."""
    reshaped: tuple[str, ...] = ()
    """Entries that both have, in different shapes; they are in `left` and in `missing` too."""
    notes: tuple[str, ...] = ()
    """What a user must know: the file holds another network, colors were put into another order."""

    def __str__(self) -> str:
        def named(names: tuple[str, ...]) -> str:
            shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            return f"{len(names)} ({shown})" if names else "none"

        text = f"{len(self.taken)} entries taken; left in the file: {named(self.left)}; kept: {named(self.missing)}"
        if self.reshaped:
            text += f"; of another shape: {named(self.reshaped)}"
        return "; ".join((text, *self.notes))


def load_weights(
    model: nn.Module, source: str | Path | Mapping[str, Any], *, colors: Literal["rgb", "bgr"] = "rgb"
) -> LoadReport:
    """Copy into `model` every entry of `source` whose name and shape agree, and report the rest.

    Names of other publications of the same network are read as its own, see `named_for`; the report has the own names.
    Where the keys show that the file holds another network than the model is (a plain one under an SRTG name, an
    MTNet-S under the name of XS), the report names it and so does a warning in the log.

    Args:
        model: filled in place; its device and types stay.
        source: a state dict, a checkpoint that holds one under "state_dict", "model_state" or "model", or the path
            of such a file: safetensors, or anything torch.load reads with weights_only. Prefixes "module." and
            "_orig_mod.", as DataParallel and torch.compile leave them, are ignored.
        colors: the order of colors that the weights were trained on. "bgr", as in the published SRTG and MTNet
            weights, reverses the input channels of the first convolution, so that the model takes RGB.

    Raises:
        ValueError: no entry agrees, the file holds no state dict or cannot be read, or its first convolution does not
            take three colors though colors="bgr".
        FileNotFoundError: the path does not exist.
    """
    if colors not in ("rgb", "bgr"):
        raise ValueError(f"colors={colors!r} is neither rgb nor bgr")
    origin = "the given state dict" if isinstance(source, Mapping) else str(source)
    entries = _state(source, origin) if isinstance(source, Mapping) else read_state(source)
    own = {_bare(key): value for key, value in model.state_dict().items()}
    if not own:
        raise ValueError(f"{type(model).__name__} has no weights to fill")
    notes = _other_network(entries, own)
    entries = named_for(model, entries)
    taken = {key: value for key, value in entries.items() if key in own and own[key].shape == value.shape}
    if not taken:
        raise ValueError(
            f"{origin}: not one of its {len(entries)} entries agrees in name and shape with the model "
            f"(the file has {next(iter(entries))!r}, the model has {next(iter(own))!r}): "
            f"{' '.join(notes) or 'another network?'}"
        )
    for note in notes:
        logger.warning("%s: %s", origin, note)
    if colors == "bgr":
        first = _first_convolution(entries, origin)
        if first not in taken:
            raise ValueError(f"{origin}: colors='bgr', but the model does not take {first}, which has their order")
        taken[first] = taken[first].flip(1)
        notes.append(
            f"the colors of {first} were reversed: the weights were trained on BGR, the model now takes RGB, with "
            "the mean reversed too: (104, 117, 124) / 255 for the published weights"
        )
    with torch.no_grad():
        for key, value in taken.items():
            own[key].copy_(value)
    return LoadReport(
        taken=tuple(taken),
        left=tuple(key for key in entries if key not in taken),
        missing=tuple(key for key in own if key not in taken),
        reshaped=tuple(key for key in entries if key in own and key not in taken),
        notes=tuple(notes),
    )


def named_for(model: nn.Module, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries under the model's own names, where it knows names of other publications (`own_key`).

    Args:
        model: any network, wrapped or not; one without a method `own_key` knows no other names.
        entries: of a file, without prefixes of wrappers.
    """
    while not hasattr(model, "own_key") and isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    rename = getattr(model, "own_key", str)
    return {rename(key): value for key, value in entries.items()}


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Return the named tensors of a weights file, as `load_weights` reads it.

    Raises:
        ValueError: the file holds no state dict, is damaged, or would run code.
        FileNotFoundError: the path does not exist.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _state(load_file(path), str(path))
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged, or not a safetensors file: {error}") from error
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        raise ValueError(
            f"{path}: torch.load refuses it; it is damaged, or holds more than tensors, numbers, strings and their "
            f"containers, and nothing else is read from weights, since it could run code: {error}"
        ) from error
    return _state(checkpoint, str(path))


def _bare(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.partition(".")[2]
    return key


def _state(checkpoint: Any, origin: str) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, without the prefixes of wrappers."""
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{origin}: no state dict in it, but a {type(checkpoint).__name__}")
    for name in _CONTAINERS:
        if isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
            break
    entries = {_bare(str(key)): value for key, value in checkpoint.items()}
    if not entries or not all(isinstance(value, Tensor) for value in entries.values()):
        raise ValueError(f"{origin}: no state dict in it (top-level entries: {', '.join(map(str, checkpoint))[:200]})")
    return entries


def _other_network(entries: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """A sentence where the keys show that the file and the model are different networks."""
    found, wanted = (identify({key: tuple(value.shape) for key, value in state.items()}) for state in (entries, own))
    if found is None or wanted is None or found == wanted:
        return []
    options = f"{found.names[0]!r}" + (f", width={found.width:g}" if found.width != 1 else "")
    return [f"the weights are those of {found}, the model is {wanted}; create_model({options}, ...) takes all of it"]


def _first_convolution(entries: Mapping[str, Tensor], origin: str) -> str:
    layers = [(key, value.shape[1]) for key, value in entries.items() if value.dim() >= 4]
    for key, channels in layers:  # the classifier of an I3D stands before it
        if channels == 3:
            return key
    if layers:
        raise ValueError(f"{origin}: colors='bgr', but {layers[0][0]} takes {layers[0][1]} channels, not 3")
    raise ValueError(f"{origin}: colors='bgr', but it has no convolution over colors")
