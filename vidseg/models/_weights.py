"""Loading of weights by name and shape, with a report of copied, unused and missing entries."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidseg.models._classifier import classifier_name
from vidseg.models._identify import Identity, identify, with_names
from vidseg.models._input_spec import InputSpec
from vidseg.models._registry import input_spec
from vidseg.models._weight_file import WeightFile, as_weight_file, bare_key, module_paths, read_weight_file

__all__ = ["LoadReport", "load_weights", "named_for"]

logger = logging.getLogger(__name__)

# Frame interval of the published weights, by number of classes: HACS, Moments in Time, Kinetics.
_SRTG_INTERVALS = {200: 2, 339: 3, 400: 5, 600: 5, 700: 5}


@dataclass(frozen=True)
class LoadReport:
    """Result of `load_weights`; `str()` returns a summary."""

    taken: tuple[str, ...]
    """Copied entries."""
    left: tuple[str, ...]
    """Entries of the file that are missing in the network or have another shape there."""
    missing: tuple[str, ...]
    """Weights and running statistics of the network that keep their values; batch counters are not listed."""
    filled: float
    """Fraction of the weights and running statistics of the network that was copied, from 0 to 1."""
    reshaped: tuple[str, ...] = ()
    """Entries with different shapes in file and network; also contained in `left` and `missing`."""
    notes: tuple[str, ...] = ()
    """Warnings, such as weights of another network or reversed color channels."""
    input_spec: InputSpec | None = None
    """Input spec of the weights, recorded in the file or known from a recognized publication; None: use the registered
    spec of the network."""

    def __str__(self) -> str:
        text = (
            f"{len(self.taken)} entries taken, {self.filled:.1%} of the network; unused entries of the file: "
            f"{_some(self.left)}; entries of the network not filled: {_some(self.missing)}"
        )
        if self.reshaped:
            text += f"; different shapes: {_some(self.reshaped)}"
        return "; ".join((text, *self.notes))


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    strict: bool = True,
    colors: Literal["rgb", "bgr"] = "rgb",
    features_only: bool = False,
    cross_modality: bool = False,
    network: str | None = None,
) -> LoadReport:
    """Copy weights into `model` by name and shape.

    Keys of other publications of the same network are renamed, see `named_for`; the report has the keys of the network.

    Args:
        model: network that is filled in place; its device and dtypes do not change.
        source: state dict, checkpoint with a state dict under "state_dict_ema" (averaged weights), "state_dict",
            "model_state" or "model", the first of them that exists, or path of such a file: safetensors, or a file that
            torch.load reads with weights_only=True. The prefixes "module." and "_orig_mod." of DataParallel and
            torch.compile are ignored.
        strict: raise an error if an entry of the network is not filled, an entry of the file is not used, or the
            weights belong to another network. False: copy the entries that agree in name and shape, for training from
            published weights; weights of another network are logged as a warning.
        colors: color order of the frames that the weights were trained on. "bgr", as for the published SRTG and MTNet
            weights, reverses the input channels of the first convolution, so that the network expects RGB.
        features_only: allow a missing classifier or one of another shape.
        cross_modality: fill the first convolution of a network for other channels than RGB, such as stacks of flow:
            its weights are averaged over R, G and B and repeated for each channel (TSN, arXiv 1608.00859, section 3.2).
        network: registered name of the network of the weights. Required only for weights that fit several networks
            (`r2plus1d_18` and `torchvision_r2plus1d_18`) in a file that does not record its network.

    Returns:
        Copied, unused and missing entries, and the input spec of the weights if it is known.

    Raises:
        ValueError: no entry agrees; with `strict`, not all entries agree; the file has no state dict or cannot be read,
            or has the name of published weights and another digest; colors="bgr" and the first convolution does not
            have three input channels; `cross_modality` and no convolution for RGB has other channels in the network.
        FileNotFoundError: the path does not exist.
    """
    if colors not in ("rgb", "bgr"):
        raise ValueError(f"colors={colors!r} must be 'rgb' or 'bgr'")
    origin = as_weight_file(source, "the given state dict") if isinstance(source, Mapping) else read_weight_file(source)
    own_state = model.state_dict()
    own = {bare_key(key): value for key, value in own_state.items()}
    if not own:
        raise ValueError(f"{type(model).__name__} has no weights")
    found = _resolved(_identity(origin.entries, origin.modules), origin, network)
    entries = named_for(model, origin.entries)
    averaged: list[str] = []
    if cross_modality:
        entries, averaged = _averaged_stems(entries, own, origin.label, colors)
    # A network of the other modality may have a name of its own, as i3d_flow has.
    identity = _identity(entries, None) if averaged else found
    notes = _other_network(identity, _identity(own, module_paths(own_state)), origin)
    notes += getattr(_unwrapped(model), "differences", _no_differences)(origin.entries)
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
                f"{origin.label}: colors='bgr', but the first convolution {first} does not fit the network"
            )
        taken[first] = taken[first].flip(1)
        notes.append(
            f"the input channels of {first} were reversed: the weights were trained on BGR frames, the network now "
            "expects RGB frames; for the published weights, the mean of R, G and B is (104, 117, 124) / 255"
        )
    notes += averaged
    with torch.no_grad():
        for key, value in taken.items():
            own[key].copy_(value)
    spec = _input_spec(_unwrapped(model), found, origin, colors, network)
    return replace(report, notes=tuple(notes), input_spec=spec)


def named_for(model: nn.Module, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of a file under the keys of the network.

    Args:
        model: any network, wrapped or not; its method `own_entries`, which may also join entries, or else `own_key`
            renames keys of other publications.
        entries: entries of the file, without prefixes of wrappers.
    """
    convert = getattr(_unwrapped(model), "own_entries", None)
    if convert is not None:
        converted: dict[str, Tensor] = convert(entries)
        return converted
    rename = getattr(_unwrapped(model), "own_key", str)
    return {rename(key): value for key, value in entries.items()}


def _same_input(entries: Mapping[str, Tensor], spec: InputSpec) -> InputSpec:
    """Return `spec`: the default of a network's method `published_input`."""
    return spec


def _no_differences(entries: Mapping[str, Tensor]) -> list[str]:
    """Return no note: the default of a network's method `differences`."""
    return []


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside wrappers such as DataParallel."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    return model


def _identity(entries: Mapping[str, Tensor], modules: frozenset[str] | None) -> Identity | None:
    return identify({key: tuple(value.shape) for key, value in entries.items()}, modules=modules)


def _resolved(found: Identity | None, origin: WeightFile, network: str | None) -> Identity | None:
    """Return `found`, reduced to one network if the caller or the file determines which of several it is."""
    if found is None or not found.ambiguous:
        return found
    named = network or origin.network
    if named is None and origin.wrapped and origin.training:
        named = "r2plus1d_18"  # published by SRTG as DataParallel checkpoints; torchvision publishes bare state dicts
    return found if named not in found.names else found._replace(names=(named,))


def _other_network(found: Identity | None, wanted: Identity | None, origin: WeightFile) -> list[str]:
    """Return a note if the file and the model are, or may be, different networks."""
    if found is None or wanted is None or found == wanted:
        return []
    if found.ambiguous and set(wanted.names) <= set(found.names) and found.width == wanted.width:
        names = " and ".join(found.names)
        return [f"the weights fit {names}, which compute different values; choose one with network={wanted.names[0]!r}"]
    options = f"{found.names[0]!r}" + (f", width={found.width:g}" if found.width != 1 else "")
    return [
        f"the weights are those of {found}, the model is {wanted}; create_model({options}, ...) builds the network of "
        "the weights"
    ]


def _report(
    own: Mapping[str, Tensor], entries: Mapping[str, Tensor], taken: Mapping[str, Tensor], notes: list[str]
) -> LoadReport:
    # Batch counters and index tables are not trained, so they may be missing in a file.
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
    """Return the entries that `strict` rejects: entries of the model not filled, entries of the file not used."""
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
    origin: WeightFile,
    notes: list[str],
    unfilled: list[str],
    unused: list[str],
) -> str:
    """Return the message of the error: differences between file and network, and the remedy."""
    name = type(_unwrapped(model)).__name__
    hints = list(notes)
    if not hints and (alike := with_names(origin.entries)) and set(alike) != set(with_names(own)):
        hints.append(f"the keys of the file are those of {' or '.join(alike)}")
    if not any(key in own and own[key].shape == value.shape for key, value in entries.items()):
        return (
            f"{origin.label}: none of the {len(entries)} entries agrees in name and shape with the {name} "
            f"(first key of the file: {next(iter(entries))!r}, of the network: {next(iter(own))!r}): "
            f"{'; '.join(hints) or 'the file probably belongs to another network'}"
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
    return f"{origin.label} does not fit the {name}: {text}; strict=False copies the entries that fit"


def _some(names: list[str] | tuple[str, ...]) -> str:
    if not names:
        return "none"
    return f"{len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"


def _input_spec(
    model: nn.Module, found: Identity | None, origin: WeightFile, colors: Literal["rgb", "bgr"], network: str | None
) -> InputSpec | None:
    """Return the input spec recorded in the file, or that of a recognized publication.

    Networks with the same entries may have different inputs, which are not known without the name of the network.
    """
    spec = origin.input_spec
    if found is not None and (named := network or origin.network) in found.names:
        found = found._replace(names=(named,))
    if found is not None and len({input_spec(name) for name in found.names}) > 1:
        found = None
    if spec is None and found is not None and not found.ambiguous:
        own_run = origin.training and not origin.wrapped
        if found.names[0].startswith(("srtg_", "mtnet_", "r3d", "r2plus1d", "wide_")):
            # Trained on BGR frames, from which the RGB mean was subtracted without reversing it.
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
            published = getattr(model, "published_input", _same_input)
            spec = published(origin.entries, input_spec(found.names[0]))
    return replace(spec, color="rgb") if spec is not None and colors == "bgr" else spec


def _averaged_stems(
    entries: Mapping[str, Tensor], own: Mapping[str, Tensor], origin: str, colors: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the entries with first convolutions for the channels of the network, and a note for each of them."""
    if colors == "bgr":
        raise ValueError("colors='bgr' has no effect with cross_modality, which averages over the colors")
    found, notes = dict(entries), []
    for key, value in entries.items():
        shape = tuple(own[key].shape) if key in own else ()
        if value.dim() < 4 or value.shape[1] != 3 or len(shape) != value.dim() or shape[1] == 3:
            continue
        if (shape[0], *shape[2:]) == (value.shape[0], *value.shape[2:]):
            found[key] = value.mean(dim=1, keepdim=True).expand(shape).contiguous()
            notes.append(f"{key} was averaged over R, G and B and repeated for {shape[1]} channels")
    if not notes:
        raise ValueError(
            f"{origin}: cross_modality, but no convolution for 3 channels has another number of channels in the network"
        )
    return found, notes


def _first_convolution(entries: Mapping[str, Tensor], origin: str) -> str:
    layers = [(key, value.shape[1]) for key, value in entries.items() if value.dim() >= 4]
    for key, channels in layers:  # the first entry of an I3D is its classifier
        if channels == 3:
            return key
    if layers:
        raise ValueError(f"{origin}: colors='bgr', but {layers[0][0]} has {layers[0][1]} input channels, not 3")
    raise ValueError(f"{origin}: colors='bgr', but the file has no convolution")
