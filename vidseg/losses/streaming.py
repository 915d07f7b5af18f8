"""Losses of streaming models: what one window of a group of videos adds to the gradient of a step.

Labels are at full frame rate, -100 where a frame has none; logits may have one column for every R frames, which then
count for all of them. A step of training adds up the losses of all windows, running the backward pass after each. The
loss of a window may be divided by the number of windows of its video: long and short videos then weigh the same. Where
processes share a group of videos, each has equally many of them.

Sources: ETESVS code base, April 2022; "Streaming Video Temporal Action Segmentation In Real Time", arXiv 2209.13808;
SVTAS-RL, arXiv 2309.15683; the smoothing term is MS-TCN's, arXiv 1903.01945, equation 4.

Shapes: B videos, K classes, L labels of a window, T = L / R columns, S stages.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vidseg.losses.shared import batch_mean, divisor

__all__ = [
    "Objective",
    "StreamLoss",
    "create_stream_loss",
    "etesvs_loss",
    "frame_loss",
    "register_stream_loss",
    "reward_loss",
    "stage_loss",
    "stream_reward",
    "svtas_rl_loss",
    "window_loss",
]

_IGNORED = -100

_LARGEST_STEP = 16.0  # of squared differences of log-probabilities
_EPSILON = 1e-5


@dataclass
class StreamLoss:
    """A loss and what it is made of, for the log.

    Attributes:
        total: what to minimize.
        parts: its parts by name, and what is reported beside it; without gradient.
    """

    total: Tensor
    parts: dict[str, Tensor]


def _spread(logits: Tensor, length: int) -> Tensor:
    """Repeat the columns (..., T) to `length`."""
    columns = logits.shape[-1]
    if columns == 0 or length % columns:
        raise ValueError(f"{length} labels are not a whole number for each of the {columns} columns of the logits")
    return logits if columns == length else logits.repeat_interleave(length // columns, dim=-1)


def _cross_entropy(logits: Tensor, labels: Tensor, windows: Tensor | None) -> Tensor:
    """Sum over the frames of each video, divided by its number of windows; mean over all labeled frames."""
    each = F.cross_entropy(logits, labels, ignore_index=_IGNORED, reduction="none").sum(dim=1)
    if windows is not None:
        each = each / windows.to(each)
    # A window without any label has the loss 0, not 0 / 0.
    return each.sum() / divisor((labels != _IGNORED).sum())


def _roughness(logits: Tensor, labels: Tensor, windows: Tensor | None) -> Tensor:
    """Mean over all classes and pairs of frames, those without label as zeros; no gradient to the earlier frame.

    Each video's part is divided by its number of windows.
    """
    if logits.shape[2] < 2:
        return logits.new_zeros(())
    log_probabilities = logits.log_softmax(dim=1)
    steps = (log_probabilities[:, :, 1:] - log_probabilities.detach()[:, :, :-1]).square().clamp(max=_LARGEST_STEP)
    each = (steps * (labels != _IGNORED)[:, None, 1:]).mean(dim=(1, 2))
    if windows is not None:
        each = each / windows.to(each)
    return each.mean()


def stage_loss(logits: Tensor, labels: Tensor, *, windows: Tensor | None = None, smoothing: float = 0.15) -> Tensor:
    """Cross-entropy of every stage and a penalty on jumps between neighboring frames.

    Args:
        logits: (S, B, K, T).
        labels: (B, L) int64, -100 where there is none.
        windows: (B,) number of windows of each video, by which its part of the loss is divided; None: 1.
        smoothing: weight of the penalty; 0.15 in MS-TCN and ETESVS, 0.5 in Transeger, 0 in SVTAS-RL.

    Returns:
        Scalar, summed over the stages.
    """
    total = logits.new_zeros(())
    for stage in _spread(logits, labels.shape[1]):
        total = total + _cross_entropy(stage, labels, windows)
        if smoothing:
            total = total + smoothing * _roughness(stage, labels, windows)
    return total


def frame_loss(logits: Tensor, labels: Tensor, *, windows: Tensor | None = None) -> Tensor:
    """Cross-entropy of one label for each column: every R-th.

    Args:
        logits: (B, K, T).
        labels: (B, L) int64.
        windows: see `stage_loss`.
    """
    _spread(logits[..., :0, :], labels.shape[1])
    return _cross_entropy(logits, labels[:, :: labels.shape[1] // logits.shape[2]], windows)


def window_loss(logits: Tensor, labels: Tensor, *, windows: Tensor | None = None) -> Tensor:
    """Cross-entropy of the window's mean logits to the share of each class in it.

    Args:
        logits: (B, K, T).
        labels: (B, L) int64; every R-th is counted.
        windows: see `stage_loss`.

    Returns:
        Scalar, the mean over the videos; a window without labels counts as 0.
    """
    _spread(logits[..., :0, :], labels.shape[1])
    columns = logits.shape[2]
    sampled = labels[:, :: labels.shape[1] // columns]
    known = sampled != _IGNORED
    counted = F.one_hot(sampled.clamp(min=0), logits.shape[1]) * known[..., None]
    shares = counted.sum(dim=1).to(logits.dtype) / columns
    each = -(shares * logits.mean(dim=2).log_softmax(dim=1)).sum(dim=1)
    return each.mean() if windows is None else (each / windows.to(each)).mean()


def stream_reward(logits: Tensor, labels: Tensor, *, base: float = 4.0, offset: float = -1.0) -> Tensor:
    """Reward of SVTAS-RL for a window: `base` to the power of the soft dice score of the last stage, plus `offset`.

    The dice score is the mean over videos and classes of 2 |p y| / (|p|^2 + |y|^2). Frames without label count as
    class 0 in the denominator, as published.

    Args:
        logits: (S, B, K, T).
        labels: (B, L) int64.
        base: beta 1, greater than 0.
        offset: beta 2; -1 with an update after each window and -0.5 with one for each video.

    Returns:
        Scalar without gradient.
    """
    with torch.no_grad():
        probabilities = _spread(logits[-1], labels.shape[1]).softmax(dim=1)
        truth = F.one_hot(labels.clamp(min=0), logits.shape[2]).movedim(2, 1).to(probabilities.dtype)
        known = (labels != _IGNORED)[:, None]
        common = (probabilities * truth * known).sum(dim=2)
        whole = probabilities.square().sum(dim=2) + truth.square().sum(dim=2)
        score = batch_mean(((2 * common + _EPSILON) / (whole + _EPSILON)).mean())
        return base**score + offset


def reward_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    windows: Tensor | None = None,
    smoothing: float = 0.0,
    base: float = 4.0,
    offset: float = -1.0,
) -> Tensor:
    """`stage_loss` times `stream_reward`: windows that are labeled well already pull harder (SVTAS-RL)."""
    reward = stream_reward(logits, labels, base=base, offset=offset)
    return stage_loss(logits, labels, windows=windows, smoothing=smoothing) * reward


def svtas_rl_loss(
    logits: Tensor,
    backbone_logits: Tensor,
    labels: Tensor,
    *,
    windows: Tensor | None = None,
    smoothing: float = 0.0,
    base: float = 4.0,
    offset: float = -1.0,
) -> StreamLoss:
    """`reward_loss` of the head plus `frame_loss` of the backbone.

    Args:
        logits: (S, B, K, T).
        backbone_logits: (B, K, T').
        labels: (B, L) int64.
        windows: see `stage_loss`; None with an update after each window.
        smoothing: see `stage_loss`.
        base: see `stream_reward`.
        offset: see `stream_reward`.
    """
    head = reward_loss(logits, labels, windows=windows, smoothing=smoothing, base=base, offset=offset)
    backbone = frame_loss(backbone_logits, labels, windows=windows)
    return StreamLoss(head + backbone, {"head": head.detach(), "backbone": backbone.detach()})


def etesvs_loss(
    logits: Tensor,
    backbone_logits: Tensor,
    neck_logits: Tensor,
    labels: Tensor,
    *,
    windows: Tensor | None = None,
    smoothing: float = 0.15,
    neck_weight: float = 0.0,
) -> StreamLoss:
    """`stage_loss` of the head plus `window_loss` of the backbone.

    Args:
        logits: (S, B, K, T).
        backbone_logits: (B, K, T').
        neck_logits: (B, K, T').
        labels: (B, L) int64.
        windows: see `stage_loss`; the published code has none and divides by the windows of the group.
        smoothing: see `stage_loss`.
        neck_weight: of the neck's `frame_loss`; it was logged but not trained in the published code.
    """
    head = stage_loss(logits, labels, windows=windows, smoothing=smoothing)
    backbone = window_loss(backbone_logits, labels, windows=windows)
    with torch.set_grad_enabled(torch.is_grad_enabled() and neck_weight != 0):
        neck = frame_loss(neck_logits, labels, windows=windows)
    parts = {"head": head.detach(), "backbone": backbone.detach(), "neck": neck.detach()}
    return StreamLoss(head + backbone + neck_weight * neck, parts)


class StreamOutputs(Protocol):
    """What losses read of a streaming network's output (`vidseg.models._streaming.StreamOutput`)."""

    logits: Tensor
    backbone_logits: Tensor | None
    neck_logits: Tensor | None


Objective = Callable[[StreamOutputs, Tensor, Tensor | None], StreamLoss]
"""Loss of one window: output, labels (B, L), number of windows of each video (B,) or None -> loss."""

_OBJECTIVES: dict[str, Callable[..., Objective]] = {}


def register_stream_loss(name: str, factory: Callable[..., Objective]) -> None:
    """Give a loss the name of the streaming network that it trains.

    Args:
        name: of the network.
        factory: called with `update` ("video" or "window": when the optimizer steps) and the options of
            `create_stream_loss`; returns the loss.

    Raises:
        ValueError: the name is taken.
    """
    if name in _OBJECTIVES:
        raise ValueError(f"a loss called {name!r} is registered already")
    _OBJECTIVES[name] = factory


def create_stream_loss(name: str, *, update: str = "video", **options: Any) -> Objective:
    """Return the loss that the streaming network called `name` was published with.

    Args:
        name: of the network.
        update: when the optimizer steps: "video" or "window".
        **options: options of that loss, such as smoothing=0.3.

    Raises:
        ValueError: no loss is known for the network.
        TypeError: the loss has no such option.
    """
    if name not in _OBJECTIVES:
        raise ValueError(f"no published loss is known for {name!r}; there are losses for {', '.join(_OBJECTIVES)}")
    factory = _OBJECTIVES[name]
    allowed = [option for option in inspect.signature(factory).parameters if option != "update"]
    for option in options:
        if option not in allowed:
            raise TypeError(f"the loss of {name} has no option {option!r}; its options are {', '.join(allowed)}")
    return factory(update=update, **options)


def _needed(values: Tensor | None, what: str) -> Tensor:
    if values is None:
        raise ValueError(f"this loss needs a network with logits of its {what}")
    return values


def _staged_objective(smoothing: float) -> Callable[..., Objective]:
    def make(*, update: str, smoothing: float = smoothing) -> Objective:
        del update  # both updates have the same loss
        return lambda output, labels, windows: StreamLoss(
            stage_loss(output.logits, labels, windows=windows, smoothing=smoothing), {}
        )

    return make


def _etesvs_objective(*, update: str, smoothing: float = 0.15, neck_weight: float = 0.0) -> Objective:
    del update  # both updates have the same loss
    return lambda output, labels, windows: etesvs_loss(
        output.logits,
        _needed(output.backbone_logits, "backbone"),
        _needed(output.neck_logits, "neck"),
        labels,
        windows=windows,
        smoothing=smoothing,
        neck_weight=neck_weight,
    )


def _svtas_rl_objective(
    *, update: str, smoothing: float = 0.0, base: float = 4.0, offset: float | None = None
) -> Objective:
    chosen = offset if offset is not None else -1.0 if update == "window" else -0.5
    return lambda output, labels, windows: svtas_rl_loss(
        output.logits,
        _needed(output.backbone_logits, "backbone"),
        labels,
        windows=windows,
        smoothing=smoothing,
        base=base,
        offset=chosen,
    )


for _name, _smoothing in (("memory_tcn", 0.5), ("transeger", 0.5), ("mobilenet_v2_tsm_frames", 0.0)):
    register_stream_loss(_name, _staged_objective(_smoothing))
for _name in ("etesvs", "etesvs_convlstm"):
    register_stream_loss(_name, _etesvs_objective)
for _name in ("svtas_rl", "block_recurrent"):
    register_stream_loss(_name, _svtas_rl_objective)
