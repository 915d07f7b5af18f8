"""Mixup of a batch (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018), CutMix (Yun et al., "CutMix:
Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019), and soft targets.

Partners, weights and boxes are drawn from (seed, epoch, batch), like all random numbers of a plan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips.arguments import MOST_CLIPS, whole
from vidseg.clips.draws import uniform

__all__ = [
    "CutMix",
    "Mixup",
    "draw_cutmix",
    "draw_mixing",
    "draw_mixup",
    "mix_clips",
    "mix_targets",
    "mix_values",
    "soft_targets",
]

_MOST_ALPHA = 1e6  # a Beta distribution of 0.5, in effect
_BOTH = ("first", "second")
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


@dataclass(frozen=True, eq=False)
class CutMix(Mixup):
    """Partners and box of the CutMix of B clips: inside the box all frames of a clip show its partner.

    Attributes:
        share: share of the frame outside the box, the weight of each clip's own target.
        partners: int64 (B,), a permutation of the batch.
        box: top, left, height and width in pixels; of 0 pixels where nothing is cut.
    """

    box: tuple[int, int, int, int]


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
    share, partners = _draw(seed, epoch, batch, clips=clips, alpha=alpha, rank=rank, name="mixup")
    return Mixup(share, partners)


def draw_cutmix(
    seed: int, epoch: int, batch: int, *, clips: int, alpha: float, height: int, width: int, rank: int = 0
) -> CutMix:
    """Draw the CutMix of one batch: a box with the frame's proportions around a uniform center, cut at the borders.

    Args:
        seed: random seed of the run.
        epoch: epoch number from 0.
        batch: batch number in the epoch, from 0.
        clips: number of clips of the batch on this rank.
        alpha: parameter of the Beta(alpha, alpha) distribution of the share outside the box; 0: no CutMix.
        height: height of the frames in pixels.
        width: width of the frames in pixels.
        rank: number of this process; ranks mix clips within their own part of the batch, with the same box.

    Raises:
        ValueError: `alpha` is negative.
    """
    share, partners = _draw(seed, epoch, batch, clips=clips, alpha=alpha, rank=rank, name="cutmix")
    place = uniform(seed, epoch, [batch], purpose="cutmix box", count=2)[0]
    sides, corners = [], []
    for side, number in zip((height, width), place, strict=True):
        half, center = int(side * np.sqrt(1.0 - share)) // 2, int(number * side)
        first, last = max(0, center - half), min(side, center + half)
        corners.append(first)
        sides.append(last - first)
    outside = 1.0 - sides[0] * sides[1] / (height * width)
    return CutMix(outside, partners, (*corners, *sides))  # type: ignore[arg-type]


def draw_mixing(
    seed: int,
    epoch: int,
    batch: int,
    *,
    clips: int,
    mixup: float,
    cutmix: float,
    height: int,
    width: int,
    rank: int = 0,
) -> Mixup | None:
    """Draw how the clips of one batch are mixed: by mixup, by CutMix, or by either with equal probability.

    Args:
        seed: random seed of the run.
        epoch: epoch number from 0.
        batch: batch number in the epoch, from 0.
        clips: number of clips of the batch on this rank.
        mixup: alpha of mixup; 0: no mixup.
        cutmix: alpha of CutMix; 0: no CutMix.
        height: height of the frames in pixels.
        width: width of the frames in pixels.
        rank: number of this process.

    Returns:
        None without mixing.
    """
    if not mixup and not cutmix:
        return None
    cuts = bool(cutmix)
    if mixup and cutmix:
        cuts = bool(uniform(seed, epoch, [batch], purpose="mixup or cutmix")[0, 0] < 0.5)
    if not cuts:
        return draw_mixup(seed, epoch, batch, clips=clips, alpha=mixup, rank=rank)
    return draw_cutmix(seed, epoch, batch, clips=clips, alpha=cutmix, height=height, width=width, rank=rank)


def _draw(
    seed: int, epoch: int, batch: int, *, clips: int, alpha: float, rank: int, name: str
) -> tuple[float, npt.NDArray[np.int64]]:
    """The weight of each clip, and its partner."""
    whole(clips, "clips", least=1, most=MOST_CLIPS)
    if not isinstance(alpha, int | float) or not 0.0 <= alpha <= _MOST_ALPHA:
        raise ValueError(f"alpha is {alpha}, must be at least 0 and at most {_MOST_ALPHA:g}")
    if alpha == 0.0:
        return 1.0, np.arange(clips)
    first, second = (_log_gamma_variate(seed, epoch, batch, alpha, f"{name} share {which}") for which in _BOTH)
    keys = uniform(seed, epoch, [batch], purpose=f"{name} partners {rank}", count=clips)[0]
    return float(1.0 / (1.0 + np.exp(min(700.0, second - first)))), np.argsort(keys, kind="stable")


def _log_gamma_variate(seed: int, epoch: int, batch: int, alpha: float, purpose: str) -> float:
    """Return the logarithm of a Gamma(alpha) variate (Marsaglia and Tsang, "A simple method for generating gamma
    variables")."""
    numbers = uniform(seed, epoch, [batch], purpose=purpose, count=1 + 3 * _ATTEMPTS)[0]
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
    """Mix each clip with its partner: share * clip + (1 - share) * partner, or the partner inside the box of CutMix.

    Args:
        frames: floating point (B, ...), for CutMix (B, ..., H, W).
        mixup: mixup or CutMix of B clips.

    Raises:
        TypeError: the frames have an integer type.
        ValueError: the batch size differs.
    """
    if not frames.is_floating_point():
        raise TypeError(f"mixup requires floating-point frames, not {frames.dtype}; set dtype= of the loader")
    if len(frames) != len(mixup.partners):
        raise ValueError(f"batch size is {len(frames)}, but the mixup is for {len(mixup.partners)}")
    partners = torch.from_numpy(mixup.partners).to(frames.device)
    if not isinstance(mixup, CutMix):
        return torch.lerp(frames[partners], frames, mixup.share)
    top, left, height, width = mixup.box
    inside = (..., slice(top, top + height), slice(left, left + width))
    mixed = frames.clone()
    mixed[inside] = frames[inside][partners]
    return mixed


def mix_targets(labels: Tensor, mixup: Mixup, num_classes: int, *, smoothing: float = 0.0) -> Tensor:
    """Return the soft targets of a mixed batch, float32 (B, K); labels are smoothed before mixing.

    Args:
        labels: int64 (B,), 0 to K - 1.
        mixup: mixup of B clips.
        num_classes: number of classes K.
        smoothing: as for `soft_targets`.
    """
    return mix_values(soft_targets(labels, num_classes, smoothing=smoothing), mixup)


def mix_values(targets: Tensor, mixup: Mixup) -> Tensor:
    """Return share * target + (1 - share) * partner's target, of floating-point targets (B, ...)."""
    partners = torch.from_numpy(mixup.partners).to(targets.device)
    return torch.lerp(targets[partners], targets, mixup.share)
