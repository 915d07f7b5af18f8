"""Loading of weights by name and shape, with a report of what was taken and what was not."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from vidseg.models._classifier import classifier_name
from vidseg.models._identify import Identity, identify, with_names
from vidseg.models._input_spec import InputSpec
from vidseg.models._registry import input_spec
from vidseg.models._torch_file import read_torch_file

__all__ = ["LoadReport", "load_weights", "named_for", "read_state"]

logger = logging.getLogger(__name__)

_CONTAINERS = ("state_dict", "model_state", "model")
_PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name

# By number of classes: HACS, Moments in Time, Kinetics.
_SRTG_INTERVALS = {200: 2, 339: 3, 400: 5, 600: 5, 700: 5}


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did; `str()` gives it as a sentence."""

    taken: tuple[str, ...]
    """Entries copied: name and shape agree."""
    left: tuple[str, ...]
    """Entries of the file that the network does not have, or has in another shape."""
    missing: tuple[str, ...]
    """Weights and statistics of the network that keep their old values; counters do not count."""
    filled: float
    """Share of the network's weights and statistics that were copied, 0 to 1."""
    reshaped: tuple[str, ...] = ()
    """Entries that both have, in different shapes; they are in `left` and in `missing` too."""
    notes: tuple[str, ...] = ()
    """Warnings: the file holds another network, the order of colors was changed."""
    input_spec: InputSpec | None = None
    """What the network expects as input with these weights, where the file records it or its publication is recognized;
    None: not known, and the network's own spec applies."""

    def __str__(self) -> str:
        text = (
            f"{len(self.taken)} entries taken, {self.filled:.1%} of the network; left in the file: "
            f"{_some(self.left)}; not filled: {_some(self.missing)}"
        )
        if self.reshaped:
            text += f"; of another shape: {_some(self.reshaped)}"
        return "; ".join((text, *self.notes))


class _Origin(NamedTuple):
    """What a file says of its weights besides their values."""

    label: str
    """Path, or "the given state dict"."""
    entries: dict[str, Tensor]
    wrapped: bool = False
    """Every name began with "module."."""
    training: bool = False
    """The file is a checkpoint of a training run of SRTG's authors or of this library."""
    modules: frozenset[str] | None = None
    """Paths of the modules, where the state dict has them."""
    network: str | None = None
    """Registered name, where the file has it."""
    input_spec: InputSpec | None = None


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    strict: bool = True,
    colors: Literal["rgb", "bgr"] = "rgb",
    features_only: bool = False,
    network: str | None = None,
) -> LoadReport:
    """Copy weights into `model` by name and shape, and report what was copied.

    Names of other publications of the same network are read as its own, see `named_for`; the report has the own names.

    Args:
        model: filled in place; its device and types stay.
        source: a state dict, a checkpoint that holds one under "state_dict", "model_state" or "model", or the path
            of such a file: safetensors, or anything torch.load reads with weights_only. Prefixes "module." and
            "_orig_mod.", as DataParallel and torch.compile leave them, are ignored.
        strict: refuse weights that leave an entry of the network random or an entry of the file unused, and weights of
            another network. False: copy what fits by name and shape, as for training from published weights; a
            warning in the log names another network.
        colors: order of colors that the weights were trained on. "bgr", as in the published SRTG and MTNet weights,
            reverses the input channels of the first convolution, so that the model takes RGB.
        features_only: the classifier is not needed: its entries may be missing, or have another shape.
        network: registered name of the network that the weights are of. Needed only where different networks have the
            same entries (`r2plus1d_18` and `torchvision_r2plus1d_18`) and the file does not record which one it holds.

    Raises:
        ValueError: no entry agrees, or not all with `strict`; the file holds no state dict or cannot be read; its
            first convolution does not take three colors though colors="bgr".
        FileNotFoundError: the path does not exist.
    """
    if colors not in ("rgb", "bgr"):
        raise ValueError(f"colors={colors!r} is neither rgb nor bgr")
    origin = _origin(source, "the given state dict") if isinstance(source, Mapping) else _read(source)
    own_state = model.state_dict()
    own = {_bare(key): value for key, value in own_state.items()}
    if not own:
        raise ValueError(f"{type(model).__name__} has no weights to fill")
    found = _resolved(_identity(origin.entries, origin.modules), origin, network)
    notes = _other_network(found, _identity(own, _modules(own_state)), origin)
    entries = named_for(model, origin.entries)
    taken = {key: value for key, value in entries.items() if key in own and own[key].shape == value.shape}
    report = _report(own, entries, taken, notes)
    unfilled, unused = _not_needed(model, report, features_only=features_only)
    if not taken or (strict and (unfilled or unused or notes)):
        raise ValueError(_refusal(model, own, entries, origin, notes, unfilled, unused))
    for note in notes:
        logger.warning("%s: %s", origin.label, note)
    if colors == "bgr":
        first = _first_convolution(entries, origin.label)
        if first not in taken:
            raise ValueError(
                f"{origin.label}: colors='bgr', but the model does not take {first}, the convolution over colors"
            )
        taken[first] = taken[first].flip(1)
        notes.append(
            f"the colors of {first} were reversed: the weights were trained on BGR, the model now takes RGB, with "
            "the mean reversed too: (104, 117, 124) / 255 for the published weights"
        )
    with torch.no_grad():
        for key, value in taken.items():
            own[key].copy_(value)
    return replace(report, notes=tuple(notes), input_spec=_input_spec(found, origin, colors))


def named_for(model: nn.Module, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries under the model's own names, where it knows names of other publications (`own_key`).

    Args:
        model: any network, wrapped or not; one without a method `own_key` knows no other names.
        entries: of a file, without prefixes of wrappers.
    """
    rename = getattr(_unwrapped(model), "own_key", str)
    return {rename(key): value for key, value in entries.items()}


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DataParallel and the like."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    return model


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Return the named tensors of a weights file, as `load_weights` reads it.

    Raises:
        ValueError: the file holds no state dict, is damaged, or would run code.
        FileNotFoundError: the path does not exist.
    """
    return _read(path).entries


def _read(path: str | Path) -> _Origin:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _origin(load_file(path), str(path))
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged, or not a safetensors file: {error}") from error
    checkpoint = read_torch_file(path)
    return _origin(checkpoint, str(path))


def _bare(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.partition(".")[2]
    return key


def _origin(checkpoint: Any, label: str) -> _Origin:
    """The named tensors of a checkpoint, without the prefixes of wrappers, and what else it says."""
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{label}: no state dict in it, but a {type(checkpoint).__name__}")
    state = next((checkpoint[name] for name in _CONTAINERS if isinstance(checkpoint.get(name), Mapping)), checkpoint)
    entries = {_bare(str(key)): value for key, value in state.items()}
    if not entries or not all(isinstance(value, Tensor) for value in entries.values()):
        raise ValueError(f"{label}: no state dict in it (top-level entries: {', '.join(map(str, state))[:200]})")
    if state is checkpoint:
        return _Origin(label, entries, modules=_modules(state))
    network, spec = _recorded(checkpoint, label)
    return _Origin(
        label,
        entries,
        wrapped=all(str(key).startswith("module.") for key in state),
        training={"epoch", "state_dict"} <= set(checkpoint),
        modules=_modules(state),
        network=network,
        input_spec=spec,
    )


def _recorded(checkpoint: Mapping[str, Any], label: str) -> tuple[str | None, InputSpec | None]:
    """Name of the network and input spec that a run stored in its checkpoint, at the top or in its record."""
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


def _modules(state: Mapping[str, Any]) -> frozenset[str] | None:
    """Paths of the modules of a state dict that a module made; None for others."""
    versions = getattr(state, "_metadata", None)
    return frozenset(_bare(path) for path in versions) if isinstance(versions, Mapping) else None


def _identity(entries: Mapping[str, Tensor], modules: frozenset[str] | None) -> Identity | None:
    return identify({key: tuple(value.shape) for key, value in entries.items()}, modules=modules)


def _resolved(found: Identity | None, origin: _Origin, network: str | None) -> Identity | None:
    """One network where the entries fit several and anything else decides."""
    if found is None or not found.ambiguous:
        return found
    named = network or origin.network
    if named is None and origin.wrapped and origin.training:
        named = "r2plus1d_18"  # torchvision publishes bare state dicts, SRTG's authors checkpoints of DataParallel
    return found if named not in found.names else found._replace(names=(named,))


def _other_network(found: Identity | None, wanted: Identity | None, origin: _Origin) -> list[str]:
    """A sentence where the file and the model are different networks, or may be."""
    if found is None or wanted is None or found == wanted:
        return []
    if found.ambiguous and set(wanted.names) <= set(found.names) and found.width == wanted.width:
        names = " and ".join(found.names)
        return [f"the weights fit {names}, which compute different values; say which with network={wanted.names[0]!r}"]
    options = f"{found.names[0]!r}" + (f", width={found.width:g}" if found.width != 1 else "")
    return [f"the weights are those of {found}, the model is {wanted}; create_model({options}, ...) takes all of it"]


def _report(
    own: Mapping[str, Tensor], entries: Mapping[str, Tensor], taken: Mapping[str, Tensor], notes: list[str]
) -> LoadReport:
    # Counters and tables of indices are the same in every network: files without them leave nothing random.
    values = {key: value.numel() for key, value in own.items() if value.is_floating_point()}
    return LoadReport(
        taken=tuple(taken),
        left=tuple(key for key in entries if key not in taken),
        missing=tuple(key for key in values if key not in taken),
        filled=sum(size for key, size in values.items() if key in taken) / max(1, sum(values.values())),
        reshaped=tuple(key for key in entries if key in own and key not in taken),
        notes=tuple(notes),
    )


def _not_needed(model: nn.Module, report: LoadReport, *, features_only: bool) -> tuple[list[str], list[str]]:
    """Entries that are not filled and those that are not used, without those that do not matter."""
    prefixes: tuple[str, ...] = tuple(getattr(_unwrapped(model), "other_heads", ()))
    unused = [key for key in report.left if not key.startswith(prefixes)] if prefixes else list(report.left)
    unfilled = list(report.missing)
    classifier = classifier_name(_unwrapped(model)) if features_only else None
    if classifier is not None:
        unused = [key for key in unused if not key.startswith(f"{classifier}.")]
        unfilled = [key for key in unfilled if not key.startswith(f"{classifier}.")]
    return unfilled, unused


def _refusal(
    model: nn.Module,
    own: Mapping[str, Tensor],
    entries: Mapping[str, Tensor],
    origin: _Origin,
    notes: list[str],
    unfilled: list[str],
    unused: list[str],
) -> str:
    """Why the weights are refused, and what to do."""
    name = type(_unwrapped(model)).__name__
    hints = list(notes)
    if not hints and (alike := with_names(origin.entries)) and set(alike) != set(with_names(own)):
        hints.append(f"its entries have the names of {' or '.join(alike)}")
    if not any(key in own and own[key].shape == value.shape for key, value in entries.items()):
        return (
            f"{origin.label}: not one of its {len(entries)} entries agrees in name and shape with the {name} "
            f"(the file has {next(iter(entries))!r}, the network has {next(iter(own))!r}): "
            f"{' '.join(hints) or 'another network?'}"
        )
    faults = []
    reshaped = [key for key in unused if key in own]
    if reshaped:
        shapes = [f"{key} {tuple(entries[key].shape)}, network {tuple(own[key].shape)}" for key in reshaped]
        faults.append(f"shapes differ: {_some(shapes)}")
    if absent := [key for key in unfilled if key not in entries]:
        faults.append(f"not in the file: {_some(absent)}")
    if foreign := [key for key in unused if key not in own]:
        faults.append(f"not in the network: {_some(foreign)}")
    text = "; ".join([*faults, *hints])
    return f"{origin.label} does not fit the {name}: {text}. strict=False takes the entries that fit"


def _some(names: list[str] | tuple[str, ...]) -> str:
    if not names:
        return "none"
    return f"{len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"


def _input_spec(found: Identity | None, origin: _Origin, colors: Literal["rgb", "bgr"]) -> InputSpec | None:
    """What the file records, or what the weights of a recognized publication were trained on."""
    spec = origin.input_spec
    if spec is None and found is not None and not found.ambiguous:
        own_run = origin.training and not origin.wrapped
        if found.names[0].startswith(("srtg_", "mtnet_", "r3d", "r2plus1d", "wide_")):
            # Frames in BGR, from which the mean of RGB was subtracted in that order.
            if (origin.training and origin.wrapped) or colors == "bgr":
                spec = input_spec(found.names[0])
                classes = len(origin.entries.get("fc.bias", ()))
                spec = replace(
                    spec,
                    interval=_SRTG_INTERVALS.get(classes, spec.interval),
                    size=256,
                    resize=294,
                    mean=spec.mean[::-1],
                    color="bgr",
                )
        elif not own_run:
            spec = input_spec(found.names[0])
    return replace(spec, color="rgb") if spec is not None and colors == "bgr" else spec


def _first_convolution(entries: Mapping[str, Tensor], origin: str) -> str:
    layers = [(key, value.shape[1]) for key, value in entries.items() if value.dim() >= 4]
    for key, channels in layers:  # the classifier of an I3D stands before it
        if channels == 3:
            return key
    if layers:
        raise ValueError(f"{origin}: colors='bgr', but {layers[0][0]} takes {layers[0][1]} channels, not 3")
    raise ValueError(f"{origin}: colors='bgr', but it has no convolution over colors")
