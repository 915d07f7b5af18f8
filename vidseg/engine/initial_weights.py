"""What a run starts from: the weights of `pretrained`, and the input spec that goes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from vidseg.engine.options import NetworkOptions
from vidseg.engine.run_record import RECORD, read_record
from vidseg.engine.runs import RunFolder
from vidseg.models import InputSpec, LoadReport, classifier_name, load_weights
from vidseg.models._published import find_published
from vidseg.models._torch_file import read_torch_file

__all__ = ["base_input", "load_initial"]

_SMALLEST_SHARE = 0.5
"""Share of a network's values that a checkpoint must fill to start training from it."""


def load_initial(
    model: nn.Module, network: NetworkOptions, folder: RunFolder, *, classes: Sequence[str] | None = None
) -> LoadReport | None:
    """Fill the network from `pretrained`; returns the report, None without it or for a run that is resumed.

    Args:
        model: with random weights.
        network: its name, and `pretrained`.
        folder: of the run.
        classes: class names of the run; the classifier of a checkpoint that records other names is not used.

    Raises:
        FileNotFoundError: no such file, or published weights that are not on this machine.
        ValueError: less than half of the network's values are in the file, or `cross_modality` has no effect.
    """
    if network.pretrained is None or folder.resume_from():
        return None
    path = find_published(network.pretrained, network.network)
    name = classifier_name(model)
    random = {key: value.clone() for key, value in model.state_dict().items() if key.startswith(f"{name}.")}
    report = load_weights(model, path, strict=False, network=network.network, cross_modality=network.cross_modality)
    if report.filled < _SMALLEST_SHARE:
        raise ValueError(
            f"{network.pretrained} fills {report.filled:.0%} of {network.network}, less than half: {report}"
        )
    recorded = None if classes is None else _recorded_classes(path)
    if recorded is None or recorded == list(classes or ()):
        return report
    model.load_state_dict(random, strict=False)
    return replace(
        report,
        taken=tuple(key for key in report.taken if key not in random),
        missing=(*report.missing, *(key for key in report.taken if key in random)),
        notes=(*report.notes, f"the weights are for other classes, so the classifier {name} has random weights"),
    )


def _recorded_classes(path: Path) -> list[str] | None:
    """Return the class names that a checkpoint records; None for other files."""
    content = None if path.suffix == ".safetensors" else read_torch_file(path)
    record = content.get("record") if isinstance(content, Mapping) else None
    classes = record.get("classes") if isinstance(record, Mapping) else None
    return list(classes) if isinstance(classes, (list, tuple)) else None


def base_input(folder: RunFolder, report: LoadReport | None, default: InputSpec) -> InputSpec:
    """Return the input spec before options change it: of the run that is resumed, of the weights, or the default."""
    if folder.resume_from() and (folder.path / RECORD).is_file():
        return InputSpec.from_dict(read_record(folder.path)["input"])
    return default if report is None or report.input_spec is None else report.input_spec
