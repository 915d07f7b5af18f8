"""The names of the networks: a dictionary from name to factory, filled by each architecture's file."""

import difflib
import fnmatch
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

__all__ = ["create_model", "list_models", "model_task", "register_model"]


class _Entry(NamedTuple):
    factory: Callable[..., nn.Module]
    task: str


_ENTRIES: dict[str, _Entry] = {}


def register_model(name: str, factory: Callable[..., nn.Module], *, task: str = "recognition") -> None:
    """Give `factory` a name; it takes `num_classes` and its options by keyword.

    Args:
        name: as users will type it.
        factory: called with `num_classes` and the options of `create_model`.
        task: what the network does, and so its contract: "recognition" (clips (B, 3, T, H, W) to logits (B, K)),
            "flow_recognition" (the same for optical flow (B, 2, T, H, W)), "segmentation" (features (B, D, L) to logits
            of each stage), or another that its file describes.

    Raises:
        ValueError: the name is taken.
    """
    if name in _ENTRIES:
        raise ValueError(f"a network called {name!r} is registered already")
    _ENTRIES[name] = _Entry(factory, task)


def list_models(pattern: str = "*", *, task: str | None = None) -> list[str]:
    """Names of the networks that match a shell pattern such as "srtg_*", sorted by text and number.

    Args:
        pattern: shell pattern.
        task: only the networks registered for this task; None: all.

    Raises:
        ValueError: no network is registered for this task.
    """
    tasks = sorted({entry.task for entry in _ENTRIES.values()})
    if task is not None and task not in tasks:
        raise ValueError(f"task={task!r}: there are networks for {', '.join(tasks)}")
    return sorted(
        (name for name in fnmatch.filter(_ENTRIES, pattern) if task in (None, _ENTRIES[name].task)),
        key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)],
    )


def model_task(name: str) -> str:
    """What the network called `name` does, as given to `register_model`.

    Raises:
        ValueError: no network has this name.
    """
    return _entry(name).task


def create_model(name: str, *, num_classes: int, **options: Any) -> nn.Module:
    """Build the network called `name` with fresh weights.

    Args:
        name: exactly one of `list_models()`.
        num_classes: width of the classifier.
        **options: options of that architecture; an unknown one is an error.

    Raises:
        ValueError: no network has this name, or num_classes < 1.
        TypeError: the network has no such option, or needs one that is not given.
    """
    factory = _entry(name).factory
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1")
    parameters = {key: value for key, value in inspect.signature(factory).parameters.items() if key != "num_classes"}
    for option in options:
        if option not in parameters:
            raise TypeError(f"{name} has no option {option!r}; its options are {', '.join(parameters) or 'none'}")
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in options:
            raise TypeError(f"{name} needs the option {option!r}")
    return factory(num_classes=num_classes, **options)


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        close = difflib.get_close_matches(name, _ENTRIES, n=5, cutoff=0.5)
        hint = f"close: {', '.join(close)}" if close else "list_models() has all names"
        raise ValueError(f"no network is called {name!r}; {hint}")
    return _ENTRIES[name]
