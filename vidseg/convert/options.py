"""What a user can choose about a conversion, and the checks of it."""

import json
import os
import re
from dataclasses import dataclass

from vidseg.videos.frame_size import target_size

__all__ = ["ConvertOptions"]

# What decides the bytes of a database; recorded in its meta table and compared when a conversion is run again.
_RECORDED = ("size", "fps", "quality", "chroma", "restart_interval", "optimize", "levels", "reencode")


@dataclass(frozen=True)
class ConvertOptions:
    """Options of a conversion; the defaults serve without a flag."""

    size: str = "256"
    """Frame size: a number for the longest short side (smaller videos stay as they are), WIDTHxHEIGHT for exactly
    that, or "none" to keep every size."""
    fps: float | None = None
    """Frames per second, picked by time stamp; default: every frame of the file exactly once."""
    quality: int = 90
    """JPEG quality, 1 to 100."""
    chroma: int = 420
    """Color resolution of the JPEGs: 420 (half) or 444 (full)."""
    restart_interval: int = -1
    """MCUs between JPEG restart markers, which let a reader decode a crop alone; -1 chooses, 0 leaves them out."""
    optimize: bool = False
    """Make Huffman tables for each frame: files some per cent smaller, conversion slower."""
    levels: int = 2
    """How many smaller copies of each frame to store (1/2, 1/4, ... of the side) for small training sizes."""
    reencode: bool = False
    """Encode JPEG sources (folders, databases) again at --quality, instead of keeping their pixels bit for bit."""
    workers: int | None = None
    """Worker processes; default: one for each processor this process may use."""
    on_error: str = "skip"
    """After a failed video: "skip" to the next one, or "stop" the run."""
    damaged: str = "keep"
    """Videos with damage inside: "keep" what can be decoded and mark it, or "refuse" them."""
    overwrite: bool = False
    """Convert again what is already there."""
    dry_run: bool = False
    """List what would be done, and do nothing."""
    time_limit: float | None = None
    """Seconds that one video may take before its worker is ended; default: no limit."""
    stall_limit: float = 120.0
    """Seconds without a new frame after which a decoder counts as hung and its worker is ended."""
    videos: str | None = None
    """Folder of the videos that a CSV source names; default: the CSV's own folder."""
    shard: str | None = None
    """Do the i-th of n parts, as "i/n" counted from 1, for batch schedulers."""
    executor: str = "local"
    """Where the workers run: "local" processes, or a "ray" cluster."""

    def __post_init__(self) -> None:
        target_size(self.size, 16, 16)
        _within("quality", self.quality, 1, 100)
        _within("restart_interval", self.restart_interval, -1, 65535)
        _within("levels", self.levels, 0, 4)
        _one_of("chroma", self.chroma, (420, 444))
        _one_of("on_error", self.on_error, ("skip", "stop"))
        _one_of("damaged", self.damaged, ("keep", "refuse"))
        _one_of("executor", self.executor, ("local", "ray"))
        for name in ("fps", "time_limit", "stall_limit", "workers"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, must be above 0")
        self.shard_numbers()

    def shard_numbers(self) -> tuple[int, int]:
        """(i, n) of `shard`; (1, 1) without one."""
        if self.shard is None:
            return 1, 1
        match = re.fullmatch(r"(\d+)/(\d+)", self.shard)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"shard is {self.shard!r}, must be i/n with 1 <= i <= n, such as 3/16")
        return int(match[1]), int(match[2])

    def worker_count(self) -> int:
        """How many workers to start."""
        return self.workers or len(os.sched_getaffinity(0))

    def recorded(self) -> str:
        """The options that decide a database's content, as stored in it."""
        return json.dumps({name: getattr(self, name) for name in _RECORDED}, sort_keys=True)


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}, must be {low} to {high}")


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, must be one of {', '.join(map(str, choices))}")
