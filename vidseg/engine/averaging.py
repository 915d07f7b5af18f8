"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vidseg.engine import distributed
from vidseg.engine.sharding import local_parts

__all__ = ["WeightAverage"]


class WeightAverage:
    """Keeps average = decay * average + (1 - decay) * weights; buffers are copied.

    In the first steps the decay is at most (1 + n) / (10 + n), so that random weights are forgotten sooner.

    Args:
        model: whose weights are averaged; read after each step, never changed but by `applied`.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        self._average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of a step into account."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages = local_parts(self._average)
        for name, value in local_parts(self.model.state_dict()).items():
            if value.is_floating_point():
                averages[name].lerp_(value.to(averages[name].dtype), 1 - decay)
            else:
                averages[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights meanwhile."""
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self._average)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    @torch.no_grad()
    def take_buffers(self) -> None:
        """Copy the model's buffers, such as statistics of batch norm that were computed with the averaged weights."""
        for name, value in self.model.named_buffers():
            if name in self._average:
                self._average[name].copy_(value)

    def share_statistics(self) -> None:
        """Replace the averages of floating-point buffers by their means over all processes."""
        averages = [self._average.get(name) for name, _ in self.model.named_buffers()]
        distributed.mean_over_group([value for value in averages if value is not None and value.is_floating_point()])

    def weights(self) -> dict[str, Tensor]:
        """Return the averaged weights and buffers."""
        return dict(self._average)

    def state_dict(self) -> dict[str, object]:
        """Return steps and averages."""
        return {"steps": self.steps, "average": self.weights()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a `state_dict`."""
        average = state["average"]
        assert isinstance(average, dict) and isinstance(state["steps"], int)
        self.steps = state["steps"]
        for name, value in average.items():
            self._average[name].copy_(value)
