"""Which frames clips show: published tables, and what holds for every video."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.clips import CenterClip, DenseClips, DenseFrames, RandomStart, SegmentSampling, SequentialClips
from vidseg.clips.frame_positions import dense_frames, segment_starts, uniform_clips
from vidseg.clips.sampling import named_sampling

TABLES = json.loads((Path(__file__).parent / "golden/training_math.json").read_text())


def frames_of(sampling, counts, *, length, views=None, seed=0, epoch=0, samples=None):
    counts = np.asarray(counts)
    return sampling.frames(
        counts,
        np.zeros_like(counts) if views is None else np.asarray(views),
        length=length,
        seed=seed,
        epoch=epoch,
        samples=np.arange(len(counts)) if samples is None else np.asarray(samples),
    )


@pytest.mark.parametrize("case", TABLES["tsn_train_indices"], ids=lambda case: f"{case['num_frames']} frames")
def test_published_segments_in_training(case):
    draws = np.array([case["u"]])
    starts = segment_starts(
        [case["num_frames"]], case["num_segments"], consecutive=case["new_length"], kind="train", draws=draws
    )
    assert starts[0].tolist() == case["start_indices"]


@pytest.mark.parametrize("case", TABLES["tsn_eval_indices"], ids=lambda case: f"{case['num_frames']} frames")
def test_published_segments_in_testing(case):
    def starts(kind):
        return segment_starts([case["num_frames"]], case["num_segments"], consecutive=case["new_length"], kind=kind)[0]

    assert starts("val").tolist() == case["val"]
    assert starts("test").tolist() == case["test"]
    assert [*starts("test"), *starts("first")] == case["test_twice"]


@pytest.mark.parametrize("case", TABLES["dense_2d_indices"], ids=lambda case: f"{case['num_frames']} frames")
def test_published_dense_frames(case):
    count, length = case["num_frames"], case["num_segments"]
    start = np.array([case["u"] * max(0, count - 64)])
    assert dense_frames([count], start, length=length)[0].tolist() == case["train"]
    views = frames_of(DenseFrames(clips=10), [count] * 10, length=length, views=range(10))
    assert views.tolist() == case["test_10_clips"]


@pytest.mark.parametrize("rule, column", [("pyslowfast", "pyslowfast"), ("mmaction2", "mmaction2_loop")])
@pytest.mark.parametrize("case", TABLES["dense_3d_clips"], ids=lambda case: f"{case['num_frames']} frames")
def test_published_clips(case, rule, column):
    clips = case["num_clips"]
    sampling = DenseClips(clips=clips, interval=case["stride"], rule=rule)
    views = frames_of(sampling, [case["num_frames"]] * clips, length=case["clip_len"], views=range(clips))
    assert views.tolist() == case[column]


def test_clips_round_as_torch_does():
    """PySlowFast asks torch.linspace in single precision, whose last bit decides about some frames."""
    counts, length, interval = np.arange(40, 640), 13, 7
    mine = uniform_clips(counts, counts % 10, length=length, interval=interval, clips=10, rule="pyslowfast")
    equal = []
    for count, frames in zip(counts.tolist(), mine, strict=True):
        start = max(count - length * interval, 0) * (count % 10) / 10
        expected = torch.linspace(start, start + length * interval - 1, length).clamp(0, count - 1).long().numpy()
        assert np.abs(frames - expected).max() <= 1
        equal.append((frames == expected).all())
    assert np.mean(equal) > 0.995  # torch has other roundings for processors without fused operations


SAMPLINGS = [
    RandomStart((1, 2, 5)),
    RandomStart((3,), short="clamp"),
    CenterClip(2),
    CenterClip(2, short="clamp"),
    SegmentSampling(),
    SegmentSampling(train=True),
    SegmentSampling(train=True, short="loop"),
    SegmentSampling(twice=True, short="loop"),
    SegmentSampling(consecutive=4, train=True),
    SegmentSampling(consecutive=4, short="loop"),
    DenseFrames(),
    DenseFrames(clips=1, train=True),
    DenseFrames(clips=1),
    DenseClips(3, interval=4),
    DenseClips(4, interval=3, rule="pyslowfast"),
    DenseClips(1, interval=3, rule="pyslowfast", short="loop"),
    SequentialClips(2),
    SequentialClips(3, short="loop"),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=repr)
@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 200), length=st.sampled_from([4, 8, 16]), seed=st.integers(0, 5))
def test_frames_are_inside_the_video_and_vary(sampling, count, length, seed):
    views = np.arange(sampling.views(np.array([count]), length)[0])
    frames = frames_of(sampling, np.full(len(views), count), length=length, views=views, seed=seed, samples=views)
    assert frames.shape == (len(views), length) and frames.dtype == np.int64
    assert frames.min() >= 0 and frames.max() < count
    different = np.array([len(set(clip)) for clip in frames.tolist()])
    assert (different > 1).all() or count == 1


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=repr)
def test_a_clip_depends_on_its_sample_number_alone(sampling):
    counts, samples = np.array([300, 20, 7, 90]), np.array([11, 5, 900, 2])
    together = frames_of(sampling, counts, length=8, seed=3, epoch=2, samples=samples)
    for order in ([3, 2, 1, 0], [2]):
        assert (
            frames_of(sampling, counts[order], length=8, seed=3, epoch=2, samples=samples[order]) == together[order]
        ).all()


@pytest.mark.parametrize("sampling", [RandomStart((1, 4)), SegmentSampling(train=True), DenseFrames(1, train=True)])
def test_epochs_and_seeds_change_the_draws(sampling):
    first, other_epoch, other_seed = (
        frames_of(sampling, np.full(50, 400), length=8, seed=seed, epoch=epoch)
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    )
    assert (first != other_epoch).any(1).mean() > 0.9 and (first != other_seed).any(1).mean() > 0.9


def test_random_start_covers_the_video_evenly():
    frames = frames_of(RandomStart((2, 3)), np.full(20_000, 40), length=8)
    intervals = np.diff(frames, axis=1)
    assert (intervals == intervals[:, :1]).all()
    for interval, starts in ((2, 26), (3, 19)):
        drawn = frames[intervals[:, 0] == interval, 0]
        assert len(drawn) == pytest.approx(10_000, rel=0.05)
        counted = np.bincount(drawn, minlength=starts)
        assert len(counted) == starts and counted.min() > 0.7 * len(drawn) / starts


def test_short_videos_loop_or_stay():
    looped = frames_of(RandomStart((2,)), [5], length=8)[0].tolist()
    assert looped == [0, 2, 4, 1, 3, 0, 2, 4]
    assert frames_of(RandomStart((2,), "clamp"), [5], length=8)[0].tolist() == [0, 2, 4, 4, 4, 4, 4, 4]
    assert frames_of(CenterClip(3), [3], length=5)[0].tolist() == [0, 1, 2, 0, 1]
    assert frames_of(CenterClip(1), [1], length=3)[0].tolist() == [0, 0, 0]
    assert frames_of(SegmentSampling(), [3], length=6)[0].tolist() == [0, 0, 1, 1, 2, 2]
    assert frames_of(SegmentSampling(train=True, short="loop"), [3], length=6)[0].tolist() == [0, 1, 2, 0, 1, 2]


def test_center():
    assert frames_of(CenterClip(1), [10], length=4)[0].tolist() == [3, 4, 5, 6]
    assert frames_of(CenterClip(3), [10], length=4)[0].tolist() == [0, 3, 6, 9]


def test_sequential_clips_cover_the_video():
    sampling = SequentialClips(1)
    assert sampling.views(np.array([1, 16, 17, 40]), 16).tolist() == [1, 1, 2, 3]
    frames = frames_of(sampling, [40] * 3, length=16, views=range(3))
    assert frames[0].tolist() == list(range(16)) and frames[2].tolist() == list(range(24, 40))
    assert set(frames.ravel()) == set(range(40))
    looped = frames_of(SequentialClips(1, short="loop"), [40] * 3, length=16, views=range(3))
    assert looped[2].tolist() == [*range(32, 40), *range(8)]


def test_clips_at_equal_distances_from_both_ends():
    frames = uniform_clips([100] * 5, range(5), length=4, interval=5, clips=5)
    assert frames[:, 0].tolist() == [0, 21, 42, 63, 84] and frames[-1, -1] == 99


def test_names():
    def named(name, train, intervals=(1, 2)):
        return named_sampling(name, intervals=intervals, train=train, short="clamp")

    assert named(None, True) == RandomStart((1, 2), "clamp")
    assert named(None, False, (4, 5, 6)) == CenterClip(5, "clamp")
    assert named("segments", True) == SegmentSampling(train=True)
    assert named("dense", False) == DenseFrames(10) and named("dense", True) == DenseFrames(1, train=True)
    assert named("clips", False) == DenseClips(10, 2, short="clamp")
    assert named("sequential", False, (1,)) == SequentialClips(1)
    with pytest.raises(ValueError, match="unknown sampling 'middle'; expected random, center"):
        named("middle", True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomStart(()),
        lambda: RandomStart((0, 1)),
        lambda: CenterClip(1, short="repeat"),
        lambda: SegmentSampling(train=True, twice=True),
        lambda: DenseFrames(10, train=True),
        lambda: DenseClips(0),
        lambda: DenseClips(rule="mmaction"),
        lambda: segment_starts([10], 2, kind="train"),
        lambda: frames_of(SegmentSampling(consecutive=5), [30], length=8),
    ],
)
def test_wrong_options_are_refused(make):
    with pytest.raises(ValueError):
        make()
