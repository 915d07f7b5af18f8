"""Orders of the videos of an epoch, for the `sampler=` of a loader: repeated videos, equally frequent classes.

The order is a function of (seed, epoch) alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vidseg.clips.arguments import whole
from vidseg.clips.draws import permutation, uniform

__all__ = ["VideoOrder"]

_MOST_REPEATS = 64


class VideoOrder:
    """Shuffled videos, each several times in a row, or with all classes equally often.

    The repeats of a video are next to each other, so that they are in one batch, with other frames, crops and colors
    (repeated augmentation: Hoffer et al., "Augment your batch", CVPR 2020; as VideoMAE's `num_sample`). A balanced
    epoch has as many videos as one without: each class has the same number of them, up to one, and a class draws its
    videos again only after all of them have been drawn.

    Args:
        labels: int64 (N,) class numbers of the videos.
        repeats: clips of each video in an epoch, which has N * repeats clips.
        balanced: draw all classes equally often.
        seed: seed of the run.

    Raises:
        ValueError: repeats out of its range, or a video without a class in a balanced order.
    """

    def __init__(self, labels: npt.ArrayLike, *, repeats: int = 1, balanced: bool = False, seed: int = 0) -> None:
        self.labels = np.asarray(labels, np.int64)
        self.repeats, self.balanced = whole(repeats, "repeats", least=1, most=_MOST_REPEATS), balanced
        self.seed, self.epoch = seed, 0
        if balanced and (self.labels < 0).any():
            raise ValueError(f"{int((self.labels < 0).sum())} videos have no class, so classes cannot be balanced")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels) * self.repeats

    def __iter__(self) -> Iterator[int]:
        count = len(self.labels)
        order = permutation(self.seed, self.epoch, count)
        if self.balanced:
            order = self._balanced(order)
        return iter(np.repeat(order, self.repeats).tolist())

    def _balanced(self, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """As many videos as `order`, of each class the same number."""
        classes = np.unique(self.labels)
        by_class = [order[self.labels[order] == number] for number in classes]
        share, rest = divmod(len(order), len(classes))
        more = permutation(self.seed + 1, self.epoch, len(classes))[:rest]  # classes with one video more
        chosen = [
            np.resize(videos, share + (place in more))  # in turn, again from the first one
            for place, videos in enumerate(by_class)
        ]
        found = np.concatenate(chosen)
        keys = uniform(self.seed, self.epoch, np.arange(len(found)), purpose="balanced order")[:, 0]
        return found[np.argsort(keys, kind="stable")]
