"""Batches that a linear layer learns, and what tests of the loop share."""

import csv

import torch
from torch import nn

from vidseg.engine import ScheduleOptions


class Batch:
    """Frames and labels; stands for a loader's batch."""

    def __init__(self, frames, labels, numbers=None, valid=None):
        self.frames, self.labels = frames, labels
        self.numbers = torch.arange(len(labels)) if numbers is None else numbers
        self.valid = torch.ones(len(labels), dtype=torch.bool) if valid is None else valid

    def __len__(self):
        return len(self.labels)

    @property
    def inputs(self):
        return self.frames

    def to(self, device, *, non_blocking=False):
        return self


class Batches:
    """Batches of points that a linear layer can tell apart; stands for a loader."""

    def __init__(self, batches: int = 6, clips: int = 8):
        generator = torch.Generator().manual_seed(0)
        self.batches = []
        for index in range(batches):
            labels = torch.randint(3, (clips,), generator=generator)
            frames = torch.randn(clips, 3, 1, 2, 2, generator=generator) * 0.1
            frames[torch.arange(clips), labels] += 1
            self.batches.append(Batch(frames, labels, torch.arange(clips) + index * clips))
        self.epochs = []

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def linear(*, dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(12, 3))


def rows(path):
    with path.open() as file:
        return [[float(value) for value in row] for row in list(csv.reader(file))[1:]]


def constant(rate: float) -> ScheduleOptions:
    return ScheduleOptions(lr=rate)
