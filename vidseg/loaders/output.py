"""The form of a loader's batches: type of the samples, order of axes and colors, normalization."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["MEAN", "STD", "OutputForm"]

# Of RGB values in 0..1; the published training's constants.
MEAN = (124 / 255, 117 / 255, 104 / 255)
STD = (1 / (0.0167 * 255),) * 3

_TYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class OutputForm:
    """How the pixels of a batch are stored.

    Attributes:
        dtype: uint8 (0 to 255, not normalized), float16, bfloat16 or float32.
        layout: "bcthw" or "bthwc".
        color: "rgb", or "bgr" for networks that were trained with OpenCV's order.
        mean: of R, G and B in 0..1, subtracted from floating point samples.
        std: of R, G and B; floating point samples are divided by it.
        pin: allocate page-locked memory, for asynchronous copies to a GPU.
    """

    dtype: torch.dtype = torch.float32
    layout: Literal["bcthw", "bthwc"] = "bcthw"
    color: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    pin: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in _TYPES:
            raise ValueError(f"dtype {self.dtype} is not one of {', '.join(map(str, _TYPES))}")
        if self.layout not in ("bcthw", "bthwc"):
            raise ValueError(f"layout {self.layout!r} is neither 'bcthw' nor 'bthwc'")
        if self.color not in ("rgb", "bgr"):
            raise ValueError(f"color {self.color!r} is neither 'rgb' nor 'bgr'")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} need three values each, std above 0")

    @property
    def normalization(self) -> Tensor:
        """Float64 (2, 3): factor and offset of R, G and B that turn a value of 0 to 255 into a sample."""
        std, mean = torch.tensor(self.std, dtype=torch.float64), torch.tensor(self.mean, dtype=torch.float64)
        return torch.stack([1 / (255 * std), -mean / std])

    def shape(self, clips: int, frames: int, height: int, width: int) -> tuple[int, ...]:
        """Shape of a batch in this layout."""
        if self.layout == "bcthw":
            return clips, 3, frames, height, width
        return clips, frames, height, width, 3

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """Bring uint8 (B, T, H, W, 3) in RGB into this form."""
        if self.dtype is not torch.uint8:
            scale, offset = self.normalization.float()
            pixels = (pixels.float() * scale + offset).to(self.dtype)
        if self.color == "bgr":
            pixels = pixels.flip(-1)
        if self.layout == "bcthw":
            pixels = pixels.permute(0, 4, 1, 2, 3)
        return pixels.pin_memory() if self.pin else pixels.contiguous()
