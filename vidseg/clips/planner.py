"""Plans of epochs: which clips are in which batch of which rank."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidseg.clips.arguments import MOST_CLIPS, MOST_FRAMES, whole
from vidseg.clips.augmentations import Preset, color_presets, draw_warps, has_warp
from vidseg.clips.color import draw_colors
from vidseg.clips.draws import permutation
from vidseg.clips.frame_positions import Short
from vidseg.clips.geometry import Geometry
from vidseg.clips.named_geometry import named_geometry
from vidseg.clips.plan import BatchPlan, BatchShape
from vidseg.clips.sampler_order import check_sampler, count_repeats, sampled_videos
from vidseg.clips.sampling import FrameSampling, SegmentSampling, SequentialClips, named_sampling
from vidseg.clips.steps import pair
from vidseg.labels.dataset import VideoDataset

__all__ = ["ClipPlanner", "Shapes"]

Shapes = Callable[[int], Sequence[BatchShape]]
"""Function from the epoch, from 0, to the shapes of its batches over all ranks; together they cover the clips once."""

Integers = npt.NDArray[np.int64]

_MOST_SAMPLES = 1 << 28  # clips of an epoch; bounds the memory of its order


@dataclass(frozen=True, eq=False)
class _Epoch:
    """Batches of one epoch: batch k holds the clips order[starts[k] : starts[k + 1]] in the shape shapes[k].

    repeats[i] counts the occurrences of order[i] before position i.
    """

    number: int
    order: Integers
    repeats: Integers
    shapes: tuple[BatchShape, ...]
    starts: Integers


class ClipPlanner:
    """Computes the plan of any batch of any epoch, without reading a frame.

    Sample numbers count the clips of the data set: the views of video 0, then those of video 1, and so on. The views of
    a video are the clips of the sampling times the crops of the geometry; the crops of one clip are next to each other.
    Batch k of an epoch has consecutive clips of the epoch's order (shuffled for training), and rank r takes every
    `world_size`-th of them.

    All ranks have the same number of batches of the same shape. For testing, the last batch may be smaller, and clips
    with `valid` False pad it. For training, an incomplete last batch is dropped, unless it is the only one.

    Args:
        data: the videos.
        frames: T, frames of a clip.
        interval: distance between consecutive frames of a clip; with several, each training clip draws one.
        size: height and width of the clips in pixels; one number for a square.
        batch_size: number of clips of a batch over all ranks.
        seed: seed for order, frames, crops and colors.
        train: True: shuffled order, random frames and crops. False: sequential order, center.
        sampling: an object or a name of `vidseg.clips.sampling`; None: "random" in training, else "center".
        geometry: an object of `vidseg.clips.geometry` or a name of `named_geometry`; None: "random_resized_crop" in
            training, else "center".
        augment: colors, noise and warps: a preset, several, or a name of `vidseg.clips.augmentations`.
        short: videos shorter than a clip "loop" or "clamp"; for samplings given by name.
        shapes: shapes of the batches of an epoch; replaces frames, size and batch_size.
        sampler: video indices in the order of an epoch, over all ranks: any iterable that can be iterated over again,
            or a `torch.utils.data.Sampler`. Replaces the shuffled or sequential order; see `sampled_videos`.
        stack: L, adjacent frames that form one of the T frames; a clip's plan has T * L frame numbers, and
            sampling="segments" takes L consecutive frames from each of T segments.
        colors: draw the color operations of `augment`. False: its geometric operations only.
        rank: index of this process.
        world_size: number of processes.

    Raises:
        TypeError: a sampler that is an iterator, or yields something else than integers.
        ValueError: an argument out of range, no videos, or videos without frames or size in the catalog.
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
        augment: str | Preset | Sequence[Preset] | None = None,
        short: Short = "loop",
        shapes: Shapes | None = None,
        sampler: Iterable[int] | None = None,
        stack: int = 1,
        colors: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check_videos(data)
        whole(world_size, "world_size", least=1, most=MOST_CLIPS)
        if not 0 <= whole(rank, "rank") < world_size:
            raise ValueError(f"rank={rank} must be 0 to {world_size - 1}: world_size is {world_size}")
        if train and shapes is None and whole(batch_size, "batch_size") % world_size:
            raise ValueError(
                f"batch_size={batch_size} is over all ranks: make it a multiple of world_size={world_size}"
            )
        presets = color_presets(augment)  # an unknown name is an error now, not in the first batch
        if presets and not colors and not any(has_warp(preset) for preset in presets):
            raise ValueError(f"augment={augment!r:.80} has color operations only, and these clips have no colors")
        self.stack, self.colors = whole(stack, "stack", least=1, most=MOST_FRAMES), colors
        self.data, self.seed, self.train, self.augment = data, seed, train, augment
        self.rank, self.world_size = rank, world_size
        height, width = pair(size)
        self._constant = BatchShape(batch_size, frames, height, width)
        whole(seed, "seed")
        self._shapes = shapes
        if shapes is not None:
            first = shapes(0)
            _check_shapes(first, world_size if train else 1)
            largest = max(first, key=lambda shape: shape.height * shape.width)
            frames, height, width = largest.frames, largest.height, largest.width
        intervals = tuple(interval) if isinstance(interval, Iterable) else (interval,)
        if sampling is None or isinstance(sampling, str):
            sampling = named_sampling(sampling, intervals=intervals, train=train, short=short, consecutive=stack)
        if shapes is not None and isinstance(sampling, SequentialClips):
            raise ValueError("sequential clips need a constant number of frames; a schedule of shapes may change it")
        if geometry is None or isinstance(geometry, str):
            geometry = named_geometry(geometry, size=(height, width), train=train)
        if isinstance(sampling, SegmentSampling) and sampling.consecutive % stack:
            raise ValueError(f"stack={stack}: {sampling} must take that many consecutive frames, or a multiple")
        self.sampling, self.geometry = sampling, geometry
        views = sampling.views(data.frames, frames * stack) * geometry.views
        total = float(views.sum(dtype=np.float64))
        if total > _MOST_SAMPLES:
            raise ValueError(f"{data!r}: {total:.0f} clips, more than {_MOST_SAMPLES}; use a larger interval")
        self._views = int(views[0])
        # Sample number of each video's first clip; None if all videos have the same number of clips.
        self._first = None if (views == views[0]).all() else np.concatenate([[0], np.cumsum(views)])
        self.samples = int(views.sum())
        self._epochs: tuple[_Epoch, ...] = ()
        self._sampler = sampler
        if sampler is not None:
            check_sampler(sampler)
            self._order(0)

    def __repr__(self) -> str:
        return (
            f"ClipPlanner({self.data!r}, {self.samples} clips, {self.sampling!r}, {self.geometry!r},"
            f" augment={self.augment!r}, seed={self.seed}, train={self.train}, rank {self.rank} of {self.world_size})"
        )

    @property
    def base(self) -> BatchShape:
        """Shape of the batches from frames, size and batch_size, over all ranks."""
        return self._constant

    def with_shapes(self, shapes: Shapes) -> ClipPlanner:
        """Return a copy of the planner with another schedule of shapes, whose largest sides are those of `base`."""
        other = copy.copy(self)
        other._shapes, other._epochs = shapes, ()
        return other

    def batches(self, epoch: int) -> int:
        """Return the number of batches of an epoch, the same for all ranks."""
        return len(self._epoch(epoch).shapes)

    def clips_before(self, epoch: int, index: int) -> int:
        """Return the number of clips before batch `index` of an epoch, over all ranks."""
        return int(self._epoch(epoch).starts[index])

    def shape(self, epoch: int, index: int) -> BatchShape:
        """Return the shape of one batch of this rank."""
        shape = self._global_shape(epoch, index)
        return BatchShape(-(-shape.clips // self.world_size), shape.frames, shape.height, shape.width)

    def plan(self, epoch: int, index: int) -> BatchPlan:
        """Return this rank's part of batch `index` of an epoch.

        Raises:
            IndexError: there is no such batch.
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
        """Return a plan of any samples, with the same clips as in the batches of that epoch.

        Args:
            epoch: from 0.
            samples: int64 (B,) sample numbers, 0 to `samples` - 1.
            shape: frames, height and width of the clips. None: those of `base`.
            index: batch number of the plan.
            valid: bool (B,), False for clips that pad the batch. None: all True.
            repeats: int64 (B,), how many times each sample came before in the epoch: each time draws other random
                numbers. None: the first time.

        Raises:
            IndexError: a sample number out of range.
        """
        if len(samples) and not (samples.min() >= 0 and samples.max() < self.samples):
            raise IndexError(f"samples {samples.min()} to {samples.max()}, must be 0 to {self.samples - 1}")
        shape = shape or self._constant
        repeats = np.zeros(len(samples), np.int64) if repeats is None else repeats
        draws = samples + repeats * self.samples  # a sample's first occurrence draws with its own number
        videos, views = self._places(samples)
        clips, crops = np.divmod(views, self.geometry.views)
        frames = self.sampling.frames(
            self.data.frames[videos],
            clips,
            length=shape.frames * self.stack,
            seed=self.seed,
            epoch=epoch,
            samples=draws,
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
            colors=draw_colors(
                self.augment if self.colors else None, self.seed, epoch, draws, height=shape.height, width=shape.width
            ),
            valid=np.ones(len(samples), bool) if valid is None else valid,
            repeats=repeats,
        )

    def sample_range(self, video: int) -> tuple[int, int]:
        """Return the sample number of the first view of a video, and one more than that of its last view."""
        if self._first is None:
            return video * self._views, (video + 1) * self._views
        return int(self._first[video]), int(self._first[video + 1])

    def sample_numbers(self, videos: Integers, views: Integers) -> Integers:
        """Return the sample number of each view of a video, int64 (B,)."""
        return (videos * self._views if self._first is None else self._first[videos]) + views

    def _places(self, samples: Integers) -> tuple[Integers, Integers]:
        """Return video and view of each sample."""
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
            raise IndexError(f"batch {index} of epoch {epoch}, which has {len(shapes)}")
        return shapes[index]

    def _epoch(self, number: int) -> _Epoch:
        for epoch in self._epochs:
            if epoch.number == number:
                return epoch
        epoch = self._make_epoch(number)
        # Two epochs: a loader can plan the next one while batches of this one are in use.
        self._epochs = (*self._epochs[-1:], epoch)
        return epoch

    def _make_epoch(self, number: int) -> _Epoch:
        order, repeats = self._order(number)
        if self._shapes is None:
            wanted: Sequence[BatchShape] = [self._constant] * -(-len(order) // self._constant.clips)
        else:
            wanted = self._shapes(number)
            _check_shapes(wanted, self.world_size if self.train else 1)
        shapes: list[BatchShape] = []
        planned = 0
        for shape in wanted:
            clips = min(shape.clips, len(order) - planned)
            if clips < 1 or (clips < shape.clips and self.train and shapes):
                break
            shapes.append(shape if clips == shape.clips else BatchShape(clips, shape.frames, shape.height, shape.width))
            planned += clips
        starts = np.cumsum([0, *(shape.clips for shape in shapes)])
        return _Epoch(number, order, repeats, tuple(shapes), starts)


def _check_shapes(shapes: Sequence[BatchShape], world_size: int) -> None:
    if not shapes:
        raise ValueError("shapes: the schedule has no batch")
    for shape in shapes:
        if shape.clips % world_size:
            raise ValueError(f"{shape} is over all ranks: its clips must be a multiple of world_size={world_size}")


def _check_videos(data: VideoDataset) -> None:
    if not len(data):
        raise ValueError(f"{data!r} has no videos")
    empty = np.flatnonzero(data.frames < 1)
    if len(empty):
        raise ValueError(
            f"{data.root}: {len(empty)} videos have no frames, the first is {data.video_path(int(empty[0]))};"
            " leave them out with data.subset(data.frames > 0)"
        )
    unknown = np.flatnonzero((data.heights < 1) | (data.widths < 1))
    if len(unknown):
        raise ValueError(
            f"{data.root}: the catalog has no frame size for {len(unknown)} videos, the first is"
            f" {data.video_path(int(unknown[0]))}; run `vidseg labels scan {data.root}`"
        )
