"""The rows of flow.db, motion.db and residual.db: optical flow, motion vectors and residuals as bytes.

With `values="uint8"` a row is a JPEG of three components without color conversion. A vector v is stored as
p = 128 + round(127 * clamp(v, -bound, bound) / bound), so that 0 is exactly 128 and a mirrored x is exactly 256 - p.
With `values="float16"` a row is compressed float16.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from vidseg.frames.jpeg import encode_channels

__all__ = ["CENTER", "FlowForm", "from_bytes", "from_levels", "to_levels"]

CENTER = 128
"""The 8-bit value of 0."""
_STEPS = 127  # from 0 to the bound
_RESIDUAL_BOUND = 255.0
_HEADER = struct.Struct("<4sHHH")  # mark, channels, height, width
_MARK = b"VF16"
_COMPRESSION = 1  # level 6 saves 3 % and takes four times as long
CHANNELS = {"flow": 2, "motion": 2, "residual": 3}
"""Number of channels of each modality."""


@dataclass(frozen=True)
class FlowForm:
    """How fields are stored.

    Args:
        modality: "flow" (optical flow), "motion" (motion vectors of the codec) or "residual" (frame minus
            motion-compensated reference).
        method: name of the method that computed the fields, such as "raft_small".
        bound: largest x or y of a vector in pixels; longer ones are clamped in 8 bits. Residuals are -255 to 255.
        values: "uint8" (JPEG) or "float16" (lossless to that precision, about 20 times as large).
        quality: JPEG quality, 1 to 100.
        levels: number of smaller copies, each with half the side of the one before and averaged values. Vectors keep
            the unit of the full-size frame.
        restart_interval: number of MCUs between restart markers, as for `encode_channels`.
        optimize: compute Huffman tables for each row.

    Raises:
        ValueError: an argument is out of range.
    """

    modality: str = "flow"
    method: str = ""
    bound: float = 20.0
    values: str = "uint8"
    quality: int = 90
    levels: int = 2
    restart_interval: int = -1
    optimize: bool = False

    def __post_init__(self) -> None:
        if self.modality not in CHANNELS:
            raise ValueError(f"modality is {self.modality!r}, must be one of {', '.join(CHANNELS)}")
        if self.values not in ("uint8", "float16"):
            raise ValueError(f"values is {self.values!r}, must be uint8 or float16")
        if not 0 < self.bound < 65504:
            raise ValueError(f"bound is {self.bound}, must be above 0 and below 65504 pixels")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}, must be between 1 and 100")

    @property
    def channels(self) -> int:
        """Number of channels: 2 for vectors, 3 for residuals."""
        return CHANNELS[self.modality]

    @property
    def limit(self) -> float:
        """Largest magnitude that 8 bits hold: the bound, or 255 for residuals."""
        return _RESIDUAL_BOUND if self.modality == "residual" else self.bound

    def meta(self) -> dict[str, str | int | float | None]:
        """Return the entries of the meta table that describe the rows."""
        jpeg = self.values == "uint8"
        return {
            "modality": self.modality,
            "method": self.method,
            "bound": float(self.limit),
            "values": self.values,
            "quality": self.quality if jpeg else None,
            "restart_interval": self.restart_interval if jpeg else None,
        }

    def encode(self, field: torch.Tensor) -> list[bytes]:
        """Encode one field and its smaller copies, the full-size one first.

        Args:
            field: float (C, H, W), in pixels (x to the right, y down) or in gray levels.

        Raises:
            ValueError: a wrong shape, or a value that is not finite.
        """
        if field.ndim != 3 or field.shape[0] != self.channels:
            raise ValueError(f"a {self.modality} field has the shape ({self.channels}, H, W), not {tuple(field.shape)}")
        if not bool(field.isfinite().all()):
            raise ValueError(f"the {self.modality} field holds values that are not finite")
        if self.values == "uint8":
            return encode_channels(
                to_levels(field, self.limit).contiguous(),
                self.quality,
                restart_interval=self.restart_interval,
                optimize=self.optimize,
                levels=self.levels,
            )
        field = field.float()
        rows = [_to_bytes(field)]
        for _ in range(self.levels):
            field = functional.avg_pool2d(field[None], 2, ceil_mode=True)[0]
            rows.append(_to_bytes(field))
        return rows


def to_levels(field: torch.Tensor, limit: float) -> torch.Tensor:
    """Map values in -limit to limit to 8 bits: uint8 of the same shape, 1 to 255, where 128 is exactly 0."""
    return ((field.float().clamp(-limit, limit) * (_STEPS / limit)).round() + CENTER).to(torch.uint8)


def from_levels(levels: torch.Tensor, limit: float) -> torch.Tensor:
    """Map 8-bit values back: float32 of the same shape. JPEG can overshoot to 0, which is beyond the limit."""
    return (levels.float() - CENTER) * (limit / _STEPS)


def _to_bytes(field: torch.Tensor) -> bytes:
    """Compress a field as float16: high bytes and low bytes separately, because only the high ones repeat."""
    half = np.ascontiguousarray(field.half().numpy().astype("<f2"))
    if not np.isfinite(half).all():
        raise ValueError("the field holds values that are too large for float16")
    halves = half.view(np.uint8).reshape(-1, 2)
    packed = zlib.compress(np.ascontiguousarray(halves.T).tobytes(), _COMPRESSION)
    return _HEADER.pack(_MARK, *half.shape) + packed


def from_bytes(row: bytes) -> torch.Tensor:
    """Read a row of float16: float32 (C, H, W).

    Raises:
        ValueError: the bytes are damaged, or are no such row.
    """
    if len(row) < _HEADER.size or row[:4] != _MARK:
        raise ValueError("not a row of float16")
    _, channels, height, width = _HEADER.unpack_from(row)
    size = 2 * channels * height * width
    if not 1 <= channels <= 3 or size == 0:
        raise ValueError(f"a row of float16 with {channels} channels of {width}x{height} pixels")
    unpack = zlib.decompressobj()
    try:
        content = unpack.decompress(row[_HEADER.size :], size + 1)  # no more than the header announces
    except zlib.error as error:
        raise ValueError(f"damaged float16: {error}") from error
    if len(content) != size or not unpack.eof:
        raise ValueError(f"damaged float16: {len(content)} bytes instead of {size}")
    halves = np.ascontiguousarray(np.frombuffer(content, np.uint8).reshape(2, -1).T)
    values = halves.view("<f2").astype(np.float32).reshape(channels, height, width)
    if not np.isfinite(values).all():
        raise ValueError("damaged float16: values that are not finite")
    return torch.from_numpy(values)
