"""The tasks that networks are trained for, and trained models of each.

A task is a package with `task.py` (loss, batch, evaluation), `recipes.py` (published settings), `options.py` and
`trained.py` (predictions and tests of a trained model).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidseg.engine.task import Task
    from vidseg.engine.trained import TrainedModel

__all__ = ["load_trained"]

_TASKS = {
    "recognition": "RecognitionTask",
    "segmentation": "SegmentationTask",
    "streaming": "StreamingTask",
    "detection": "DetectionTask",
    "flow": "FlowTask",
}
_MODELS = {
    "recognition": "vidseg.tasks.recognition.trained:RecognitionModel",
    "segmentation": "vidseg.tasks.segmentation.trained:SegmentationModel",
    "streaming": "vidseg.tasks.streaming.trained:StreamingModel",
    "detection": "vidseg.tasks.detection.trained:DetectionModel",
    "flow": "vidseg.tasks.flow.trained:FlowModel",
}


def load_trained(
    source: str | Path,
    *,
    checkpoint: str | Path | None = None,
    network: str | None = None,
    network_options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    strict: bool = True,
    device: Any = "cpu",
    **changes: Any,
) -> TrainedModel:
    """Load a trained model: from a run, a checkpoint, a file of weights or an exported model.

    Args:
        source: folder of a run, one of its checkpoints, a file of weights, or a file that `vidseg export` wrote. Files
            .pt2 and .engine hold compiled code: load them only from where you trust them.
        checkpoint: file of the run to take; None: its best one, else its last one.
        network: name of the network, for a file that does not hold it.
        network_options: options of the network, likewise.
        classes: class names, likewise; None: the numbers of the classes.
        strict: refuse weights that leave an entry of the network random, or an entry of the file unused.
        device: device to compute on.
        **changes: fields of the input spec to change, such as `size=224`.

    Returns:
        A `TrainedModel` of the network's task, with `predict` and `test`.

    Raises:
        FileNotFoundError: there is nothing at `source`, or the run has no checkpoint.
        ValueError: weights of an unknown network, or that do not fit it.
    """
    from vidseg.engine.weight_source import find_weights

    found = find_weights(
        source, checkpoint=checkpoint, network=network, network_options=network_options, classes=classes
    )
    if found.task not in _MODELS:
        raise ValueError(f"{found.path}: {found.network} is a network for {found.task}; there are {', '.join(_MODELS)}")
    module, _, name = _MODELS[found.task].partition(":")
    model: TrainedModel = getattr(importlib.import_module(module), name)(found, strict=strict, device=device, **changes)
    return model


def register() -> None:
    """Give the tasks of this package their names for `Trainer(task=name)`."""
    from vidseg.engine.task import register_task

    for name in _TASKS:
        register_task(name, _factory(name))


def _factory(name: str) -> Callable[[], Task]:
    def make() -> Task:
        task: Task = getattr(importlib.import_module(f"vidseg.tasks.{name}.task"), _TASKS[name])()
        return task

    return make
