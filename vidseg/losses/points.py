"""Losses of the detection networks that predict a segment at every point of a feature pyramid: ActionFormer, TriDet.

A point is positive if it lies near the center of an instance whose boundaries are within the range of distances of the
level. The loss is the sum of a focal loss over the classes of all points and a distance-IoU loss over the segments of
positive points, both divided by a moving average of the number of positive points.

Sources: ActionFormer, arXiv 2202.07925, section 3.3; TriDet, arXiv 2303.07347, section 3.4; their published code.

Shapes: B videos, K classes, L columns, M instances, N points.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vidseg.losses.detection import DetectedOutput, DetectionLoss, DetectionTargets
from vidseg.losses.shared import batch_mean

__all__ = [
    "ActionFormerLoss",
    "PointLoss",
    "PointTargets",
    "TriDetLoss",
    "assign_points",
    "distance_iou_loss",
    "offset_iou",
    "sigmoid_focal_loss",
]

_SAME_LENGTH = 1e-3
"""Instances of lengths that differ by less, in columns, share a point (as published)."""

_EPS = 1e-8


class PointTargets(NamedTuple):
    """Targets of points."""

    classes: Tensor
    """bool (B, N, K), classes of each point; none for points that are not positive."""
    offsets: Tensor
    """(B, N, 2), distances to start and end in strides of the point; without meaning if the point is not positive."""


def assign_points(
    points: Tensor,
    targets: DetectionTargets,
    *,
    num_classes: int,
    ranges: Sequence[tuple[float, float]] | None = None,
    radius: float | None = 1.5,
) -> PointTargets:
    """Assign instances to points.

    A point belongs to an instance if it is strictly inside the instance and within `radius` strides of its center, and
    the larger distance to its boundaries is in the range of the level. If there are several, the shortest instance is
    chosen, the first one on ties; classes of other instances of the same length up to 0.001 columns are added.

    Args:
        points: (N, 2), position and stride in columns; level i has stride 2^i.
        targets: instances of B videos.
        num_classes: K.
        ranges: lowest and highest distance of each level in columns. None: 0 to 4, 4 to 8, 8 to 16 and so on, without
            limit at the last level.
        radius: largest distance from the center in strides; None: no limit.

    Raises:
        ValueError: `ranges` does not have one entry for each level.
    """
    position, stride = points.to(torch.promote_types(points.dtype, targets.segments.dtype))[:, :, None].unbind(dim=1)
    low, high = _ranges(points, ranges).to(position.dtype)[:, :, None].unbind(dim=1)
    start, end = targets.segments[:, None].unbind(dim=-1)  # (B, 1, M)
    left, right = position - start, end - position  # (B, N, M)
    inside = (left > 0) & (right > 0)
    if radius is not None:
        inside &= (position - (start + end) / 2).abs() < radius * stride
    farther = torch.maximum(left, right)
    fits = inside & (farther >= low) & (farther <= high) & targets.valid[:, None]
    if not fits.shape[2]:
        none = torch.zeros(*fits.shape[:2], num_classes, dtype=torch.bool, device=fits.device)
        return PointTargets(none, left.new_zeros(*fits.shape[:2], 2))
    lengths = (end - start).expand_as(left).masked_fill(~fits, torch.inf)
    shortest, chosen = lengths.min(dim=2, keepdim=True)
    shared = (lengths <= shortest + _SAME_LENGTH) & fits
    one_hot = F.one_hot(targets.labels.clamp(min=0), num_classes)
    classes = (shared.to(left.dtype) @ one_hot.to(left.dtype)) > 0
    offsets = torch.cat([left.gather(2, chosen), right.gather(2, chosen)], dim=2) / stride
    return PointTargets(classes, offsets)


def _ranges(points: Tensor, ranges: Sequence[tuple[float, float]] | None) -> Tensor:
    """Return the lowest and the highest distance of each point, (N, 2)."""
    stride = points[:, 1]
    if ranges is None:
        low = torch.where(stride > 1, 2 * stride, 0)
        return torch.stack([low, torch.where(stride < stride.max(), 4 * stride, torch.inf)], dim=1)
    level = stride.log2().round().long()
    if len(ranges) != int(level.max()) + 1:
        raise ValueError(f"ranges has {len(ranges)} entries, but the network has {int(level.max()) + 1} levels")
    return torch.tensor([list(pair) for pair in ranges], device=points.device)[level]


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Compute the focal loss of independent classes (arXiv 1708.02002), element by element.

    Args:
        logits: scores before the sigmoid.
        targets: from 0 to 1, the same shape.
        alpha: weight of target 1; target 0 has 1 - alpha.
        gamma: exponent of the factor that reduces the weight of easy elements.
    """
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    wrong = probability + targets - 2 * probability * targets
    return entropy * wrong**gamma * torch.lerp(targets.new_tensor(1 - alpha), targets.new_tensor(alpha), targets)


def offset_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the IoU of segments that contain a common point, from distances to start and end: (..., 2) -> (...)."""
    common = torch.minimum(predicted, target).sum(dim=-1)
    union = torch.maximum(predicted, target).sum(dim=-1)
    return common / union.clamp(min=_EPS)


def distance_iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Compute the distance-IoU loss (arXiv 1911.08287) of segments that contain a common point.

    The loss is 1 - IoU + (distance of the centers / length of the union)^2.

    Args:
        predicted: (..., 2), distances to start and end, at least 0.
        target: (..., 2), at least 0.

    Returns:
        (...).
    """
    union = torch.maximum(predicted, target).sum(dim=-1).clamp(min=_EPS)
    (left, right), (target_left, target_right) = predicted.unbind(dim=-1), target.unbind(dim=-1)
    centers = (right - left - target_right + target_left) / 2
    return 1 - offset_iou(predicted, target) + (centers / union).square()


class PointLoss(DetectionLoss):
    """Base class: focal loss of all points and distance-IoU loss of positive points.

    Args:
        num_classes: K.
        ranges: lowest and highest distance of each level in columns, see `assign_points`. Published for EPIC-Kitchens:
            ((0, 4), (2, 8), (4, 16), (8, 32), (16, 64), (32, inf)).
        radius: largest distance of a positive point from the center of its instance, in strides; None: no limit.
        regression: weight of the distance-IoU loss.
        label_smoothing: share of the targets that is spread over K + 1 classes; published: 0.1 for ActivityNet.
        alpha: weight of positive classes in the focal loss.
        gamma: exponent of the focal loss.
        initial_positives: initial value of the moving average of the number of positive points of a video. Published
            for a batch: 100 for 2 videos of THUMOS-14, 250 for 2 of EPIC-Kitchens, 400 for 16 of ActivityNet.
        momentum: share of the old value in an update of the moving average, from 0 to below 1. Each call in training
            mode updates it, the buffer `positives`; in evaluation mode it is constant.
        class_agnostic: of a network with a single class, an action of any kind: the labels are ignored.

    Raises:
        ValueError: an option is out of range.
    """

    positives: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        ranges: Sequence[tuple[float, float]] | None = None,
        radius: float | None = 1.5,
        regression: float = 1.0,
        label_smoothing: float = 0.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        initial_positives: float = 50.0,
        momentum: float = 0.9,
        class_agnostic: bool = False,
    ):
        super().__init__(num_classes=num_classes)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} must be at least 0 and below 1")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must be at least 0 and below 1")
        if initial_positives <= 0:
            raise ValueError(f"initial_positives={initial_positives} must be above 0")
        self.ranges = ranges
        self.radius = radius
        self.regression = regression
        self.label_smoothing = label_smoothing
        self.alpha = alpha
        self.gamma = gamma
        self.momentum = momentum
        self.class_agnostic = class_agnostic
        self.register_buffer("positives", torch.tensor(float(initial_positives)))

    def terms(
        self,
        output: DetectedOutput,
        targets: DetectionTargets,
        mask: Tensor | None = None,
        *,
        seeds: Sequence[int],
    ) -> dict[str, Tensor]:
        outputs = self.num_classes
        if self.class_agnostic:
            outputs, targets = 1, DetectionTargets(targets.segments, targets.labels.clamp(max=0))
        assigned = assign_points(
            output.predictions["points"],
            targets,
            num_classes=outputs,
            ranges=self.ranges,
            radius=self.radius,
        )
        classes = assigned.classes & output.valid[:, :, None]
        logits, offsets = (
            value.to(torch.promote_types(value.dtype, torch.float32))
            for value in (output.predictions["logits"], output.predictions["offsets"])
        )
        smoothed = classes.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / (outputs + 1)
        focal = sigmoid_focal_loss(logits, smoothed, alpha=self.alpha, gamma=self.gamma)
        place, predicted = self._positive(offsets, classes)
        target = assigned.offsets.to(offsets.dtype)[place[0], place[1]]
        focal = self._weighted(focal, classes, predicted, target).masked_fill(~output.valid[:, :, None], 0)
        normalizer = self._normalizer(classes.any(dim=2).sum(), videos=len(classes))
        return {
            "classes": focal.sum() / normalizer,
            "segments": self.regression * distance_iou_loss(predicted, target).sum() / normalizer,
        }

    def _normalizer(self, count: Tensor, *, videos: int) -> Tensor:
        """Update the moving average with the number of positive points of the batch; return its multiple for the batch.

        The average is that of a video, so it depends neither on the batch size nor on the number of processes.
        """
        videos_here = batch_mean(self.positives.new_tensor(float(videos)))
        if self.training:
            new = batch_mean(count.to(self.positives.dtype)).clamp(min=1) / videos_here
            self.positives = torch.lerp(new, self.positives, self.momentum)
        return self.positives * videos_here

    @abstractmethod
    def _positive(self, offsets: Tensor, classes: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the indices of positive points, video and point first, and the predicted offsets there (P, 2)."""

    def _weighted(self, focal: Tensor, classes: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
        """Return the focal loss (B, N, K), weighted by the quality of the predicted segments."""
        return focal


class ActionFormerLoss(PointLoss):
    """Loss of ActionFormer. The options are those of `PointLoss`."""

    def _positive(self, offsets: Tensor, classes: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        place = classes.any(dim=2).nonzero(as_tuple=True)
        return place, offsets[place]


class TriDetLoss(PointLoss):
    """Loss of TriDet: one segment for each class of a point, and focal losses weighted by the IoU of the segments.

    Args:
        num_classes: K.
        iou_power: exponent of the IoU between predicted and true segment, which multiplies the focal loss of a positive
            class. Published: 0.2 for THUMOS-14, 0.25 for EPIC-Kitchens nouns, 1 for ActivityNet and HACS.
        ranges: as for `PointLoss`.
        radius: as for `PointLoss`.
        regression: as for `PointLoss`.
        label_smoothing: as for `PointLoss`.
        alpha: as for `PointLoss`.
        gamma: as for `PointLoss`.
        initial_positives: as for `PointLoss`.
        momentum: as for `PointLoss`.
        class_agnostic: as for `PointLoss`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        iou_power: float = 0.2,
        ranges: Sequence[tuple[float, float]] | None = None,
        radius: float | None = 1.5,
        regression: float = 1.0,
        label_smoothing: float = 0.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        initial_positives: float = 50.0,
        momentum: float = 0.9,
        class_agnostic: bool = False,
    ):
        super().__init__(
            num_classes=num_classes,
            ranges=ranges,
            radius=radius,
            regression=regression,
            label_smoothing=label_smoothing,
            alpha=alpha,
            gamma=gamma,
            initial_positives=initial_positives,
            momentum=momentum,
            class_agnostic=class_agnostic,
        )
        self.iou_power = iou_power

    def _positive(self, offsets: Tensor, classes: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        place = classes.nonzero(as_tuple=True)
        return place, offsets[place]

    def _weighted(self, focal: Tensor, classes: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
        # The power has an infinite gradient at 0.
        quality = offset_iou(predicted, target).clamp(min=_EPS) ** self.iou_power
        return focal.masked_scatter(classes, focal[classes] * quality)
