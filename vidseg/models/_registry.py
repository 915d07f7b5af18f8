"""Registry of networks: name, factory, task and input spec, filled by the modules of the architectures."""

import difflib
import fnmatch
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import nn

from vidseg.models._input_spec import InputSpec
from vidseg.models._quantized import QUANTIZED, quantize_layers
from vidseg.models._search_space import ModelSearchSpace
from vidseg.models._shapes import SHAPES, set_shapes

__all__ = [
    "ModelOrigin",
    "create_model",
    "discover",
    "has_classes",
    "input_options",
    "input_spec",
    "list_models",
    "model_options",
    "model_origin",
    "model_search_space",
    "model_task",
    "register_model",
]


class ModelOrigin(NamedTuple):
    """How `create_model` made a network.

    Attributes:
        name: of the network.
        options: that were given.
        shapes: shape of each entry of its state when it was made.
    """

    name: str
    options: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


class _Entry(NamedTuple):
    factory: Callable[..., nn.Module]
    task: str
    input_spec: InputSpec
    search_space: ModelSearchSpace | None


_ENTRIES: dict[str, _Entry] = {}
_ORIGINS: WeakKeyDictionary[nn.Module, ModelOrigin] = WeakKeyDictionary()


def register_model(
    name: str,
    factory: Callable[..., nn.Module],
    *,
    task: str = "recognition",
    input_spec: InputSpec | None = None,
    search_space: ModelSearchSpace | None = None,
) -> None:
    """Add a network to the registry.

    Args:
        name: name of the network in `create_model` and on the command line.
        factory: function that returns the network, called with `num_classes` and the options as keyword arguments; its
            signature defines the options. A factory without the argument `num_classes`, such as that of an
            optical-flow network, is called with the options only.
        task: task of the network, which defines its input and output: "recognition" (clips (B, C, T, H, W) -> logits
            (B, K); C = 3, or the option `in_channels`), "flow" (two pictures (B, 3, H, W) -> optical flow
            (B, 2, H, W)), "segmentation" (features (B, D, L) -> logits of each stage), "detection" (features (B, D, L)
            -> scored segments), "streaming" (a window of frames and a state -> logits of each stage and the next
            state), or a new task.
        input_spec: expected input; None: features for "segmentation" and "detection", otherwise `InputSpec()`.
        search_space: options that an architecture search varies; None: none.

    Raises:
        ValueError: the name is already registered.
    """
    if name in _ENTRIES:
        raise ValueError(f"a network called {name!r} is already registered")
    if input_spec is None:
        input_spec = InputSpec(modality="features") if task in ("segmentation", "detection") else InputSpec()
    _ENTRIES[name] = _Entry(factory, task, input_spec, search_space)


@cache
def discover() -> None:
    """Import the architectures of this package and those of others, which register their networks.

    Networks of others are those of installed packages with an entry point of the group "vidseg.networks", and of the
    Python files that the environment variable VIDSEG_NETWORKS names, separated by ":". The architectures import this
    module, so it cannot import them when it is loaded.

    Raises:
        FileNotFoundError: VIDSEG_NETWORKS names a file that does not exist.
    """
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")
    for entry_point in entry_points(group="vidseg.networks"):
        entry_point.load()
    for name in filter(None, os.environ.get("VIDSEG_NETWORKS", "").split(os.pathsep)):
        _import_file(Path(name))


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"VIDSEG_NETWORKS: {path} does not exist; name Python files that register networks")
    path = path.resolve()
    if any(getattr(module, "__file__", None) == str(path) for module in list(sys.modules.values())):
        return  # the user's program has imported it
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"VIDSEG_NETWORKS: {path} is not a Python file; its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # what pickles of its classes name
    spec.loader.exec_module(module)


def list_models(pattern: str = "*", *, task: str | None = None) -> list[str]:
    """Return the names of the registered networks, with numbers in names sorted by value.

    Args:
        pattern: shell pattern of names, such as "srtg_*".
        task: return only networks for this task; None: all tasks.

    Raises:
        ValueError: no network is registered for this task.
    """
    discover()
    tasks = sorted({entry.task for entry in _ENTRIES.values()})
    if task is not None and task not in tasks:
        raise ValueError(f"unknown task={task!r}; expected one of {', '.join(tasks)}")
    return sorted(
        (name for name in fnmatch.filter(_ENTRIES, pattern) if task in (None, _ENTRIES[name].task)),
        key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)],
    )


def model_task(name: str) -> str:
    """Return the task of the network called `name`, see `register_model`.

    Raises:
        ValueError: no network is registered under this name.
    """
    return _entry(name).task


def model_options(name: str) -> dict[str, Any]:
    """Return the options of the network called `name` with their defaults, without `num_classes`.

    Returns:
        Option -> default value; `inspect.Parameter.empty` for a required option.

    Raises:
        ValueError: no network is registered under this name.
    """
    parameters = inspect.signature(_entry(name).factory).parameters
    return {key: value.default for key, value in parameters.items() if key != "num_classes"}


def model_search_space(name: str) -> ModelSearchSpace:
    """Return the search space that is declared beside the network called `name`.

    Raises:
        ValueError: no network is registered under this name, or it declares no search space.
    """
    found = _entry(name).search_space
    if found is None:
        known = [other for other in list_models(task=model_task(name)) if _ENTRIES[other].search_space is not None]
        hint = f"; networks for {model_task(name)} that do begin with {known[0]}" if known else ""
        raise ValueError(f"{name} declares no search space{hint}")
    return found


def has_classes(name: str) -> bool:
    """Return whether the network called `name` takes `num_classes`; optical-flow networks do not.

    Raises:
        ValueError: no network is registered under this name.
    """
    parameters = inspect.signature(_entry(name).factory).parameters
    return "num_classes" in parameters or any(value.kind is value.VAR_KEYWORD for value in parameters.values())


def input_spec(name: str, **options: Any) -> InputSpec:
    """Return the input spec of the network called `name`.

    Args:
        name: one of `list_models()`.
        **options: options of the network; options that are also fields of a spec, such as `frames`, replace the value
            in the spec.

    Raises:
        ValueError: no network is registered under this name, or an option is out of the range of its field.
        TypeError: the network does not have one of the options.
    """
    spec = _entry(name).input_spec
    _check_options(name, options)
    known = {field.name for field in fields(spec)}
    return replace(spec, **{key: value for key, value in options.items() if key in known})


def input_options(name: str, options: Mapping[str, Any], spec: InputSpec) -> dict[str, Any]:
    """Return the options of a network, with the numbers of channels that an input spec decides.

    Args:
        name: one of `list_models()`.
        options: options of the network that are given.
        spec: how the network sees clips.

    Raises:
        ValueError: no network is registered under this name, or the network has other channels than the spec.
    """
    known, chosen = model_options(name), dict(options)
    if spec.motion_channels and "motion_channels" in known:
        chosen.setdefault("motion_channels", spec.motion_channels)
    channels = chosen.get("in_channels", known.get("in_channels", 3))
    if spec.channels == channels:
        return chosen
    if "in_channels" in chosen or "in_channels" not in known:
        raise ValueError(
            f"{name} has {channels} input channels, clips with modality={spec.modality!r} and stack={spec.stack} have "
            f"{spec.channels}; " + ("leave in_channels out" if "in_channels" in chosen else "choose another network")
        )
    return {**chosen, "in_channels": spec.channels}


def create_model(name: str, *, num_classes: int | None = None, **options: Any) -> nn.Module:
    """Build the network called `name` with randomly initialized weights.

    Args:
        name: one of `list_models()`.
        num_classes: number of classes, at least 1. Required, except for networks without classes, such as optical-flow
            networks, where it must be None.
        **options: options of the network, see `model_options`, and `shapes`: shapes of parameters that differ, as
            `vidseg compress --prune` leaves them; and `quantized`: "int8" for layers that round their inputs and
            weights, as `vidseg compress --quantize int8 --fine-tune` trains them.

    Returns:
        The network in training mode.

    Raises:
        ValueError: no network is registered under this name, num_classes < 1, or the network has no classes.
        TypeError: the network does not have one of the options, or a required option or `num_classes` is missing.
    """
    factory = _entry(name).factory
    classes = {} if num_classes is None else {"num_classes": num_classes}
    if has_classes(name):
        if num_classes is None:
            raise TypeError(f"{name} needs num_classes, the number of classes")
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} must be at least 1")
    elif classes:
        raise ValueError(
            f"num_classes={num_classes}: {name} is a network for {model_task(name)} and has no classes; leave "
            "num_classes out"
        )
    given = dict(options)
    shapes, quantized = options.pop(SHAPES, None), options.pop(QUANTIZED, None)
    _check_options(name, options)
    for option, default in model_options(name).items():
        if default is inspect.Parameter.empty and option not in options:
            raise TypeError(f"{name} needs the option {option!r}")
    model = factory(**classes, **options)
    if shapes is not None:
        set_shapes(model, shapes)
    if quantized is not None:
        quantize_layers(model, quantized)
    _ORIGINS[model] = ModelOrigin(name, given, _shapes_of(model))
    return model


def model_origin(model: nn.Module) -> ModelOrigin | None:
    """Return how a network was made; None if not by `create_model`, or if its layers have changed since then."""
    origin = _ORIGINS.get(model)
    return origin if origin is not None and origin.shapes == _shapes_of(model) else None


def _shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items() if hasattr(value, "shape")}


def _check_options(name: str, options: dict[str, Any]) -> None:
    known = model_options(name)
    for option in options:
        if option not in known and option not in (SHAPES, QUANTIZED):
            raise TypeError(f"{name} has no option {option!r}; its options are {', '.join(known) or 'none'}")


def _entry(name: str) -> _Entry:
    discover()
    if name not in _ENTRIES:
        close = difflib.get_close_matches(name, _ENTRIES, n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "list_models() returns all names"
        raise ValueError(f"no network is called {name!r}; {hint}")
    return _ENTRIES[name]
