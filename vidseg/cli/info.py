"""`vidseg info`: describe a run, a checkpoint, a data set or a frame database."""

from __future__ import annotations

import json as json_format
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Describe what PATH holds.

    A run, or one of its checkpoints: task, network, epoch, score, classes, input. A file of weights: the networks that
    have these entries. The folder of a cross-validation: scores of its splits. A data set: videos, classes, splits. A
    database of frames or flow: rows, size, codec, method.
    """

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """Folder of a run, a cross-validation or a data set; a checkpoint (.pth, .pt, .safetensors); a frames.db or its
    folder; a flow.db, motion.db or residual.db."""
    json: bool = False
    """Print one JSON object instead of lines."""

    def run(self) -> int:
        """Describe and print."""
        path = Path(self.path)
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        facts = _facts(path)
        if self.json:
            print(json_format.dumps(facts, indent=1))
        else:
            width = max(map(len, facts))
            print("\n".join(f"{name:{width}}  {_text(value)}" for name, value in facts.items()))
        return 0


def _text(value: Any) -> str:
    """A value as a line has it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_text, value)) if isinstance(value, (list, tuple)) else str(value)


def _facts(path: Path) -> dict[str, Any]:
    if path.suffix in {".pth", ".pt", ".safetensors"}:
        return _weights(path)
    if path.suffix in {".onnx", ".xml", ".pt2", ".engine"} and not path.is_dir():
        return _exported(path)
    if (path / "options.json").is_file():
        return _run(path)
    if (path / "results.json").is_file():
        return _cross_validation(path)
    from vidseg.frames.schema import DATABASE_NAMES

    for name in DATABASE_NAMES.values():
        if (path / name).is_file():
            return _database(path / name)
    if path.is_dir():
        if not (path / "catalog.db").is_file() and (runs := sorted(path.glob("*/options.json"))):
            names = ", ".join(str(found.parent) for found in runs)
            raise FileNotFoundError(f"{path}: holds runs; describe one of them: {names}")
        return _dataset(path)
    return _database(path)


def _run(path: Path) -> dict[str, Any]:
    from vidseg.engine.run_record import read_record
    from vidseg.tasks import load_trained

    record = read_record(path)
    facts: dict[str, Any] = {"kind": "run"}
    try:
        facts |= load_trained(path).facts()
    except FileNotFoundError as error:  # interrupted in its first epoch
        facts |= {"task": record["task"], "network": record["network"], "weights": f"none: {error}"}
    facts |= {"data set": record["dataset"], "division": record["division"], "versions": _pairs(record["versions"])}
    return {name: value for name, value in facts.items() if value != ""}


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _cross_validation(path: Path) -> dict[str, Any]:
    try:
        found = json_format.loads((path / "results.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path / 'results.json'}: not a JSON file: {error}") from error
    if not isinstance(found, dict) or not {"task", "network", "dataset", "select", "splits", "mean"} <= found.keys():
        raise ValueError(f"{path / 'results.json'}: not the results of a cross-validation of `vidseg train`")
    facts: dict[str, Any] = {
        "kind": "cross-validation",
        "task": found["task"],
        "network": found["network"],
        "data set": found["dataset"],
        "selected epoch": found["select"],
    }
    for row in [*found["splits"], {"split": "mean", **found["mean"]}]:
        f1 = ", ".join(f"F1@{100 * float(overlap):g} {value:.2f}" for overlap, value in row["f1"].items())
        facts[row["split"]] = f"{f1}, edit {row['edit']:.2f}, acc {row['acc']:.2f}"
    return facts


def _database(path: Path) -> dict[str, Any]:
    import numpy as np

    from vidseg.frames import FlowDatabase, open_database
    from vidseg.frames.schema import DATABASE_NAMES

    database = open_database(path)
    height, width = database.frame_size
    published = "format" not in database.meta
    facts: dict[str, Any] = {
        "kind": f"{database.modality} database" if isinstance(database, FlowDatabase) else "frame database",
        "form": "dataset2database 1.2 (`vidseg check --index` upgrades it)" if published else database.meta["format"],
        "video": database.name,
        "frames": len(database),
        "size": f"{width}x{height}",
        "stored as": "JPEGs" if database.coded is None else f"{database.coded.codec} video",
        "levels": ", ".join(f"1/{2**level}" for level in range(1, database.levels + 1)) or "none",
        "bytes": database.path.stat().st_size,
        "bytes per frame": round(database.path.stat().st_size / len(database)),
    }
    times = database.timestamps
    if times is not None:
        steps = np.diff(times)
        steady = len(steps) == 0 or float(steps.max() - steps.min()) < 2e-3
        facts["times"] = f"{times[0]:.3f} to {times[-1]:.3f} s, {'constant' if steady else 'variable'} rate"
    beside = [name for name in DATABASE_NAMES.values() if name != database.path.name]
    beside = [name for name in beside if database.path.with_name(name).is_file()]
    if beside:
        facts["beside it"] = ", ".join(beside)
    hidden = {"format", "frames", "levels", "width", "height"}
    facts |= {name.replace("_", " "): value for name, value in database.meta.items() if name not in hidden}
    return facts


def _dataset(path: Path) -> dict[str, Any]:
    from vidseg.labels import open_dataset

    data = open_dataset(path)
    return {
        "kind": "data set",
        "videos": len(data),
        "classes": len(data.classes),
        "class names": ", ".join(data.classes[:20]) + (" ..." if len(data.classes) > 20 else ""),
        "splits": ", ".join(data.splits) or "none",
        "frames": int(data.frames.sum()),
        "frames per video": f"{data.frames.min()} to {data.frames.max()}",
    }


def _exported(path: Path) -> dict[str, Any]:
    """An exported model, by its description; the model itself is not loaded."""
    from vidseg.export import read_artifact

    artifact = read_artifact(path)
    replay = artifact.replay
    return {
        "kind": "exported model",
        "format": artifact.format,
        "precision": artifact.precision,
        "task": artifact.task,
        "network": artifact.network,
        "parameters": artifact.parameters,
        "classes": len(artifact.classes),
        "class names": ", ".join(artifact.classes[:20]) + (" ..." if len(artifact.classes) > 20 else ""),
        "inputs": "; ".join(map(str, artifact.inputs)),
        "outputs": ", ".join(artifact.outputs),
        "largest difference": replay.get("difference", "not replayed"),
        "agreement": replay.get("agreement", "not replayed"),
        "versions": _pairs(artifact.versions),
    }


def _weights(path: Path) -> dict[str, Any]:
    """A checkpoint of a run, or weights alone: what their entries say."""
    from vidseg.engine.weight_source import find_weights
    from vidseg.models import list_models, read_state
    from vidseg.models._identify import identify, with_names
    from vidseg.tasks import load_trained

    state = read_state(path)
    facts: dict[str, Any] = {
        "kind": "weights",
        "tensors": len(state),
        "values": sum(tensor.numel() for tensor in state.values()),
    }
    try:
        find_weights(path)
    except ValueError:  # does not hold the name of its network
        found = identify({key: tuple(value.shape) for key, value in state.items()})
        names = [] if found is None else list(found.names)
        if found is not None and len(names) == 1:
            options = {} if found.width == 1 else {"width": found.width}
            try:
                return facts | load_trained(path, network=names[0], network_options=options).facts()
            except (ValueError, TypeError) as error:
                facts["fits"] = f"{found}, but not completely: {error}"
        else:
            names = names or with_names(state)
            facts["fits"] = " or ".join(names) or f"none of the {len(list_models())} networks"
        return facts | {"first keys": ", ".join(list(state)[:4]), "last keys": ", ".join(list(state)[-2:])}
    return facts | {"kind": "checkpoint of a run"} | load_trained(path).facts()
