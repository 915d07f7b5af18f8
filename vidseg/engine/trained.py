"""A trained model: a network with its weights, its classes and its input, and what every task does with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from vidseg.engine.options import Options, options_from
from vidseg.engine.weight_source import Source, export_package
from vidseg.labels import VideoDataset, open_dataset
from vidseg.labels.parts import check_disjoint, part_name
from vidseg.loaders.transfer import resolve_device
from vidseg.models import InputSpec, create_model, load_weights, model_input_spec

__all__ = ["TrainedModel", "spread_videos"]

_SPARE_VALUES = 1 << 24  # of parts that a file of weights may lack, such as the classifier
_SPARE_PARAMETERS = 1000
_BYTES_PER_RECORD = 64  # that an entry needs at least in a file


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
            self.model: nn.Module = export_package().load_exported(source.artifact, source.path, device=self.device)
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
