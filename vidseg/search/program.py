"""The training program that a search runs, as the commands describe it to the search."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vidseg.engine.options import flat_options

__all__ = ["ADDED", "TrainProgram", "shown_name"]

ADDED = ("network_option", "loss_option")
"""Options that hold NAME=VALUE words; `network-option.NAME` in a search space is one word of them."""


@dataclass(frozen=True)
class TrainProgram:
    """A training command: its task, its options, and how to run it.

    Attributes:
        name: name of the recipe, such as ucf101 or segmentation; "" without any.
        task: name of the task.
        command: words that start the command, to which options are added.
        test: words that start `vidseg test`, to which the folder of a run is added.
        types: type of each option by name.
        spellings: other names of options, and the names in `types`; with hyphens.
        fit: takes a value, the type of its option and a label for messages; returns the value as this type, or raises
            ValueError.
        resolve: takes options by name; returns all options of the run, or raises ValueError.
    """

    name: str
    task: str
    command: tuple[str, ...]
    test: tuple[str, ...]
    types: Mapping[str, Any]
    spellings: Mapping[str, str]
    fit: Callable[[Any, Any, str], Any]
    resolve: Callable[[Mapping[str, Any]], Any]

    def option_name(self, text: str) -> str:
        """Return the name of an option as it is in `types`, or `network_option.NAME`.

        Args:
            text: as written, with hyphens, underscores or a published spelling.

        Raises:
            ValueError: there is no such option; names a close one.
        """
        first, dot, rest = text.partition(".")
        spelled = first.replace("_", "-")
        name = self.spellings.get(spelled, spelled).replace("-", "_")
        if dot and name in ADDED and name in self.types and rest:
            return f"{name}.{rest.replace('-', '_')}"
        if name not in self.types or dot:
            known = [shown_name(each) for each in self.types]
            close = difflib.get_close_matches(spelled, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`vidseg train --help` lists all options"
            if dot and close and close[0] == spelled:
                hint = f"only {' and '.join(f'{shown_name(each)}.NAME' for each in ADDED)} have a part behind a point"
            raise ValueError(f"there is no option {text!r}; {hint}")
        return name

    def given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return options by name for `resolve` and for a file of --config.

        Args:
            values: options and `network_option.NAME` to values.
        """
        found: dict[str, Any] = {}
        words: dict[str, list[str]] = {}
        for name, value in values.items():
            option, dot, key = name.partition(".")
            if dot:
                words.setdefault(option, []).append(f"{key}={value if isinstance(value, str) else repr(value)}")
            elif option in ADDED:
                words[option] = [*value, *words.get(option, [])]
            else:
                found[option] = list(value) if isinstance(value, tuple) else value
        return found | words

    def options(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options of a run, by flat names, and each `network_option.NAME`.

        Raises:
            ValueError: the values are refused.
        """
        return flat_options(self.resolve(self.given(values))) | {
            name: value for name, value in values.items() if "." in name
        }


def shown_name(name: str) -> str:
    """Return the name of an option as it is written in files and flags: with hyphens, up to a point."""
    first, dot, rest = name.partition(".")
    return first.replace("_", "-") + dot + rest
