"""Mixup of a batch (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018), and soft targets.

Partners and weights are drawn from (seed, epoch, batch), like all random numbers of a plan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips.arguments import MOST_CLIPS, whole
from vidseg.clips.draws import uniform

__all__ = ["Mixup", "draw_mixup", "mix_clips", "mix_targets", "soft_targets"]

_MOST_ALPHA = 1e6  # a Beta distribution of 0.5, in effect
_ATTEMPTS = 64  # each attempt fails with a probability below 0.05


@dataclass(frozen=True, eq=False)
class Mixup:
    """Partners and weight of the mixup of B clips.

    Attributes:
        share: weight of each clip, 0 to 1; its partner has weight 1 - share.
        partners: int64 (B,), a permutation of the batch.
    """

    share: float
    partners: npt.NDArray[np.int64]


def draw_mixup(seed: int, epoch: int, batch: int, *, clips: int, alpha: float, rank: int = 0) -> Mixup:
    """Draw the mixup of one batch.

    Args:
        seed: random seed of the run.
        epoch: epoch number from 0.
        batch: batch number in the epoch, from 0.
        clips: number of clips of the batch on this rank.
        alpha: parameter of the Beta(alpha, alpha) distribution of the weight; 0: no mixup.
        rank: number of this process; ranks mix clips within their own part of the batch, with the same weight.

    Raises:
        ValueError: `alpha` is negative.
    """
    whole(clips, "clips", least=1, most=MOST_CLIPS)
    if not isinstance(alpha, int | float) or not 0.0 <= alpha <= _MOST_ALPHA:
        raise ValueError(f"alpha is {alpha}, must be at least 0 and at most {_MOST_ALPHA:g}")
    if alpha == 0.0:
        return Mixup(1.0, np.arange(clips))
    first, second = (_log_gamma_variate(seed, epoch, batch, alpha, which) for which in ("first", "second"))
    keys = uniform(seed, epoch, [batch], purpose=f"mixup partners {rank}", count=clips)[0]
    return Mixup(float(1.0 / (1.0 + np.exp(min(700.0, second - first)))), np.argsort(keys, kind="stable"))


def _log_gamma_variate(seed: int, epoch: int, batch: int, alpha: float, which: str) -> float:
    """Return the logarithm of a Gamma(alpha) variate (Marsaglia and Tsang, "A simple method for generating gamma
    variables")."""
    numbers = uniform(seed, epoch, [batch], purpose=f"mixup share {which}", count=1 + 3 * _ATTEMPTS)[0]
    power, tries = numbers[0], numbers[1:].reshape(_ATTEMPTS, 3)
    shape = alpha + 1.0 - 1.0 / 3.0  # Gamma(alpha + 1), converted to Gamma(alpha) by a power of a uniform variate
    normal = np.sqrt(-2.0 * np.log1p(-tries[:, 0])) * np.cos(2.0 * np.pi * tries[:, 1])
    root = 1.0 + normal / np.sqrt(9.0 * shape)
    cube = np.where(root > 0.0, root, 1.0) ** 3
    accepted = (root > 0.0) & (np.log1p(-tries[:, 2]) < 0.5 * normal**2 + shape * (1.0 - cube + np.log(cube)))
    return float(np.log(shape * cube[np.argmax(accepted)]) + np.log1p(-power) / alpha)


def soft_targets(labels: Tensor, num_classes: int, *, smoothing: float = 0.0) -> Tensor:
    """Return one-hot targets with label smoothing.

    Args:
        labels: int64 (B,), 0 to K - 1.
        num_classes: number of classes K.
        smoothing: fraction distributed over all classes, including the true one; 0 to 1.

    Returns:
        float32 (B, K): smoothing / K for every class, plus 1 - smoothing for the true class.

    Raises:
        ValueError: a label or `smoothing` is out of range.
    """
    if not 0.0 <= smoothing <= 1.0:
        raise ValueError(f"smoothing is {smoothing}, must be between 0 and 1")
    if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < num_classes):
        raise ValueError(f"labels are {int(labels.min())} to {int(labels.max())}, must be 0 to {num_classes - 1}")
    targets = torch.nn.functional.one_hot(labels, num_classes).float()
    return targets * (1.0 - smoothing) + smoothing / num_classes


def mix_clips(frames: Tensor, mixup: Mixup) -> Tensor:
    """Mix each clip with its partner: share * clip + (1 - share) * partner.

    Args:
        frames: floating point (B, ...).
        mixup: mixup of B clips.

    Raises:
        TypeError: the frames have an integer type.
        ValueError: the batch size differs.
    """
    if not frames.is_floating_point():
        raise TypeError(f"mixup requires floating-point frames, not {frames.dtype}; set dtype= of the loader")
    if len(frames) != len(mixup.partners):
        raise ValueError(f"batch size is {len(frames)}, but the mixup is for {len(mixup.partners)}")
    partners = torch.from_numpy(mixup.partners).to(frames.device)
    return torch.lerp(frames[partners], frames, mixup.share)


def mix_targets(labels: Tensor, mixup: Mixup, num_classes: int, *, smoothing: float = 0.0) -> Tensor:
    """Return the soft targets of a mixed batch, float32 (B, K); labels are smoothed before mixing.

    Args:
        labels: int64 (B,), 0 to K - 1.
        mixup: mixup of B clips.
        num_classes: number of classes K.
        smoothing: as for `soft_targets`.
    """
    return mix_clips(soft_targets(labels, num_classes, smoothing=smoothing), mixup)
