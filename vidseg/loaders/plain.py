"""A plain loader of clips: threads that decode frames, and a few lines of arithmetic on them."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vidseg.frames import FrameDatabase
from vidseg.labels import VideoDataset

__all__ = ["Batch", "PlainLoader"]

# Of RGB values in 0..1; the published training's constants.
_MEAN = (124 / 255, 117 / 255, 104 / 255)
_DEVIATION = 1 / (0.0167 * 255)
_MARGIN = 9 / 8  # frames are decoded this much larger than the crop
_AHEAD = 2  # batches


@dataclass(frozen=True, repr=False)
class Batch:
    """Some clips of equal size and their classes."""

    frames: Tensor
    """Float32 (B, 3, T, H, W), RGB, normalised."""
    labels: Tensor
    """Int64 (B,)."""
    numbers: Tensor
    """Int64 (B,): each clip's video, as an index into the data set."""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Batch(frames {tuple(self.frames.shape)}, labels {tuple(self.labels.shape)})"

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(self.frames.to(device), self.labels.to(device), self.numbers.to(device))


class PlainLoader:
    """Batches of clips from frame databases.

    A clip is `frames` frames, `interval` apart; where the video is too short, it starts over. Every whole frame is
    resized to a square (proportions are not kept) a little larger than `size` and cropped. For training, start, crop
    and flip are random and videos are shuffled; what is drawn for a clip depends on (seed, epoch, number of the
    video) alone. Otherwise the clip and the crop are the central ones.

    Args:
        data: videos, each with a class.
        frames: T.
        interval: step from one frame of the clip to the next, in frames of the video.
        size: H = W of the clips, pixels.
        batch_size: B. An incomplete last batch is left out in training, unless it is the only one.
        train: shuffle and draw at random.
        flip: mirror half of the training clips; only for labels that a mirror does not change.
        seed: seed of all draws.
        threads: decoding threads; None takes one for each core.

    Raises:
        ValueError: an argument below 1, or a data set with no videos or with videos that have no class.
    """

    def __init__(
        self,
        data: VideoDataset,
        *,
        frames: int = 16,
        interval: int = 2,
        size: int = 112,
        batch_size: int = 8,
        train: bool = True,
        flip: bool = False,
        seed: int = 0,
        threads: int | None = None,
    ):
        if min(frames, interval, size, batch_size) < 1 or (threads is not None and threads < 1):
            raise ValueError(
                f"frames={frames}, interval={interval}, size={size}, batch_size={batch_size} and threads={threads} "
                "must be at least 1"
            )
        if len(data) == 0 or data.labels.min() < 0:
            raise ValueError(f"{data}: a loader needs at least one video, and a class for each")
        self.data, self.frames, self.interval, self.size = data, frames, interval, size
        self.batch_size, self.train, self.flip = batch_size, train, flip
        self.seed, self.epoch = seed, 0
        self.threads = threads or len(os.sched_getaffinity(0))

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        full, rest = divmod(len(self.data), self.batch_size)
        return full + (rest > 0 and not (self.train and full > 0))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order and draws the next iteration has."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        order = np.arange(len(self.data))
        if self.train:
            order = np.random.default_rng((self.seed, epoch)).permutation(order)
        waiting: deque[tuple[np.ndarray, list[Future[Tensor]]]] = deque()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        try:
            for turn in range(len(self) + _AHEAD):
                if turn < len(self):
                    numbers = order[turn * self.batch_size : (turn + 1) * self.batch_size]
                    waiting.append((numbers, [pool.submit(self._clip, int(number), epoch) for number in numbers]))
                if turn >= _AHEAD:
                    yield self._batch(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, numbers: np.ndarray, clips: list[Future[Tensor]]) -> Batch:
        pixels = torch.stack([clip.result() for clip in clips]).permute(0, 4, 1, 2, 3).contiguous()
        mean = torch.tensor(_MEAN).view(3, 1, 1, 1)
        return Batch(
            frames=(pixels.float() / 255 - mean) / _DEVIATION,
            labels=torch.from_numpy(self.data.labels[numbers]),
            numbers=torch.from_numpy(numbers),
        )

    def _clip(self, number: int, epoch: int) -> Tensor:
        """The pixels of one clip, uint8 (T, H, W, 3)."""
        video = self.data[number]
        span = (self.frames - 1) * self.interval + 1
        slack, margin = max(0, video.frames - span), round(self.size * _MARGIN) - self.size
        start, top, left, mirror = slack // 2, margin // 2, margin // 2, False
        if self.train:
            rng = np.random.default_rng((self.seed, epoch, number))
            start, top, left = (int(value) for value in rng.integers(0, (slack + 1, margin + 1, margin + 1)))
            mirror = self.flip and rng.random() < 0.5
        indices = (start + np.arange(self.frames) * self.interval) % video.frames
        pixels = FrameDatabase(video.path).decode(indices, size=self.size + margin)
        pixels = pixels[:, top : top + self.size, left : left + self.size]
        return pixels.flip(2) if mirror else pixels
