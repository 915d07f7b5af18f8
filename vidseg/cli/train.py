"""`vidseg train`, and the programs in train/: train a network on a data set."""

from __future__ import annotations

import difflib
import os
import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from vidseg.engine.options import TrainOptions, flat_options, options_from
from vidseg.tasks.recognition.recipes import PRESETS

__all__ = ["Command", "prepare", "train_program"]

_SPELLINGS = {"train-frame-inteval": "train-frame-interval", "val-frame-inteval": "val-frame-interval"}
_LISTS = {"train-frame-interval", "val-frame-interval", "lr-steps"}
_NAMES = ("hacs", "kinetics", "moments", "ucf101", "hmdb51", "diving48", "synth")
_SEGMENTATION = ("gtea", "50salads", "breakfast")


@dataclass(frozen=True)
class Command(TrainOptions):
    """Train a network, evaluating it on held-out videos; leaves checkpoints, score tables and a log.

    `vidseg train FOLDER` trains on any data set. `vidseg train NAME --dataset FOLDER` has the published defaults of
    hacs, kinetics, moments, ucf101, hmdb51 or diving48, as train/train_NAME.py has; `vidseg train NAME --help` shows
    them. `vidseg train stream FOLDER` trains a streaming network on videos with frame labels,
    `vidseg train gtea FOLDER` (50salads, breakfast) a segmentation network on features.
    """

    config: str | None = None
    """YAML or JSON file of options by name, or the options.json of a run; flags count more than it."""

    def run(self) -> int:
        """Train, and print the folder of the run; or only say what would be done."""
        options = self.options()
        if options.session.dry_run:
            return _dry_run(options)
        from vidseg.engine import train_run
        from vidseg.engine.distributed import leave_group
        from vidseg.engine.launch import launch_processes

        status = launch_processes(options.devices.gpus)
        if status is not None:
            return status
        try:
            folder = train_run(options)
        finally:
            leave_group()
        if os.environ.get("RANK", "0") == "0":
            print(folder)
        return 0

    def options(self) -> TrainOptions:
        """The options without those of the command line alone."""
        return TrainOptions(**{field.name: getattr(self, field.name) for field in fields(TrainOptions)})


@dataclass(frozen=True)
class KineticsCommand(Command):
    """Train a network on Kinetics with its published defaults."""

    variant: Literal[200, 400, 600, 700] = 700
    """Number of classes of the release."""

    def options(self) -> TrainOptions:
        """The options, with those that the variant decides."""
        options, assumed = super().options(), PRESETS["kinetics700"].options
        chosen: dict[str, Any] = {}
        if options.data.num_classes == PRESETS["kinetics700"].classes:
            chosen["num_classes"] = PRESETS[f"kinetics{self.variant}"].classes
        if options.session.model_dir == assumed["model_dir"]:
            chosen["model_dir"] = PRESETS[f"kinetics{self.variant}"].options["model_dir"]
        return options_from(chosen, defaults=options)


def _dry_run(options: TrainOptions) -> int:
    """Print the schedule as a table and draw it."""
    from vidseg.engine.runs import plan_of
    from vidseg.plots import plot_schedule

    planned = plan_of(options)
    print(planned)
    shapes = [(b.shape.clips, b.shape.frames, b.shape.height, b.shape.width) for b in planned.epoch(0)]
    out = Path(options.session.out or ".") / "schedule.png"
    title = f"{options.network.network} on {Path(options.data.dataset).resolve().name}"
    print(plot_schedule(shapes, [batch.rate for batch in planned.batches], out, title=title))
    return 0


def prepare(words: list[str], name: str | None = None) -> tuple[str, type[Any], Any, list[str]]:
    """What a command line asks for; `vidseg train stream` and `vidseg train gtea` have options of their own.

    Args:
        words: of the command line, after the program.
        name: data set of the program; None takes it from the first word, if that is one.

    Returns:
        The data set's name, "stream" or "", its command, the command's defaults if they are others than its own, and
        the words that are left to parse.

    Raises:
        ValueError: the file given with --config is none of options.
        FileNotFoundError: it is not there.
    """
    if name is None and words[:1] == ["stream"]:
        from vidseg.cli.train_stream import Command as StreamCommand

        return "stream", StreamCommand, None, words[1:]
    if name is None and words and words[0] in _SEGMENTATION:
        from vidseg.cli.train_segmentation import segmentation_command

        return words[0], segmentation_command(words[0]), None, words[1:]
    words = [part for word in words for part in _spelled(word)]
    if words and not words[0].startswith("-"):
        if name is None and words[0] in _NAMES:
            name, words = words[0], words[1:]
        else:
            words = ["--dataset", *words]
    preset = PRESETS["kinetics700" if name == "kinetics" else name] if name is not None else None
    defaults = TrainOptions() if preset is None else preset.defaults()
    command = KineticsCommand if name == "kinetics" else Command
    for place, word in enumerate(list(words[:-1])):
        if word == "--config":
            words = [*_read_config(Path(words[place + 1]), command), *words]  # of equal options the last one counts
    values = {field.name: getattr(defaults, field.name) for field in fields(TrainOptions)}
    return name or "", command, command(**values), _separated(words)


def train_program(name: str) -> int:
    """Run a program of train/: `vidseg train NAME`, with the words of the command line."""
    from vidseg.cli.main import run_prepared

    return run_prepared(sys.argv[0], sys.argv[1:], prepare, name)


def _spelled(word: str) -> list[str]:
    """An option under its own name, its value as a word of its own."""
    if not word.startswith("--"):
        return [word]
    name, equals, value = word.removeprefix("--").partition("=")
    name = name.replace("_", "-")
    name = _SPELLINGS.get(name, name)
    if equals and (name in _LISTS or name == "config"):
        return [f"--{name}", value]
    return [f"--{name}{equals}{value}"]


def _separated(words: list[str]) -> list[str]:
    """`--lr-steps 40,70` and `--lr-steps [40, 70]` as `--lr-steps 40 70`."""
    result, within = [], False
    for word in words:
        if word.startswith("--"):
            within = word.removeprefix("--") in _LISTS
        if within and not word.startswith("--"):
            result += [part for part in re.split(r"[\s,\[\]()]+", word) if part]
        else:
            result.append(word)
    return result


def _read_config(path: Path, command: type[Command]) -> list[str]:
    """Options of a YAML or JSON file as words of a command line; sections are allowed, names may have hyphens."""
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, given with --config")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no options; lines such as `batch-size: 48` are wanted")
    flat: dict[str, Any] = {}
    for key, value in content.get("options", content).items():
        flat |= value if isinstance(value, dict) else {str(key): value}
    known = {name.replace("_", "-") for name in (*flat_options(TrainOptions()), *(f.name for f in fields(command)))}
    words = []
    for key, value in flat.items():
        name = _spelled(f"--{key}")[0]
        if name.removeprefix("--") not in known:
            close = difflib.get_close_matches(name.removeprefix("--"), known, n=1)
            raise ValueError(f"{path}: there is no option {key!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        if isinstance(value, bool):
            words.append(name if value else name.replace("--", "--no-", 1))
        else:
            words += [name, *map(str, value if isinstance(value, list) else [value])]
    return words
