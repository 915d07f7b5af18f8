"""Small sharded runs for tests: the network, its data, and what one process of a group does."""

import json
import os
import shutil
import sys
from pathlib import Path

import torch
from torch import nn
from trained import CLASSES, ShuffledClips

from vidseg.engine import CheckpointOptions, DeviceOptions, EvaluationOptions, OptimizerOptions, Trainer, distributed
from vidseg.engine.options import ScheduleOptions
from vidseg.models._stage import Stage

SINGLE = {"accumulate": 2, "clip_norm": 0.5, "ema": 0.5, "momentum": 0.8}
EXACT = {**SINGLE, "double": True}
HALF = {"level": "O1", "optimizer": "adamw", "accumulate": 2, "clip_norm": 0.5, "ema": 0.5}


class StoppedError(Exception):
    """The run ends here."""


class Clips(ShuffledClips):
    """Smaller clips; `stop` ends the run before this batch of this epoch."""

    def __init__(self, *, stop=None, train=True):
        super().__init__(train=train)
        self.frames, self.stop = self.frames[:, :, :2, :6, :6].contiguous(), stop

    def __iter__(self):
        for batch in super().__iter__():
            if self.stop == (self.epoch, self.next - 1):
                raise StoppedError
            yield batch


class Block(nn.Module):
    """Convolution and batch norm, with a bias of a length that two processes cannot halve."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.norm = nn.Conv3d(inputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stage, self.fc = Stage(Block(3, 5), Block(5, 5)), nn.Linear(5, CLASSES)

    def forward(self, clips):
        return self.fc(self.stage(clips).mean((2, 3, 4)))


def train(out: Path, *, epochs=2, level="O0", stop=None, double=False, devices=None, **optimizer) -> Trainer:
    """Train, or go on in the folder; `double` shows differences that are not rounding."""
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None
    torch.manual_seed(distributed.rank())  # the first process's weights count
    model, loader, validation = Net(), Clips(stop=stop), Clips(train=False)
    if double:
        model.double()
        loader.frames, validation.frames = loader.frames.double(), validation.frames.double()
    trainer = Trainer(
        model,
        loader,
        validation=validation,
        name="net",
        device="cpu",
        opt_level=level,
        schedule=ScheduleOptions(lr=0.05),
        devices=DeviceOptions(sync_bn=True, **(devices or {"shard": True})),
        evaluation=EvaluationOptions(precise_bn=1),
        checkpoints=CheckpointOptions(checkpoint_every=1, save_frequency=1),
        optimizer=OptimizerOptions(**optimizer),
    )
    trainer.fit(epochs, out, resume=True)
    return trainer


def train_both_ways(out: Path, name: str, **options) -> Trainer:
    """Train a whole run, and one that stops within an epoch and goes on; leaves a copy of the stopped one."""
    trainer = train(out / name, **options)
    try:
        train(out / f"{name}_stopped", stop=(1, 2), **options)
    except StoppedError:
        distributed.barrier()
    if distributed.is_first():
        shutil.copytree(out / f"{name}_stopped", out / f"{name}_left")
    train(out / f"{name}_stopped", **options)
    return trainer


def join(rank: int, port: int) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    distributed.join_group()


def train_sharded(rank: int, port: int, out: Path) -> None:
    """One of two processes whose weights are slices."""
    join(rank, port)
    with distributed.leaving_group():
        trainer = train_both_ways(out, "exact", **EXACT)
        held = {name: value.to_local().numel() for name, value in trainer.model.named_parameters()}
        torch.save(held, out / f"held{rank}.pt")
        train_both_ways(out, "half", **HALF)
        train(out / "bf16", level="bf16", devices={"shard": True, "recompute": True})


def train_deepspeed(rank: int, port: int, out: Path, package: Path | None, stages: tuple[int, ...]) -> None:
    """One of two processes with DeepSpeed's engine, or with a package that stands for it."""
    if package is not None:
        sys.path.insert(0, str(package))
    join(rank, port)
    with distributed.leaving_group():
        for stage in stages:
            config = out / f"stage{stage}_{rank}.json"
            config.write_text(json.dumps({"zero_optimization": {"stage": stage}, "train_batch_size": "auto"}))
            devices = {"engine": "deepspeed", "deepspeed_config": str(config)}
            train_both_ways(out, f"stage{stage}", devices=devices, **SINGLE)
