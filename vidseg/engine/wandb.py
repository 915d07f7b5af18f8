"""Weights & Biases: a tracker on a server, or of local files with WANDB_MODE=offline."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any

from vidseg.engine.loggers import EpochScores, IterationScores, Logger, Picture, RunStart, Status

__all__ = ["WandbLogger"]

_LIMIT = ("WANDB_FINISH_TIMEOUT", "300")
"""Seconds, where the environment has no value: without a network the end of a run would wait for ever."""
_EPOCH, _ITERATION = "epoch", "iteration/number"
"""Numbers that charts have on their x axis: Weights & Biases has no step of each name."""


class WandbLogger(Logger):
    """Sends a run to Weights & Biases; the package's environment variables choose project, account and mode.

    A resumed run continues the same run of Weights & Biases.
    """

    def __init__(self) -> None:
        self._run: Any = None
        self._folder: Any = None

    def start(self, run: RunStart) -> None:
        """See `Logger.start`."""
        import wandb

        os.environ.setdefault(*_LIMIT)
        self._run = wandb.init(
            id=run.run_id,
            resume="allow",
            name=run.folder.resolve().name,
            dir=str(run.folder),
            config={**run.facts, "options": run.options},
            reinit="create_new",
        )
        self._run.define_metric(_EPOCH, hidden=True)
        self._run.define_metric(_ITERATION, hidden=True)
        for names in ("iteration/*", "clips per second/*", "seconds waited for the loader"):
            self._run.define_metric(names, step_metric=_ITERATION)
        for names in ("train/*", "val/*", "pictures/*"):
            self._run.define_metric(names, step_metric=_EPOCH)

    def iteration(self, iteration: IterationScores) -> None:
        """See `Logger.iteration`."""
        self._run.log({**iteration.numbers(), _ITERATION: iteration.number})

    def epoch(self, scores: EpochScores) -> None:
        """See `Logger.epoch`; the scores of the best validation are in the summary under `best`."""
        self._run.log({**scores.numbers(), _EPOCH: scores.epoch})
        if scores.best:
            self._run.summary.update({"best": {"epoch": scores.epoch, **scores.scores}})

    def picture(self, picture: Picture) -> None:
        """See `Logger.picture`."""
        import wandb
        from PIL import Image

        if picture.kind == "png":
            shown: Any = wandb.Image(Image.open(io.BytesIO(picture.data)))
        else:
            if self._folder is None:  # kept until the end: the file is read in the background
                self._folder = tempfile.TemporaryDirectory()
            path = Path(self._folder.name) / f"{picture.name}_{picture.epoch:04d}.gif"
            path.write_bytes(picture.data)
            shown = wandb.Video(str(path), format="gif")
        self._run.log({f"pictures/{picture.name}": shown, _EPOCH: picture.epoch})

    def close(self, status: Status, error: str) -> None:
        """See `Logger.close`."""
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "complete" else 1)
        if self._folder is not None:
            self._folder.cleanup()
