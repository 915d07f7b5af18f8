"""Hostile weights and checkpoints: files of torch.save and safetensors, and the records of runs."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from hostile import damage_bytes, damage_json, hostile_value
from inputs import Call, Target
from safetensors.torch import save

import vidseg
from vidseg.engine.checkpoints import find_non_finite, read_checkpoint
from vidseg.engine.weight_source import find_weights
from vidseg.models import create_model, load_weights, read_state

ERRORS = (ValueError, OSError)
NETWORK = {"in_features": 4, "stages": 1, "layers": 1, "maps": 2}
CLASSES = ["run", "jump", "nothing"]


@lru_cache(1)
def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("mstcn", num_classes=len(CLASSES), **NETWORK)


def checkpoint() -> dict[str, Any]:
    """What a run writes, with plain data for everything but the weights."""
    weights = {key: value.clone() for key, value in _network().state_dict().items()}
    spec = vidseg.models.model_input_spec("mstcn", **NETWORK).as_dict()
    record = {
        "task": "segmentation",
        "network": "mstcn",
        "network_options": dict(NETWORK),
        "input": spec,
        "classes": list(CLASSES),
        "division": "split1",
        "validation_videos": ["a", "b"],
        "data": {"root": "data", "videos": 3},
        "options": {"epochs": 3, "lr": 0.001, "seed": 0},
    }
    return {
        "epoch": 2,
        "batch": 0,
        "state_dict": weights,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scaler": {},
        "loader": {"epoch": 2, "next": 0},
        "sums": {"loss": 1.5},
        "best": 0.5,
        "random": {"seed": 0},
        "schedule": {"lr": 0.1, "steps": [1, 2]},
        "record": record,
    }


def _tensor(draw: random.Random) -> torch.Tensor:
    """A tensor of another type or shape, without values, sparse, quantized, or one that takes more than it stores."""
    values = torch.randn(2, 3)
    return draw.choice(
        (
            values.half(),
            values.long(),
            values.bool(),
            values.to(torch.complex64),
            torch.full((2, 3), float("nan")),
            torch.zeros(0),
            torch.tensor(1.0),
            values.to_sparse(),
            torch.quantize_per_tensor(values, 0.1, 0, torch.qint8),
            torch.zeros(1).expand(2**15, 2**15),
            torch.zeros(1).expand(2**30),
            torch.empty(2**20, 2**20, device="meta"),
            values.t(),
            values.to(torch.float8_e5m2),
            torch.nn.Parameter(values),
        )
    )


def _change(draw: random.Random, node: Any) -> Any:
    """Return plain data with another value, tensor, key or container somewhere."""
    if isinstance(node, (dict, list)) and node and draw.random() < 0.9:
        key = draw.choice(list(node) if isinstance(node, dict) else list(range(len(node))))
        match draw.randrange(9):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[draw.choice((hostile_value(draw), f"module.{key}", "state_dict", 3, (1, 2)))] = node.pop(key)
            case 2 if isinstance(node, list):
                node.append(node[key])
            case _:
                node[key] = _change(draw, node[key])
        return node
    if isinstance(node, torch.Tensor) or draw.random() < 0.2:
        return draw.choice((_tensor(draw), _tensor(draw), hostile_value(draw), [], {}))
    return draw.choice(([], {}, [node], {"a": node}, (), set(), hostile_value(draw), hostile_value(draw)))


def _torch_bytes(draw: random.Random) -> bytes:
    content: Any = checkpoint()
    if draw.random() < 0.3:
        content = draw.choice((content["state_dict"], {"model": content["state_dict"]}))
    for _ in range(draw.randint(0, 2)):
        content = _change(draw, content)
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer, _use_new_zipfile_serialization=draw.random() < 0.8)
    except (
        RuntimeError,
        NotImplementedError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
    ):  # torch does not store every tensor, such as expanded quantized ones
        buffer = io.BytesIO()
        torch.save(checkpoint(), buffer)
    data = buffer.getvalue()
    match draw.randrange(6):
        case 0:
            return damage_bytes(draw, data)
        case 1:
            return data[: draw.randrange(len(data))]
    return data


def _safetensors_bytes(draw: random.Random) -> bytes:
    data = save({key: value.contiguous() for key, value in _network().state_dict().items()}, {"format": "pt"})
    (length,) = struct.unpack("<Q", data[:8])
    header, values = data[8 : 8 + length], data[8 + length :]
    match draw.randrange(5):
        case 0:
            return damage_bytes(draw, data)
        case 1:
            return struct.pack("<Q", draw.choice((0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1))) + data[8:]
    header = damage_json(draw, json.loads(header))
    return struct.pack("<Q", len(header)) + header + values[: draw.choice((len(values), len(values), 8, 0))]


def make(draw: random.Random, folder: Path) -> tuple[str, bytes]:
    torch.manual_seed(draw.randrange(2**31))
    kind = draw.randrange(5)
    if kind == 0:
        return "weights.safetensors", _safetensors_bytes(draw)
    if kind == 1:
        return "options.json", damage_json(draw, checkpoint()["record"])
    return "weights.pth", _torch_bytes(draw)


def load_strictly(path: Path) -> None:
    model = create_model("mstcn", num_classes=len(CLASSES), **NETWORK)
    load_weights(model, path)
    find_non_finite(model.state_dict())


def load_what_fits(path: Path) -> None:
    model = create_model("mstcn", num_classes=len(CLASSES), **NETWORK)
    assert 0 < load_weights(model, path, strict=False).filled <= 1


def load_run(path: Path) -> None:
    """Load a run whose options.json is hostile, or whose checkpoint is."""
    run = path.parent / "run"
    run.mkdir(exist_ok=True)
    record = checkpoint()["record"]
    (run / "options.json").write_text(json.dumps(record))
    if path.name == "options.json":
        (run / "options.json").write_bytes(path.read_bytes())
        torch.save(checkpoint(), run / "mstcn_last.pth")
    else:
        (run / "mstcn_last.pth").write_bytes(path.read_bytes())
    vidseg.load_trained(run, device="cpu").facts()


def load_file(path: Path) -> None:
    vidseg.load_trained(path, device="cpu").facts()


def load_with_names(path: Path) -> None:
    options = {"network": "mstcn", "network_options": NETWORK, "classes": CLASSES}
    vidseg.load_trained(path, device="cpu", **options)


def calls(path: Path) -> Iterator[Call]:
    if path.suffix != ".json":
        yield Call("read_state", lambda: read_state(path), ERRORS, str(path))
        for read in (load_strictly, load_what_fits, load_file, load_with_names, find_weights):
            yield Call(read.__name__, lambda read=read: read(path), ERRORS, str(path))
    if path.suffix == ".pth":
        yield Call("read_checkpoint", lambda: read_checkpoint(path), ERRORS, str(path))
    if path.suffix != ".safetensors":
        yield Call("load_run", lambda: load_run(path), ERRORS, str(path.parent / "run"))


TARGET = Target(make, calls)
