"""TensorBoard files of a run."""

from __future__ import annotations

import io
from typing import Any

from vidseg.engine.loggers import EpochScores, IterationScores, Logger, Picture, RunStart, Status

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger(Logger):
    """Writes the event files that `tensorboard --logdir` shows.

    Args:
        folder: name of the folder for the event files in the folder of the run.
    """

    def __init__(self, folder: str = "tensorboard") -> None:
        self._folder = folder
        self._writer: Any = None

    def start(self, run: RunStart) -> None:
        """See `Logger.start`; of a resumed run, TensorBoard hides the iterations that are trained again."""
        from torch.utils.tensorboard import SummaryWriter

        epochs, batches = run.done
        # Steps of epochs count epochs: what is purged must not reach those that are finished.
        purged = max(epochs * run.batches + batches, epochs + 1) if run.resumed else None
        self._writer = SummaryWriter(str(run.folder / self._folder), purge_step=purged)

    def iteration(self, iteration: IterationScores) -> None:
        """See `Logger.iteration`."""
        for name, value in iteration.numbers().items():
            self._writer.add_scalar(name, value, iteration.number)

    def epoch(self, scores: EpochScores) -> None:
        """See `Logger.epoch`."""
        for name, value in scores.numbers().items():
            self._writer.add_scalar(name, value, scores.epoch)
        self._writer.flush()

    def picture(self, picture: Picture) -> None:
        """See `Logger.picture`; the bytes are stored as they are, so that moving pictures move."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = Image.open(io.BytesIO(picture.data)).size
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=picture.data)
        summary = Summary(value=[Summary.Value(tag=picture.name, image=image)])
        self._writer._get_file_writer().add_summary(summary, picture.epoch)

    def close(self, status: Status, error: str) -> None:
        """See `Logger.close`."""
        if self._writer is not None:
            self._writer.close()
