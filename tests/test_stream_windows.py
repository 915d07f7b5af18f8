"""Windows of long videos against the published stream protocol, and the properties that a stream relies on."""

import json

import numpy as np
import pytest
import torch
from golden_vectors import FOLDER
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.clips.stream_windows import (
    StreamPlan,
    WindowShape,
    window_frames,
    window_labels,
    window_ticks,
    window_valid,
)
from vidseg.ops import window_scatter

GOLDEN = json.loads((FOLDER / "stream_windows.json").read_text())


def shape_of(case: dict) -> WindowShape:
    return WindowShape(case["sliding_window"], case["clip_seg_num"], case["sample_rate"])


def plan_of(case: dict) -> StreamPlan:
    lengths, frames = case["n_labels"], case["n_video_frames"]
    return StreamPlan(lengths, shape_of(case), group=len(lengths), video_frames=frames)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['n_labels']}-{case['sliding_window']}")
def test_published_windows(case):
    plan = plan_of(case)
    assert (plan.groups, len(plan)) == (1, case["num_windows"])
    for item in plan:
        assert item.counts.tolist() == case["precise_num_windows"]
        expected = [video[item.window] for video in case["windows"]]
        assert item.frames.tolist() == [window["frames"] for window in expected]
        assert item.valid.tolist() == [window["valid"] for window in expected]
        assert item.label_mask.sum(axis=1).tolist() == item.valid.tolist()
        assert item.mask.tolist() == item.label_mask[:, :: case["sample_rate"]].tolist()
        for video, length in enumerate(case["n_labels"]):
            labels = window_labels(plan.shape, item.window, np.arange(length) % 7)
            start = item.window * case["sliding_window"]
            known = [frame % 7 for frame in range(start, min(start + plan.shape.span, length))]
            assert labels.tolist() == known + [-100] * (plan.shape.span - len(known))
            assert (labels != -100).tolist() == item.label_mask[video].tolist()


def joined_windows(windows: np.ndarray, length: int, shape: WindowShape) -> torch.Tensor:
    """Join windows (N, T * R, ...) of one video to (L, ...)."""
    starts = torch.arange(len(windows))[None] * shape.stride
    return window_scatter(torch.from_numpy(windows.copy())[None], starts, length, reduce="last")[0]


@pytest.mark.parametrize("published", ["later_wins", "first_wins"])
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['n_labels']}-{case['sliding_window']}")
def test_published_stitching(case, published):
    count, videos, classes = case["num_windows"], len(case["n_labels"]), case["num_classes"]
    size = (count, videos, classes, case["clip_seg_num"])
    scores = np.random.RandomState(case["score_seed"]).standard_normal(size=size).astype(np.float32)
    scores = scores.repeat(case["sample_rate"], axis=3)
    for video, length in enumerate(case["n_labels"]):
        joined = joined_windows(scores[: shape_of(case).count(length), video].swapaxes(1, 2), length, shape_of(case))
        assert joined.shape == (case["stitched"]["lengths"][video], classes)
        assert joined.argmax(dim=1).tolist() == case["stitched"][published][video]


@pytest.mark.parametrize("group", ["train_label_windows", "linspace_windows"])
def test_published_other_samplings(group):
    for case in GOLDEN[group]["cases"]:
        shape, length = shape_of(case), min(case["n_labels"], case["n_video_frames"])
        labels = np.arange(case["n_labels"]) % 7
        assert shape.count(case["n_labels"]) == len(case["windows"])
        for number, expected in enumerate(case["windows"]):
            frames = window_frames(shape, number, length, sampling=case["mode"])
            assert frames.tolist() == expected["frames"]
            found = window_labels(shape, number, labels, frames=frames if case["is_train"] else None)
            assert found.tolist() == expected["labels"]
            assert int((found != -100).sum()) == expected["valid"]


shapes = st.builds(
    lambda frames, interval, stride: WindowShape(min(stride, frames * interval), frames, interval),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 36),
)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(1, 90))
def test_windows_cover_a_video_and_join_up(shape, length):
    """The last window of each frame is the one that has it among its first W frames."""
    count = shape.count(length)
    answers = np.stack([np.arange(shape.span) + window * shape.stride for window in range(count)])
    owner = np.stack([np.full(shape.span, window) for window in range(count)])
    assert joined_windows(answers, length, shape).tolist() == list(range(length))
    assert joined_windows(owner, length, shape).tolist() == [frame // shape.stride for frame in range(length)]
    assert sum(min(window_valid(shape, window, length), shape.stride) for window in range(count)) == length
    assert window_valid(shape, count, length) == 0
    assert window_ticks(length, shape.stride).tolist() == [window * shape.stride for window in range(count)]


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(1, 90), st.sampled_from(["random", "uniform_random", "linspace"]), st.integers(0, 9))
def test_drawn_frames_lie_in_their_window(shape, length, sampling, seed):
    for window in range(shape.count(length) + 1):
        frames = window_frames(shape, window, length, sampling=sampling, seed=seed, video=3)
        again = window_frames(shape, window, length, sampling=sampling, seed=seed, video=3)
        assert frames.tolist() == again.tolist()
        real = frames[frames >= 0]
        assert (frames[: len(real)] >= 0).all()
        assert (np.diff(real) >= (1 if sampling == "random" else 0)).all()
        assert (real >= window * shape.stride).all() and (real < length).all()
        uniform = window_frames(shape, window, length)
        if sampling == "random":
            assert len(real) == (uniform >= 0).sum()
        elif (uniform >= 0).any():
            assert len(real) == shape.frames


def test_draws_change_with_everything_they_should():
    shape = WindowShape(40, 10, 4)
    make = lambda **change: window_frames(shape, 1, 200, sampling="random", **change).tolist()  # noqa: E731
    drawn = [make(), make(seed=1), make(epoch=1), make(video=1)]
    assert len({tuple(frames) for frames in drawn}) == 4


def test_groups_visit_every_video_once():
    lengths = [5, 17, 3, 30, 8, 21, 9]
    shape = WindowShape(6, 3, 2)
    for epoch in range(3):
        plan = StreamPlan(lengths, shape, group=3, shuffle=True, seed=4, epoch=epoch)
        seen = [video for item in plan if item.starts for video in item.videos[item.counted]]
        assert sorted(seen) == list(range(7))
        ended = [video for item in plan for video in item.videos[item.ends & item.counted]]
        assert sorted(ended) == list(range(7))
        last = [item for item in plan if item.group == plan.groups - 1]
        assert [item.counted.tolist() for item in last] == [[True, False, False]] * len(last)
        assert all((item.videos == last[0].videos[0]).all() for item in last)
    orders = {
        tuple(item.videos.tolist())
        for epoch in range(3)
        for item in StreamPlan(lengths, shape, group=3, shuffle=True, seed=4, epoch=epoch)
        if item.starts
    }
    assert len(orders) > 3
    short = StreamPlan(lengths, shape, group=3, incomplete="drop")
    assert sorted({int(video) for item in short for video in item.videos}) == [0, 1, 2, 3, 4, 5]
    assert all(item.counted.all() for item in short)


def test_ranks_share_groups_and_stay_in_step():
    lengths = [5, 17, 3, 30, 8, 21, 9, 14]
    shape = WindowShape(6, 6)
    whole = StreamPlan(lengths, shape, group=4, shuffle=True, seed=2)
    parts = [StreamPlan(lengths, shape, group=2, shuffle=True, seed=2, rank=rank, ranks=2) for rank in (0, 1)]
    assert len(whole) == len(parts[0]) == len(parts[1])
    for item, first, second in zip(whole, *parts, strict=True):
        assert item.windows == first.windows == second.windows
        assert item.videos.tolist() == np.stack([first.videos, second.videos], axis=1).ravel().tolist()
        assert np.array_equal(item.frames[::2], first.frames)


def test_an_epoch_resumes_anywhere():
    plan = StreamPlan([5, 17, 3, 30], WindowShape(6, 3, 2), group=2, shuffle=True, seed=1, sampling="random")
    items = list(plan)
    assert [item.index for item in items] == list(range(len(plan)))
    later = plan[len(plan) - 1]
    assert np.array_equal(later.frames, items[-1].frames) and later.last and items[-1].group == later.group
    assert [item.starts for item in items].count(True) == [item.last for item in items].count(True) == plan.groups
    with pytest.raises(IndexError, match=f"item {len(plan)} of {len(plan)}"):
        plan[len(plan)]


def test_a_finished_video_goes_on_with_empty_windows():
    plan = StreamPlan([20, 4], WindowShape(4, 4), group=2)
    assert [item.valid.tolist() for item in plan] == [[4, 4], [4, 0], [4, 0], [4, 0], [4, 0]]
    assert [item.ends.tolist() for item in plan] == [[False, True], *[[False, False]] * 3, [True, False]]


def test_no_videos_no_items():
    plan = StreamPlan([], WindowShape(4, 4), group=2, shuffle=True)
    assert len(plan) == plan.groups == 0 and list(plan) == []


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: WindowShape(9, 4, 2), "leave gaps; stride must be at most 8"),
        (lambda: WindowShape(4, 0), "at least 1"),
        (lambda: window_frames(WindowShape(4, 4), 0, 9, sampling="first"), "sampling='first'"),
        (lambda: window_ticks(9, 0), "stride=0"),
        (lambda: StreamPlan([4, 0], WindowShape(4, 4)), "video 1 has 0 frames"),
        (lambda: StreamPlan([4], WindowShape(4, 4), video_frames=[4, 5]), "must be"),
        (lambda: StreamPlan([4], WindowShape(4, 4), group=0), "group is 0"),
        (lambda: StreamPlan([4], WindowShape(4, 4), rank=1), "rank=1"),
        (lambda: StreamPlan([4], WindowShape(4, 4), incomplete="keep"), "incomplete='keep'"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
