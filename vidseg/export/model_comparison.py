"""Comparison of models of one task, in any format: scores, agreement, size, operations, latency and memory."""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidseg.engine.trained import TrainedModel
from vidseg.export.replay import Replay, replay
from vidseg.export.signature import example_inputs
from vidseg.tasks import load_trained

__all__ = ["ComparedModel", "Latency", "ModelComparison", "compare_models"]

_WARMUP = 3


@dataclass(frozen=True)
class Latency:
    """Time of one call of a network.

    Attributes:
        batch: samples of the call.
        threads: threads of the runtime.
        p50: median in milliseconds.
        p95: time that 95 % of the calls do not exceed, in milliseconds.
        memory: growth of the peak memory of the process from before the model was loaded, in bytes.
    """

    batch: int
    threads: int
    p50: float
    p95: float
    memory: int


@dataclass(frozen=True)
class ComparedModel:
    """One model of a comparison.

    Attributes:
        source: run or file.
        format: "torch" for a network of PyTorch, else the format and precision of the exported model.
        network: name of the network.
        scores: scores on the test data by name.
        agreement: share of decisions that equal those of the first model.
        difference: largest difference to an output of the first model, as a share of its largest value.
        size: bytes of the weights, or of the exported model's files.
        parameters: number of parameters.
        operations: operations of the layers for one sample, two for each multiplication with its addition; those of an
            exported model are counted in the network that it was exported from.
        latencies: for each batch size and number of threads.
    """

    source: str
    format: str
    network: str
    scores: dict[str, float]
    agreement: float
    difference: float
    size: int
    parameters: int
    operations: int
    latencies: tuple[Latency, ...]


@dataclass(frozen=True)
class ModelComparison:
    """Models side by side; `str()` is a table."""

    task: str
    data: str
    models: tuple[ComparedModel, ...] = field(default_factory=tuple)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        names = list(self.models[0].scores)
        shapes = [(one.batch, one.threads) for one in self.models[0].latencies]
        header = ["model", "format", *names, "agree", "MB", "params M", "GFLOP"]
        header += [f"ms b{batch} t{threads} (p95)" for batch, threads in shapes] + ["memory MB"]
        rows = [header]
        for one in self.models:
            rows.append(
                [
                    one.source,
                    one.format,
                    *(f"{one.scores[name]:.4f}" for name in names),
                    f"{one.agreement:.2%}",
                    f"{one.size / 1e6:.2f}",
                    f"{one.parameters / 1e6:.3f}",
                    f"{one.operations / 1e9:.2f}",
                    *(f"{each.p50:.1f} ({each.p95:.1f})" for each in one.latencies),
                    f"{max((each.memory for each in one.latencies), default=0) / 1e6:.0f}",
                ]
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([f"{self.task}, {self.data}", *lines])


def compare_models(
    sources: Sequence[str | Path],
    *,
    dataset: str | Path | None = None,
    split: str | None = None,
    videos: int = 32,
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    rounds: int = 20,
) -> ModelComparison:
    """Compare trained and exported models of one task on the CPU.

    Args:
        sources: runs, checkpoints and exported models; agreement is with the first one, which must be a network of
            PyTorch.
        dataset: data set to test on; None: that of each model's run.
        split: split to test on; None: the test split.
        videos: videos whose outputs are compared with those of the first model.
        batches: batch sizes whose latency is measured.
        threads: numbers of threads, likewise.
        rounds: calls of each measurement.

    Raises:
        ValueError: fewer than two models, models of different tasks, classes or inputs, or the first one is exported.
    """
    if len(sources) < 2:
        raise ValueError("name at least two models to compare")
    for name, values in (("batches", batches), ("threads", threads), ("rounds", (rounds,))):
        if not values or min(values) < 1:
            raise ValueError(f"{name}={list(values)} must be at least 1")
    models = [load_trained(source) for source in sources]
    first = models[0]
    if first.source.artifact is not None:
        raise ValueError(f"{sources[0]}: is an exported model; name a run or checkpoint first, which it is compared to")
    for source, trained in zip(sources, models, strict=True):
        _check_alike(first, trained, source)
    compared = []
    for source, trained in zip(sources, models, strict=True):
        found = _agreement(first, trained, videos) if trained is not first else None
        latencies = [
            measured for count in threads for measured in _measured_apart(str(source), tuple(batches), count, rounds)
        ]
        compared.append(
            ComparedModel(
                str(source),
                _format(trained),
                trained.network,
                trained.main_scores(dataset=dataset, split=split),
                1.0 if found is None else found.agreement,
                0.0 if found is None else found.difference,
                _size(trained),
                _parameters(trained),
                _operations(trained),
                tuple(latencies),
            )
        )
    data = f"{dataset or first.source.record.get('dataset', '')}, split {split or 'test'}"
    return ModelComparison(first.task, data, tuple(compared))


def _check_alike(first: TrainedModel, other: TrainedModel, source: str | Path) -> None:
    for what, one, two in (
        ("task", first.task, other.task),
        ("classes", list(first.classes), list(other.classes)),
        ("input", first.input_spec, other.input_spec),
    ):
        if one != two:
            raise ValueError(f"{source}: has another {what} than {first.source.path}, so they cannot be compared")


def _format(trained: TrainedModel) -> str:
    artifact = trained.source.artifact
    return "torch" if artifact is None else f"{artifact.format} {artifact.precision}"


def _agreement(first: TrainedModel, other: TrainedModel, videos: int) -> Replay:
    artifact = other.source.artifact
    return replay(first, other.model, precision="fp32" if artifact is None else artifact.precision, videos=videos)


def _size(trained: TrainedModel) -> int:
    """Bytes of the weights, or of an exported model with the files beside it."""
    path = trained.source.path
    if trained.source.artifact is None:
        return sum(value.numel() * value.element_size() for value in trained.model.state_dict().values())
    weights = path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data")
    return sum(one.stat().st_size for one in (path, weights) if one.is_file())


def _parameters(trained: TrainedModel) -> int:
    artifact = trained.source.artifact
    return sum(value.numel() for value in trained.model.parameters()) if artifact is None else artifact.parameters


def _operations(trained: TrainedModel) -> int:
    """Count the operations of one sample; an exported model names the options of its network, whose weights have no
    effect on their number."""
    from torch.utils.flop_counter import FlopCounterMode

    model = trained.model if trained.source.artifact is None else trained.build().eval()
    with torch.no_grad():
        call = _call(trained, 1, model)
        with FlopCounterMode(display=False) as counter:
            call()
    return int(counter.get_total_flops())


def _call(trained: TrainedModel, batch: int, model: nn.Module | None = None) -> Any:
    """Return a function that computes one batch of random inputs; a stream has the memory of a first window.

    Args:
        trained: trained model.
        batch: number of samples.
        model: network to call; None: that of `trained`.
    """
    values = example_inputs(trained, batch=batch)
    seeds = {"seeds": 0} if values.pop("noise", None) is not None else {}
    call, model = tuple(values.values()), trained.model if model is None else model
    if trained.task == "streaming":
        _, state = model(call[0], None, call[1])
        return lambda: model(call[0], state, call[1])
    return lambda: model(*call, **seeds)


def _measured_apart(source: str, batches: tuple[int, ...], threads: int, rounds: int) -> list[Latency]:
    """Measure in a new process, whose peak memory is that of this model alone."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measured, (source, batches, threads, rounds))


def _measured(source: str, batches: tuple[int, ...], threads: int, rounds: int) -> list[Latency]:
    torch.set_num_threads(threads)
    before = _peak()
    trained = load_trained(source)
    found = []
    with torch.inference_mode():
        for batch in batches:
            call = _call(trained, batch)
            for _ in range(_WARMUP):
                call()
            times = []
            for _ in range(rounds):
                begin = time.perf_counter()
                call()
                times.append((time.perf_counter() - begin) * 1e3)
            times.sort()
            late = times[min(len(times) - 1, math.ceil(0.95 * len(times)) - 1)]
            found.append(Latency(batch, threads, statistics.median(times), late, _peak() - before))
    return found


def _peak() -> int:
    """Peak memory of this process in bytes; `getrusage` has that of the parent, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
