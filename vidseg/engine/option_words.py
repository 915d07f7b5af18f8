"""Options of networks and losses as words of the form NAME=VALUE; imports nothing heavy."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["joined_values", "merged_values", "named_values", "option_of"]


def named_values(words: Iterable[str]) -> dict[str, Any]:
    """`layers=8` as {"layers": 8}; what is not a Python literal is text. `blocks.0=1 blocks.1=2` is `blocks=(1, 2)`.

    Raises:
        ValueError: a word without a name or a value, or numbers of an option that are not complete.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(
                f"{word!r} is not of the form NAME=VALUE, such as layers=8; a FOLDER or NAME comes before these options"
            )
        try:
            values[key.replace("-", "_")] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[key.replace("-", "_")] = text
    return joined_values(values)


def joined_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with those called NAME.0, NAME.1 and so on as one tuple NAME.

    Raises:
        ValueError: the numbers of an option have a gap, or the option is given as a whole as well.
    """
    found: dict[str, Any] = {}
    parts: dict[str, dict[int, Any]] = {}
    for key, value in values.items():
        name = option_of(key)
        if name == key:
            found[key] = value
        else:
            parts.setdefault(name, {})[int(key.rpartition(".")[2])] = value
    for name, numbered in parts.items():
        if name in found or sorted(numbered) != list(range(len(numbered))):
            given = ", ".join(f"{name}.{place}" for place in sorted(numbered))
            raise ValueError(f"{given}: give {name}.0, {name}.1 and so on without a gap, or {name} as a whole")
        found[name] = tuple(numbered[place] for place in range(len(numbered)))
    return found


def merged_values(base: Iterable[str], given: Iterable[str]) -> tuple[str, ...]:
    """Return the NAME=VALUE words of `base` with those of `given`, which replace words of the same name.

    A word for one number of an option, such as `width.0=0.5`, replaces the option as a whole, and the reverse.
    """
    words = {_word_name(word): word for word in given}
    in_parts = {option_of(name) for name in words} - set(words)

    def stays(name: str) -> bool:
        return name not in in_parts and (option_of(name) == name or option_of(name) not in words)

    kept = {_word_name(word): word for word in base}
    return tuple(({name: word for name, word in kept.items() if stays(name)} | words).values())


def _word_name(word: str) -> str:
    return word.partition("=")[0].replace("-", "_")


def option_of(name: str) -> str:
    """Return the option that a name such as "width.0" is a number of; other names are returned unchanged."""
    option, dot, place = name.rpartition(".")
    return option if dot and option and place.isdigit() else name
