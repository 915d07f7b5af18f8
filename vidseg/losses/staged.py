"""The losses that segmentation networks were published with, behind one interface.

Whoever trains need not know the network:

    loss = create_loss(name, num_classes=K, label_sequences=training_labels)
    output = model(features, mask, **loss.model_inputs(labels, mask, seeds=seeds))
    loss(output, labels, mask, features=features).backward()

A batch's loss is a mean over its valid frames (MS-TCN, MS-TCN++, ASFormer, C2F-TCN, ASRF's cross entropy) or over its
videos' means (ASRF's other terms, DiffAct), never over padding: the same however far the batch is padded.

Shapes: B videos, D feature width, K classes, L frames, S stages.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from vidseg.losses.segmentation import (
    boundary_cross_entropy,
    cross_entropy,
    soft_cross_entropy,
    transition_cross_entropy,
    truncated_mse,
)
from vidseg.losses.shared import divisor
from vidseg.losses.targets import (
    boundary_frames,
    gaussian_similarity,
    median_frequency_weights,
    smoothed_boundaries,
    smoothed_labels,
)

__all__ = ["AsrfLoss", "C2fLoss", "DiffActLoss", "SegmentationLoss", "StagedLoss", "StagedOutput"]

IGNORED = -100
"""The label of frames that do not count: padding, and frames without a label."""


class StagedOutput(Protocol):
    """What losses read of a network's output (`vidseg.models._segmentation.SegmentationOutput`)."""

    logits: Tensor
    boundaries: Tensor | None


def _valid_frames(output: StagedOutput, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """bool (B, L) twice: the frames of the videos, and those of them that have a label.

    Raises:
        ValueError: the shapes do not fit, or a label is no class.
    """
    stages, videos, classes, frames = output.logits.shape
    if labels.shape != (videos, frames):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, but logits (S, B, K, L) = {(stages, videos, classes, frames)} "
            f"want {(videos, frames)}"
        )
    inside = labels != IGNORED if mask is None else mask
    labeled = inside & (labels != IGNORED)
    wrong = labeled & ((labels < 0) | (labels >= classes))
    if wrong.any():
        video, frame = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"label {int(labels[video, frame])} at frame {frame} of video {video} of the batch: classes are 0 to "
            f"{classes - 1}, and {IGNORED} is no label"
        )
    return inside, labeled


class SegmentationLoss(nn.Module, ABC):
    """A loss of segmentation networks: the sum of its terms."""

    @staticmethod
    def options_from_labels(counts: Tensor, boundaries: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that the published recipe takes from the training labels.

        Args:
            counts: int64 (K,), frames of each class.
            boundaries: the starts of actions in all videos.
            options: those that are given.
        """
        return {}

    def model_inputs(self, labels: Tensor, mask: Tensor | None, *, seeds: Sequence[int]) -> dict[str, Any]:
        """What the network takes in training besides features and mask: for most, nothing.

        Args:
            labels: int64 (B, L), -100 where there is none.
            mask: bool (B, L), or None.
            seeds: of each video's draws in this step, made of (seed, epoch, sample number).
        """
        return {}

    @abstractmethod
    def terms(
        self, output: StagedOutput, labels: Tensor, mask: Tensor | None = None, *, features: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms by name, each a scalar with its weight in it; arguments as for `forward`."""

    def forward(
        self, output: StagedOutput, labels: Tensor, mask: Tensor | None = None, *, features: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch: a scalar.

        Args:
            output: of the network.
            labels: int64 (B, L); frames labeled -100 have no class to learn.
            mask: bool (B, L), True on the frames of a video; None: those whose label is not -100, if none of these
                stands between others.
            features: (B, D, L), the network's input, for losses that look at it (ASRF's).

        Raises:
            ValueError: shapes do not fit, a label is no class, or the output or features lack what the loss reads.
        """
        return torch.stack(list(self.terms(output, labels, mask, features=features).values())).sum()


class StagedLoss(SegmentationLoss):
    """Cross entropy and truncated smoothing of every stage, summed (MS-TCN, equations 4 to 7; MS-TCN++, ASFormer).

    Args:
        num_classes: K.
        smoothing: weight of the smoothing.
        tau: its truncation, see `truncated_mse`.
        smoothing_mean: "frames": over valid frames. "padded": over padded ones too, as published; the two agree on
            batches of one video, as all published training has.
        class_weights: (K,), weights of the cross entropy; None: all 1.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        num_classes: int,
        smoothing: float = 0.15,
        tau: float = 4.0,
        smoothing_mean: Literal["frames", "padded"] = "frames",
        class_weights: Tensor | None = None,
    ):
        super().__init__()
        if smoothing_mean not in ("frames", "padded"):
            raise ValueError(f"smoothing_mean={smoothing_mean!r} is neither 'frames' nor 'padded'")
        self.smoothing = smoothing
        self.tau = tau
        self.smoothing_mean: Literal["frames", "padded"] = smoothing_mean
        self.register_buffer("class_weights", _class_weights(class_weights, num_classes), persistent=False)

    def terms(
        self, output: StagedOutput, labels: Tensor, mask: Tensor | None = None, *, features: Tensor | None = None
    ) -> dict[str, Tensor]:
        inside, labeled = _valid_frames(output, labels, mask)
        return self._terms(output.logits.float(), labels, inside, labeled)

    def _terms(self, logits: Tensor, labels: Tensor, inside: Tensor, labeled: Tensor) -> dict[str, Tensor]:
        entropy = cross_entropy(logits, labels, labeled, class_weights=self.class_weights)
        change = truncated_mse(logits, inside, tau=self.tau, mean=self.smoothing_mean)
        return {"cross_entropy": entropy.sum(), "smoothing": self.smoothing * change.sum()}


class C2fLoss(StagedLoss):
    """The same two terms on the ensemble alone: on the last stage, the logarithm of its probabilities (C2F-TCN).

    Args:
        num_classes: K.
        smoothing: weight of the smoothing.
        tau: its truncation.
        smoothing_mean: "frames" or "padded", see `StagedLoss`.
        class_weights: (K,), weights of the cross entropy; None: all 1.
        presence: weight of the video-level term of the paper's first version: binary cross entropy between each
            class's highest probability in a video and whether the video has the class. 0, as in the published code,
            leaves it out.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        smoothing: float = 0.15,
        tau: float = 4.0,
        smoothing_mean: Literal["frames", "padded"] = "frames",
        class_weights: Tensor | None = None,
        presence: float = 0.0,
    ):
        super().__init__(
            num_classes=num_classes,
            smoothing=smoothing,
            tau=tau,
            smoothing_mean=smoothing_mean,
            class_weights=class_weights,
        )
        self.presence = presence

    def _terms(self, logits: Tensor, labels: Tensor, inside: Tensor, labeled: Tensor) -> dict[str, Tensor]:
        terms = super()._terms(logits[-1:], labels, inside, labeled)
        if self.presence:
            classes = torch.arange(logits.shape[2], device=labels.device)[:, None]
            there = ((labels[:, None] == classes) & labeled[:, None]).any(dim=2).float()
            highest = logits[-1].log_softmax(dim=1).masked_fill(~inside[:, None], -torch.inf).amax(dim=2)
            # log(1 - p) of a class that fills a frame: kept finite, as binary cross entropy does.
            absent = (-highest.expm1()).clamp(min=1e-12).log()
            each = (there * highest + (1 - there) * absent).mean(dim=1)
            terms["presence"] = -self.presence * each.sum() / divisor(each.new_tensor(len(each)))
        return terms


class AsrfLoss(SegmentationLoss):
    """Classes and boundaries, each the mean over its stages (ASRF, section 3.5).

    Args:
        num_classes: K.
        class_weights: (K,), of the cross entropy; the recipe's are `median_frequency_weights`. None: all 1.
        boundary_weight: factor of boundary frames; the recipe's is frames / boundaries. None: 1.
        smoothing: weight of the smoothing between similar frames; 1, as the published code uses whatever it is told.
        tau: its truncation, see `truncated_mse`.
        sigma: of the similarity of two frames' features, see `gaussian_similarity`.
        boundary: weight of the boundaries' term.
        smoothing_over: what the smoothing's softmax runs over: "classes", or "time", as the published code computes.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        num_classes: int,
        class_weights: Tensor | None = None,
        boundary_weight: float | None = None,
        smoothing: float = 1.0,
        tau: float = 4.0,
        sigma: float = 1.0,
        boundary: float = 0.1,
        smoothing_over: Literal["classes", "time"] = "classes",
    ):
        super().__init__()
        if smoothing_over not in ("classes", "time"):
            raise ValueError(f"smoothing_over={smoothing_over!r} is neither 'classes' nor 'time'")
        self.register_buffer("class_weights", _class_weights(class_weights, num_classes), persistent=False)
        self.boundary_weight = boundary_weight
        self.smoothing = smoothing
        self.tau = tau
        self.sigma = sigma
        self.boundary = boundary
        self.smoothing_over: Literal["classes", "time"] = smoothing_over

    @staticmethod
    def options_from_labels(counts: Tensor, boundaries: int, options: Mapping[str, Any]) -> dict[str, Any]:
        weight = float(counts.sum()) / max(1, boundaries)
        return {"class_weights": median_frequency_weights(counts), "boundary_weight": weight}

    def terms(
        self, output: StagedOutput, labels: Tensor, mask: Tensor | None = None, *, features: Tensor | None = None
    ) -> dict[str, Tensor]:
        inside, labeled = _valid_frames(output, labels, mask)
        if features is None or output.boundaries is None:
            missing = "the network's input, features=(B, D, L)" if features is None else "an output with boundaries"
            raise ValueError(f"the loss of ASRF needs {missing}")
        logits = output.logits.float()
        similarity = gaussian_similarity(features.float(), sigma=self.sigma)
        entropy = cross_entropy(logits, labels, labeled, class_weights=self.class_weights)
        change = truncated_mse(
            logits,
            inside,
            tau=self.tau,
            mean="videos",
            over=self.smoothing_over,
            detach=False,
            similarity=similarity,
        )
        boundary = boundary_cross_entropy(
            output.boundaries.float(), boundary_frames(labels, inside), labeled, boundary_weight=self.boundary_weight
        )
        return {
            "cross_entropy": entropy.mean(),
            "smoothing": self.smoothing * change.mean(),
            "boundary": self.boundary * boundary.mean(),
        }


class DiffActLoss(SegmentationLoss):
    """Cross entropy and smoothing of encoder and decoder, boundaries of the decoder (DiffAct, section 3.4).

    A batch's loss is the mean of its videos' losses, as if their gradients were accumulated. Defaults are GTEA's.

    Args:
        num_classes: K.
        cross_entropy: weight of the cross entropies.
        smoothing: weight of the smoothing.
        boundary: weight of the decoder's boundaries.
        soft_label: sigma, in frames, by which labels blend into each other; None: hard labels.
        boundary_smooth: sigma, in frames, of the boundaries; None: not blurred.
        class_weights: (K,), of hard labels; the recipe's are frames / ((frames of the class + 10) * K). None: all 1.

    Raises:
        ValueError: weights of classes together with soft labels, which the published loss does not have.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        num_classes: int,
        cross_entropy: float = 0.5,
        smoothing: float = 0.1,
        boundary: float = 0.1,
        soft_label: float | None = 1.4,
        boundary_smooth: float | None = 1.0,
        class_weights: Tensor | None = None,
    ):
        super().__init__()
        if soft_label is not None and class_weights is not None:
            raise ValueError(f"class_weights do nothing to soft labels (soft_label={soft_label}): give one of the two")
        self.num_classes = num_classes
        self.cross_entropy = cross_entropy
        self.smoothing = smoothing
        self.boundary = boundary
        self.soft_label = soft_label
        self.boundary_smooth = boundary_smooth
        self.register_buffer("class_weights", _class_weights(class_weights, num_classes), persistent=False)

    @staticmethod
    def options_from_labels(counts: Tensor, boundaries: int, options: Mapping[str, Any]) -> dict[str, Any]:
        if options.get("soft_label", 1.4) is not None:
            return {}
        return {"class_weights": counts.sum() / ((counts + 10.0) * len(counts))}

    def model_inputs(self, labels: Tensor, mask: Tensor | None, *, seeds: Sequence[int]) -> dict[str, Any]:
        """Labels and boundaries, which the decoder sees noisy and partly hidden, and the seeds of both."""
        inside = labels != IGNORED if mask is None else mask
        boundaries = smoothed_boundaries(labels, inside, sigma=self.boundary_smooth)
        return {"labels": labels, "boundaries": boundaries, "seeds": list(seeds)}

    def terms(
        self, output: StagedOutput, labels: Tensor, mask: Tensor | None = None, *, features: Tensor | None = None
    ) -> dict[str, Tensor]:
        inside, labeled = _valid_frames(output, labels, mask)
        logits = output.logits.float()
        if self.soft_label is None:
            entropy = cross_entropy(logits, labels, labeled, class_weights=self.class_weights, mean="videos")
        else:
            soft = smoothed_labels(labels, inside, num_classes=self.num_classes, sigma=self.soft_label)
            entropy = soft_cross_entropy(logits, soft, labeled)
        change = truncated_mse(logits, inside, mean="videos")
        boundaries = smoothed_boundaries(labels, inside, sigma=self.boundary_smooth)
        boundary = transition_cross_entropy(logits[-1:], boundaries, inside)
        return {
            "encoder_cross_entropy": self.cross_entropy * entropy[0],
            "encoder_smoothing": self.smoothing * change[0],
            "decoder_cross_entropy": self.cross_entropy * entropy[-1],
            "decoder_smoothing": self.smoothing * change[-1],
            "decoder_boundary": self.boundary * boundary[-1],
        }


def _class_weights(weights: Tensor | Sequence[float] | None, num_classes: int) -> Tensor | None:
    if weights is None:
        return None
    weights = torch.as_tensor(weights, dtype=torch.float32)
    if weights.shape != (num_classes,) or not (weights >= 0).all() or not weights.isfinite().all():
        raise ValueError(
            f"class_weights must be {num_classes} finite numbers, none negative, but are {weights.tolist()}"
        )
    return weights
