"""The record of a recognition run that a program starts with `Trainer`, so that commands take its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vidseg.clips.sampling import SegmentSampling
from vidseg.engine import distributed
from vidseg.engine.options import NetworkOptions, RunOptions
from vidseg.engine.run_record import RECORD, run_record
from vidseg.labels.json_files import write_json
from vidseg.loaders import ClipLoader
from vidseg.models import InputSpec, model_input_spec
from vidseg.tasks.recognition.data import resolved_input
from vidseg.tasks.recognition.options import RecognitionData, RecognitionOptions

__all__ = ["begin_program_run"]


def begin_program_run(trainer: Any, out: Path) -> dict[str, Any]:
    """Write the record of a run that a program starts, see `Task.begin`.

    Args:
        trainer: of a network for one class per video.
        out: folder of the run.

    Returns:
        {} if the network is not one of `create_model`, or the clips are not those of a `ClipLoader` of RGB frames as
        an input spec describes them: floating point, (B, C, T, H, W), square.
    """
    origin, loader = trainer.origin, trainer.loader
    if origin is None or not isinstance(loader, ClipLoader) or not _described(loader):
        return {}
    if getattr(trainer.model, "num_classes", len(loader.data.classes)) != len(loader.data.classes):
        return {}
    named = tuple(f"{name}={value}" for name, value in origin.options.items())
    options = RecognitionOptions(
        optimizer=trainer.optimizer_options,
        schedule=trainer.schedule,
        evaluation=trainer.evaluation,
        checkpoints=trainer.checkpoints,
        session=RunOptions(seed=trainer.seed, out=str(out)),
        network=NetworkOptions(origin.name, network_option=named),
        data=RecognitionData(dataset=str(Path(loader.data.root).resolve()), batch_size=loader.planner.base.clips),
    )
    record = run_record(
        "recognition",
        options,
        input_spec=_input_spec(loader, trainer.validation, model_input_spec(origin.name, **origin.options)),
        dataset=str(Path(loader.data.root).resolve()),
        train=loader.data,
        network_options=origin.options,
    )
    if distributed.is_first():
        write_json(out / RECORD, record)
    return record


def _described(loader: ClipLoader) -> bool:
    shape, form = loader.planner.base, loader.form
    colored = len(loader.forms) == 1 and form.modality == "rgb" and form.dtype != torch.uint8
    return colored and form.layout == "bcthw" and shape.height == shape.width


def _input_spec(loader: ClipLoader, validation: Any, default: InputSpec) -> InputSpec:
    """The input of the network in evaluation: as in the validation, else as in training, with the middle interval."""
    source = validation if isinstance(validation, ClipLoader) else loader
    sampling, form = source.planner.sampling, loader.form
    intervals = sorted(getattr(sampling, "intervals", (getattr(sampling, "interval", 1),)))
    segments = isinstance(sampling, SegmentSampling)
    chosen = {
        "frames": loader.planner.base.frames,
        "interval": 1 if segments else intervals[len(intervals) // 2],
        "sampling": "segments" if segments else "dense",
        "size": loader.planner.base.height,
        "mean": form.mean or (0.0, 0.0, 0.0),
        "std": form.std or (1.0, 1.0, 1.0),
        "color": form.color,
    }
    return resolved_input(chosen, replace(default, modality="rgb", stack=1))
