"""on_error="replace" for videos that cannot be read at all: another video of the class, counted and named."""

import logging
import pickle

import pytest
import torch
from clip_data import break_row, clip_dataset

from vidseg.clips import BatchShape
from vidseg.frames import FrameDatabaseError
from vidseg.loaders import ClipDataset, ClipLoader

KINDS = ("automatic", "no_restart", "optimized", "levels", "sharp_chroma", "published")  # classes a, b, a, b, a, b
OPTIONS = {"frames": 4, "size": 32, "batch_size": 3, "seed": 5, "threads": 2, "dtype": "uint8"}


@pytest.fixture
def data(tmp_path):
    return clip_dataset(tmp_path, KINDS)


def remove(path):
    path.unlink()


def no_database(path):
    path.write_bytes(b"not a database" * 1000)


def empty(path):
    path.write_bytes(b"")


def no_frame(path):
    for row in range(1, 7):
        break_row(path, row, b"\xff\xd8 no JPEG")


@pytest.mark.parametrize("spoil", [remove, no_database, empty, no_frame])
@pytest.mark.parametrize("train", [True, False])
def test_another_video_of_the_class_is_shown(data, caplog, spoil, train):
    whole = ClipLoader(data, train=train, **OPTIONS)
    expected = list(whole)
    spoil(data[2].path)
    with pytest.raises(FrameDatabaseError):
        list(ClipLoader(data, train=train, **OPTIONS))
    caplog.set_level(logging.WARNING)
    loader = ClipLoader(data, train=train, on_error="replace", **OPTIONS)
    found = list(loader)
    shown = 0
    for before, after in zip(expected, found, strict=True):
        assert torch.equal(before.labels, after.labels)
        for row, number in enumerate(before.numbers.tolist()):
            if number == 2:
                assert after.numbers[row] in (0, 4)
                assert after.replaced == 4
                shown += 1
            else:
                assert after.numbers[row] == number
                assert torch.equal(before.frames[row], after.frames[row])
    assert shown == 1
    assert loader.stats.replaced == 4
    (record,) = [record for record in caplog.records if "is replaced by other videos of its class" in record.message]
    assert "2_optimized" in record.message
    again = list(ClipLoader(data, train=train, on_error="replace", **OPTIONS | {"threads": 1}))
    for first, second in zip(found, again, strict=True):
        assert torch.equal(first.frames, second.frames)
        assert torch.equal(first.numbers, second.numbers)


def test_the_replacement_is_a_clip_of_that_video(data):
    data[2].path.unlink()
    loader = ClipLoader(data, on_error="replace", **OPTIONS)
    for batch in loader:
        plan = batch.plan
        for row in range(len(batch)):
            assert plan.frames[row].max() < data.frames[plan.videos[row]]
            assert plan.labels[row] == data.labels[plan.videos[row]]


def test_several_are_gone_and_a_class_is_gone(data):
    for video in (0, 4):
        data[video].path.unlink()
    numbers = [int(number) for batch in ClipLoader(data, on_error="replace", **OPTIONS) for number in batch.numbers]
    assert sorted(numbers) == [1, 2, 2, 2, 3, 5]
    data[2].path.unlink()
    with pytest.raises(FrameDatabaseError, match=r"no video of class 'a' can be read.*No such file"):
        list(ClipLoader(data, on_error="replace", **OPTIONS))


def test_the_dataset_and_shapes_replace_too(data):
    data[2].path.unlink()
    items = ClipDataset(data, on_error="replace", frames=4, size=32, seed=5)
    items[0]
    items = pickle.loads(pickle.dumps(items))
    item = items[2]
    assert (item["label"], item["replaced"]) == (0, 4)
    assert item["number"] in (0, 4)
    loader = ClipLoader(data, on_error="replace", **OPTIONS)
    loader.set_shapes(lambda epoch: [BatchShape(6, 2, 24, 24)])
    (batch,) = loader
    assert batch.frames.shape == (6, 3, 2, 24, 24)
    assert batch.replaced == 2
