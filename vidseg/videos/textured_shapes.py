"""Textures and outlines of synthetic pictures."""

import numpy as np

__all__ = ["SHAPES", "natural_noise", "shape_distance"]

SHAPES = ("disc", "square", "triangle", "ring", "star")


def natural_noise(rng: np.random.Generator, height: int, width: int, *, exponent: float = 1.0) -> np.ndarray:
    """Return float32 noise (height, width) with amplitude 1/f**exponent, mean 0 and deviation 1, periodic in both
    axes."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None, :] * height)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency**exponent
    noise = np.fft.irfft2(spectrum, s=(height, width))
    return (noise / noise.std()).astype(np.float32)


def shape_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the signed distance from the edge of a shape of radius 1, negative inside."""
    if shape == "disc":
        return np.hypot(x, y) - 1
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.72) - 0.28
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.85
    if shape == "triangle":
        return np.maximum(np.abs(x) * 0.866 + y * 0.5, -y) - 0.55
    # star with five petals
    return np.hypot(x, y) - (0.72 + 0.28 * np.cos(5 * np.arctan2(y, x)))
