"""A small run that other processes can repeat: for tests of killed, resumed and distributed training."""

import os
import signal
import sys
from pathlib import Path

import torch
from test_engine import Batch
from torch import nn

from vidseg.clips.draws import permutation
from vidseg.engine import CheckpointOptions, DeviceOptions, EvaluationOptions, ScheduleOptions, Trainer, distributed
from vidseg.models import create_model
from vidseg.models._quantized import quantize_layers

CLIPS, CLASSES = 16, 3


class ShuffledClips:
    """Clips of noise whose class is in their mean, in an order of their own in each epoch; one slice for each rank.

    Args:
        batch_size: over all ranks.
        stateful: know where it stands, as the library's loader does.
        die: kill the process (SIGKILL) before this batch of this epoch.
    """

    def __init__(self, batch_size=4, *, stateful=True, die=None, train=True):
        generator = torch.Generator().manual_seed(3)
        self.labels = torch.randint(CLASSES, (CLIPS,), generator=generator)
        self.frames = torch.randn(CLIPS, 3, 8, 32, 32, generator=generator) + self.labels.view(-1, 1, 1, 1, 1)
        self.batch_size, self.train, self.die = batch_size, train, die
        self.epoch, self.next, self.seen, self.made = 0, 0, [], 0
        if stateful:
            self.state_dict = lambda: {"epoch": self.epoch, "next": self.next}
            self.load_state_dict = self._load

    def _load(self, state):
        self.epoch, self.next = state["epoch"], state["next"]

    def __len__(self):
        return CLIPS // self.batch_size

    def set_epoch(self, epoch):
        self.epoch, self.next = epoch, 0

    def __iter__(self):
        order = permutation(7, self.epoch, CLIPS) if self.train else torch.arange(CLIPS).numpy()
        for index in range(self.next, len(self)):
            if self.die == (self.epoch, index):
                os.kill(os.getpid(), signal.SIGKILL)
            whole = order[index * self.batch_size : (index + 1) * self.batch_size]
            numbers = torch.from_numpy(whole[distributed.rank() :: distributed.world_size()].copy())
            self.next, self.made = index + 1, self.made + 1
            self.seen += numbers.tolist()
            yield Batch(self.frames[numbers], self.labels[numbers], numbers)
        self.next = 0


def network() -> nn.Module:
    torch.manual_seed(0)
    model = create_model("srtg_r3d_18", num_classes=8, width=0.125, placement="mid")
    return nn.Sequential(model, nn.Dropout(0.2), nn.Linear(8, CLASSES))


def train(
    out: Path, *, epochs=2, every=1, resume=True, sync_bn=False, exact=False, loader=None, quantized=False, **options
):
    """Train for a few batches; returns trainer and result."""
    torch.set_num_threads(1)
    model, loader = quantize_layers(network()) if quantized else network(), loader or ShuffledClips()
    validation = ShuffledClips(train=False)
    if exact:  # no dropout, and float64: batch norm over a few clips amplifies rounding
        model[1].p = 0.0
        model.double()
        loader.frames, validation.frames = loader.frames.double(), validation.frames.double()
    trainer = Trainer(
        model,
        loader,
        validation=validation,
        name="net",
        seed=5,
        device="cpu",
        schedule=ScheduleOptions(lr=0.05, schedule="cosine"),
        devices=DeviceOptions(sync_bn=sync_bn),
        evaluation=EvaluationOptions(precise_bn=1),
        checkpoints=CheckpointOptions(checkpoint_every=every),
        **options,
    )
    return trainer, trainer.fit(epochs, out, resume=resume)


def train_and_die(out: Path, at: tuple[int, int], stateful: bool, **options) -> None:
    """Train until the process is killed; the disk need not keep up, for the machine does not die."""
    os.fsync = lambda descriptor: None
    train(out, loader=ShuffledClips(die=at, stateful=stateful), **options)


def train_and_die_writing(out: Path, files: int) -> None:
    """Train until the process is killed in the middle of writing the checkpoint after `files` others."""
    from vidseg.engine import checkpoints

    written = []

    def die(descriptor):
        if ".pth." not in str(Path(f"/proc/self/fd/{descriptor}").readlink()):  # events.jsonl is synced, too
            return
        written.append(descriptor)
        if len(written) > files:
            os.ftruncate(descriptor, 1000)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.os.fsync = die
    train(out)


def fail_as_rank(rank: int, port: int, out: Path, failing: int) -> None:
    """One of two processes, of which `failing` raises in the second step; leaves its error, and exits with 1."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    distributed.join_group()

    class Failing(ShuffledClips):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                if number == 1 and rank == failing:
                    distributed.distributed.all_reduce(torch.ones(1), async_op=True)  # which the other never joins
                    raise ValueError("video 7 is damaged")
                yield batch

    try:
        with distributed.leaving_group():
            train(out, loader=Failing())
    except (ValueError, RuntimeError) as error:
        (out / f"error{rank}.txt").write_text(f"{type(error).__name__}: {error}")
        sys.exit(1)


def train_as_rank(
    rank: int, ranks: int, port: int, out: Path, quantized: bool = False, die: tuple[int, int] | None = None
) -> None:
    """One process of a group, as torchrun would start it; writes what it saw; is killed before batch `die`."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    distributed.join_group()
    loader = ShuffledClips(die=die)
    trainer, result = train(out, sync_bn=True, exact=True, loader=loader, quantized=quantized)
    torch.save(
        {"seen": loader.seen, "state": trainer.model.state_dict(), "logits": result.logits}, out / f"rank{rank}.pt"
    )
    distributed.leave_group()


def norm_as_rank(rank: int, world_size: int, port: int, out: Path, group_size: int) -> None:
    """One of several processes with batch norm over groups; leaves its output, gradient and running statistics."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    distributed.join_group()
    with distributed.leaving_group():
        model = nn.Sequential(nn.BatchNorm1d(3))
        distributed.synchronize_norms(model, group_size=group_size)
        values = torch.randn(4, 3, generator=torch.Generator().manual_seed(rank)).requires_grad_()
        found = model(values)
        (found * torch.arange(3.0)).square().sum().backward()
        state = {"out": found.detach(), "gradient": values.grad, "mean": model[0].running_mean}
        torch.save(state, out / f"norm{rank}.pt")
