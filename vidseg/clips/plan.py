"""Plans: everything that decides what a clip and a batch hold, as plain data.

A plan is made without touching a pixel and is all that a backend needs to fill a batch. Coordinates are continuous:
pixel i covers [i, i + 1), its center is i + 0.5, and a frame covers [0, W] x [0, H].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

__all__ = [
    "MAX_PARAMETERS",
    "OPERATIONS",
    "BatchPlan",
    "BatchShape",
    "ClipPlan",
    "ColorOperation",
    "ColorPlan",
    "color_code",
]

MAX_PARAMETERS = 8

# (name, number of parameters); the position is the code of plans. Three parameters: red, green, blue.
OPERATIONS: tuple[tuple[str, int], ...] = (
    ("gaussian_blur", 1),  # sigma, pixels, 0 to 30
    ("add", 3),  # -255 to 255
    ("average_blur", 1),  # side of the window, 1 to 31
    ("multiply", 3),  # 0 to 255
    ("gamma", 3),  # exponents, 0.01 to 100
    ("hue_saturation", 2),  # whole numbers, -255 to 255: parts of 255 of the hue's circle, and of full saturation
    ("linear_contrast", 3),  # factors of the distance from 127, -255 to 255
    ("gaussian_noise", 3),  # standard deviation 0 to 255; number of the field; 1: red, green and blue apart, else 0
    ("enhance_color", 1),  # factor of the distance from gray, 0 to 255
    ("motion_blur", 3),  # side of the window, odd, 3 to 31; degrees; direction -1 to 1
    ("brightness", 1),  # factor, 0 to 255
    ("contrast", 1),  # factor of the distance from the frame's mean gray, 0 to 255
    ("saturation", 1),  # factor of the distance from gray, 0 to 255
    ("hue", 1),  # part of the hue's circle, -0.5 to 0.5
    ("random_erasing", 7),  # top, left, height, width; red, green, blue
    ("grayscale", 0),
)

_CODES = {name: code for code, (name, _) in enumerate(OPERATIONS)}


def color_code(name: str) -> int:
    """The code of an operation.

    Raises:
        ValueError: there is no operation of this name.
    """
    if name not in _CODES:
        raise ValueError(f"color operation {name!r} is unknown: choose from {', '.join(_CODES)}")
    return _CODES[name]


Matrix = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class BatchShape:
    """Shape of one batch over all ranks: number of clips, frames of a clip, height and width in pixels."""

    clips: int
    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.clips, self.frames, self.height, self.width) < 1:
            raise ValueError(f"{self}: every side of a batch must be at least 1")


@dataclass(frozen=True, slots=True)
class ColorOperation:
    """One operation on the pixels of a clip, equal for all its frames; `OPERATIONS` has the names."""

    name: str
    parameters: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """What one clip holds.

    Attributes:
        video: number of the video in the data set.
        view: which of the video's views this is (0 where there is one).
        label: class number, -1 without a class.
        frames: T frame numbers of the video, from 0.
        matrix: homogeneous 3x3 map from a point (x, y, 1) of the output to a point of the stored frame.
        colors: operations applied in this order to the resampled pixels.
        valid: False for a clip that only pads a batch.
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
        offsets: int64 (B + 1,); clip b has the operations offsets[b] to offsets[b + 1].
        codes: int64 (M,) positions in `OPERATIONS`.
        parameters: float64 (M, 8), unused ones 0.
    """

    offsets: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    parameters: npt.NDArray[np.float64]

    @classmethod
    def none(cls, clips: int) -> ColorPlan:
        """No operation for any of `clips` clips."""
        return cls(np.zeros(clips + 1, np.int64), np.zeros(0, np.int64), np.zeros((0, 8)))

    def take(self, clips: Sequence[int] | npt.NDArray[np.int64]) -> ColorPlan:
        """The operations of some of the clips."""
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
    """What one batch of B clips holds, in columns; `plan[b]` is clip b as a `ClipPlan`.

    Attributes:
        epoch: from 0.
        index: number of the batch in the epoch, from 0.
        height: of the output, pixels.
        width: of the output, pixels.
        videos: int64 (B,).
        views: int64 (B,).
        labels: int64 (B,), -1 without a class.
        frames: int64 (B, T), numbers from 0.
        matrices: float64 (B, 3, 3), output point to source point.
        colors: operations of the B clips.
        valid: bool (B,); False where a clip only pads the batch of one rank.
        repeats: int64 (B,), how many times the same view of the same video came before in the epoch; above 0 only
            where a sampler repeats videos. Repeats draw other crops and colors.
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
        operations = []
        for code, parameters in zip(
            self.colors.codes[first:last].tolist(), self.colors.parameters[first:last].tolist(), strict=True
        ):
            name, count = OPERATIONS[code]
            operations.append(ColorOperation(name, tuple(parameters[:count])))
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
        """The plan of some of the clips, in the order given."""
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
