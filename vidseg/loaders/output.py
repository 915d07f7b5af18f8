"""Format of a loader's clips: modality, data type, axis order, color order, normalization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.frames.native import operators
from vidseg.loaders.memory import BatchMemory
from vidseg.loaders.modality import MODALITIES, Modality, is_vector, linear_parts, of_modality

__all__ = [
    "MEAN",
    "MEANS",
    "STD",
    "STDS",
    "Color",
    "Colors",
    "Layout",
    "OutputForm",
    "PixelNormalizer",
    "make_forms",
    "sample_type",
]

# Of RGB values in 0..1. The constants of the published training (SRTG).
MEAN = (124 / 255, 117 / 255, 104 / 255)
STD = (1 / (0.0167 * 255),) * 3

Color = tuple[float, float, float]
Colors = Color | Mapping[str, Color | None] | None
"""Mean or standard deviation: of all modalities, or of each."""

# Flow, motion vectors and residuals are -1 to 1, and 0 is 0, as in I3D.
_HALF = (0.5, 0.5, 0.5)
MEANS: Mapping[str, Color | None] = MappingProxyType({name: MEAN if name == "rgb" else _HALF for name in MODALITIES})
STDS: Mapping[str, Color | None] = MappingProxyType({name: STD if name == "rgb" else _HALF for name in MODALITIES})

_ZERO = 128  # stored value of no motion, and of no residual
_STEPS = 127  # stored values from no motion to the largest one
Layout = Literal["bcthw", "btchw", "bthwc"]
LAYOUTS = ("bcthw", "btchw", "bthwc")

_TYPES = {"uint8": torch.uint8, "float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class OutputForm:
    """How the pixels of a batch are stored.

    Attributes:
        dtype: uint8 (0 to 255, never normalized), float16, bfloat16 or float32.
        layout: axis order: "bcthw" (B, 3, T, H, W), "btchw" (B, T, 3, H, W) or "bthwc" (B, T, H, W, 3).
        color: "rgb", or "bgr" for networks trained with OpenCV's channel order.
        mean: mean of R, G and B in 0..1, in this order for both values of `color`; subtracted from floating point
            samples. None: floating point samples are pixel / 255, in 0..1. Vectors use the first two values. A mapping
            has a mean for each modality; default `MEANS`.
        std: standard deviation of R, G and B in 0..1; divides floating point samples. None: as for `mean`. Default
            `STDS`.
        pin: allocate page-locked memory, for asynchronous copies to a GPU.
        modality: "rgb"; vectors of optical "flow" or of the codec's "motion"; or "residual". Before mean and std,
            values of vectors and residuals are v / bound * 0.5 + 0.5, in 0..1, where 0.5 is no motion. As uint8 they
            are 128 + 127 * v / bound, rounded and limited to 0 to 255.
        stack: frames whose channels form one frame: C is then `stack` times 2, in the order x1, y1, x2, y2 and so on.
        mapped: transform vectors by the geometry of their clip: mirroring negates x, resizing scales, rotation rotates.
            False: vectors as stored, for a `PixelNormalizer`.

    Raises:
        ValueError: an unknown type, layout, color or modality, std not above 0, one of mean and std given and the other
            None, or an option that the modality does not have.
    """

    dtype: torch.dtype = torch.float32
    layout: Layout = "bcthw"
    color: Literal["rgb", "bgr"] = "rgb"
    mean: Colors = field(default_factory=lambda: MEANS)
    std: Colors = field(default_factory=lambda: STDS)
    pin: bool = False
    modality: Modality = "rgb"
    stack: int = 1
    mapped: bool = True

    def __post_init__(self) -> None:
        sample_type(self.dtype)
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout={self.layout!r} is not one of {', '.join(map(repr, LAYOUTS))}")
        if self.color not in ("rgb", "bgr"):
            raise ValueError(f"color={self.color!r} is neither 'rgb' nor 'bgr'")
        if self.modality not in MODALITIES:
            raise ValueError(f"modality={self.modality!r} is not one of {', '.join(map(repr, MODALITIES))}")
        if self.stack < 1 or (self.stack > 1 and not self.vectors):
            raise ValueError(f"stack={self.stack} of {self.modality!r}: only flow and motion are stacked, at least 1")
        if self.color == "bgr" and self.vectors:
            raise ValueError(f"color='bgr': {self.modality} has the channels x and y, without an order of colors")
        mean = of_modality(self.mean, self.modality, MEANS)
        std = of_modality(self.std, self.modality, STDS)
        if mean is None or std is None:
            # One None is enough: the other is then the default of a loader's signature.
            if mean not in (None, MEANS[self.modality]) or std not in (None, STDS[self.modality]):
                raise ValueError(f"mean={mean} and std={std}: give both, or None for both")
            mean = std = None
        elif len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean={mean} and std={std} need three values each, std above 0")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    @property
    def vectors(self) -> bool:
        """Whether the frames are vectors of two channels."""
        return is_vector(self.modality)

    @property
    def channels(self) -> int:
        """C, number of channels of a frame."""
        return (2 if self.vectors else 3) * self.stack

    @property
    def background(self) -> int:
        """Stored value outside the frame: black, no motion, or no residual."""
        return 0 if self.modality == "rgb" else _ZERO

    @property
    def normalization(self) -> Tensor:
        """Float64 (2, 3): scale and offset of R, G and B that turn a pixel value of 0 to 255 into a sample."""
        mean, std = self._constants()
        if self.modality == "rgb":
            return torch.stack([1 / (255 * std), -mean / std])
        scale = 0.5 / (_STEPS * std)
        return torch.stack([scale, (0.5 - mean) / std - _ZERO * scale])

    def _constants(self) -> tuple[Tensor, Tensor]:
        assert not isinstance(self.mean, Mapping) and not isinstance(self.std, Mapping)  # resolved by __post_init__
        mean, std = self.mean or (0.0,) * 3, self.std or (1.0,) * 3
        return torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)

    def vector_maps(self, plan: BatchPlan) -> Tensor:
        """Return the map from the stored values of a vector to its samples, for each clip of a plan.

        Returns:
            float32 (B, 2, 3): sample c is map[c, 0] * x + map[c, 1] * y + map[c, 2]; empty for other modalities.
        """
        if not self.vectors:
            return torch.empty(0)
        linear = linear_parts(plan) if self.mapped else np.tile(np.eye(2), (len(plan), 1, 1))
        zero = np.full(2, float(_ZERO))
        if self.dtype is not torch.uint8:
            mean, std = (constants[:2].numpy() for constants in self._constants())
            linear, zero = linear * (0.5 / (_STEPS * std))[:, None], (0.5 - mean) / std
        # Rounded first, so that no motion is exactly `zero`.
        maps = np.zeros((len(plan), 2, 3), np.float32)
        maps[:, :, :2] = linear
        maps[:, :, 2] = zero - _ZERO * maps[:, :, :2].astype(np.float64).sum(axis=2)
        return torch.from_numpy(maps)

    def stored_maps(self, plan: BatchPlan) -> Tensor:
        """Return the map from stored values to samples of every modality, float32 (B, C, C + 1) for C of one frame."""
        if self.vectors:
            return self.vector_maps(plan)
        scale, offset = (torch.ones(3), torch.zeros(3)) if self.dtype is torch.uint8 else self.normalization.float()
        rows = torch.cat([torch.diag(scale), offset[:, None]], dim=1)
        return (rows.flip(0) if self.color == "bgr" else rows).expand(len(plan), -1, -1)

    @property
    def empty(self) -> Tensor:
        """Samples of a pixel outside the frame, (C,) in the order of the output."""
        if self.dtype is torch.uint8:
            return torch.full((self.channels,), self.background, dtype=torch.uint8)
        if self.vectors:
            mean, std = (constants[:2] for constants in self._constants())
            return ((0.5 - mean) / std).repeat(self.stack).to(self.dtype)
        scale, offset = self.normalization.float()
        samples = self.background * scale + offset
        return (samples.flip(0) if self.color == "bgr" else samples).to(self.dtype)

    @property
    def as_pixels(self) -> OutputForm:
        """The form of uint8 samples that `PixelNormalizer` makes into this form."""
        return self if self.dtype is torch.uint8 else replace(self, dtype=torch.uint8, mapped=False)

    def shape(self, clips: int, frames: int, height: int, width: int) -> tuple[int, ...]:
        """Shape of a batch in this layout; `frames` counts those in stacks."""
        sizes = {"b": clips, "c": self.channels, "t": frames // self.stack, "h": height, "w": width}
        return tuple(sizes[axis] for axis in self.layout)

    def from_pixels(self, pixels: Tensor | Sequence[Tensor], memory: BatchMemory | None = None) -> Tensor:
        """Convert pixels to this form, normalized if it is a floating point one.

        Args:
            pixels: uint8 (B, T, H, W, 3) in RGB, or its clips.
            memory: where the result is allocated; None: as torch does it.

        Returns:
            Contiguous tensor of this form's type and layout.
        """
        frames, height, width, _ = pixels[0].shape
        shape = self.shape(len(pixels), frames, height, width)
        if memory is None:
            out = torch.empty(shape, dtype=self.dtype, pin_memory=self.pin)
        else:
            out = memory.empty(shape, self.dtype)
        planes = out.transpose(1, 2) if self.layout == "btchw" else out  # (B, 3, T, H, W)
        for clip, frames_of_clip in enumerate(pixels):
            operators.write(
                planes[clip : clip + 1],
                frames_of_clip.contiguous()[None],
                self.normalization,
                self.layout != "bthwc",
                self.color == "bgr",
            )
        return out

    def from_samples(self, samples: Tensor) -> Tensor:
        """Convert finished samples to this form's type, color order and layout, without normalizing them.

        Args:
            samples: floating point (B, T, H, W, 3), channels in RGB order.

        Raises:
            ValueError: the form is uint8.
        """
        if self.dtype is torch.uint8:
            raise ValueError("dtype='uint8' cannot store floating point samples; choose float32, float16 or bfloat16")
        clips, frames, height, width, _ = samples.shape
        out = torch.empty(self.shape(clips, frames, height, width), dtype=self.dtype, pin_memory=self.pin)
        planes = out.permute(*(self.layout.index(axis) for axis in "bcthw"))  # (B, 3, T, H, W)
        channels = samples.flip(-1) if self.color == "bgr" else samples
        planes.copy_(channels.permute(0, 4, 1, 2, 3))
        return out


class PixelNormalizer:
    """Normalizes uint8 batches on their device, with the values that the loaders compute on the CPU.

    Vectors are also transformed by the geometry of their clips.

    Args:
        form: form of the results; the pixels have its layout and color order.
    """

    def __init__(self, form: OutputForm) -> None:
        self.form = form
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, pixels: Tensor, plan: BatchPlan | None = None) -> Tensor:
        """Return the samples of a batch.

        Args:
            pixels: uint8, (B, C, T, H, W), (B, T, C, H, W) or (B, T, H, W, C) as the form says. Another type is
                returned unchanged, and so are pixels of a uint8 form.
            plan: plan of the batch; needed for vectors.
        """
        if pixels.dtype is not torch.uint8 or self.form.dtype is torch.uint8:
            return pixels
        if self.form.vectors:
            assert plan is not None, "vectors are normalized with the geometry of their plan"
            return self._vectors(pixels, plan)
        if pixels.device not in self._constants:  # a copy to the device waits for it, so there is one for all batches
            self._constants[pixels.device] = self._on(pixels.device)
        scale, offset = self._constants[pixels.device]
        # Product and sum are rounded separately, as on the CPU: a fused multiply-add (torch.addcmul) would not give the
        # same bits. The sum is computed in single precision and rounded once to the type of the form.
        samples = torch.mul(pixels, scale)
        out = samples if self.form.dtype is torch.float32 else torch.empty_like(samples, dtype=self.form.dtype)
        return torch.add(samples, offset, out=out)

    def _vectors(self, pixels: Tensor, plan: BatchPlan) -> Tensor:
        axis = self.form.layout.index("c")
        maps = self.form.vector_maps(plan).to(pixels.device).view(len(plan), *[1] * (pixels.dim() - 1), 2, 3)
        x, y = pixels.unflatten(axis, (self.form.stack, 2)).unbind(axis + 1)
        samples = torch.empty_like(pixels, dtype=self.form.dtype)
        channels = samples.unflatten(axis, (self.form.stack, 2)).unbind(axis + 1)
        for channel, out in enumerate(channels):
            first, second, offset = maps[..., channel, :].unbind(-1)
            # In the order of the compiled code, for the same bits.
            out.copy_(torch.mul(x, first).add_(torch.mul(y, second)).add_(offset))
        return samples

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Scale and offset of each channel, in the shape that broadcasts over the layout."""
        constants = self.form.normalization.float()
        if self.form.color == "bgr":
            constants = constants.flip(1)
        shape = [3 if axis == "c" else 1 for axis in self.form.layout]
        scale, offset = constants.to(device)
        return scale.view(shape), offset.view(shape)


def make_forms(
    modalities: Sequence[str], *, stack: int = 1, color: str = "rgb", **options: Any
) -> tuple[OutputForm, ...]:
    """Return the form of each modality of a loader.

    Args:
        modalities: their names.
        stack: of flow and motion.
        color: of "rgb" and "residual".
        **options: the other arguments of `OutputForm`.

    Raises:
        ValueError: as from `OutputForm`.
    """
    forms = []
    for one in modalities:
        special: dict[str, Any] = {"stack": stack} if is_vector(one) else {"color": color}
        forms.append(OutputForm(modality=one, **special, **options))  # type: ignore[arg-type]
    return tuple(forms)


def sample_type(dtype: torch.dtype | str) -> torch.dtype:
    """Return the torch type for a type or its name, such as "float16".

    Raises:
        ValueError: not uint8, float16, bfloat16 or float32.
    """
    found = _TYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in _TYPES.values():
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(_TYPES)}")
    return found
