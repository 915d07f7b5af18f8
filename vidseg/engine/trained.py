"""A trained model: its weights and what they were trained for, found in a run, a checkpoint, a file of weights or an
exported model.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.engine.options import CheckpointOptions, Options, options_from
from vidseg.engine.run_record import check_record, read_record
from vidseg.labels import VideoDataset, open_dataset
from vidseg.labels.parts import check_disjoint, part_name
from vidseg.loaders.transfer import resolve_device
from vidseg.models import InputSpec, create_model, load_weights, model_input_spec, model_task, read_state
from vidseg.models._identify import identify
from vidseg.models._published import networks_of
from vidseg.models._torch_file import read_torch_file

__all__ = ["Source", "TrainedModel", "find_weights", "spread_videos", "test_name"]

_SPARE_VALUES = 1 << 24  # of parts that a file of weights may lack, such as the classifier
_SPARE_PARAMETERS = 1000
_BYTES_PER_RECORD = 64  # that an entry needs at least in a file
_EXPORTED = {".onnx", ".xml", ".pt2", ".engine"}  # suffixes of exported models


@dataclass(frozen=True)
class Source:
    """Where weights come from and what they are for.

    Attributes:
        path: the file of weights.
        network: name of the network.
        network_options: options that the network was created with.
        task: name of the task.
        classes: class names by number; empty for a file that does not hold them.
        epoch: finished epochs; None: not known.
        score: best validation score of the run when the file was written; None: not known.
        run: folder of the run; None for a file.
        chosen: whether the file is the one that the run's selection of the epoch takes.
        record: of the run, empty for a file of weights alone.
        artifact: description of an exported model, see `vidseg.export.Artifact`; None for weights.
    """

    path: Path
    network: str
    network_options: dict[str, Any]
    task: str
    classes: list[str]
    epoch: int | None = None
    score: Any = None
    run: Path | None = None
    chosen: bool = True
    record: dict[str, Any] = field(default_factory=dict)
    artifact: Any = None


def _export() -> Any:
    """Return `vidseg.export`, which this package cannot import when it is loaded: it is built on trained models."""
    return importlib.import_module("vidseg.export")


def find_weights(
    source: str | Path,
    *,
    checkpoint: str | Path | None = None,
    network: str | None = None,
    network_options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> Source:
    """Find the weights of a trained model.

    Args:
        source: folder of a run, one of its checkpoints, a file of weights, or an exported model.
        checkpoint: file of the run to take; None: its best one, else its last one.
        network: name of the network, for a file that does not hold it; None: recognized from the entries of the file,
            where they are those of one network of its published size.
        network_options: options of the network, likewise.
        classes: class names, likewise.

    Raises:
        FileNotFoundError: there is nothing at `source`, or the run has no checkpoint.
        ValueError: a file of weights without the name of its network, or a name that contradicts the record.
    """
    source = Path(source)
    if source.suffix in _EXPORTED and not source.is_dir() and checkpoint is None:
        exported: Source = _export().find_exported(source, network=network, classes=classes)
        return exported
    run = found = None
    if source.is_dir():
        run, record = source, read_record(source)
        names = record["options"].get("run_files", "vidseg")
        folder = CheckpointFolder(source, record["network"], CheckpointOptions(run_files=names))
        select_last = record["options"].get("select") == "last"
        found = folder.best if folder.best.is_file() and not select_last else folder.newest()
        path = Path(checkpoint) if checkpoint is not None else found
        if path is None:
            raise FileNotFoundError(
                f"{source}: no checkpoint {folder.last.name} in it; the run has not finished an epoch"
            )
    else:
        path, record = Path(checkpoint) if checkpoint is not None else source, {}
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    content = _content(path)
    epoch, score = content.get("epoch"), content.get("best")
    if not record and isinstance(content.get("record"), Mapping) and "network" in content["record"]:
        record = check_record(content["record"], str(path))
    if record:
        if network not in (None, record["network"]):
            raise ValueError(f"{path}: holds weights of {record['network']}, not of {network}")
        return Source(
            path,
            record["network"],
            dict(record["network_options"]),
            record["task"],
            list(classes if classes is not None else record["classes"]),
            epoch,
            score,
            run,
            checkpoint is None or path.resolve() == (found and found.resolve()),
            dict(record),
        )
    if network is None:
        network = _recognized(path)
    if network is None:
        raise ValueError(f"{path}: does not hold the name of its network; give it with --network")
    return Source(path, network, dict(network_options or {}), model_task(network), list(classes or ()), epoch, score)


def _recognized(path: Path) -> str | None:
    """The network whose published size the entries of a file have; None for others, whose options are not known."""
    names = networks_of(path)
    if len(names) != 1:
        return None
    found = identify({key: tuple(value.shape) for key, value in read_state(path).items()})
    return None if found is not None and found.width != 1 else names[0]


def _content(path: Path) -> dict[str, Any]:
    """The entries of a checkpoint; none of a file that holds weights alone."""
    if path.suffix == ".safetensors":
        return {}
    read_state(path)  # says what is wrong with a file that is not a checkpoint
    content = read_torch_file(path)
    return content if isinstance(content, dict) and "state_dict" in content else {}


def test_name(source: Source, *parts: str) -> str:
    """Return the name of a test's files: "test", with what distinguishes it from the default test of its run.

    Args:
        source: the tested weights; those that the run did not select add their name.
        *parts: data set, split, views; empty ones are left out.
    """
    named = [part.replace("/", "-") for part in parts if part]
    return "_".join(["test", *named, *([] if source.chosen else [source.path.stem])])


def spread_videos(data: VideoDataset, most: int) -> VideoDataset:
    """Return at most `most` videos of a data set, evenly spaced.

    Raises:
        ValueError: `most` is less than 1.
    """
    if most < 1:
        raise ValueError(f"videos={most} must be at least 1")
    count = len(data)
    if most >= count:
        return data
    return data.subset([place * count // most for place in range(most)])


@contextmanager
def _no_larger_than(size: int) -> Iterator[None]:
    """Refuse networks that need far more memory than their file of weights, such as those of a hostile file.

    Args:
        size: size of the file in bytes.

    Raises:
        ValueError: a network made in this context has more than 4 values per byte of the file, or too many parameters.
    """
    most_values, most_parameters = 4 * size + _SPARE_VALUES, size // _BYTES_PER_RECORD + _SPARE_PARAMETERS
    values = parameters = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal values, parameters
        values, parameters = values + (0 if parameter is None else parameter.numel()), parameters + 1
        if values > most_values or parameters > most_parameters:
            raise ValueError(f"its options give a network that is much larger than the file ({size} bytes)")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


class TrainedModel:
    """A network with its weights, its classes and its input.

    `vidseg.load_trained` makes one; each task has a class of its own with `predict` and `test`.

    Attributes:
        task: name of the task.
        network: name of the network.
        classes: class names by number.
        input_spec: how the network sees pictures.
        model: the network in evaluation mode, on `device`.
        source: where the weights come from.
    """

    task = ""
    default_options: Any = None

    def __init__(self, source: Source, *, strict: bool = True, device: torch.device | str = "cpu", **changes: Any):
        self.source, self.network, self.classes = source, source.network, source.classes
        self.device = resolve_device(device)
        if source.artifact is not None:
            self.input_spec = self.change_input(source.artifact.input, changes)
            self.model: nn.Module = _export().load_exported(source.artifact, source.path, device=self.device)
            return
        if not self.classes:
            self.classes = [str(number) for number in range(self._class_count())]
        model = self.build()
        report = load_weights(model, source.path, strict=strict, network=source.network)
        spec = self.default_input()
        if source.record:
            try:
                spec = InputSpec.from_dict(source.record["input"])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{source.path}: {error}") from error
        elif report.input_spec is not None:
            spec = report.input_spec
        self.input_spec = self.change_input(spec, changes)
        self.model = model.to(self.device).eval()

    def build(self) -> nn.Module:
        """Return the network with fresh weights.

        Raises:
            ValueError: the network has no such options, or is far larger than the file of its weights.
        """
        return self.create(len(self.classes))

    def create(self, num_classes: int | None, **options: Any) -> nn.Module:
        """Return the network with fresh weights, for any number of classes.

        Args:
            num_classes: number of classes K; None for networks without classes.
            **options: options of the network beside those of the file of weights.

        Raises:
            ValueError: as for `build`.
        """
        path = self.source.path
        try:
            with _no_larger_than(path.stat().st_size):
                return create_model(self.network, num_classes=num_classes, **{**options, **self.source.network_options})
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{path}: cannot make the network {self.network} of these weights: {reason}") from error

    def default_input(self) -> InputSpec:
        """Return the input spec of the network, before weights, run or caller change it."""
        return model_input_spec(self.network, **self.source.network_options)

    def change_input(self, spec: InputSpec, changes: Mapping[str, Any]) -> InputSpec:
        """Return the input spec with what the caller changes."""
        if changes:
            raise ValueError(f"{self.network}: its input cannot be changed ({', '.join(changes)})")
        return spec

    def _class_count(self) -> int:
        raise ValueError(
            f"{self.source.path}: does not hold the classes of {self.network}; give their names with --classes"
        )

    def options(self, defaults: Options) -> Options:
        """Return the options of the run, or the defaults for a file of weights alone."""
        return options_from(self.source.record.get("options", {}), defaults=defaults)

    def identity(self) -> dict[str, str]:
        """Return what identifies the weights, for files that are derived from them."""
        path = self.source.path
        return {"network": self.network, "weights": str(path.resolve()), "bytes": str(path.stat().st_size)}

    def check_classes(self, data: VideoDataset, root: Path) -> None:
        """Refuse a data set with other classes.

        Raises:
            ValueError: names the first class that differs.
        """
        if list(data.classes) == self.classes:
            return
        pairs = zip(data.classes, self.classes, strict=False)
        wrong = next((pair for pair in pairs if pair[0] != pair[1]), ("", ""))
        raise ValueError(
            f"{root / 'catalog.db'}: {len(data.classes)} classes, with {wrong[0]!r} in place of {wrong[1]!r}; the "
            f"network has {len(self.classes)}: use the data set that it was trained on"
        )

    def test_data(self, dataset: str | Path | None, split: str | None) -> tuple[VideoDataset, Path, str]:
        """Return the videos of a test, the folder of their data set, and the name of the split.

        Args:
            dataset: folder of the data set; None: the one that the run was trained on.
            split: name of the split; None: the test split of the run's division.

        Raises:
            ValueError: the weights do not belong to a run, the data set has other classes or no such split, or a video
                of the test split is one that was trained on.
        """
        record = self.source.record
        if not record:
            raise ValueError(f"{self.source.path}: holds weights alone; a test needs a run or one of its checkpoints")
        root, division = Path(dataset or record["dataset"]), record["division"]
        name, train = split or part_name(division, "test"), part_name(division, "train")
        data = open_dataset(root, name)
        self.check_classes(data, root)
        if split is None and train in data.splits:
            check_disjoint(open_dataset(root, train), data, division)
        return data, root, name

    def facts(self) -> dict[str, Any]:
        """Return a description in plain data, for `vidseg info`."""
        artifact = self.source.artifact
        values = sum(parameter.numel() for parameter in self.model.parameters())
        shown = ", ".join(self.classes[:20]) + (" ..." if len(self.classes) > 20 else "")
        facts = {
            "task": self.task,
            "network": self.network,
            "network options": ", ".join(f"{key}={value}" for key, value in self.source.network_options.items()),
            "weights": str(self.source.path),
            "format": None if artifact is None else f"{artifact.format}, {artifact.precision}",
            "parameters": values if artifact is None else artifact.parameters,
            "epoch": self.source.epoch,
            "best score": self.source.score,
            "classes": len(self.classes),
            "class names": shown,
            **{
                f"input {name}": value
                for name, value in self.input_spec.as_dict().items()
                if name == "modality" or self.input_spec.modality != "features"
            },
        }
        return {name: value for name, value in facts.items() if value not in (None, "")}

    def predict(self, source: Any, *_: Any, **options: Any) -> Any:
        """Predict what the task predicts: see the classes of the tasks.

        Raises:
            ValueError: the task cannot predict from this source.
        """
        raise ValueError(f"{self.network} is a network for {self.task}, which has no predictions of {source}")

    def network_inputs(
        self, *_: Any, videos: int = 8, dataset: str | Path | None = None, split: str | None = None
    ) -> Iterator[list[tuple[Tensor, ...]]]:
        """Yield inputs of the network, prepared as in a test, for the replay of exported models and for calibration.

        Args:
            videos: number of videos, evenly spaced in the split.
            dataset: folder of the data set; None: that of the run.
            split: name of the split; None: the test split of the run.

        Yields:
            Calls in order, each the arguments of the network without its memory; the memory of a streaming network
            starts anew with each list.

        Raises:
            ValueError: there is no such split, or the weights do not belong to a run.
        """
        data, root, _name = self.test_data(dataset, split)
        yield from self._inputs(spread_videos(data, videos), root)

    def _inputs(self, data: VideoDataset, root: Path) -> Iterator[list[tuple[Tensor, ...]]]:
        raise TypeError(f"{type(self).__name__} has no inputs")

    def loss_function(
        self, *_: Any, videos: int = 64, dataset: str | Path | None = None, split: str | None = None
    ) -> Callable[[], float]:
        """Return a function that computes the loss of the model's present weights on some videos of a split.

        Args:
            videos: number of videos, evenly spaced in the split.
            dataset: folder of the data set; None: that of the run.
            split: name of the split; None: the test split of the run.

        Raises:
            ValueError: there is no such split, or the weights do not belong to a run.
        """
        data, root, _name = self.test_data(dataset, split)
        part = spread_videos(data, videos)
        return lambda: self._loss(part, root)

    def main_scores(self, *_: Any, dataset: str | Path | None = None, split: str | None = None) -> dict[str, float]:
        """Evaluate as in a test, without files; returns the scores of the task by name, the most important one first.

        Args:
            dataset: folder of the data set; None: that of the run.
            split: name of the split; None: the test split of the run.

        Raises:
            ValueError: there is no such split, or the weights do not belong to a run.
        """
        data, root, _name = self.test_data(dataset, split)
        return self._scores(data, root)

    def _scores(self, data: VideoDataset, root: Path) -> dict[str, float]:
        raise TypeError(f"{type(self).__name__} has no scores")

    def _loss(self, data: VideoDataset, root: Path) -> float:
        raise TypeError(f"{type(self).__name__} has no loss")

    def explain(self, video: str | Path, **options: Any) -> Any:
        """Compute which pixels of a video a class depends on; see the classes of the tasks.

        Raises:
            ValueError: the task cannot explain videos.
        """
        raise ValueError(
            f"{self.network} is a network for {self.task}; only networks for recognition and streaming read frames "
            f"whose pixels can be explained, so there is no heat of {video}"
        )

    def test(self, *_: Any, **options: Any) -> Any:
        """Evaluate on the test split of the run's data set; see the classes of the tasks.

        Raises:
            ValueError: the weights do not belong to a run.
        """
        raise ValueError(f"{self.network} is a network for {self.task}, which has no test")
