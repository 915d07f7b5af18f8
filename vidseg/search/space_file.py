"""The file of a search: read from YAML, and bound to the options of a training program before anything runs."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from vidseg.engine.option_words import option_of
from vidseg.engine.options import ONE_START
from vidseg.search.parameter import Parameter
from vidseg.search.program import TrainProgram, shown_name
from vidseg.search.scores import COSTS, OWN, Objective, make_objective
from vidseg.search.space import METHODS, PRUNERS, SearchSpace
from vidseg.search.space_checks import check_space

__all__ = ["bound_space", "read_space"]

_RESERVED = frozenset({"dataset", "out", "model_dir", "task_name", "log_file", "config", "json", *ONE_START})
"""Options that the search sets itself."""


def read_space(path: str | Path) -> dict[str, Any]:
    """Read a search file as it is written; `bound_space` checks and completes it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a YAML mapping, or has a key that does not exist.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of a search space")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no search space; expected lines such as `space:` and `trials: 20`")
    known = ["space" if one.name == "parameters" else one.name for one in fields(SearchSpace) if one.name != "path"]
    for key in content:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(known)}"
            raise ValueError(f"{path}: unknown key {key!r}; {hint}")
    return content


def bound_space(
    content: Mapping[str, Any],
    path: str | Path,
    program: TrainProgram,
    *,
    declared: Mapping[str, Parameter] | None = None,
) -> SearchSpace:
    """Return the checked space of a search file for a training program.

    Args:
        content: of `read_space`.
        path: of the file, for messages.
        program: what the trials run.
        declared: parameters that the network of `architecture` declares; `space` and `options` replace them.

    Raises:
        ValueError: an option, score, method or value that does not exist; an empty or contradictory space.
    """
    label = str(path)
    options = _options(_mapping(content, "options", label), program, label)
    parameters: dict[str, Parameter] = {}
    for text, description in _mapping(content, "space", label).items():
        name = _option_name(text, program, label, key="space")
        if name in parameters:
            raise ValueError(f"{label}: space: {text} is there twice")
        try:
            parameters[name] = _fitted(Parameter.from_description(description), name, program)
        except ValueError as error:
            raise ValueError(f"{label}: space: {text}: {error}") from error
    given = {name for own in (*parameters, *options) for name in (own, option_of(own))}
    whole = set(parameters) | set(options)
    parameters = {
        name: one for name, one in (declared or {}).items() if name not in given and option_of(name) not in whole
    } | parameters
    if not parameters:
        raise ValueError(
            f"{label}: space is empty; name at least one option, such as "
            "`space: {lr: {low: 0.001, high: 0.1, log: true}}`"
        )
    both = [shown_name(name) for name in parameters if name in options]
    if both:
        raise ValueError(f"{label}: {', '.join(both)} has a value under options and is searched; remove one of them")
    architecture = content.get("architecture")
    if architecture is not None:
        options = {**options, "network": str(architecture)}
    space = SearchSpace(
        path=label,
        program=program.name,
        options=options,
        parameters=parameters,
        architecture=None if architecture is None else str(architecture),
        objectives=_objectives(content, program.task, label),
        method=_word(content, "method", METHODS, label) or "tpe",
        trials=_number(content, "trials", int, label),
        time=_number(content, "time", float, label),
        jobs=_number(content, "jobs", int, label),
        seed=_number(content, "seed", int, label, least=0) or 0,
        budget=_budget(_mapping(content, "budget", label), label),
        one_shot=_mapping(content, "one_shot", label),
    )
    pruner = _word(content, "pruner", PRUNERS, label)
    space = replace(space, pruner=pruner or ("median" if space.prunable else "none"))
    check_space(space, program)
    return space


def _mapping(content: Mapping[str, Any], key: str, label: str) -> Mapping[str, Any]:
    found = content.get(key)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{label}: {key}={found!r} is not a mapping of names to values")
    return {str(name): value for name, value in found.items()}


def _word(content: Mapping[str, Any], key: str, known: Sequence[str], label: str) -> str | None:
    found = content.get(key)
    if found is None or found in known:
        return found
    close = difflib.get_close_matches(str(found), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(known)}"
    raise ValueError(f"{label}: unknown {key} {found!r}; {hint}")


def _number(content: Mapping[str, Any], key: str, kind: type, label: str, *, least: float | None = None) -> Any:
    found = content.get(key)
    if found is None:
        return None
    whole = kind is float or isinstance(found, int)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not whole:
        raise ValueError(f"{label}: {key}={found!r} is not {'a number' if kind is float else 'a whole number'}")
    if found < (least if least is not None else 1) if kind is int else found <= 0:
        raise ValueError(f"{label}: {key}={found!r} must be {'above 0' if kind is float else f'at least {least or 1}'}")
    return kind(found)


def _option_name(text: str, program: TrainProgram, label: str, *, key: str) -> str:
    try:
        name = program.option_name(text)
    except ValueError as error:
        raise ValueError(f"{label}: {key}: {error}") from error
    if name in _RESERVED:
        raise ValueError(f"{label}: {key}: {text} is set by the search; remove it")
    return name


def _options(given: Mapping[str, Any], program: TrainProgram, label: str) -> dict[str, Any]:
    found = {}
    for text, value in given.items():
        name = _option_name(text, program, label, key="options")
        if "." in name:
            found[name] = value
        else:
            try:
                found[name] = program.fit(value, program.types[name], text)
            except ValueError as error:
                raise ValueError(f"{label}: options: {error}") from error
    return found


def _fitted(parameter: Parameter, name: str, program: TrainProgram) -> Parameter:
    """A parameter whose values have the type of its option, and whose condition has names of options."""
    when = {program.option_name(other): values for other, values in parameter.when.items()}
    for other, values in when.items():
        if "." not in other:
            when[other] = tuple(program.fit(value, program.types[other], shown_name(other)) for value in values)
    if "." in name:  # options of networks are checked by the network
        return replace(parameter, when=when)
    kind = program.types[name]
    if parameter.choices:
        values = tuple(program.fit(value, kind, shown_name(name)) for value in parameter.choices)
        return replace(parameter, choices=values, when=when)
    numbers = {part for part in (kind, *get_args(kind)) if part in (int, float)}
    if not numbers:
        raise ValueError("is not a number and has no range; give a list of values")
    if float in numbers:
        low, high = (float(value) for value in (parameter.low, parameter.high) if value is not None)
        step = None if parameter.step is None else float(parameter.step)
        return replace(parameter, low=low, high=high, step=step, when=when)
    if not parameter.integer:
        raise ValueError(f"takes whole numbers, and low={parameter.low}, high={parameter.high} are not all whole")
    return replace(parameter, when=when)


def _objectives(content: Mapping[str, Any], task: str, label: str) -> tuple[Objective, ...]:
    given = content.get("objectives")
    if given is None:
        return (make_objective(task, OWN),)
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not names or not all(isinstance(name, (str, int)) for name in names):
        raise ValueError(f"{label}: objectives={given!r} is not a list of score names")
    try:
        found = tuple(make_objective(task, str(name)) for name in names)
    except ValueError as error:
        raise ValueError(f"{label}: objectives: {error}") from error
    repeated = [one.name for place, one in enumerate(found) if one in found[:place]]
    if repeated:
        raise ValueError(f"{label}: objectives: {repeated[0]!r} is there twice")
    return found


def _budget(given: Mapping[str, Any], label: str) -> dict[str, float]:
    for name in given:
        if name not in COSTS:
            close = difflib.get_close_matches(name, COSTS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(COSTS)}"
            raise ValueError(f"{label}: budget: unknown cost {name!r}; {hint}")
    numbers = {}
    for name, value in given.items():
        if isinstance(value, str):  # YAML reads 2e9 as text
            with contextlib.suppress(ValueError):
                value = float(value)
        numbers[name] = _number({name: value}, name, float, f"{label}: budget")
    return {name: value for name, value in numbers.items() if value is not None}
