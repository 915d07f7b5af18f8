"""TensorBoard files of a run: scores, rates, speeds, sample clips, confusion matrices, pictures of detections."""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidseg.engine.monitors import Speeds
from vidseg.metrics import confusion_matrix

__all__ = ["Board", "animation"]

_CLIPS = 4


class Board:
    """Writer of the event files of one run.

    Args:
        folder: for the event files.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(f"the option tensorboard needs the package tensorboard ({error})") from error
        self._writer = SummaryWriter(str(folder))

    def iteration(
        self, step: int, columns: tuple[str, ...], values: tuple[float, ...], rate: float, speeds: Speeds
    ) -> None:
        """Scores, learning rate and speeds of one iteration."""
        for title, value in zip(columns, values, strict=True):
            self._writer.add_scalar(f"iteration/{title}", value, step)
        self._writer.add_scalar("iteration/rate", rate, step)
        seconds = {"reading": speeds.fill, "forward": speeds.forward, "backward": speeds.backward}
        for name, time in seconds.items():
            if time:
                self._writer.add_scalar(f"clips per second/{name}", speeds.clips / time, step)
        self._writer.add_scalar("seconds waited for the loader", speeds.wait, step)

    def epoch(self, kind: str, epoch: int, columns: tuple[str, ...], values: tuple[float, ...], result: Any) -> None:
        """Scores of an epoch; of an evaluation with classes also its confusion matrix, or the pictures it draws."""
        for title, value in zip(columns, values, strict=True):
            self._writer.add_scalar(f"{kind}/{title}", value, epoch)
        if hasattr(result, "logits"):
            classes = result.logits.shape[1]
            counts = confusion_matrix(result.labels, result.predictions, classes).float()
            shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
            scale = max(1, 256 // classes)
            picture = F.interpolate(1 - shares[None, None], scale_factor=scale)[0]
            self._writer.add_image("confusion (rows true, dark is often)", picture, epoch)
        if hasattr(result, "draw"):
            from PIL import Image

            with TemporaryDirectory() as folder:
                for path in result.draw(Path(folder)):
                    pixels = np.asarray(Image.open(path).convert("RGB"))
                    self._writer.add_image(path.stem.replace("_", " "), pixels, epoch, dataformats="HWC")

    def inputs(self, epoch: int, batch: Any) -> None:
        """The first clips of a batch, moving; inputs that are not clips of RGB have no picture."""
        frames = batch.inputs
        if frames.dim() != 5 or frames.shape[1] != 3:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        frames = frames[:_CLIPS].float().cpu()
        clips, _, _, height, width = frames.shape
        picture = Summary.Image(
            height=height, width=width * clips, colorspace=3, encoded_image_string=animation(frames)
        )
        summary = Summary(value=[Summary.Value(tag="clips", image=picture)])
        self._writer._get_file_writer().add_summary(summary, epoch)

    def close(self) -> None:
        """Write pending events and close the files."""
        self._writer.close()


def animation(frames: Tensor) -> bytes:
    """Clips (B, 3, T, H, W) side by side as an animated GIF, their values stretched to the full range."""
    from PIL import Image

    low, high = frames.min(), frames.max()
    pixels = ((frames - low) / (high - low).clamp(min=1e-6) * 255).to(torch.uint8)
    rows: list[np.ndarray] = list(pixels.permute(2, 3, 0, 4, 1).flatten(2, 3).numpy())  # T of (H, B * W, 3)
    pictures = [Image.fromarray(row) for row in rows]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=80, loop=0)
    return buffer.getvalue()
