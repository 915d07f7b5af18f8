"""Labels of frames that arrive one by one equal those of the whole video."""

import numpy as np
import pytest
import torch

from vidseg.clips.stream_windows import StreamPlan, WindowShape
from vidseg.loaders.stream_loader import StreamBatch
from vidseg.models import create_model
from vidseg.tasks.streaming.inference import label_streams
from vidseg.tasks.streaming.labeler import LiveLabeler

BLACK = torch.tensor([-1.0, -2.0, -3.0])
SHAPES = [WindowShape(8, 4, 2), WindowShape(4, 4, 2), WindowShape(3, 4, 2), WindowShape(5, 5, 1), WindowShape(1, 3, 1)]


def make_model():
    torch.manual_seed(0)
    return create_model("memory_tcn", num_classes=4, width=0.25, layers=2, channels=8).eval()


def whole(model, video: torch.Tensor, shape: WindowShape) -> np.ndarray:
    def batches():
        for item in StreamPlan([len(video)], shape):
            clips = BLACK.view(1, 3, 1, 1).repeat(shape.frames, 1, *video.shape[2:])
            real = item.frames[0] >= 0
            clips[torch.from_numpy(real)] = video[item.frames[0][real]]
            labels = torch.zeros(1, shape.span, dtype=torch.int64)
            yield StreamBatch(clips.transpose(0, 1)[None], labels, torch.from_numpy(item.mask), item)

    (prediction,) = label_streams(model, batches(), shape)
    return prediction.labels


def labels_of(labeler: LiveLabeler, video: torch.Tensor) -> np.ndarray:
    found = [window for frame in video if (window := labeler.push(frame)) is not None]
    found += labeler.finish()
    assert [window.start for window in found] == [number * labeler.shape.stride for number in range(len(found))]
    assert all(0 < window.probabilities.min() <= window.probabilities.max() <= 1 for window in found)
    return np.concatenate([window.labels for window in found])[: len(video)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("length", [1, 8, 21])
def test_a_stream_is_labeled_as_its_video_is(shape, length):
    model = make_model()
    video = torch.randn(length, 3, 32, 32, generator=torch.Generator().manual_seed(length))
    labeler = LiveLabeler(model, shape, black=BLACK)
    expected = whole(model, video, shape)
    assert labels_of(labeler, video).tolist() == expected.tolist()
    assert labeler.frames == 0
    assert labels_of(labeler, video).tolist() == expected.tolist()  # a new stream starts without memory


def test_a_window_is_labeled_at_its_last_visible_frame():
    labeler = LiveLabeler(make_model(), WindowShape(8, 4, 2), black=BLACK)
    labeled = [number for number in range(24) if labeler.push(torch.randn(3, 32, 32)) is not None]
    assert labeled == [6, 14, 22] and labeler.frames == 24 and labeler.seconds > 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_only_frames_of_incomplete_windows_are_kept(shape):
    labeler = LiveLabeler(make_model(), shape, black=BLACK)
    for _ in range(60):
        labeler.push(torch.randn(3, 32, 32))
        assert len(labeler.state_dict()["frames"]) <= shape.span


@pytest.mark.parametrize("pause", [3, 7, 10])
def test_another_labeler_resumes(tmp_path, pause):
    shape, video = WindowShape(4, 4, 2), torch.randn(20, 3, 32, 32)
    expected = whole(make_model(), video, shape)
    first = LiveLabeler(make_model(), shape, black=BLACK)
    labels = [window.labels for frame in video[:pause] if (window := first.push(frame)) is not None]
    torch.save(first.state_dict(), tmp_path / "live.pt")
    second = LiveLabeler(make_model(), shape, black=BLACK)
    second.load_state_dict(torch.load(tmp_path / "live.pt", weights_only=True))
    labels += [window.labels for frame in video[pause:] if (window := second.push(frame)) is not None]
    labels += [window.labels for window in second.finish()]
    assert np.concatenate(labels)[:20].tolist() == expected.tolist()


def test_wrong_frames_are_refused():
    labeler = LiveLabeler(make_model(), WindowShape(4, 4), black=BLACK)
    assert labeler.finish() == []
    labeler.push(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match=r"frame 1 is \(3, 16, 32\)"):
        labeler.push(torch.zeros(3, 16, 32))
    with pytest.raises(ValueError, match="must be"):
        labeler.push(torch.zeros(1, 32, 32))
    with pytest.raises(ValueError, match="black"):
        LiveLabeler(make_model(), WindowShape(4, 4), black=torch.zeros(1))
