"""Settings of one-shot architecture searches; imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vidseg.engine.options import at_least

__all__ = ["OneShotOptions"]


@dataclass(frozen=True)
class OneShotOptions:
    """Settings of a one-shot search."""

    sampled: int = 2
    """Networks drawn for each batch, besides the largest and the smallest one."""
    population: int = 16
    """Parents of a generation of the evolution."""
    calibration: int = 8
    """Training batches from which each network gets its statistics of batch norm."""
    networks: int = 4
    """Largest number of networks of the Pareto front that become runs."""
    fine_tune: int = 0
    """Epochs of training of each of these networks with the options of the search; 0: the shared weights."""

    def __post_init__(self) -> None:
        at_least(self, 0, "sampled", "fine_tune")
        at_least(self, 1, "population", "calibration", "networks")

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> OneShotOptions:
        """Return the settings that a file gives.

        Raises:
            ValueError: there is no such setting, or a value is wrong.
        """
        known = [one.name for one in fields(cls)]
        for name, value in content.items():
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(known)}"
                raise ValueError(f"unknown setting {name!r}; {hint}")
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name}={value!r} is not a whole number")
        return cls(**content)
