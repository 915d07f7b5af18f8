"""Decisions of `vidseg learn`: what is chosen, why, and the option that changes it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidseg.engine.option_words import named_values
from vidseg.labels.counting import counted
from vidseg.learn.learn_options import LearnOptions
from vidseg.models import InputSpec, model_input_spec

__all__ = [
    "Choices",
    "choose_network",
    "choose_splitting",
    "choose_training",
    "default_size",
    "option_values",
    "option_words",
]

_SMALL, _MEDIUM = 500, 5000  # training videos
_STEPS = 1500  # optimizer steps of a default run
_EPOCHS = (20, 100)
_RATE, _FINE_TUNING_RATE = 0.08, 0.01  # for 32 clips
_MANY = 1000  # videos from which a tenth is enough to validate and to test
_DIRECTIONS = re.compile(r"(?:^|[^a-z])(left|right|clockwise|anticlockwise|counterclockwise)(?![a-z])", re.IGNORECASE)
_GROUP = r"_(g\d+)(?:_|$)"


@dataclass(frozen=True)
class _Choice:
    name: str
    value: str
    reason: str
    option: str

    def __str__(self) -> str:
        reason = f"{self.reason}; " if self.reason else ""
        return f"{self.name}: {self.value} ({reason}change with {self.option})"


class Choices:
    """The decisions so far; each is passed to `say` as it is made.

    Args:
        say: prints one line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.lines: list[str] = []
        self._say = say

    def add(self, name: str, value: Any, reason: str, option: str, *, given: bool = False) -> None:
        """Record and print a decision.

        Args:
            name: of what is decided.
            value: that was chosen.
            reason: facts it follows from.
            option: the option that changes it.
            given: whether the user chose the value; the reason is then this.
        """
        line = str(_Choice(name, str(value), "as given" if given else reason, option))
        self.lines.append(line)
        self._say(line)


def choose_splitting(
    options: LearnOptions, names: Sequence[str], existing: Sequence[str], choices: Choices
) -> dict[str, Any] | None:
    """Return the arguments of `divide_videos`; None where the data set has splits of its own.

    Args:
        options: of the user.
        names: paths `<class>/<video>` of the videos.
        existing: names of the splits that labels or folders define.
        choices: that receive the decision.
    """
    parts = {name.rpartition("/")[2] for name in existing}
    if {"train"} < parts:
        choices.add("splits", ", ".join(existing), "from the labels or folders", "the labels or folders")
        return None
    fractions = options.fractions or ((0.6, 0.2, 0.2) if len(names) < _MANY else (0.8, 0.1, 0.1))
    group = options.by_group
    if group is None and all(re.search(_GROUP, name) for name in names):
        group = _GROUP
    text = " ".join(f"{part:g}" for part in fractions)
    how = "each class divided at random" if group is None else f"groups {group} stay in one split"
    choices.add(
        "splits",
        f"train, val, test {text}",
        f"{counted(len(names), 'video')}, {how}, seed {options.seed}",
        "--fractions, --by-group, --seed",
        given=bool(options.fractions),
    )
    return {"fractions": list(fractions), "group": group, "seed": options.seed}


def choose_network(options: LearnOptions, videos: int, classes: int, known: Sequence[str], choices: Choices) -> dict:
    """Return the network and its options, as options of `vidseg train`.

    Args:
        options: of the user.
        videos: number of training videos, about.
        classes: number of classes.
        known: networks that the weights of --pretrained fit; empty without it.
        choices: that receive the decision.

    Raises:
        ValueError: the network of the weights is not known.
    """
    facts = f"{counted(videos, 'training video')}, {counted(classes, 'class', 'classes')}"
    if options.network is not None:
        network, words = options.network, options.network_option
    elif options.pretrained is not None:
        if len(known) != 1:
            found = f"fits {', '.join(known)}" if known else "is of an unknown network"
            raise ValueError(f"pretrained={options.pretrained}: {found}; name the network with --network")
        (network,), words, facts = known, options.network_option, "the network of the weights"
    elif videos < _SMALL:
        network, words = "torchvision_r3d_18", ("width=0.25",)
        facts += ", from random weights"
    elif videos < _MEDIUM:
        network, words = "torchvision_r2plus1d_18", ("width=0.5",)
    else:
        network, words = "torchvision_r2plus1d_18", ()
    if options.network is None and options.network_option:
        words = options.network_option
    shown = " ".join((network, *words))
    choices.add("network", shown, facts, "--network, --network-option", given=options.network is not None)
    return {"network": network, "network_option": tuple(words)}


def choose_training(
    options: LearnOptions,
    network: Mapping[str, Any],
    *,
    videos: int,
    lengths: Sequence[int],
    classes: Sequence[str],
    spec: InputSpec | None,
    choices: Choices,
) -> dict[str, Any]:
    """Return the options of `vidseg train` for the recognition network, without data set and folder.

    Args:
        options: of the user.
        network: result of `choose_network`.
        videos: number of training videos.
        lengths: frames of each video.
        classes: class names.
        spec: input of published weights; None: from random weights.
        choices: that receive the decisions.
    """
    scratch = options.pretrained is None
    default = spec or model_input_spec(network["network"], **named_values(network["network_option"]))
    values: dict[str, Any] = dict(network)
    size = default_size(options, videos, default)
    choices.add(
        "size",
        f"{size}x{size}",
        "as the weights were trained" if not scratch else counted(videos, "training video"),
        "--size",
        given=options.size is not None,
    )
    frames = options.frames or default.frames
    values |= {"size": size, "frames": frames}
    if default.sampling == "dense":
        median = statistics.median(lengths)
        interval = options.interval or max(1, min(8, int(0.8 * median) // frames))
        text = f"{frames} frames, interval {interval}"
        reason = f"the median video has {median:g} frames"
        choices.add("clip", text, reason, "--frames, --interval", given=options.interval is not None)
        values |= {"interval": interval, "train_interval": tuple(sorted({max(1, interval - 1), interval}))}
    batch = options.batch_size or (8 if videos < _SMALL else 32)
    low, high = _EPOCHS
    epochs = options.epochs or max(low, min(high, round(_STEPS * batch / max(1, videos))))
    if not scratch and options.epochs is None:
        epochs = max(low, epochs // 4)
    rate = options.lr or (_RATE if scratch else _FINE_TUNING_RATE) * batch / 32
    choices.add(
        "training",
        f"{epochs} epochs of batches of {batch}, learning rate {rate:g}, cosine",
        "from random weights" if scratch else "fine-tuning",
        "--epochs, --batch-size, --lr",
    )
    values |= {"epochs": epochs, "batch_size": batch, "lr": rate, "schedule": "cosine"}
    directed = next((name for name in classes if _DIRECTIONS.search(name)), None)
    mirror = directed is None if options.mirror is None else options.mirror
    reason = "no class names a direction" if directed is None else f"class {directed!r} names a direction"
    choices.add("mirror", "yes" if mirror else "no", reason, "--mirror", given=options.mirror is not None)
    values |= {"mirror": mirror, "seed": options.seed}
    if scratch and videos < _SMALL:
        values |= {"geometry": "multi_scale", "val_geometry": "stretch", "mixup": 0.2}
        choices.add(
            "crop",
            "at several scales (multi_scale of TSN) in training, the whole frame in tests",
            counted(videos, "training video"),
            "--train-option geometry=random_resized_crop val_geometry=center",
        )
    if scratch and videos < _MEDIUM:
        values |= {"augment": "hacs", "label_smoothing": 0.1}
        choices.add(
            "augmentation",
            f"colors, noise and warps of HACS, label smoothing 0.1{', mixup 0.2' if videos < _SMALL else ''}",
            counted(videos, "training video"),
            "--train-option augment=... label_smoothing=... mixup=...",
        )
    if not scratch:
        values |= {"fine_tune": True}
    if options.device is not None:
        values["device"] = options.device
    for name, value in option_values(options.train_option).items():
        values[name] = value
        choices.add(name, value, "", "--train-option", given=True)
    return values


def default_size(options: LearnOptions, videos: int, spec: InputSpec) -> int:
    """Return height and width of clips.

    Args:
        options: of the user.
        videos: number of training videos, about.
        spec: input of the network or of its weights.
    """
    small = options.pretrained is None and videos < _SMALL
    return options.size or (min(64, spec.size) if small else spec.size)


def option_values(words: Sequence[str]) -> dict[str, Any]:
    """Return NAME=VALUE words as options; words of one list, such as network_option, may be given several times.

    Args:
        words: such as ("augment=hacs", "network_option=width=0.5").
    """
    values: dict[str, Any] = {}
    for word in words:
        ((name, value),) = named_values([word]).items()
        if name.endswith("_option"):
            value = (*values.get(name, ()), str(value))
        values[name] = value
    return values


def option_words(values: Mapping[str, Any]) -> list[str]:
    """Return options as the words of a `vidseg` command.

    Args:
        values: by flat names; None and empty lists are left out.
    """
    words: list[str] = []
    for name, value in values.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, (tuple, list)):
            words += [f"--{option}", *map(str, value)] if value else []
        elif value is not None:
            words += [f"--{option}", str(value)]
    return words
