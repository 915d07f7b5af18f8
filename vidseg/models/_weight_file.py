"""Files of weights: the entries of a checkpoint of any publication, and what it records about them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from vidseg.models._adapters import merged_entries
from vidseg.models._input_spec import InputSpec
from vidseg.models._published import verify_published
from vidseg.models._torch_file import read_torch_file

__all__ = ["WeightFile", "as_weight_file", "bare_key", "module_paths", "read_state", "read_weight_file"]

# In order of priority: published results of ActionFormer and TriDet are those of the averaged weights.
# VideoMAE has "module"; the encoders of V-JEPA 2 have "target_encoder", its probes a list "classifiers" of one.
_CONTAINERS = ("state_dict_ema", "state_dict", "model_state", "model", "module", "target_encoder", "classifiers")
_PREFIXES = ("module.", "_orig_mod.")  # added by DataParallel and torch.compile


class WeightFile(NamedTuple):
    """Contents of a weights file."""

    label: str
    """Path, or "the given state dict"."""
    entries: dict[str, Tensor]
    wrapped: bool = False
    """Whether every key had the prefix "module."."""
    training: bool = False
    """Whether the file is a training checkpoint, written by the SRTG programs or by this library."""
    modules: frozenset[str] | None = None
    """Paths of the modules, from the metadata of the state dict; None if it has none."""
    network: str | None = None
    """Name of the network recorded in the file."""
    input_spec: InputSpec | None = None


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Return the entries of a weights file, read as by `load_weights`.

    Args:
        path: weights file or checkpoint.

    Returns:
        Key, without prefixes of wrappers -> tensor.

    Raises:
        ValueError: the file has no state dict, is damaged, or contains objects that could run code.
        FileNotFoundError: the path does not exist.
    """
    return read_weight_file(path).entries


def read_weight_file(path: str | Path) -> WeightFile:
    """Return the content of a weights file; raises as `read_state`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"weights file {path} does not exist")
    verify_published(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return as_weight_file(load_file(path), str(path))
        except SafetensorError as error:
            raise ValueError(f"{path}: the file is damaged or not a safetensors file: {error}") from error
    checkpoint = read_torch_file(path)
    return as_weight_file(checkpoint, str(path))


def bare_key(key: str) -> str:
    """Return the key of an entry without prefixes of wrappers."""
    while key.startswith(_PREFIXES):
        key = key.partition(".")[2]
    return key


def as_weight_file(checkpoint: Any, label: str) -> WeightFile:
    """Return the entries of a checkpoint, without prefixes of wrappers, and what it records about them."""
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{label}: expected a state dict, found an object of type {type(checkpoint).__name__}")
    probes = checkpoint.get("classifiers")
    if isinstance(probes, list) and len(probes) == 1:
        checkpoint = {**checkpoint, "classifiers": probes[0]}
    state = next((checkpoint[name] for name in _CONTAINERS if isinstance(checkpoint.get(name), Mapping)), checkpoint)
    entries = {bare_key(str(key)): value for key, value in state.items()}
    if not entries or not all(isinstance(value, Tensor) for value in entries.values()):
        keys = ", ".join(map(str, state))[:200]
        raise ValueError(f"{label}: expected a state dict, found the top-level entries {keys or '(none)'}")
    entries = merged_entries(entries)
    if state is checkpoint:
        return WeightFile(label, entries, modules=module_paths(state))
    network, spec = _recorded(checkpoint, label)
    return WeightFile(
        label,
        entries,
        wrapped=all(str(key).startswith("module.") for key in state),
        training={"epoch", "state_dict"} <= set(checkpoint),
        modules=module_paths(state),
        network=network,
        input_spec=spec,
    )


def _recorded(checkpoint: Mapping[str, Any], label: str) -> tuple[str | None, InputSpec | None]:
    """Return the name of the network and the input spec that a run stored in its checkpoint."""
    places = [checkpoint]
    for name in ("record", "options"):
        if isinstance(inner := places[-1].get(name), Mapping):
            places.append(inner)
    network = next((place["network"] for place in places if isinstance(place.get("network"), str)), None)
    spec = next((place["input_spec"] for place in places if isinstance(place.get("input_spec"), Mapping)), None)
    if spec is None:
        return network, None
    try:
        return network, InputSpec.from_dict(spec)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{label}: {error}") from error


def module_paths(state: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the paths of the modules from the metadata of a state dict; None without metadata."""
    versions = getattr(state, "_metadata", None)
    return frozenset(bare_key(path) for path in versions) if isinstance(versions, Mapping) else None
