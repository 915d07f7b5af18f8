"""The file of a search: fixed options, searched options, objectives and method, checked before anything runs."""

from __future__ import annotations

import contextlib
import difflib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

from vidseg.engine.option_words import option_of
from vidseg.engine.options import ONE_START
from vidseg.search.parameter import Parameter
from vidseg.search.program import TrainProgram, shown_name
from vidseg.search.scores import COSTS, OWN, Objective, make_objective

__all__ = ["METHODS", "PRUNERS", "SearchSpace", "bound_space", "read_space", "suggested"]

METHODS = ("tpe", "random", "grid", "nsga2", "one-shot")
PRUNERS = ("none", "median", "hyperband")
_RESERVED = frozenset({"dataset", "out", "model_dir", "task_name", "log_file", "config", "json", *ONE_START})
"""Options that the search sets itself."""
_TRIES = 64
"""Combinations of values that are checked before the search starts."""


@dataclass(frozen=True)
class SearchSpace:
    """The content of a search file.

    Attributes:
        path: of the file, for messages.
        program: NAME of `vidseg train`; "" without any.
        options: options of every trial by name.
        parameters: searched options by name.
        architecture: network whose declared search space is added to `parameters`; None: none.
        objectives: what is improved.
        method: one of `METHODS`.
        pruner: one of `PRUNERS`.
        trials: number of trials; None: 20, or no limit with `time`.
        time: hours after which the search stops; None: no limit.
        jobs: trials that run at the same time; None: 1.
        seed: seed of the choice of values; trials have the option `seed` of training.
        budget: largest value of a cost, for each cost that is limited.
        one_shot: settings of the method one-shot, see `OneShotOptions`.
    """

    path: str
    program: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    architecture: str | None = None
    objectives: tuple[Objective, ...] = (Objective(OWN, "maximize"),)
    method: str = "tpe"
    pruner: str = "none"
    trials: int | None = None
    time: float | None = None
    jobs: int | None = None
    seed: int = 0
    budget: Mapping[str, float] = field(default_factory=dict)
    one_shot: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """Return what stays the same as long as a search is resumed, as plain data."""
        return {
            "program": self.program,
            "options": json.loads(json.dumps(dict(self.options))),
            "space": {name: one.description() for name, one in self.parameters.items()},
            "architecture": self.architecture,
            "objectives": [one.name for one in self.objectives],
            "method": self.method,
            "pruner": self.pruner,
            "seed": self.seed,
            "budget": dict(self.budget),
        }

    def ordered(self) -> list[str]:
        """Return the names of the parameters, each behind those that its condition names."""
        found: list[str] = []
        left = list(self.parameters)
        while left:
            free = [name for name in left if not any(other in left for other in self.parameters[name].when)]
            if not free:
                raise ValueError(f"{self.path}: the conditions of {', '.join(map(shown_name, left))} form a circle")
            found += free
            left = [name for name in left if name not in free]
        return found

    def combinations(self, base: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield every combination of values, the last parameter's first; for a grid.

        Args:
            base: values of the options that conditions name and that are not searched.
        """
        names = self.ordered()
        seen: set[str] = set()
        for values in product(*(self.parameters[name].values() for name in names)):
            chosen = self.applying(dict(zip(names, values, strict=True)), base)
            key = json.dumps(chosen, sort_keys=True)
            if key not in seen:  # parameters that do not apply leave equal combinations
                seen.add(key)
                yield chosen

    def applying(self, values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the parameters whose conditions are true.

        Args:
            values: a value for each parameter.
            base: values of options that are not searched.
        """
        chosen: dict[str, Any] = {}
        for name in self.ordered():
            if self.parameters[name].applies({**base, **chosen}):
                chosen[name] = values[name]
        return chosen

    def random_values(self, draws: random.Random, base: Mapping[str, Any]) -> dict[str, Any]:
        """Return a random combination of values."""
        values = {}
        for name, one in self.parameters.items():
            if one.size is None:
                assert one.low is not None and one.high is not None
                values[name] = draws.uniform(one.low, one.high)
            else:
                values[name] = draws.choice(one.values())
        return self.applying(values, base)


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
    space = replace(space, pruner=pruner or ("median" if _prunable(space) else "none"))
    _check_conditions(space, program)
    _check_method(space)
    _check_networks(space, program)
    _check_values(space, program)
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


def _prunable(space: SearchSpace) -> bool:
    return len(space.objectives) == 1 and not space.objectives[0].cost and space.method != "one-shot"


def _check_method(space: SearchSpace) -> None:
    label = space.path
    if space.pruner != "none" and not _prunable(space):
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
