"""The pipelines of the "dali" backend: the graph of DALI operators, its input and its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.loaders.dali_color import apply_step
from vidseg.loaders.output import OutputForm

__all__ = ["CHUNK", "Chunk", "build_pipeline", "from_dali", "import_dali"]

CHUNK = 128
"""Number of frames that a pipeline processes at once: enough for all threads, and a bounded use of memory."""


@dataclass(frozen=True)
class Chunk:
    """Input of a pipeline for N frames; arrays have one row per frame."""

    jpegs: list[npt.NDArray[np.uint8]]
    starts: npt.NDArray[np.int32]
    """(N, 2): left and top of the decoded window, in pixels of the stored copy."""
    shapes: npt.NDArray[np.int32]
    """(N, 2): width and height of the window."""
    sizes: npt.NDArray[np.float32]
    """(N, 2): height and width of the output."""
    matrices: npt.NDArray[np.float32]
    """(N, 3, 3): from a point of the output to one of the window; of warped frames, from `looked_up` to `shrunk`."""
    shrunk: npt.NDArray[np.float32]
    """(N, 2): height and width that the window is reduced to before it is warped."""
    covered: npt.NDArray[np.float32]
    """(N, 2): height and width of the area of the window that is reduced to `shrunk`."""
    looked_up: npt.NDArray[np.float32]
    """(N, 2): height and width of the warped picture, 1 or 2 times `sizes`; it is then averaged to `sizes`."""

    colors: tuple[Any, ...] = ()
    """`Steps.inputs()` of the frames."""

    def inputs(self, *, warped: bool) -> tuple[Any, ...]:
        """The arrays in the order of the pipeline's external sources."""
        if warped:
            places: tuple[npt.NDArray, ...] = (self.shrunk, self.covered, self.looked_up, self.matrices)
        else:
            first = np.ascontiguousarray(self.matrices[:, [1, 0], 2])  # y and x of the output's first corner
            places = (first, first + self.matrices[:, [1, 0], [1, 0]] * self.sizes)
        return self.jpegs, self.starts, self.shapes, self.sizes, *places, *self.colors


def import_dali() -> tuple[ModuleType, ModuleType, Any]:
    """Import DALI's modules `fn` and `types`, and its `pipeline_def`.

    Raises:
        ImportError: DALI is not installed; the message has the command to install it.
    """
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError as error:
        raise ImportError(
            'backend "dali" needs NVIDIA DALI: pip install "vidseg[dali]" (CUDA 12), or nvidia-dali-cuda130'
        ) from error
    return fn, types, pipeline_def


def build_pipeline(
    source: Callable[[], tuple[Any, ...]],
    form: OutputForm,
    *,
    warped: bool,
    slots: int,
    threads: int,
    device: torch.device,
) -> Any:
    """Build a pipeline from JPEGs to frames in the type and color order of `form`, each (3, H, W) or (H, W, 3).

    Args:
        source: returns `Chunk.inputs()` of the next chunk; raises StopIteration after the last one.
        form: output form. DALI has no bfloat16; the pipeline returns float32 for it.
        warped: resample through the matrices; else crop, scale and mirror.
        slots: number of color operations of a clip.
        threads: number of decoding threads on the CPU.
        device: device of the frames.
    """
    fn, types, pipeline_def = import_dali()
    cuda = device.type == "cuda"
    # axes of each input: JPEGs, starts, shapes; sizes and places; then kinds, numbers and kernels of each slot
    axes = [1, 1, 1] + ([1, 1, 1, 1, 2] if warped else [1, 1, 1])
    kinds = [types.UINT8, types.INT32, types.INT32] + [types.FLOAT] * (len(axes) - 3)

    @pipeline_def(
        batch_size=CHUNK,
        num_threads=threads,
        device_id=(device.index or 0) if cuda else None,
        prefetch_queue_depth=2,
        enable_conditionals=slots > 0,
    )
    def define() -> Any:
        jpegs, starts, shapes, sizes, *rest = fn.external_source(
            source=source,
            num_outputs=len(axes) + 3 * slots,
            batch=True,
            dtype=kinds + [types.INT32, types.FLOAT, types.FLOAT] * slots,
            ndim=axes + [0, 1, 2] * slots,
        )
        frames = fn.decoders.image_slice(
            jpegs,
            start=starts,
            shape=shapes,
            axis_names="WH",
            device="mixed" if cuda else "cpu",
            output_type=types.RGB,
            jpeg_fancy_upsampling=True,  # on a GPU too: as libjpeg-turbo does
        )
        linear = types.INTERP_LINEAR
        if warped:
            shrunk, covered, looked_up, matrices = rest[:4]
            frames = fn.resize(
                frames, size=shrunk, roi_start=(0, 0), roi_end=covered, interp_type=linear, antialias=True
            )
            frames = fn.experimental.warp_perspective(
                frames, size=looked_up, matrix=matrices, fill_value=0, interp_type=linear
            )
            # samples lie in the middle of 2 x 2 pixels, or of one pixel
            frames = fn.resize(frames, size=sizes, interp_type=linear, antialias=False)
        else:
            first, last = rest[:2]  # a last corner to the left of the first one mirrors
            frames = fn.resize(frames, size=sizes, roi_start=first, roi_end=last, interp_type=linear, antialias=True)
        for slot in range(slots):
            kind, numbers, kernel = rest[len(axes) - 4 + 3 * slot : len(axes) - 1 + 3 * slot]
            frames = apply_step(fn, types, frames, kind, numbers, kernel, cuda=cuda)
        return _finish(fn, types, frames, form)

    pipeline = define()
    pipeline.build()
    return pipeline


def _finish(fn: Any, types: Any, frames: Any, form: OutputForm) -> Any:
    """Convert frames to the color order, normalization, type and layout of `form`."""
    scale, offset = form.normalization.numpy()
    mean, std = -offset / scale, 1 / scale
    if form.color == "bgr":
        frames = fn.color_space_conversion(frames, image_type=types.RGB, output_type=types.BGR)
        mean, std = mean[::-1], std[::-1]
    plain = form.dtype is torch.uint8
    return fn.crop_mirror_normalize(
        frames,
        dtype=types.UINT8 if plain else types.FLOAT16 if form.dtype is torch.float16 else types.FLOAT,
        output_layout="HWC" if form.layout == "bthwc" else "CHW",
        mean=[0.0] * 3 if plain else mean.tolist(),
        std=[1.0] * 3 if plain else std.tolist(),
    )


def from_dali(frames: Any) -> Tensor:
    """Return a DALI batch of frames of equal size as a tensor (N, ...) that shares its memory."""
    tensor: Tensor = torch.from_dlpack(frames.as_tensor())
    return tensor
