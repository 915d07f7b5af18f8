"""Clips of a batch as a moving picture."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

__all__ = ["clip_animation"]

_CLIPS = 4


def clip_animation(clips: Tensor) -> bytes:
    """Return the first clips (B, 3, T, H, W), side by side, as an animated GIF.

    Args:
        clips: of any number type and device; their values are stretched to the full range.
    """
    from PIL import Image

    frames = clips[:_CLIPS].float().cpu()
    low, high = frames.min(), frames.max()
    pixels = ((frames - low) / (high - low).clamp(min=1e-6) * 255).to(torch.uint8)
    rows: list[np.ndarray] = list(pixels.permute(2, 3, 0, 4, 1).flatten(2, 3).numpy())  # T of (H, B * W, 3)
    pictures = [Image.fromarray(row) for row in rows]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=80, loop=0)
    return buffer.getvalue()
