"""The loader: plans, filled ahead of their use, in an order that can be left and taken up again."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.clips.augmentations import ColorPreset
from vidseg.clips.geometry import Geometry
from vidseg.clips.planner import ClipPlanner, Shapes
from vidseg.clips.sampling import FrameSampling
from vidseg.labels import VideoDataset
from vidseg.loaders.adapters import ClipTransform, as_transform, transform_clips
from vidseg.loaders.backends import check_name, make_filler
from vidseg.loaders.batch import ClipBatch, count_replaced
from vidseg.loaders.output import MEAN, STD, OutputForm
from vidseg.loaders.prefetch import Prefetcher
from vidseg.loaders.stats import LoaderStats

__all__ = ["ClipLoader"]


class ClipLoader:
    """Batches of clips of a data set's videos.

    A batch is planned in Python, as a function of (seed, epoch, sample number) alone, and filled by one compiled call
    on a pool of threads: what it holds does not depend on the number of threads or ranks, nor on what was skipped.
    Batches are made ahead of their use, within `ahead_bytes`.

    Iterating once is an epoch; the next iteration is the next epoch, unless `set_epoch` says otherwise.

    Args:
        data: videos, as `vidseg.open_dataset` gives them.
        frames: T.
        interval: step from one frame of a clip to the next; of several, each clip draws one.
        size: of the clips in pixels, one number for a square or (H, W).
        batch_size: B over all ranks.
        seed: of everything that is drawn.
        train: shuffled, random start, crop and mirroring; otherwise in order, central.
        sampling: which frames; a name or an object of `vidseg.clips.sampling`. None: random in training, else center.
        geometry: which part of the frame; a name of `vidseg.clips.named_geometry` or an object of
            `vidseg.clips.geometry`. None: a random resized crop in training, else the center.
        augment: colors, noise and warps; names or objects of `vidseg.clips.augmentations`, or None.
        short: videos shorter than a clip "loop" or "clamp" to their last frame.
        shapes: epoch -> shapes of its batches, such as a multigrid schedule; replaces frames, size and batch_size.
        transform: your own function of a clip, uint8 (T, H, W, 3) to the same, or an imgaug pipeline; see
            `vidseg.loaders.adapters`.
        dtype: of the frames: uint8, or float32, float16, bfloat16, which are normalized.
        layout: "bcthw" or "bthwc".
        color: "rgb" or "bgr".
        mean: of R, G and B in 0..1.
        std: of R, G and B.
        backend: "native", "dali", or "video" (straight from the video files, slowly).
        threads: decoding threads; None takes one for each core.
        enlarge: a stored half- or quarter-size copy is read where it has to be enlarged by no more than this: 1, the
            default, never; up to 2. Faster, and softer than the full frame would be.
        ahead_bytes: of batches that wait or are in the making; one is always made.
        cache: what to keep in memory, "encoded" JPEGs or "decoded" frames, ...
        cache_bytes: ... up to this many bytes; 0 for nothing.
        on_error: "raise" for a damaged frame, or "replace" it by the nearest one that can be read, and count it.
        rank: which part of each batch this process takes; None asks torch.distributed.
        world_size: number of processes.
        pin: page-locked memory; None where CUDA is available.

    Raises:
        ValueError: an argument out of range, or a data set without videos.
    """

    def __init__(
        self,
        data: VideoDataset,
        *,
        frames: int = 16,
        interval: int | Sequence[int] = (1, 2),
        size: int | tuple[int, int] = 112,
        batch_size: int = 32,
        seed: int = 0,
        train: bool = True,
        sampling: FrameSampling | str | None = None,
        geometry: Geometry | str | None = None,
        augment: str | ColorPreset | Sequence[ColorPreset] | None = None,
        short: Literal["loop", "clamp"] = "loop",
        shapes: Shapes | None = None,
        transform: ClipTransform | Callable[..., Any] | None = None,
        dtype: torch.dtype = torch.float32,
        layout: Literal["bcthw", "bthwc"] = "bcthw",
        color: Literal["rgb", "bgr"] = "rgb",
        mean: tuple[float, float, float] = MEAN,
        std: tuple[float, float, float] = STD,
        backend: Literal["native", "dali", "video"] = "native",
        threads: int | None = None,
        enlarge: float = 1.0,
        ahead_bytes: int = 512 * 2**20,
        cache: Literal["encoded", "decoded"] = "encoded",
        cache_bytes: int = 0,
        on_error: Literal["raise", "replace"] = "raise",
        rank: int | None = None,
        world_size: int | None = None,
        pin: bool | None = None,
    ) -> None:
        self.data, self.seed, self.train = data, seed, train
        self.transform = None if transform is None else as_transform(transform)
        self.planner = ClipPlanner(
            data,
            frames=frames,
            interval=interval,
            size=size,
            batch_size=batch_size,
            seed=seed,
            train=train,
            sampling=sampling,
            geometry=geometry,
            augment=augment,
            short=short,
            shapes=shapes,
            **_ranks(rank, world_size),
        )
        self.form = OutputForm(
            dtype=dtype,
            layout=layout,
            color=color,
            mean=mean,
            std=std,
            pin=torch.cuda.is_available() if pin is None else pin,
        )
        self.threads = threads if threads is not None else len(os.sched_getaffinity(0))
        _check_choices(threads=self.threads, ahead_bytes=ahead_bytes, cache_bytes=cache_bytes)
        check_name("cache", cache, ("encoded", "decoded"))
        # A transform works on plain pixels; its result is brought into the form afterwards.
        filled = self.form if transform is None else replace(self.form, dtype=torch.uint8, layout="bthwc", color="rgb")
        self._filler = make_filler(
            backend,
            data,
            filled,
            threads=self.threads,
            enlarge=enlarge,
            on_error=on_error,
            cache=cache,
            cache_bytes=cache_bytes,
        )
        self.backend, self.ahead_bytes = backend, ahead_bytes
        self.epoch = 0
        self.stats = LoaderStats()
        self._resume = 0  # the batch that the next iteration begins with
        self._position = 0  # the batch that the current iteration yields next
        self._running: Prefetcher[ClipBatch] | None = None

    def __len__(self) -> int:
        """Number of batches in this epoch."""
        return self.planner.batches(self.epoch)

    def __repr__(self) -> str:
        return f"ClipLoader({self.data!r}, epoch {self.epoch}: {len(self)} batches, backend {self.backend!r})"

    def plan(self, epoch: int, index: int) -> BatchPlan:
        """What batch `index` of an epoch holds for this rank; decodes nothing."""
        return self.planner.plan(epoch, index)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the next iteration.

        A position taken from `load_state_dict` stays valid if it is of the same epoch.
        """
        if epoch != self.epoch:
            self.epoch, self._resume, self._position = epoch, 0, 0

    def set_shapes(self, shapes: Shapes) -> None:
        """Change to another schedule of shapes, such as a multigrid one, from the next iteration on."""
        self._stop_running()
        self.planner = self.planner.with_shapes(shapes)

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands: after the batch that was yielded last."""
        return {
            "epoch": self.epoch,
            "batch": self._position,
            "clips": self.planner.clips_before(self.epoch, self._position),
            "seed": self.seed,
            "data": self._fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration yield what remained; nothing that is skipped is decoded.

        Raises:
            ValueError: the state belongs to another data set, another seed, or a plan with fewer or other batches.
        """
        if state["seed"] != self.seed or state["data"] != self._fingerprint():
            raise ValueError(
                f"the loader's state is of seed {state['seed']} and data {state['data']}, "
                f"but this loader has seed {self.seed} and data {self._fingerprint()}"
            )
        batches = self.planner.batches(state["epoch"])
        if not 0 <= state["batch"] <= batches:
            raise ValueError(f"the loader's state is at batch {state['batch']} of an epoch of {batches} batches")
        clips = self.planner.clips_before(state["epoch"], state["batch"])
        if state.get("clips", clips) != clips:  # earlier states do not have it
            raise ValueError(
                f"the loader's state stands behind {state['clips']} clips, and batch {state['batch']} of this loader"
                f" begins behind {clips}: batch_size and shapes must be those of the state"
            )
        self.epoch = state["epoch"]
        self._resume = self._position = state["batch"]

    def __iter__(self) -> Iterator[ClipBatch]:
        self._stop_running()
        epoch, first, stop = self.epoch, self._resume, len(self)
        self._resume, self._position = 0, first
        cancel = torch.zeros(1, dtype=torch.uint8)
        running = Prefetcher(
            lambda index: self._make(epoch, index, cancel),
            lambda index: self._bytes(epoch, index),
            first=first,
            stop=stop,
            limit=self.ahead_bytes,
            cancel=lambda: cancel.fill_(1),
        )
        self._running = running
        for batch, waited in running:
            batch = replace(batch, wait_seconds=waited)
            self.stats.add(batch)
            self.stats.cache = self._filler.cache_report
            self._position = batch.plan.index + 1
            yield batch
        if self.epoch == epoch:  # nobody chose another one meanwhile
            self.epoch, self._position = epoch + 1, 0

    def _make(self, epoch: int, index: int, cancel: Tensor) -> ClipBatch:
        plan = self.planner.plan(epoch, index)
        start = time.perf_counter()
        frames, shown = self._filler.fill(plan, cancel)
        if self.transform is not None:
            frames = self.form.from_pixels(transform_clips(self.transform, frames, plan, seed=self.seed))
        seconds = time.perf_counter() - start
        replaced = 0 if cancel.item() else int(count_replaced(self.data, plan, shown).sum())
        return ClipBatch.of(plan, frames, fill_seconds=seconds, replaced=replaced)

    def _bytes(self, epoch: int, index: int) -> int:
        shape = self.planner.shape(epoch, index)
        return shape.clips * 3 * shape.frames * shape.height * shape.width * self.form.dtype.itemsize

    def _fingerprint(self) -> str:
        """Tells data sets apart by the lengths and classes of their videos, in order."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(np.ascontiguousarray(self.data.frames).tobytes())
        digest.update(np.ascontiguousarray(self.data.labels).tobytes())
        return f"{len(self.data)}:{digest.hexdigest()}"

    def _stop_running(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def close(self) -> None:
        """End the iteration and free the cache; the loader can be iterated over again, without its cache."""
        self._stop_running()
        self._filler.close()

    def __enter__(self) -> "ClipLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_filler", None) is not None:
            self.close()


def _ranks(rank: int | None, world_size: int | None) -> dict[str, int]:
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank={rank} and world_size={world_size}: give both or none")
    if rank is None or world_size is None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        world_size = torch.distributed.get_world_size() if distributed else 1
    return {"rank": rank, "world_size": world_size}


def _check_choices(*, threads: int, ahead_bytes: int, cache_bytes: int) -> None:
    if not 1 <= threads <= 1024:
        raise ValueError(f"threads={threads} must be 1 to 1024")
    if ahead_bytes < 0 or cache_bytes < 0:
        raise ValueError(f"ahead_bytes={ahead_bytes} and cache_bytes={cache_bytes} must not be negative")
