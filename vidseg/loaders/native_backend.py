"""The native backend: one compiled call fills one batch from one plan (csrc/frames/fill.cpp)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.frames import FrameDatabaseError
from vidseg.frames.native import operators
from vidseg.labels import VideoDataset
from vidseg.loaders.memory import BatchMemory
from vidseg.loaders.output import OutputForm

__all__ = ["CacheReport", "NativeFiller"]


@dataclass(frozen=True)
class CacheReport:
    """What a cache of frames did since it was made.

    Attributes:
        hits: frames found in it.
        misses: frames that were read from their database.
        bytes: what it holds.
        frames: how many frames it holds.
    """

    hits: int = 0
    misses: int = 0
    bytes: int = 0
    frames: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the frames that were found, 0 to 1."""
        return self.hits / max(1, self.hits + self.misses)


class NativeFiller:
    """Fills batches from frame databases with threads of the compiled library, without Python's lock.

    Args:
        data: the videos that the plans name.
        form: type, layout and normalization of the batches.
        threads: decoding threads; they live for the time of one batch.
        enlarge: smaller stored copies are read where they have to be enlarged by no more than this, 1 to 2.
        on_error: "raise", or "replace" a damaged frame by the nearest one that can be read.
        cache: keep "encoded" JPEGs or "decoded" frames in memory; they are taken until `cache_bytes` are used.
        cache_bytes: 0 for no cache.
    """

    def __init__(
        self,
        data: VideoDataset,
        form: OutputForm,
        *,
        threads: int,
        enlarge: float = 1.0,
        on_error: Literal["raise", "replace"] = "raise",
        cache: Literal["encoded", "decoded"] = "encoded",
        cache_bytes: int = 0,
    ) -> None:
        self.data, self.form, self.threads = data, form, threads
        self.enlarge, self.on_error = enlarge, on_error
        self._cache = int(operators.open_cache(cache_bytes, cache == "decoded")) if cache_bytes else 0
        self._memory = BatchMemory(pin=form.pin)
        self._root = f"{data.root}/".encode()

    def fill(self, plan: BatchPlan, cancel: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The frames of a plan, and which frame of its video each of them is, int64 (B, T).

        Args:
            plan: of videos of this data set.
            cancel: uint8 (1,); once another thread makes it 1, this call returns within a frame's time, and its result
                is worthless.

        Raises:
            FrameDatabaseError: a frame or database cannot be read; names it.
        """
        out = self._memory.empty(self.form.shape(*plan.shape), self.form.dtype)
        paths = [self._root + self.data.video_path(video).encode() + b"/frames.db" for video in plan.videos.tolist()]
        try:
            shown = operators.fill(
                out,
                torch.from_numpy(np.frombuffer(b"".join(paths), np.uint8).copy()),
                torch.from_numpy(np.cumsum([len(path) for path in paths], dtype=np.int64)),
                torch.from_numpy(plan.videos),
                torch.from_numpy(np.ascontiguousarray(plan.frames)),
                torch.from_numpy(np.ascontiguousarray(plan.matrices)),
                torch.from_numpy(plan.colors.offsets),
                torch.from_numpy(plan.colors.codes),
                torch.from_numpy(plan.colors.parameters),
                self.form.normalization,
                self.form.layout == "bcthw",
                self.form.color == "bgr",
                self.enlarge,
                self.on_error == "replace",
                self.threads,
                self._cache,
                torch.zeros(1, dtype=torch.uint8) if cancel is None else cancel,
            )
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise FrameDatabaseError(reason + (_DAMAGED if ": frame " in reason else _UNREADABLE)) from None
        return out, shown

    def close(self) -> None:
        """Free the cache and the memory of past batches."""
        self._memory.clear()
        if self._cache:
            operators.close_cache(self._cache)
            self._cache = 0

    @property
    def cache_report(self) -> CacheReport:
        """Hits and misses so far; zeros without a cache."""
        return CacheReport(*operators.cache_statistics(self._cache).tolist()) if self._cache else CacheReport()


_DAMAGED = '; `vidseg check` lists what is damaged, on_error="replace" takes a neighboring frame'
_UNREADABLE = "; `vidseg check` names every database that cannot be read"
