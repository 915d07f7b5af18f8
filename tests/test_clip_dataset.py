"""ClipDataset: the clips of ClipLoader one by one, in whatever process and order they are asked for."""

import gc
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_data import FRAMES, break_row, clip_dataset
from torch.utils.data import DataLoader, RandomSampler

from vidseg import ClipLoader
from vidseg.frames import FrameDatabaseError
from vidseg.labels import VideoDataset
from vidseg.loaders import ClipDataset

OPTIONS = {"frames": 3, "size": 24, "seed": 5, "dtype": torch.uint8, "augment": "hmdb51"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> VideoDataset:
    return clip_dataset(tmp_path_factory.mktemp("clips"))


def make(data, **options) -> ClipDataset:
    return ClipDataset(data, **{**OPTIONS, **options})


def of_loader(data, epoch: int, **options) -> dict[tuple[int, int], torch.Tensor]:
    """Frames of each clip of an epoch, by video and view."""
    loader = ClipLoader(data, batch_size=4, **{**OPTIONS, **options})
    loader.set_epoch(epoch)
    return {
        (number, view): frames.clone()
        for batch in loader
        for frames, number, view in zip(batch.frames, batch.numbers.tolist(), batch.views.tolist(), strict=True)
    }


def darker(frames: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return (frames * random.uniform(0.2, 0.8)).astype(np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"train": False, "geometry": "three_crops", "augment": None},
        {"transform": darker},
        {"layout": "bthwc", "color": "bgr", "dtype": torch.float32, "augment": None},
    ],
)
def test_items_are_the_clips_of_the_loader(data, options):
    clips = make(data, **options)
    for epoch in (0, 3):
        clips.set_epoch(epoch)
        expected = of_loader(data, epoch, **options)
        assert len(clips) == len(expected) and clips.epoch == epoch
        for sample in reversed(range(len(clips))):
            item = clips[sample]
            assert torch.equal(item["frames"], expected[item["number"], item["view"]])
            assert item["label"] == data.labels[item["number"]] and item["replaced"] == 0
            assert clips.plan(sample).video == item["number"]


def test_samples_count_the_views_of_each_video(data):
    clips = make(data, train=False, sampling="clips", augment=None)
    places = [(item["number"], item["view"]) for item in clips]
    assert places == sorted(places) and len(set(places)) == len(clips) == 10 * len(data)
    assert torch.equal(clips[-1]["frames"], clips[len(clips) - 1]["frames"])
    several = clips.__getitems__([7, 2, 7])
    assert [torch.equal(one["frames"], clips[n]["frames"]) for one, n in zip(several, (7, 2, 7), strict=True)] == [
        True
    ] * 3
    for number in (len(clips), -len(clips) - 1):
        with pytest.raises(IndexError, match=f"of a data set of {len(clips)} clips"):
            clips[number]
    with pytest.raises(IndexError, match="samples 0 to 999, must be 0 to 79"):
        clips.planner.plan_samples(0, np.array([0, 999]))


def check_batches(loader: DataLoader, expected: dict) -> None:
    seen = []
    for batch in loader:
        assert batch["label"].dtype == torch.int64 and batch["frames"].dtype == torch.uint8
        for frames, number, view in zip(batch["frames"], batch["number"].tolist(), batch["view"].tolist(), strict=True):
            assert torch.equal(frames, expected[number, view])
            seen.append((number, view))
    assert sorted(seen) == sorted(expected)


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (1, "spawn")])
def test_epochs_reach_the_workers(data, workers, method):
    clips = make(data)
    keep = {"multiprocessing_context": method, "persistent_workers": True} if workers else {}
    shuffled = RandomSampler(clips, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(clips, batch_size=3, sampler=shuffled, num_workers=workers, **keep)
    for epoch in (0, 2):
        clips.set_epoch(epoch)
        check_batches(loader, of_loader(data, epoch))
    with pytest.raises(ValueError, match="epoch -1"):
        clips.set_epoch(-1)


def test_a_pickled_copy_is_small_and_holds_no_file(data):
    clips = make(data)
    clips.set_epoch(2)
    _ = clips[0]
    content = pickle.dumps(clips)
    assert len(content) < 50_000
    copy = pickle.loads(content)
    assert copy.epoch == 2 and torch.equal(copy[4]["frames"], clips[4]["frames"])


def test_open_files_do_not_accumulate(data):
    clips = make(data)
    gc.collect()
    counts = []
    for _ in range(3):
        for sample in range(len(clips)):
            _ = clips[sample]
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    # The compiled library keeps the databases used last, as for a loader.
    assert counts[0] == counts[1] == counts[2]


def test_a_damaged_frame_is_named_or_counted(tmp_path, caplog):
    videos = clip_dataset(tmp_path, ["automatic", "gray"])
    break_row(videos[1].path, 2, b"broken")
    options = {"train": False, "augment": None, "frames": FRAMES, "interval": 1}
    with pytest.raises(FrameDatabaseError, match=r"1_gray/frames\.db: frame 1"):
        make(videos, **options)[1]
    replaced = make(videos, on_error="replace", **options)
    assert [item["replaced"] for item in replaced] == [0, 1]
    assert "1_gray: damaged frames [1] show their neighbors [0]" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "dali"}, "backend='dali' works with ClipLoader only"),
        ({"backend": "magic"}, "backend='magic'"),
        ({"on_error": "skip"}, "on_error='skip'"),
        ({"dtype": torch.int32}, "dtype=torch.int32"),
    ],
)
def test_bad_options_are_named(data, options, message):
    with pytest.raises(ValueError, match=message):
        make(data, **options)
