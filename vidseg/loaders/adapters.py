"""Users' augmentations of clips: an imgaug pipeline, or any function of the frames.

imgaug 0.4.0, the last release, does not import on NumPy 2 because it reads a table that NumPy removed. The table is put
back while imgaug is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.clips.draws import uniform
from vidseg.loaders.memory import BatchMemory
from vidseg.loaders.output import OutputForm
from vidseg.loaders.target_hook import count_positional

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
ClipTransform = Callable[[Frames, int], "npt.NDArray[Any] | Tensor"]
"""Takes the frames of a clip, uint8 (T, H, W, 3), and its seed; returns uint8 pixels or floating point samples."""


def as_transform(transform: Any) -> ClipTransform:
    """Wrap an imgaug pipeline or a function of the frames; returns the transforms of this module unchanged."""
    if isinstance(transform, (ClipFunction, ImgaugTransform)):
        return transform
    if type(transform).__module__.partition(".")[0] == "imgaug":
        return ImgaugTransform(transform)
    return ClipFunction(transform)


def transform_clips(
    transform: ClipTransform,
    frames: Tensor,
    plan: BatchPlan,
    *,
    seed: int,
    form: OutputForm,
    pixels: OutputForm | None = None,
    memory: BatchMemory | None = None,
) -> Tensor:
    """Transform each clip of a batch and convert the results to the loader's output form.

    Args:
        transform: called for each clip with a seed of its own.
        frames: uint8 (B, T, H, W, 3), RGB.
        plan: plan of the batch; a clip's seed depends on (seed, epoch, video, view) and on how often the same view came
            before in the epoch.
        seed: seed of the loader.
        form: uint8 results are normalized as the form says; floating point results are converted to its type, color
            order and layout, and not normalized.
        pixels: form of uint8 results instead, such as one that is normalized later.
        memory: where batches of uint8 results are allocated.

    Raises:
        ValueError: the results differ in shape or type, or are floating point and the form is uint8.
    """
    samples = (plan.repeats << 48) + (plan.videos << 24) + plan.views
    clips = [
        _as_tensor(transform(clip.numpy(), clip_seed(seed, plan.epoch, sample)))
        for clip, sample in zip(frames, samples.tolist(), strict=True)
    ]
    kinds = {(tuple(clip.shape), clip.dtype) for clip in clips}
    if len(kinds) > 1:
        found = ", ".join(sorted(f"{dtype} {shape}" for shape, dtype in kinds))
        raise ValueError(f"the transform returned clips of different shapes or types in one batch: {found}")
    if clips[0].is_floating_point():
        return form.from_samples(torch.stack(clips))
    return (pixels or form).from_pixels(clips, memory)


def _as_tensor(clip: npt.NDArray[Any] | Tensor) -> Tensor:
    if isinstance(clip, Tensor):
        return clip.detach().cpu()
    return torch.from_numpy(np.require(clip, requirements=["C", "W"]))  # a flipped array has negative strides


def import_imgaug() -> ModuleType:
    """Import the module `imgaug`, on NumPy 1 and 2.

    Raises:
        ImportError: imgaug or a package that it needs is not installed; the message has the command to install it.
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
    """Provide `numpy.sctypes`, the table of number types by kind that NumPy 2.0 removed."""
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
    """Return the seed of a clip's transform, 0 to 2**31 - 1, as a function of the three numbers."""
    return int(uniform(seed, epoch, [sample], purpose="transform")[0, 0] * 2**31)


class ImgaugTransform:
    """An imgaug pipeline for clips: all frames of a clip get the same random parameters, each clip gets its own.

    imgaug draws new parameters for each image of a list, also in its deterministic mode. Here each frame goes through a
    copy of the pipeline with the same state; the pipeline itself is not modified.

    Args:
        augmenter: an `imgaug.augmenters.Augmenter`.

    Raises:
        ImportError: imgaug is not installed.
        TypeError: `augmenter` is not an imgaug augmenter.

    Example:
        transform = ImgaugTransform(iaa.Sometimes(0.8, iaa.MotionBlur(k=5)))
        frames = transform(frames, 17)
    """

    def __init__(self, augmenter: Any) -> None:
        imgaug = import_imgaug()
        if not isinstance(augmenter, imgaug.augmenters.Augmenter):
            raise TypeError(f"{type(augmenter).__name__} is not an imgaug augmenter; use ClipFunction for a function")
        self.augmenter = augmenter

    def __call__(self, frames: Frames, seed: int) -> Frames:
        """Augment the frames of a clip.

        Args:
            frames: uint8 (T, H, W, 3), RGB.
            seed: seed of the clip, 0 to 2**31 - 1; see `clip_seed`.

        Returns:
            uint8 (T, H', W', 3).

        Raises:
            ValueError: the pipeline changed the data type, or returned frames of different sizes.
        """
        _check_pixels(frames)
        augmenter = self.augmenter.deepcopy()
        augmenter.seed_(seed)
        fixed = augmenter.to_deterministic()
        changed = [np.asarray(fixed.augment_image(np.array(frame))) for frame in frames]
        shapes = {frame.shape for frame in changed}
        if len(shapes) > 1:
            raise ValueError(f"the imgaug pipeline returned frames of different shapes: {sorted(shapes)}")
        result = np.stack(changed)
        if result.dtype != np.uint8:
            raise ValueError(f"the imgaug pipeline returned {result.dtype} frames; it must keep uint8")
        _check_result(result, "the result of the imgaug pipeline")
        return result


class ClipFunction:
    """Any function of the frames of a clip as a transform.

    Args:
        function: called with the frames, uint8 (T, H, W, 3) in RGB, or with the frames and a `numpy.random.Generator`
            if it takes two positional arguments. The generator is seeded for the clip, so that the result depends on
            the clip alone. Returns a NumPy array or a torch tensor (T, H', W', 3) in RGB: uint8 pixels, which the
            loader normalizes, or floating point samples, which it does not.

    Raises:
        TypeError: it cannot be called, or takes another number of arguments.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TypeError(f"{function!r} cannot be called")
        count = count_positional(function)
        if count not in (1, 2):
            raise TypeError(f"{function!r} takes {count} arguments; it must take frames, or frames and a generator")
        self.function, self.takes_generator = function, count == 2

    def __call__(self, frames: Frames, seed: int) -> npt.NDArray[Any] | Tensor:
        """Transform the frames of a clip.

        Args:
            frames: uint8 (T, H, W, 3), RGB.
            seed: seed of the clip; see `clip_seed`.

        Raises:
            ValueError: the result is not uint8 or floating point of shape (T, H', W', 3).
        """
        _check_pixels(frames)
        arguments = (frames, np.random.default_rng(seed)) if self.takes_generator else (frames,)
        result = self.function(*arguments)
        _check_result(result, f"the result of {self.function!r}")
        return result


def _check_pixels(frames: Any) -> None:
    if not isinstance(frames, np.ndarray):
        raise ValueError(f"the clip is a {type(frames).__name__}, must be a NumPy array")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"the clip is {frames.dtype} {frames.shape}, must be uint8 (T, H, W, 3)")


def _check_result(clip: Any, what: str) -> None:
    if not isinstance(clip, (np.ndarray, Tensor)):
        raise ValueError(f"{what} is a {type(clip).__name__}, must be a NumPy array or a torch tensor")
    floating = clip.is_floating_point() if isinstance(clip, Tensor) else clip.dtype.kind == "f"
    pixels = clip.dtype in (torch.uint8, np.uint8)
    shape = tuple(clip.shape)
    if not (floating or pixels) or len(shape) != 4 or shape[3] != 3 or 0 in shape:
        channels_first = len(shape) == 4 and shape[1] == 3
        remedy = "; the channels come last, layout= of the loader reorders them" if channels_first else ""
        raise ValueError(f"{what} is {clip.dtype} {shape}, must be uint8 or floating point (T, H, W, 3){remedy}")
