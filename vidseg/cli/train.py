"""`vidseg train`, and the programs in train/: train a network for any task.

Options come from the defaults of the task, the recipe of NAME for the network, the file of --config, and the flags, in
this order. With --resume the options of the run in the folder replace the first two.
"""

from __future__ import annotations

import difflib
import json as json_format
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vidseg.cli.parsing import Prepared
from vidseg.cli.train_commands import COMMANDS, DEFAULTS, NAMES, KineticsCommand
from vidseg.cli.train_runs import ADDED, changed_options, print_plan, train_task
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
from vidseg.engine.options import options_from
from vidseg.search.program import TrainProgram
from vidseg.tasks.recognition.options import RecognitionData

__all__ = ["NAMES", "prepare", "searched_program", "train_program"]


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
    command = KineticsCommand if name == "kinetics" else COMMANDS[task]
    types = option_types(DEFAULTS[task]) | option_types(command())
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
    command = KineticsCommand if name == "kinetics" else COMMANDS[task]
    types = option_types(DEFAULTS[task]) | option_types(command())
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
            if isinstance(content, dict) and content.get("task") in COMMANDS:
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
        return changed_options(chosen, DEFAULTS[self.task])

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
            return print_plan(self.task, options)
        from vidseg.engine.distributed import leaving_group
        from vidseg.engine.launch import launch_processes

        if options.devices.device is None:
            status = launch_processes(options.devices.gpus)
            if status is not None:
                return status
        with leaving_group():
            folder, scores, text = train_task(self.task, self.name, options)
        if os.environ.get("RANK", "0") == "0":
            result = {"task": self.task, "network": options.network.network, "folder": str(folder), "scores": scores}
            print(json_format.dumps(result) if command.json else f"{text}{folder}")
        return 0

    def resolved(self, command: Any) -> Any:
        """The options of the run: of the recipe or of the resumed run, of --config, of the flags."""
        groups = {field.name: getattr(command, field.name) for field in fields(DEFAULTS[self.task])}
        values = {key: value for group in groups.values() for key, value in vars(group).items()}
        values |= {key: getattr(command, key) for key in ("recipe", "variant") if hasattr(command, key)}
        flags = {key: values[key] for key in self.given if key in values}
        if command.folder is not None:
            if flags.get("dataset", command.folder) != command.folder:
                raise ValueError(f"FOLDER={command.folder!r} and --dataset {flags['dataset']!r}: give one of them")
            flags["dataset"] = command.folder
        changes = {**self.config, **flags}
        for added in ADDED:
            if added in flags and added in self.config:
                changes[added] = merged_values(self.config[added], flags[added])
        options = self.options(changes)
        if options.session.resume or options.session.resume_epoch > 1:
            record = _stored(self.task, options)
            if record is not None:
                chosen = {key: value for key, value in changes.items() if key not in ("recipe", "variant")}
                chosen |= {key: getattr(options.session, key) for key in ("out", "model_dir", "task_name")}
                return changed_options(chosen, options_from(record["options"], defaults=DEFAULTS[self.task]))
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
