"""From options to data: which videos are trained and tested on, and the loaders of both."""

from __future__ import annotations

from pathlib import Path

from vidseg.clips.geometry import Geometry, Mirror
from vidseg.clips.multigrid import Multigrid
from vidseg.clips.named_geometry import named_geometry
from vidseg.clips.sampling import DenseClips, FrameSampling, RandomStart
from vidseg.engine.cycles import CyclesFirst
from vidseg.engine.options import DataOptions, ScheduleOptions
from vidseg.labels import VideoDataset, open_dataset
from vidseg.loaders import ClipLoader
from vidseg.videos import open_videos

__all__ = ["choose_splits", "labeled", "make_loader", "make_multigrid"]

_HELD_OUT = 0.2
_TRAIN_SPLITS = ("train", "split1/train")
_TEST_SPLITS = ("val", "test", "split1/test")


def choose_splits(options: DataOptions, *, seed: int) -> tuple[VideoDataset, VideoDataset]:
    """Videos to learn from and held-out videos, the same ones each time.

    Raises:
        ValueError: a split that is not there or has no video, or another number of classes than wanted.
    """
    if not options.dataset:
        raise ValueError("dataset: name the folder of the data set, as `vidseg convert` leaves it")
    known = _open(options).splits
    train_name = options.train_split or next((name for name in _TRAIN_SPLITS if name in known), None)
    test_name = options.test_split or next((name for name in _TEST_SPLITS if name in known), None)
    train = labeled(_open(options, train_name))
    if options.num_classes is not None and train.num_classes != options.num_classes:
        raise ValueError(
            f"{options.dataset} has {train.num_classes} classes, {options.num_classes} are expected; for a part of the "
            f"data set say --num-classes {train.num_classes}"
        )
    if test_name is None:
        return train.split(1 - _HELD_OUT, seed=seed)
    held_out = labeled(_open(options, test_name))
    if train_name is not None:
        return train, held_out
    paths = {held_out.video_path(index) for index in range(len(held_out))}
    return train.subset([index for index in range(len(train)) if train.video_path(index) not in paths]), held_out


def _open(options: DataOptions, split: str | None = None) -> VideoDataset:
    """The data set, converted or, for the backend "video", as it is."""
    if options.backend == "video" and not (Path(options.dataset) / "catalog.db").is_file():
        return open_videos(options.dataset, split)
    return open_dataset(options.dataset, split)


def labeled(data: VideoDataset) -> VideoDataset:
    """The videos that have a class."""
    found = data.subset(data.labels >= 0)
    if len(found) == 0:
        raise ValueError(f"{data}: no video of it has a class; run `vidseg labels apply {data.root} LABELS.csv`")
    return found


def make_loader(
    data: VideoDataset,
    options: DataOptions,
    *,
    seed: int,
    train: bool,
    multigrid: Multigrid | CyclesFirst | None = None,
    clips: int = 1,
    crops: int = 1,
) -> ClipLoader:
    """Batches of the data set as the options say.

    Args:
        data: videos with classes.
        options: of the clips.
        seed: of all draws.
        train: at random; else central clips.
        multigrid: schedule of shapes, for training.
        clips: views in time of each video, for testing.
        crops: views in space of each clip, for testing: 1, 3, 5 or 10.

    Raises:
        ValueError: options that do not go together.
    """
    interval = options.train_frame_interval if train else options.val_frame_interval
    sampling: FrameSampling | None = DenseClips(clips, interval=interval[0]) if clips > 1 else None
    if train and options.stretch_intervals:
        sampling = RandomStart(interval, full_length=options.clip_length)
    return ClipLoader(
        data,
        frames=options.clip_length,
        interval=interval,
        size=options.clip_size,
        batch_size=options.batch_size,
        seed=seed,
        train=train,
        sampling=sampling,
        geometry=_geometry(options, train=train, crops=crops),
        augment=options.augment if train else None,
        shapes=None if multigrid is None else multigrid.shapes,
        color=options.color,
        backend=options.backend,
        threads=options.threads,
        cache_bytes=options.cache_bytes if train else 0,
        enlarge=options.enlarge if train else 1.0,
        on_error=options.on_error,
    )


def make_multigrid(
    data: VideoDataset, options: DataOptions, schedule: ScheduleOptions
) -> Multigrid | CyclesFirst | None:
    """The schedule of shapes of a data set's training clips; None without cycles."""
    if not (schedule.long_cycles or schedule.short_cycles):
        return None
    cycles = Multigrid(
        clips=len(data),
        batch_size=options.batch_size,
        frames=options.clip_length,
        size=options.clip_size,
        long_cycles=schedule.long_cycles,
        short_cycles=schedule.short_cycles,
    )
    return cycles if schedule.cycle_epochs is None else CyclesFirst(cycles, schedule.cycle_epochs)


def _geometry(options: DataOptions, *, train: bool, crops: int) -> Geometry:
    """Which part of the frames is seen."""
    if crops > 1:
        if crops not in _CROPS:
            raise ValueError(f"crops={crops}: {', '.join(map(str, _CROPS))} crops of a frame are known")
        return named_geometry(_CROPS[crops], size=(options.clip_size, options.clip_size), train=False)
    name = options.geometry if train else options.val_geometry
    geometry = named_geometry(name, size=(options.clip_size, options.clip_size), train=train)
    if options.mirror:
        return geometry
    return Geometry(tuple(step for step in geometry.steps if not isinstance(step, Mirror)))


_CROPS = {1: "center", 3: "three_crops", 5: "five_crops", 10: "ten_crops"}
