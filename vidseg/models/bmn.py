"""BMN: boundary-matching network, which scores all segments of a video.

"BMN: Boundary-Matching Network for Temporal Action Proposal Generation", ICCV 2019, arXiv 1907.09702. Features are
sampled at 32 positions over each segment, also around it, and convolved over the map of all segments. Parameter names
are those of the published PyTorch code (JJBOY, MMAction2).

The published code multiplies the features by a fixed matrix of T x 32 x T x T values, of which 98.5 % are zero for
T = 100, and convolves the samples of each segment. Both operations are linear, so this module convolves the columns
first and then adds up the columns of each segment by index: the same result for any number of columns, without the
matrix and with about a sixtieth of the multiply-adds.

Shapes: B videos, C channels, D feature width, K classes, L columns, N proposals, M instances.
"""

import functools
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._detection import (
    DetectionOutput,
    ProposalClassifier,
    dense_proposals,
    probabilities,
    training_segments,
)
from vidseg.models._registry import register_model
from vidseg.models._segmentation import clear_padding, find_padding, video_lengths

__all__ = ["Bmn", "sampling_weights"]

_GROUPS = 4
_SAMPLES = 32
"""Samples of a segment; part of the shape of the published weights."""
_POINTS = 3
"""Points averaged in a sample."""
_EXTEND = 0.5
"""Share of its length by which a segment is extended on both sides."""

Axes = Literal["start_end", "duration_start"]


def sampling_weights(segments: Tensor, *, length: int, axes: Axes) -> tuple[Tensor, Tensor]:
    """Return the columns and weights of the samples of segments.

    The points of a segment are spaced evenly from half its length before its start to half its length after its end,
    both included, and are interpolated linearly between columns. Parts outside the sequence have the weight 0.

    Args:
        segments: int64 (N, 2), start and end in columns.
        length: number of columns L.
        axes: "start_end": the end is `segments[:, 1]`, as in JJBOY's code. "duration_start": the end is the last column
            of the segment, as in the paper's code and MMAction2. The length has one column more in both.

    Returns:
        int64 and float64 (N, 32, 6): column and weight of each term of a sample.
    """
    start, end = segments.double().unbind(dim=1)
    if axes == "duration_start":
        end = end - 1
    margin = _EXTEND * (end - start + 1)
    first, last = start - margin, end + margin
    count = _SAMPLES * _POINTS
    step = (last - first) / (count - 1)
    points = first[:, None] + step[:, None] * torch.arange(count, device=segments.device)
    low, high = points.trunc(), points.ceil()
    # Before column 0 the fraction is negative and both columns are 0: the weights add up to 1.
    fraction = points - low
    columns = torch.stack([low, high], dim=2)
    weights = torch.stack([1 - fraction, fraction], dim=2) / _POINTS
    inside = (columns >= 0) & (columns < length)
    shape = (_SAMPLES, 2 * _POINTS)
    return (
        columns.where(inside, 0).long().unflatten(1, (_SAMPLES, _POINTS)).flatten(2).unflatten(1, shape[:1]),
        weights.where(inside, 0).unflatten(1, (_SAMPLES, _POINTS)).flatten(2).unflatten(1, shape[:1]),
    )


class Bmn(nn.Module):
    """Boundary-matching network.

    `predictions` of the output:

    - "starts", "ends" (B, L): probabilities of a start and an end around the left edge of each column, 0 on padding.
    - "ious" (B, N, 2): IoU of each segment with an instance, as regressed and as classified.
    - "class_logits" (B, M, K): classes of the segments `instances`, with class_agnostic=False and if they are given.

    The score of a segment is the product of its start, its end and both IoU. The published code proposes no segment
    that ends at the end of the video; here the probability of the last column applies to that end.

    Args:
        num_classes: K; has an effect with class_agnostic=False only.
        in_features: D, a multiple of 4.
        axes: axes of the map of segments that is convolved, and positions of the samples, see `sampling_weights`.
            "start_end": JJBOY's code. "duration_start": the paper's code, MMAction2 and OpenTAD.
        hidden: width of the sampled features: 256 in JJBOY's code and MMAction2, 128 in the paper's code.
        maps: number of channels of the base, a multiple of 4.
        map_maps: number of channels of the map.
        max_duration: longest segment in columns, for "duration_start" only; None: the whole sequence.
        class_agnostic: propose segments without a class. False: add a classifier of proposals; in evaluation mode,
            scores are (B, N, K), the score of the segment times the probability of the class.

    Raises:
        ValueError: an option is out of range.
    """

    other_heads = ("sample_mask",)
    """Prefix of the fixed matrix in published files."""

    def __init__(
        self,
        *,
        num_classes: int,
        in_features: int = 400,
        axes: Axes = "start_end",
        hidden: int = 256,
        maps: int = 256,
        map_maps: int = 128,
        max_duration: int | None = None,
        class_agnostic: bool = True,
    ):
        super().__init__()
        if axes not in ("start_end", "duration_start"):
            raise ValueError(f"axes={axes!r} must be 'start_end' or 'duration_start'")
        for name, value in (("in_features", in_features), ("maps", maps)):
            if value < _GROUPS or value % _GROUPS:
                raise ValueError(f"{name}={value} must be a multiple of {_GROUPS}, the groups of a convolution")
        if max_duration is not None and (max_duration < 1 or axes == "start_end"):
            raise ValueError(f"max_duration={max_duration} must be at least 1 and requires axes='duration_start'")
        self.num_classes = num_classes
        self.in_features = in_features
        self.class_agnostic = class_agnostic
        self.axes: Axes = axes
        self.max_duration = max_duration

        def grouped(inputs: int) -> nn.Conv1d:
            return nn.Conv1d(inputs, maps, 3, padding=1, groups=_GROUPS)

        self.x_1d_b = nn.Sequential(grouped(in_features), nn.ReLU(), grouped(maps), nn.ReLU())
        self.x_1d_s = nn.Sequential(grouped(maps), nn.ReLU(), nn.Conv1d(maps, 1, 1))
        self.x_1d_e = nn.Sequential(grouped(maps), nn.ReLU(), nn.Conv1d(maps, 1, 1))
        self.x_1d_p = nn.Sequential(nn.Conv1d(maps, hidden, 3, padding=1), nn.ReLU())
        self.x_3d_p = nn.Sequential(
            nn.Conv3d(hidden, 4 * map_maps, (_SAMPLES, 1, 1), stride=(_SAMPLES, 1, 1)), nn.ReLU()
        )
        self.x_2d_p = nn.Sequential(
            nn.Conv2d(4 * map_maps, map_maps, 1),
            nn.ReLU(),
            nn.Conv2d(map_maps, map_maps, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(map_maps, map_maps, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(map_maps, 2, 1),
        )
        if not class_agnostic:
            self.classifier = ProposalClassifier(maps, num_classes=num_classes)
            self.classifier_name = "classifier"

    def differences(self, entries: Mapping[str, Tensor]) -> list[str]:
        """Return a note if a file was trained with other axes, which its fixed matrix shows and its weights do not."""
        matrix = entries.get("sample_mask")
        if matrix is None or matrix.numel() != _SAMPLES * len(matrix) ** 3 or len(matrix) < 2:
            return []
        length = len(matrix)
        # A segment that starts in the last column and ends in the first does not exist; one of all columns does.
        cell = matrix.reshape(length, _SAMPLES, length, length)[:, :, -1, 0]
        axes = "duration_start" if cell.any() else "start_end"
        if axes == self.axes:
            return []
        return [f"the weights were trained with axes={axes!r}, the network has {self.axes!r}"]

    def forward(self, features: Tensor, mask: Tensor | None = None, instances: Tensor | None = None) -> DetectionOutput:
        """Score all segments between two column edges, see `dense_proposals`.

        Args:
            features: (B, D, L).
            mask: bool (B, L), True on valid columns; None: no column is padding.
            instances: (B, M, 2), segments for "class_logits", see `BmnLoss`; with class_agnostic=False only.

        Raises:
            ValueError: a shape or dtype is wrong, or `instances` of a class-agnostic network.
        """
        padding = find_padding(features, mask, in_features=self.in_features)
        segments = dense_proposals(features.shape[2], max_duration=self.max_duration, device=features.device)
        lengths = video_lengths(features, padding)
        valid = segments[:, 1] <= lengths[:, None]
        x = self.forward_features(features, padding)
        starts, ends = (clear_padding(probabilities(head(x)), padding)[:, 0] for head in (self.x_1d_s, self.x_1d_e))
        found = self._map(x, segments, padding)
        row, column = self._cells(segments)
        ious = found[:, :, row, column].transpose(1, 2)
        at_end = segments[:, 1].minimum(lengths[:, None] - 1)
        scores = starts[:, segments[:, 0]] * ends.gather(1, at_end) * ious.prod(dim=2)
        proposals = segments.to(torch.promote_types(features.dtype, torch.float32)).expand(features.shape[0], -1, -1)
        predictions = {"starts": starts, "ends": ends, "ious": ious}
        scores = scores[..., None]
        if instances is not None:
            if self.class_agnostic:
                raise ValueError("instances without effect; create the network with class_agnostic=False")
            chosen = training_segments(instances, features, what="instances")
            predictions["class_logits"] = self.classifier(x, chosen, padding)
        if not self.class_agnostic and not self.training:
            scores = scores * self.classifier(x, proposals, padding).softmax(dim=2)
        return DetectionOutput(proposals, scores * valid[..., None], valid, predictions)

    def forward_features(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """Compute the features of the base (B, C, L) from features (B, D, L); 0 on padding."""
        first, _, second, _ = self.x_1d_b
        x = clear_padding(first(clear_padding(features, padding)).relu(), padding)
        return clear_padding(second(x).relu(), padding)

    def forward_map(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the map of all segments.

        Args:
            features: (B, D, L).
            mask: bool (B, L), True on valid columns; None: no column is padding.

        Returns:
            (B, 2, rows, L), IoU as regressed and as classified. Rows and columns are first and last column of a segment
            for "start_end", number of columns minus 1 and first column for "duration_start". Cells that are not
            segments of the video have no meaning.
        """
        padding = find_padding(features, mask, in_features=self.in_features)
        segments = dense_proposals(features.shape[2], max_duration=self.max_duration, device=features.device)
        return self._map(self.forward_features(features, padding), segments, padding)

    def _cells(self, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Return row and column of each segment in the map."""
        start, end = segments.unbind(dim=1)
        return (start, end - 1) if self.axes == "start_end" else (end - start - 1, start)

    def _map(self, x: Tensor, segments: Tensor, padding: Tensor | None) -> Tensor:
        batch, _, length = x.shape
        rows = length if self.max_duration is None else torch.sym_min(length, self.max_duration)
        x = clear_padding(self.x_1d_p(x), padding)
        sampled = self._sample(x, segments)
        if padding is not None:
            beyond = segments[:, 1] > video_lengths(x, padding)[:, None]
            sampled = sampled.masked_fill(beyond[:, None], 0)
        row, column = self._cells(segments)
        cells = sampled.new_zeros(batch, sampled.shape[1], rows * length)
        cells = cells.index_copy(2, row * length + column, sampled).unflatten(2, (rows, length))
        bias = self.x_3d_p[0].bias
        assert isinstance(bias, Tensor)
        cells = (cells + bias[:, None, None]).relu().to(bias.dtype)
        outside = None
        if padding is not None:
            outside = padding[:, :, None] | padding[:, :, :rows, None]
        for layer in self.x_2d_p:
            if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1) and outside is not None:
                cells = cells.masked_fill(outside, 0)
            cells = layer(cells)
        return probabilities(cells)

    def _sample(self, x: Tensor, segments: Tensor) -> Tensor:
        """Sample x (B, C, L) over the segments (N, 2) and apply the convolution of the samples: (B, O, N)."""
        batch, _, length = x.shape
        weight = self.x_3d_p[0].weight
        assert isinstance(weight, Tensor)
        outputs = weight.shape[0]
        columns, shares = sampling_weights(segments, length=length, axes=self.axes)
        by_sample = weight.flatten(1).unflatten(1, (-1, _SAMPLES)).permute(1, 2, 0).flatten(1)  # (C, 32 * O)
        table = (x.permute(2, 0, 1) @ by_sample).unflatten(2, (_SAMPLES, outputs))  # (L, B, 32, O)
        table = table.transpose(1, 2).flatten(0, 1).flatten(1)
        table = table.to(torch.promote_types(table.dtype, torch.float32))
        if torch.compiler.is_exporting():  # few runtimes have an embedding bag
            shares = shares.to(table.dtype)[..., None]
            terms = ((table[columns[:, one] * _SAMPLES + one] * shares[:, one]).sum(dim=1) for one in range(_SAMPLES))
            return functools.reduce(torch.add, terms).unflatten(1, (batch, outputs)).permute(1, 2, 0)
        entries = (columns * _SAMPLES + torch.arange(_SAMPLES, device=x.device)[:, None]).flatten(1)
        added = F.embedding_bag(entries, table, mode="sum", per_sample_weights=shares.flatten(1).to(table.dtype))
        return added.unflatten(1, (batch, outputs)).permute(1, 2, 0)


register_model("bmn", Bmn, task="detection")
