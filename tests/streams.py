"""Small streams in memory, a small network for them, and runs on them that other processes can repeat."""

import os
import signal
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vidseg.clips.stream_windows import StreamPlan, WindowShape, window_labels
from vidseg.engine import CheckpointOptions, OptimizerOptions, ScheduleOptions, Trainer
from vidseg.loaders.stream_loader import StreamBatch
from vidseg.losses.streaming import StreamLoss, stage_loss
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState
from vidseg.tasks.streaming.task import StreamingTask

SHAPE = WindowShape(8, 4, 2)
CLASSES = 3
LENGTHS = [30, 13, 9, 17, 5]  # 4, 2, 2, 3, 1 windows


class Tiny(StreamModel):
    """Labels a frame by its mean color and a running mean of all frames before; `fresh` records absent states."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(3), nn.Dropout(dropout)
        self.now, self.past = nn.Linear(3, CLASSES), nn.Linear(3, CLASSES)
        self.fresh: list[bool] = []

    def forward(self, clips, state=None, mask=None):
        self.fresh.append(state is None)
        colors = self.norm(clips.mean(dim=(3, 4)))
        past = clips.new_zeros(len(clips), 3) if state is None else state["past"]
        seen = self.dropout(colors.transpose(1, 2))
        logits = (self.now(seen) + self.past(past)[:, None]).transpose(1, 2)
        following = 0.5 * past + colors.mean(dim=2)
        return StreamOutput(logits[None], backbone_logits=logits, neck_logits=logits), StreamState({"past": following})


def make_videos(lengths: list[int], pixels: int = 2) -> list[tuple[Tensor, np.ndarray]]:
    """Frames (L, 3, pixels, pixels) and labels (L,) of each video."""
    random = np.random.RandomState(len(lengths))
    videos = []
    for length in lengths:
        labels = random.randint(0, CLASSES, length)
        frames = torch.from_numpy(random.standard_normal((length, 3, pixels, pixels)).astype(np.float32))
        videos.append((frames, labels))
    return videos


def load(plan: StreamPlan, videos: list, start: int = 0):
    """The windows of a plan."""
    for index in range(start, len(plan)):
        item = plan[index]
        clips = torch.full((len(item.videos), SHAPE.frames, *videos[0][0].shape[1:]), -1.0, dtype=videos[0][0].dtype)
        labels = []
        for row, video in enumerate(item.videos):
            frames, truth = videos[video]
            real = item.frames[row] >= 0
            clips[row, torch.from_numpy(real)] = frames[item.frames[row][real]]
            labels.append(window_labels(plan.shape, item.window, truth))
        yield StreamBatch(clips.transpose(1, 2), torch.from_numpy(np.stack(labels)), torch.from_numpy(item.mask), item)


class Videos:
    """The data set of `Streams`."""

    classes = [str(number) for number in range(CLASSES)]  # noqa: RUF012

    def __init__(self, count: int):
        self.count = count

    def __len__(self):
        return self.count

    def video_path(self, row: int) -> str:
        return f"all/video{row}"


class Streams:
    """A loader of windows in memory.

    Args:
        lengths: frames of each video.
        die: kill the process (SIGKILL) before this window of this epoch.
        **plan: arguments of `StreamPlan`.
    """

    shape = SHAPE

    def __init__(self, lengths=LENGTHS, *, videos=None, die=None, train=True, **plan):
        self.lengths, self.videos, self.die = list(lengths), videos or make_videos(list(lengths)), die
        self.given = {"shuffle": train, "group": 2 if train else 1, "seed": 1, **plan}
        self.data = Videos(len(self.lengths))
        self.epoch = self.next = self.resume = self.made = 0
        self.seen: list[list[int]] = []

    def plan(self, epoch: int) -> StreamPlan:
        return StreamPlan(self.lengths, SHAPE, epoch=epoch, **self.given)

    def __len__(self):
        return len(self.plan(self.epoch))

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.next, self.resume = epoch, 0, 0

    def state_dict(self):
        return {"epoch": self.epoch, "next": self.next}

    def load_state_dict(self, state):
        self.epoch, self.next = state["epoch"], state["next"]
        self.resume = self.next

    def __iter__(self):
        epoch, start = self.epoch, self.resume
        self.resume = 0
        for batch in load(self.plan(epoch), self.videos, start):
            if self.die == (epoch, batch.item.index):
                os.kill(os.getpid(), signal.SIGKILL)
            self.next, self.made = batch.item.index + 1, self.made + 1
            if batch.item.starts:
                self.seen.append(batch.item.videos.tolist())
            yield batch
        if self.epoch == epoch:
            self.epoch, self.next = epoch + 1, 0


def objective(output, labels, windows):
    """Cross entropy and smoothing."""
    return StreamLoss(stage_loss(output.logits, labels, windows=windows), {})


def make_trainer(loader=None, *, seed=0, model=None, lr=0.1, loss=objective, task=None, options=None, **trainer):
    """A trainer of `Tiny` with plain SGD.

    Args:
        loader: training windows.
        seed: of the weights.
        model: another network.
        lr: learning rate.
        loss: objective.
        task: further options of `StreamingTask`.
        options: further options of the optimizer.
        **trainer: arguments of `Trainer`.
    """
    torch.manual_seed(seed)
    model = Tiny() if model is None else model
    optimizer = OptimizerOptions(momentum=0.0, weight_decay=0.0, **(options or {}))
    return Trainer(
        model,
        Streams() if loader is None else loader,
        task=StreamingTask(loss, **(task or {})),
        optimizer=optimizer,
        schedule=ScheduleOptions(lr=lr),
        device="cpu",
        **trainer,
    )


def train_streams(out: Path, update: str, *, loader=None, epochs=2, resume=True, videos=1) -> Trainer:
    """A run with dropout, batch norm, momentum, a moving average and a checkpoint after each step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trainer = Trainer(
        Tiny(dropout=0.3),
        Streams(group=videos) if loader is None else loader,
        task=StreamingTask(objective, update=update),
        validation=Streams(train=False),
        name="tiny",
        seed=5,
        device="cpu",
        optimizer=OptimizerOptions(accumulate=2, ema=0.5),
        schedule=ScheduleOptions(lr=0.05, schedule="cosine"),
        checkpoints=CheckpointOptions(checkpoint_every=1),
    )
    trainer.fit(epochs, out, resume=resume)
    return trainer


def train_streams_and_die(out: Path, update: str, at: tuple[int, int]) -> None:
    """Train until the process is killed before a window; the disk need not keep up."""
    os.fsync = lambda descriptor: None
    train_streams(out, update, loader=Streams(die=at, group=1))


def train_features_and_die(options, at: tuple[int, int]) -> None:
    """Train a segmentation network until the process is killed before a batch."""
    torch.set_num_threads(1)
    from vidseg.tasks.segmentation.cross_validation import cross_validate
    from vidseg.tasks.segmentation.task import SegmentationTask

    os.fsync = lambda descriptor: None
    train_batch = SegmentationTask.train_batch

    def dying(self, model, batch, position, backward):
        if (position.epoch, position.batch) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_batch(self, model, batch, position, backward)

    SegmentationTask.train_batch = dying
    torch.set_num_threads(1)
    cross_validate(options)
