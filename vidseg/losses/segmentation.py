"""The terms that losses of temporal segmentation are made of.

Each takes the class scores of all stages at once and gives one value for each stage. Padded frames never count: not in
a sum, and, but where an option says so, not in a mean's denominator. A mean over no frame at all is 0.

Shapes: B videos, K classes, L frames, S stages.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vidseg.losses.shared import divisor

__all__ = [
    "boundary_cross_entropy",
    "cross_entropy",
    "focal_loss",
    "soft_cross_entropy",
    "transition_cross_entropy",
    "truncated_mse",
    "video_mean",
]


def video_mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean over each video's valid frames, then over videos: (S, B, L) and bool (B, L) -> (S,)."""
    weights = valid.to(values.dtype)
    each = (values * weights).sum(dim=2) / weights.sum(dim=1).clamp(min=1)
    return each.sum(dim=1) / divisor(weights.new_tensor(len(valid)))


def _pairs(valid: Tensor) -> Tensor:
    """Whether a frame and the one before it are both valid: bool (B, L - 1)."""
    return valid[:, 1:] & valid[:, :-1]


def _frame_cross_entropy(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """-log p of each frame's label: (S, B, L), 0 where not valid."""
    safe = labels.where(valid, 0)[None, :, None].expand(len(logits), -1, -1, -1)
    chosen = logits.log_softmax(dim=2).gather(2, safe)[:, :, 0]
    return -chosen.masked_fill(~valid, 0)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    class_weights: Tensor | None = None,
    mean: Literal["frames", "videos"] = "frames",
) -> Tensor:
    """Cross entropy of each stage.

    Args:
        logits: (S, B, K, L).
        labels: int64 (B, L).
        valid: bool (B, L), the frames that count.
        class_weights: (K,), or None: all 1.
        mean: "frames": over all valid frames of the batch, a frame of a heavy class counting as several (MS-TCN, ASRF).
            "videos": over each video's frames, then over videos, not divided by the weights (DiffAct).

    Returns:
        (S,).
    """
    losses = _frame_cross_entropy(logits, labels, valid)
    weights = valid.to(logits.dtype)
    if class_weights is not None:
        weights = weights * class_weights.to(logits)[labels.where(valid, 0)]
    if mean == "videos":
        return video_mean(losses * weights, valid)
    return (losses * weights).sum(dim=(1, 2)) / divisor(weights.sum())


def soft_cross_entropy(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """-sum over classes of target * log p, mean over each video's frames, then over videos (DiffAct).

    Args:
        logits: (S, B, K, L).
        targets: (B, K, L), from 0 to 1.
        valid: bool (B, L), the frames that count.

    Returns:
        (S,).
    """
    return video_mean(-(logits.log_softmax(dim=2) * targets).sum(dim=2), valid)


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    per_frame: bool = True,
) -> Tensor:
    """alpha * (1 - p)^gamma * cross entropy: easy frames count less (arXiv 1708.02002).

    Args:
        logits: (S, B, K, L).
        labels: int64 (B, L).
        valid: bool (B, L), the frames that count.
        alpha: factor.
        gamma: how much less.
        per_frame: False: of the mean cross entropy instead of each frame's, divided by the number of videos, as ASRF's
            published code computes.

    Returns:
        (S,), mean over all valid frames of the batch.
    """
    losses = _frame_cross_entropy(logits, labels, valid)
    count = divisor(valid.sum())
    if not per_frame:
        losses = losses.sum(dim=(1, 2)) / count
    focal = alpha * (1 - (-losses).exp()) ** gamma * losses
    return focal.sum(dim=(1, 2)) / count if per_frame else focal / divisor(torch.tensor(len(labels)).to(count))


def truncated_mse(
    logits: Tensor,
    valid: Tensor,
    *,
    tau: float = 4.0,
    mean: Literal["frames", "videos", "padded"] = "frames",
    over: Literal["classes", "time"] = "classes",
    detach: bool = True,
    similarity: Tensor | None = None,
) -> Tensor:
    """The squared change of log p from frame to frame, at most tau^2: the smoothing loss of MS-TCN and its kin.

    Args:
        logits: (S, B, K, L).
        valid: bool (B, L); a change counts if both of its frames do.
        tau: largest change of log p that still has a gradient.
        mean: "frames": over all counted changes of the batch. "videos": over each video's, then over videos. "padded":
            over all frames from the second on, padding counted as zeros, as MS-TCN's published code computes: the more
            padding, the less smoothing.
        over: "classes": p is a softmax over classes. "time": over a video's frames, those from the second on for the
            later frame and those up to the last but one for the earlier, as ASRF's published code computes.
        detach: no gradient to the earlier frame of a change (all but ASRF).
        similarity: (B, L - 1), factors of the changes (`gaussian_similarity` in vidseg.losses.targets), or None.

    Returns:
        (S,).
    """
    pairs = _pairs(valid)
    if over == "classes":
        logs = logits.log_softmax(dim=2)
        before, after = logs[..., :-1], logs[..., 1:]
    else:
        # A video of one frame has no pair: any finite sum will do, since nothing of it is counted.
        left_out = ~(pairs | ~pairs.any(dim=1, keepdim=True))[:, None]
        before, after = (
            part - part.masked_fill(left_out, -torch.inf).logsumexp(dim=3, keepdim=True)
            for part in (logits[..., :-1], logits[..., 1:])
        )
    change = after - (before.detach() if detach else before)
    # Over classes first: all of a frame's changes are counted or none is.
    changes = change.square().clamp(max=tau**2).mean(dim=2)
    if similarity is not None:
        changes = changes * similarity
    if mean == "videos":
        return video_mean(changes, pairs)
    count = pairs.sum() if mean == "frames" else torch.as_tensor(pairs.numel(), device=pairs.device)
    return (changes * pairs).sum(dim=(1, 2)) / divisor(count)


def boundary_cross_entropy(
    boundaries: Tensor, targets: Tensor, valid: Tensor, *, boundary_weight: float | Tensor | None = None
) -> Tensor:
    """Binary cross entropy of each stage's boundaries, mean over each video's frames, then over videos (ASRF).

    Args:
        boundaries: (S, B, 1, L), before the sigmoid.
        targets: (B, 1, L), from 0 to 1.
        valid: bool (B, L), the frames that count.
        boundary_weight: factor of the boundary frames, since they are few: frames / boundaries; None: 1.

    Returns:
        (S,).
    """
    weight = None if boundary_weight is None else torch.as_tensor(boundary_weight).to(boundaries)
    losses = F.binary_cross_entropy_with_logits(
        boundaries[:, :, 0],
        targets[None, :, 0].to(boundaries.dtype).expand(len(boundaries), -1, -1),
        pos_weight=weight,
        reduction="none",
    )
    return video_mean(losses, valid)


def transition_cross_entropy(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Binary cross entropy of the probability that a frame has another class than the one before (DiffAct).

    Args:
        logits: (S, B, K, L); no gradient flows to the earlier frame.
        targets: (B, 1, L), boundaries from 0 to 1; the first frame's is not used.
        valid: bool (B, L), the frames that count.

    Returns:
        (S,), mean over each video's changes, then over videos.
    """
    probabilities = logits.softmax(dim=2)
    same = (probabilities[..., 1:] * probabilities[..., :-1].detach()).sum(dim=2)
    wanted = targets[None, :, 0, 1:].to(same.dtype).expand_as(same)
    with torch.autocast(logits.device.type, enabled=False):
        losses = F.binary_cross_entropy((1 - same).clamp(0, 1).float(), wanted.float(), reduction="none")
    return video_mean(losses, _pairs(valid))
