"""DeepSpeed, where it is installed and asked for: its exchange of gradients and ZeRO stages 0 to 2.

Its JSON file says how gradients are exchanged and optimizer states are divided. What the options of a run say stays
theirs: optimizer, learning rates, batch size, accumulation, clipping and precision.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidseg.engine import distributed
from vidseg.engine.options import OptLevel
from vidseg.engine.precision import Precision
from vidseg.engine.sharding import whole_values
from vidseg.labels.json_files import read_json

__all__ = ["DeepSpeedPrecision", "deepspeed_package", "read_settings"]

_LEVELS = ("O0", "bf16")
_OWN = {
    "train_batch_size": "--batch-size",
    "train_micro_batch_size_per_gpu": "--batch-size",
    "optimizer": "--optimizer",
    "scheduler": "--schedule",
    "fp16": "--opt-level bf16",
    "bf16": "--opt-level bf16",
    "torch_autocast": "--opt-level bf16",
    "amp": "--opt-level bf16",
}
"""Entries of the JSON file for which a run has options."""


def deepspeed_package() -> Any:
    """Return the module `deepspeed`.

    Raises:
        ImportError: it is not installed, or does not go with this PyTorch.
    """
    try:
        package = importlib.import_module("deepspeed")
        assert callable(package.initialize)
    except (ImportError, AttributeError, RuntimeError, OSError) as error:  # what a half-built one raises
        raise ImportError(
            f"engine='deepspeed' needs the package deepspeed ({error}): pip install deepspeed, or use shard, which "
            "needs none"
        ) from error
    return package


def read_settings(path: str | Path, *, accumulate: int, world_size: int, clip_norm: float | None) -> dict[str, Any]:
    """Return the content of DeepSpeed's JSON file, completed with the options of the run.

    Args:
        path: JSON file.
        accumulate: batches in a step.
        world_size: number of processes.
        clip_norm: largest norm of the gradient; None: no clipping.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it contradicts the options of the run, or asks for what is not supported.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"deepspeed_config={str(path)!r}: no such file")
    settings = read_json(Path(path))
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: it holds {type(settings).__name__}, expected the settings of DeepSpeed")
    for name, option in _OWN.items():
        section = settings.get(name)
        if section and section != "auto" and not (isinstance(section, dict) and section.get("enabled") is False):
            raise ValueError(f"{path}: {name} is an option of the run; remove it and use {option}")
    zero = settings.get("zero_optimization", {})
    stage = zero.get("stage", 0) if isinstance(zero, dict) else zero
    if isinstance(stage, bool) or stage not in (0, 1, 2):
        raise ValueError(f"{path}: ZeRO stage {stage!r}, expected 0, 1 or 2; --shard divides the weights as well")
    own = {"gradient_accumulation_steps": accumulate, "gradient_clipping": clip_norm or 0.0}
    for name, value in own.items():
        if settings.get(name, "auto") not in ("auto", value):
            raise ValueError(f"{path}: {name} is {settings[name]!r}, by the options of the run it is {value}")
    # DeepSpeed asks for a batch size and only logs it; batches of a run differ in size (multigrid, the last one).
    size = {"train_micro_batch_size_per_gpu": 1, "train_batch_size": accumulate * world_size}
    return {**settings, **own, **size, "zero_allow_untested_optimizer": True}


class DeepSpeedPrecision(Precision):
    """O0 or bf16 with DeepSpeed's engine, which exchanges gradients, clips and steps.

    Raises:
        ImportError: deepspeed is not installed.
        ValueError: another opt level, or a process that torchrun has not started.
    """

    def __init__(self, level: OptLevel, device: torch.device):
        if level not in _LEVELS:
            raise ValueError(f"engine='deepspeed' with opt_level={level!r}: expected {' or '.join(_LEVELS)}")
        self._package = deepspeed_package()
        if not torch.distributed.is_initialized():
            raise ValueError("engine='deepspeed' needs a group of processes; start it with torchrun --nproc-per-node N")
        super().__init__(level, device)
        self._engine: Any = None

    def attach(self, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> nn.Module:
        """Make the engine; returns it as the model of the forward passes."""
        self._stage = settings.get("zero_optimization", {}).get("stage", 0)
        self._engine = self._package.initialize(
            model=model, optimizer=optimizer, config=settings, dist_init_required=False
        )[0]
        engine: nn.Module = self._engine
        return engine

    def start_batch(self, *, final: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(final)

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss, scale_wrt_gas=False)  # the loop has divided it

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, clip_norm: float | None) -> Tensor | None:
        self._engine.step()
        norm = None if clip_norm is None else self._engine.get_global_grad_norm()
        return None if norm is None else torch.as_tensor(norm)

    def load_weights(self, model: nn.Module, weights: dict[str, Any]) -> None:
        super().load_weights(model, weights)
        if self._stage:  # the optimizer's slices of them
            self._engine.optimizer.refresh_fp32_params()

    def optimizer_state(self, optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Any]:
        state = whole_values(optimizer.state_dict())
        if not self._stage:
            return state
        parts: list[Any] = [None] * distributed.world_size()
        torch.distributed.all_gather_object(parts, state)
        return {"stage": self._stage, "processes": parts}

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        parts, stage = state.get("processes", []), state.get("stage", 0)
        if stage != self._stage or (stage and len(parts) != distributed.world_size()):
            there = f"ZeRO stage {stage} on {len(parts)} processes" if stage else "no ZeRO stage"
            raise ValueError(
                f"its optimizer is of {there}, here it is stage {self._stage} on {distributed.world_size()}; "
                "continue with the same, or start a run from its weights with --pretrained"
            )
        optimizer.load_state_dict(parts[distributed.rank()] if stage else state)
