"""Evaluation of the networks of a super-network: costs, score with the shared weights, and a file of all results."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidseg.engine.options import TrainOptions, flat_options
from vidseg.engine.precise_norm import renew_statistics
from vidseg.engine.runs import Training
from vidseg.labels.json_files import write_json
from vidseg.search.architecture import PREFIX, ArchitectureSpace, Genome
from vidseg.search.costs import CostMeter, over_budget
from vidseg.search.elastic import SuperNetwork
from vidseg.search.evolution import pareto_front
from vidseg.search.one_shot_options import OneShotOptions
from vidseg.search.results import TrialResult, values_text
from vidseg.search.scores import OWN, Objective
from vidseg.search.space import SearchSpace
from vidseg.search.trial import Failure

__all__ = ["NetworkScorer", "SearchState", "SharedEvaluation", "has_norms"]

logger = logging.getLogger(__name__)


def has_norms(model: nn.Module) -> bool:
    """Return whether a network has batch norm."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


class SearchState:
    """The file of a search: what is searched, and the result of each architecture, which is never computed twice.

    Args:
        path: of the file.
        identity: what is searched, as plain data.

    Raises:
        ValueError: the file is of another search.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self.content = path, {"search": dict(identity), "networks": {}}
        if not path.is_file():
            return
        known = json.loads(path.read_text(encoding="utf-8"))
        old = known.get("search", {})
        changed = [name for name in identity if old.get(name) != identity[name]]
        if changed:
            raise ValueError(
                f"{path}: holds another search, of other {', '.join(changed)}; choose another --out, or remove it"
            )
        self.content = known

    def write(self) -> None:
        """Write the file."""
        write_json(self.path, self.content)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what is known about an architecture."""
        found: dict[str, Any] | None = self.content["networks"].get(key)
        return found

    def put(self, key: str, entry: Mapping[str, Any]) -> None:
        """Add what is known about an architecture."""
        self.content["networks"][key] = dict(entry)
        self.write()


class NetworkScorer:
    """Extracts networks with their weights and scores them on the validation videos.

    Args:
        training: of the super-network.
        supernet: trained, on `device`.
        architectures: networks of the space.
        settings: of the search.
        device: to compute on.
    """

    def __init__(
        self,
        training: Training,
        supernet: SuperNetwork,
        architectures: ArchitectureSpace,
        settings: OneShotOptions,
        device: torch.device,
    ) -> None:
        self._training, self._supernet, self._space, self._device = training, supernet, architectures, device
        self._batches = self._calibration(settings.calibration) if has_norms(supernet) else []

    def _calibration(self, count: int) -> list[Any]:
        """The first training batches, of the shape that the evaluation has."""
        loader, multigrid = self._training.loader, self._training.multigrid
        loader.set_epoch(0)
        if multigrid is not None:
            loader.set_shapes(lambda _: [multigrid.base] * count)
        try:
            return list(islice(loader, count))
        finally:
            if multigrid is not None:
                loader.set_shapes(multigrid.shapes)

    def contains(self, genome: Genome) -> bool:
        """Return whether an architecture is a part of the largest network."""
        return self._supernet.contains(self._space.options(genome))

    def extract(self, genome: Genome) -> nn.Module:
        """Return a network with its part of the shared weights, and statistics of its own."""
        model = self._supernet.extract(self._space.options(genome)).eval()
        if self._batches:
            forward = self._training.task.forward
            renew_statistics(model, self._batches, len(self._batches), device=self._device, forward=forward)
        return model

    def score(self, genome: Genome) -> float:
        """Return the validation score of a network."""
        result = self._training.task.evaluate(self.extract(genome), self._training.validation, device=self._device)
        quality = result.quality
        return float(quality[0] if isinstance(quality, tuple) else quality)


class SharedEvaluation:
    """Evaluates architectures with the shared weights, each once.

    Args:
        space: of the search.
        architectures: networks of the space.
        scorer: computes scores.
        meter: measures costs.
        options: of the super-network's run.
        state: results so far.
        epoch: finished epochs of the super-network.
    """

    def __init__(
        self,
        space: SearchSpace,
        architectures: ArchitectureSpace,
        scorer: NetworkScorer,
        meter: CostMeter,
        options: TrainOptions,
        state: SearchState,
        *,
        epoch: int,
    ) -> None:
        self._space, self._architectures, self._scorer = space, architectures, scorer
        self._meter, self._options, self._state, self._epoch = meter, flat_options(options), state, epoch
        self._entries: dict[Genome, dict[str, Any]] = {}

    def __call__(self, genome: Genome) -> tuple[float, ...] | None:
        """Return the objectives, higher is better; None for a network that is refused.

        A network over the budget is refused, and one that is not a part of the largest network.
        """
        if not self._scorer.contains(genome):
            return None
        key = self._architectures.key(genome)
        entry = self._state.get(key)
        if entry is None:
            began = time.monotonic()
            words = self._architectures.words(genome)
            costs = self._meter.measure({**self._options, "network_option": words})
            excess = over_budget(costs, self._space.budget)
            score = None if excess else self._scorer.score(genome)
            entry = {"costs": costs, "over_budget": excess, "score": score, "seconds": time.monotonic() - began}
            self._state.put(key, entry)
        self._entries[genome] = entry
        number, text = len(self._entries) - 1, values_text(self._architectures.values(genome))
        if entry["over_budget"]:
            logger.info("network %04d: over budget, %s: %s", number, entry["over_budget"], text)
            return None
        shown = ", ".join(f"{name} {value:.4g}" for name, value in entry["costs"].items())
        logger.info("network %04d: score %.5g, %s: %s", number, entry["score"], shown, text)
        return tuple(
            self._value(one, entry) * (1 if one.direction == "maximize" else -1) for one in self._space.objectives
        )

    @staticmethod
    def _value(objective: Objective, entry: Mapping[str, Any]) -> float:
        return float(entry["costs"][objective.name] if objective.cost else entry["score"])

    def number(self, genome: Genome) -> int:
        """Return the number of an evaluated network, from 0 in the order of evaluation."""
        return list(self._entries).index(genome)

    def score(self, genome: Genome) -> float:
        """Return the validation score of an evaluated network."""
        return float(self._entries[genome]["score"])

    def front(self, scores: Mapping[Genome, tuple[float, ...]]) -> list[Genome]:
        """Return the networks that no other one dominates, best score first.

        Args:
            scores: of `evolve`.
        """
        genomes = list(scores)
        front = [genomes[place] for place in pareto_front([scores[genome] for genome in genomes])]
        return sorted(front, key=lambda genome: -self.score(genome))

    def trials(self) -> list[TrialResult]:
        """Return the networks as trials of a search, refused ones included."""
        return [self._trial(number, genome, entry) for number, (genome, entry) in enumerate(self._entries.items())]

    def _trial(self, number: int, genome: Genome, entry: Mapping[str, Any]) -> TrialResult:
        values = {f"{PREFIX}{name}": value for name, value in self._architectures.values(genome).items()}
        common: dict[str, Any] = {"costs": entry["costs"], "seconds": entry["seconds"]}
        if entry["over_budget"]:
            failure = Failure("over budget", entry["over_budget"])
            return TrialResult(number, "failed", values, failure=failure, **common)
        objectives = [self._value(one, entry) for one in self._space.objectives]
        scores = {OWN: float(entry["score"])}
        return TrialResult(number, "complete", values, objectives, scores, epochs=[self._epoch], **common)
