"""Mixed precision: the opt levels of NVIDIA apex, on torch.amp.

| level | weights | arithmetic | norms, softmax, loss | loss scale |
| --- | --- | --- | --- | --- |
| O0 | float32 | float32 | float32 | none |
| O1 | float32 | float16 where it is safe (autocast) | float32 | dynamic |
| O2 | float16, and float32 master copies for the optimizer | float16 | batch norm float32 | dynamic |
| O3 | float16 | float16 | float16, the loss float32 | none |
| bf16 | float32 | bfloat16 where it is safe (autocast) | float32 | none |

A dynamic loss scale doubles after 2000 steps without an overflow of the gradients. An overflow halves it and skips the
step (Micikevicius et al., "Mixed precision training", ICLR 2018).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidseg.engine.apex import apex_amp
from vidseg.engine.options import OptLevel
from vidseg.engine.sharding import as_stored, stored_optimizer, whole_tensor, whole_values

__all__ = ["ApexPrecision", "Precision", "make_precision"]

_SMALLEST_SCALE = 2.0**-14
"""Loss scale below which an overflow is an error."""


class Precision:
    """One opt level: casts the model, runs the forward pass, scales the loss, and steps the optimizer.

    Args:
        level: O0, O1, O2, O3 or bf16.
        device: device of the model.

    Raises:
        ValueError: an unknown level.
    """

    def __init__(self, level: OptLevel, device: torch.device):
        if level not in get_args(OptLevel):
            raise ValueError(f"opt_level={level!r} is not one of {', '.join(get_args(OptLevel))}")
        self.level, self.device = level, device
        self._scaler = torch.amp.GradScaler(device.type, enabled=level in ("O1", "O2"))
        self._masters: dict[Tensor, Tensor] = {}
        self._low = torch.bfloat16 if level == "bf16" else torch.float16

    def prepare(self, model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Cast the model in place; returns the parameter groups for the optimizer (O2: master copies).

        A model with float16 weights casts its inputs.
        """
        if self.level in ("O1", "bf16") and self.device.type == "cpu":
            _avoid_broken_kernels(model, self._low)
        if self.level not in ("O2", "O3"):
            return groups
        if self.level == "O2":
            # Before the cast: a float16 value turned back is not the weight that was loaded.
            self._masters = {
                parameter: parameter.detach().clone().float().requires_grad_()
                for group in groups
                for parameter in group["params"]
            }
        norms = {
            tensor
            for module in model.modules()
            if self.level == "O2" and isinstance(module, _BatchNorm)
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        }
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor not in norms:
                tensor.data = tensor.data.half()
        model.register_forward_pre_hook(_half_inputs)
        if self.level == "O3":
            return groups
        return [{**group, "params": [self._masters[parameter] for parameter in group["params"]]} for group in groups]

    def forward(self) -> AbstractContextManager[Any]:
        """Return the context for the forward pass."""
        if self.level in ("O1", "bf16"):
            return torch.autocast(self.device.type, dtype=self._low)
        return nullcontext()

    def start_batch(self, *, final: bool) -> None:
        """Take note of whether the next batch is the last one before a step."""

    def backward(self, loss: Tensor) -> None:
        """Add the (scaled) gradient of the loss."""
        self._scaler.scale(loss).backward()

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, clip_norm: float | None) -> Tensor | None:
        """Step with the accumulated gradients, and clear them.

        Args:
            model: the trained model.
            optimizer: over the groups from `prepare`.
            clip_norm: largest norm of the gradient; None: no clipping.

        Returns:
            Norm of the gradient before clipping; None without clipping.

        Raises:
            RuntimeError: gradients overflow at every loss scale.
        """
        for parameter, master in self._masters.items():
            master.grad = None if parameter.grad is None else parameter.grad.float()
        norm = None
        if clip_norm is not None:
            self._scaler.unscale_(optimizer)
            values = [value for group in optimizer.param_groups for value in group["params"]]
            norm = whole_tensor(nn.utils.clip_grad_norm_(values, clip_norm))
        self._scaler.step(optimizer)
        self._scaler.update()
        optimizer.zero_grad()
        if self._masters:
            model.zero_grad()
            with torch.no_grad():
                for parameter, master in self._masters.items():
                    parameter.copy_(master)
        return norm

    @property
    def scaled(self) -> bool:
        """Whether there is a loss scale."""
        return self._scaler.is_enabled()

    def scale(self) -> Tensor:
        """Return the loss scale (1,) on the device without waiting for it; 1 without a loss scale."""
        scale: Tensor = self._scaler.scale(torch.ones(1, device=self.device))
        return scale

    def check_scale(self, scale: float) -> float:
        """Check the loss scale, and return it.

        Raises:
            RuntimeError: the scale is so low that the gradients themselves are not finite.
        """
        if self.scaled and scale < _SMALLEST_SCALE:
            raise RuntimeError(
                f"the gradients are not finite at a loss scale of {scale:g}; opt_level='bf16' or 'O0', a lower "
                "learning rate or clip_norm may help"
            )
        return scale

    def weights(self, model: nn.Module) -> dict[str, Any]:
        """Return the model's state in full precision, for checkpoints and other opt levels."""
        own = model.state_dict()
        named = dict(model.named_parameters())
        for name, parameter in named.items():
            if parameter in self._masters:
                own[name] = self._masters[parameter].detach()
        return {name: value.float() if value.is_floating_point() else value for name, value in own.items()}

    def load_weights(self, model: nn.Module, weights: dict[str, Any]) -> None:
        """Copy `weights` into the model and its master copies.

        Raises:
            RuntimeError: names or shapes differ.
        """
        model.load_state_dict(as_stored(weights, model.state_dict()))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter in self._masters:
                    self._masters[parameter].copy_(weights[name])

    def optimizer_state(self, optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Any]:
        """Return the state of the optimizer for a checkpoint, with whole tensors.

        Args:
            optimizer: over the groups from `prepare`.
            keep: False: take part in the exchange of slices only; the result is not complete.
        """
        state = optimizer.state_dict()
        return {**state, "state": whole_values(state["state"], keep=keep)}

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Restore the state of `optimizer_state`.

        Raises:
            ValueError: it is of another optimizer.
        """
        if "processes" in state:
            raise ValueError("its optimizer state is DeepSpeed's; continue with --engine deepspeed")
        optimizer.load_state_dict(stored_optimizer(state, optimizer))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loss scale."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the loss scale of `state_dict`; the state of another level, or of apex, is ignored."""
        if "scale" in state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)


class ApexPrecision(Precision):
    """The opt levels of `apex.amp`, for an installed apex that still has it (before May 2025)."""

    def __init__(self, level: OptLevel, device: torch.device):
        if level == "bf16":
            raise ValueError("amp='apex' knows O0, O1, O2 and O3; bf16 is torch's")
        super().__init__("O0", device)
        self._amp = apex_amp()
        self.apex_level = level
        self._optimizer: torch.optim.Optimizer | None = None

    def attach(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Let apex patch the model and the optimizer in place."""
        self._amp.initialize(model, optimizer, opt_level=self.apex_level, verbosity=0)
        self._optimizer = optimizer

    def backward(self, loss: Tensor) -> None:
        with self._amp.scale_loss(loss, self._optimizer) as scaled:
            scaled.backward()

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, clip_norm: float | None) -> Tensor | None:
        norm = None
        if clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self._amp.master_params(optimizer), clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return norm

    @property
    def scaled(self) -> bool:
        return self.apex_level in ("O1", "O2")

    def scale(self) -> Tensor:
        return torch.tensor([float(self._amp.state_dict()["loss_scaler0"]["loss_scale"])], device=self.device)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self._amp.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state and all(key.startswith("loss_scaler") for key in state):  # not torch's
            self._amp.load_state_dict(state)


def make_precision(level: OptLevel, device: torch.device, *, amp: str = "torch") -> Precision:
    """Return the opt level on torch.amp, or on apex's amp."""
    return ApexPrecision(level, device) if amp == "apex" else Precision(level, device)


def _avoid_broken_kernels(model: nn.Module, low: torch.dtype) -> None:
    """Compute recurrent layers and 3-D convolutions in float32 on the CPU, and round the results.

    With torch 2.13 oneDNN has no LSTM and GRU in float16 for most CPUs, and its bfloat16 ones are not
    deterministic. Its 3-D convolutions in bfloat16 have wrong gradients for clips of two frames and write
    out of bounds; in float16 they take twenty times as long as in float32.
    """
    for module in model.modules():
        if isinstance(module, (nn.RNNBase, nn.Conv3d)):
            contexts: list[AbstractContextManager[Any]] = []

            def enter(_: nn.Module, inputs: tuple[Any, ...], contexts: Any = contexts) -> tuple[Any, ...]:
                contexts.append(torch.autocast("cpu", enabled=False))
                contexts[-1].__enter__()
                return tuple(value.float() if isinstance(value, Tensor) else value for value in inputs)

            def leave(_: nn.Module, __: object, output: Any, contexts: Any = contexts) -> Any:
                contexts.pop().__exit__(None, None, None)
                return output.to(low) if isinstance(output, Tensor) and torch.is_autocast_enabled("cpu") else output

            module.register_forward_pre_hook(enter)
            module.register_forward_hook(leave, always_call=True, prepend=True)


def _half_inputs(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.half() if isinstance(value, Tensor) and value.is_floating_point() else value for value in inputs)
