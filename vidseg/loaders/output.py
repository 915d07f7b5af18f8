"""Format of a loader's clips: data type, axis order, color order, normalization."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

__all__ = ["MEAN", "STD", "Color", "Layout", "OutputForm", "PixelNormalizer", "sample_type"]

# Of RGB values in 0..1. The constants of the published training (SRTG).
MEAN = (124 / 255, 117 / 255, 104 / 255)
STD = (1 / (0.0167 * 255),) * 3

Color = tuple[float, float, float]
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
            samples. None: floating point samples are pixel / 255, in 0..1.
        std: standard deviation of R, G and B in 0..1; divides floating point samples. None: as for `mean`.
        pin: allocate page-locked memory, for asynchronous copies to a GPU.

    Raises:
        ValueError: an unknown type, layout or color, std not above 0, or one of mean and std given and the other None.
    """

    dtype: torch.dtype = torch.float32
    layout: Layout = "bcthw"
    color: Literal["rgb", "bgr"] = "rgb"
    mean: Color | None = MEAN
    std: Color | None = STD
    pin: bool = False

    def __post_init__(self) -> None:
        sample_type(self.dtype)
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout={self.layout!r} is not one of {', '.join(map(repr, LAYOUTS))}")
        if self.color not in ("rgb", "bgr"):
            raise ValueError(f"color={self.color!r} is neither 'rgb' nor 'bgr'")
        if self.mean is None or self.std is None:
            # One None is enough: the other is then the default of a loader's signature.
            if self.mean not in (None, MEAN) or self.std not in (None, STD):
                raise ValueError(f"mean={self.mean} and std={self.std}: give both, or None for both")
            object.__setattr__(self, "mean", None)
            object.__setattr__(self, "std", None)
        elif len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean={self.mean} and std={self.std} need three values each, std above 0")

    @property
    def normalization(self) -> Tensor:
        """Float64 (2, 3): scale and offset of R, G and B that turn a pixel value of 0 to 255 into a sample."""
        mean, std = self.mean or (0.0,) * 3, self.std or (1.0,) * 3
        scale, offset = torch.tensor(std, dtype=torch.float64), torch.tensor(mean, dtype=torch.float64)
        return torch.stack([1 / (255 * scale), -offset / scale])

    @property
    def as_pixels(self) -> OutputForm:
        """The same form with uint8 samples."""
        return replace(self, dtype=torch.uint8)

    def shape(self, clips: int, frames: int, height: int, width: int) -> tuple[int, ...]:
        """Shape of a batch in this layout."""
        sizes = {"b": clips, "c": 3, "t": frames, "h": height, "w": width}
        return tuple(sizes[axis] for axis in self.layout)

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """Convert pixels to this form, normalized if it is a floating point one.

        Args:
            pixels: uint8 (B, T, H, W, 3) in RGB.

        Returns:
            Contiguous tensor of this form's type and layout.
        """
        if self.dtype is torch.uint8 and self.color == "rgb" and self.layout == "bthwc" and not self.pin:
            return pixels.contiguous()
        scale, offset = self.normalization.float().tolist()
        out, planes = self._empty(pixels)
        for channel in range(3):
            color = 2 - channel if self.color == "bgr" else channel
            plane = planes[:, channel]
            if self.dtype is torch.uint8:
                plane.copy_(pixels[..., color])
            elif self.dtype is torch.float32:
                plane.copy_(pixels[..., color]).mul_(scale[color]).add_(offset[color])
            else:  # computed in single precision and rounded once
                plane.copy_(pixels[..., color].float().mul_(scale[color]).add_(offset[color]))
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
        out, planes = self._empty(samples)
        channels = samples.flip(-1) if self.color == "bgr" else samples
        planes.copy_(channels.permute(0, 4, 1, 2, 3))
        return out

    def _empty(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """An uninitialized batch for pixels (B, T, H, W, 3), and its view (B, 3, T, H, W)."""
        clips, frames, height, width, _ = pixels.shape
        out = torch.empty(self.shape(clips, frames, height, width), dtype=self.dtype, pin_memory=self.pin)
        return out, out.permute(*(self.layout.index(axis) for axis in "bcthw"))


class PixelNormalizer:
    """Normalizes uint8 batches on their device, with the values that the loaders compute on the CPU.

    Args:
        form: form of the results; the pixels have its layout and color order.
    """

    def __init__(self, form: OutputForm) -> None:
        self.form = form
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the samples of a batch.

        Args:
            pixels: uint8, (B, 3, T, H, W), (B, T, 3, H, W) or (B, T, H, W, 3) as the form says. Another type is
                returned unchanged, and so are pixels of a uint8 form.
        """
        if pixels.dtype is not torch.uint8 or self.form.dtype is torch.uint8:
            return pixels
        if pixels.device not in self._constants:  # a copy to the device waits for it, so there is one for all batches
            self._constants[pixels.device] = self._on(pixels.device)
        scale, offset = self._constants[pixels.device]
        # Product and sum are rounded separately, as on the CPU: a fused multiply-add (torch.addcmul) would not give the
        # same bits. The sum is computed in single precision and rounded once to the type of the form.
        samples = torch.mul(pixels, scale)
        out = samples if self.form.dtype is torch.float32 else torch.empty_like(samples, dtype=self.form.dtype)
        return torch.add(samples, offset, out=out)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Scale and offset of each channel, in the shape that broadcasts over the layout."""
        constants = self.form.normalization.float()
        if self.form.color == "bgr":
            constants = constants.flip(1)
        shape = [3 if axis == "c" else 1 for axis in self.form.layout]
        scale, offset = constants.to(device)
        return scale.view(shape), offset.view(shape)


def sample_type(dtype: torch.dtype | str) -> torch.dtype:
    """Return the torch type for a type or its name, such as "float16".

    Raises:
        ValueError: not uint8, float16, bfloat16 or float32.
    """
    found = _TYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in _TYPES.values():
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(_TYPES)}")
    return found
