"""Costs of a network before it is trained: multiply-adds, parameters, and latency measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vidseg.engine.option_words import named_values
from vidseg.search.scores import COSTS

__all__ = ["CostMeter", "over_budget"]

_CLASSES = 10
_LATENCY_CALLS = 7


@dataclass(frozen=True)
class CostMeter:
    """Measures candidates of one data set.

    Args:
        data: folder of the data set, for the width of its features and the number of classes.
        task: name of the task.
        names: costs to measure, of `COSTS`.
        threads: processor threads for the latency.
        length: columns or frames of the input of segmentation, detection and streaming networks; None: 1000, 128, 32.
    """

    data: Path
    task: str
    names: tuple[str, ...] = COSTS
    threads: int = 1
    length: int | None = None

    @cached_property
    def classes(self) -> int:
        """Number of classes of the data set; 10 for a data set without a catalog."""
        from vidseg.labels import open_dataset

        return open_dataset(self.data).num_classes if (self.data / "catalog.db").is_file() else _CLASSES

    def width(self, options: Mapping[str, Any]) -> int:
        """Return the width D of the features.

        Args:
            options: of the run; `features` names their folder.

        Raises:
            FileNotFoundError: there are no features.
        """
        import numpy as np

        folder = self.data / str(options.get("features") or "features")
        path = next(iter(sorted(folder.rglob("*.npy"))), None)
        if path is None:
            raise FileNotFoundError(f"{folder}: no <video>.npy; the cost of a network needs the width of its features")
        shape = np.load(path, mmap_mode="r").shape
        return int(shape[1 if options.get("layout") == "LD" else 0])

    def measure(self, options: Mapping[str, Any]) -> dict[str, float]:
        """Return the costs of the network of a run: multiply-adds, number of parameters, milliseconds.

        Args:
            options: all options of the run, by flat names.

        Raises:
            ValueError, TypeError: the network does not have the options.
        """
        if not self.names:
            return {}
        from vidseg.models import model_input_spec
        from vidseg.models._profile import count_cost, input_shape

        name = str(options["network"])
        chosen = named_values(options["network_option"])
        if self.task in ("segmentation", "detection"):
            chosen.setdefault("in_features", self.width(options))
        spec = model_input_spec(name, **{key: value for key, value in chosen.items() if key != "in_features"})
        shape = input_shape(
            name,
            frames=self.length or (options.get("frames") or spec.frames if self.task == "recognition" else None),
            size=options.get("size") or spec.size or 224,
            in_features=chosen.get("in_features", 1),
            in_channels=chosen.get("in_channels"),
        )
        counted = count_cost(name, shape, num_classes=self.classes, **chosen)
        found = {"operations": float(counted.macs), "parameters": float(counted.parameters)}
        if "latency" in self.names:
            found["latency"] = self._latency(name, shape, chosen)
        return {key: found[key] for key in self.names}

    def _latency(self, name: str, shape: tuple[int, ...], chosen: Mapping[str, Any]) -> float:
        """Shortest time of a forward pass of one sample, in milliseconds."""
        import torch

        from vidseg.engine.distributed import process_device
        from vidseg.models import create_model
        from vidseg.models._profile import network_inputs
        from vidseg.models._registry import has_classes

        device = process_device(None)
        model = create_model(name, num_classes=self.classes if has_classes(name) else None, **chosen).eval().to(device)
        x = network_inputs(name, torch.zeros(shape, device=device))
        inputs = x if isinstance(x, tuple) else (x,)
        before, times = torch.get_num_threads(), []
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                for _ in range(2 + _LATENCY_CALLS):
                    start = time.perf_counter()
                    model(*inputs)
                    if device.type == "cuda":
                        torch.cuda.synchronize(device)
                    times.append(time.perf_counter() - start)
        finally:
            torch.set_num_threads(before)
        return min(times[2:]) * 1e3  # other programs only add to it


def over_budget(costs: Mapping[str, float], budget: Mapping[str, float]) -> str:
    """Return which cost exceeds the budget and by how much, in words; "" if none does."""
    found: Collection[str] = [
        f"{name} {costs[name]:.4g} above {limit:.4g}" for name, limit in budget.items() if costs[name] > limit
    ]
    return ", ".join(found)
