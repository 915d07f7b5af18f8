"""Counter-based random numbers: each draw is a function of (seed, epoch, sample number, purpose) and of nothing else.

No generator is advanced, so it does not matter who draws, in which order, in how many threads, ranks or batches, or
what was skipped. The mixing function is the finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
number generators", OOPSLA 2014).
"""

import zlib

import numpy as np
import numpy.typing as npt

__all__ = ["permutation", "uniform"]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))


def uniform(seed: int, epoch: int, samples: npt.ArrayLike, *, purpose: str, count: int = 1) -> npt.NDArray[np.float64]:
    """Independent numbers in [0, 1).

    Args:
        seed: of the run, any integer.
        epoch: from 0.
        samples: (B,) sample numbers.
        purpose: names what is drawn ("start", "crop"), so that two draws for one sample are independent.
        count: numbers for each sample.

    Returns:
        float64 (B, count); row b depends on (seed, epoch, samples[b], purpose) alone.
    """
    state = np.zeros(1, np.uint64)
    for part in (seed, epoch, zlib.crc32(purpose.encode())):
        state = _mix(state + _STEP + np.uint64(part & 0xFFFFFFFFFFFFFFFF))
    rows = _mix(state + _STEP * (np.asarray(samples).astype(np.uint64) + np.uint64(1)))
    numbers = _mix(rows[:, None] + _STEP * np.arange(1, count + 1, dtype=np.uint64))
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """The numbers 0 to count - 1 in random order, int64 (count,)."""
    return np.argsort(uniform(seed, epoch, np.arange(count), purpose="order")[:, 0], kind="stable")
