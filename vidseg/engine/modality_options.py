"""From the input spec of a network to the modality options of a loader."""

from __future__ import annotations

from typing import Any

from vidseg.models import InputSpec

__all__ = ["modality_options"]


def modality_options(spec: InputSpec) -> dict[str, Any]:
    """Return the arguments `modality`, `mean` and `std` of a loader for an input spec.

    The mean and the standard deviation of a pair such as "rgb+flow" are those of its first part; loaders have their own
    for the second.
    """
    first, _, second = spec.modality.partition("+")
    if not second:
        return {"modality": first, "mean": spec.mean, "std": spec.std}
    return {"modality": (first, second), "mean": {first: spec.mean}, "std": {first: spec.std}}
