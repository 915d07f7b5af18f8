"""Several processes: the process group of torchrun, sums over it, batch norm over it.

Without torchrun's environment a process is its own group, and the functions here do nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from vidseg.loaders.transfer import resolve_device
from vidseg.losses.shared import shared_batch
from vidseg.models._quantized import constant_ranges

__all__ = [
    "OtherProcessError",
    "SyncBatchNorm",
    "abort_group",
    "average_gradients",
    "barrier",
    "choose_gpus",
    "gather_rows",
    "is_first",
    "join_group",
    "largest_over_group",
    "leave_group",
    "leaving_group",
    "mean_over_group",
    "process_device",
    "rank",
    "share_statistics",
    "share_weights",
    "shared_losses",
    "silent_norms",
    "sum_over_group",
    "synchronize_norms",
    "without_exchange",
    "world_size",
    "wrap_model",
]


def rank() -> int:
    """Return the number of this process in its group."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes in the group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process writes files and logs."""
    return rank() == 0


def choose_gpus(gpus: str | None, *, present: int) -> list[int]:
    """Return the numbers of the GPUs that `--gpus` names.

    Args:
        gpus: a count such as "4", or numbers such as "0,2" (one: "2,"); "0" is none, None is all.
        present: number of GPUs of the machine.

    Raises:
        ValueError: another text, or a GPU that does not exist.
    """
    if gpus is None:
        return list(range(present))
    text = gpus.strip()
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts):
        raise ValueError(f"gpus={gpus!r}: a number of GPUs such as 4, or their numbers such as 0,1,2,3 (one: 2,)")
    chosen = [int(part) for part in parts] if "," in text else list(range(int(text)))
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"gpus={gpus!r}: a GPU is named twice")
    absent = [number for number in chosen if number >= present]
    if absent:
        here = f"{present} GPU{'' if present == 1 else 's'}"
        raise ValueError(f"gpus={gpus!r}: this machine has {here}; leave --gpus out to take what is there")
    return chosen


@contextmanager
def _prints_on_stderr() -> Iterator[None]:
    """Redirect what native code prints on stdout to stderr: Gloo of torch 2.10 prints its connections, and stdout is
    for results."""
    if sys.stdout is None or sys.stderr is None:  # the process was started without them
        yield
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def join_group() -> torch.device:
    """Join the group of torchrun's environment, if there is one; returns this process's device."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return torch.device(accelerator.type, 0) if accelerator is not None else torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if accelerator is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        device, backend = torch.device("cpu"), "gloo"
    else:
        device, backend = torch.device(accelerator.type, local), distributed.get_default_backend_for_device(accelerator)
        torch.accelerator.set_device_index(local)
    if not distributed.is_initialized():
        with _prints_on_stderr():
            distributed.init_process_group(backend, device_id=None if device.type == "cpu" else device)
    return device


def process_device(wanted: torch.device | str | None = None) -> torch.device:
    """Join the group, if there is one; returns the wanted device, or this process's own, as the current device."""
    own = join_group()
    device = own if wanted is None else resolve_device(wanted)
    if device.type != "cpu" and device.index is not None:
        torch.accelerator.set_device_index(device.index)
    return device


def leave_group() -> None:
    """Leave the process group."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def abort_group() -> None:
    """Give up the process group without waiting for the other processes, which may never answer.

    With NCCL, `ProcessGroup.abort` ends the collectives that are queued on the device (ncclCommAbort);
    `destroy_process_group` would wait for them. With Gloo both calls wait for collectives that have started. The group
    then stays as it is: the end of the process closes its connections, and the other processes get an error.
    """
    if distributed.is_initialized() and distributed.get_backend() == "nccl" and distributed.group.WORLD is not None:
        distributed.group.WORLD.abort()


class OtherProcessError(RuntimeError):
    """Another process of the group failed before this one; the message has its error."""


@contextmanager
def leaving_group() -> Iterator[None]:
    """Leave the process group after the block; after an error, without waiting for the other processes.

    The first process that fails records its error in the store of the group. The errors that follow in the other
    processes, such as a closed connection, are replaced.

    Raises:
        OtherProcessError: another process failed first.
    """
    try:
        yield
    except BaseException as error:
        first = None
        if isinstance(error, Exception) and world_size() > 1:
            first = _first_failure(f"process {rank()} failed: {str(error) or type(error).__name__}")
        abort_group()
        if first is not None:
            raise OtherProcessError(f"process {rank()} ends because {first}") from error
        raise
    leave_group()


def _first_failure(text: str) -> str | None:
    """Record the failure of this process if it is the group's first; else return the first one."""
    store = distributed.PrefixStore("vidseg", distributed.distributed_c10d._get_default_store())
    try:
        first = store.compare_set("failure", "", text).decode(errors="replace")
    except RuntimeError:  # without torchrun the first process holds the store, and it has ended
        return "process 0 has ended"
    return None if first == text else first


def barrier() -> None:
    """Wait for all processes of the group."""
    if world_size() > 1:
        distributed.barrier()


def sum_over_group(values: Tensor, group: Any = None) -> Tensor:
    """Sum a tensor over the processes of a group, all of them for None, in place; returns it."""
    if world_size() > 1:
        distributed.all_reduce(values, group=group)
    return values


def mean_over_group(values: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all processes."""
    if world_size() > 1:
        for value in values:
            distributed.all_reduce(value)
            value /= world_size()


def largest_over_group(values: Tensor) -> Tensor:
    """Return the elementwise maximum over all processes."""
    if world_size() > 1:
        distributed.all_reduce(values, op=distributed.ReduceOp.MAX)
    return values


def share_weights(model: nn.Module) -> None:
    """Give all processes the first one's weights and buffers."""
    if world_size() > 1:
        for value in model.state_dict().values():
            distributed.broadcast(value, src=0)


def share_statistics(model: nn.Module) -> None:
    """Replace the floating-point buffers, such as statistics of batch norm, by their means over all processes."""
    saved = model.state_dict()  # without tables that a network computes itself
    mean_over_group([value for name, value in model.named_buffers() if name in saved and value.is_floating_point()])


def average_gradients(model: nn.Module) -> None:
    """Replace gradients by their means over all processes; a parameter without one in every process keeps none."""
    if world_size() == 1:
        return
    parameters = [value for value in model.parameters() if value.requires_grad]
    present = torch.tensor([float(value.grad is not None) for value in parameters], device=parameters[0].device)
    gradients = []
    for value, count in zip(parameters, sum_over_group(present).tolist(), strict=True):
        if count:
            value.grad = torch.zeros_like(value) if value.grad is None else value.grad
            gradients.append(value.grad)
    mean_over_group(gradients)


def shared_losses() -> AbstractContextManager[None]:
    """Return a context in which losses divide by the counts of frames of all processes, see `vidseg.losses.shared`."""
    if world_size() == 1:
        return nullcontext()
    return shared_batch(lambda value: sum_over_group(value.clone()) / world_size())


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows (N, ...) of all processes in the order of their ranks; N is the same in each."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def wrap_model(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a model whose gradients are averaged over the group; the model itself for one process."""
    if world_size() == 1:
        return model
    return DistributedDataParallel(model, device_ids=None if device.type == "cpu" else [device.index])


def without_exchange(model: nn.Module) -> AbstractContextManager[Any]:
    """Return a context without exchange of gradients, for all but the last batch of a step."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


class _SumOverGroup(torch.autograd.Function):
    """Sum over a group, in both directions."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return sum_over_group(values.clone(), group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return sum_over_group(gradients[0].clone(), ctx.group), None


class SyncBatchNorm(_BatchNorm):
    """Batch norm with the statistics of the whole group's batch, on any device.

    torch's class refuses the CPU. Sums and counts are exchanged, so processes may have batches of different sizes. The
    state dict has the entries of the layer that it replaces.

    Attributes:
        silent: this process takes part in the exchange with a weight of 0.
        group: processes that share statistics; None: all.
    """

    silent = False
    group: Any = None

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm of a tensor of shape {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        values = input if input.dtype == torch.float64 else input.float()
        axes = [0, *range(2, values.dim())]
        # Counts stay on the device: to read a number on the host, or to send one, would wait in every layer.
        count = values.new_full((1,), values.numel() / values.shape[1])
        heard = 0.0 if self.silent else 1.0
        sums = _SumOverGroup.apply(torch.cat([values.sum(axes), count]) * heard, self.group)
        mean = sums[:-1] / sums[-1]
        shape = (1, -1, *[1] * (values.dim() - 2))
        centered = values - mean.view(shape)
        # A second exchange, of squares about the mean: one of raw squares would cancel where the mean is large.
        variance = _SumOverGroup.apply((centered * centered).sum(axes) * heard, self.group) / sums[-1]
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            if self.num_batches_tracked is not None:  # it is None, and the momentum 0, while a block is recomputed
                self.num_batches_tracked.add_(1)
            with torch.no_grad():
                unbiased = variance * (sums[-1] / (sums[-1] - 1).clamp(min=1))
                for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
                    step: Any = self.momentum
                    if step is None:  # a cumulative average
                        assert self.num_batches_tracked is not None
                        step = self.num_batches_tracked.double().reciprocal().to(running.dtype)
                    running.lerp_(value.to(running.dtype), step)
        out = centered * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.to(out.dtype).view(shape) + self.bias.to(out.dtype).view(shape)
        return out.to(input.dtype)


@contextmanager
def silent_norms(model: nn.Module) -> Iterator[None]:
    """Keep the statistics of batch norms and the ranges of quantized layers unchanged meanwhile; norms over the group
    still take part in its exchanges."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    over_group = [norm for norm in norms if isinstance(norm, SyncBatchNorm)]
    own = [norm for norm in norms if not isinstance(norm, SyncBatchNorm)]
    for norm in own:
        norm.eval()
    for shared in over_group:
        shared.silent = True
    try:
        with constant_ranges(model):
            yield
    finally:
        for norm in own:
            norm.train()
        for shared in over_group:
            shared.silent = False


def norm_group(size: int | None) -> Any:
    """Return this process's group of `size` consecutive processes; None for all processes.

    With fewer processes than `size` they are one group.

    Raises:
        ValueError: the number of processes is not a multiple of `size`.
    """
    count = world_size()
    if size is None or size >= count:
        return None
    if count % size:
        raise ValueError(f"bn_group_size={size}: the number of processes, {count}, must be a multiple of it")
    # Every process makes every group, as torch asks for.
    groups = [distributed.new_group(list(range(first, first + size))) for first in range(0, count, size)]
    return groups[rank() // size]


def synchronize_norms(model: nn.Module, *, group_size: int | None = None) -> int:
    """Replace every batch norm of the model by one over several processes, in place; returns their number.

    Args:
        model: changed in place.
        group_size: number of consecutive processes that share statistics, running ones included; None: all.

    Raises:
        ValueError: the number of processes is not a multiple of `group_size`.
    """
    replaced = 0
    group = norm_group(group_size)
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, _BatchNorm) and not isinstance(layer, SyncBatchNorm):
                other = SyncBatchNorm(
                    layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
                )
                if layer.affine:
                    other.weight, other.bias = layer.weight, layer.bias
                for buffer, value in layer.named_buffers(recurse=False):
                    setattr(other, buffer, value)
                other.train(layer.training)
                other.group = group
                setattr(parent, name, other)
                replaced += 1
    return replaced
