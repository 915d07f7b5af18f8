"""The loader of clips: plans, filled ahead of their use, in an order that can be resumed."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.clips.augmentations import Preset
from vidseg.clips.geometry import Geometry
from vidseg.clips.planner import ClipPlanner, Shapes
from vidseg.clips.sampling import FrameSampling
from vidseg.labels import VideoDataset
from vidseg.loaders.adapters import ClipTransform, as_transform, transform_clips
from vidseg.loaders.backends import FramesNormalizer, check_name, host_forms, make_filler, open_data
from vidseg.loaders.batch import ClipBatch, count_replaced
from vidseg.loaders.loader_stats import LoaderStats
from vidseg.loaders.memory import BatchMemory
from vidseg.loaders.modality import Modality, as_modalities, check_stack
from vidseg.loaders.output import MEANS, STDS, Colors, Layout, make_forms, sample_type
from vidseg.loaders.prefetch import Prefetcher
from vidseg.loaders.replacement import ReplacingFiller, replaced_clips
from vidseg.loaders.target_hook import TargetFunction
from vidseg.loaders.threads import default_threads
from vidseg.loaders.transfer import DevicePrefetcher, copies_to, prefetch_to, resolve_device

__all__ = ["ClipLoader"]


class ClipLoader:
    """Batches of clips of a data set's videos.

    A batch is planned in Python and filled by one compiled call on a pool of threads. Its content is a function of
    (seed, epoch, sample number): it does not depend on the number of threads or ranks, or on whether the run was
    resumed. Batches are made ahead of their use, within `ahead_bytes`.

    One iteration is one epoch. The next iteration is the next epoch, unless `set_epoch` chooses another.

    Args:
        data: videos of `vidseg.open_dataset`, or the folder of a data set, which is opened with all its videos.
        modality: "rgb" (frames.db), optical "flow" (flow.db), the codec's "motion" vectors (motion.db) or "residual"
            (residual.db). With several, such as ("rgb", "flow"), `batch.frames` is a dict of tensors of the same clips.
        stack: L, for flow and motion: batches are (B, 2L, T, H, W). Each frame has the vectors of L adjacent frames as
            channels x1, y1, x2, y2 and so on, as in TSN.
        frames: T, frames of a clip.
        interval: distance between consecutive frames of a clip; with several, each clip draws one.
        size: height and width of the clips in pixels; one number for a square.
        batch_size: B over all ranks.
        seed: seed for the order of the videos, frames, crops, colors and transforms.
        train: True: shuffled order, random start, crop and mirroring. False: sequential order, center clip and crop.
        sampling: which frames; a name or an object of `vidseg.clips.sampling`. None: "random" for training, else
            "center".
        geometry: which part of the frame; a name of `vidseg.clips.named_geometry` or an object of
            `vidseg.clips.geometry`. None: a random resized crop for training, else the center.
        augment: colors, noise and warps; names or objects of `vidseg.clips.augmentations`, or None. Colors and noise
            change "rgb" only.
        short: videos shorter than a clip "loop" or "clamp" to their last frame.
        shapes: function from the epoch to the shapes of its batches, such as a multigrid schedule; replaces frames,
            size and batch_size.
        sampler: video indices in the order of an epoch, over all ranks: any iterable that can be iterated over again,
            or a `torch.utils.data.Sampler`. Indices may repeat; each repeat draws other crops and colors. torch's
            random samplers are seeded from (seed, epoch). A rank takes its share of each batch, as without a sampler.
        transform: function of a clip's frames, uint8 (T, H, W, 3) in RGB, or an imgaug pipeline. Returns an array or
            tensor (T, H', W', 3): uint8 pixels, which are normalized, or floating point samples, which are not; see
            `vidseg.loaders.ClipFunction`.
        target: function from a clip's `vidseg.labels.Video` (or from the video and the `ClipPlan`) to its target.
            Tensors are stacked to `batch.targets` (B, ...), other values become a list.
        dtype: uint8, or float32, float16, bfloat16, which are normalized; a torch type or its name.
        layout: axis order of the frames: "bcthw", "btchw" or "bthwc".
        color: "rgb" or "bgr".
        mean: mean of R, G and B in 0..1. None: floating point samples are pixel / 255, in 0..1. A mapping has the
            mean of each modality. Flow, motion and residual are v / bound * 0.5 + 0.5 before mean and std, so that
            the default of 0.5 for both gives -1 to 1.
        std: standard deviation of R, G and B in 0..1. None: as for `mean`.
        backend: "native", "dali", or "video" (decodes the video files, slower).
        threads: number of decoding threads. None: one for each available core.
        enlarge: largest factor by which a stored half- or quarter-size copy may be enlarged, 1 (never) to 2. Larger
            values decode less and give softer frames.
        ahead_bytes: bytes of batches that wait or are being made; at least one batch is always made.
        cache: keep "encoded" JPEGs or "decoded" frames in memory.
        cache_bytes: size of the cache; 0 for no cache, the only value for databases that hold a video stream.
        on_error: "raise" an error for a damaged frame, or "replace" it by the nearest readable frame and count it.
            Clips of a video that cannot be read at all are then replaced by clips of another video of its class, and
            all their frames are counted.
        rank: index of this process. None: asks torch.distributed.
        world_size: number of processes. None: asks torch.distributed.
        pin: allocate batches in page-locked memory. None: where CUDA is available.
        device: copy batches to this device, one ahead of its use. Frames are copied as uint8 and normalized on the
            device, with the same results. None leaves batches in host memory, but for backend="dali", which takes the
            current CUDA device where CUDA is available.

    Raises:
        FileNotFoundError: `data` is a folder without a data set.
        TypeError: a sampler, transform or target of the wrong kind.
        ValueError: an argument out of range, or a data set without videos.
    """

    def __init__(
        self,
        data: VideoDataset | str | Path,
        *,
        modality: Modality | Sequence[Modality] = "rgb",
        stack: int = 1,
        frames: int = 16,
        interval: int | Sequence[int] = (1, 2),
        size: int | tuple[int, int] = 112,
        batch_size: int = 32,
        seed: int = 0,
        train: bool = True,
        sampling: FrameSampling | str | None = None,
        geometry: Geometry | str | None = None,
        augment: str | Preset | Sequence[Preset] | None = None,
        short: Literal["loop", "clamp"] = "loop",
        shapes: Shapes | None = None,
        sampler: Iterable[int] | None = None,
        transform: ClipTransform | Callable[..., Any] | None = None,
        target: Callable[..., Any] | None = None,
        dtype: torch.dtype | str = torch.float32,
        layout: Layout = "bcthw",
        color: Literal["rgb", "bgr"] = "rgb",
        mean: Colors = MEANS,
        std: Colors = STDS,
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
        device: torch.device | str | None = None,
    ) -> None:
        data = open_data(data)
        self.data, self.seed, self.train = data, seed, train
        modalities = as_modalities(modality)
        check_stack(stack, modalities)
        if transform is not None and modalities != ("rgb",):
            raise ValueError(f"modality={modality!r}: transform= changes colors; use it with modality='rgb' only")
        if device is None and backend == "dali" and torch.cuda.is_available():
            device = "cuda"
        self.device = None if device is None else resolve_device(device)
        self.transform = None if transform is None else as_transform(transform)
        self.target = None if target is None else TargetFunction(target)
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
            sampler=sampler,
            stack=stack,
            colors="rgb" in modalities,
            **_ranks(rank, world_size),
        )
        self.forms = make_forms(
            modalities,
            stack=stack,
            dtype=sample_type(dtype),
            layout=layout,
            color=color,
            mean=mean,
            std=std,
            pin=torch.cuda.is_available() if pin is None else pin,
        )
        self.form = self.forms[0]
        self.threads = threads if threads is not None else default_threads()
        _check_choices(threads=self.threads, ahead_bytes=ahead_bytes, cache_bytes=cache_bytes)
        check_name("cache", cache, ("encoded", "decoded"))
        self.backend, self.ahead_bytes, self.on_error = backend, ahead_bytes, on_error
        self._cache: dict[str, Any] = {"cache": cache, "cache_bytes": cache_bytes}
        self.enlarge = enlarge
        self._open_filler()
        self._replacing = ReplacingFiller(data, self.planner, modalities) if on_error == "replace" else None
        self.epoch = 0
        self.stats = LoaderStats()
        self._resume = 0  # the batch that the next iteration begins with
        self._position = 0  # the batch that the current iteration yields next
        self._running: Prefetcher[ClipBatch] | DevicePrefetcher[ClipBatch] | None = None

    def _open_filler(self) -> None:
        """Make the backend, with the form of the batches that it fills."""
        self._transformed = BatchMemory(pin=self.form.pin)
        self._normalize = FramesNormalizer(self.forms)
        # DALI normalizes on the device that it decodes on. Other batches are normalized after they have been copied.
        late = copies_to(self.device) and (self.backend != "dali" or self.transform is not None)
        self._host_forms = host_forms(self.data, self.forms, late=late)
        filled = self._host_forms
        if self.transform is not None:  # gets plain pixels; its result is converted to the host form afterwards
            filled = (replace(self.form, dtype=torch.uint8, layout="bthwc", color="rgb"),)
        self._filler = make_filler(
            self.backend,
            self.data,
            filled,
            threads=self.threads,
            enlarge=self.enlarge,
            on_error=self.on_error,
            device=self.device,
            to_host=self.transform is not None,
            **self._cache,
        )

    def __len__(self) -> int:
        """Number of batches in this epoch."""
        return self.planner.batches(self.epoch)

    def __repr__(self) -> str:
        return f"ClipLoader({self.data!r}, epoch {self.epoch}: {len(self)} batches, backend {self.backend!r})"

    def plan(self, epoch: int, index: int) -> BatchPlan:
        """Return the plan of batch `index` of an epoch for this rank; decodes nothing.

        Raises:
            IndexError: there is no such batch.
        """
        return self.planner.plan(epoch, index)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the next iteration; keeps a position of `load_state_dict` in the same epoch."""
        if epoch != self.epoch:
            self.epoch, self._resume, self._position = epoch, 0, 0

    def set_shapes(self, shapes: Shapes) -> None:
        """Use another schedule of shapes, such as a multigrid one, from the next iteration on."""
        self._stop_running()
        self.planner = self.planner.with_shapes(shapes)
        if self._replacing is not None:
            self._replacing.planner = self.planner

    def set_device(self, device: torch.device | str | None) -> None:
        """Copy batches to another device from the next iteration on, see `device`; empties the cache.

        Raises:
            ValueError: there is no such device.
        """
        found = None if device is None else resolve_device(device)
        self.close()
        self.device = found
        self._open_filler()

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the iteration: after the batch that was yielded last."""
        order = self.planner.order_digest(self.epoch)
        return {
            "epoch": self.epoch,
            "batch": self._position,
            "clips": self.planner.clips_before(self.epoch, self._position),
            "seed": self.seed,
            "data": self._fingerprint(),
            **({} if order is None else {"order": order}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the iteration at the position of a state; the batches before it are not decoded.

        Args:
            state: of a loader with the same data set, seed, batch size, shapes and sampler.

        Raises:
            ValueError: the next batches of this loader would not be those of the loader that the state is from.
        """
        if state["seed"] != self.seed or state["data"] != self._fingerprint():
            raise ValueError(
                f"the loader's state is of seed {state['seed']} and data {state['data']}, "
                f"but this loader has seed {self.seed} and data {self._fingerprint()}"
            )
        order = self.planner.order_digest(state["epoch"])
        if state.get("order") != order:
            raise ValueError(
                f"the sampler's order of epoch {state['epoch']} is {order or 'not given'}, the state has"
                f" {state.get('order', 'no sampler')}: resuming needs the same sampler, whose order depends on the"
                " epoch alone (set_epoch) or on torch's, NumPy's or Python's random generator"
            )
        batches = self.planner.batches(state["epoch"])
        if not 0 <= state["batch"] <= batches:
            raise ValueError(f"the loader's state is at batch {state['batch']} of an epoch of {batches} batches")
        clips = self.planner.clips_before(state["epoch"], state["batch"])
        if state["clips"] != clips:
            raise ValueError(
                f"the loader's state is after {state['clips']} clips, and batch {state['batch']} of this loader is"
                f" after {clips}: use the batch_size and shapes of the state"
            )
        self.epoch = state["epoch"]
        self._resume = self._position = state["batch"]

    def __iter__(self) -> Iterator[ClipBatch]:
        self._stop_running()
        epoch, first, stop = self.epoch, self._resume, len(self)
        self._resume, self._position = 0, first
        cancel = torch.zeros(1, dtype=torch.uint8)
        filling = Prefetcher(
            lambda index: self._make(epoch, index, cancel),
            lambda index: self._bytes(epoch, index),
            first=first,
            stop=stop,
            limit=self.ahead_bytes,
            cancel=lambda: cancel.fill_(1),
        )
        self._running = running = prefetch_to(
            self.device,
            filling,
            count=stop - first,
            finish=lambda batch: replace(batch, frames=self._normalize(batch.frames, batch.plan)),
        )
        for batch, waited in running:
            batch = replace(batch, wait_seconds=waited)
            self.stats.add(batch)
            self.stats.cache = self._filler.cache_report
            self._position = batch.plan.index + 1
            yield batch
        if self.epoch == epoch:  # set_epoch has not been called during the iteration
            self.epoch, self._position = epoch + 1, 0

    def _make(self, epoch: int, index: int, cancel: Tensor) -> ClipBatch:
        plan = self.planner.plan(epoch, index)
        start = time.perf_counter()
        asked = plan
        if self._replacing is None:
            frames, shown = self._filler.fill(plan, cancel)
        else:
            plan, frames, shown = self._replacing.fill(self._filler, plan, cancel)
        if self.transform is not None:
            assert isinstance(frames, Tensor)
            frames = transform_clips(
                self.transform,
                frames,
                plan,
                seed=self.seed,
                form=self.form,
                pixels=self._host_forms[0],
                memory=self._transformed,
            )
        targets = None if self.target is None else self.target.collated(self.data, plan)
        seconds = time.perf_counter() - start
        replaced = 0
        if not cancel.item():
            replaced = int((count_replaced(self.data, plan, shown) + replaced_clips(asked, plan)).sum())
        return ClipBatch.of(plan, frames, targets=targets, fill_seconds=seconds, replaced=replaced)

    def _bytes(self, epoch: int, index: int) -> int:
        shape = self.planner.shape(epoch, index)
        pixels = shape.clips * shape.frames * shape.height * shape.width
        return sum(pixels * form.channels * form.dtype.itemsize for form in self._host_forms)

    def _fingerprint(self) -> str:
        """Hash of the lengths and classes of the videos, in order."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(np.ascontiguousarray(self.data.frames).tobytes())
        digest.update(np.ascontiguousarray(self.data.labels).tobytes())
        return f"{len(self.data)}:{digest.hexdigest()}"

    def _stop_running(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def close(self) -> None:
        """End the iteration and free the cache; a later iteration has no cache."""
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
        raise ValueError(f"rank={rank} and world_size={world_size}: give both or neither")
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
