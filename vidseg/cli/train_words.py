"""Words and files of `vidseg train`: published spellings, lists, options of configuration files."""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vidseg.cli.parsing import without_none
from vidseg.engine.options import ONE_START
from vidseg.tasks.recognition.published_config import is_published_config, published_config_options

__all__ = ["SPELLINGS", "fitting", "given_options", "last_value", "normalized", "option_types", "read_config"]

logger = logging.getLogger(__name__)

SPELLINGS = {
    "clip-length": "frames",
    "clip-size": "size",
    "train-frame-interval": "train-interval",
    "train-frame-inteval": "train-interval",
    "val-frame-interval": "interval",
    "val-frame-inteval": "interval",
    "end-epoch": "epochs",
    "lr-base": "lr",
    "random-seed": "seed",
    "pretrained-3d": "pretrained",
    "max-iter": "max-steps",
    "val-freq": "test-every-steps",
}
"""Names of options in the programs of SRTG's and other publications, and the names here."""
_NUMBERS = (int, float)
_SEPARATED = ("splits",)
"""Lists of words that may be written with commas; other lists of words may hold commas."""


def option_types(command: Any) -> dict[str, Any]:
    """Return the type of each option of a dataclass instance, those in its groups included, by name."""
    found: dict[str, Any] = {}
    hints = get_type_hints(type(command))
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if dataclasses.is_dataclass(value):
            found |= option_types(value)
        else:
            found[field.name] = hints[field.name]
    return found


def normalized(words: Sequence[str], types: Mapping[str, Any]) -> list[str]:
    """Return the words with each option under its own name, and each value of a list as a word.

    `--lr_steps=40,70`, `--lr-steps [40, 70]` and `--lr-steps 40 70` are the same; a list of words that is given
    several times is one list.

    Args:
        words: of a command line.
        types: type of each option by name.
    """
    result: list[str] = []
    lists: dict[str, list[str]] = {}
    current: list[str] = result
    split = False
    for word in words:
        if not word.startswith("--"):
            current += [part for part in re.split(r"[\s,\[\]()]+", word) if part] if split else [word]
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("_", "-")
        name = SPELLINGS.get(name, name)
        kind = _list_of(types.get(name.replace("-", "_")))
        current, split = result, kind in _NUMBERS or name in _SEPARATED
        if kind is None:
            result.append(f"--{name}{equals}{value}")
            continue
        if kind is str:
            current = lists.setdefault(name, [])
        else:
            result.append(f"--{name}")
        if equals:
            current += [part for part in re.split(r"[\s,\[\]()]+", value) if part] if split else [value]
    return [*result, *(part for name, values in lists.items() for part in (f"--{name}", *values))]


def given_options(words: Sequence[str], types: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the options that normalized words give."""
    names = [word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--")]
    found = [name.replace("-", "_") for name in names]
    return frozenset(name if name in types else name.removeprefix("no_") for name in found)


def last_value(words: Sequence[str], name: str) -> str | None:
    """Return the last value of an option in normalized words; None if it is not given."""
    found = None
    for place, word in enumerate(words):
        if word == f"--{name}" and place + 1 < len(words):
            found = words[place + 1]
        elif word.startswith(f"--{name}="):
            found = word.partition("=")[2]
    return found


def read_config(path: Path, types: Mapping[str, Any], *, task: str) -> dict[str, Any]:
    """Return the options of a YAML or JSON file by name; sections and published spellings are allowed.

    Options that concern one start of a run, such as `overwrite`, are left out with a warning.

    Args:
        path: of the file; the options.json of a run counts with its entry "options".
        types: type of each option by name.
        task: name of the task.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold options, or an option of another task, name or type.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, given with --config")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ValueError(f"{path}: not a {kind} file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no options; expected lines such as `batch-size: 48`")
    if is_published_config(content):
        content = {"task": "recognition", "options": published_config_options(content, path)}
    if content.get("task", task) != task:
        raise ValueError(f"{path}: holds options of a {content['task']} run, not of {task}")
    options = content.get("options", content)
    if not isinstance(options, dict):
        raise ValueError(f"{path}: options={options!r} holds no options; expected lines such as `batch-size: 48`")
    found: dict[str, Any] = {}
    for key, value in options.items():
        for name, each in (value if isinstance(value, dict) else {key: value}).items():
            option = _named(str(name), types, path)
            if option in ONE_START:
                logger.warning("%s: %s is ignored; it concerns one start of a run: use --%s", path, name, option)
            else:
                found[option] = fitting(each, types[option], f"{path}: {name}")
    return found


def _named(name: str, types: Mapping[str, Any], path: Path) -> str:
    """The option that a key of a configuration file means."""
    spelled = name.replace("_", "-")
    option = SPELLINGS.get(spelled, spelled).replace("-", "_")
    if option not in types:
        close = difflib.get_close_matches(spelled, [known.replace("_", "-") for known in types], n=1)
        raise ValueError(f"{path}: there is no option {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    return option


def _list_of(kind: Any) -> Any:
    """The type of a list's values; None for the type of a single value."""
    kind = without_none(kind) or kind
    return get_args(kind)[0] if get_origin(kind) is tuple else None


def fitting(value: Any, kind: Any, label: str) -> Any:
    """Return the value of a configuration file as its option's type has it.

    Args:
        value: as YAML or JSON has it.
        kind: type of the option.
        label: file and option, for the message.

    Raises:
        ValueError: it is of another type.
    """
    inner = without_none(kind)
    if inner is not None:
        return None if value is None else fitting(value, inner, label)
    if get_origin(kind) is tuple:
        arguments = get_args(kind)
        parts = list(value) if isinstance(value, (list, tuple)) else [value]
        if isinstance(value, str) and arguments[0] in _NUMBERS:
            parts = [part for part in re.split(r"[\s,\[\]()]+", value) if part]
        if Ellipsis not in arguments and len(parts) != len(arguments):
            raise ValueError(f"{label}={value!r}: expected {len(arguments)} values")
        return tuple(fitting(part, arguments[0], label) for part in parts)
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if str(value) == str(choice):
                return choice
        raise ValueError(f"{label}={value!r} is not one of {', '.join(map(str, get_args(kind)))}")
    if kind is bool:
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
    elif kind in _NUMBERS:
        try:  # YAML reads 1e-3 as text
            if not isinstance(value, (bool, list, dict)) and (kind is float or not isinstance(value, float)):
                return kind(value)
        except (TypeError, ValueError):
            pass
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{label}={value!r} is not of the type {getattr(kind, '__name__', kind)}")
