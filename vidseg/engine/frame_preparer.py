"""Decoded frames as the input of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidseg.loaders.output import OutputForm
from vidseg.models import InputSpec
from vidseg.videos.upright import UprightFrames

__all__ = ["FramePreparer"]


class FramePreparer:
    """Prepares decoded frames like the loaders in evaluation: resize, center crop (or stretch), normalization.

    Args:
        spec: input spec of the network.

    Raises:
        ValueError: the network sees more than frames, such as flow.

    Attributes:
        spec: as given.
        form: normalization of the frames.
    """

    def __init__(self, spec: InputSpec) -> None:
        if spec.modality != "rgb":
            raise ValueError(
                f"the network sees {spec.modality}, which the decoded frames of a video do not have: run `vidseg "
                "convert` and `vidseg extract-flow`, and use the data set"
            )
        self.spec = spec
        self.form = OutputForm(mean=spec.mean, std=spec.std)
        scale, offset = self.form.normalization.float()
        self._scale, self._offset = scale.view(3, 1, 1), offset.view(3, 1, 1)
        self._upright = UprightFrames()

    @property
    def black(self) -> Tensor:
        """Normalized value of a black pixel, float32 (3,), in the network's order of channels."""
        return self._ordered(self._offset).flatten()

    def region(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return the part of an upright frame that the network sees.

        Args:
            height: height of the frame.
            width: width of the frame.

        Returns:
            (left, top, right, bottom) as fractions of width and height; outside 0..1 if the crop is larger than the
            frame.
        """
        if self.spec.crop == "stretch":
            return 0.0, 0.0, 1.0, 1.0
        side = self.spec.size * min(height, width) / (self.spec.resize or self.spec.size)
        left, top = (1 - side / width) / 2, (1 - side / height) / 2
        return left, top, 1 - left, 1 - top

    def __call__(self, frame: Any) -> Tensor:
        """Prepare one frame.

        Args:
            frame: `av.VideoFrame`.

        Returns:
            float32 (3, H, W).
        """
        size, (width, height) = self.spec.size, self._upright.measure(frame)[1]
        if self.spec.crop == "stretch":
            scales, left, top = (width / size, height / size), 0.0, 0.0
        else:
            scale = min(height, width) / (self.spec.resize or size)
            scales = (scale, scale)
            left, top = (width - size * scale) / 2, (height - size * scale) / 2
        matrix = torch.tensor([[scales[0], 0, left], [0, scales[1], top], [0, 0, 1]], dtype=torch.float64)
        pixels = self._upright.sample(frame, matrix, size, size)
        return self._ordered(pixels.permute(2, 0, 1).float() * self._scale + self._offset)

    def _ordered(self, pixels: Tensor) -> Tensor:
        return pixels.flip(0) if self.spec.color == "bgr" else pixels
