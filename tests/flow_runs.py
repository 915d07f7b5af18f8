"""A small network for optical flow, and runs of it that other processes repeat: killed, resumed and distributed."""

import os
import signal
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from vidseg.engine import CheckpointOptions, OptimizerOptions, ScheduleOptions, Trainer, distributed
from vidseg.engine.published_recipe import Recipe
from vidseg.loaders import FlowLoader, MovingShapes
from vidseg.losses import flow_losses as losses
from vidseg.models import _registry, register_model
from vidseg.models._flow import FlowOutput, halves
from vidseg.ops import correlation
from vidseg.tasks.flow.recipes import RECIPES

REACH = 4


class TinyFlow(nn.Module):
    """Flow at half the size: the mean displacement of the correlation's softmax, and a correction."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.correct = nn.Conv2d(2 + 16, 2, 3, padding=1)
        steps = torch.arange(-REACH, REACH + 1.0)
        places = torch.stack([steps.repeat(len(steps)), steps.repeat_interleave(len(steps))])
        self.register_buffer("places", places, persistent=False)

    def forward(self, first, second):
        maps = self.features(torch.cat([first, second]))
        maps = F.normalize(maps - maps.mean(dim=(2, 3), keepdim=True), dim=1)
        one, other = halves(maps)
        costs = F.avg_pool2d(correlation(one, other, max_displacement=REACH), 5, 1, 2)
        shares = (costs * self.scale * 1000).softmax(dim=1)
        coarse = torch.einsum("bdhw,cd->bchw", shares, self.places.to(shares))
        fine = coarse + self.correct(torch.cat([coarse, one], dim=1))
        levels = [2 * F.interpolate(flow, size=first.shape[2:], mode="bilinear") for flow in (coarse, fine)]
        return FlowOutput(levels[-1], tuple(levels) if self.training else ())


def register() -> None:
    """Give the network its name, loss and settings; once in a process."""
    if "tiny_flow" not in losses.FLOW_LOSSES:
        register_model("tiny_flow", TinyFlow, task="flow")
        losses.FLOW_LOSSES["tiny_flow"] = losses.SequenceLoss
        options = {"optimizer": "adamw", "lr": 1e-2, "height": 32, "width": 48, "batch_size": 4, "schedule": "linear"}
        RECIPES["shapes"]["tiny_flow"] = Recipe(options)


def forget() -> None:
    """Undo `register`."""
    for names in (_registry._ENTRIES, losses.FLOW_LOSSES, RECIPES["shapes"]):
        names.pop("tiny_flow", None)


class DyingLoader(FlowLoader):
    """Kills the process (SIGKILL) before the batch `die`, (epoch, batch)."""

    die = None

    def __iter__(self):
        epoch = self.epoch
        for batch in super().__iter__():
            if self.die == (epoch, self._position - 1):
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


def train(out: Path, *, die: tuple[int, int] | None = None, resume: bool = False, pairs: int = 12):
    """Two epochs of generated pairs; returns the trainer and the last result."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = {"height": 32, "width": 48, "reach": 4.0, "seed": 3}
    ranks = {"rank": distributed.rank(), "world_size": distributed.world_size(), "batch_size": 4, "threads": 1}
    loader = DyingLoader(MovingShapes(pairs, **size), seed=3, **ranks)
    loader.die = die
    trainer = Trainer(
        TinyFlow(),
        loader,
        task="flow",
        validation=FlowLoader(MovingShapes(5, split="val", **size), train=False, **ranks),
        name="tiny",
        device="cpu",
        optimizer=OptimizerOptions(clip_norm=1.0),  # Adam would amplify rounding
        schedule=ScheduleOptions(lr=1e-2, schedule="linear"),
        checkpoints=CheckpointOptions(checkpoint_every=1),
    )
    return trainer, trainer.fit(2, out, resume=resume)


def train_and_die(out: Path, at: tuple[int, int]) -> None:
    """Train until the process is killed; the disk need not keep up."""
    os.fsync = lambda descriptor: None
    train(out, die=at)


def train_as_rank(rank: int, port: int, out: Path) -> None:
    """One of two processes, as torchrun would start it."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    distributed.join_group()
    trainer, result = train(out)
    torch.save(
        {"state": trainer.model.state_dict(), "values": result.values, "pairs": result.pairs}, out / f"rank{rank}.pt"
    )
    distributed.leave_group()
