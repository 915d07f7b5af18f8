"""The names of the networks: a dictionary from name to factory, filled by each architecture's file."""

import difflib
import fnmatch
import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["create_model", "list_models", "register_model"]

_FACTORIES: dict[str, Callable[..., nn.Module]] = {}


def register_model(name: str, factory: Callable[..., nn.Module]) -> None:
    """Give `factory` a name; it takes `num_classes` and its options by keyword.

    Raises:
        ValueError: the name is taken.
    """
    if name in _FACTORIES:
        raise ValueError(f"a network called {name!r} is registered already")
    _FACTORIES[name] = factory


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks that match a shell pattern such as "srtg_*", sorted by text and number."""
    return sorted(
        fnmatch.filter(_FACTORIES, pattern),
        key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)],
    )


def create_model(name: str, *, num_classes: int, **options: Any) -> nn.Module:
    """Build the network called `name` with fresh weights.

    Args:
        name: exactly one of `list_models()`.
        num_classes: width of the classifier.
        **options: options of that architecture; an unknown one is an error.

    Raises:
        ValueError: no network has this name, or num_classes < 1.
        TypeError: the network has no such option.
    """
    if name not in _FACTORIES:
        close = difflib.get_close_matches(name, _FACTORIES, n=5, cutoff=0.5)
        hint = f"close: {', '.join(close)}" if close else "list_models() has all names"
        raise ValueError(f"no network is called {name!r}; {hint}")
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1")
    factory = _FACTORIES[name]
    allowed = [option for option in inspect.signature(factory).parameters if option != "num_classes"]
    for option in options:
        if option not in allowed:
            raise TypeError(f"{name} has no option {option!r}; its options are {', '.join(allowed)}")
    return factory(num_classes=num_classes, **options)
