"""The names of the networks: a dictionary from name to factory, filled by the modules of the architectures."""

import difflib
import fnmatch
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from torch import nn

from vidseg.models._input_spec import InputSpec

__all__ = ["create_model", "discover", "input_spec", "list_models", "model_options", "model_task", "register_model"]


class _Entry(NamedTuple):
    factory: Callable[..., nn.Module]
    task: str
    input_spec: InputSpec


_ENTRIES: dict[str, _Entry] = {}


def register_model(
    name: str,
    factory: Callable[..., nn.Module],
    *,
    task: str = "recognition",
    input_spec: InputSpec | None = None,
) -> None:
    """Add a network to the registry.

    Args:
        name: as users type it.
        factory: called with `num_classes` and the options of `create_model`, by keyword; its signature defines the
            options.
        task: what the network does, and so its contract: "recognition" (clips (B, 3, T, H, W) to logits (B, K)),
            "flow_recognition" (the same for optical flow (B, 2, T, H, W)), "segmentation" (features (B, D, L) to logits
            of each stage), "streaming" (windows of frames and a state to logits of each stage), or a task of
            the caller's.
        input_spec: what the network expects as input; default: features for "segmentation", otherwise `InputSpec()`.

    Raises:
        ValueError: the name is taken.
    """
    if name in _ENTRIES:
        raise ValueError(f"a network called {name!r} is already registered")
    if input_spec is None:
        input_spec = InputSpec(modality="features") if task == "segmentation" else InputSpec()
    _ENTRIES[name] = _Entry(factory, task, input_spec)


@cache
def discover() -> None:
    """Import the architectures of this package; each registers its networks.

    Architectures import this module while they register, so this is not done when the module is loaded.
    """
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")


def list_models(pattern: str = "*", *, task: str | None = None) -> list[str]:
    """Return the names of the networks that match a shell pattern such as "srtg_*", sorted by text and number.

    Args:
        pattern: shell pattern.
        task: only the networks registered for this task; None: all.

    Raises:
        ValueError: no network is registered for this task.
    """
    discover()
    tasks = sorted({entry.task for entry in _ENTRIES.values()})
    if task is not None and task not in tasks:
        raise ValueError(f"task={task!r}: there are networks for {', '.join(tasks)}")
    return sorted(
        (name for name in fnmatch.filter(_ENTRIES, pattern) if task in (None, _ENTRIES[name].task)),
        key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)],
    )


def model_task(name: str) -> str:
    """Return the task of the network called `name`, as given to `register_model`.

    Raises:
        ValueError: no network has this name.
    """
    return _entry(name).task


def model_options(name: str) -> dict[str, Any]:
    """Return the options of the network called `name`, with their defaults.

    Returns:
        Option -> default; `inspect.Parameter.empty` for an option that `create_model` requires. `num_classes`, which
        every network takes, is left out.

    Raises:
        ValueError: no network has this name.
    """
    parameters = inspect.signature(_entry(name).factory).parameters
    return {key: value.default for key, value in parameters.items() if key != "num_classes"}


def input_spec(name: str, **options: Any) -> InputSpec:
    """Return what the network called `name` expects as input.

    Args:
        name: exactly one of `list_models()`.
        **options: options of the network; those that a spec has too, such as `frames`, replace the spec's value.

    Raises:
        ValueError: no network has this name, or an option is outside the range of a spec.
        TypeError: the network has no such option.
    """
    spec = _entry(name).input_spec
    _check_options(name, options)
    return replace(spec, **{key: value for key, value in options.items() if hasattr(spec, key)})


def create_model(name: str, *, num_classes: int, **options: Any) -> nn.Module:
    """Build the network called `name` with fresh weights.

    Args:
        name: exactly one of `list_models()`.
        num_classes: width of the classifier.
        **options: options of that architecture, see `model_options`; an unknown one is an error.

    Raises:
        ValueError: no network has this name, or num_classes < 1.
        TypeError: the network has no such option, or needs one that is not given.
    """
    factory = _entry(name).factory
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1")
    _check_options(name, options)
    for option, default in model_options(name).items():
        if default is inspect.Parameter.empty and option not in options:
            raise TypeError(f"{name} needs the option {option!r}")
    return factory(num_classes=num_classes, **options)


def _check_options(name: str, options: dict[str, Any]) -> None:
    known = model_options(name)
    for option in options:
        if option not in known:
            raise TypeError(f"{name} has no option {option!r}; its options are {', '.join(known) or 'none'}")


def _entry(name: str) -> _Entry:
    discover()
    if name not in _ENTRIES:
        close = difflib.get_close_matches(name, _ENTRIES, n=5, cutoff=0.5)
        hint = f"close: {', '.join(close)}" if close else "list_models() has all names"
        raise ValueError(f"no network is called {name!r}; {hint}")
    return _ENTRIES[name]
