"""Generated picture pairs with exact flow: textured shapes over a textured background, each layer with its own motion.

A pair is a function of (seed, epoch, number): training has new pairs in every epoch and needs no disk.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vidseg.clips.draws import uniform
from vidseg.labels.flow_pairs import FlowPair
from vidseg.videos.textured_shapes import SHAPES, natural_noise, shape_distance

__all__ = ["MovingShapes"]

Array = npt.NDArray[np.float32]

_TEXTURES, _SIDE = 24, 128
_LAYER_DRAWS = 24
_ROTATION, _GROWTH = 0.2, 0.12
"""Largest rotation between the pictures in radians, and largest change of the logarithm of the size."""
_SLOW = 1.5  # exponent of the distances: small motions are more frequent
_STILL = 0.2  # share of the layers without rotation and growth


@dataclass(frozen=True)
class _Layer:
    """The background or one shape.

    Attributes:
        shape: one of `SHAPES`; None: the background.
        center: (x, y) in the first picture, in pixels.
        radius: in pixels.
        turn: rotation of the texture, radians.
        motion: (2, 3), maps a point of the first picture to the second one.
        texture: number of the texture.
        zoom: pixels of the texture per pixel of the picture.
        offset: (x, y) in the texture.
        colors: (4, 3), base color and the colors of the three fields of a texture, 0..255.
    """

    shape: str | None
    center: Array
    radius: float
    turn: float
    motion: npt.NDArray[np.float64]
    texture: int
    zoom: float
    offset: Array
    colors: Array


class MovingShapes:
    """Generated pairs for training or, with another `split`, for evaluation.

    Every layer is translated by up to `reach` pixels (small distances are more frequent), rotated by up to 11 degrees
    and scaled by up to 12 percent. The flow is known at every pixel, hidden ones included.

    Args:
        count: number of pairs of an epoch.
        height: height of the pictures in pixels.
        width: width of the pictures in pixels.
        reach: largest translation in pixels.
        shapes: smallest and largest number of shapes.
        seed: seed of the pairs.
        split: "train", "val", "test", or another name; each has pairs and textures of its own.

    Raises:
        ValueError: an argument is out of range.
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self,
        count: int,
        *,
        height: int,
        width: int,
        reach: float = 8.0,
        shapes: tuple[int, int] = (2, 6),
        seed: int = 0,
        split: str = "train",
    ) -> None:
        if count < 1 or min(height, width) < 16:
            raise ValueError(f"count={count}, height={height}, width={width}: must be at least 1, 16 and 16")
        if not 0 <= shapes[0] <= shapes[1] or reach < 0:
            raise ValueError(
                f"shapes={shapes} and reach={reach}: at least 0, and the first number not above the second"
            )
        self.count, self.height, self.width, self.reach = count, height, width, reach
        self.shapes, self.seed, self.split_name = shapes, seed, split

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"MovingShapes({self.count} pairs of {self.width} x {self.height}, split {self.split_name!r})"

    def video_path(self, number: int) -> str:
        """See `vidseg.labels.flow_pairs.FlowSource`."""
        low, high = self.shapes
        return f"{self.split_name}/{self.height}x{self.width}/{self.reach:g}/{low}-{high}/{self.seed}/{number}"

    def pair(self, number: int, epoch: int = 0) -> FlowPair:
        """Return one pair."""
        first, second, flow, _ = self.render(number, epoch)
        return FlowPair(first, second, flow, np.ones(flow.shape[1:], bool))

    def render(
        self, number: int, epoch: int = 0
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], Array, npt.NDArray[np.bool_]]:
        """Return one pair, and where its flow shows.

        Returns:
            Two pictures uint8 (H, W, 3), the flow float32 (2, H, W), and bool (H, W): the point of this pixel is inside
            the second picture and not hidden there.
        """
        layers = self._layers(number, epoch)
        first, tops = self._picture(layers, moved=False)
        second, later = self._picture(layers, moved=True)
        y, x = np.mgrid[: self.height, : self.width].astype(np.float64)
        flow = np.empty((2, self.height, self.width), np.float32)
        for place, layer in enumerate(layers):
            here = tops == place
            for axis, (to_x, to_y, by) in enumerate(layer.motion):
                flow[axis][here] = (to_x * x + to_y * y + by - (x, y)[axis])[here]
        x, y = x + flow[0], y + flow[1]
        inside = (x >= 0) & (x <= self.width - 1) & (y >= 0) & (y <= self.height - 1)
        column = np.rint(x).astype(int).clip(0, self.width - 1)
        row = np.rint(y).astype(int).clip(0, self.height - 1)
        return first, second, flow, inside & (later[row, column] == tops)

    @cached_property
    def _textures(self) -> Tensor:
        """Float32 (N, 3, side + 1, side + 1): soft patches, fine grain and a tint; the last row and column repeat the
        first ones."""
        rng = np.random.default_rng((abs(self.seed), zlib.crc32(self.split_name.encode())))
        fields = [
            np.stack([np.tanh(2 * natural_noise(rng, _SIDE, _SIDE, exponent=exponent)) for exponent in (1.6, 1.1, 2.0)])
            for _ in range(_TEXTURES)
        ]
        return torch.from_numpy(np.pad(np.stack(fields), ((0, 0), (0, 0), (0, 1), (0, 1)), mode="wrap"))

    def _layers(self, number: int, epoch: int) -> list[_Layer]:
        low, high = self.shapes
        draws = uniform(
            self.seed, epoch, [number], purpose=f"moving shapes {self.split_name}", count=1 + (1 + high) * _LAYER_DRAWS
        )[0]
        count = low + int(draws[0] * (high - low + 1))
        size = min(self.height, self.width)
        layers = []
        for place in range(1 + count):
            start = 1 + place * _LAYER_DRAWS
            layers.append(self._layer(iter(draws[start : start + _LAYER_DRAWS]), size, background=place == 0))
        return layers

    def _layer(self, draws: Iterator[float], size: int, *, background: bool) -> _Layer:
        center = np.array([next(draws) * self.width, next(draws) * self.height], np.float32)
        radius = size * (0.1 + 0.2 * next(draws))
        distance, heading = self.reach * next(draws) ** _SLOW, 2 * np.pi * next(draws)
        rigid = next(draws) < _STILL
        angle, growth = (0.0 if rigid else (2 * next(draws) - 1) * most for most in (_ROTATION, _GROWTH))
        if background:  # its corners are far from its center
            center = np.array([self.width / 2, self.height / 2], np.float32)
            angle, growth = angle * 0.3, growth * 0.3
        linear = np.exp(growth) * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        step = distance * np.array([np.cos(heading), np.sin(heading)])
        motion = np.concatenate([linear, (center + step - linear @ center)[:, None]], axis=1)
        shape = None if background else SHAPES[int(next(draws) * len(SHAPES))]
        turn, zoom = 2 * np.pi * next(draws), 0.5 + 0.5 * next(draws)
        texture = int(next(draws) * _TEXTURES)
        offset = np.array([next(draws), next(draws)], np.float32) * _SIDE
        base = [60 + 136 * next(draws) for _ in range(3)]
        light = [(0.6 + 0.4 * next(draws)) for _ in range(3)]
        patches, grain, tint = 20 + 25 * next(draws), 8 + 12 * next(draws), 30 * next(draws)
        colors = np.array(
            [base, [patches * each for each in light], [grain] * 3, [tint, -tint * light[0], tint * light[1] - tint]],
            np.float32,
        )
        return _Layer(shape, center, radius, turn, motion, texture, zoom, offset, colors)

    def _picture(self, layers: list[_Layer], *, moved: bool) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """The first or the second picture, and the number of the uppermost layer of each pixel."""
        y, x = np.mgrid[: self.height, : self.width].astype(np.float32)
        tops = np.zeros((self.height, self.width), np.int64)
        picture = torch.zeros(3, self.height, self.width)
        for place, layer in enumerate(layers):
            here_x, here_y = x, y
            if moved:  # where the point of this pixel was in the first picture
                back = np.linalg.inv(layer.motion[:, :2])
                shift = back @ layer.motion[:, 2]
                here_x, here_y = (
                    (row[0] * x + row[1] * y - by).astype(np.float32) for row, by in zip(back, shift, strict=True)
                )
            dx, dy = here_x - layer.center[0], here_y - layer.center[1]
            cos, sin = np.float32(np.cos(layer.turn)), np.float32(np.sin(layer.turn))
            u, v = dx * cos + dy * sin, dy * cos - dx * sin
            paint = self._paint(layer, u, v)
            if layer.shape is None:
                picture = paint
                continue
            growth = np.sqrt(abs(np.linalg.det(layer.motion[:, :2]))) if moved else 1.0
            radius = np.float32(layer.radius)
            cover = np.clip(0.5 - shape_distance(layer.shape, u / radius, v / radius) * radius * growth, 0, 1)
            tops[cover > 0.5] = place
            picture = torch.lerp(picture, paint, torch.from_numpy(cover.astype(np.float32)))
        pixels = picture.add_(0.5).clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()
        return pixels.numpy(), tops

    def _paint(self, layer: _Layer, u: Array, v: Array) -> Tensor:
        """The colors (3, H, W) of a layer at positions of its own."""
        grid = np.stack(
            [u * np.float32(layer.zoom) + layer.offset[0], v * np.float32(layer.zoom) + layer.offset[1]], -1
        )
        places = torch.from_numpy(grid % _SIDE).mul_(2 / _SIDE).sub_(1)
        fields = F.grid_sample(self._textures[layer.texture, None], places[None], align_corners=True)[0]
        colors = torch.from_numpy(layer.colors)
        return torch.einsum("fc,fhw->chw", colors[1:], fields) + colors[0][:, None, None]
