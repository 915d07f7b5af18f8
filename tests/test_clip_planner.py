"""Plans of epochs: which clip is in which batch of which rank, and what it shows."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.clips import (
    BatchShape,
    CenterClip,
    CenterCrop,
    ClipPlanner,
    DenseClips,
    Geometry,
    Mirror,
    Multigrid,
    MultiScaleCrop,
    RandomResizedCrop,
    RandomStart,
    ResizeShort,
    Rotation,
    SequentialClips,
)
from vidseg.clips.mixing import draw_mixup
from vidseg.clips.stream_windows import StreamPlan, WindowShape
from vidseg.labels.dataset import VideoDataset


def videos(count, *, frames=(1, 90), seed=0, columns=None):
    """A data set without files: what a planner looks at."""
    random = np.random.default_rng(seed)
    sizes = np.array([(256, 340), (340, 256), (240, 426), (64, 80)], np.int32)[random.integers(0, 4, count)]
    paths = [f"jpg/class/video_{number}".encode() for number in range(count)]
    stops = np.cumsum([len(path) for path in paths])
    defaults = {
        "label": random.integers(0, 5, count),
        "frames": random.integers(*frames, count),
        "height": sizes[:, 0],
        "width": sizes[:, 1],
        "fps": np.full(count, 25.0),
        "path_stop": stops,
        "path_start": np.concatenate([[0], stops[:-1]]),
    }
    return VideoDataset(
        Path("data"),
        split_name=None,
        splits=[],
        classes=list("abcde"),
        columns={**defaults, **{name: np.asarray(value) for name, value in (columns or {}).items()}},
        path_bytes=np.frombuffer(b"".join(paths), np.uint8),
    )


def epoch_of(planner, epoch=0):
    return [planner.plan(epoch, index) for index in range(planner.batches(epoch))]


def shown(plans):
    """(video, view) of all valid clips, in order."""
    return [
        (clip.video, clip.view) for plan in plans for clip in (plan[number] for number in np.flatnonzero(plan.valid))
    ]


SAMPLINGS = [None, CenterClip(2), DenseClips(3), SequentialClips(1)]


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 60),
    batch=st.integers(1, 20),
    world=st.integers(1, 4),
    sampling=st.sampled_from(SAMPLINGS),
    geometry=st.sampled_from([None, "three_crops"]),
)
def test_testing_shows_every_view_once(count, batch, world, sampling, geometry):
    data = videos(count)
    options = {"frames": 8, "batch_size": batch, "train": False, "sampling": sampling, "geometry": geometry}
    whole = epoch_of(ClipPlanner(data, **options))
    crops = 3 if geometry else 1
    clips = np.ones(count, int) if sampling is None else sampling.views(data.frames, 8)
    expected = [(video, view) for video in range(count) for view in range(clips[video] * crops)]
    assert shown(whole) == expected
    ranks = [epoch_of(ClipPlanner(data, **options, rank=rank, world_size=world)) for rank in range(world)]
    assert {len(plans) for plans in ranks} == {len(whole)}
    for index, together in enumerate(whole):
        parts = [plans[index] for plans in ranks]
        assert len({part.shape for part in parts}) == 1
        for rank, part in enumerate(parts):
            assert part.take(np.flatnonzero(part.valid)) == together.take(range(rank, len(together), world))


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 60), each=st.integers(1, 6), world=st.integers(1, 4), seed=st.integers(0, 9))
def test_training_shows_no_clip_twice(count, each, world, seed):
    data = videos(count)
    options = {"frames": 4, "batch_size": each * world, "seed": seed, "world_size": world}
    ranks = [epoch_of(ClipPlanner(data, **options, rank=rank), 2) for rank in range(world)]
    full = count // (each * world)
    assert {len(plans) for plans in ranks} == {max(full, 1)}
    clips = [clip for plans in ranks for clip in shown(plans)]
    assert len(set(clips)) == len(clips) == (full * each * world if full else count)
    if full:
        assert all(plan.valid.all() and len(plan) == each for plans in ranks for plan in plans)
    else:
        assert {len(plan) for plans in ranks for plan in plans} == {-(-count // world)}


@settings(deadline=None, max_examples=25)
@given(order=st.permutations([(epoch, index) for epoch in range(3) for index in range(4)]), train=st.booleans())
def test_any_batch_at_any_time(order, train):
    def planner():
        return ClipPlanner(videos(40), frames=4, batch_size=10, train=train, seed=7, augment="hacs", geometry="hacs")

    one = planner()
    asked = {place: one.plan(*place) for place in order}
    other = planner()
    for epoch, index in sorted(asked):
        assert asked[epoch, index] == other.plan(epoch, index)


def test_a_clip_is_the_same_in_any_batch():
    """Neither the size of the batch nor the ranks change what a clip shows."""
    data = videos(48)

    def clips(**options):
        planner = ClipPlanner(data, frames=4, augment="hacs", geometry="hacs", seed=3, **options)
        return {(clip.video, clip.view): clip for plan in epoch_of(planner, 1) for clip in plan}

    expected = clips(batch_size=48)
    assert len(expected) == 48
    assert clips(batch_size=6) == expected
    assert {**clips(batch_size=8, rank=0, world_size=2), **clips(batch_size=8, rank=1, world_size=2)} == expected


def test_epochs_and_seeds_differ():
    data = videos(100, frames=(50, 90))
    plans = {
        (seed, epoch): ClipPlanner(data, frames=4, batch_size=100, seed=seed).plan(epoch, 0)
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    }
    for one, other in [((0, 0), (0, 1)), ((0, 0), (1, 0))]:
        assert (plans[one].videos != plans[other].videos).mean() > 0.8
        first, second = (plans[key].take(np.argsort(plans[key].videos)) for key in (one, other))
        assert (first.frames != second.frames).any(1).mean() > 0.8
        assert (first.matrices != second.matrices).any((1, 2)).mean() > 0.9


def test_what_a_clip_shows():
    data = videos(30, frames=(40, 90))
    planner = ClipPlanner(data, frames=8, interval=3, size=(48, 64), batch_size=30)
    plan = planner.plan(0, 0)
    assert plan.shape == (30, 8, 48, 64) and planner.shape(0, 0) == BatchShape(30, 8, 48, 64)
    assert sorted(plan.videos) == list(range(30))
    assert (plan.labels == data.labels[plan.videos]).all()
    assert (np.diff(plan.frames, axis=1) == 3).all() and (plan.frames < data.frames[plan.videos][:, None]).all()
    sides = np.stack([data.widths[plan.videos], data.heights[plan.videos]], axis=1)
    for corner in ([0, 0, 1], [64, 48, 1], [64, 0, 1]):
        points = (plan.matrices @ corner)[:, :2]
        assert ((points >= 0) & (points <= sides)).all()
    assert len(plan.colors.codes) == 0 and plan.valid.all()
    clip = plan[4]
    assert clip.video == plan.videos[4] and clip.frames == tuple(plan.frames[4]) and str(clip.video) in repr(clip)


def test_names_and_objects_choose_the_same():
    data = videos(20)
    named = ClipPlanner(
        data, frames=4, interval=(2, 3), batch_size=5, sampling="random", geometry="random_resized_crop"
    )
    given_objects = ClipPlanner(
        data, frames=4, batch_size=5, sampling=RandomStart((2, 3)), geometry=named.geometry, interval=9
    )
    assert (
        epoch_of(named)
        == epoch_of(given_objects)
        == epoch_of(ClipPlanner(data, frames=4, interval=(2, 3), batch_size=5))
    )
    assert epoch_of(named) != epoch_of(ClipPlanner(data, frames=4, batch_size=5, geometry=Geometry()))


def test_views_are_clips_times_crops():
    data = videos(2, frames=(80, 81))
    planner = ClipPlanner(data, frames=4, train=False, sampling=DenseClips(2, 5), geometry="three_crops", batch_size=12)
    plan = planner.plan(0, 0)
    assert planner.samples == 12 and plan.views.tolist() == [*range(6)] * 2
    assert plan.frames[:6, 0].tolist() == [0, 0, 0, 64, 64, 64]
    assert len(np.unique(plan.matrices[:3], axis=0)) == 3
    assert (plan.matrices[:3] == plan.matrices[3:6]).all()


def test_presets_give_colors_and_warps():
    data = videos(400, frames=(50, 90))
    plain = ClipPlanner(data, frames=4, batch_size=400, geometry="hacs").plan(0, 0)
    plan = ClipPlanner(data, frames=4, batch_size=400, geometry="hacs", augment="hacs").plan(0, 0)
    assert (plan.videos == plain.videos).all() and (plan.frames == plain.frames).all()
    names = {operation.name for clip in plan for operation in clip.colors}
    assert {"gaussian_blur", "gamma"} <= names
    warped = (plan.matrices != plain.matrices).any((1, 2))
    assert warped.mean() == pytest.approx(0.9 * 0.4, abs=0.08)
    perspective = (plan.matrices[:, 2, :2] != 0).any(1)
    assert perspective.mean() == pytest.approx(0.18, abs=0.06)


def test_multigrid_covers_the_data():
    data = videos(1000)
    schedule = Multigrid(1000, batch_size=4, frames=16, size=64)
    planner = ClipPlanner(data, shapes=schedule.shapes, geometry="hacs")
    plans = epoch_of(planner, 1)
    assert [plan.shape for plan in plans] == [
        (shape.clips, shape.frames, shape.height, shape.width) for shape in schedule.shapes(1)
    ]
    assert sorted(shown(plans)) == [(video, 0) for video in range(1000)]
    # The crop of the clip's size is cut from 384 pixels whatever its batch resizes it to.
    for plan in plans:
        wide = np.abs(plan.matrices[:, 0, 0]) * plan.width / np.minimum(*_sides(data, plan)) * 384
        np.testing.assert_allclose(wide, 64, rtol=0.01)
    ranks = [
        epoch_of(ClipPlanner(data, shapes=schedule.shapes, rank=rank, world_size=2, geometry="hacs"), 1)
        for rank in range(2)
    ]
    assert [len(one) + len(other) for one, other in zip(*ranks, strict=True)] == [len(plan) for plan in plans]
    assert sorted(shown(ranks[0]) + shown(ranks[1])) == sorted(shown(plans))


def _sides(data, plan):
    return data.heights[plan.videos], data.widths[plan.videos]


def test_a_schedule_that_ends_early_or_late():
    def planner(*clips, count=50, train=True):
        return ClipPlanner(
            videos(count), shapes=lambda epoch: [BatchShape(one, 4, 32, 32) for one in clips], train=train
        )

    assert [len(plan) for plan in epoch_of(planner(20, 10))] == [20, 10]
    assert [len(plan) for plan in epoch_of(planner(20, 20, 20, 20))] == [20, 20]
    assert [len(plan) for plan in epoch_of(planner(20, 20, 20, 20, train=False))] == [20, 20, 10]
    assert [len(plan) for plan in epoch_of(planner(80))] == [50]


def test_padding_repeats_a_clip_and_says_so():
    plans = [ClipPlanner(videos(5), frames=4, batch_size=8, train=False, rank=rank, world_size=4) for rank in range(4)]
    last = [planner.plan(0, 0) for planner in plans]
    assert [plan.valid.tolist() for plan in last] == [[True, True], [True, False], [True, False], [True, False]]
    assert [plan.videos.tolist() for plan in last] == [[0, 4], [1, 0], [2, 0], [3, 0]]


def test_no_such_batch():
    planner = ClipPlanner(videos(20), batch_size=8)
    for index in (2, -1):
        with pytest.raises(IndexError, match="has 2"):
            planner.plan(0, index)


@pytest.mark.parametrize(
    "columns, message",
    [
        (
            {"height": [0, 256, 0], "width": [0, 340, 0]},
            r"2 videos, the first is jpg/class/video_0; run `vidseg labels",
        ),
        ({"frames": [5, 0, 7]}, "1 videos have no frames, the first is jpg/class/video_1"),
    ],
)
def test_videos_that_cannot_be_planned(columns, message):
    with pytest.raises(ValueError, match=message):
        ClipPlanner(videos(3, columns=columns))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rank": 2, "world_size": 2}, "rank=2"),
        ({"batch_size": 9, "world_size": 2}, "multiple of world_size=2"),
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 1 << 40}, "clips of a batch is 1099511627776, must be at most"),
        ({"frames": 1 << 40}, "frames of a batch is 1099511627776, must be at most 1048576"),
        ({"size": (70000, 32)}, "size is 70000, must be at most 65500"),
        ({"size": ()}, r"size is \(\), must be one number of pixels, or height and width"),
        ({"interval": 0}, "at least 1"),
        ({"interval": ()}, "there must be at least one"),
        ({"interval": 1 << 62, "short": "clamp"}, "must be at most 1048576"),
        ({"augment": "hack"}, "hack"),
        ({"sampling": "middle"}, "middle"),
        ({"geometry": "middle"}, "middle"),
        ({"short": "repeat"}, "repeat"),
        (
            {"sampling": SequentialClips(), "shapes": lambda epoch: [BatchShape(4, 4, 32, 32)]},
            "constant number of frames",
        ),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ClipPlanner(videos(30), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClipPlanner(videos(3), frames=math.nan), "frames of a batch is nan, must be an integer"),
        (lambda: ClipPlanner(videos(3), size=32.5), "size is 32.5, must be an integer"),
        (lambda: ClipPlanner(videos(3), seed=0.5), "seed is 0.5, must be an integer"),
        (lambda: ClipPlanner(videos(3), batch_size=2).plan(math.inf, 0), "epoch is inf, must be an integer"),
        (lambda: CenterClip(math.nan), "is nan, must be an integer"),
        (lambda: CenterCrop(1.5), r"CenterCrop\(size=1.5\): size is 1.5, must be an integer"),
        (lambda: RandomResizedCrop((math.nan, 1)), "two finite numbers in increasing order in 0 to 1"),
        (lambda: RandomResizedCrop(ratio=(0.0, 1.0)), "ratio is .*, must be two finite numbers"),
        (lambda: Rotation((0, math.inf)), "degrees is .*, must be two finite numbers"),
        (lambda: Mirror(math.nan), "probability must be between 0 and 1"),
        (lambda: ResizeShort(ratio=math.inf), "ratio must be greater than 0"),
        (lambda: MultiScaleCrop(distortion=0.5), "distortion is 0.5, must be an integer"),
        (lambda: Multigrid(1 << 40, 1, frames=4, size=32), "clips of an epoch is 1099511627776, must be at most"),
        (lambda: Multigrid(100, 1, frames=4, size=()), "must be one number of pixels, or height and width"),
        (lambda: draw_mixup(0, 0, 0, clips=4, alpha=math.inf), "alpha is inf, must be at least 0 and at most"),
        (lambda: draw_mixup(0, 0, 0, clips=-1, alpha=0.0), "clips is -1, must be at least 1"),
        (lambda: WindowShape(8, 4.5, 2), "frames is 4.5, must be an integer"),
        (lambda: WindowShape(1, 1 << 23, 1 << 23), "is longer than 16777216"),
        (lambda: StreamPlan([1 << 62], WindowShape(8, 4, 2)), "lengths is 4611686018427387904, must be at most"),
        (lambda: StreamPlan([8], WindowShape(8, 4, 2), group=1 << 50), "group is 1125899906842624, must be at most"),
        (lambda: StreamPlan(np.array([8.5]), WindowShape(8, 4, 2)), "have the type float64, must be integers"),
    ],
)
def test_numbers_that_no_plan_can_have(make, message):
    """NaN, infinite, fractional and huge ones are named before anything is allocated."""
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_too_many_clips_for_an_order():
    data = videos(2, columns={"frames": [1 << 31, 5]})
    with pytest.raises(ValueError, match="2147483653 clips, more than 268435456"):
        ClipPlanner(data, frames=1, interval=1, sampling=SequentialClips(), train=False)


def test_shapes_must_suit_the_ranks():
    with pytest.raises(ValueError, match="multiple of world_size=2"):
        ClipPlanner(videos(30), shapes=lambda epoch: [BatchShape(5, 4, 32, 32)] * 6, world_size=2)
    with pytest.raises(ValueError, match="the schedule has no batch"):
        ClipPlanner(videos(30), shapes=lambda epoch: [])
    with pytest.raises(ValueError, match="no videos"):
        ClipPlanner(videos(3).subset([]))
