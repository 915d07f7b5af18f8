"""Plans: the contents of clips and batches as plain data.

The planner makes a plan without reading pixels; a backend fills a batch from the plan alone. Coordinates are
continuous: pixel i covers [i, i + 1), its center is i + 0.5, and a frame covers [0, W] x [0, H].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from vidseg.clips.arguments import MOST_CLIPS, MOST_FRAMES, MOST_SIDE, whole
from vidseg.clips.operations import color_rules, max_parameters

__all__ = ["BatchPlan", "BatchShape", "ClipPlan", "ColorOperation", "ColorPlan"]

Matrix = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class BatchShape:
    """Shape of one batch over all ranks: number of clips, frames per clip, height and width in pixels."""

    clips: int
    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        limits = {"clips": MOST_CLIPS, "frames": MOST_FRAMES, "height": MOST_SIDE, "width": MOST_SIDE}
        for name, most in limits.items():
            object.__setattr__(self, name, whole(getattr(self, name), f"{name} of a batch", least=1, most=most))


@dataclass(frozen=True, slots=True)
class ColorOperation:
    """One operation on the colors of all frames of a clip.

    Attributes:
        name: name of the operation; `vidseg.clips.operations.color_rules` lists them.
        parameters: one value for each parameter of the operation.
    """

    name: str
    parameters: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """Contents of one clip.

    Attributes:
        video: number of the video in the data set.
        view: number of the view of the video, 0 for a single view.
        label: class number, -1 without a class.
        frames: T frame numbers of the video, counted from 0.
        matrix: homogeneous 3x3 map from a point (x, y, 1) of the output to a point of the stored frame.
        colors: operations that are applied in this order to the resampled pixels.
        valid: False for a clip that pads a batch.
    """

    video: int
    view: int
    label: int
    frames: tuple[int, ...]
    matrix: Matrix
    colors: tuple[ColorOperation, ...] = ()
    valid: bool = True


@dataclass(frozen=True, eq=False)
class ColorPlan:
    """Color operations of B clips, packed.

    Attributes:
        offsets: int64 (B + 1,); clip b has the operations offsets[b] to offsets[b + 1] - 1.
        codes: int64 (M,), positions in `vidseg.clips.operations.color_rules()`.
        parameters: float64 (M, `max_parameters()`), unused ones 0.
    """

    offsets: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    parameters: npt.NDArray[np.float64]

    @classmethod
    def none(cls, clips: int) -> ColorPlan:
        """Return the plan of `clips` clips without operations."""
        return cls(np.zeros(clips + 1, np.int64), np.zeros(0, np.int64), np.zeros((0, max_parameters())))

    def take(self, clips: Sequence[int] | npt.NDArray[np.int64]) -> ColorPlan:
        """Return the operations of the clips with these numbers, in this order."""
        rows = np.asarray(clips, np.int64)
        starts, counts = self.offsets[rows], np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        picked = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
        return ColorPlan(offsets, self.codes[picked], self.parameters[picked])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ColorPlan) and _equal_arrays(self, other)


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Contents of one batch of B clips, in columns; `plan[b]` is clip b as a `ClipPlan`.

    Attributes:
        epoch: number of the epoch, counted from 0.
        index: number of the batch in the epoch, counted from 0.
        height: height of the output in pixels.
        width: width of the output in pixels.
        videos: int64 (B,), numbers of the videos in the data set.
        views: int64 (B,), numbers of the views of the videos.
        labels: int64 (B,), class numbers, -1 without a class.
        frames: int64 (B, T), frame numbers counted from 0.
        matrices: float64 (B, 3, 3), maps from output points to source points.
        colors: color operations of the B clips.
        valid: bool (B,), False for clips that pad the batch of one rank; default all True.
        repeats: int64 (B,), number of earlier occurrences of the same view of the same video in the epoch; above 0 only
            if a sampler repeats videos. Repeats get other crops and colors.
    """

    epoch: int
    index: int
    height: int
    width: int
    videos: npt.NDArray[np.int64]
    views: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]
    matrices: npt.NDArray[np.float64]
    colors: ColorPlan
    valid: npt.NDArray[np.bool_] = field(default=None)  # type: ignore[arg-type]
    repeats: npt.NDArray[np.int64] = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        clips = len(self.videos)
        for name in ("height", "width"):
            whole(getattr(self, name), f"{name} of a batch", least=1, most=MOST_SIDE)
        if self.valid is None:
            object.__setattr__(self, "valid", np.ones(clips, bool))
        if self.repeats is None:
            object.__setattr__(self, "repeats", np.zeros(clips, np.int64))
        expected: dict[str, tuple[int, ...]] = dict.fromkeys(("views", "labels", "valid", "repeats"), (clips,))
        expected["matrices"] = (clips, 3, 3)
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"a batch of {clips} clips with {name} of shape {getattr(self, name).shape}")
        if self.frames.ndim != 2 or len(self.frames) != clips or len(self.colors) != clips:
            raise ValueError(
                f"a batch of {clips} clips with frames of shape {self.frames.shape} and {len(self.colors)} colors"
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, T, H, W)."""
        return (*self.frames.shape, self.height, self.width)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, clip: int) -> ClipPlan:
        first, last = self.colors.offsets[clip], self.colors.offsets[clip + 1]
        operations, rules = [], color_rules()
        for code, parameters in zip(
            self.colors.codes[first:last].tolist(), self.colors.parameters[first:last].tolist(), strict=True
        ):
            rule = rules[code]
            operations.append(ColorOperation(rule.name, tuple(parameters[: len(rule.parameters)])))
        first_row, second_row, third_row = self.matrices[clip].tolist()
        return ClipPlan(
            video=int(self.videos[clip]),
            view=int(self.views[clip]),
            label=int(self.labels[clip]),
            frames=tuple(self.frames[clip].tolist()),
            matrix=(tuple(first_row), tuple(second_row), tuple(third_row)),
            colors=tuple(operations),
            valid=bool(self.valid[clip]),
        )

    def __iter__(self) -> Iterator[ClipPlan]:
        return (self[clip] for clip in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BatchPlan) and _equal_arrays(self, other)

    def __repr__(self) -> str:
        clips, frames, height, width = self.shape
        return f"BatchPlan(epoch {self.epoch}, batch {self.index}: {clips} clips of {frames}x{height}x{width})"

    def take(self, clips: Sequence[int] | npt.NDArray[np.int64]) -> BatchPlan:
        """Return the plan of the clips with these numbers, in this order."""
        rows = np.asarray(clips, np.int64)
        return BatchPlan(
            epoch=self.epoch,
            index=self.index,
            height=self.height,
            width=self.width,
            videos=self.videos[rows],
            views=self.views[rows],
            labels=self.labels[rows],
            frames=self.frames[rows],
            matrices=self.matrices[rows],
            colors=self.colors.take(rows),
            valid=self.valid[rows],
            repeats=self.repeats[rows],
        )


def _equal_arrays(one: ColorPlan | BatchPlan, other: ColorPlan | BatchPlan) -> bool:
    return all(np.array_equal(getattr(one, column.name), getattr(other, column.name)) for column in fields(one))
