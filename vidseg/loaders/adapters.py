"""Users' own augmentation of clips: an imgaug pipeline, or any function of the frames.

imgaug 0.4.0, its last release, does not import on NumPy 2, which dropped one table that it reads; the table is lent to
it here while it is imported, and nowhere else.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.clips.draws import uniform

__all__ = [
    "ClipFunction",
    "ClipTransform",
    "ImgaugTransform",
    "as_transform",
    "clip_seed",
    "import_imgaug",
    "transform_clips",
]

Frames = npt.NDArray[np.uint8]
ClipTransform = Callable[[Frames, int], Frames]
"""Takes the frames of a clip and its seed."""


def as_transform(transform: Any) -> ClipTransform:
    """A transform of clips from an imgaug pipeline or a function; those of this module stay what they are."""
    if isinstance(transform, (ClipFunction, ImgaugTransform)):
        return transform
    if type(transform).__module__.partition(".")[0] == "imgaug":
        return ImgaugTransform(transform)
    return ClipFunction(transform)


def transform_clips(transform: ClipTransform, frames: Tensor, plan: BatchPlan, *, seed: int) -> Tensor:
    """Transform each clip of a batch, uint8 (B, T, H, W, 3); all results must have one shape.

    Raises:
        ValueError: clips of different shapes come out.
    """
    clips = [
        transform(clip.numpy(), clip_seed(seed, plan.epoch, (video << 24) + view))
        for clip, video, view in zip(frames, plan.videos.tolist(), plan.views.tolist(), strict=True)
    ]
    shapes = {clip.shape for clip in clips}
    if len(shapes) > 1:
        raise ValueError(f"the transform gave clips of different shapes: {sorted(shapes)}")
    return torch.from_numpy(np.stack(clips))


def import_imgaug() -> ModuleType:
    """The module `imgaug`, also on NumPy 2.

    Raises:
        ImportError: imgaug or a package that it needs is not installed; says how to get it.
    """
    try:
        with _number_types():
            import imgaug
            import imgaug.augmenters
    except ImportError as error:
        raise ImportError(
            f"imgaug cannot be imported ({error}). To install: pip install 'vidseg[imgaug]' && "
            "pip install --no-deps imgaug==0.4.0"
        ) from error
    return imgaug


@contextlib.contextmanager
def _number_types() -> Iterator[None]:
    """NumPy with the table of its number types by kind, which it had before 2.0."""
    if hasattr(np, "sctypes"):
        yield
        return
    table = {
        "int": [np.int8, np.int16, np.int32, np.int64],
        "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
        "float": [np.float16, np.float32, np.float64, np.longdouble],
        "complex": [np.complex64, np.complex128, np.clongdouble],
        "others": [bool, object, bytes, str, np.void],
    }
    np.sctypes = table  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del np.sctypes  # type: ignore[attr-defined]


def clip_seed(seed: int, epoch: int, sample: int) -> int:
    """A whole number of 0 to 2**31 - 1 for one clip, a function of the three numbers alone."""
    return int(uniform(seed, epoch, [sample], purpose="transform")[0, 0] * 2**31)


class ImgaugTransform:
    """An imgaug pipeline for clips: every frame of a clip is changed alike, and each clip by its own random numbers.

    imgaug draws anew for each picture of a list, also in its deterministic mode; here each frame goes through a
    pipeline of the same state. `copy.deepcopy` is not needed, and the pipeline itself keeps its state.

    Args:
        augmenter: an `imgaug.augmenters.Augmenter`.

    Example:
        transform = ImgaugTransform(iaa.Sometimes(0.8, iaa.MotionBlur(k=5)))
        frames = transform(frames, 17)
    """

    def __init__(self, augmenter: Any) -> None:
        imgaug = import_imgaug()
        if not isinstance(augmenter, imgaug.augmenters.Augmenter):
            raise TypeError(f"{type(augmenter).__name__} is no imgaug augmenter; use ClipFunction for a function")
        self.augmenter = augmenter

    def __call__(self, frames: Frames, seed: int) -> Frames:
        """The frames of a clip, changed.

        Args:
            frames: uint8 (T, H, W, 3), RGB.
            seed: of the clip, 0 to 2**31 - 1; see `clip_seed`.

        Raises:
            ValueError: the pipeline changed the type, or gave frames of different sizes.
        """
        _check_frames(frames, "the clip")
        augmenter = self.augmenter.deepcopy()
        augmenter.seed_(seed)
        fixed = augmenter.to_deterministic()
        changed = [np.asarray(fixed.augment_image(np.array(frame))) for frame in frames]
        shapes = {frame.shape for frame in changed}
        if len(shapes) > 1:
            raise ValueError(f"the imgaug pipeline gave frames of different shapes: {sorted(shapes)}")
        return _check_frames(np.stack(changed), "the result of the imgaug pipeline")


class ClipFunction:
    """Any function of a clip's frames, uint8 (T, H, W, 3) to the same, as a transform of clips.

    Args:
        function: called with the frames, or with the frames and a `numpy.random.Generator` if it takes two positional
            arguments; the generator is seeded for the clip, so that the function need not keep any state.
    """

    def __init__(self, function: Callable[..., Frames]) -> None:
        if not callable(function):
            raise TypeError(f"{function!r} cannot be called")
        self.function = function
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(function).parameters.values()
        wanted = [one for one in parameters if one.kind in positional and one.default is inspect.Parameter.empty]
        if len(wanted) not in (1, 2):
            raise TypeError(f"{function!r} takes {len(wanted)} arguments, must be frames, or frames and a generator")
        self.takes_generator = len(wanted) == 2

    def __call__(self, frames: Frames, seed: int) -> Frames:
        """The frames of a clip, changed.

        Args:
            frames: uint8 (T, H, W, 3), RGB.
            seed: of the clip; see `clip_seed`.

        Raises:
            ValueError: the function gave something else than uint8 (T, H, W, 3).
        """
        _check_frames(frames, "the clip")
        arguments = (frames, np.random.default_rng(seed)) if self.takes_generator else (frames,)
        return _check_frames(self.function(*arguments), f"the result of {self.function!r}")


def _check_frames(frames: Any, what: str) -> Frames:
    if not isinstance(frames, np.ndarray):
        raise ValueError(f"{what} is a {type(frames).__name__}, must be a numpy array")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"{what} is {frames.dtype} {frames.shape}, must be uint8 (T, H, W, 3)")
    return frames
