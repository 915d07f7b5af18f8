"""Optical flow without a network: DIS and TV-L1 of OpenCV.

Both take gray pictures; colors are converted with the weights of luma. The results do not depend on the number of
OpenCV's threads.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["dis_flow", "tvl1_flow"]

_REMEDY = 'pip install "vidseg[flow]" (opencv-python-headless)'
# DIS of OpenCV reads and writes outside its pyramid for smaller pictures, or leaves values unset.
_SMALLEST_SIDE = 96
_PRESETS = ("ultrafast", "fast", "medium")


def dis_flow(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    *,
    preset: Literal["ultrafast", "fast", "medium"] = "medium",
) -> NDArray[np.float32]:
    """Compute the flow between two pictures by dense inverse search.

    "Fast Optical Flow using Dense Inverse Search", ECCV 2016, arXiv 1603.03590. Sides below 96 pixels are extended by
    repeating the border.

    Args:
        first: uint8 (H, W, 3), RGB.
        second: like `first`.
        preset: settings of OpenCV, from the fastest to the most accurate one.

    Returns:
        float32 (2, H, W), displacement (x, y) of each pixel of `first` in pixels.

    Raises:
        ImportError: OpenCV is not installed.
        ValueError: a shape or dtype is wrong, or the preset is unknown.
    """
    if preset not in _PRESETS:
        raise ValueError(f"preset={preset!r} must be one of {', '.join(_PRESETS)}")
    cv2 = _opencv()
    height, width, gray = _gray(cv2, first, second)
    margin = [(0, max(0, _SMALLEST_SIDE - height)), (0, max(0, _SMALLEST_SIDE - width))]
    method = cv2.DISOpticalFlow_create(_PRESETS.index(preset))
    flow = method.calc(*(np.pad(picture, margin, mode="edge") for picture in gray), None)
    return _vectors(flow[:height, :width])


def tvl1_flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute the flow between two pictures by total variation and an L1 data term.

    "A Duality Based Approach for Realtime TV-L1 Optical Flow", DAGM 2007; the flow of TSN and I3D. Needs the module
    optflow of opencv-contrib.

    Args:
        first: uint8 (H, W, 3), RGB.
        second: like `first`.

    Returns:
        float32 (2, H, W), displacement (x, y) of each pixel of `first` in pixels.

    Raises:
        ImportError: OpenCV is not installed, or has no module optflow.
        ValueError: a shape or dtype is wrong.
    """
    cv2 = _opencv()
    optflow = getattr(cv2, "optflow", None)
    if optflow is None or not hasattr(optflow, "DualTVL1OpticalFlow_create"):
        raise ImportError(
            f"TV-L1 needs the module optflow, which OpenCV {cv2.__version__} of this environment does not have; pip "
            "uninstall opencv-python-headless and pip install opencv-contrib-python-headless, or use DIS"
        )
    _, _, gray = _gray(cv2, first, second)
    return _vectors(optflow.DualTVL1OpticalFlow_create().calc(*gray, None))


def _opencv() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise ImportError(f"classical optical flow needs OpenCV: {_REMEDY}; {error}") from error


def _gray(cv2: Any, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> tuple[int, int, list[NDArray[np.uint8]]]:
    """Return height, width and the gray pictures of a checked pair."""
    for name, picture in (("first", first), ("second", second)):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ValueError(f"{name} must be uint8 (H, W, 3), but is {picture.dtype} of shape {picture.shape}")
    if first.shape != second.shape:
        raise ValueError(f"first and second must have the same shape, but have {first.shape} and {second.shape}")
    gray = [cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY) for picture in (first, second)]
    return first.shape[0], first.shape[1], gray


def _vectors(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(flow.transpose(2, 0, 1), dtype=np.float32)
