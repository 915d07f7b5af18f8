"""Options of a run that exclude each other; they are refused before anything is computed."""

from __future__ import annotations

from collections.abc import Collection

from vidseg.engine.options import DeviceOptions, EvaluationOptions, OptimizerOptions, OptLevel
from vidseg.engine.quantized_training import check_quantized
from vidseg.engine.sharding import check_sharding
from vidseg.engine.task import Task
from vidseg.models._quantized import QuantizedLayer

__all__ = ["check_options"]


def check_options(
    task: Task,
    level: OptLevel,
    devices: DeviceOptions,
    evaluation: EvaluationOptions,
    options: OptimizerOptions,
    *,
    optimizer: object = None,
    quantized: Collection[QuantizedLayer] = (),
    freeze_backbone: bool = False,
    adapter_rank: int = 0,
    keep_zeros: bool = False,
) -> None:
    """Refuse options that contradict each other or the task.

    Args:
        task: task of the run.
        level: opt level of the run.
        devices: options of the device.
        evaluation: options of the evaluation.
        options: options of the optimizer.
        optimizer: optimizer that a program gives, or the function that makes it; None: that of the options.
        quantized: layers of the network that round their values.
        freeze_backbone: see `NetworkOptions.freeze_backbone`.
        adapter_rank: see `NetworkOptions.adapter_rank`.
        keep_zeros: see `NetworkOptions.keep_zeros`.

    Raises:
        ValueError: names the options and what to do.
    """
    if level not in task.opt_levels:
        raise ValueError(f"opt_level={level!r}: this task supports {', '.join(task.opt_levels)}")
    if freeze_backbone and adapter_rank:
        raise ValueError(
            f"freeze_backbone and adapter_rank={adapter_rank} exclude each other: adapters train the backbone"
        )
    if evaluation.precise_bn and evaluation.test_every_steps:
        raise ValueError(
            "precise_bn reads the training batches again, which test_every_steps interrupts: give one of them"
        )
    if freeze_backbone and evaluation.precise_bn:
        raise ValueError("precise_bn changes the statistics of norms, which a frozen backbone keeps: give one of them")
    if keep_zeros and (devices.shard or devices.engine == "deepspeed"):
        raise ValueError("keep_zeros does not work with sharded weights or DeepSpeed: leave them out")
    if devices.engine == "deepspeed" and not task.one_backward:
        raise ValueError("engine='deepspeed': this task has several backward passes in a batch; use engine='torch'")
    if devices.shard:
        check_sharding(
            devices,
            level,
            implementation=options.implementation,
            one_backward=task.one_backward,
            optimizer=optimizer,
        )
    check_quantized(
        quantized,
        options.freeze_ranges,
        level,
        devices,
        adapter_rank=adapter_rank,
        freeze_backbone=freeze_backbone,
    )
