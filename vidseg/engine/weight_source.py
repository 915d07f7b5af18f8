"""Where the weights of a trained model are and what they are for: a run, a checkpoint, a file or an exported model."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.engine.options import CheckpointOptions
from vidseg.engine.run_record import check_record, read_record
from vidseg.models import model_task, read_state
from vidseg.models._identify import identify
from vidseg.models._published import networks_of
from vidseg.models._torch_file import read_torch_file

__all__ = ["Source", "export_package", "find_weights", "test_name"]

_EXPORTED = {".onnx", ".xml", ".pt2", ".engine"}  # suffixes of exported models


@dataclass(frozen=True)
class Source:
    """Where weights come from and what they are for.

    Attributes:
        path: the file of weights.
        network: name of the network.
        network_options: options that the network was created with.
        task: name of the task.
        classes: class names by number; empty for a file that does not hold them.
        epoch: finished epochs; None: not known.
        score: best validation score of the run when the file was written; None: not known.
        run: folder of the run; None for a file.
        chosen: whether the file is the one that the run's selection of the epoch takes.
        record: of the run, empty for a file of weights alone.
        artifact: description of an exported model, see `vidseg.export.Artifact`; None for weights.
    """

    path: Path
    network: str
    network_options: dict[str, Any]
    task: str
    classes: list[str]
    epoch: int | None = None
    score: Any = None
    run: Path | None = None
    chosen: bool = True
    record: dict[str, Any] = field(default_factory=dict)
    artifact: Any = None


def export_package() -> Any:
    """Return `vidseg.export`, which this package cannot import when it is loaded: it is built on trained models."""
    return importlib.import_module("vidseg.export")


def find_weights(
    source: str | Path,
    *,
    checkpoint: str | Path | None = None,
    network: str | None = None,
    network_options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> Source:
    """Find the weights of a trained model.

    Args:
        source: folder of a run, one of its checkpoints, a file of weights, or an exported model.
        checkpoint: file of the run to take; None: its best one, else its last one.
        network: name of the network, for a file that does not hold it; None: recognized from the entries of the file,
            where they are those of one network of its published size.
        network_options: options of the network, likewise.
        classes: class names, likewise.

    Raises:
        FileNotFoundError: there is nothing at `source`, or the run has no checkpoint.
        ValueError: a file of weights without the name of its network, or a name that contradicts the record.
    """
    source = Path(source)
    if source.suffix in _EXPORTED and not source.is_dir() and checkpoint is None:
        exported: Source = export_package().find_exported(source, network=network, classes=classes)
        return exported
    run = found = None
    if source.is_dir():
        run, record = source, read_record(source)
        names = record["options"].get("run_files", "vidseg")
        folder = CheckpointFolder(source, record["network"], CheckpointOptions(run_files=names))
        select_last = record["options"].get("select") == "last"
        found = folder.best if folder.best.is_file() and not select_last else folder.newest()
        path = Path(checkpoint) if checkpoint is not None else found
        if path is None:
            raise FileNotFoundError(
                f"{source}: no checkpoint {folder.last.name} in it; the run has not finished an epoch"
            )
    else:
        path, record = Path(checkpoint) if checkpoint is not None else source, {}
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    content = _content(path)
    epoch, score = content.get("epoch"), content.get("best")
    if not record and isinstance(content.get("record"), Mapping) and "network" in content["record"]:
        record = check_record(content["record"], str(path))
    if record:
        if network not in (None, record["network"]):
            raise ValueError(f"{path}: holds weights of {record['network']}, not of {network}")
        return Source(
            path,
            record["network"],
            dict(record["network_options"]),
            record["task"],
            list(classes if classes is not None else record["classes"]),
            epoch,
            score,
            run,
            checkpoint is None or path.resolve() == (found and found.resolve()),
            dict(record),
        )
    if network is None:
        network = _recognized(path)
    if network is None:
        raise ValueError(f"{path}: does not hold the name of its network; give it with --network")
    return Source(path, network, dict(network_options or {}), model_task(network), list(classes or ()), epoch, score)


def _recognized(path: Path) -> str | None:
    """The network whose published size the entries of a file have; None for others, whose options are not known."""
    names = networks_of(path)
    if len(names) != 1:
        return None
    found = identify({key: tuple(value.shape) for key, value in read_state(path).items()})
    return None if found is not None and found.width != 1 else names[0]


def _content(path: Path) -> dict[str, Any]:
    """The entries of a checkpoint; none of a file that holds weights alone."""
    if path.suffix == ".safetensors":
        return {}
    read_state(path)  # says what is wrong with a file that is not a checkpoint
    content = read_torch_file(path)
    return content if isinstance(content, dict) and "state_dict" in content else {}


def test_name(source: Source, *parts: str) -> str:
    """Return the name of a test's files: "test", with what distinguishes it from the default test of its run.

    Args:
        source: the tested weights; those that the run did not select add their name.
        *parts: data set, split, views; empty ones are left out.
    """
    named = [part.replace("/", "-") for part in parts if part]
    return "_".join(["test", *named, *([] if source.chosen else [source.path.stem])])
