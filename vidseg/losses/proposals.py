"""Losses of the detection networks that score proposals: ETAD and BMN.

Positives are rare, so each term balances or samples positives and negatives. The draws act on the whole batch: the
share of negatives to keep is a ratio of counts over all processes that share the batch (`vidseg.losses.shared`).

Shapes: B videos, K classes, L columns, M instances, N proposals, S stages.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vidseg.losses.detection import DetectedOutput, DetectionLoss, DetectionTargets, draw_uniform
from vidseg.losses.proposal_targets import (
    Sampling,
    assign_instances,
    boundary_targets,
    clip_instances,
    jittered_instances,
    paired_iou,
    proposal_offsets,
    sample_batch,
)
from vidseg.losses.shared import batch_mean, divisor

__all__ = [
    "BmnLoss",
    "EtadLoss",
    "balanced_cross_entropy",
    "positive_smooth_l1",
    "sampled_cross_entropy",
    "sampled_squared_error",
]

_EPS = 1e-6
_BOUNDARY = 0.5
"""Smallest target of a positive boundary."""


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen values over all processes, 0 if none is chosen."""
    return (values * chosen).sum() / divisor(chosen.sum())


def _share(few: Tensor, many: Tensor) -> Tensor:
    """Return the share of `many` to keep so that as many are kept as there are of `few`; at least 1 keeps all.

    Without `few`, all of `many` are kept.
    """
    wanted, present = (batch_mean(part.sum().float()) for part in (few, many))
    return torch.where(wanted > 0, wanted / present.clamp(min=1e-6), 1)


def balanced_cross_entropy(p: Tensor, targets: Tensor, valid: Tensor, *, threshold: float = _BOUNDARY) -> Tensor:
    """Compute the mean of the binary cross-entropies of positives and of negatives.

    Args:
        p: probabilities, any shape.
        targets: same shape; positive above `threshold`.
        valid: bool, same shape.
        threshold: largest target of a negative.

    Returns:
        (), the term of the one kind if there are only positives or only negatives.
    """
    positive, negative = valid & (targets > threshold), valid & (targets <= threshold)
    both = (batch_mean(positive.sum().float()) > 0) & (batch_mean(negative.sum().float()) > 0)
    total = _mean(-(p + _EPS).log(), positive) + _mean(-(1 - p + _EPS).log(), negative)
    return torch.where(both, 0.5, 1.0) * total


def sampled_cross_entropy(p: Tensor, targets: Tensor, valid: Tensor, draws: Tensor, *, threshold: float) -> Tensor:
    """Compute the binary cross-entropy of all positives and of about as many negatives; without positives, of all.

    Args:
        p: probabilities, any shape.
        targets: same shape; positive above `threshold`.
        valid: bool, same shape.
        draws: uniform numbers from 0 to 1, same shape.
        threshold: largest target of a negative.
    """
    positive, negative = valid & (targets > threshold), valid & (targets <= threshold)
    kept = negative & (draws <= _share(positive, negative))
    losses = -torch.where(positive, p + _EPS, 1 - p + _EPS).log()
    return _mean(losses, positive | kept)


def sampled_squared_error(
    values: Tensor,
    targets: Tensor,
    valid: Tensor,
    draws: Tensor,
    *,
    high: float = 0.7,
    low: float = 0.3,
    zeros: bool = True,
) -> Tensor:
    """Compute the mean squared error of about as many middle and low targets as there are high ones; without high
    targets, of all.

    Args:
        values: any shape.
        targets: same shape.
        valid: bool, same shape.
        draws: uniform numbers from 0 to 1, same shape.
        high: largest middle target.
        low: largest low target.
        zeros: include targets of exactly 0 (ETAD); BMN excludes them.
    """
    valid = valid if zeros else valid & (targets > 0)
    above, below = valid & (targets > high), valid & (targets <= low)
    middle = valid & (targets > low) & (targets <= high)
    kept = (middle & (draws <= _share(above, middle))) | (below & (draws <= _share(above, below)))
    return _mean((values - targets).square(), above | kept)


def positive_smooth_l1(values: Tensor, targets: Tensor, positive: Tensor) -> Tensor:
    """Compute the mean smooth L1 distance of positives; 0 without positives.

    Args:
        values: any shape.
        targets: same shape.
        positive: bool, same shape.
    """
    return _mean(F.smooth_l1_loss(values, targets, reduction="none"), positive)


def _boundaries(found: Mapping[str, Tensor], bounds: Sequence[Tensor], inside: Tensor) -> Tensor:
    """Return the loss of the probabilities of starts and ends for their targets (B, L)."""
    return balanced_cross_entropy(found["starts"], bounds[0], inside) + balanced_cross_entropy(
        found["ends"], bounds[1], inside
    )


class _ProposalLoss(DetectionLoss):
    """Part of the losses that both families share: the classifier of proposals.

    Args:
        num_classes: K.
        class_agnostic: of a network that does not classify its proposals; False: train its classifier too.
        copies: number of copies of each instance that the classifier sees in training.
        jitter: largest move of the ends of these copies, in lengths of the instance, from 0 to below 0.5.
    """

    def __init__(self, *, num_classes: int, class_agnostic: bool, copies: int, jitter: float):
        super().__init__(num_classes=num_classes)
        if copies < 1:
            raise ValueError(f"copies={copies} must be at least 1")
        if not 0 <= jitter < 0.5:
            raise ValueError(f"jitter={jitter} must be from 0 to below 0.5, so that a start stays before its end")
        self.class_agnostic, self.copies, self.jitter = class_agnostic, copies, jitter

    def model_inputs(self, targets: DetectionTargets, mask: Tensor, *, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Return "instances" (B, M * copies, 2) with class_agnostic=False; arguments as in the base class."""
        if self.class_agnostic:
            return {}
        copies, jitter = (self.copies, self.jitter) if self.training else (1, 0.0)
        return {"instances": jittered_instances(targets, seeds=seeds, copies=copies, jitter=jitter)}

    def class_terms(self, output: DetectedOutput, targets: DetectionTargets) -> dict[str, Tensor]:
        """Return the cross-entropy of the classifier, if there is one."""
        if self.class_agnostic:
            return {}
        if "class_logits" not in output.predictions:
            raise ValueError("the output has no class_logits; pass the network the instances of `loss.model_inputs`")
        logits = output.predictions["class_logits"]
        copies = logits.shape[1] // max(1, targets.labels.shape[1])
        labels = targets.labels.repeat_interleave(copies, dim=1)
        valid = labels >= 0
        losses = -logits.float().log_softmax(dim=2).gather(2, labels.where(valid, 0)[..., None])[..., 0]
        return {"classes": _mean(losses, valid)}


class EtadLoss(_ProposalLoss):
    """Loss of ETAD: boundaries, and in each stage IoU, offsets and boundaries of the sampled proposals.

    Each proposal is assigned once to the instance with the highest IoU; each stage has the targets of its own input.
    The published sampling keeps all negatives if there are more positives than negatives, and counts positives twice;
    here shares are at most 1.

    Args:
        num_classes: K.
        sampling: proposals in training, see `sample_proposals`; in evaluation mode "grid".
        ratio: share of all segments, above 0, at most 1; at most 0.5 for "block".
        max_duration: longest proposal in columns; None: the whole sequence.
        stage_ious: smallest IoU of a proposal whose offsets are trained, for each stage.
        positive_iou: smallest IoU of a positive of the classified IoU.
        class_agnostic: of a network that does not classify its proposals; False: train its classifier too.
        copies: number of copies of each instance that the classifier sees in training.
        jitter: largest move of the ends of these copies, in lengths of the instance.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        sampling: Sampling = "random",
        ratio: float = 0.06,
        max_duration: int | None = None,
        stage_ious: Sequence[float] = (0.7, 0.8, 0.9),
        positive_iou: float = 0.9,
        class_agnostic: bool = True,
        copies: int = 4,
        jitter: float = 0.2,
    ):
        super().__init__(num_classes=num_classes, class_agnostic=class_agnostic, copies=copies, jitter=jitter)
        if sampling not in ("random", "grid", "block"):
            raise ValueError(f"sampling={sampling!r} must be 'random', 'grid' or 'block'")
        if not 0 < ratio <= (0.5 if sampling == "block" else 1):
            raise ValueError(
                f"ratio={ratio} must be above 0 and at most 1, or 0.5 for sampling='block', whose square cannot cover "
                "more segments"
            )
        if max_duration is not None and max_duration < 1:
            raise ValueError(f"max_duration={max_duration} must be at least 1")
        self.sampling, self.ratio, self.max_duration = sampling, ratio, max_duration
        self.stage_ious, self.positive_iou = tuple(stage_ious), positive_iou

    def model_inputs(self, targets: DetectionTargets, mask: Tensor, *, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Return "proposals" (B, N, 2), and "instances" with class_agnostic=False; arguments as in the base class."""
        chosen = sample_batch(
            mask,
            seeds=seeds,
            sampling=self.sampling if self.training else "grid",
            ratio=self.ratio,
            max_duration=self.max_duration,
        )
        return {"proposals": chosen, **super().model_inputs(targets, mask, seeds=seeds)}

    def terms(
        self,
        output: DetectedOutput,
        targets: DetectionTargets,
        mask: Tensor | None = None,
        *,
        seeds: Sequence[int],
    ) -> dict[str, Tensor]:
        """Return the weighted terms by name; arguments as for `forward`."""
        found, valid = output.predictions, output.valid
        if len(found["ious"]) != len(self.stage_ious):
            raise ValueError(
                f"stage_ious={self.stage_ious} has {len(self.stage_ious)} values for {len(found['ious'])} stages"
            )
        inside = torch.ones_like(found["starts"], dtype=torch.bool) if mask is None else mask
        segments, present = clip_instances(targets, inside)
        bounds = [boundary_targets(at, present, inside, offset=0, eps=1e-6) for at in segments.unbind(dim=2)]
        terms = {
            "boundaries": _boundaries(found, bounds, inside),
            **dict.fromkeys(("iou_classes", "ious", "offsets", "bounds"), valid.new_zeros((), dtype=torch.float32)),
        }
        _, rows = assign_instances(found["proposals"][0], segments, present)
        assigned = segments.gather(1, rows[..., None].expand(-1, -1, 2))
        known = valid & present.any(dim=1, keepdim=True)
        draws = draw_uniform(valid, seeds, "etad", count=4 * len(self.stage_ious)).unflatten(0, (-1, 4))
        last = inside.sum(dim=1, keepdim=True) - 1
        for stage, least in enumerate(self.stage_ious):
            proposals = found["proposals"][stage]
            iou = paired_iou(proposals, assigned) * known
            by_class, by_value = found["ious"][stage].unbind(dim=2)
            terms["iou_classes"] = terms["iou_classes"] + sampled_cross_entropy(
                by_class, iou, valid, draws[stage, 0], threshold=self.positive_iou
            )
            terms["ious"] = terms["ious"] + 5 * sampled_squared_error(by_value, iou, valid, draws[stage, 1])
            positive = (valid & (iou > least))[..., None].expand(-1, -1, 4)
            # The mean over the four offsets of a proposal is a quarter of the sum of the four means.
            terms["offsets"] = terms["offsets"] + 40 * positive_smooth_l1(
                found["regression"][stage], proposal_offsets(proposals, assigned), positive
            )
            for side, target in enumerate(bounds):
                at = proposals[..., side].trunc().clamp(min=0).minimum(last.to(proposals)).long()
                terms["bounds"] = terms["bounds"] + 0.5 * sampled_cross_entropy(
                    found["bounds"][stage, ..., side],
                    target.gather(1, at),
                    valid,
                    draws[stage, 2 + side],
                    threshold=_BOUNDARY,
                )
        return terms | self.class_terms(output, targets)


class BmnLoss(_ProposalLoss):
    """Loss of BMN: boundaries, and the regressed and the classified IoU of all segments.

    Without positives the published code divides by zero; here the mean over the other segments remains.

    Args:
        num_classes: K.
        positive_iou: smallest IoU of a positive of the classified IoU.
        class_agnostic: of a network that does not classify its proposals; False: train its classifier too.
        copies: number of copies of each instance that the classifier sees in training.
        jitter: largest move of the ends of these copies, in lengths of the instance.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        positive_iou: float = 0.9,
        class_agnostic: bool = True,
        copies: int = 4,
        jitter: float = 0.2,
    ):
        super().__init__(num_classes=num_classes, class_agnostic=class_agnostic, copies=copies, jitter=jitter)
        self.positive_iou = positive_iou

    def terms(
        self,
        output: DetectedOutput,
        targets: DetectionTargets,
        mask: Tensor | None = None,
        *,
        seeds: Sequence[int],
    ) -> dict[str, Tensor]:
        """Return the weighted terms by name; arguments as for `forward`."""
        found, valid = output.predictions, output.valid
        inside = torch.ones_like(found["starts"], dtype=torch.bool) if mask is None else mask
        segments, present = clip_instances(targets, inside)
        bounds = [boundary_targets(at, present, inside, offset=-0.5) for at in segments.unbind(dim=2)]
        iou, _ = assign_instances(output.segments, segments, present)
        draws = draw_uniform(valid, seeds, "bmn")[0]
        by_value, by_class = found["ious"].unbind(dim=2)
        return {
            "boundaries": _boundaries(found, bounds, inside),
            "ious": 5 * sampled_squared_error(by_value, iou, valid, draws, zeros=False),
            "iou_classes": balanced_cross_entropy(by_class, iou, valid, threshold=self.positive_iou),
            **self.class_terms(output, targets),
        }
