"""Stands for apex.optimizers: torch's arithmetic behind apex's signatures."""

import torch

made = []


class FusedSGD(torch.optim.SGD):
    def __init__(self, params, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov=nesterov)
        made.append(self)


class FusedAdam(torch.optim.Adam):
    def __init__(self, params, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, adam_w_mode=True):
        super().__init__(params, lr, betas, eps, decoupled_weight_decay=adam_w_mode)
        made.append(self)
