"""Train on the moving shapes of `vidseg synth`: a quarter-width SRTG network that two CPU cores train in minutes.

    python train/train_synth.py demo/data --out demo/run

The options are those of `vidseg train`, with the defaults below.
"""

import sys
from dataclasses import dataclass
from typing import Literal

from vidseg.cli.main import run_program
from vidseg.cli.train import Command


@dataclass(frozen=True)
class TrainSynth(Command):
    """Train on the moving shapes of `vidseg synth`; every option of `vidseg train` is there."""

    width: float = 0.25
    """Multiplier of the network's widths: a quarter is enough for shapes."""
    placement: str | None = "mid"
    """Where Squeeze and Recursion stands in a block: before the addition, which learns sooner from scratch."""
    size: int = 64
    """Height and width of a clip in pixels."""
    schedule: Literal["cosine", "one-cycle"] = "one-cycle"
    """Learning rate over the run."""
    log_every: int = 11
    """Iterations between lines of the log."""
    save_every: int = 10
    """Epochs between checkpoints."""


if __name__ == "__main__":
    sys.exit(run_program(TrainSynth))
