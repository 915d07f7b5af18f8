"""Published losses of segmentation networks with one interface.

Training code is the same for every network:

    loss = create_loss(name, num_classes=K, label_sequences=training_labels)
    output = model(features, mask, **loss.model_inputs(labels, mask, seeds=seeds))
    loss(output, labels, mask, features=features).backward()

The loss of a batch is a mean over its valid frames (MS-TCN, MS-TCN++, ASFormer, C2F-TCN, cross-entropy of ASRF) or over
the means of its videos (other terms of ASRF, DiffAct). Padding does not change it.

Shapes: B videos, D feature width, K classes, L frames, S stages.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from vidseg.losses.shared import divisor
from vidseg.losses.targets import (
    boundary_frames,
    gaussian_similarity,
    median_frequency_weights,
    smoothed_boundaries,
    smoothed_labels,
)
from vidseg.losses.terms import (
    boundary_cross_entropy,
    cross_entropy,
    soft_cross_entropy,
    transition_cross_entropy,
    truncated_mse,
)

__all__ = ["AsrfLoss", "C2fLoss", "DiffActLoss", "SegmentationLoss", "StagedLoss", "StagedOutput"]

IGNORED = -100
"""Label of excluded frames: padding, and frames without a label."""


class StagedOutput(Protocol):
    """Fields of a network's output that losses read (`vidseg.models._segmentation.SegmentationOutput`)."""

    logits: Tensor
    boundaries: Tensor | None


def _valid_frames(output: StagedOutput, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return two bool masks (B, L): frames inside the videos, and those of them with a label.

    Raises:
        ValueError: shapes do not match, or a label is not a class number.
    """
    stages, videos, classes, frames = output.logits.shape
    if labels.shape != (videos, frames):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, expected {(videos, frames)} for logits (S, B, K, L) = "
            f"{(stages, videos, classes, frames)}"
        )
    inside = labels != IGNORED if mask is None else mask
    labeled = inside & (labels != IGNORED)
    wrong = labeled & ((labels < 0) | (labels >= classes))
    if wrong.any():
        video, frame = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"label {int(labels[video, frame])} at frame {frame} of video {video} of the batch; expected 0 to "
            f"{classes - 1}, or {IGNORED} for no label"
        )
    return inside, labeled


class SegmentationLoss(nn.Module, ABC):
    """Base class of segmentation losses; the loss is the sum of its terms."""

    @staticmethod
    def options_from_labels(counts: Tensor, boundaries: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that the published recipe computes from the training labels.

        Args:
            counts: int64 (K,), number of frames of each class.
            boundaries: number of action starts in all videos.
            options: explicit options.
        """
        return {}

    def model_inputs(self, labels: Tensor, mask: Tensor | None, *, seeds: Sequence[int]) -> dict[str, Any]:
        """Return additional inputs of the network in training; most networks have none.

        Args:
            labels: int64 (B, L), -100 without a label.
            mask: bool (B, L), or None.
            seeds: random seed of each video for this step, derived from (seed, epoch, sample number).
        """
        return {}

    @abstractmethod
    def terms(
        self, output: StagedOutput, labels: Tensor, mask: Tensor | None = None, *, features: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the weighted terms by name, each a scalar; arguments as for `forward`."""

    def forward(
        self, output: StagedOutput, labels: Tensor, mask: Tensor | None = None, *, features: Tensor | None = None
    ) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Args:
            output: output of the network.
            labels: int64 (B, L); frames labeled -100 are ignored.
            mask: bool (B, L), True for the frames of a video; None: frames with a label other than -100, which must be
                contiguous.
            features: (B, D, L), input of the network, required by the loss of ASRF.

        Raises:
            ValueError: shapes do not match, a label is not a class number, or an input of the loss is missing.
        """
        return torch.stack(list(self.terms(output, labels, mask, features=features).values())).sum()


class StagedLoss(SegmentationLoss):
    """Cross-entropy and truncated smoothing of every stage, summed (MS-TCN, equations 4 to 7; MS-TCN++, ASFormer).

    Args:
        num_classes: number of classes K.
        smoothing: weight of the smoothing.
        tau: truncation of the smoothing, see `truncated_mse`.
        smoothing_mean: "frames": over valid frames. "padded": over padded frames too, as published; both are equal for
            batches of one video, which all published training uses.
        class_weights: (K,), class weights of the cross-entropy; None: all 1.
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
            raise ValueError(f"smoothing_mean is {smoothing_mean!r}, must be 'frames' or 'padded'")
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
    """Cross-entropy and smoothing of the last stage only, the log-probabilities of the ensemble (C2F-TCN).

    Args:
        num_classes: number of classes K.
        smoothing: weight of the smoothing.
        tau: truncation of the smoothing, see `truncated_mse`.
        smoothing_mean: "frames" or "padded", see `StagedLoss`.
        class_weights: (K,), class weights of the cross-entropy; None: all 1.
        presence: weight of the video-level term of the first version of the paper: binary cross-entropy between the
            highest probability of each class in a video and whether the class occurs in it. 0, as in the published
            code: no such term.
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
            # Keep log(1 - p) finite for p = 1, as torch's binary cross-entropy does.
            absent = (-highest.expm1()).clamp(min=1e-12).log()
            each = (there * highest + (1 - there) * absent).mean(dim=1)
            terms["presence"] = -self.presence * each.sum() / divisor(each.new_tensor(len(each)))
        return terms


class AsrfLoss(SegmentationLoss):
    """Class and boundary losses, each averaged over its stages (ASRF, section 3.5).

    Args:
        num_classes: number of classes K.
        class_weights: (K,), class weights of the cross-entropy; the published recipe uses `median_frequency_weights`.
            None: all 1.
        boundary_weight: factor of boundary frames; the published recipe uses frames / boundaries. None: 1.
        smoothing: weight of the smoothing between similar frames; the published code ignores its option and uses 1.
        tau: truncation of the smoothing, see `truncated_mse`.
        sigma: deviation of the similarity of two frames' features, see `gaussian_similarity`.
        boundary: weight of the boundary term.
        smoothing_over: dimension of the softmax of the smoothing: "classes", or "time" as in the published code.
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
            raise ValueError(f"smoothing_over is {smoothing_over!r}, must be 'classes' or 'time'")
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
            missing = "the input features=(B, D, L)" if features is None else "a network output with boundaries"
            raise ValueError(f"the ASRF loss requires {missing}")
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
    """Cross-entropy and smoothing of encoder and decoder, and boundaries of the decoder (DiffAct, section 3.4).

    The loss of a batch is the mean of its videos' losses, which equals gradient accumulation over videos. Defaults are
    those of GTEA.

    Args:
        num_classes: number of classes K.
        cross_entropy: weight of the cross-entropy terms.
        smoothing: weight of the smoothing.
        boundary: weight of the decoder's boundary term.
        soft_label: deviation in frames of the Gaussian that blurs labels; None: hard labels.
        boundary_smooth: deviation in frames of the Gaussian that blurs boundaries; None: not blurred.
        class_weights: (K,), class weights of hard labels; the published recipe uses frames / ((frames of the class +
            10) * K). None: all 1.

    Raises:
        ValueError: class weights are combined with soft labels, which the published loss does not support.
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
            raise ValueError(f"class_weights require hard labels, but soft_label is {soft_label}; set soft_label=None")
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
        """Return labels and boundaries, which the decoder sees with noise and masking, and the seeds of both."""
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
        raise ValueError(f"class_weights is {weights.tolist()}, must be {num_classes} finite numbers of at least 0")
    return weights
