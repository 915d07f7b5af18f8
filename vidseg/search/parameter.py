"""One searched option: a list of values or a range of numbers, and the condition under which it is searched."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Parameter"]

Value = Any
"""A number, text, truth value, None, or a list of these, as YAML and JSON have them."""
_RANGE = ("low", "high", "step", "log")
_KEYS = ("choices", *_RANGE, "when")


@dataclass(frozen=True)
class Parameter:
    """One searched option: `choices`, or a range from `low` to `high`.

    A range whose `low`, `high` and `step` are integers has integer values, any other range has float values.

    Args:
        choices: values of a list; empty for a range.
        low: smallest value of a range.
        high: largest value of a range, itself included where `step` reaches it.
        step: distance of neighboring values; None: 1 for integers, any value for floats.
        log: draw the logarithm uniformly; excludes `step` for floats.
        when: names of other parameters or fixed options, and the values of each for which this parameter is searched;
            otherwise the option has its default.

    Raises:
        ValueError: neither or both of `choices` and a range, an empty range, or values that repeat.
    """

    choices: tuple[Value, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = self._given()
        if self.choices and given:
            raise ValueError(f"choices and {', '.join(given)} exclude each other")
        if self.choices:
            repeated = [value for place, value in enumerate(self.choices) if _same(value, self.choices[:place])]
            if repeated:
                raise ValueError(f"choices={list(self.choices)}: {repeated[0]!r} is there twice")
            return
        if self.low is None or self.high is None:
            raise ValueError("expected a list of values, or low and high of a range")
        self._check_range(self.low, self.high)

    def _given(self) -> list[str]:
        """Names of the parts of the range that have a value; 0 is one."""
        return [name for name in _RANGE if getattr(self, name) is not None and getattr(self, name) is not False]

    def _check_range(self, low: float, high: float) -> None:
        for name, value in (("low", low), ("high", high), ("step", self.step)):
            if value is not None and (isinstance(value, bool) or not math.isfinite(value)):
                raise ValueError(f"{name}={value!r} is not a number")
        if not low < high:
            raise ValueError(f"low={low} must be below high={high}")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step={self.step} must be above 0")
        if self.step is not None and self.step > high - low:
            raise ValueError(f"step={self.step} leaves no second value between low={low} and high={high}")
        if self.log and low <= 0:
            raise ValueError(f"low={low} of a range with log must be above 0")
        if self.log and self.step is not None and not (self.integer and self.step == 1):
            raise ValueError(f"step={self.step} and log exclude each other")

    @classmethod
    def from_description(cls, content: Any) -> Parameter:
        """Return the parameter that a YAML file describes.

        Args:
            content: list of values; or mapping with `choices`, or `low`, `high`, `step` and `log`; and `when`.

        Raises:
            ValueError: it describes none, or has a key that does not exist.
        """
        if isinstance(content, (list, tuple)):
            if not content:
                raise ValueError("the list of values is empty")
            return cls(choices=_plain(content))
        if not isinstance(content, Mapping):
            raise ValueError(
                f"{content!r} is neither a list of values nor a range such as {{low: 0.001, high: 0.1, log: true}}; "
                "an option with one value goes under `options`"
            )
        for key in content:
            if key not in _KEYS:
                close = difflib.get_close_matches(str(key), _KEYS, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(_KEYS)}"
                raise ValueError(f"unknown key {key!r}; {hint}")
        choices = content.get("choices", ())
        if "choices" in content and (not isinstance(choices, (list, tuple)) or not choices):
            raise ValueError(f"choices={choices!r} is not a list of values")
        numbers = {key: _number(key, content[key]) for key in ("low", "high", "step") if content.get(key) is not None}
        log = content.get("log", False)
        if not isinstance(log, bool):
            raise ValueError(f"log={log!r} is not true or false")
        when = content.get("when") or {}
        if not isinstance(when, Mapping):
            raise ValueError(f"when={when!r} is not a mapping such as {{optimizer: sgd}}")
        conditions = {
            str(name): _plain(value) if isinstance(value, (list, tuple)) else (value,) for name, value in when.items()
        }
        return cls(_plain(choices), **numbers, log=log, when=conditions)

    def description(self) -> dict[str, Any]:
        """Return what `from_description` reads, as plain data."""
        found: dict[str, Any] = {"choices": _listlike(self.choices)} if self.choices else {}
        found |= {name: getattr(self, name) for name in self._given()}
        if self.when:
            found["when"] = {name: _listlike(values) for name, values in self.when.items()}
        return found

    @property
    def integer(self) -> bool:
        """Whether it is a range of integers."""
        return not self.choices and all(isinstance(value, int) for value in (self.low, self.high, self.step or 0))

    @property
    def size(self) -> int | None:
        """Number of values; None for a range of floats without `step`."""
        if self.choices:
            return len(self.choices)
        assert self.low is not None and self.high is not None
        step = self.step or (1 if self.integer else None)
        return None if step is None else math.floor((self.high - self.low) / step + 1e-9) + 1

    def values(self) -> tuple[Value, ...]:
        """Return all values in order, for a grid.

        Raises:
            ValueError: it is a range of floats without `step`.
        """
        if self.choices:
            return self.choices
        if self.size is None:
            raise ValueError(f"a range from {self.low:g} to {self.high:g} without step has no list of values")
        assert self.low is not None
        step = self.step or 1
        return tuple(self.low + place * step for place in range(self.size))

    def holds(self, value: Value) -> bool:
        """Whether `value` is one of its values."""
        if self.choices:
            return _same(value, self.choices)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or self.low is None or self.high is None:
            return False
        if self.size is not None:
            return any(math.isclose(value, one, abs_tol=1e-12) for one in self.values())
        return self.low <= value <= self.high

    def applies(self, chosen: Mapping[str, Value]) -> bool:
        """Whether it is searched where the other parameters and options have the values `chosen`."""
        return all(name in chosen and _same(chosen[name], values) for name, values in self.when.items())


def _number(name: str, value: Any) -> float:
    if isinstance(value, str):  # YAML reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name}={value!r} is not a number")
    return value


def _plain(values: Iterable[Any]) -> tuple[Value, ...]:
    return tuple(_plain(value) if isinstance(value, (list, tuple)) else value for value in values)


def _listlike(values: Iterable[Any]) -> list[Value]:
    return [_listlike(value) if isinstance(value, tuple) else value for value in values]


def _same(value: Value, others: Sequence[Value]) -> bool:
    """Whether a value is among others; true is not 1."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in others)
