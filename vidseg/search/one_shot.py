"""One-shot architecture search: one training with shared weights, then evolution over the networks of the space.

    OUT/supernet/            run of the largest network, trained so that its smaller networks work as well
    OUT/one_shot.json        what is searched, and the score and costs of each evaluated network
    OUT/trials/0007/         run of network 7 with its weights, for networks of the Pareto front
    OUT/search.json          results as data; trials.csv and report.html show them

"Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020, arXiv 1904.00420.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from vidseg.engine import distributed
from vidseg.engine.checkpoints import CheckpointFolder, read_checkpoint
from vidseg.engine.option_words import option_of
from vidseg.engine.options import TrainOptions, flat_options
from vidseg.engine.run_record import RECORD
from vidseg.engine.runs import Training, start_run, train_run
from vidseg.labels.json_files import write_json
from vidseg.search.architecture import PREFIX, ArchitectureSpace, Genome
from vidseg.search.costs import CostMeter, over_budget
from vidseg.search.elastic import SuperNetwork
from vidseg.search.evolution import evolve
from vidseg.search.found_runs import FoundRuns, run_options
from vidseg.search.one_shot_options import OneShotOptions
from vidseg.search.results import SearchResults, write_trials
from vidseg.search.scores import COSTS, OWN
from vidseg.search.shared_evaluation import NetworkScorer, SearchState, SharedEvaluation, has_norms
from vidseg.search.shared_task import SharedTask
from vidseg.search.space import SearchSpace
from vidseg.search.trial import trial_folder

__all__ = ["remove_one_shot", "search_one_shot"]

_STATE, _SUPERNET = "one_shot.json", "supernet"
_LEFT = (_STATE, _SUPERNET, "trials", "pictures", "search.json", "trials.csv", "report.html")
"""What a search leaves in its folder."""
_TRIALS = 64
_TASKS = ("recognition", "segmentation")


def search_one_shot(space: SearchSpace, data: str | Path, *, options: TrainOptions, out: str | Path) -> SearchResults:
    """Train a super-network on a data set, and evaluate its networks; an interrupted search continues.

    Args:
        space: of the search: options of the network with their values, objectives, budget, seed, `one_shot`, and
            `trials`, the number of networks that are evaluated, by default 64.
        data: folder of the data set.
        options: of the training of the super-network, recognition or segmentation.
        out: folder of the search.

    Returns:
        The evaluated networks as trials. Networks of the Pareto front, as many as `one_shot` says, are runs in
        `OUT/trials`.

    Raises:
        ValueError: the space has options that are not the network's, the network does not share weights, the folder
            holds another search, or no network is within the budget.
    """
    out, settings = Path(out), _settings(space)
    architectures = _architectures(space, options)
    largest = out / _SUPERNET
    options = run_options(options, data, largest, architectures.words(architectures.largest()))
    state = SearchState(out / _STATE, _identity(space, architectures, options, settings))
    options = replace(options, session=replace(options.session, resume=(largest / RECORD).is_file()))
    device = start_run(options)
    if distributed.world_size() > 1:
        raise ValueError("a one-shot search runs in one process; leave out torchrun and --gpus")
    training, options = _training(options, largest)
    supernet = _supernet(training, architectures, options)
    training, options = _calibrated(training, options, supernet, settings)
    meter = _meter(space, training, data, options)
    _check_budget(space, architectures, meter, options)
    state.write()
    task = SharedTask(training.task, architectures, sampled=settings.sampled)
    train_run(replace(training, model=supernet, task=task), options, largest, device=device)
    content = read_checkpoint(CheckpointFolder(largest, architectures.network, options.checkpoints).last)
    supernet.load_state_dict(content["state_dict"])
    epoch = int(content["epoch"])
    scorer = NetworkScorer(training, supernet.to(device), architectures, settings, device)
    evaluation = SharedEvaluation(space, architectures, scorer, meter, options, state, epoch=epoch)
    scores = evolve(
        architectures.sizes,
        evaluation,
        trials=space.trials or _TRIALS,
        population=settings.population,
        seed=space.seed,
        first=(architectures.largest(), architectures.smallest()),
    )
    runs = FoundRuns(training, architectures, scorer, options, settings, epoch)
    for genome in _spread(evaluation.front(scores), settings.networks):
        runs.write(genome, trial_folder(out, evaluation.number(genome)), score=evaluation.score(genome))
    description = {**space.identity(), "task": training.record["task"], "dataset": training.record["dataset"]}
    results = SearchResults(out, description, list(space.objectives), evaluation.trials())
    write_json(out / "search.json", results.summary())
    write_trials(out / "trials.csv", results)
    return results


def remove_one_shot(out: str | Path) -> None:
    """Delete the one-shot search in a folder, its runs included."""
    for path in (Path(out) / name for name in _LEFT):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _settings(space: SearchSpace) -> OneShotOptions:
    """The settings that the file of a search gives."""
    useless = [name for name in ("time", "jobs") if getattr(space, name) is not None]
    if useless:
        raise ValueError(f"{space.path}: {useless[0]} has no effect on a one-shot search, which is one training")
    try:
        return OneShotOptions.from_mapping(space.one_shot)
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


def _supernet(training: Training, architectures: ArchitectureSpace, options: TrainOptions) -> SuperNetwork:
    """The super-network of a run, for options that it works with."""
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


def _calibrated(
    training: Training, options: Any, supernet: SuperNetwork, settings: OneShotOptions
) -> tuple[Training, Any]:
    """Renew the statistics of batch norm in each evaluation: those of training mix networks of all sizes."""
    evaluation = options.evaluation
    if evaluation.precise_bn or evaluation.test_every_steps or not has_norms(supernet):
        return training, options
    options = replace(options, evaluation=replace(evaluation, precise_bn=settings.calibration))
    recorded = {**training.record["options"], "precise_bn": settings.calibration}
    return replace(training, record={**training.record, "options": recorded}), options


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


def _spread(front: Sequence[Genome], count: int) -> list[Genome]:
    """At most `count` entries of a front, evenly spaced, the first and the last included."""
    if len(front) <= count:
        return list(front)
    if count == 1:
        return [front[0]]
    return [front[round(place * (len(front) - 1) / (count - 1))] for place in range(count)]
