"""Stands for apex.amp: O0 and O1 with apex's loss scale, without any cast; and a record of what was asked of it."""

from contextlib import contextmanager

import torch

calls = []
_scaler = {"loss_scale": 1.0, "unskipped": 0}


def initialize(models, optimizers, opt_level="O1", verbosity=1):
    calls.append(opt_level)
    _scaler.update(loss_scale=1.0 if opt_level == "O0" else 2.0**16, unskipped=0)
    return models, optimizers


def master_params(optimizer):
    for group in optimizer.param_groups:
        yield from group["params"]


@contextmanager
def scale_loss(loss, optimizers):
    """The scaled loss; behind it gradients without the scale, added to those that were there."""
    calls.append("scale_loss")
    before = [(value, value.grad) for value in master_params(optimizers)]
    for value, _ in before:
        value.grad = None
    yield loss.float() * _scaler["loss_scale"]
    overflow = False
    for value, grad in before:
        if value.grad is not None:
            value.grad /= _scaler["loss_scale"]
            overflow |= not torch.isfinite(value.grad).all()
        if grad is not None:
            value.grad = grad if value.grad is None else value.grad + grad
    if _scaler["loss_scale"] == 1.0:
        return
    if overflow:
        _scaler.update(loss_scale=_scaler["loss_scale"] / 2, unskipped=0)
        step = optimizers.step

        def skip():
            optimizers.step = step

        optimizers.step = skip
    else:
        _scaler["unskipped"] += 1


def state_dict():
    return {"loss_scaler0": dict(_scaler)}


def load_state_dict(state):
    unexpected = [key for key in state if "loss_scaler" not in key]
    if unexpected:
        raise RuntimeError(f"Error(s) in loading state_dict. Unexpected key(s) in state_dict: {unexpected}")
    calls.append("load_state_dict")
    _scaler.update(state["loss_scaler0"])
