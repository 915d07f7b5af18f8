"""Mixed precision: the opt levels of NVIDIA apex, on torch.amp.

| level | weights | arithmetic | norms, softmax, loss | loss scale |
| --- | --- | --- | --- | --- |
| O0 | float32 | float32 | float32 | none |
| O1 | float32 | float16 where it is safe (autocast) | float32 | dynamic |
| O2 | float16, and float32 master copies for the optimizer | float16 | batch norm float32 | dynamic |
| O3 | float16 | float16 | float16, the loss float32 | none |
| bf16 | float32 | bfloat16 where it is safe (autocast) | float32 | none |

A dynamic loss scale doubles after 2000 steps without an overflow of the gradients and is halved by one, whose step is
left out (Micikevicius et al., "Mixed precision training", ICLR 2018).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidseg.engine.apex import apex_amp
from vidseg.engine.options import OptLevel

__all__ = ["ApexPrecision", "Precision", "make_precision"]

_SMALLEST_SCALE = 2.0**-14
"""Gradients that overflow even at this scale are broken, not merely large."""


class Precision:
    """One opt level: how the model is cast, the forward pass run, and a gradient turned into a step.

    Args:
        level: O0, O1, O2, O3 or bf16.
        device: where the model is.

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
        """Cast the model in place; returns the groups that the optimizer shall have (O2: master copies).

        A model of float16 weights casts what it is given.
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
        """The context in which the model runs."""
        if self.level in ("O1", "bf16"):
            return torch.autocast(self.device.type, dtype=self._low)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the (scaled) gradients of the loss."""
        self._scaler.scale(loss).backward()

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, clip_norm: float | None) -> Tensor | None:
        """One step with the gradients that have gathered, which are cleared.

        Args:
            model: what `backward` went through.
            optimizer: over the groups from `prepare`.
            clip_norm: largest norm of the gradient; None leaves it.

        Returns:
            Norm of the gradient before clipping; None where nothing asked for it.

        Raises:
            RuntimeError: gradients overflow at every loss scale.
        """
        for parameter, master in self._masters.items():
            master.grad = None if parameter.grad is None else parameter.grad.float()
        norm = None
        if clip_norm is not None:
            self._scaler.unscale_(optimizer)
            values = [value for group in optimizer.param_groups for value in group["params"]]
            norm = nn.utils.clip_grad_norm_(values, clip_norm)
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
        """The loss scale (1,), where the loss is; 1 without one. Nothing waits for the device."""
        scale: Tensor = self._scaler.scale(torch.ones(1, device=self.device))
        return scale

    def check_scale(self, scale: float) -> float:
        """The loss scale, which must be a sane one.

        Raises:
            RuntimeError: it has fallen so far that the gradients themselves are not finite.
        """
        if self.scaled and scale < _SMALLEST_SCALE:
            raise RuntimeError(
                f"the gradients are not finite at a loss scale of {scale:g}; opt_level='bf16' or 'O0', a lower "
                "learning rate or clip_norm may help"
            )
        return scale

    def weights(self, model: nn.Module) -> dict[str, Any]:
        """The model's state in full precision, for checkpoints and for other levels."""
        own = model.state_dict()
        named = dict(model.named_parameters())
        for name, parameter in named.items():
            if parameter in self._masters:
                own[name] = self._masters[parameter].detach()
        return {name: value.float() if value.is_floating_point() else value for name, value in own.items()}

    def load_weights(self, model: nn.Module, weights: dict[str, Any]) -> None:
        """Fill model and master copies from `weights`.

        Raises:
            RuntimeError: names or shapes differ.
        """
        model.load_state_dict(weights)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter in self._masters:
                    self._masters[parameter].copy_(weights[name])

    def state_dict(self) -> dict[str, Any]:
        """State of the loss scale."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the loss scale of `state_dict`; that of another level, or of apex, is left alone."""
        if "scale" in state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)


class ApexPrecision(Precision):
    """The same through `apex.amp`, where an apex that still has it (before May 2025) is installed."""

    def __init__(self, level: OptLevel, device: torch.device):
        if level == "bf16":
            raise ValueError("amp='apex' knows O0, O1, O2 and O3; bf16 is torch's")
        super().__init__("O0", device)
        self._amp = apex_amp()
        self.apex_level = level
        self._optimizer: torch.optim.Optimizer | None = None

    def attach(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Let apex patch model and optimizer, in place."""
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
    """The opt level on torch.amp, or on apex's own amp."""
    return ApexPrecision(level, device) if amp == "apex" else Precision(level, device)


def _avoid_broken_kernels(model: nn.Module, low: torch.dtype) -> None:
    """Compute in float32 what oneDNN, which autocast asks on the CPU, has not or gets wrong in low precision.

    Seen with torch 2.13. LSTM and GRU: most CPUs have none in float16, and that of bfloat16 gives other gradients each
    time. 3-D convolutions: in bfloat16, with two frames, the gradient of the weights is wrong or NaN, and memory is
    written that is not its own; in float16 they take twenty times as long as in float32. Their results are rounded all
    the same.
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
