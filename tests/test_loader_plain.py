"""The plain loader: the right pixels, each video once, the same draws whatever the threads."""

import shutil
import sqlite3
import threading

import numpy as np
import pytest
import torch
from shapes import shapes_dataset

from vidseg.frames import FrameDatabase, FrameDatabaseError
from vidseg.labels import open_dataset
from vidseg.loaders import Batch, PlainLoader

MEAN = torch.tensor([124, 117, 104]).view(3, 1, 1, 1) / 255
DEVIATION = 1 / (0.0167 * 255)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return shapes_dataset(tmp_path_factory.mktemp("loader"))


@pytest.fixture(scope="module")
def data(root):
    return open_dataset(root)


def loader(data, **options) -> PlainLoader:
    return PlainLoader(data, **{"frames": 4, "interval": 2, "size": 32, "batch_size": 3, **options})


def by_video(batches) -> dict[int, torch.Tensor]:
    return {int(number): clip for batch in batches for number, clip in zip(batch.numbers, batch.frames, strict=True)}


def test_shapes_and_labels(data):
    batches = list(loader(data, train=False))
    assert [tuple(batch.frames.shape) for batch in batches] == [(3, 3, 4, 32, 32)] * 5 + [(1, 3, 4, 32, 32)]
    assert len(loader(data, train=False)) == 6
    assert torch.cat([batch.numbers for batch in batches]).tolist() == list(range(16))
    assert torch.cat([batch.labels for batch in batches]).tolist() == data.labels.tolist()
    assert batches[0].frames.dtype == torch.float32 and "(3, 3, 4, 32, 32)" in repr(batches[0])


def test_evaluation_clips_are_the_centre(data):
    clips = by_video(loader(data, train=False))
    for number in (0, 7):
        pixels = FrameDatabase(data[number].path).decode([6, 8, 10, 12], size=36)[:, 2:34, 2:34]
        expected = (pixels.permute(3, 0, 1, 2) / 255 - MEAN) / DEVIATION
        assert torch.allclose(clips[number], expected, atol=1e-5)


def test_training_clips_are_parts_of_their_video(data):
    clips = by_video(loader(data))
    starts = set()
    for number, clip in clips.items():
        pixels = FrameDatabase(data[number].path).decode(range(20), size=36).permute(3, 0, 1, 2) / 255
        whole = (pixels - MEAN) / DEVIATION
        found = [
            (start, top, left)
            for start in range(14)
            for top in range(5)
            for left in range(5)
            if torch.allclose(whole[:, start : start + 7 : 2, top : top + 32, left : left + 32], clip, atol=1e-5)
        ]
        assert len(found) == 1
        starts.add(found[0])
    assert len(starts) > 8


def test_draws_depend_on_seed_epoch_and_video_alone(data):
    reference = by_video(loader(data, threads=1))
    assert len(reference) == 15  # an incomplete last batch is left out
    for options in ({"threads": 4}, {"threads": 2, "batch_size": 5}):
        other = by_video(loader(data, **options))
        shared = reference.keys() & other.keys()
        assert len(shared) >= 14 and all(torch.equal(reference[number], other[number]) for number in shared)
    part = by_video(loader(data, seed=1))
    assert sum(torch.equal(part[number], reference[number]) for number in part.keys() & reference.keys()) < 3


def test_epochs_differ_and_can_be_had_again(data):
    source = loader(data)
    orders = []
    for epoch in (0, 1, 0):
        source.set_epoch(epoch)
        orders.append(torch.cat([batch.numbers for batch in source]).tolist())
    assert orders[0] == orders[2] != orders[1]
    assert len(set(orders[0])) == len(orders[0]) == 15


def test_short_videos_start_over(data):
    clip = by_video(loader(data, frames=12, interval=4, train=False))[0]
    assert torch.equal(clip[:, 0], clip[:, 5]) and torch.equal(clip[:, 1], clip[:, 6])
    assert not torch.equal(clip[:, 0], clip[:, 1])


def test_flip_mirrors_about_half_of_the_clips(data):
    plain, mirrored = by_video(loader(data, batch_size=16)), by_video(loader(data, batch_size=16, flip=True))
    kinds = [
        "same"
        if torch.equal(plain[n], mirrored[n])
        else "mirror"
        if torch.equal(plain[n].flip(3), mirrored[n])
        else "?"
        for n in plain
    ]
    assert set(kinds) == {"same", "mirror"} and 3 <= kinds.count("mirror") <= 13
    still = by_video(loader(data, flip=True, train=False))
    assert torch.equal(still[0], by_video(loader(data, train=False))[0])


def test_few_videos_make_one_batch(data):
    few = data.subset([3, 5])
    assert [len(batch) for batch in loader(few, batch_size=8)] == [2]
    assert len(loader(few, batch_size=8)) == 1


def test_leaving_early_ends_the_threads(data):
    for batch in loader(data, threads=3):
        assert isinstance(batch, Batch)
        break
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_a_damaged_video_is_named(root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    data = open_dataset(tmp_path / "copy")
    with sqlite3.connect(data[2].path) as connection:
        connection.execute("UPDATE Images SET frames = x'00' WHERE rowid = 9")
    with pytest.raises(FrameDatabaseError, match=data[2].name):
        list(loader(data, train=False))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_wrong_use(data):
    with pytest.raises(ValueError, match="interval=0"):
        loader(data, interval=0)
    with pytest.raises(ValueError, match="at least one video"):
        loader(data.subset(np.zeros(16, bool)))
