"""The native backend: one compiled call fills a batch from a plan (csrc/frames/fill.cpp)."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.clips.arguments import whole
from vidseg.frames import FrameDatabaseError
from vidseg.frames.native import operators
from vidseg.frames.open_files import too_many_open_files
from vidseg.frames.schema import DATABASE_NAMES
from vidseg.labels import VideoDataset
from vidseg.loaders.memory import BatchMemory
from vidseg.loaders.modality import ModalityDatabases
from vidseg.loaders.output import OutputForm

__all__ = ["DAMAGED", "CacheReport", "NativeFiller"]


@dataclass(frozen=True)
class CacheReport:
    """Statistics of a cache of frames since it was made.

    Attributes:
        hits: number of frames found in the cache.
        misses: number of frames read from their database.
        bytes: current size.
        frames: current number of frames.
    """

    hits: int = 0
    misses: int = 0
    bytes: int = 0
    frames: int = 0

    @property
    def hit_rate(self) -> float:
        """Hits divided by all look-ups, 0 to 1."""
        return self.hits / max(1, self.hits + self.misses)


class NativeFiller:
    """Fills batches from frame databases with threads of the compiled library, which release the GIL.

    Args:
        data: the videos of the plans.
        form: type, layout and normalization of the batches.
        threads: number of decoding threads; they are started for each batch.
        enlarge: largest factor by which a smaller stored copy may be enlarged, 1 to 2.
        on_error: "raise" an error for a damaged frame, or "replace" it by the nearest readable frame.
        cache: keep "encoded" JPEGs or "decoded" frames in memory. A full cache keeps what it has.
        cache_bytes: size of the cache; 0 for no cache.
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
        self.data, self.form = data, form
        self.threads = whole(threads, "threads", least=1, most=1024)
        self.enlarge, self.on_error = enlarge, on_error
        self._cache = int(operators.open_cache(cache_bytes, cache == "decoded")) if cache_bytes else 0
        self._memory = BatchMemory(pin=form.pin)
        self._root = f"{data.root}/".encode()
        self._file = f"/{DATABASE_NAMES[form.modality]}".encode()
        self._databases = None if form.modality == "rgb" else ModalityDatabases(data, form.modality)

    def fill(self, plan: BatchPlan, cancel: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fill a plan.

        Args:
            plan: plan of videos of this data set.
            cancel: uint8 (1,); another thread sets it to 1 to make this call return within the time of one frame, with
                undefined results.

        Returns:
            The frames in the output form, and int64 (B, T), the number of the frame that each position shows.

        Raises:
            FrameDatabaseError: a frame or database cannot be read; the message names the first one in the order of the
                plan.
        """
        if self._databases is not None:
            self._databases.check(plan.videos)
        out = self.empty(plan)
        planar = self.form.layout != "bthwc"
        stack, filled = self.form.stack, out
        if stack > 1 and self.form.layout != "bcthw":
            flat = replace(self.form, stack=1).shape(*plan.shape)
            # Stacks of (B, T, C, H, W) have the order of (B, T * L, 2, H, W); interleaved ones are copied afterwards.
            filled, stack = out.view(flat) if planar else self._memory.empty(flat, out.dtype), 1
        paths = [self._root + self.data.video_path(video).encode() + self._file for video in plan.videos.tolist()]
        try:
            shown = operators.fill(
                filled.transpose(1, 2) if self.form.layout == "btchw" else filled,  # (B, C, T, H, W)
                torch.from_numpy(np.frombuffer(b"".join(paths), np.uint8).copy()),
                torch.from_numpy(np.cumsum([len(path) for path in paths], dtype=np.int64)),
                torch.from_numpy(plan.videos),
                torch.from_numpy(np.ascontiguousarray(plan.frames)),
                torch.from_numpy(np.ascontiguousarray(plan.matrices)),
                torch.from_numpy(plan.colors.offsets),
                torch.from_numpy(plan.colors.codes),
                torch.from_numpy(plan.colors.parameters),
                self.form.normalization,
                self.form.vector_maps(plan),
                stack,
                self.form.background,
                planar,
                self.form.color == "bgr",
                self.enlarge,
                self.on_error == "replace",
                self.threads,
                self._cache,
                torch.zeros(1, dtype=torch.uint8) if cancel is None else cancel,
            )
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            if (limit := too_many_open_files(paths[0].decode())) is not None:
                raise RuntimeError(f"{reason}: {limit}") from None
            raise FrameDatabaseError(reason + (DAMAGED if ": frame " in reason else _UNREADABLE)) from None
        if filled.shape != out.shape and not planar:
            out.unflatten(-1, (self.form.stack, 2)).copy_(filled.unflatten(1, (-1, self.form.stack)).movedim(2, -2))
        return out, shown

    def empty(self, plan: BatchPlan) -> Tensor:
        """Return an uninitialized batch for a plan."""
        return self._memory.empty(self.form.shape(*plan.shape), self.form.dtype)

    def close(self) -> None:
        """Free the cache and the memory of earlier batches."""
        self._memory.clear()
        if self._cache:
            operators.close_cache(self._cache)
            self._cache = 0

    @property
    def cache_report(self) -> CacheReport:
        """Statistics of the cache so far; zeros without a cache."""
        return CacheReport(*operators.cache_statistics(self._cache).tolist()) if self._cache else CacheReport()


DAMAGED = '; `vidseg check` lists damaged frames, on_error="replace" uses a neighboring frame'
_UNREADABLE = "; `vidseg check` lists unreadable databases"
