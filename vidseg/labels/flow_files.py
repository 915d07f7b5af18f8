"""Files of true optical flow: `.flo` of Middlebury, and the 16-bit PNG files of KITTI.

A flow is float32 (2, H, W): the displacement (x, y) of each pixel to the next picture, in pixels, x to the right and y
down. Both formats mark pixels whose flow is not known.

Sources: "A Database and Evaluation Methodology for Optical Flow" (Baker et al., IJCV 2011) and its program for `.flo`;
"Object Scene Flow for Autonomous Vehicles" (Menze and Geiger, CVPR 2015) and its development kit for the PNG files.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidseg.frames.whole_file import whole_file

__all__ = ["FLOW_SUFFIXES", "Flow", "flo_content", "read_flow", "read_picture", "write_flo"]

Flow = npt.NDArray[np.float32]

FLOW_SUFFIXES = (".flo", ".png")
_MAGIC = b"PIEH"  # 202021.25 as a little-endian float32
_HEADER = 12
_LONGEST_SIDE = 99_999
_MOST_PIXELS = 1 << 27
_UNKNOWN = 1e9
"""Components above this in a .flo file are not known."""
_PNG = b"\x89PNG\r\n\x1a\n"
_KITTI_ZERO, _KITTI_UNIT = 2.0**15, 64.0


def read_flow(path: str | Path) -> tuple[Flow, npt.NDArray[np.bool_]]:
    """Read the flow of a picture from a `.flo` file or a PNG file of KITTI.

    Args:
        path: file; its extension selects the format.

    Returns:
        Flow float32 (2, H, W), zero where it is not known, and bool (H, W), where it is known.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of this format, is damaged, or has more pixels than any picture; names the file.
    """
    path = Path(path)
    if path.suffix.lower() == ".flo":
        return _read_flo(path)
    if path.suffix.lower() == ".png":
        return _read_kitti(path)
    raise ValueError(f"{path}: not a file of flow; expected {' or '.join(FLOW_SUFFIXES)}")


def write_flo(path: str | Path, flow: npt.ArrayLike) -> None:
    """Write a `.flo` file; it is complete or absent.

    Args:
        path: file to write.
        flow: (2, H, W), in pixels.

    Raises:
        ValueError: the flow has another shape, or a value that is not finite.
    """
    values = np.asarray(flow, np.float32)
    if values.ndim != 3 or len(values) != 2 or 0 in values.shape:
        raise ValueError(f"{path}: a flow of shape {values.shape}; expected (2, height, width)")
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: the flow has values that are not finite")
    with whole_file(path) as temporary:
        temporary.write_bytes(flo_content(values))


def flo_content(flow: Flow) -> bytes:
    """Return the content of the `.flo` file of a flow float32 (2, H, W)."""
    _, height, width = flow.shape
    vectors = flow.transpose(1, 2, 0).astype("<f4", order="C")
    return _MAGIC + struct.pack("<ii", width, height) + vectors.tobytes()


def read_picture(path: str | Path) -> npt.NDArray[np.uint8]:
    """Read a picture (PPM, PNG, JPEG) as uint8 (H, W, 3), RGB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a picture, or is damaged; names the file.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content)) as picture:
            _check_size(path, *picture.size)
            return np.array(picture.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, struct.error) as e:
        if isinstance(e, ValueError) and str(e).startswith(str(path)):
            raise
        raise ValueError(f"{path}: not a picture that can be read: {e}") from e


def _check_size(path: Path, width: int, height: int) -> None:
    if not (1 <= width <= _LONGEST_SIDE and 1 <= height <= _LONGEST_SIDE) or width * height > _MOST_PIXELS:
        raise ValueError(f"{path}: a size of {width} x {height} pixels is not that of a picture")


def _read_flo(path: Path) -> tuple[Flow, npt.NDArray[np.bool_]]:
    with path.open("rb") as file:
        header = file.read(_HEADER)
        if len(header) < _HEADER or header[:4] != _MAGIC:
            raise ValueError(f"{path}: begins with {header[:4]!r}; a .flo file begins with {_MAGIC!r} (202021.25)")
        width, height = struct.unpack("<ii", header[4:])
        _check_size(path, width, height)
        expected = width * height * 8
        content = file.read(expected + 1)
    if len(content) != expected:
        found = "more" if len(content) > expected else f"{len(content)}"
        raise ValueError(f"{path}: {width} x {height} pixels need {expected} bytes of flow, the file has {found}")
    flow = np.frombuffer(content, "<f4").reshape(height, width, 2).transpose(2, 0, 1).astype(np.float32)
    known = (np.abs(flow) <= _UNKNOWN).all(axis=0)  # False for NaN, too
    return np.where(known, flow, np.float32(0)), known


def _read_kitti(path: Path) -> tuple[Flow, npt.NDArray[np.bool_]]:
    import av

    content = path.read_bytes()
    if content[:8] != _PNG or len(content) < 29:
        raise ValueError(f"{path}: not a PNG file")
    width, height, depth, color = struct.unpack(">IIBB", content[16:26])
    _check_size(path, width, height)
    if (depth, color) != (16, 2):
        raise ValueError(
            f"{path}: a PNG file of {depth} bits and color type {color}; KITTI's flow has 16 bits and RGB (type 2)"
        )
    try:
        with av.open(io.BytesIO(content), format="png_pipe") as container:
            frame = next(container.decode(video=0))
            values = frame.to_ndarray(format="rgb48be").astype(np.float32)
    except (av.FFmpegError, StopIteration) as error:  # FFmpeg checks the sums of the file's parts
        raise ValueError(f"{path}: damaged PNG file: {error or 'no picture in it'}") from error
    known = values[..., 2] > 0
    flow = ((values[..., :2] - _KITTI_ZERO) / _KITTI_UNIT).transpose(2, 0, 1)
    return np.where(known, flow, np.float32(0)).astype(np.float32), known
