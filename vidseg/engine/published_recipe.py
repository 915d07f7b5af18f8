"""Published settings of a network on a data set, which `vidseg train NAME` takes; imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidseg.engine.option_words import merged_values

__all__ = ["Recipe", "published_options"]


@dataclass(frozen=True)
class Recipe:
    """The published settings for a data set, or for a network on it.

    Attributes:
        options: options by their flat names, where they differ from the task's defaults.
        title: the data set's own name.
        classes: number of classes of the data set; None: not checked.
        labels: beginning of its published label files, which end in _train.csv and _val.csv; "" without any.
    """

    options: Mapping[str, Any]
    title: str = ""
    classes: int | None = None
    labels: str = ""


def published_options(
    recipes: Mapping[str, Mapping[str, Recipe]], name: str, network: str, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the published options of a network on a data set, by flat names, with changes.

    Args:
        recipes: by data set and network.
        name: of the data set.
        network: name of the network.
        changes: options by their flat names; `network_option` and `loss_option` are added to the published ones.

    Raises:
        ValueError: there is no such data set or network.
    """
    if name not in recipes:
        raise ValueError(f"recipe={name!r} is not one of {', '.join(recipes)}")
    if network not in recipes[name]:
        close = difflib.get_close_matches(network, recipes[name], n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(recipes[name])}"
        raise ValueError(f"no published settings for a network called {network!r}; {hint}")
    options = {"network": network, **recipes[name][network].options}
    added = {
        key: merged_values(options.get(key, ()), changes.get(key, ())) for key in ("network_option", "loss_option")
    }
    return {**options, **changes, **added}
