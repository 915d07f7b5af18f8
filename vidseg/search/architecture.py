"""Architectures to choose from: the search space that a network declares, as searched options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidseg.engine.option_words import joined_values
from vidseg.search.parameter import Parameter

__all__ = ["PREFIX", "ArchitectureSpace", "Genome", "architecture_parameters"]

PREFIX = "network_option."
"""Beginning of the names of a network's options among the options of a run."""
Genome = tuple[int, ...]
"""An architecture as the place of its value in each parameter's list of values."""


def architecture_parameters(network: str) -> dict[str, Parameter]:
    """Return the search space that is declared beside a network, by names such as "network_option.layers".

    Args:
        network: registered name.

    Raises:
        ValueError: no network is registered under this name, or it declares no search space.
    """
    from vidseg.models import model_search_space

    declared = model_search_space(network).parameters
    return {f"{PREFIX}{name}": Parameter.from_description(one) for name, one in declared.items()}


@dataclass(frozen=True)
class ArchitectureSpace:
    """The architectures of one network.

    Args:
        network: registered name.
        parameters: option of the network, such as "layers" or "blocks.1" -> its values.
        fixed: further options of the network, such as dropout.

    Raises:
        ValueError: a parameter has a condition, or is a range without a list of values.
    """

    network: str
    parameters: Mapping[str, Parameter]
    fixed: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name, one in self.parameters.items():
            if one.when:
                raise ValueError(f"{name}: a one-shot search has no conditions; remove `when`")
            try:
                one.values()
            except ValueError as error:
                raise ValueError(f"{name}: {error}; give step or a list of values") from error

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each parameter."""
        return tuple(len(one.values()) for one in self.parameters.values())

    def values(self, genome: Sequence[int]) -> dict[str, Any]:
        """Return the value of each parameter."""
        pairs = zip(self.parameters.items(), genome, strict=True)
        return {name: one.values()[place] for (name, one), place in pairs}

    def options(self, genome: Sequence[int]) -> dict[str, Any]:
        """Return the options that the network is created with."""
        return joined_values({**self.fixed, **self.values(genome)})

    def words(self, genome: Sequence[int]) -> tuple[str, ...]:
        """Return the options as NAME=VALUE words, see `NetworkOptions.network_option`."""
        return tuple(f"{name}={value!r}" for name, value in self.options(genome).items())

    def largest(self) -> Genome:
        """Return the architecture with the largest number of each parameter, and the first value of other lists."""
        return tuple(self._place(one, max) for one in self.parameters.values())

    def smallest(self) -> Genome:
        """Return the architecture with the smallest number of each parameter, and the first value of other lists."""
        return tuple(self._place(one, min) for one in self.parameters.values())

    @staticmethod
    def _place(parameter: Parameter, choose: Any) -> int:
        values = parameter.values()
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        return values.index(choose(numbers)) if len(numbers) == len(values) else 0

    def key(self, genome: Sequence[int]) -> str:
        """Return a text that identifies the architecture, whatever the order of its options."""
        return json.dumps(self.options(genome), sort_keys=True)
