"""What a user can choose about a training run; imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["TrainOptions"]


@dataclass(frozen=True)
class TrainOptions:
    """Options of a run; they are written beside its checkpoints."""

    dataset: str
    """Folder of the data set."""
    network: str = "srtg_r3d_18"
    """Name of the network; `vidseg list models` has them all."""
    width: float = 1.0
    """Multiplier of the network's widths, below 1 for small machines."""
    placement: str | None = None
    """Where Squeeze and Recursion stands in an SRTG block: start, top, mid, end, res or final; default: final."""
    gate: bool = False
    """Switch on the temporal gates of an SRTG network."""
    weights: str | None = None
    """Checkpoint to start from; what fits by name and shape is taken."""
    train_split: str | None = None
    """Split to learn from; default: "train" if there is one, else all videos but the held-out ones."""
    test_split: str | None = None
    """Split to evaluate on; default: "val" or "test" if there is one, else a fifth of each class, held out."""
    frames: int = 16
    """Frames of a clip."""
    interval: int = 2
    """Step from one frame of a clip to the next."""
    size: int = 112
    """Height and width of a clip in pixels."""
    flip: bool = False
    """Mirror half of the training clips; leave it out where classes tell left from right."""
    epochs: int = 30
    """Passes over the training videos."""
    batch_size: int = 16
    """Clips in a batch."""
    lr: float = 0.1
    """Highest learning rate."""
    schedule: Literal["cosine", "one-cycle"] = "cosine"
    """Learning rate over the run: half a cosine from the top, or up for 30 % of the run and then down."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 1e-4
    """L2 penalty of all weights."""
    seed: int = 1
    """Seed of weights, order, clips and crops."""
    threads: int | None = None
    """Decoding threads; default: one for each core."""
    device: str | None = None
    """Where to compute, such as cuda:0; default: the accelerator if there is one, else the CPU."""
    save_every: int = 1
    """Epochs between checkpoints; the last epoch always has one."""
    test_every: int = 1
    """Epochs between evaluations; the last epoch always has one."""
    log_every: int = 1
    """Iterations between lines of the log."""
    out: str | None = None
    """Folder of the run; default: results/<data set>/<network>."""
    overwrite: bool = False
    """Replace the run that is in the folder."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "save_every", "test_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.lr <= 0 or not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise ValueError(
                f"lr={self.lr} must be above 0, momentum={self.momentum} in [0, 1), "
                f"weight_decay={self.weight_decay} not below 0"
            )
        if self.schedule not in ("cosine", "one-cycle"):
            raise ValueError(f"schedule={self.schedule!r} is neither cosine nor one-cycle")
