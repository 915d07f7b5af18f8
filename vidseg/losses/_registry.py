"""The names of the losses: a dictionary from name to class, filled by the files that define them."""

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from vidseg.losses.staged import SegmentationLoss
from vidseg.losses.targets import class_counts

__all__ = ["create_loss", "list_losses", "register_loss"]

_LOSSES: dict[str, type[SegmentationLoss]] = {}


def register_loss(name: str, loss: type[SegmentationLoss]) -> None:
    """Give a loss the name of the network that it trains.

    Raises:
        ValueError: the name is taken.
    """
    if name in _LOSSES:
        raise ValueError(f"a loss called {name!r} is registered already")
    _LOSSES[name] = loss


def list_losses() -> list[str]:
    """Names of the losses, sorted: those of the networks that they train."""
    return sorted(_LOSSES)


def create_loss(
    name: str, *, num_classes: int, label_sequences: Iterable[Tensor] | None = None, **options: Any
) -> SegmentationLoss:
    """Build the loss that the network called `name` was published with.

    Args:
        name: exactly one of `list_losses()`.
        num_classes: K.
        label_sequences: int64 (L,), the labels of each training video: the loss takes from them the weights that its
            recipe takes from them, but for those given as options. None: no weights but those given.
        **options: options of that loss; an unknown one is an error.

    Raises:
        ValueError: no loss has this name, or an option's value is wrong.
        TypeError: the loss has no such option.
    """
    if name not in _LOSSES:
        close = difflib.get_close_matches(name, _LOSSES, n=3, cutoff=0.5)
        raise ValueError(f"no loss is called {name!r}; close: {', '.join(close) or 'none'}; all: {list_losses()}")
    loss = _LOSSES[name]
    allowed = [option for option in inspect.signature(loss).parameters if option != "num_classes"]
    for option in options:
        if option not in allowed:
            raise TypeError(f"the loss {name} has no option {option!r}; its options are {', '.join(allowed)}")
    if label_sequences is not None:
        counts, boundaries = class_counts(label_sequences, num_classes=num_classes)
        options = loss.options_from_labels(counts, boundaries, options) | options
    return loss(num_classes=num_classes, **options)
