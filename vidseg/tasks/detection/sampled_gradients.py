"""End-to-end training whose memory does not grow with the video: gradients of a sample of the snippets.

A step encodes all snippets without gradient, `chunk` at a time; trains the detector on the features, which gives the
gradient of each feature; and encodes a sample of the snippets again, this time with gradient, to pass theirs on to the
encoder. Activations of one chunk exist at a time, for any number of snippets and any share of them.

Source: ETAD, "An Efficient End-to-End Framework for Temporal Action Detection" (arXiv 2205.07134), section 3.3. Its
program steps the optimizer after the detector and again after the encoder; here one step follows both, which gives the
same weights, because each of them has parameters of its own.

Shapes: B videos, L snippets, N sampled snippets, D feature width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.models._snippets import SnippetDetector

__all__ = ["SnippetSampling", "Strategy", "backward_sampled", "sample_snippets"]

Strategy = Literal["random", "grid", "block", "boundary"]

_NEAR = 0.1
"""strategy "boundary": weight of a snippet far from every boundary, relative to one at a boundary."""


@dataclass(frozen=True)
class SnippetSampling:
    """How snippets are sampled.

    Attributes:
        ratio: share of the snippets of a video, 0 (the encoder is not trained) to 1.
        strategy: "random": without replacement. "grid": at equal distances, from a random start. "block": neighboring
            ones, from a random start; a block that reaches the end continues at the beginning. "boundary": more
            probable near the start and the end of an action.
        unbiased: divide the gradient of a snippet by the probability that it is sampled, so that its expectation is
            that of all snippets. Off, as published: gradients are smaller by the ratio, which Adam hardly notices.

    Raises:
        ValueError: a ratio outside 0 to 1, or another strategy.
    """

    ratio: float = 0.3
    strategy: Strategy = "random"
    unbiased: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio} must be from 0 to 1")
        if self.strategy not in get_args(Strategy):
            raise ValueError(f"strategy={self.strategy!r} is not one of {', '.join(get_args(Strategy))}")


def sample_snippets(
    sampling: SnippetSampling,
    count: int,
    draws: npt.NDArray[np.float64],
    *,
    boundaries: npt.NDArray[np.float64] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Sample snippets of one video.

    Args:
        sampling: share and strategy.
        count: L, snippets of the video.
        draws: (at least L,) uniform numbers in [0, 1).
        boundaries: (M,) positions of starts and ends in snippets, for the strategy "boundary".

    Returns:
        int64 (N,), N = L * ratio rounded up, in rising order, and float64 (N,), the probability of each to be sampled.
    """
    chosen = math.ceil(count * sampling.ratio - 1e-9)
    even = np.full(count, chosen / count)
    if chosen == 0:
        return np.zeros(0, np.int64), np.zeros(0)
    if sampling.strategy == "random":
        rows = np.argsort(draws[:count], kind="stable")[:chosen]
    elif sampling.strategy == "block":
        rows = (int(draws[0] * count) + np.arange(chosen)) % count
    else:
        chances = even
        if sampling.strategy == "boundary" and boundaries is not None and len(boundaries):
            chances = _chances(chosen, count, boundaries)
        rows = np.searchsorted(np.cumsum(chances), np.arange(chosen) + draws[0], side="right").clip(0, count - 1)
        even = chances
    rows = np.sort(rows).astype(np.int64)
    return rows, even[rows]


def _chances(chosen: int, count: int, boundaries: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probabilities (L,) that sum to the number of sampled snippets, in proportion to weights, none above 1."""
    apart = np.abs(np.arange(count)[:, None] + 0.5 - boundaries[None]).min(axis=1)
    weights = _NEAR + (1 - _NEAR) * np.exp(-0.5 * (apart / max(1.0, 0.02 * count)) ** 2)
    chances = np.zeros(count)
    certain = np.zeros(count, bool)
    while True:
        left = chosen - certain.sum()
        chances = np.where(certain, 1.0, left * weights / max(weights[~certain].sum(), 1e-300))
        above = (chances > 1) & ~certain
        if not above.any():
            return chances
        certain |= above


def backward_sampled(
    model: SnippetDetector,
    snippets: Tensor,
    mask: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], None],
    chosen: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]],
    *,
    unbiased: bool = False,
) -> Tensor:
    """Add the gradients of a step to detector and encoder; returns the loss.

    Args:
        model: encoder and detector.
        snippets: uint8 (B, L, 3, T, H, W), kept on the device as bytes.
        mask: bool (B, L), False where padded.
        loss_of: from features (B, D, L) to the loss of the detector, a scalar.
        backward: adds the gradient of a scalar, possibly times a loss scale that is the same for all calls.
        chosen: for each video the result of `sample_snippets`.
        unbiased: divide by the probabilities.
    """
    with torch.no_grad():
        features = model.encode(snippets, mask)
    features = features.detach().requires_grad_()
    # The loss has the gradient 1 for this number, so its own gradient is what `backward` multiplies losses with.
    probe = torch.ones((), device=features.device, requires_grad=True)
    loss = loss_of(features)
    backward(loss + (probe - 1).to(loss.dtype))
    gradient, scale = features.grad, probe.grad
    assert gradient is not None and scale is not None
    videos = np.repeat(np.arange(len(chosen)), [len(rows) for rows, _ in chosen])
    places = np.concatenate([rows for rows, _ in chosen])
    chances = np.concatenate([chance for _, chance in chosen])
    for start in range(0, len(places), model.chunk):
        part = slice(start, start + model.chunk)
        video = torch.from_numpy(videos[part]).to(features.device)
        place = torch.from_numpy(places[part]).to(features.device)
        wanted = gradient[video, :, place] / scale
        if unbiased:
            wanted = wanted / torch.from_numpy(chances[part]).to(wanted)[:, None]
        encoded = model.backbone(snippets[video, place])
        backward((encoded.to(wanted.dtype) * wanted).sum())
    return loss.detach()
