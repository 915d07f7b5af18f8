"""ETAD: a detector that refines and scores sampled proposals in a cascade of stages.

"ETAD: Training Action Detection End to End on a Laptop", CVPRW 2023, arXiv 2205.07134. A base of convolutions and two
LSTMs computes features of each column; a temporal evaluation module (TEM) predicts starts and ends; each stage of the
proposal evaluation module (PEM) scores the proposals and moves their ends. Parameter names are those of the published
weights. `ig65m_r2plus1d_34` is the encoder of the published features.

Positions are in columns of the features; the published code uses fractions of the 128 columns of a video.

Shapes: B videos, C channels, D feature width, K classes, L columns, N proposals, S stages, M instances.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from vidseg.models._detection import (
    DetectionOutput,
    ProposalClassifier,
    align_segments,
    dense_proposals,
    in_chunks,
    probabilities,
    training_segments,
)
from vidseg.models._linear import RowLinear
from vidseg.models._recurrent import run_recurrent
from vidseg.models._registry import register_model
from vidseg.models._segmentation import clear_padding, find_padding, video_lengths

__all__ = ["Etad", "refine_segments"]

_GROUPS = 4
"""Groups of the convolutions."""
_NORM_GROUPS = 16
"""Groups of the group normalization."""


def refine_segments(segments: Tensor, regression: Tensor) -> Tensor:
    """Move the ends of segments: the mean of a start/end and a center/width refinement.

    Args:
        segments: (..., 2), start and end.
        regression: (..., 4), offsets of start, end and center in lengths of the segment, and the logarithm of the
            change of its length.

    Returns:
        (..., 2), start and end; not limited to the video.
    """
    start, end = segments.unbind(dim=-1)
    by_start, by_end, by_center, by_width = regression.unbind(dim=-1)
    length, center = end - start, (start + end) / 2
    # An untrained network may predict any change; the limit keeps positions finite.
    half = length * by_width.clamp(max=10).exp() / 2
    moved = center + by_center * length
    return torch.stack(
        [(start + by_start * length + moved - half) / 2, (end + by_end * length + moved + half) / 2], dim=-1
    )


class _Unit(nn.ModuleList):
    """Grouped convolution without bias, group normalization over the columns of each video, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        conv = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2, groups=_GROUPS, bias=False)
        super().__init__([conv, nn.GroupNorm(_NORM_GROUPS, outputs)])

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        conv, norm = self
        x = conv(x)
        if padding is None:
            return norm(x).relu()
        assert isinstance(norm, nn.GroupNorm)
        grouped = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, (norm.num_groups, -1))
        inside = ~padding[:, None]
        count = video_lengths(x, padding)[:, None, None, None] * grouped.shape[2]
        mean = (grouped * inside).sum(dim=(2, 3), keepdim=True) / count
        centered = (grouped - mean) * inside
        scale = (centered.square().sum(dim=(2, 3), keepdim=True) / count + norm.eps).rsqrt()
        normal = (centered * scale).flatten(1, 2) * norm.weight[:, None] + norm.bias[:, None]
        return clear_padding(normal.relu().to(norm.weight.dtype), padding)


class _Base(nn.Module):
    """Features of each column: convolutions, and one LSTM in each direction of time."""

    def __init__(self, in_features: int, maps: int):
        super().__init__()
        self.layer1 = _Unit(in_features, maps, 3)
        self.mem_f = nn.LSTM(maps, maps)
        self.mem_b = nn.LSTM(maps, maps)
        self.layer2_f = _Unit(maps, maps // 2, 3)
        self.layer2_b = _Unit(maps, maps // 2, 3)
        self.layer2_d = _Unit(maps, maps, 3)
        self.layer3 = _Unit(2 * maps, maps, 1)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        x = self.layer1(x, padding)
        forward = run_recurrent(self.mem_f, x.permute(2, 0, 1))[0].permute(1, 2, 0)
        backward = _reverse(
            run_recurrent(self.mem_b, _reverse(x, padding).permute(2, 0, 1))[0].permute(1, 2, 0), padding
        )
        parts = [
            self.layer2_f(clear_padding(forward, padding), padding),
            self.layer2_d(x, padding),
            self.layer2_b(clear_padding(backward, padding), padding),
        ]
        return self.layer3(torch.cat(parts, dim=1), padding)


def _reverse(x: Tensor, padding: Tensor | None) -> Tensor:
    """Reverse the valid columns of each video (B, C, L) and leave the padding in place."""
    if padding is None:
        return x.flip(2)
    columns = torch.arange(x.shape[2], device=x.device)
    backward = video_lengths(x, padding)[:, None] - 1 - columns
    return x.gather(2, backward.where(backward >= 0, columns)[:, None].expand(-1, x.shape[1], -1))


def _branch(*widths: int) -> nn.Sequential:
    """Return linear layers with a ReLU between two of them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [RowLinear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class _ProposalStage(nn.Module):
    """Proposal evaluation of one stage."""

    def __init__(self, maps: int, roi_size: int, hidden: int):
        super().__init__()
        self.roi_size = roi_size
        width, branch = maps // 2, hidden // 4
        self.reduce_dim_before = nn.Sequential(nn.Conv1d(maps, width, 3, padding=1), nn.ReLU())
        self.reduce_dim_ext = nn.Sequential(RowLinear(width * roi_size, hidden), nn.ReLU())
        self.iou_fc = _branch(hidden, branch, branch, branch, 2)
        self.cls_se_fc = _branch(hidden, branch, branch, branch, 2)
        self.reg_cw_fc = _branch(hidden, branch, branch, branch, 2)
        ends = (width * roi_size // 4, hidden, branch, branch, branch, 1)
        self.reg_s_fc = _branch(*ends)
        self.reg_e_fc = _branch(*ends)

    def reduce(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Halve the number of channels: (B, maps, L) -> (B, maps / 2, L), 0 on padding."""
        return clear_padding(self.reduce_dim_before(x), padding)

    def forward(self, x: Tensor, segments: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Score proposals.

        Args:
            x: (B, maps / 2, L), result of `reduce`.
            segments: (B, N, 2).
            padding: bool (B, 1, L), or None.

        Returns:
            (B, N, 2) IoU as classified and as regressed; (B, N, 4) offsets for `refine_segments`; (B, N, 2)
            probabilities that the segment begins at a start and ends at an end. All in at least single precision.
        """
        aligned = align_segments(x, segments, self.roi_size, padding=padding, extend=0.5, shift=0.0)
        ends = self.roi_size // 4
        whole = self.reduce_dim_ext(aligned.flatten(1))
        offsets = [
            self.reg_s_fc(aligned[..., :ends].flatten(1)),
            self.reg_e_fc(aligned[..., -ends:].flatten(1)),
            self.reg_cw_fc(whole) / 2,
        ]
        regression = torch.cat(offsets, dim=1)
        found = (
            probabilities(self.iou_fc(whole)),
            regression.to(torch.promote_types(regression.dtype, torch.float32)),
            probabilities(self.cls_se_fc(whole)),
        )
        ious, offsets_of, bounds = (value.unflatten(0, segments.shape[:2]) for value in found)
        return ious, offsets_of, bounds


class Etad(nn.Module):
    """Detector of ETAD.

    `predictions` of the output:

    - "starts", "ends" (B, L): probabilities of the TEM, 0 on padding.
    - "proposals" (S, B, N, 2): segments that enter each stage.
    - "ious" (S, B, N, 2): IoU with an instance, as classified and as regressed.
    - "regression" (S, B, N, 4): offsets of start, end and center and logarithm of the change of length.
    - "bounds" (S, B, N, 2): probabilities that a segment begins at a start and ends at an end.
    - "class_logits" (B, M, K): classes of the segments `instances`, with class_agnostic=False and if they are given.

    `segments` is the mean of the results of the stages, `scores` the mean classified IoU times the mean regressed IoU.

    Args:
        num_classes: K; has an effect with class_agnostic=False only.
        in_features: D.
        stages: S.
        roi_size: number of columns to which a proposal is resampled, a multiple of 4; OpenTAD uses 16.
        maps: number of channels of the base, a multiple of 64.
        hidden: width of the first linear layers, a multiple of 4.
        max_duration: longest proposal in columns without given proposals; None: the whole sequence.
        class_agnostic: propose segments without a class. False: add a classifier of proposals; in evaluation mode,
            scores are (B, N, K), the score of the proposal times the probability of the class.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_features: int = 512,
        stages: int = 3,
        roi_size: int = 24,
        maps: int = 256,
        hidden: int = 512,
        max_duration: int | None = None,
        class_agnostic: bool = True,
    ):
        super().__init__()
        for name, value, unit in (("roi_size", roi_size, 4), ("maps", maps, 64), ("hidden", hidden, 4)):
            if value < unit or value % unit:
                raise ValueError(f"{name}={value} must be a multiple of {unit}")
        if in_features % _GROUPS:
            raise ValueError(f"in_features={in_features} must be a multiple of {_GROUPS}, the groups of a convolution")
        if stages < 1:
            raise ValueError(f"stages={stages} must be at least 1")
        if max_duration is not None and max_duration < 1:
            raise ValueError(f"max_duration={max_duration} must be at least 1")
        self.num_classes = num_classes
        self.in_features = in_features
        self.class_agnostic = class_agnostic
        self.max_duration = max_duration
        self.temporal_enhance = _Base(in_features, maps)
        self.tem = nn.Sequential(nn.Conv1d(maps, maps, 3, padding=1, groups=_GROUPS), nn.ReLU(), nn.Conv1d(maps, 2, 1))
        self.stage_conv = nn.ModuleList(
            nn.Sequential(nn.Conv1d(maps, maps, 3, padding=1, groups=_GROUPS), nn.ReLU()) for _ in range(stages)
        )
        self.stage_pem = nn.ModuleList(_ProposalStage(maps, roi_size, hidden) for _ in range(stages))
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if not class_agnostic:
            self.classifier = ProposalClassifier(maps, num_classes=num_classes)
            self.classifier_name = "classifier"

    def forward(
        self,
        features: Tensor,
        mask: Tensor | None = None,
        proposals: Tensor | None = None,
        instances: Tensor | None = None,
    ) -> DetectionOutput:
        """Score and refine proposals.

        Args:
            features: (B, D, L).
            mask: bool (B, L), True on valid columns; None: no column is padding.
            proposals: (B, N, 2), segments in columns to score; entries that do not end after their start fill the
                batch. None: all segments between two column edges, see `dense_proposals`.
            instances: (B, M, 2), segments for "class_logits", see `EtadLoss`; with class_agnostic=False only.

        Raises:
            ValueError: a shape or dtype is wrong, or `instances` of a class-agnostic network.
        """
        padding = find_padding(features, mask, in_features=self.in_features)
        if proposals is None:
            dense = dense_proposals(features.shape[2], max_duration=self.max_duration, device=features.device)
            valid = dense[:, 1] <= video_lengths(features, padding)[:, None]
            proposals = dense.expand(features.shape[0], -1, -1)
        else:
            valid = proposals[..., 1] > proposals[..., 0]
        proposals = training_segments(proposals, features, what="proposals")
        x = self.temporal_enhance(clear_padding(features, padding), padding)
        bounds = clear_padding(probabilities(self.tem(x)), padding)
        levels = []
        for conv, pem in zip(self.stage_conv, self.stage_pem, strict=True):
            assert isinstance(pem, _ProposalStage)
            levels.append(pem.reduce(clear_padding(x + conv(x), padding), padding))
        entered, ious, regression, se, segments = in_chunks(
            lambda part: self._cascade(levels, part, padding), proposals
        )
        predictions = {
            "starts": bounds[:, 0],
            "ends": bounds[:, 1],
            "proposals": entered,
            "ious": ious,
            "regression": regression,
            "bounds": se,
        }
        scores = ious.mean(dim=0).prod(dim=2, keepdim=True)
        if instances is not None:
            if self.class_agnostic:
                raise ValueError("instances without effect; create the network with class_agnostic=False")
            chosen = training_segments(instances, features, what="instances")
            predictions["class_logits"] = self.classifier(x, chosen, padding)
        if not self.class_agnostic and not self.training:
            scores = scores * self.classifier(x, segments, padding).softmax(dim=2)
        return DetectionOutput(segments, scores * valid[..., None], valid, predictions)

    def _cascade(self, levels: list[Tensor], segments: Tensor, padding: Tensor | None) -> tuple[Tensor, ...]:
        """Return the segments that enter the stages, IoU, regression and bounds, and the mean of the results."""
        entered, found, refined = [], [], []
        for x, pem in zip(levels, self.stage_pem, strict=True):
            entered.append(segments)
            found.append(pem(x, segments, padding))
            segments = refine_segments(segments, found[-1][1].detach())
            refined.append(segments)
        ious, regression, bounds = (torch.stack(each) for each in zip(*found, strict=True))
        return torch.stack(entered), ious, regression, bounds, torch.stack(refined).mean(dim=0)


register_model("etad", Etad, task="detection")
