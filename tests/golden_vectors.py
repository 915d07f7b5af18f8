"""Golden vectors: what a published network computes with weights made from each entry's name and shape.

`golden/NAME.json` lists the entries of the published state dict, the inputs and the outputs; `golden/NAME.npz` holds at
most 4096 evenly spaced values of each output.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"


def read_vector(name: str) -> tuple[dict, list[np.ndarray]]:
    """The description of a vector and the sampled values of its outputs."""
    spec = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz") as values:
        return spec, [values[f"o{index}"] for index in range(len(spec["outputs"]))]


def made_weight(key: str, shape: list[int], dtype: str = "float32") -> Tensor:
    """The value that all vectors use for the entry `key`."""
    if not dtype.startswith("float"):
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    random = np.random.RandomState(zlib.crc32(f"{key}{list(shape)}".encode()) & 0x7FFFFFFF)
    if key.endswith("running_var"):
        values = random.uniform(0.5, 1.5, size=shape)
    elif key.endswith(("running_mean", "bias")) or "bias_" in key.rpartition(".")[2]:
        values = 0.1 * random.standard_normal(size=shape)
    elif len(shape) < 2:
        values = 1 + 0.1 * random.standard_normal(size=shape)
    else:
        values = random.standard_normal(size=shape) * math.sqrt(2 / math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, np.float32))


def made_input(shape: list[int], kind: str, seed: int) -> Tensor:
    """An input tensor of kind "normal", "uniform" (both float32), "ones", or "int:N" (int64 below N)."""
    random = np.random.RandomState(seed)
    if kind == "ones":
        return torch.ones(shape)
    if kind.startswith("int:"):
        return torch.from_numpy(random.randint(0, int(kind[4:]), size=shape).astype(np.int64))
    values = {"normal": random.standard_normal, "uniform": random.uniform}[kind](size=shape)
    return torch.from_numpy(values.astype(np.float32))


def relative_error(output: Tensor, sampled: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected, at the sampled places."""
    flat = output.detach().flatten()
    places = flat[:: max(1, math.ceil(len(flat) / 4096))].numpy()
    assert places.shape == sampled.shape
    return float(np.linalg.norm(places - sampled) / np.linalg.norm(sampled))
