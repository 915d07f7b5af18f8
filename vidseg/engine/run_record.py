"""The record of a run, `options.json`: task, network, input spec, options, classes, splits, versions.

It describes the run completely; `--resume`, `vidseg test`, `predict`, `plot` and `info` read it. A run is resumed only
with the same network, data, classes and input; other options may change, and the record keeps what they were.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

import vidseg
from vidseg.engine.options import ONE_START, TrainOptions, flat_options
from vidseg.labels.json_files import read_json
from vidseg.models import InputSpec

__all__ = ["RECORD", "TrainingData", "check_record", "continued_record", "read_record", "run_record", "shown_value"]

RECORD = "options.json"
_IDENTITY = ("task", "network", "network_options", "input", "classes", "division", "validation_videos", "data")
"""Entries of the record that stay the same as long as a run is resumed."""
_TYPES: dict[str, tuple[type, str]] = {
    "task": (str, "a text"),
    "network": (str, "a text"),
    "network_options": (dict, "a mapping"),
    "input": (dict, "a mapping"),
    "classes": (list, "a list"),
    "division": (str, "a text"),
    "validation_videos": (list, "a list"),
    "options": (dict, "a mapping"),
}
"""Types of the entries of the record, and their descriptions."""
_PLACES = ("out", "model_dir", "task_name")
"""Options that say where the folder of the run is; it may be moved."""
_LONGEST_NAME = 100  # of a task or network
_OWN_IDENTITY = ("stride",)
"""Entries of some tasks that stay the same."""


class TrainingData(Protocol):
    """What identifies the data of a run: a `VideoDataset`, or a source of picture pairs."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names; empty for data without classes."""

    def __len__(self) -> int:
        """Number of videos or pairs."""

    def video_path(self, row: int, /) -> Any:
        """Return the name of a video or pair."""


def read_record(run: str | Path) -> dict[str, Any]:
    """Return the content of a run's `options.json`.

    Raises:
        FileNotFoundError: the folder holds no run; names the runs in its folders.
        ValueError: the file is not of this version.
    """
    path = Path(run) / RECORD
    if not path.is_file():
        parts = ", ".join(sorted(str(found.parent) for found in Path(run).glob(f"*/{RECORD}")))
        hint = f"; the runs in it are {parts}" if parts else ""
        raise FileNotFoundError(f"{path}: not found, so {run} is not the folder of a run{hint}")
    return check_record(read_json(path), str(path))


def check_record(record: Any, place: str) -> dict[str, Any]:
    """Return the record of a run, after checking that it is complete and has values of the right types.

    Args:
        record: content of `options.json`, or the entry `record` of a checkpoint.
        place: file, for the message.

    Raises:
        ValueError: it is not the record of a run.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{place}: it is not the record of a run, but {type(record).__name__}")
    missing = [name for name in (*_IDENTITY, "options") if name not in record]
    if missing:
        raise ValueError(f"{place}: has no {', '.join(missing)}; it is not the record of a run")
    for name, (kind, description) in _TYPES.items():
        if not isinstance(record[name], kind):
            raise ValueError(f"{place}: {name} is {record[name]!r:.80}, expected {description}")
    for name in ("task", "network"):
        if len(record[name]) > _LONGEST_NAME or set("/\\\0") & set(record[name]):
            raise ValueError(f"{place}: {name} is {record[name]!r:.80}, which is not a name")
    for name in ("network_options", "input", "options"):
        wrong = [key for key in record[name] if not isinstance(key, str)]
        if wrong:
            raise ValueError(f"{place}: {name} has the key {wrong[0]!r:.80}, expected texts")
    wrong = [name for name in record["classes"] if not isinstance(name, str)]
    if wrong:
        raise ValueError(f"{place}: classes has {wrong[0]!r:.80}, expected names")
    return record


def run_record(
    task: str,
    options: TrainOptions,
    *,
    input_spec: InputSpec,
    dataset: str,
    train: TrainingData,
    division: str = "",
    validation_videos: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """Return the record of a run, plain data for `options.json` and the checkpoints.

    Args:
        task: name of the task.
        options: resolved options; those that concern one start are left out.
        input_spec: how the network sees pictures.
        dataset: absolute path of the data set's folder.
        train: training videos, or picture pairs.
        division: division of the data set, "" without any.
        validation_videos: names of the videos that select the epoch.
        **more: entries of the task's own.
    """
    digest = hashlib.blake2b(digest_size=8)
    for row in range(len(train)):
        digest.update(f"{train.video_path(row)}\n".encode())
    record = {
        "task": task,
        "network": options.network.network,
        "network_options": options.network.chosen_options(),
        "input": input_spec.as_dict(),
        "options": {name: value for name, value in flat_options(options).items() if name not in ONE_START},
        "classes": list(train.classes),
        "division": division,
        "validation_videos": list(validation_videos),
        "dataset": dataset,
        "data": {"videos": len(train), "fingerprint": digest.hexdigest()},
        "versions": {"vidseg": vidseg.__version__, "torch": str(torch.__version__)},
        **more,
    }
    found: dict[str, Any] = json.loads(json.dumps(record))
    return found


def continued_record(
    known: dict[str, Any], record: Mapping[str, Any], path: Path
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the record of a run that is resumed, and the options that the resumed run changes.

    Args:
        known: record in the folder.
        record: record of this start.
        path: file of `known`, for messages.

    Returns:
        The record to store, with the changes so far under "changes"; and the changes of this start: name to [old, new].

    Raises:
        ValueError: the run in the folder is another one.
    """
    for name in (*_IDENTITY, *_OWN_IDENTITY):
        old, new = known.get(name), record.get(name)
        if name == "input":  # records of earlier versions lack fields that have their defaults
            old, new = (InputSpec.from_dict(value or {}).as_dict() for value in (old, new))
        if old != new:
            raise ValueError(
                f"{path}: that run has {name}={shown_value(old)}, now it is {shown_value(new)}; resume it with "
                "what it was started with, or start another run with --out"
            )
    changed = {
        name: [known["options"].get(name), value]
        for name, value in record["options"].items()
        if known["options"].get(name) != value and name not in _PLACES
    }
    return {**record, "changes": [*known.get("changes", []), *([changed] if changed else [])]}, changed


def shown_value(value: Any) -> str:
    """Return an entry of a record as JSON, at most 200 characters of it, for messages."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."
