"""Throughput statistics of a loader."""

from dataclasses import dataclass, field

from vidseg.loaders.batch import ClipBatch
from vidseg.loaders.native_backend import CacheReport

__all__ = ["LoaderStats"]


@dataclass
class LoaderStats:
    """Sums over all batches that a loader has yielded since it was made.

    Attributes:
        batches: number of batches.
        clips: number of clips, without padding.
        frames: number of frames of these clips.
        replaced: number of damaged frames that were replaced by a neighbor.
        fill_seconds: time that the loader spent on the batches.
        wait_seconds: time that the consumer waited for batches.
        cache: statistics of the frame cache.
    """

    batches: int = 0
    clips: int = 0
    frames: int = 0
    replaced: int = 0
    fill_seconds: float = 0.0
    wait_seconds: float = 0.0
    cache: CacheReport = field(default_factory=CacheReport)

    @property
    def clips_per_second(self) -> float:
        """Throughput of the loader alone: clips divided by the time it spent on them."""
        return self.clips / self.fill_seconds if self.fill_seconds else 0.0

    def add(self, batch: ClipBatch) -> None:
        """Add one batch."""
        clips = int(batch.plan.valid.sum())  # of the plan, which is in host memory
        self.batches += 1
        self.clips += clips
        self.frames += clips * batch.plan.frames.shape[1]
        self.replaced += batch.replaced
        self.fill_seconds += batch.fill_seconds
        self.wait_seconds += batch.wait_seconds

    def __str__(self) -> str:
        text = (
            f"{self.clips} clips in {self.batches} batches, {self.clips_per_second:.1f} clips/s, "
            f"waited for {self.wait_seconds:.2f} s"
        )
        if self.replaced:
            text += f", {self.replaced} damaged frames replaced"
        if self.cache.frames:
            text += f", cache: {self.cache.hit_rate:.1%} hits, {self.cache.bytes / 2**20:.0f} MiB"
        return text
