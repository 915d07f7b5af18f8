"""Order of the videos of an epoch as a user's sampler gives it."""

from __future__ import annotations

import contextlib
import operator
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from vidseg.clips.draws import uniform

__all__ = ["check_sampler", "count_repeats", "sampled_videos"]

Integers = npt.NDArray[np.int64]


def check_sampler(sampler: Iterable[int]) -> None:
    """Refuse a sampler that cannot give the order of every epoch over all ranks.

    Raises:
        TypeError: it is not iterable, or can be iterated over once only.
        ValueError: it divides the videos among processes, as `DistributedSampler` does.
    """
    if not isinstance(sampler, Iterable):
        raise TypeError(f"sampler={sampler!r} is not iterable; pass video indices or a torch.utils.data.Sampler")
    if isinstance(sampler, Iterator):
        raise TypeError(
            f"sampler={sampler!r} is an iterator, which ends after one epoch; pass a list or a Sampler instead"
        )
    if getattr(sampler, "num_replicas", 1) > 1:
        raise ValueError(
            f"sampler={sampler!r} divides the videos among processes, which the loader does itself; pass a sampler of"
            " all videos (the same in every process), and rank= and world_size= to the loader"
        )


def sampled_videos(sampler: Iterable[int], *, count: int, seed: int, epoch: int) -> Integers:
    """Read the order of one epoch from a sampler.

    `sampler.set_epoch(epoch)` is called if there is such a method. The global random generators of Python, NumPy and
    torch (CPU), and the sampler's own `generator`, are seeded from (seed, epoch) and restored afterwards, so that
    torch's random samplers give the same order for the same seed and epoch.

    Args:
        sampler: video indices in the order of the epoch; indices may repeat.
        count: number of videos of the data set.
        seed: seed of the loader.
        epoch: from 0.

    Returns:
        int64 (N,), each in 0 to count - 1.

    Raises:
        TypeError: an item is not an integer.
        ValueError: no index, or one outside the data set.
    """
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    with _seeded(getattr(sampler, "generator", None), int(uniform(seed, epoch, [0], purpose="sampler")[0, 0] * 2**32)):
        items: list[Any] = list(sampler)
    try:
        videos = np.array([operator.index(item) for item in items], np.int64)
    except TypeError:
        wrong = next(item for item in items if not hasattr(item, "__index__") or isinstance(item, np.ndarray))
        raise TypeError(
            f"the sampler yields {wrong!r}; it must yield one video index at a time (the loader makes the batches)"
        ) from None
    if not len(videos):
        raise ValueError(f"the sampler yields no video for epoch {epoch}")
    outside = videos[(videos < 0) | (videos >= count)]
    if len(outside):
        raise ValueError(f"the sampler yields video {outside[0]}; the data set has videos 0 to {count - 1}")
    return videos


def count_repeats(samples: Integers) -> Integers:
    """For each sample number (N,), how many times it occurs before its own position; int64 (N,)."""
    order = np.argsort(samples, kind="stable")
    ranked = samples[order]
    first = np.searchsorted(ranked, ranked, side="left")
    repeats = np.empty(len(samples), np.int64)
    repeats[order] = np.arange(len(samples)) - first
    return repeats


@contextlib.contextmanager
def _seeded(generator: Any, seed: int) -> Iterator[None]:
    """Seed the global generators, and `generator` if it is torch's; restore their states on exit."""
    import torch

    generators = [torch.default_generator]
    if isinstance(generator, torch.Generator):
        generators.append(generator)
    states = [one.get_state() for one in generators]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        for one in generators:
            one.manual_seed(seed)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for one, state in zip(generators, states, strict=True):
            one.set_state(state)
