"""Search spaces of networks: the options that an architecture search varies, declared beside each network.

A space is plain data in the form of the files of `vidseg search`: a list of values, or a range such as
`{"low": 4, "high": 10}`. The name `blocks.1` is the second number of the option `blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ModelSearchSpace", "Sharing", "same_name", "stage_space"]

Options = Mapping[str, Any]
SourceName = Callable[[str, Options, Options], str]
"""From the name of a module or parameter of a smaller network, its options and those of the largest network: the name
in the largest network whose values it takes."""


def same_name(name: str, own: Options, largest: Options) -> str:
    """Return the same name: layer i of a smaller network is layer i of the largest one."""
    return name


@dataclass(frozen=True)
class Sharing:
    """How smaller networks take their weights from the largest network of the space.

    Each tensor of a smaller network is the first part of the tensor called `source` of the largest network, in every
    dimension ("Slimmable Neural Networks", ICLR 2019, arXiv 1812.08928).

    Attributes:
        source: name in the largest network.
        joined: end of a parameter's name -> number of equal parts of its second dimension, such as 2 for a convolution
            that reads two concatenated maps; the first part of each of them is taken.
    """

    source: SourceName = same_name
    joined: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelSearchSpace:
    """Search space of one network.

    Attributes:
        parameters: option of the network -> list of values, or range with `low`, `high` and `step`. Of a list that is
            not of numbers the first value belongs to the largest network.
        sharing: how the networks of the space share weights; None: each has to be trained alone.
    """

    parameters: Mapping[str, Sequence[Any] | Mapping[str, Any]]
    sharing: Sharing | None = None


def stage_space(
    blocks: Sequence[int],
    *,
    widths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    sharing: Sharing | None = None,
    **more: Sequence[Any] | Mapping[str, Any],
) -> ModelSearchSpace:
    """Return the space of a network of four stages: number of blocks and width of each stage.

    Args:
        blocks: published number of blocks of each stage, the largest ones of the space.
        widths: multipliers of the published width of a stage.
        sharing: see `ModelSearchSpace`.
        **more: further options of the network.
    """
    depths = {f"blocks.{place}": {"low": 1, "high": count} for place, count in enumerate(blocks) if count > 1}
    fixed = {f"blocks.{place}": [count] for place, count in enumerate(blocks) if count == 1}
    sizes = {f"width.{place}": list(widths) for place in range(len(blocks))}
    return ModelSearchSpace({**depths, **fixed, **sizes, **more}, sharing)
