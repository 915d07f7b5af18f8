"""Registry of losses by name."""

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from vidseg.losses.detection import DetectionLoss
from vidseg.losses.staged import SegmentationLoss
from vidseg.losses.targets import class_counts

__all__ = ["create_loss", "list_losses", "register_loss"]

Loss = type[SegmentationLoss] | type[DetectionLoss]

_LOSSES: dict[str, Loss] = {}


def register_loss(name: str, loss: Loss) -> None:
    """Register a loss under the name of its network.

    Args:
        name: name of the network.
        loss: loss class.

    Raises:
        ValueError: the name is already registered.
    """
    if name in _LOSSES:
        raise ValueError(f"loss {name!r} is already registered")
    _LOSSES[name] = loss


def list_losses() -> list[str]:
    """Return the sorted names of all losses, which are the names of their networks."""
    return sorted(_LOSSES)


def create_loss(name: str, *, num_classes: int, label_sequences: Iterable[Tensor] | None = None, **options: Any) -> Any:
    """Build the published loss of the segmentation or detection network `name`.

    Args:
        name: one of `list_losses()`.
        num_classes: number of classes K.
        label_sequences: int64 (L,), labels of each training video, from which the loss computes the weights that its
            published recipe computes; explicit options have priority. None: only explicit options. Only for
            segmentation networks.
        **options: options of the loss.

    Returns:
        A `SegmentationLoss` or a `DetectionLoss`.

    Raises:
        ValueError: the name is unknown, or an option has an invalid value.
        TypeError: the loss has no such option, or it computes nothing from label sequences.
    """
    if name not in _LOSSES:
        close = difflib.get_close_matches(name, _LOSSES, n=3, cutoff=0.5)
        raise ValueError(
            f"unknown loss {name!r}; closest: {', '.join(close) or 'none'}; available: {', '.join(list_losses())}"
        )
    loss = _LOSSES[name]
    allowed = [option for option in inspect.signature(loss).parameters if option != "num_classes"]
    for option in options:
        if option not in allowed:
            raise TypeError(f"loss {name!r} has no option {option!r}; available: {', '.join(allowed)}")
    if label_sequences is not None:
        if not issubclass(loss, SegmentationLoss):
            raise TypeError(f"loss {name!r} computes nothing from label_sequences; leave it None")
        counts, boundaries = class_counts(label_sequences, num_classes=num_classes)
        options = loss.options_from_labels(counts, boundaries, options) | options
    return loss(num_classes=num_classes, **options)
