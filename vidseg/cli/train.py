"""`vidseg train`, and the programs in train/: train a network for any task.

Options come from the defaults of the task, the recipe of NAME for the network, the file of --config, and the flags, in
this order. With --resume the options of the run in the folder replace the first two.
"""

from __future__ import annotations

import difflib
import json as json_format
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, arg

from vidseg.cli.parsing import Prepared
from vidseg.cli.train_words import (
    SPELLINGS,
    fitting,
    given_options,
    last_value,
    normalized,
    option_types,
    read_config,
)
from vidseg.engine.option_words import merged_values
from vidseg.engine.options import TrainOptions, flat_options, options_from
from vidseg.search.program import TrainProgram
from vidseg.tasks.detection.options import DetectionOptions
from vidseg.tasks.detection.recipes import RECIPES as DETECTION_RECIPES
from vidseg.tasks.flow.options import FlowOptions
from vidseg.tasks.recognition.options import RecognitionData, RecognitionOptions
from vidseg.tasks.recognition.recipes import RECIPES as RECOGNITION_RECIPES
from vidseg.tasks.segmentation.options import SegmentationOptions
from vidseg.tasks.segmentation.recipes import RECIPES as SEGMENTATION_RECIPES
from vidseg.tasks.streaming.options import StreamingOptions

__all__ = ["NAMES", "prepare", "searched_program", "train_program"]

NAMES = {
    **{re.sub(r"^kinetics\d+$", "kinetics", name): "recognition" for name in RECOGNITION_RECIPES},
    **dict.fromkeys(SEGMENTATION_RECIPES, "segmentation"),
    **dict.fromkeys(DETECTION_RECIPES, "detection"),
    **dict.fromkeys(("stream", "streaming"), "streaming"),
    "flow": "flow",
}
"""Names of recipes, and the task of each; the variants of Kinetics have one name."""
_ADDED = ("network_option", "loss_option")
"""Options that are added to those of the recipe or of the resumed run."""

Folder = Annotated[Positional[str | None], arg(metavar="[FOLDER]")]


@dataclass(frozen=True)
class RecognitionCommand(RecognitionOptions):
    """Train a recognition network on videos that have one class each; prints the folder of the run.

    `vidseg train FOLDER` trains on any data set. `vidseg train NAME FOLDER` has the published settings of NAME as
    defaults: hacs, kinetics, moments, ucf101, hmdb51, diving48 or synth for recognition; gtea, 50salads or breakfast
    for segmentation of features, and segmentation for features of your own; stream for streaming networks; thumos14,
    activitynet or hacs_segments for detection, and detection for videos of your own; flow for optical flow. `vidseg
    train NAME --help` shows them.
    """

    task: ClassVar[str] = "recognition"

    folder: Folder = None
    """Folder of the data set, with catalog.db and jpg/; the same as --dataset."""
    config: str | None = None
    """YAML or JSON file of options by name, or the options.json of a run; flags take precedence."""
    json: bool = False
    """Print the folder of the run and its best validation scores as JSON."""


@dataclass(frozen=True)
class KineticsCommand(RecognitionCommand):
    """Train a recognition network on Kinetics with the published settings; prints the folder of the run."""

    variant: Literal[200, 400, 600, 700] = 700
    """Number of classes of the release."""


@dataclass(frozen=True)
class SegmentationCommand(SegmentationOptions):
    """Train a segmentation network on features and test it, split by split; prints the scores and the folder.

    Options that are not given are the published ones of the network for this data set. Each split has a folder of its
    own with checkpoints, score tables, pictures, predictions and test.json; results.json holds the scores of all.
    """

    task: ClassVar[str] = "segmentation"

    folder: Folder = None
    """Folder of the data set: catalog.db or groundTruth/ and splits/, and features/<video>.npy; the same as
    --dataset."""
    config: str | None = None
    """YAML or JSON file of options by name, or the options.json of a run; flags take precedence."""
    json: bool = False
    """Print the folder and the scores as JSON."""


@dataclass(frozen=True)
class StreamingCommand(StreamingOptions):
    """Train a streaming network end to end from pixels, window by window, on videos with frame labels.

    Options that are not given are the published ones of the network. The validation videos are labeled after each
    epoch, the test videos, if the data set has a test split, once at the end. Prints the folder of the run.
    """

    task: ClassVar[str] = "streaming"

    folder: Folder = None
    """Folder of the data set: frame databases, and a catalog with frame labels; the same as --dataset."""
    recipe: Literal["gtea", "50salads"] = "gtea"
    """Data set whose published settings are the defaults."""
    config: str | None = None
    """YAML or JSON file of options by name, or the options.json of a run; flags take precedence."""
    json: bool = False
    """Print the folder and the scores of the test as JSON."""


@dataclass(frozen=True)
class DetectionCommand(DetectionOptions):
    """Train a detection network on videos with segments, from features or from pixels (--encoder), and test it.

    Options that are not given are the published ones of the network for this data set. The validation videos are scored
    after each epoch, the test videos, if the data set has a test split, once at the end. Prints the folder of the run.
    """

    task: ClassVar[str] = "detection"

    folder: Folder = None
    """Folder of the data set: a catalog with segments, and features/<video>.npy or frame databases; the same as
    --dataset."""
    config: str | None = None
    """YAML or JSON file of options by name, or the options.json of a run; flags take precedence."""
    json: bool = False
    """Print the folder and the scores of the test as JSON."""


@dataclass(frozen=True)
class FlowCommand(FlowOptions):
    """Train an optical-flow network on picture pairs with true flow, and test it on held-out pairs.

    `vidseg train flow shapes` trains on generated pairs of moving shapes; a FOLDER has the layout of FlyingChairs,
    Sintel or KITTI. Options that are not given are those of the recipe for the network. Prints the folder of the run.
    """

    task: ClassVar[str] = "flow"

    folder: Annotated[Positional[str | None], arg(metavar="[shapes|FOLDER]")] = None
    """shapes, or the folder of the data set; the same as --dataset."""
    recipe: Literal["shapes", "chairs", "sintel", "kitti"] = "shapes"
    """Data set whose settings are the defaults."""
    config: str | None = None
    """YAML or JSON file of options by name, or the options.json of a run; flags take precedence."""
    json: bool = False
    """Print the folder and the scores of the test as JSON."""


_COMMANDS: dict[str, Any] = {
    "recognition": RecognitionCommand,
    "segmentation": SegmentationCommand,
    "streaming": StreamingCommand,
    "detection": DetectionCommand,
    "flow": FlowCommand,
}
_DEFAULTS: dict[str, TrainOptions] = {
    "recognition": RecognitionOptions(),
    "segmentation": SegmentationOptions(),
    "streaming": StreamingOptions(),
    "detection": DetectionOptions(),
    "flow": FlowOptions(),
}


def prepare(words: list[str], name: str | None = None) -> Prepared:
    """Return what a command line asks for.

    Args:
        words: of the command line, behind `vidseg train`.
        name: one of `NAMES`; None takes it from the first word, if that is one.

    Raises:
        ValueError: the file given with --config does not hold options, or there is no recipe for the network.
        FileNotFoundError: there is no such file.
    """
    if name is None and words and words[0] in NAMES:
        name, words = words[0], words[1:]
    task = NAMES[name] if name is not None else _task_of(words)
    command = KineticsCommand if name == "kinetics" else _COMMANDS[task]
    types = option_types(_DEFAULTS[task]) | option_types(command())
    words = normalized(words, types)
    path = last_value(words, "config")
    config = {} if path is None else read_config(Path(path), types, task=task)
    start = _Start(name or "", task, config, given_options(words, types))
    scanned = {key: last_value(words, key) for key in ("network", "recipe", "variant")}
    chosen = config | {key: value for key, value in scanned.items() if value is not None and key in types}
    defaults = start.options(chosen)
    default = command(**{field.name: getattr(defaults, field.name) for field in fields(defaults)})
    return Prepared(name or "", command, default, words, start.run)


def train_program(name: str) -> int:
    """Run a program of train/: `vidseg train NAME`, with the words of the command line."""
    from vidseg.cli.main import run_prepared

    return run_prepared(sys.argv[0], sys.argv[1:], prepare, name)


def searched_program(name: str) -> TrainProgram:
    """Return `vidseg train NAME` as a search runs it, in processes of its own.

    Args:
        name: one of `NAMES`; "" for `vidseg train` without one.

    Raises:
        ValueError: there is no such name.
    """
    if name and name not in NAMES:
        close = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(NAMES)}"
        raise ValueError(f"unknown program {name!r}; {hint}")
    task = NAMES.get(name, "recognition")
    command = KineticsCommand if name == "kinetics" else _COMMANDS[task]
    types = option_types(_DEFAULTS[task]) | option_types(command())
    vidseg = (sys.executable, "-m", "vidseg.cli.main")
    return TrainProgram(
        name=name,
        task=task,
        command=(*vidseg, "train", *([name] if name else [])),
        test=(*vidseg, "test"),
        types={key: kind for key, kind in types.items() if key != "folder"},
        spellings=SPELLINGS,
        fit=fitting,
        resolve=_Start(name, task, {}, frozenset()).options,
    )


def _task_of(words: list[str]) -> str:
    """The task of a command line without a NAME: of the run that it resumes or repeats, else recognition."""
    names = normalized(words, {})
    paths = [] if (config := last_value(names, "config")) is None else [Path(config)]
    if "--resume" in names and (out := last_value(names, "out")) is not None:
        paths += [Path(out) / "options.json", *sorted(Path(out).glob("*/options.json"))]
    for path in paths:
        if path.is_file() and path.suffix == ".json":
            try:
                content = json_format.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path}: not a JSON file: {error}") from error
            if isinstance(content, dict) and content.get("task") in _COMMANDS:
                return str(content["task"])
    return "recognition"


@dataclass(frozen=True)
class _Start:
    """A command line before it is parsed.

    Attributes:
        name: one of `NAMES`, or "".
        task: name of the task.
        config: options of the file of --config.
        given: names of the options that flags give.
    """

    name: str
    task: str
    config: Mapping[str, Any]
    given: frozenset[str]

    def options(self, changes: Mapping[str, Any]) -> Any:
        """Return the options of the recipe, or the defaults of the task, with changes."""
        chosen = {key: value for key, value in changes.items() if key not in ("recipe", "variant")}
        if self.task == "streaming":
            from vidseg.tasks.streaming.recipes import recipe_options as streaming_options

            return streaming_options(changes.get("recipe", "gtea"), **chosen)
        if self.task == "detection":
            from vidseg.tasks.detection.recipes import recipe_options as detection_options

            return detection_options(self.name or "detection", **chosen)
        if self.task == "flow":
            from vidseg.tasks.flow.recipes import recipe_options as flow_options

            return flow_options(changes.get("recipe", "shapes"), **chosen)
        if self.task == "segmentation" and self.name:
            from vidseg.tasks.segmentation.recipes import recipe_options as segmentation_options

            return segmentation_options(self.name, **chosen)
        if self.task == "recognition" and self.name:
            from vidseg.tasks.recognition.recipes import recipe_options as recognition_options

            return recognition_options(
                f"kinetics{changes.get('variant', 700)}" if self.name == "kinetics" else self.name, **chosen
            )
        return _with_changes(chosen, _DEFAULTS[self.task])

    def run(self, command: Any) -> int:
        """Train as the parsed command says; returns the exit status."""
        options = self.resolved(command)
        options.network.chosen_options()  # first: a FOLDER behind --network-option is taken as one of its values
        if not options.data.dataset:
            if getattr(options.data, "train_lists", ()):
                raise ValueError(_lists_need_data(options.data))
            named = f"{self.name} " if self.name else ""
            raise ValueError(f"dataset: name the folder of the data set, as in `vidseg train {named}FOLDER`")
        if options.session.dry_run:
            return _dry_run(self.task, options)
        from vidseg.engine.distributed import leaving_group
        from vidseg.engine.launch import launch_processes

        if options.devices.device is None:
            status = launch_processes(options.devices.gpus)
            if status is not None:
                return status
        with leaving_group():
            folder, scores, text = _train(self.task, self.name, options)
        if os.environ.get("RANK", "0") == "0":
            result = {"task": self.task, "network": options.network.network, "folder": str(folder), "scores": scores}
            print(json_format.dumps(result) if command.json else f"{text}{folder}")
        return 0

    def resolved(self, command: Any) -> Any:
        """The options of the run: of the recipe or of the resumed run, of --config, of the flags."""
        groups = {field.name: getattr(command, field.name) for field in fields(_DEFAULTS[self.task])}
        values = {key: value for group in groups.values() for key, value in vars(group).items()}
        values |= {key: getattr(command, key) for key in ("recipe", "variant") if hasattr(command, key)}
        flags = {key: values[key] for key in self.given if key in values}
        if command.folder is not None:
            if flags.get("dataset", command.folder) != command.folder:
                raise ValueError(f"FOLDER={command.folder!r} and --dataset {flags['dataset']!r}: give one of them")
            flags["dataset"] = command.folder
        changes = {**self.config, **flags}
        for added in _ADDED:
            if added in flags and added in self.config:
                changes[added] = merged_values(self.config[added], flags[added])
        options = self.options(changes)
        if options.session.resume or options.session.resume_epoch > 1:
            record = _stored(self.task, options)
            if record is not None:
                chosen = {key: value for key, value in changes.items() if key not in ("recipe", "variant")}
                chosen |= {key: getattr(options.session, key) for key in ("out", "model_dir", "task_name")}
                return _with_changes(chosen, options_from(record["options"], defaults=_DEFAULTS[self.task]))
        return options


def _lists_need_data(data: RecognitionData) -> str:
    """What to do for list files without a data set."""
    from vidseg.labels.list_splits import convert_commands

    commands = [convert_commands(data.train_lists, data.train_root)]
    if data.val_lists:
        commands.append(convert_commands(data.val_lists, data.val_root))
    return (
        "dataset: the list files name videos or folders of frames, and training reads frame databases; convert them "
        f"once, `{' && '.join(commands)}`, and name the folder: `vidseg train DATA --config FILE`"
    )


def _with_changes(changes: Mapping[str, Any], defaults: Any) -> Any:
    """Options with changes; those of networks and losses are added."""
    known = flat_options(defaults)
    added = {key: merged_values(known[key], changes[key]) for key in _ADDED if key in changes and key in known}
    return options_from({**changes, **added}, defaults=defaults)


def _stored(task: str, options: Any) -> dict[str, Any] | None:
    """The record of the run that is resumed; of a cross-validation that of its first split. None: there is no run."""
    from vidseg.engine.run_record import RECORD, read_record
    from vidseg.engine.runs import run_folder

    folder = run_folder(options, options.data.dataset)
    found = [folder / RECORD, *(sorted(folder.glob(f"*/{RECORD}")) if task == "segmentation" else ())]
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        return None
    record = read_record(path.parent)
    if record["task"] != task:
        raise ValueError(
            f"{path}: that run is for {record['task']} with {record['network']}, not for {task}; start "
            "another run with --out"
        )
    return record


def _train(task: str, name: str, options: Any) -> tuple[Path, Any, str]:
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
        return folder, json_format.loads(tested.read_text())["scores"] if tested.is_file() else None, ""
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
    old = options_from(record["options"], defaults=_DEFAULTS[task])
    known = flat_options(old)
    old_lr = old.schedule.lr or default_rate(known.get("batch_size") or 32)
    chosen = {**fresh, **changes, "dataset": record["dataset"], "lr": lr or old_lr / 10}
    folder, _, _ = _train(task, "", _with_changes(chosen, old))
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


def _dry_run(task: str, options: Any) -> int:
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
