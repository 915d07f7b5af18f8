"""Checks of a search space before the first trial: conditions, method, options of networks, values."""

from __future__ import annotations

import difflib
import random
from collections.abc import Sequence
from typing import Any

from vidseg.engine.option_words import option_of
from vidseg.search.parameter import Parameter
from vidseg.search.program import TrainProgram, shown_name
from vidseg.search.space import SearchSpace

__all__ = ["check_space"]

_TRIES = 64
"""Combinations of values that are checked before the search starts."""


def check_space(space: SearchSpace, program: TrainProgram) -> None:
    """Refuse a space that contradicts itself or its program, or of which no combination of values is valid.

    Raises:
        ValueError: names the file, the option and what to do.
    """
    _check_conditions(space, program)
    _check_method(space)
    _check_networks(space, program)
    _check_values(space, program)


def _check_method(space: SearchSpace) -> None:
    label = space.path
    if space.pruner != "none" and not space.prunable:
        names = ", ".join(one.name for one in space.objectives)
        raise ValueError(
            f"{label}: pruner={space.pruner!r} compares one validation score, and objectives={names}; use pruner: none"
        )
    if space.method == "nsga2" and len(space.objectives) < 2:
        raise ValueError(f"{label}: method nsga2 is for several objectives; use tpe, or add objectives")
    if space.one_shot and space.method != "one-shot":
        raise ValueError(f"{label}: one_shot has settings of method one-shot, and method is {space.method}")
    if all(one.cost for one in space.objectives):
        raise ValueError(
            f"{label}: objectives has no score of {space.program or 'recognition'}, costs alone need no training"
        )
    if space.method == "grid":
        for name, one in space.parameters.items():
            if one.size is None:
                raise ValueError(f"{label}: space: {shown_name(name)}: a grid needs step or a list of values")


def _check_conditions(space: SearchSpace, program: TrainProgram) -> None:
    space.ordered()
    label = space.path
    try:
        base = program.options(space.options)
    except ValueError:  # reported by `_check_values` with its reason
        base = dict(space.options)
    for name, one in space.parameters.items():
        for other, values in one.when.items():
            place = f"{label}: space: {shown_name(name)}: when {shown_name(other)} is {_either(values)}"
            if other == name:
                raise ValueError(f"{place}: an option cannot be its own condition")
            if other in space.parameters:
                missing = [value for value in values if not space.parameters[other].holds(value)]
                if missing:
                    raise ValueError(f"{place}: {missing[0]!r} is not among the values of {shown_name(other)}")
            elif not one.applies({**base, **_any_value(one, other)}):
                raise ValueError(
                    f"{place}: {shown_name(other)} is {base.get(other)!r} in every trial; search it, or set it under "
                    "options"
                )


def _any_value(parameter: Parameter, but: str) -> dict[str, Any]:
    """A true value for each condition but one."""
    return {name: values[0] for name, values in parameter.when.items() if name != but}


def _either(values: Sequence[Any]) -> str:
    return " or ".join(map(repr, values))


def _check_networks(space: SearchSpace, program: TrainProgram) -> None:
    """Refuse options that no network of the space has."""
    from vidseg.models import model_options

    given = (*space.options, *space.parameters)
    wanted = [option_of(name.partition(".")[2]) for name in given if name.startswith("network_option.")]
    if "network" in space.parameters:
        networks = [str(value) for value in space.parameters["network"].values()]
    else:
        networks = [str(program.options(space.options)["network"])]
    try:
        known = [name for network in networks for name in model_options(network)]
    except ValueError as error:
        raise ValueError(f"{space.path}: {error}") from error
    for name in wanted:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(dict.fromkeys(known))}"
            raise ValueError(f"{space.path}: {', '.join(networks)} has no option {name!r}; {hint}")


def _check_values(space: SearchSpace, program: TrainProgram) -> None:
    """Refuse a space of which no combination of values is valid."""
    try:
        base = program.options(space.options)
    except ValueError as error:
        if not _refused_without_space(error, space):
            raise ValueError(f"{space.path}: options: {error}") from error
        base = dict(space.options)
    draws = random.Random(space.seed)
    problem: ValueError | None = None
    for _ in range(_TRIES):
        chosen = space.random_values(draws, base)
        try:
            program.options({**space.options, **chosen})
            return
        except ValueError as error:
            problem = error
    raise ValueError(f"{space.path}: no combination of values is valid: {problem}") from problem


def _refused_without_space(error: ValueError, space: SearchSpace) -> bool:
    """Whether options may be valid with values of the space, as the message names a searched option."""
    return any(name.partition(".")[0] in str(error) for name in space.parameters)
