"""Options of a conversion and their checks."""

import json
import os
import re
from dataclasses import dataclass, fields

from vidseg.frames.stream_form import CODECS, StreamForm
from vidseg.videos.frame_size import MAX_PIXELS, target_size

__all__ = ["ConvertOptions"]

# Options that change the stored bytes; recorded in the meta table and compared when the conversion runs again.
_OF_JPEGS = ("quality", "restart_interval", "optimize", "levels", "reencode")
_OF_STREAMS = ("codec", "crf", "gop")
_OF_BOTH = ("size", "fps", "chroma")


@dataclass(frozen=True)
class ConvertOptions:
    """Options of a conversion."""

    size: str = "256"
    """Frame size: maximum length of the short side in pixels (smaller videos are not enlarged), an exact WIDTHxHEIGHT,
    or "none" to keep the source size."""
    fps: float | None = None
    """Frames per second, resampled by timestamp; default: every frame of the file once."""
    store: str = "jpeg"
    """What the frames are stored as: "jpeg", one for each frame; or "video", a video stream of short groups of frames,
    with about a seventh of the bytes, which takes longer to write and to read."""
    quality: int = 90
    """JPEG quality, 1 to 100."""
    chroma: int = 420
    """Chroma resolution: 420 (half) or 444 (full)."""
    restart_interval: int = -1
    """Number of MCUs between JPEG restart markers, which allow a crop to be decoded alone; -1: automatic, 0: no
    markers."""
    optimize: bool = False
    """Compute Huffman tables for each frame; files are a few percent smaller and conversion is slower."""
    levels: int = 2
    """Number of smaller copies stored for each frame (1/2, 1/4, ... of the side), used for small training sizes."""
    reencode: bool = False
    """Re-encode JPEG sources (folders, databases) with --quality instead of keeping their pixels bit-equal."""
    codec: str | None = None
    """Codec of --store video: h264 (default), or hevc, which is 14 % smaller and slower to write and to read."""
    crf: int | None = None
    """Constant rate factor of --store video, 0 to 51, smaller is better; default: 18 for h264 and 20 for hevc, the
    PSNR of JPEG quality 75."""
    gop: int | None = None
    """Frames from one key frame to the next of --store video, default 12; more are smaller and slower to read."""
    workers: int | None = None
    """Number of worker processes; default: one per available processor."""
    on_error: str = "skip"
    """What to do after a failed video: "skip" it or "stop" the run."""
    damaged: str = "keep"
    """What to do with damaged videos: "keep" the frames that can be decoded and mark the video, or "refuse" it."""
    overwrite: bool = False
    """Convert videos again that are already converted."""
    dry_run: bool = False
    """List the videos to convert without converting them."""
    time_limit: float | None = 604_800.0
    """Maximum conversion time per video in seconds, by default a week; a worker that exceeds it is stopped; None: no
    limit."""
    memory_limit: float | None = 4.0
    """Maximum memory for the conversion of one video in GiB (Linux); a video that needs more fails; None: no limit."""
    max_pixels: int = MAX_PIXELS
    """Largest frame in pixels; videos with larger frames fail, because a file of some kilobytes can have frames of any
    size."""
    max_frames: int = 10_000_000
    """Largest number of frames of a video, at --fps where it is set; longer videos fail. The default is 92 hours at 30
    frames per second."""
    stall_limit: float = 120.0
    """Maximum time without a new frame in seconds; a worker that exceeds it is stopped."""
    videos: str | None = None
    """Folder of the videos listed in a CSV source; default: folder of the CSV."""
    first_number: int | None = None
    """Number of the first class in a list source, 0 or 1; default: as the list shows."""
    shard: str | None = None
    """Convert only part i of n, as "i/n" with i counted from 1; for batch schedulers."""
    executor: str = "local"
    """Where workers run: "local" processes or a "ray" cluster."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", str(self.size))  # a number is as good as its text
        target_size(self.size, 16, 16)
        _within("quality", self.quality, 1, 100)
        _within("restart_interval", self.restart_interval, -1, 65535)
        _within("levels", self.levels, 0, 4)
        _one_of("chroma", self.chroma, (420, 444))
        _one_of("store", self.store, ("jpeg", "video"))
        _one_of("codec", self.codec, (None, *CODECS))
        if self.crf is not None:
            _within("crf", self.crf, 0, 51)
        if self.gop is not None:
            _within("gop", self.gop, 1, 600)
        others = _OF_STREAMS if self.store == "jpeg" else _OF_JPEGS
        defaults = {field.name: field.default for field in fields(self)}
        for name in others:
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} is {getattr(self, name)}, but has no effect on --store {self.store}; omit it")
        _one_of("first_number", self.first_number, (None, 0, 1))
        _one_of("on_error", self.on_error, ("skip", "stop"))
        _one_of("damaged", self.damaged, ("keep", "refuse"))
        _one_of("executor", self.executor, ("local", "ray"))
        for name in ("fps", "time_limit", "stall_limit", "workers", "memory_limit", "max_pixels", "max_frames"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, must be greater than 0")
        self.shard_numbers()

    def shard_numbers(self) -> tuple[int, int]:
        """Return (i, n) of `shard`, or (1, 1) if it is not set."""
        if self.shard is None:
            return 1, 1
        match = re.fullmatch(r"(\d+)/(\d+)", self.shard)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"shard is {self.shard!r}, must be i/n with 1 <= i <= n, such as 3/16")
        return int(match[1]), int(match[2])

    def worker_count(self) -> int:
        """Return the number of workers to start."""
        return self.workers or len(os.sched_getaffinity(0))

    def recorded(self) -> str:
        """Return, as JSON, the options that change the stored bytes."""
        recorded = {name: getattr(self, name) for name in (*_OF_BOTH, *(_OF_JPEGS if self.store == "jpeg" else ()))}
        if self.store == "video":
            form = self.stream_form()
            recorded |= {"store": self.store, **{name: getattr(form, name) for name in _OF_STREAMS}}
        return json.dumps(recorded, sort_keys=True)

    def stream_form(self) -> StreamForm:
        """Return how the frames of `--store video` are encoded."""
        given = {name: getattr(self, name) for name in _OF_STREAMS if getattr(self, name) is not None}
        return StreamForm(**given, chroma=self.chroma)


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}, must be between {low} and {high}")


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, must be one of {', '.join(map(str, choices))}")
