"""Counter-based random numbers: each number is a function of seed, epoch, sample number and purpose.

There is no generator state, so the numbers do not depend on the order of calls, on threads, ranks or batch size, or on
skipped samples. The mixing function is the finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
number generators", OOPSLA 2014).
"""

import zlib

import numpy as np
import numpy.typing as npt

from vidseg.clips.arguments import whole

__all__ = ["permutation", "uniform"]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))


def uniform(seed: int, epoch: int, samples: npt.ArrayLike, *, purpose: str, count: int = 1) -> npt.NDArray[np.float64]:
    """Return independent uniform numbers in [0, 1).

    Args:
        seed: seed of the run, any integer.
        epoch: number of the epoch, counted from 0.
        samples: (B,) sample numbers.
        purpose: name of the use ("start", "crop"); different purposes give independent numbers for one sample.
        count: numbers per sample.

    Returns:
        float64 (B, count); row b is a function of seed, epoch, samples[b] and purpose. A longer row begins with the
        numbers of a shorter one.
    """
    state = np.zeros(1, np.uint64)
    for part in (whole(seed, "seed"), whole(epoch, "epoch"), zlib.crc32(purpose.encode())):
        state = _mix(state + _STEP + np.uint64(part & 0xFFFFFFFFFFFFFFFF))
    rows = _mix(state + _STEP * (np.asarray(samples).astype(np.uint64) + np.uint64(1)))
    numbers = _mix(rows[:, None] + _STEP * np.arange(1, count + 1, dtype=np.uint64))
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """Return the numbers 0 to count - 1 in random order, int64 (count,)."""
    return np.argsort(uniform(seed, epoch, np.arange(count), purpose="order")[:, 0], kind="stable")
