"""Output class of the optical-flow networks, sizes of pictures, sampling along a flow, and windows of frames.

A flow is the displacement of each pixel of the first picture in pixels, (x, y): x to the right, y down. The pixel
(x, y) of the first picture is at (x, y) + flow in the second one. Pixel centers have integer positions.

Shapes: B pairs or streams, C channels, T frames, H, W.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "FlowOutput",
    "check_pair",
    "flow_to_size",
    "halves",
    "multiple_of",
    "pad_pictures",
    "pixel_positions",
    "resize_pictures",
    "sample",
    "warp",
    "window_flow",
]


@dataclass(frozen=True)
class FlowOutput:
    """Output of an optical-flow network."""

    flow: Tensor
    """float32 (B, 2, H, W): displacement in pixels of the first picture, at its size."""
    levels: tuple[Tensor, ...] = ()
    """Flows (B, 2, h, w) that the loss compares with the true flow, the final one last; documented at each network.
    Empty in evaluation mode."""


torch.export.register_dataclass(FlowOutput)


def check_pair(first: Tensor, second: Tensor) -> None:
    """Check the input of an optical-flow network.

    Args:
        first: (B, 3, H, W), floating point.
        second: like `first`.

    Raises:
        ValueError: a shape or dtype is wrong.
    """
    if first.dim() != 4 or first.shape[1] != 3:
        raise ValueError(f"first must be (B, 3, H, W), RGB from 0 to 1, but has shape {tuple(first.shape)}")
    if first.shape != second.shape:
        raise ValueError(
            f"first and second must have the same shape, but have {tuple(first.shape)} and {tuple(second.shape)}"
        )
    for name, picture in (("first", first), ("second", second)):
        if not picture.is_floating_point():
            raise ValueError(f"{name} must be floating point from 0 to 1, but is {picture.dtype}; divide uint8 by 255")


def halves(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the second half of the rows of a tensor (2 * B, ...).

    `Tensor.chunk` with a variable number of rows has no plain form in ONNX.
    """
    first, second = pairs.unflatten(0, (2, -1)).unbind(dim=0)
    return first, second


def multiple_of(size: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is at least `size`."""
    return (size + unit - 1) // unit * unit  # division of a negative number rounds differently in ONNX


def pad_pictures(pictures: Tensor, unit: int, *, bottom: bool = False) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Repeat the border pixels of pictures up to multiples of `unit`.

    Args:
        pictures: (B, C, H, W).
        unit: height and width become multiples of it.
        bottom: add all rows at the bottom. False: half of them at the top.

    Returns:
        The padded pictures, and int64 (H,) and (W,), the rows and columns of the original pictures in them.
    """
    places = []
    for dim, after in ((2, bottom), (3, False)):
        size = pictures.shape[dim]
        padded = multiple_of(size, unit)
        before = 0 if after else (padded - size) // 2
        # Index tensors, unlike F.pad and slices, leave the size of an exported graph variable.
        source = torch.arange(padded, device=pictures.device) - before
        pictures = pictures.index_select(dim, source.clamp(0, size - 1))
        places.append(torch.arange(size, device=pictures.device) + before)
    return pictures, (places[0], places[1])


def resize_pictures(pictures: Tensor, unit: int) -> Tensor:
    """Resize pictures (B, C, H, W) bilinearly to the next multiples of `unit`."""
    height, width = pictures.shape[2:]
    size = (multiple_of(height, unit), multiple_of(width, unit))
    return F.interpolate(pictures, size=size, mode="bilinear", align_corners=False)


def flow_to_size(flow: Tensor, size: tuple[int, int], *, unit: tuple[int, int]) -> Tensor:
    """Resize a flow bilinearly and scale its vectors.

    Args:
        flow: (B, 2, h, w) in pixels of a picture of size `unit`.
        size: height and width of the result.
        unit: height and width of the picture whose pixels are the unit of `flow`.

    Returns:
        float32 (B, 2, *size) in pixels of a picture of that size.
    """
    resized = F.interpolate(flow.float(), size=size, mode="bilinear", align_corners=False)
    x, y = resized.split(1, dim=1)
    return torch.cat([x * (size[1] / unit[1]), y * (size[0] / unit[0])], dim=1)


def pixel_positions(maps: Tensor) -> Tensor:
    """Return the position (x, y) of each pixel of maps (B, C, H, W), float32 (1, 2, H, W)."""
    height, width = maps.shape[2:]
    x = torch.arange(width, dtype=torch.float32, device=maps.device)
    y = torch.arange(height, dtype=torch.float32, device=maps.device)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]


def sample(maps: Tensor, positions: Tensor) -> Tensor:
    """Interpolate maps bilinearly at positions; values outside the maps are zero.

    Args:
        maps: (B, C, H, W).
        positions: float32 (B, 2, h, w), (x, y) in pixels.

    Returns:
        (B, C, h, w) in the dtype of `maps`; positions are computed in float32 for any dtype.
    """
    height, width = maps.shape[2:]
    x, y = positions.float().unbind(dim=1)
    # In the coordinates of grid_sample, a picture covers -1..1 from edge to edge.
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(maps.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False).to(maps.dtype)


def warp(maps: Tensor, flow: Tensor) -> Tensor:
    """Return maps (B, C, H, W) at the position of each pixel plus `flow` (B, 2, H, W) in pixels of the maps."""
    return sample(maps, pixel_positions(maps) + flow.float())


def window_flow(model: nn.Module, frames: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute the flow between neighboring frames of a window, in a stream also from the window before.

    Args:
        model: optical-flow network.
        frames: (B, T, 3, H, W), RGB from 0 to 1, T at least 1.
        previous: (B, 3, H, W), last frame of the window before; None at the start of a stream.

    Returns:
        Flows float32 (B, N, 2, H, W) and the last frame (B, 3, H, W), which is `previous` of the next window. Without
        `previous` N = T - 1, and flow i is the motion from frame i to frame i + 1. With `previous` N = T, and flow 0
        is the motion from `previous` to frame 0.

    Raises:
        ValueError: a shape or dtype is wrong.
    """
    if frames.dim() != 5 or frames.shape[2] != 3 or not frames.shape[1]:
        raise ValueError(f"frames must be (B, T, 3, H, W) with T of at least 1, but have shape {tuple(frames.shape)}")
    batch, _, _, height, width = frames.shape
    if previous is not None:
        if previous.shape != frames[:, 0].shape:
            raise ValueError(
                f"previous must be {tuple(frames[:, 0].shape)}, one frame of each stream, but has shape "
                f"{tuple(previous.shape)}"
            )
        frames = torch.cat([previous[:, None].to(frames), frames], dim=1)
    pairs = frames.shape[1] - 1
    if not pairs:
        return frames.new_zeros((batch, 0, 2, height, width), dtype=torch.float32), frames[:, -1]
    flow = model(frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)).flow
    return flow.unflatten(0, (batch, pairs)), frames[:, -1]
