"""Options of commands that take a trained model: which one, and changes of its input."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from vidseg.engine.trained import TrainedModel

__all__ = ["InputChanges", "ModelOptions", "accepted", "load_model"]

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ModelOptions:
    """The network, for weights that do not hold its name, and the device."""

    network: str | None = None
    """Name of the network, for a file of weights that does not hold it."""
    network_option: tuple[str, ...] = ()
    """Options of the network as NAME=VALUE, for a file of weights that does not hold them."""
    classes: Path | None = None
    """Text file with a class name in each line, or mapping.txt; default: those of the run, else class numbers."""
    strict: bool = True
    """Refuse weights that leave an entry of the network random or an entry of the file unused."""
    device: str | None = None
    """Device such as cpu, cuda or cuda:1; default: the accelerator if there is one."""


@dataclass(frozen=True)
class InputChanges:
    """Changes of the input; default: as the network was trained."""

    frames: int | None = None
    """Frames of a clip or window, or segments of a video."""
    interval: int | None = None
    """Distance from one frame to the next."""
    sampling: Literal["dense", "segments"] | None = None
    """dense: frames at an interval; segments: one frame from each of equal segments of the video."""
    size: int | None = None
    """Height and width in pixels."""
    resize: int | None = None
    """Short side of a frame before the crop; with --size alone it keeps the network's proportion."""
    mean: Triple | None = None
    """Mean of R, G and B in 0..1 that is subtracted from the frames."""
    std: Triple | None = None
    """Standard deviation of R, G and B by which they are divided."""
    color: Literal["rgb", "bgr"] | None = None
    """Order of the channels."""


def load_model(
    path: str | Path,
    options: ModelOptions,
    changes: InputChanges,
    *,
    checkpoint: str | None = None,
    **more: Any,
) -> TrainedModel:
    """Load a trained model as the options say.

    Args:
        path: folder of a run, checkpoint, or file of weights.
        options: of the model.
        changes: of its input.
        checkpoint: file of the run to take; None: its best one, else its last one.
        **more: further changes of the input; None for none.
    """
    from vidseg.engine.distributed import process_device
    from vidseg.engine.option_words import named_values
    from vidseg.tasks import load_trained

    return load_trained(
        path,
        checkpoint=checkpoint,
        network=options.network,
        network_options=named_values(options.network_option) or None,
        classes=None if options.classes is None else _read_classes(options.classes),
        strict=options.strict,
        device=process_device(options.device),
        **{name: value for name, value in (vars(changes) | more).items() if value is not None},
    )


def accepted(
    function: Callable[..., Any], given: Mapping[str, Any], trained: TrainedModel, what: str
) -> dict[str, Any]:
    """Return the given options without those that are None.

    Args:
        function: that takes them.
        given: options by name.
        trained: model whose task is named where it has no such option.
        what: the function in words, such as "a test".

    Raises:
        ValueError: the function has no such option.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    known = inspect.signature(function).parameters
    for name in chosen:
        if name not in known:
            raise ValueError(
                f"--{name.replace('_', '-')}: {what} has no such option; {trained.network} is a network for "
                f"{trained.task}"
            )
    return chosen


def _read_classes(path: Path) -> list[str]:
    """Names of classes from mapping.txt, or one a line."""
    from vidseg.labels.segmentation_files import read_mapping

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of class names, given with --classes")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if lines and all(line.partition(" ")[0].isdigit() and line.partition(" ")[2] for line in lines):
        return read_mapping(path)
    return lines
