"""Losses of streaming models for one window of a group of videos.

Labels have the full frame rate, -100 for frames without label. Logits may have one column for every R frames, which is
repeated for them. A training step sums the losses of all windows and runs the backward pass after each. The loss of a
window can be divided by the number of windows of its video, which gives long and short videos the same weight. If
processes share a group of videos, each has the same number of them.

Sources: ETESVS code base, April 2022; "Streaming Video Temporal Action Segmentation In Real Time", arXiv 2209.13808;
SVTAS-RL, arXiv 2309.15683; the smoothing term is that of MS-TCN, arXiv 1903.01945, equation 4.

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

_LARGEST_STEP = 16.0  # upper limit of squared differences of log-probabilities
_EPSILON = 1e-5


@dataclass
class StreamLoss:
    """Loss of a window and its parts.

    Attributes:
        total: scalar to minimize.
        parts: parts by name and further values for the log, without gradient.
    """

    total: Tensor
    parts: dict[str, Tensor]


def _spread(logits: Tensor, length: int) -> Tensor:
    """Repeat the columns (..., T) to `length`."""
    columns = logits.shape[-1]
    if columns == 0 or length % columns:
        raise ValueError(f"the number of labels, {length}, is not a multiple of the {columns} columns of the logits")
    return logits if columns == length else logits.repeat_interleave(length // columns, dim=-1)


def _cross_entropy(logits: Tensor, labels: Tensor, windows: Tensor | None) -> Tensor:
    """Sum over the frames of each video divided by its number of windows; mean over all labeled frames."""
    each = F.cross_entropy(logits, labels, ignore_index=_IGNORED, reduction="none").sum(dim=1)
    if windows is not None:
        each = each / windows.to(each)
    # A window without labels has loss 0, not 0 / 0.
    return each.sum() / divisor((labels != _IGNORED).sum())


def _roughness(logits: Tensor, labels: Tensor, windows: Tensor | None) -> Tensor:
    """Mean over all classes and pairs of frames, 0 for frames without label; the earlier frame gets no gradient.

    The part of each video is divided by its number of windows.
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
    """Compute the cross-entropy of every stage and a penalty on jumps between neighboring frames.

    Args:
        logits: (S, B, K, T).
        labels: (B, L) int64, -100 without a label.
        windows: (B,) number of windows of each video, the divisor of its part of the loss; None: 1.
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
    """Compute the cross-entropy of every column with one label, that of every R-th frame.

    Args:
        logits: (B, K, T).
        labels: (B, L) int64.
        windows: see `stage_loss`.

    Returns:
        Scalar.
    """
    _spread(logits[..., :0, :], labels.shape[1])
    return _cross_entropy(logits, labels[:, :: labels.shape[1] // logits.shape[2]], windows)


def window_loss(logits: Tensor, labels: Tensor, *, windows: Tensor | None = None) -> Tensor:
    """Compute the cross-entropy between the window's mean logits and its class frequencies.

    Args:
        logits: (B, K, T).
        labels: (B, L) int64; every R-th label is used.
        windows: see `stage_loss`.

    Returns:
        Scalar, mean over the videos; 0 for a window without labels.
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
    """Compute the reward of SVTAS-RL for a window: `base` to the power of the soft dice score of the last stage, plus
    `offset`.

    The dice score is the mean over videos and classes of 2 |p y| / (|p|^2 + |y|^2). As published, frames without label
    count as class 0 in the denominator.

    Args:
        logits: (S, B, K, T).
        labels: (B, L) int64.
        base: beta 1, greater than 0.
        offset: beta 2; -1 for an update after each window, -0.5 for an update after each video.

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
    """Compute `stage_loss` times `stream_reward`, which increases the weight of well-labeled windows (SVTAS-RL).

    Args:
        logits: (S, B, K, T).
        labels: (B, L) int64, -100 without a label.
        windows: see `stage_loss`.
        smoothing: see `stage_loss`.
        base: see `stream_reward`.
        offset: see `stream_reward`.

    Returns:
        Scalar.
    """
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
    """Compute `reward_loss` of the head plus `frame_loss` of the backbone.

    Args:
        logits: (S, B, K, T).
        backbone_logits: (B, K, T').
        labels: (B, L) int64.
        windows: see `stage_loss`; None for an update after each window.
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
    """Compute `stage_loss` of the head plus `window_loss` of the backbone.

    Args:
        logits: (S, B, K, T).
        backbone_logits: (B, K, T').
        neck_logits: (B, K, T').
        labels: (B, L) int64.
        windows: see `stage_loss`; the published code divides by the number of windows of the group instead.
        smoothing: see `stage_loss`.
        neck_weight: weight of the neck's `frame_loss`; the published code logs this term without training it.
    """
    head = stage_loss(logits, labels, windows=windows, smoothing=smoothing)
    backbone = window_loss(backbone_logits, labels, windows=windows)
    with torch.set_grad_enabled(torch.is_grad_enabled() and neck_weight != 0):
        neck = frame_loss(neck_logits, labels, windows=windows)
    parts = {"head": head.detach(), "backbone": backbone.detach(), "neck": neck.detach()}
    return StreamLoss(head + backbone + neck_weight * neck, parts)


class StreamOutputs(Protocol):
    """Fields of a streaming network's output that losses read (`vidseg.models._streaming.StreamOutput`)."""

    logits: Tensor
    backbone_logits: Tensor | None
    neck_logits: Tensor | None


Objective = Callable[[StreamOutputs, Tensor, Tensor | None], StreamLoss]
"""Loss of one window: (output, labels (B, L), number of windows of each video (B,) or None) -> loss."""

_OBJECTIVES: dict[str, Callable[..., Objective]] = {}


def register_stream_loss(name: str, factory: Callable[..., Objective]) -> None:
    """Register a loss under the name of its streaming network.

    Args:
        name: name of the network.
        factory: called with `update` (when the optimizer steps, "video" or "window") and the options of
            `create_stream_loss`; returns the loss.

    Raises:
        ValueError: the name is already registered.
    """
    if name in _OBJECTIVES:
        raise ValueError(f"loss {name!r} is already registered")
    _OBJECTIVES[name] = factory


def create_stream_loss(name: str, *, update: str = "video", **options: Any) -> Objective:
    """Create the published loss of the streaming network `name`.

    Args:
        name: name of the network.
        update: when the optimizer steps, "video" or "window".
        **options: options of the loss, such as smoothing=0.3.

    Raises:
        ValueError: the network has no registered loss.
        TypeError: the loss has no such option.
    """
    if name not in _OBJECTIVES:
        raise ValueError(f"unknown stream loss {name!r}; available: {', '.join(_OBJECTIVES)}")
    factory = _OBJECTIVES[name]
    allowed = [option for option in inspect.signature(factory).parameters if option != "update"]
    for option in options:
        if option not in allowed:
            raise TypeError(f"stream loss {name!r} has no option {option!r}; available: {', '.join(allowed)}")
    return factory(update=update, **options)


def _needed(values: Tensor | None, what: str) -> Tensor:
    if values is None:
        raise ValueError(f"this loss requires a network with {what} logits")
    return values


def _staged_objective(smoothing: float) -> Callable[..., Objective]:
    def make(*, update: str, smoothing: float = smoothing) -> Objective:
        del update  # the loss is the same for both updates
        return lambda output, labels, windows: StreamLoss(
            stage_loss(output.logits, labels, windows=windows, smoothing=smoothing), {}
        )

    return make


def _etesvs_objective(*, update: str, smoothing: float = 0.15, neck_weight: float = 0.0) -> Objective:
    del update  # the loss is the same for both updates
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
