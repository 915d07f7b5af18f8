"""The space of a search: fixed options, searched options with their values and conditions, objectives and method."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from vidseg.search.parameter import Parameter
from vidseg.search.program import shown_name
from vidseg.search.scores import OWN, Objective

__all__ = ["METHODS", "PRUNERS", "SearchSpace"]

METHODS = ("tpe", "random", "grid", "nsga2", "one-shot")
PRUNERS = ("none", "median", "hyperband")


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

    @property
    def prunable(self) -> bool:
        """Whether trials can be stopped early by their scores so far: there is one objective, a score."""
        return len(self.objectives) == 1 and not self.objectives[0].cost and self.method != "one-shot"

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
