"""Multigrid: the published shapes and rates, without the published program's defects."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.clips import BatchShape, Multigrid
from vidseg.clips.multigrid import phase_shape

PUBLISHED = json.loads((Path(__file__).parent / "golden/multigrid.json").read_text())


def test_published_shapes():
    for clips, frames, size, long, short, *expected, rate in PUBLISHED["shape_table"]["rows"]:
        shape = phase_shape(BatchShape(clips, frames, size, size), long=long, short=short)
        assert [shape.clips, shape.frames, shape.height, shape.width] == expected
        schedule = Multigrid(200 * clips, batch_size=clips, frames=frames, size=size)
        indices = [index for index, phase in enumerate(schedule.phases) if phase == (long, short)]
        assert indices
        for index in indices:
            assert schedule.shapes(0)[index] == shape and schedule.lr_factor(0, index) == rate


@pytest.mark.parametrize("case", PUBLISHED["cases"], ids=lambda case: f"{case['train_videos']} videos")
def test_published_order_of_shapes(case):
    """Each long phase goes through the short cycle as the published program intended."""
    schedule = Multigrid(case["train_videos"], batch_size=case["batch"], frames=case["frames"], size=case["size"])
    shapes = schedule.shapes(0)
    intended = case["intended"][: case["iterations_per_epoch"]]
    for index, (_, long, short, *shape, _) in enumerate(intended):
        assert short == index % 3
        assert [long, short] in [list(phase) for phase in schedule.phases]
        mine = shapes[schedule.phases.index((long, short))]
        assert [mine.clips, mine.frames, mine.height, mine.width] == shape
    # Their rates come one iteration early: each belongs to the phase of the next batch.
    for row, following in pairwise(intended):
        assert row[-1] == schedule.lr_factor(0, [long for long, _ in schedule.phases].index(following[1]))
    assert [schedule.lr_factor(1, schedule.phases.index((long, 0))) for long in range(4)] == [1, 0.5, 0.25, 0.125]


def test_sides_apart_and_odd():
    assert phase_shape(BatchShape(4, 16, 112, 224), long=0, short=2) == BatchShape(128, 4, 40, 80)
    assert phase_shape(BatchShape(4, 3, 113, 113)) == BatchShape(4, 3, 113, 113)
    assert phase_shape(BatchShape(4, 3, 113, 113), long=0) == BatchShape(32, 1, 80, 80)


@settings(deadline=None)
@given(
    clips=st.integers(1, 30_000),
    batch=st.integers(1, 40),
    long_cycles=st.booleans(),
    short_cycles=st.booleans(),
)
def test_a_pass_covers_the_data(clips, batch, long_cycles, short_cycles):
    options = {"batch_size": batch, "frames": 16, "size": 224, "long_cycles": long_cycles, "short_cycles": short_cycles}
    if long_cycles and clips < 49 * batch:
        if clips < 15 * batch:
            with pytest.raises(ValueError, match="too few"):
                Multigrid(clips, **options)
        return
    schedule = Multigrid(clips, **options)
    shapes = schedule.shapes(0)
    used = sum(shape.clips for shape in shapes)
    assert clips - used < batch if clips >= batch else shapes == (BatchShape(batch, 16, 224, 224),)
    assert used <= max(clips, batch)
    assert schedule.shapes(7) == shapes
    longs = [long for long, _ in schedule.phases]
    assert longs == sorted(longs)
    rates = [schedule.lr_factor(0, index) for index in range(len(shapes))]
    if long_cycles:
        assert rates == [0.5**long for long in longs]
        counts = [longs.count(long) for long in range(4)]
        assert min(counts) >= 1 and max(counts[:3]) - min(counts[:3]) <= 2
    else:
        assert set(longs) == {3} and set(rates) == {1}
    if not short_cycles:
        assert {short for _, short in schedule.phases} == {0}
    if not long_cycles and not short_cycles:
        assert set(shapes) == {BatchShape(batch, 16, 224, 224)}


def test_the_phases_share_the_epoch():
    schedule = Multigrid(9600, batch_size=8, frames=16, size=224)
    counts = [[long for long, _ in schedule.phases].count(phase) for phase in range(4)]
    assert sum(counts) == pytest.approx(9600 / 8 / 8.75, rel=0.03)
    assert max(counts) - min(counts) <= 2
    assert sum(shape.clips for shape in schedule.shapes(0)) == 9600


def test_no_such_batch():
    schedule = Multigrid(1000, batch_size=8, frames=16, size=112)
    with pytest.raises(IndexError, match=f"the number of batches of epoch 0 is {len(schedule.phases)}"):
        schedule.lr_factor(0, len(schedule.phases))
    with pytest.raises(ValueError, match="at least 1"):
        Multigrid(1000, batch_size=0, frames=16, size=112)
