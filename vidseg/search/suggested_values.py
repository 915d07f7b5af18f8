"""Values of searched options that Optuna suggests, and how it stores them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vidseg.search.parameter import Parameter
from vidseg.search.space import SearchSpace

__all__ = ["first_values", "stored_value", "suggested"]


def first_values(space: SearchSpace, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe's values of searched options as Optuna stores them, where the space contains them.

    Args:
        space: of the search.
        base: values of the options without the search, those of the recipe included.
    """
    return {
        name: stored_value(one, base[name])
        for name, one in space.parameters.items()
        if name in base and one.holds(base[name])
    }


def suggested(trial: Any, space: SearchSpace, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that Optuna suggests for a trial.

    Args:
        trial: `optuna.Trial`.
        space: of the search.
        base: values of options that are not searched.
    """
    chosen: dict[str, Any] = {}
    for name in space.ordered():
        if space.parameters[name].applies({**base, **chosen}):
            chosen[name] = _suggested_value(trial, name, space.parameters[name])
    return chosen


def stored_value(parameter: Parameter, value: Any) -> Any:
    """Return a value as Optuna stores it: values of a list of lists as JSON."""
    return json.dumps(value) if parameter.choices and _structured(parameter) else value


def _structured(parameter: Parameter) -> bool:
    return any(isinstance(value, tuple) for value in parameter.choices)


def _suggested_value(trial: Any, name: str, parameter: Parameter) -> Any:
    if parameter.choices:
        stored = trial.suggest_categorical(name, [stored_value(parameter, value) for value in parameter.choices])
        if not _structured(parameter):
            return stored
        return next(value for value in parameter.choices if stored_value(parameter, value) == stored)
    if parameter.integer:
        return trial.suggest_int(name, parameter.low, parameter.high, step=parameter.step or 1, log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
