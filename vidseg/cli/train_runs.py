"""The training and the plan of a run for each task, whose modules are loaded when they are needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidseg.cli.train_commands import DEFAULTS
from vidseg.engine.option_words import merged_values
from vidseg.engine.options import flat_options, options_from

__all__ = ["ADDED", "changed_options", "print_plan", "train_again", "train_task"]

ADDED = ("network_option", "loss_option")
"""Options that are added to those of the recipe or of the resumed run."""


def changed_options(changes: Mapping[str, Any], defaults: Any) -> Any:
    """Options with changes; those of networks and losses are added."""
    known = flat_options(defaults)
    added = {key: merged_values(known[key], changes[key]) for key in ADDED if key in changes and key in known}
    return options_from({**changes, **added}, defaults=defaults)


def train_task(task: str, name: str, options: Any) -> tuple[Path, Any, str]:
    """Train; returns the folder, the scores, and what is printed before the folder."""
    from vidseg.engine.runs import run_folder

    folder = run_folder(options, options.data.dataset)
    if task == "segmentation":
        from vidseg.tasks.segmentation.cross_validation import cross_validate
        from vidseg.tasks.segmentation.recipes import RATES

        table = cross_validate(options, rate=RATES.get(name, 15.0))
        return folder, {"mean": table.mean, "splits": table.splits}, f"{table}\n"
    if task in ("streaming", "detection", "flow"):
        folder = _train_and_test(task, options)
        tested = folder / "test.json"
        return folder, json.loads(tested.read_text())["scores"] if tested.is_file() else None, ""
    from vidseg.plots.curves import best_scores
    from vidseg.tasks.recognition.runs import train_recognition

    folder = train_recognition(options)
    return folder, best_scores(folder), ""


def train_again(task: str, record: Mapping[str, Any], changes: Mapping[str, Any], *, lr: float | None = None) -> Path:
    """Train with the options of an earlier run, into a new one.

    Args:
        task: task of the run.
        record: record of the run.
        changes: options by name that replace those of the run.
        lr: learning rate; None: a tenth of the run's.

    Returns:
        The folder of the new run.
    """
    from vidseg.engine.schedules import default_rate

    fresh = {"model_dir": None, "task_name": "", "max_steps": None, "warmup_epochs": None, "warmup_steps": None}
    old = options_from(record["options"], defaults=DEFAULTS[task])
    known = flat_options(old)
    old_lr = old.schedule.lr or default_rate(known.get("batch_size") or 32)
    chosen = {**fresh, **changes, "dataset": record["dataset"], "lr": lr or old_lr / 10}
    folder, _, _ = train_task(task, "", changed_options(chosen, old))
    return folder


def _train_and_test(task: str, options: Any) -> Path:
    if task == "streaming":
        from vidseg.tasks.streaming.runs import train_streaming

        return train_streaming(options)
    if task == "flow":
        from vidseg.tasks.flow.runs import train_flow

        return train_flow(options)
    from vidseg.tasks.detection.runs import train_detection

    return train_detection(options)


def print_plan(task: str, options: Any) -> int:
    """Print the plan of a run; that of a recognition run is drawn as well."""
    if task == "segmentation":
        from vidseg.tasks.segmentation.cross_validation import plan_segmentation

        for division, plan in plan_segmentation(options).items():
            print(f"{division or 'all videos'}:\n{plan}")
        return 0
    if task == "streaming":
        from vidseg.tasks.streaming.runs import plan_streaming

        print(plan_streaming(options))
        return 0
    if task == "flow":
        from vidseg.tasks.flow.runs import plan_flow

        print(plan_flow(options))
        return 0
    if task == "detection":
        from vidseg.tasks.detection.runs import plan_detection

        print(plan_detection(options))
        return 0
    from vidseg.plots import plot_schedule
    from vidseg.tasks.recognition.runs import plan_recognition

    planned = plan_recognition(options)
    print(planned)
    shapes = [(one.shape.clips, one.shape.frames, one.shape.height, one.shape.width) for one in planned.epoch(0)]
    out = Path(options.session.out or ".") / "schedule.png"
    title = f"{options.network.network} on {Path(options.data.dataset).resolve().name}"
    print(plot_schedule(shapes, [batch.rate for batch in planned.batches], out, title=title))
    return 0
