"""The loader of streams against frames decoded one by one."""

import numpy as np
import pytest
import torch

from vidseg.clips.stream_windows import WindowShape, window_labels
from vidseg.convert import convert_videos
from vidseg.frames import FrameDatabase
from vidseg.labels import VideoDataset, open_dataset
from vidseg.loaders.output import MEAN, STD
from vidseg.loaders.stream_loader import StreamLoader
from vidseg.models import create_model
from vidseg.tasks.streaming.inference import label_streams

LENGTHS = [20, 9, 13]
SHAPE = WindowShape(8, 4, 2)
LABELS = [np.arange(length) % 5 for length in LENGTHS]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, make_video) -> VideoDataset:
    folder = tmp_path_factory.mktemp("streams")
    for number, length in enumerate(LENGTHS):
        make_video(folder / f"videos/v{number}.mp4", frames=length, size=(48, 64))
    assert convert_videos(folder / "videos", folder / "data", workers=1).ok
    data = open_dataset(folder / "data")
    assert data.frames.tolist() == LENGTHS
    return data


def make(dataset: VideoDataset, **options) -> StreamLoader:
    defaults = {"labels": LABELS, "size": (48, 48), "resize": 48, "train": False, "threads": 1}
    return StreamLoader(dataset, SHAPE, **(defaults | options))


def normalized(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (T, H, W, 3) -> (3, T, H, W)."""
    return ((pixels / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(3, 0, 1, 2)


def test_windows_hold_the_frames_that_the_plan_says(dataset):
    loader = make(dataset, group=3)
    frames = [FrameDatabase(video.path).decode(range(video.frames)) for video in dataset]
    black = normalized(torch.zeros(1, 48, 48, 3))
    batches = list(loader)
    assert [batch.item.window for batch in batches] == [0, 1, 2]
    for batch in batches:
        assert batch.clips.shape == (3, 3, 4, 48, 48) and batch.clips.dtype == torch.float32
        for row, video in enumerate(batch.item.videos):
            expected = window_labels(SHAPE, batch.item.window, LABELS[video])
            assert batch.labels[row].tolist() == expected.tolist()
            for place, frame in enumerate(batch.item.frames[row]):
                picture = black if frame < 0 else normalized(frames[video][frame : frame + 1, :, 8:56])
                assert torch.allclose(batch.clips[row, :, place : place + 1], picture, atol=1e-5)
            assert batch.mask[row].tolist() == (batch.item.frames[row] >= 0).tolist()
    assert loader.epoch == 1


def test_a_video_is_shown_alike_in_all_its_windows(dataset):
    """Crops and mirroring are drawn for a video and an epoch, not for a window."""
    whole = make(dataset, size=24, train=True, flip=True, seed=3, group=2)
    seen: dict[tuple[int, int], torch.Tensor] = {}
    for epoch in range(2):
        whole.set_epoch(epoch)
        matrices = [whole._matrices(np.arange(3), epoch) for _ in range(2)]
        assert np.array_equal(*matrices)
        for batch in whole:
            for row, video in enumerate(batch.item.videos.tolist()):
                if epoch == 0:
                    seen[video, batch.item.window] = batch.clips[row]
    again = make(dataset, size=24, train=True, flip=True, seed=3, group=1)
    for batch in again:
        video = int(batch.item.videos[0])
        assert torch.equal(batch.clips[0], seen[video, batch.item.window])
    places = {whole._matrices(np.array([video]), epoch).tobytes() for video in range(3) for epoch in range(4)}
    assert len(places) == 12
    corners = whole._matrices(np.arange(3), 1) @ np.array([[0, 24], [0, 24], [1, 1]])
    assert (corners[:, 0] >= 0).all() and (corners[:, 0] <= 64).all() and (corners[:, 1] <= 48).all()
    assert np.allclose(np.abs(corners[:, 1, 1] - corners[:, 1, 0]), 24)


def test_an_epoch_resumes(dataset):
    loader = make(dataset, size=16, train=True, group=2, seed=1)
    batches = [batch for _ in range(2) for batch in loader]
    first = make(dataset, size=16, train=True, group=2, seed=1)
    iterator = iter(first)
    taken = [next(iterator) for _ in range(2)]
    second = make(dataset, size=16, train=True, group=2, seed=1, threads=2)
    second.load_state_dict(first.state_dict())
    iterator.close()
    second.set_epoch(0)
    taken += [batch for _ in range(2) for batch in second]
    assert len(taken) == len(batches)
    for one, other in zip(taken, batches, strict=True):
        assert torch.equal(one.clips, other.clips) and torch.equal(one.labels, other.labels)
        assert one.item.videos.tolist() == other.item.videos.tolist()
    with pytest.raises(ValueError, match="seed 1"):
        make(dataset, seed=2).load_state_dict(second.state_dict())
    with pytest.raises(ValueError, match="window 99"):
        second.load_state_dict(second.state_dict() | {"item": 99})


def test_from_databases_to_labels(dataset):
    model = create_model("memory_tcn", num_classes=5, width=0.25, layers=2, channels=8)
    with make(dataset, size=32, group=2) as loader:
        found = {prediction.video: prediction for prediction in label_streams(model, loader, SHAPE)}
    assert [len(found[video].labels) for video in range(3)] == LENGTHS
    assert [found[video].truth.tolist() for video in range(3)] == [labels.tolist() for labels in LABELS]


def test_wrong_arguments_are_refused(dataset):
    with pytest.raises(ValueError, match="9 frames and 30 labels, more than 8 apart"):
        make(dataset, labels=[LABELS[0], np.zeros(30), LABELS[2]])
    with pytest.raises(ValueError, match="no frame labels"):
        make(dataset, labels=None)
    for option in ({"resize": 20}, {"threads": 0}, {"dtype": torch.uint8}, {"group": 0}):
        with pytest.raises(ValueError, match=next(iter(option))):
            make(dataset, **option)
    with pytest.raises(ValueError, match="labels of 4 videos"):
        make(dataset, labels=[*LABELS, LABELS[0]])
    with pytest.raises(ValueError, match="at least one video"):
        make(dataset.subset([]))
