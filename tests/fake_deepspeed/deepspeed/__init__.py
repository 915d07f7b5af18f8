"""Stands for DeepSpeed in tests: what the library calls of it, doing what DeepSpeed documents for ZeRO stage 0."""

import torch
from torch import distributed, nn


def initialize(*, model, optimizer, config, dist_init_required):
    assert not dist_init_required and distributed.is_initialized()
    assert config["zero_allow_untested_optimizer"] and config["zero_optimization"]["stage"] == 0
    return Engine(model, optimizer, config), optimizer, None, None


class Engine(nn.Module):
    def __init__(self, model, optimizer, config):
        super().__init__()
        self.module, self.optimizer, self.config, self.boundary, self.norm = model, optimizer, config, True, None
        self.exchanges = 0

    def forward(self, *inputs):
        return self.module(*inputs)

    def set_gradient_accumulation_boundary(self, is_boundary):
        self.boundary = is_boundary

    def backward(self, loss, scale_wrt_gas=True):
        (loss / self.config["gradient_accumulation_steps"] if scale_wrt_gas else loss).backward()
        if self.boundary:
            self.exchanges += 1
            for value in self.module.parameters():
                distributed.all_reduce(value.grad)
                value.grad /= distributed.get_world_size()

    def step(self):
        if self.boundary:
            assert self.exchanges == 1, "gradients are exchanged once in a step"
            self.exchanges = 0
            if self.config["gradient_clipping"]:
                self.norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config["gradient_clipping"])
            self.optimizer.step()
            self.optimizer.zero_grad()

    def get_global_grad_norm(self):
        return self.norm if self.norm is None else torch.as_tensor(self.norm).item()
