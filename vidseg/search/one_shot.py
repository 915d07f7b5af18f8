"""One-shot architecture search: one training with shared weights, then evolution over the networks of the space.

    OUT/supernet/            run of the largest network, trained so that its smaller networks work as well
    OUT/one_shot.json        what was searched, and the scores and costs of each evaluated network
    OUT/found/1, 2, ...      runs of the best networks with their weights, best score first

"Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020, arXiv 1904.00420.
"""

from __future__ import annotations

import difflib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidseg.engine import distributed
from vidseg.engine.checkpoints import CheckpointFolder, read_checkpoint
from vidseg.engine.options import TrainOptions, at_least, flat_options, option_of
from vidseg.engine.precise_norm import renew_statistics
from vidseg.engine.runs import RECORD, Training, start_run, train_run, write_json
from vidseg.labels.counting import counted
from vidseg.search.architecture import PREFIX, ArchitectureSpace, Genome
from vidseg.search.costs import CostMeter, over_budget
from vidseg.search.elastic import SuperNetwork
from vidseg.search.evolution import evolve, pareto_front
from vidseg.search.results import values_text
from vidseg.search.scores import COSTS, OWN, Objective
from vidseg.search.shared_task import SharedTask
from vidseg.search.space import SearchSpace

__all__ = ["FoundNetwork", "OneShotOptions", "OneShotResult", "remove_one_shot", "search_one_shot"]

logger = logging.getLogger(__name__)

_STATE, _SUPERNET, _FOUND = "one_shot.json", "supernet", "found"
_TRIALS = 64
_TASKS = ("recognition", "segmentation")


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
    """Largest number of found networks that become runs."""
    fine_tune: int = 0
    """Epochs of training of each found network with a tenth of the learning rate; 0: it keeps the shared weights."""

    def __post_init__(self) -> None:
        at_least(self, 0, "sampled", "fine_tune")
        at_least(self, 1, "population", "calibration", "networks")


@dataclass(frozen=True)
class FoundNetwork:
    """A network that a one-shot search evaluated with the shared weights.

    Attributes:
        options: options of the network that were searched.
        score: validation score that selects checkpoints, higher is better.
        costs: multiply-adds, parameters and latency in milliseconds, those that the search measured.
        run: folder of its run; None for networks without one.
    """

    options: dict[str, Any]
    score: float
    costs: dict[str, float]
    run: str | None = None


@dataclass(frozen=True)
class OneShotResult:
    """Result of a one-shot search.

    Attributes:
        front: networks that no other one dominates in the objectives, best score first.
        evaluated: all evaluated networks in their order.
        refused: number of drawn networks over the budget, which were not evaluated.
    """

    front: list[FoundNetwork]
    evaluated: list[FoundNetwork]
    refused: int

    def summary(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        costs = list(self.front[0].costs)
        head = ["score", *costs]
        rows = [[f"{one.score:.4f}", *(f"{one.costs[name]:.4g}" for name in costs)] for one in self.front]
        widths = [max(len(row[place]) for row in [head, *rows]) + 2 for place in range(len(head))]
        lines = [
            f"{counted(len(self.front), 'network')} on the Pareto front of {len(self.evaluated)} evaluated; "
            f"{counted(self.refused, 'network')} over the budget",
            "".join(f"{cell:>{width}}" for cell, width in zip(head, widths, strict=True)) + "  options, run",
        ]
        for one, row in zip(self.front, rows, strict=True):
            cells = "".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
            text = values_text(one.options)
            lines.append(f"{cells}  {text}" + (f"  {one.run}" if one.run else ""))
        return "\n".join(lines)


def search_one_shot(
    space: SearchSpace,
    data: str | Path,
    *,
    options: TrainOptions,
    out: str | Path,
) -> OneShotResult:
    """Train a super-network on a data set and return its best networks; an interrupted search continues.

    Args:
        space: of the search: options of the network with their values, objectives, budget, seed, `one_shot`, and
            `trials`, the number of networks that are evaluated, by default 64.
        data: folder of the data set.
        options: of the training of the super-network, recognition or segmentation.
        out: folder of the search.

    Raises:
        ValueError: the space has options that are not the network's, the network does not share weights, the folder
            holds another search, or no network is within the budget.
    """
    out, settings = Path(out), _settings(space)
    architectures = _architectures(space, options)
    options = _placed(options, data, out / _SUPERNET, architectures.words(architectures.largest()))
    state = _State(out / _STATE, _identity(space, architectures, options, settings))
    options = replace(options, session=replace(options.session, resume=(out / _SUPERNET / RECORD).is_file()))
    device = start_run(options)
    if distributed.world_size() > 1:
        raise ValueError("a one-shot search runs in one process; leave out torchrun and --gpus")
    training, options = _training(options, out / _SUPERNET)
    task = training.task
    supernet = _supernet(training, architectures, settings, options)
    training, options = _calibrated(training, options, supernet, settings)
    meter = _meter(space, training, data, options)
    _check_budget(space, architectures, meter, options)
    state.write()
    shared = SharedTask(task, architectures, sampled=settings.sampled)
    train_run(replace(training, model=supernet, task=shared), options, out / _SUPERNET, device=device)
    last = CheckpointFolder(out / _SUPERNET, architectures.network, options.checkpoints).last
    content = read_checkpoint(last)
    supernet.load_state_dict(content["state_dict"])
    scorer = _Scorer(training, supernet.to(device), architectures, settings, device)
    evaluation = _Evaluation(space, architectures, scorer, meter, options, state)
    evolve(
        architectures.sizes,
        evaluation,
        trials=space.trials or _TRIALS,
        population=settings.population,
        seed=space.seed,
        first=(architectures.largest(), architectures.smallest()),
    )
    front = evaluation.front()
    runs = _Runs(training, architectures, scorer, options, settings, content, out / _FOUND)
    chosen = _spread(front, settings.networks)
    folders = {genome: str(runs.write(genome, number, evaluation)) for number, genome in enumerate(chosen, start=1)}
    return OneShotResult(
        [evaluation.network(genome, folders.get(genome)) for genome in front],
        [evaluation.network(genome, folders.get(genome)) for genome in evaluation.scores],
        len(evaluation.refused),
    )


def remove_one_shot(out: str | Path) -> None:
    """Delete the one-shot search in a folder, its runs included."""
    for path in (Path(out) / name for name in (_STATE, _SUPERNET, _FOUND)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _settings(space: SearchSpace) -> OneShotOptions:
    """The settings that the file of a search gives."""
    known = [one.name for one in fields(OneShotOptions)]
    for name, value in space.one_shot.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(known)}"
            raise ValueError(f"{space.path}: one_shot: unknown setting {name!r}; {hint}")
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{space.path}: one_shot: {name}={value!r} is not a whole number")
    useless = [name for name in ("time", "jobs") if getattr(space, name) is not None]
    if useless:
        raise ValueError(f"{space.path}: {useless[0]} has no effect on a one-shot search, which is one training")
    try:
        return OneShotOptions(**space.one_shot)
    except ValueError as error:
        raise ValueError(f"{space.path}: one_shot: {error}") from error


def _architectures(space: SearchSpace, options: TrainOptions) -> ArchitectureSpace:
    """The networks of a space."""
    other = [name for name in space.parameters if not name.startswith(PREFIX)]
    if other:
        raise ValueError(
            f"{space.path}: a one-shot search varies the options of one network, not {', '.join(other)}; give a value "
            "under options, or use another method"
        )
    wrong = [one.name for one in space.objectives if one.name not in (OWN, *COSTS)]
    if wrong:
        raise ValueError(
            f"{space.path}: objectives of a one-shot search are {OWN} and {', '.join(COSTS)}, not {wrong[0]}"
        )
    parameters = {name.removeprefix(PREFIX): one for name, one in space.parameters.items()}
    searched = {option_of(name) for name in parameters}
    fixed = {name: value for name, value in options.network.chosen_options().items() if name not in searched}
    try:
        return ArchitectureSpace(options.network.network, parameters, fixed)
    except ValueError as error:
        raise ValueError(f"{space.path}: {error}") from error


def _placed(options: Any, data: str | Path, out: Path, words: Sequence[str]) -> Any:
    """The options of a run in the folder `out` of a network with these options."""
    return replace(
        options,
        data=replace(options.data, dataset=str(data)),
        network=replace(options.network, network_option=tuple(words)),
        session=replace(options.session, out=str(out), resume=False, resume_epoch=-1, overwrite=False),
    )


def _identity(
    space: SearchSpace, architectures: ArchitectureSpace, options: TrainOptions, settings: OneShotOptions
) -> dict[str, Any]:
    """What stays the same as long as a search is continued."""
    own = {name: value for name, value in asdict(settings).items() if name != "networks"}
    found = {
        "network": architectures.network,
        "space": {name: one.description() for name, one in architectures.parameters.items()},
        "objectives": [one.name for one in space.objectives],
        "budget": dict(space.budget),
        "seed": space.seed,
        "settings": own,
        "options": {name: value for name, value in flat_options(options).items() if name != "out"},
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


class _State:
    """The file of a search: what is searched, and the result of each architecture, which is never computed twice."""

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


def _training(options: Any, out: Path) -> tuple[Training, Any]:
    """What the run of the largest network trains, and its complete options."""
    from vidseg.tasks.recognition.options import RecognitionOptions
    from vidseg.tasks.segmentation.options import SegmentationOptions

    if isinstance(options, RecognitionOptions):
        from vidseg.tasks.recognition.runs import recognition_training

        training, options = recognition_training(options, out)
    elif isinstance(options, SegmentationOptions):
        from vidseg.tasks.segmentation.cross_validation import split_training, training_divisions

        names = training_divisions(Path(options.data.dataset), options.data.splits)
        if len(names) > 1:
            raise ValueError(
                f"{options.data.dataset} has the splits {', '.join(names)}; a one-shot search has one: name it under "
                f"options, such as `splits: [{names[0]}]`"
            )
        training = split_training(options, names[0], out)
    else:
        raise ValueError(f"{type(options).__name__}: one-shot search is for {' and '.join(_TASKS)}")
    if training.validation is None:
        raise ValueError(
            f"{options.data.dataset}: no validation videos, which choose the networks; leave out --select last"
        )
    return training, options


def _supernet(
    training: Training, architectures: ArchitectureSpace, settings: OneShotOptions, options: TrainOptions
) -> SuperNetwork:
    devices, network = options.devices, options.network
    for name, given in (
        ("compile", devices.compile),
        ("recompute", devices.recompute),
        ("shard", devices.shard),
        ("engine", devices.engine != "torch"),
        ("freeze_backbone", network.freeze_backbone),
        ("adapter_rank", network.adapter_rank),
        ("keep_zeros", network.keep_zeros),
    ):
        if given:
            raise ValueError(f"{name} does not work with the shared weights of a one-shot search: leave it out")
    record = training.record
    known = dict(record["network_options"])
    if record.get("feature_size"):
        known["in_features"] = record["feature_size"]
    found = SuperNetwork(training.model, architectures.network, known, num_classes=len(record["classes"]))
    found.use(architectures.options(architectures.smallest()))  # an error shows before the training
    found.use(None)
    return found


def _has_norms(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def _calibrated(
    training: Training, options: Any, supernet: SuperNetwork, settings: OneShotOptions
) -> tuple[Training, Any]:
    """Renew the statistics of batch norm in each evaluation: those of training mix networks of all sizes."""
    evaluation = options.evaluation
    if evaluation.precise_bn or evaluation.test_every_steps or not _has_norms(supernet):
        return training, options
    options = replace(options, evaluation=replace(evaluation, precise_bn=settings.calibration))
    recorded = {**training.record["options"], "precise_bn": settings.calibration}
    return replace(training, record={**training.record, "options": recorded}), options


class _Scorer:
    """Extracts networks with their weights and scores them on the validation videos."""

    def __init__(
        self,
        training: Training,
        supernet: SuperNetwork,
        architectures: ArchitectureSpace,
        settings: OneShotOptions,
        device: torch.device,
    ) -> None:
        self._training, self._supernet, self._space, self._device = training, supernet, architectures, device
        training.loader.set_epoch(0)
        count = settings.calibration if _has_norms(supernet) else 0
        self._batches = list(islice(training.loader, count)) if count else []

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


def _meter(space: SearchSpace, training: Training, data: str | Path, options: Any) -> CostMeter:
    """Measures the costs that the search asks for; multiply-adds and parameters always."""
    names = ["operations", "parameters"]
    if "latency" in space.budget or any(one.name == "latency" for one in space.objectives):
        names.append("latency")
    length = None
    if training.record["task"] == "segmentation":
        columns = sorted(len(labels) for labels in training.validation.labels)
        length = max(1, columns[len(columns) // 2] // (options.data.labels_per_column * options.labeling.sample_rate))
    task = str(training.record["task"])
    return CostMeter(Path(data), task, tuple(names), threads=torch.get_num_threads(), length=length)


def _check_budget(
    space: SearchSpace, architectures: ArchitectureSpace, meter: CostMeter, options: TrainOptions
) -> None:
    """Refuse a budget that the smallest network exceeds, before anything is trained."""
    words = architectures.words(architectures.smallest())
    excess = over_budget(meter.measure({**flat_options(options), "network_option": words}), space.budget)
    if excess:
        raise ValueError(f"{space.path}: budget: no network of the space is within it; the smallest one has {excess}")


class _Evaluation:
    """Scores and costs of architectures; the objectives of each with higher values better."""

    def __init__(
        self,
        space: SearchSpace,
        architectures: ArchitectureSpace,
        scorer: _Scorer,
        meter: CostMeter,
        options: Any,
        state: _State,
    ) -> None:
        self._space, self._architectures, self._scorer = space, architectures, scorer
        self._meter, self._options, self._state = meter, flat_options(options), state
        self.scores: dict[Genome, tuple[float, ...]] = {}
        self.refused: set[Genome] = set()
        self._entries: dict[Genome, dict[str, Any]] = {}

    def __call__(self, genome: Genome) -> tuple[float, ...] | None:
        """Return the objectives; None for an architecture over the budget, or not a part of the largest one."""
        if not self._scorer.contains(genome):
            return None
        key = self._architectures.key(genome)
        entry = self._state.get(key)
        if entry is None or (entry["score"] is None and not entry["refused"]):
            words = self._architectures.words(genome)
            costs = self._meter.measure({**self._options, "network_option": words})
            entry = {"costs": costs, "refused": over_budget(costs, self._space.budget), "score": None}
            if not entry["refused"]:
                entry["score"] = self._scorer.score(genome)
            self._state.put(key, entry)
        self._entries[genome] = entry
        if entry["refused"]:
            self.refused.add(genome)
            return None
        found = tuple(self._objective(one, entry) for one in self._space.objectives)
        self.scores[genome] = found
        shown = ", ".join(f"{name} {value:.4g}" for name, value in entry["costs"].items())
        logger.info("network %d: score %.4g, %s: %s", len(self.scores), entry["score"], shown, key)
        return found

    @staticmethod
    def _objective(objective: Objective, entry: Mapping[str, Any]) -> float:
        value = float(entry["costs"][objective.name] if objective.cost else entry["score"])
        return value if objective.direction == "maximize" else -value

    def score(self, genome: Genome) -> float:
        """Return the validation score of an evaluated architecture."""
        return float(self._entries[genome]["score"])

    def front(self) -> list[Genome]:
        """Return the architectures that no other one dominates, best score first."""
        genomes = list(self.scores)
        front = [genomes[place] for place in pareto_front([self.scores[genome] for genome in genomes])]
        return sorted(front, key=lambda genome: -self.score(genome))

    def network(self, genome: Genome, run: str | None) -> FoundNetwork:
        """Return the description of an evaluated architecture."""
        entry = self._entries[genome]
        return FoundNetwork(self._architectures.values(genome), self.score(genome), dict(entry["costs"]), run)


def _spread(front: Sequence[Genome], count: int) -> list[Genome]:
    """At most `count` entries of a front, evenly spaced, the first and the last included."""
    if len(front) <= count:
        return list(front)
    if count == 1:
        return [front[0]]
    return [front[round(place * (len(front) - 1) / (count - 1))] for place in range(count)]


@dataclass(frozen=True)
class _Runs:
    """Writes found networks as runs.

    Attributes:
        training: of the super-network.
        options: of the super-network.
        content: checkpoint of the super-network.
        out: folder of the runs.
    """

    training: Training
    architectures: ArchitectureSpace
    scorer: _Scorer
    options: Any
    settings: OneShotOptions
    content: Mapping[str, Any]
    out: Path

    def write(self, genome: Genome, number: int, evaluation: _Evaluation) -> Path:
        """Write the run of a network, trained further if the settings say so; returns its folder."""
        folder, network = self.out / str(number), self.architectures.network
        words = self.architectures.words(genome)
        options = _placed(self.options, self.options.data.dataset, folder, words)
        options = replace(options, checkpoints=replace(options.checkpoints, run_files="vidseg"))
        chosen = self.architectures.options(genome)
        record = {
            **self.training.record,
            "network_options": json.loads(json.dumps({**self.training.record["network_options"], **chosen})),
            "options": json.loads(json.dumps({**self.training.record["options"], **_searched(options)})),
        }
        files = CheckpointFolder(folder, network, options.checkpoints)
        if folder.is_dir() and not _same_network(folder, record):
            shutil.rmtree(folder)  # of an earlier start with fewer evaluated networks
        known = (folder / RECORD).is_file()
        if known and not self.settings.fine_tune:
            return folder
        model = self.scorer.extract(genome).cpu()
        state = {
            "epoch": self.content["epoch"],
            "batch": 0,
            "state_dict": model.state_dict(),
            "optimizer": {},
            "best": evaluation.score(genome),
            "record": record,
        }
        if not self.settings.fine_tune:
            files.save(state, best=True)
            write_json(folder / RECORD, record)
            return folder
        start = CheckpointFolder(self.out / "shared", f"{network}_{number}", options.checkpoints)
        start.save(state)
        self._fine_tune(options, start.last, folder, resume=known)
        return folder

    def _fine_tune(self, options: Any, weights: Path, folder: Path, *, resume: bool) -> None:
        """Train a found network from its shared weights with a tenth of the learning rate."""
        from vidseg.engine.trainer import DEFAULT_LR

        lr = options.schedule.lr or DEFAULT_LR * self.training.batch_size / 32
        options = replace(
            options,
            network=replace(options.network, pretrained=str(weights), cross_modality=False),
            schedule=replace(options.schedule, lr=lr / 10, warmup_epochs=None, warmup_steps=None),
            session=replace(options.session, epochs=self.settings.fine_tune, max_steps=None, resume=resume),
        )
        if self.training.record["task"] == "segmentation":
            from vidseg.tasks.segmentation.cross_validation import train_split

            train_split(options, self.training.record["division"], folder, device=start_run(options))
        else:
            from vidseg.tasks.recognition.runs import train_recognition

            train_recognition(options)


def _searched(options: Any) -> dict[str, Any]:
    return {"network_option": list(options.network.network_option), "out": options.session.out}


def _same_network(folder: Path, record: Mapping[str, Any]) -> bool:
    if not (folder / RECORD).is_file():
        return False
    known = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return bool(known.get("network_options") == record["network_options"])
