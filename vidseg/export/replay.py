"""Replay of an exported model against the network that it came from: largest difference, agreement of decisions."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vidseg.engine.trained import TrainedModel
from vidseg.export.artifact import TensorSpec
from vidseg.export.signature import example_inputs, flat_output

__all__ = ["LIMITS", "TRAINED_INT8", "Replay", "replay"]

logger = logging.getLogger(__name__)

TRAINED_INT8 = "trained int8"
LIMITS = {
    "fp32": (1e-3, 0.999),
    "fp16": (0.05, 0.97),
    "bf16": (0.2, 0.93),
    "int8": (2.0, 0.8),
    TRAINED_INT8: (0.2, 0.95),
}
"""Precision -> largest difference, smallest agreement. A network that was trained with the rounded values of its export
differs where a value is between two levels."""
_SEEDS = {"seeds": 0}
_BEST = 100
_HALF_PIXEL = 0.5


@dataclass(frozen=True)
class Replay:
    """Result of a replay; `str()` is one line.

    Attributes:
        source: where the inputs come from.
        calls: number of calls of the network.
        difference: largest difference of a value, as a share of the largest value of its tensor.
        tensor: tensor with that difference.
        agreement: share of equal decisions: classes of clips or frames, the 100 proposals of the highest scores, or
            vectors of flow within half a pixel.
        decisions: number of decisions.
        limit: largest accepted difference.
        least: smallest accepted agreement.
    """

    source: str
    calls: int
    difference: float
    tensor: str
    agreement: float
    decisions: int
    limit: float
    least: float

    @property
    def ok(self) -> bool:
        """Whether both numbers are within their limits."""
        return self.difference <= self.limit and self.agreement >= self.least

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.calls} calls with {self.source}: largest difference {self.difference:.2e} ({self.tensor}; limit "
            f"{self.limit:g}), {self.agreement:.2%} of {self.decisions} decisions agree (at least {self.least:.1%})"
        )


class _Comparison:
    """Sums over the calls of a replay."""

    def __init__(self, trained: TrainedModel) -> None:
        self.trained = trained
        self.calls = self.decisions = self.equal = 0
        self.difference, self.tensor = 0.0, "all"

    def add(self, found: Any, expected: Any, mask: Tensor | None) -> None:
        """Compare the outputs of one call."""
        self.calls += 1
        given, known = flat_output(found), flat_output(expected)
        if list(given) != list(known):
            raise ValueError(f"the exported model has the outputs {', '.join(given)}, expected {', '.join(known)}")
        for name, value in known.items():
            difference = _difference(given[name], value)
            if not difference <= self.difference:  # also if it is not a number
                self.difference, self.tensor = difference, name
        for one, other in self._decisions(given, known, mask):
            equal = one == other
            self.equal, self.decisions = self.equal + int(equal.sum()), self.decisions + equal.numel()

    def _decisions(
        self, found: dict[str, Tensor], expected: dict[str, Tensor], mask: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        task = self.trained.task
        if task == "recognition":
            target = self.trained.source.record.get("options", {}).get("target", "class")
            if target == "classes":
                yield found["logits"] > 0, expected["logits"] > 0
            elif target == "class":
                yield found["logits"].argmax(dim=1), expected["logits"].argmax(dim=1)
        elif task == "flow":
            distance = (found["flow"] - expected["flow"]).norm(dim=1)
            yield distance < _HALF_PIXEL, torch.ones_like(distance, dtype=torch.bool)
        elif task == "detection":
            for one, other in zip(found["scores"], expected["scores"], strict=True):
                best = other.flatten().topk(min(_BEST, other.numel())).indices
                rank = one.flatten().topk(len(best)).indices
                yield torch.isin(best, rank), torch.ones(len(best), dtype=torch.bool)
        else:
            labels = [values["logits"][-1].argmax(dim=1) for values in (found, expected)]
            known = torch.ones_like(labels[0], dtype=torch.bool) if mask is None else mask.bool().cpu()
            yield labels[0][known], labels[1][known]


def _difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest expected value; infinite where only one is finite."""
    if found.shape != expected.shape:
        raise ValueError(f"the exported model returned a tensor {tuple(found.shape)}, expected {tuple(expected.shape)}")
    if not expected.numel():
        return 0.0
    one, other = found.double(), expected.double()
    finite = other.isfinite()
    if not bool((one.isfinite() == finite).all()):
        return float("inf")
    apart = torch.where(finite, one - other, 0.0).abs().max()
    return float(apart / torch.where(finite, other, 0.0).abs().max().clamp(min=1e-3))


@torch.no_grad()
def replay(trained: TrainedModel, exported: nn.Module, *, precision: str = "fp32", videos: int = 8) -> Replay:
    """Call an exported model and the network that it came from with the same inputs.

    The inputs are those of the test data of the run. Without a run, or where its data set is missing, they are random
    values in the range of the input. Random inputs of other sizes are added, since an export may fix a size.

    Args:
        trained: network that was exported.
        exported: exported model, see `load_exported`.
        precision: precision of the exported model, for the limits.
        videos: videos of the test data.

    Raises:
        ValueError: the exported model refuses an input, or has other outputs.
    """
    comparison = _Comparison(trained)
    source = _test_data(trained, exported, comparison, videos)
    for inputs in _random_inputs(trained, exported):
        seeds = _SEEDS if inputs.pop("noise", None) is not None else {}
        call = tuple(inputs.values())
        if trained.task == "streaming":
            _stream(trained, exported, comparison, [call, call])
        else:
            _call(trained, exported, comparison, call, seeds)
    share = comparison.equal / comparison.decisions if comparison.decisions else 1.0
    limit, least = LIMITS[precision]
    return Replay(
        source,
        comparison.calls,
        comparison.difference,
        comparison.tensor,
        share,
        comparison.decisions,
        limit,
        least,
    )


def _test_data(trained: TrainedModel, exported: nn.Module, comparison: _Comparison, videos: int) -> str:
    """Compare with the test data of the run; returns what the inputs are."""
    seeds = _SEEDS if getattr(trained.model, "seeded", False) else {}
    record = trained.source.record
    try:
        sequences = iter(trained.network_inputs(videos=videos))
        first = next(sequences, None)
    except (ValueError, OSError) as error:
        if not record:
            return "random values, since the weights do not belong to a run"
        logger.warning("the test data of the run cannot be read: %s", error)
        return "random values, since the test data of the run cannot be read"
    count = 0
    while first is not None and count < videos:
        if trained.task == "streaming":
            _stream(trained, exported, comparison, first)
        else:
            for call in first:
                _call(trained, exported, comparison, call, seeds)
        count += max(len(call[0]) for call in first) if first else 0
        first = next(sequences, None)
    return f"{count} videos of {record['dataset']}"


def _random_inputs(trained: TrainedModel, exported: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield inputs of other batch sizes, and of another length where it is variable."""
    artifact = getattr(exported, "artifact", None)
    if artifact is None:  # another network of PyTorch, whose sizes are variable
        yield example_inputs(trained, batch=3)
        return
    specs: tuple[TensorSpec, ...] = artifact.inputs
    variable = len([size for size in specs[0].shape if isinstance(size, str)]) > 1
    example = example_inputs(trained, batch=1)
    first = next(iter(example.values()))
    axis = {"recognition": 2, "streaming": 2, "flow": 2, "segmentation": 2, "detection": 2}[trained.task]
    axis = 1 if "snippets" in example else axis
    yield example
    if isinstance(specs[0].shape[0], str):
        yield example_inputs(trained, batch=3)
    if variable and isinstance(specs[0].shape[axis], str):
        length = first.shape[axis]
        other = example_inputs(trained, batch=1, columns=length + max(2, length // 4))
        if _accepts(trained, other):
            yield other


def _accepts(trained: TrainedModel, inputs: dict[str, Tensor]) -> bool:
    """Whether the network takes inputs of this length, which some limit."""
    values = [value.to(trained.device) for name, value in inputs.items() if name != "noise"]
    if trained.task == "streaming":
        values.insert(1, None)  # type: ignore[arg-type]
    try:
        trained.model(*values)
    except ValueError:
        return False
    return True


def _call(
    trained: TrainedModel, exported: nn.Module, comparison: _Comparison, call: Sequence[Tensor], more: dict[str, Any]
) -> None:
    call = [value.to(trained.device) for value in call]
    mask = call[1] if len(call) > 1 and trained.task == "segmentation" else None
    comparison.add(_cpu(exported(*call, **more)), _cpu(trained.model(*call, **more)), mask)


def _stream(
    trained: TrainedModel, exported: nn.Module, comparison: _Comparison, calls: Sequence[Sequence[Tensor]]
) -> None:
    """Each side keeps the memory that it computed itself."""
    states: list[Any] = [None, None]
    for call in calls:
        clips, mask = (value.to(trained.device) for value in call)
        found, states[0] = exported(clips, states[0], mask)
        expected, states[1] = trained.model(clips, states[1], mask)
        comparison.add(_cpu((found, states[0])), _cpu((expected, states[1])), mask)


def _cpu(output: Any) -> Any:
    from torch.utils import _pytree as pytree

    return pytree.tree_map_only(Tensor, Tensor.cpu, output)
