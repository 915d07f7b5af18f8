"""Plans of whole epochs: assignment of clips to batches and ranks."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidseg.clips.augmentations import ColorPreset, color_presets, draw_warps
from vidseg.clips.color import draw_colors
from vidseg.clips.draws import permutation
from vidseg.clips.geometry import Geometry
from vidseg.clips.named_geometry import named_geometry
from vidseg.clips.plan import BatchPlan, BatchShape
from vidseg.clips.sampler_order import check_sampler, count_repeats, sampled_videos
from vidseg.clips.sampling import FrameSampling, SequentialClips, Short, named_sampling
from vidseg.labels.counting import counted
from vidseg.labels.dataset import VideoDataset

__all__ = ["ClipPlanner", "Shapes"]

Shapes = Callable[[int], Sequence[BatchShape]]
"""Epoch number from 0 -> shapes of its batches in order, over all ranks; the batches cover the clips once."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Epoch:
    """Batches of one epoch: batch k holds the clips order[starts[k] : starts[k + 1]] with shape shapes[k]."""

    number: int
    order: Integers
    repeats: Integers
    shapes: tuple[BatchShape, ...]
    starts: Integers


class ClipPlanner:
    """Create the plan of any batch of any epoch without decoding frames.

    Sample numbers count the clips of the data set: the views of video 0, of video 1, and so on. The views of a video
    are the sampling's clips times the geometry's crops, with the crops of one clip consecutive. Batch k of an epoch
    holds consecutive clips of the epoch's order (shuffled for training), and rank r takes every `world_size`-th of
    them.

    All ranks have the same number of batches of the same shape. In testing, the last batch may be smaller; it is padded
    with clips marked as not valid. In training, an incomplete last batch is dropped unless it is the only one.

    Args:
        data: videos.
        frames: number of frames T of a clip.
        interval: distance between the frames of a clip; with several, each training clip draws one.
        size: output side in pixels, or (H, W).
        batch_size: clips per batch over all ranks.
        seed: random seed of order, sampling, geometry and augmentation.
        train: shuffle the clips and use random parameters.
        sampling: object or name of `vidseg.clips.sampling`; None: "random" for training, else "center".
        geometry: object of `vidseg.clips.geometry` or name of `named_geometry`; None: "random_resized_crop" for
            training, else "center".
        augment: colors, noise and warps: a preset, several, or a name of `vidseg.clips.augmentations`.
        short: how videos shorter than a clip are extended, "loop" or "clamp"; for samplings given by name.
        shapes: schedule of batch shapes, replacing frames, size and batch_size.
        sampler: video indices in the order of an epoch, over all ranks: an iterable that can be iterated over again, or
            a `torch.utils.data.Sampler`. Replaces the shuffled or sequential order; see `sampled_videos`.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        TypeError: the sampler is an iterator, or yields values that are not integers.
        ValueError: an argument is out of range, there are no videos, or a video has no frames or no size in the
            catalog.
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
        short: Short = "loop",
        shapes: Shapes | None = None,
        sampler: Iterable[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check_videos(data)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}, must be 0 to {world_size - 1} for world_size={world_size}")
        if train and shapes is None and batch_size % world_size:
            raise ValueError(
                f"batch_size is {batch_size} over all ranks, must be a multiple of world_size={world_size}"
            )
        color_presets(augment)  # report an unknown name before the first batch
        self.data, self.seed, self.train, self.augment = data, seed, train, augment
        self.rank, self.world_size = rank, world_size
        height, width = (size, size) if isinstance(size, int) else size
        self._constant = BatchShape(batch_size, frames, height, width)
        self._shapes = shapes
        if shapes is not None:
            first = shapes(0)
            _check_shapes(first, world_size if train else 1)
            largest = max(first, key=lambda shape: shape.height * shape.width)
            frames, height, width = largest.frames, largest.height, largest.width
        intervals = (interval,) if isinstance(interval, int) else tuple(interval)
        if sampling is None or isinstance(sampling, str):
            sampling = named_sampling(sampling, intervals=intervals, train=train, short=short)
        if shapes is not None and isinstance(sampling, SequentialClips):
            raise ValueError("sequential sampling requires clips of one length; use it without a schedule of shapes")
        if geometry is None or isinstance(geometry, str):
            geometry = named_geometry(geometry, size=(height, width), train=train)
        self.sampling, self.geometry = sampling, geometry
        views = sampling.views(data.frames, frames) * geometry.views
        self._views = int(views[0])
        # Sample number of each video's first clip if the numbers of clips differ.
        self._first = None if (views == views[0]).all() else np.concatenate([[0], np.cumsum(views)])
        self.samples = int(views.sum())
        self._epochs: tuple[_Epoch, ...] = ()
        self._sampler = sampler
        if sampler is not None:
            check_sampler(sampler)
            self._order(0)

    def __repr__(self) -> str:
        return (
            f"ClipPlanner({self.data!r}, {counted(self.samples, 'clip')}, {self.sampling!r}, {self.geometry!r},"
            f" augment={self.augment!r}, seed={self.seed}, train={self.train}, rank {self.rank} of {self.world_size})"
        )

    @property
    def base(self) -> BatchShape:
        """Shape of the batches given by frames, size and batch_size, over all ranks."""
        return self._constant

    def with_shapes(self, shapes: Shapes) -> ClipPlanner:
        """Return the planner with another schedule of shapes, whose largest sides are those of `base`."""
        other = copy.copy(self)
        other._shapes, other._epochs = shapes, ()
        return other

    def batches(self, epoch: int) -> int:
        """Return the number of batches of an epoch, the same for all ranks."""
        return len(self._epoch(epoch).shapes)

    def clips_before(self, epoch: int, index: int) -> int:
        """Return the number of clips in the batches before batch `index` of an epoch, over all ranks."""
        return int(self._epoch(epoch).starts[index])

    def shape(self, epoch: int, index: int) -> BatchShape:
        """Return the shape of one batch of this rank."""
        shape = self._global_shape(epoch, index)
        return BatchShape(-(-shape.clips // self.world_size), shape.frames, shape.height, shape.width)

    def plan(self, epoch: int, index: int) -> BatchPlan:
        """Return the plan of this rank's part of batch `index` of an epoch.

        Raises:
            IndexError: the epoch has no such batch.
        """
        shape = self._global_shape(epoch, index)
        planned = self._epoch(epoch)
        first = int(planned.starts[index])
        positions = np.arange(first + self.rank, first + shape.clips, self.world_size)
        valid = np.arange(-(-shape.clips // self.world_size)) < len(positions)
        positions = np.concatenate([positions, np.full(len(valid) - len(positions), first)])
        samples, repeats = planned.order[positions], planned.repeats[positions]
        return self.plan_samples(epoch, samples, shape=shape, index=index, valid=valid, repeats=repeats)

    def plan_samples(
        self,
        epoch: int,
        samples: Integers,
        *,
        shape: BatchShape | None = None,
        index: int = 0,
        valid: npt.NDArray[np.bool_] | None = None,
        repeats: Integers | None = None,
    ) -> BatchPlan:
        """Return a plan of arbitrary samples, each equal to its plan in a batch of that epoch.

        Args:
            epoch: epoch number from 0.
            samples: int64 (B,) sample numbers, 0 to `samples` - 1.
            shape: frames, height and width of the clips; None: those of the planner.
            index: batch number of the plan.
            valid: bool (B,), False for padding clips; None: all valid.

        Raises:
            IndexError: a sample number is out of range.
        """
        if len(samples) and not (samples.min() >= 0 and samples.max() < self.samples):
            raise IndexError(f"sample numbers are {samples.min()} to {samples.max()}, must be 0 to {self.samples - 1}")
        shape = shape or self._constant
        repeats = np.zeros(len(samples), np.int64) if repeats is None else repeats
        draws = samples + repeats * self.samples  # a sample's first occurrence draws with its own number
        videos, views = self._places(samples)
        clips, crops = np.divmod(views, self.geometry.views)
        frames = self.sampling.frames(
            self.data.frames[videos], clips, length=shape.frames, seed=self.seed, epoch=epoch, samples=draws
        )
        matrices = self.geometry.matrices(
            self.data.heights[videos].astype(np.int64),
            self.data.widths[videos].astype(np.int64),
            output=(shape.height, shape.width),
            views=crops,
            seed=self.seed,
            epoch=epoch,
            samples=draws,
            warps=None if self.augment is None else draw_warps(self.augment, self.seed, epoch, draws),
        )
        return BatchPlan(
            epoch=epoch,
            index=index,
            height=shape.height,
            width=shape.width,
            videos=videos,
            views=views,
            labels=self.data.labels[videos],
            frames=frames,
            matrices=matrices,
            colors=draw_colors(self.augment, self.seed, epoch, draws, height=shape.height, width=shape.width),
            valid=np.ones(len(samples), bool) if valid is None else valid,
            repeats=repeats,
        )

    def _places(self, samples: Integers) -> tuple[Integers, Integers]:
        """Return video and view number of each sample."""
        if self._first is None:
            videos, views = np.divmod(samples, self._views)
            return videos, views
        videos = np.searchsorted(self._first, samples, side="right") - 1
        return videos, samples - self._first[videos]

    def order_digest(self, epoch: int) -> str | None:
        """Hash of the order that the sampler gives for an epoch; None without a sampler."""
        if self._sampler is None:
            return None
        return hashlib.blake2b(self._order(epoch)[0].tobytes(), digest_size=8).hexdigest()

    def _order(self, epoch: int) -> tuple[Integers, Integers]:
        """Sample numbers of an epoch in order, and the number of earlier occurrences of each."""
        if self._sampler is None:
            order = permutation(self.seed, epoch, self.samples) if self.train else np.arange(self.samples)
            return order, np.zeros(len(order), np.int64)
        videos = sampled_videos(self._sampler, count=len(self.data), seed=self.seed, epoch=epoch)
        if self._first is None:
            order = (videos[:, None] * self._views + np.arange(self._views)).ravel()
        else:
            order = np.concatenate([np.arange(self._first[video], self._first[video + 1]) for video in videos])
        return order, count_repeats(order)

    def _global_shape(self, epoch: int, index: int) -> BatchShape:
        shapes = self._epoch(epoch).shapes
        if not 0 <= index < len(shapes):
            raise IndexError(f"batch {index} is out of range; the number of batches of epoch {epoch} is {len(shapes)}")
        return shapes[index]

    def _epoch(self, number: int) -> _Epoch:
        for epoch in self._epochs:
            if epoch.number == number:
                return epoch
        epoch = self._make_epoch(number)
        # The loader plans the next epoch before the last batches of this one are consumed.
        self._epochs = (*self._epochs[-1:], epoch)
        return epoch

    def _make_epoch(self, number: int) -> _Epoch:
        order, repeats = self._order(number)
        if self._shapes is None:
            schedule: Sequence[BatchShape] = [self._constant] * -(-len(order) // self._constant.clips)
        else:
            schedule = self._shapes(number)
            _check_shapes(schedule, self.world_size if self.train else 1)
        shapes: list[BatchShape] = []
        planned = 0
        for shape in schedule:
            clips = min(shape.clips, len(order) - planned)
            if clips < 1 or (clips < shape.clips and self.train and shapes):
                break
            shapes.append(shape if clips == shape.clips else BatchShape(clips, shape.frames, shape.height, shape.width))
            planned += clips
        starts = np.cumsum([0, *(shape.clips for shape in shapes)])
        return _Epoch(number, order, repeats, tuple(shapes), starts)


def _check_shapes(shapes: Sequence[BatchShape], world_size: int) -> None:
    if not shapes:
        raise ValueError("the schedule of shapes is empty; an epoch needs at least one batch")
    for shape in shapes:
        if shape.clips % world_size:
            raise ValueError(
                f"{shape}: the number of clips over all ranks must be a multiple of world_size={world_size}"
            )


def _check_videos(data: VideoDataset) -> None:
    if not len(data):
        raise ValueError(f"{data!r} has no videos")
    empty = np.flatnonzero(data.frames < 1)
    if len(empty):
        raise ValueError(
            f"{data.root}: {counted(len(empty), 'video')} without frames, the first is"
            f" {data.video_path(int(empty[0]))}; remove them with data.subset(data.frames > 0)"
        )
    unknown = np.flatnonzero((data.heights < 1) | (data.widths < 1))
    if len(unknown):
        raise ValueError(
            f"{data.root}: {counted(len(unknown), 'video')} without a frame size in the catalog, the first is"
            f" {data.video_path(int(unknown[0]))}; run `vidseg labels scan {data.root}`"
        )
