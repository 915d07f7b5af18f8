"""Terms of the losses of temporal segmentation.

Each function takes the class scores of all stages and returns one value per stage. Padded frames are excluded from sums
and, unless an option says otherwise, from the denominators of means. The mean over no frame is 0.

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
    """Average over each video's valid frames, then over videos: (S, B, L) and bool (B, L) -> (S,)."""
    weights = valid.to(values.dtype)
    each = (values * weights).sum(dim=2) / weights.sum(dim=1).clamp(min=1)
    return each.sum(dim=1) / divisor(weights.new_tensor(len(valid)))


def _pairs(valid: Tensor) -> Tensor:
    """Return whether a frame and the one before it are both valid: bool (B, L - 1)."""
    return valid[:, 1:] & valid[:, :-1]


def _frame_cross_entropy(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Return -log p of each frame's label: (S, B, L), 0 for frames that are not valid."""
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
    """Compute the cross-entropy of each stage.

    Args:
        logits: (S, B, K, L).
        labels: int64 (B, L).
        valid: bool (B, L), frames to include.
        class_weights: (K,), or None: all 1.
        mean: "frames": mean over all valid frames of the batch, weighted by class weight (MS-TCN, ASRF). "videos": mean
            over each video's frames, then over videos, not divided by the weights (DiffAct).

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
    """Compute -sum over classes of target * log p, averaged over each video's frames, then over videos (DiffAct).

    Args:
        logits: (S, B, K, L).
        targets: (B, K, L), from 0 to 1.
        valid: bool (B, L), frames to include.

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
    """Compute alpha * (1 - p)^gamma * cross-entropy, which reduces the weight of easy frames (arXiv 1708.02002).

    Args:
        logits: (S, B, K, L).
        labels: int64 (B, L).
        valid: bool (B, L), frames to include.
        alpha: factor.
        gamma: exponent; larger values reduce the weight of easy frames more.
        per_frame: True: per frame. False: applied to the mean cross-entropy and divided by the number of videos, as in
            the published code of ASRF.

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
    """Compute the squared change of log p between consecutive frames, truncated at tau^2: the smoothing loss of MS-TCN.

    Args:
        logits: (S, B, K, L).
        valid: bool (B, L); a change is included if both of its frames are valid.
        tau: largest change of log p with a gradient.
        mean: "frames": mean over all included changes of the batch. "videos": mean over each video's changes, then over
            videos. "padded": mean over all frames except the first, with zeros for padding, as in the published code of
            MS-TCN; more padding gives less smoothing.
        over: "classes": softmax over classes. "time": softmax over a video's frames, excluding the first frame for the
            later frame of a change and the last frame for the earlier one, as in the published code of ASRF.
        detach: stop the gradient to the earlier frame of a change (all networks except ASRF).
        similarity: (B, L - 1), factors of the changes (`gaussian_similarity` in vidseg.losses.targets), or None.

    Returns:
        (S,).
    """
    pairs = _pairs(valid)
    if over == "classes":
        logs = logits.log_softmax(dim=2)
        before, after = logs[..., :-1], logs[..., 1:]
    else:
        # A video of one frame has no pair; its sum is excluded and only has to be finite.
        left_out = ~(pairs | ~pairs.any(dim=1, keepdim=True))[:, None]
        before, after = (
            part - part.masked_fill(left_out, -torch.inf).logsumexp(dim=3, keepdim=True)
            for part in (logits[..., :-1], logits[..., 1:])
        )
    change = after - (before.detach() if detach else before)
    # Sum over classes first: the changes of a frame are all included or all excluded.
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
    """Compute the binary cross-entropy of each stage's boundaries, averaged over each video's frames, then over videos
    (ASRF).

    Args:
        boundaries: (S, B, 1, L), logits before the sigmoid.
        targets: (B, 1, L), from 0 to 1.
        valid: bool (B, L), frames to include.
        boundary_weight: factor of the boundary frames, which are rare: frames / boundaries; None: 1.

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
    """Compute the binary cross-entropy of the probability that the class changes from the frame before (DiffAct).

    Args:
        logits: (S, B, K, L); the earlier frame gets no gradient.
        targets: (B, 1, L), boundaries from 0 to 1; the first frame is ignored.
        valid: bool (B, L), frames to include.

    Returns:
        (S,), mean over each video's changes, then over videos.
    """
    probabilities = logits.softmax(dim=2)
    same = (probabilities[..., 1:] * probabilities[..., :-1].detach()).sum(dim=2)
    changes = targets[None, :, 0, 1:].to(same.dtype).expand_as(same)
    with torch.autocast(logits.device.type, enabled=False):
        losses = F.binary_cross_entropy((1 - same).clamp(0, 1).float(), changes.float(), reduction="none")
    return video_mean(losses, _pairs(valid))
