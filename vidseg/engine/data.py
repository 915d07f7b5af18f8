"""From options to data: which videos are trained and tested on, and the loaders of both."""

from __future__ import annotations

from typing import Any

from vidseg.engine.options import DataOptions
from vidseg.labels import VideoDataset, open_dataset
from vidseg.loaders import PlainLoader

__all__ = ["choose_splits", "labelled", "make_loader"]

_HELD_OUT = 0.2


def choose_splits(options: DataOptions, *, seed: int) -> tuple[VideoDataset, VideoDataset]:
    """Videos to learn from and held-out videos, the same ones each time.

    Raises:
        ValueError: a split that is not there or has no video, or another number of classes than wanted.
    """
    if not options.dataset:
        raise ValueError("dataset: name the folder of the data set, as `vidseg convert` leaves it")
    known = open_dataset(options.dataset).splits
    train_name = options.train_split or ("train" if "train" in known else None)
    test_name = options.test_split or next((name for name in ("val", "test") if name in known), None)
    train = labelled(open_dataset(options.dataset, train_name))
    if options.num_classes is not None and train.num_classes != options.num_classes:
        raise ValueError(
            f"{options.dataset} has {train.num_classes} classes, {options.num_classes} are expected; for a part of the "
            f"data set say --num-classes {train.num_classes}"
        )
    if test_name is None:
        return train.split(1 - _HELD_OUT, seed=seed)
    held_out = labelled(open_dataset(options.dataset, test_name))
    if train_name is not None:
        return train, held_out
    paths = {held_out.video_path(index) for index in range(len(held_out))}
    return train.subset([index for index in range(len(train)) if train.video_path(index) not in paths]), held_out


def labelled(data: VideoDataset) -> VideoDataset:
    """The videos that have a class."""
    found = data.subset(data.labels >= 0)
    if len(found) == 0:
        raise ValueError(f"{data}: no video of it has a class; run `vidseg labels apply {data.root} LABELS.csv`")
    return found


def make_loader(data: VideoDataset, options: DataOptions, *, seed: int, train: bool) -> Any:
    """Batches of the data set as the options say."""
    return PlainLoader(
        data,
        frames=options.clip_length,
        interval=options.train_frame_interval[0] if train else options.val_frame_interval[0],
        size=options.clip_size,
        batch_size=options.batch_size,
        train=train,
        seed=seed,
        threads=options.threads,
    )
