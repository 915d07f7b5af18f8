"""Random scale, mirroring, crop and color of picture pairs with flow.

Geometry acts on both pictures and on the flow: scaling by (sx, sy) multiplies the vectors by it, mirroring negates
their x, turning upside down their y. Colors change together or, for a share of the pairs, each picture on its own.

Source: the ranges are those of RAFT's program (Teed and Deng, ECCV 2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vidseg.clips.draws import uniform
from vidseg.labels.flow_pairs import FlowPair

__all__ = ["FlowAugmentation"]

_LUMA = (0.299, 0.587, 0.114)
_MARGIN = 8
"""Pixels by which a scaled picture is at least larger than the crop."""


@dataclass(frozen=True)
class FlowAugmentation:
    """Ranges of the random changes.

    Attributes:
        height: height of the crop in pixels.
        width: width of the crop in pixels.
        scale: smallest and largest exponent of the size: a pair is scaled by 2^x.
        scaled: share of the pairs that are scaled.
        stretch: largest exponent by which width and height are scaled differently.
        mirror: share of the pairs that are mirrored.
        upside_down: share of the pairs that are turned upside down.
        color: largest change of brightness, contrast and saturation, as a share.
        asymmetric: share of the pairs whose pictures get colors of their own.
        erase: share of the pairs with one or two rectangles of the second picture's mean color in it, which hide what
            was there.
    """

    height: int
    width: int
    scale: tuple[float, float] = (-0.2, 0.6)
    scaled: float = 0.8
    stretch: float = 0.2
    mirror: float = 0.5
    upside_down: float = 0.1
    color: float = 0.4
    asymmetric: float = 0.2
    erase: float = 0.5

    def __call__(self, pair: FlowPair, *, seed: int, epoch: int, number: int) -> FlowPair:
        """Return a changed pair of the size of the crop; a function of the pair, seed, epoch and number."""
        draws = iter(uniform(seed, epoch, [number], purpose="flow augmentation", count=40)[0])
        pair = self._geometry(pair, draws)
        first, second = self._colors(pair.first, pair.second, draws)
        return FlowPair(first, self._erased(second, draws), pair.flow, pair.known, pair.sparse)

    def _geometry(self, pair: FlowPair, draws: Iterator[float]) -> FlowPair:
        height, width = pair.known.shape
        low, high = self.scale
        size = 2 ** (low + (high - low) * next(draws))
        differ = [2 ** (self.stretch * (2 * next(draws) - 1)) for _ in range(2)]
        chosen = next(draws) < self.scaled
        sx, sy = ((size * each if chosen else 1.0) for each in differ)
        # The scaled pair is larger than the crop.
        sx, sy = max(sx, (self.width + _MARGIN) / width), max(sy, (self.height + _MARGIN) / height)
        left = (width * sx - self.width) * next(draws)
        top = (height * sy - self.height) * next(draws)
        if not chosen and sx == sy == 1:
            left, top = np.floor(left), np.floor(top)  # whole pixels stay as they are
        mirrored, turned = next(draws) < self.mirror, next(draws) < self.upside_down
        x = (left + np.arange(self.width) + 0.5) / sx - 0.5
        y = (top + np.arange(self.height) + 0.5) / sy - 0.5
        x, y = x[::-1] if mirrored else x, y[::-1] if turned else y
        signs = (-sx if mirrored else sx, -sy if turned else sy)
        flow, known = _resample_flow(pair, x, y)
        flow = flow * np.array(signs, np.float32)[:, None, None]
        return FlowPair(_resample(pair.first, x, y), _resample(pair.second, x, y), flow, known, pair.sparse)

    def _colors(
        self, first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], draws: Iterator[float]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        one = [next(draws) for _ in range(3)]
        other = [next(draws) for _ in range(3)]
        apart = next(draws) < self.asymmetric
        return self._colored(first, one), self._colored(second, other if apart else one)

    def _colored(self, picture: npt.NDArray[np.uint8], draws: list[float]) -> npt.NDArray[np.uint8]:
        if not self.color:
            return picture
        brightness, contrast, saturation = (1 + self.color * (2 * draw - 1) for draw in draws)
        values = picture.astype(np.float32) * np.float32(brightness)
        gray = values @ np.array(_LUMA, np.float32)
        middle = gray.mean(dtype=np.float64)
        values = (values - middle) * contrast + middle
        gray = ((gray - middle) * contrast + middle)[..., None]
        values = gray + (values - gray) * saturation
        return np.clip(values + 0.5, 0, 255).astype(np.uint8)

    def _erased(self, picture: npt.NDArray[np.uint8], draws: Iterator[float]) -> npt.NDArray[np.uint8]:
        if next(draws) >= self.erase:
            return picture
        picture = picture.copy()
        mean = picture.reshape(-1, 3).mean(axis=0)
        for _ in range(1 + int(2 * next(draws))):
            # A tenth to a quarter of each side; published: 50 to 100 pixels of crops of 368 x 496.
            x, y, wide, high = (next(draws) for _ in range(4))
            left, top = int(x * self.width), int(y * self.height)
            right = left + int(self.width * (0.1 + 0.15 * wide))
            bottom = top + int(self.height * (0.1 + 0.15 * high))
            picture[top:bottom, left:right] = mean
        return picture


def _grid(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], shape: tuple[int, ...]) -> Tensor:
    """Positions in pixels of a picture of (H, W) as `grid_sample` takes them."""
    height, width = shape
    columns = torch.from_numpy((2 * x + 1) / width - 1).float()
    rows = torch.from_numpy((2 * y + 1) / height - 1).float()
    return torch.stack([columns.expand(len(rows), -1), rows[:, None].expand(-1, len(columns))], dim=-1)[None]


def _sampled(values: npt.NDArray[np.float32], grid: Tensor, mode: str = "bilinear") -> npt.NDArray[np.float32]:
    maps = torch.from_numpy(np.ascontiguousarray(values))[None]
    return F.grid_sample(maps, grid, mode=mode, padding_mode="border", align_corners=False)[0].numpy()


def _resample(
    picture: npt.NDArray[np.uint8], x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    values = _sampled(picture.transpose(2, 0, 1).astype(np.float32), _grid(x, y, picture.shape[:2]))
    return np.ascontiguousarray((values + 0.5).astype(np.uint8).transpose(1, 2, 0))


def _resample_flow(
    pair: FlowPair, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The flow at positions: of the nearest pixel where single pixels are known, else interpolated."""
    grid = _grid(x, y, pair.known.shape)
    known = pair.known[None].astype(np.float32)
    if pair.sparse:
        return _sampled(pair.flow, grid, "nearest"), _sampled(known, grid, "nearest")[0] > 0.5
    return _sampled(pair.flow, grid), _sampled(known, grid)[0] > 0.999
