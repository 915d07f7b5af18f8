"""Faults of training: values that are not finite, a validation loss that rises, a batch that does not fit into memory.

Errors name the epoch, counted from 1, and the batch, counted from 0, as the log does, and what to try.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vidseg.engine.checkpoints import find_non_finite
from vidseg.engine.sharding import local_parts
from vidseg.engine.task import Position

__all__ = [
    "check_training_loss",
    "check_validation_loss",
    "check_weights",
    "explain_memory_errors",
    "warn_of_divergence",
]

logger = logging.getLogger(__name__)

_DIVERGING = 2.0
"""A validation loss this many times the lowest one before it is reported as diverging."""


def _remedy(rate: float, *, scaled: bool) -> str:
    text = f"try a lower learning rate than {rate:g}, --warmup-epochs or --clip-norm"
    return text + (", or --opt-level bf16" if scaled else "")


def check_training_loss(sums: Tensor, loss: float, *, epoch: int, batch: int, rate: float, scaled: bool) -> None:
    """Check the scores of a training batch.

    Args:
        sums: (2, C) sums and weights of the scores.
        loss: loss of the batch.
        epoch: from 0.
        batch: from 0.
        rate: learning rate.
        scaled: whether the precision has a loss scale.

    Raises:
        RuntimeError: a value is not finite.
    """
    if not bool(sums.isfinite().all()):
        raise RuntimeError(f"epoch {epoch + 1}, batch {batch}: the loss is {loss}; {_remedy(rate, scaled=scaled)}")


def check_weights(weights: Mapping[str, Any], *, epoch: int, batch: int, rate: float, scaled: bool) -> None:
    """Check the weights after a step; divided ones are checked in each process.

    Raises:
        RuntimeError: a value is not finite.
    """
    name = find_non_finite(local_parts(weights))
    if name is not None:
        raise RuntimeError(
            f"epoch {epoch + 1}, batch {batch}: {name} is not finite after the step; "
            f"{_remedy(rate, scaled=scaled)}; checkpoints of this run are of earlier steps"
        )


def check_validation_loss(loss: float, *, epoch: int, batch: int | None, rate: float, scaled: bool) -> None:
    """Check the loss of an evaluation with finite weights.

    Args:
        loss: loss of the validation split.
        epoch: from 0.
        batch: first batch of the validation split whose loss is not finite; None: not known.
        rate: learning rate.
        scaled: whether the precision has a loss scale.

    Raises:
        RuntimeError: the loss is not finite.
    """
    if not math.isfinite(loss):
        where = "" if batch is None else f", validation batch {batch}"
        raise RuntimeError(
            f"epoch {epoch + 1}{where}: the validation loss is {loss}, and the weights are finite; "
            f"{_remedy(rate, scaled=scaled)}, and check that batch's data"
        )


def warn_of_divergence(loss: float, lowest: float, *, epoch: int) -> None:
    """Log a warning where the validation loss is far above the lowest one of the run."""
    if loss > _DIVERGING * lowest:
        logger.warning(
            "epoch %d: the validation loss is %.4g, %.1f times the lowest one (%.4g): training diverges or "
            "overfits; try a lower --lr, a longer --warmup-epochs or more data",
            epoch + 1,
            loss,
            loss / lowest,
            lowest,
        )


@contextmanager
def explain_memory_errors(position: Position, batch: Any, device: torch.device) -> Iterator[None]:
    """Name the batch that does not fit into memory, and remedies.

    Raises:
        RuntimeError: memory ran out in the block.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator has none of its own
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise RuntimeError(
            f"epoch {position.epoch + 1}, batch {position.batch}: out of memory for an input of "
            f"{tuple(batch.inputs.shape)} on {device}; try a smaller --batch-size with "
            f"--accumulate, --recompute, --opt-level bf16 or a smaller input ({str(error).splitlines()[0]})"
        ) from error
