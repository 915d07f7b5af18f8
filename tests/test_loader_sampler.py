"""ClipLoader(sampler=...): the user's order of videos, a function of seed and epoch, over ranks and interruptions."""

import random

import numpy as np
import pytest
import torch
from clip_data import clip_dataset
from torch.utils.data import BatchSampler, DistributedSampler, RandomSampler, SequentialSampler, WeightedRandomSampler

from vidseg import ClipLoader
from vidseg.clips import BatchShape
from vidseg.clips.sampler_order import count_repeats
from vidseg.labels import VideoDataset


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> VideoDataset:
    return clip_dataset(tmp_path_factory.mktemp("sampler"))


def make(data, sampler, **options) -> ClipLoader:
    defaults = {"frames": 3, "size": 24, "batch_size": 2, "seed": 5, "dtype": "uint8"}
    return ClipLoader(data, sampler=sampler, **{**defaults, **options})


def order(loader) -> list[int]:
    return [number for index in range(len(loader)) for number in loader.plan(loader.epoch, index).videos.tolist()]


class ByEpoch:
    """A sampler of the user's that depends on the epoch alone."""

    def __init__(self, count):
        self.count, self.epoch = count, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(range(self.epoch, self.epoch + self.count))


@pytest.mark.parametrize("indices", [[4, 1, 1, 7], np.array([4, 1, 1, 7]), torch.tensor([4, 1, 1, 7])])
def test_batches_follow_the_sampler(data, indices):
    loader = make(data, indices)
    assert len(loader) == 2 and order(loader) == [4, 1, 1, 7]
    assert torch.cat([batch.numbers for batch in loader]).tolist() == [4, 1, 1, 7]
    assert loader.epoch == 1 and order(loader) == [4, 1, 1, 7]
    assert order(make(data, ByEpoch(4))) == [0, 1, 2, 3]
    later = make(data, ByEpoch(4))
    later.set_epoch(3)
    assert order(later) == [3, 4, 5, 6]


@pytest.mark.parametrize(
    "sampler",
    [
        lambda data: RandomSampler(data),
        lambda data: RandomSampler(data, generator=torch.Generator().manual_seed(8)),
        lambda data: WeightedRandomSampler([1.0] * len(data), 20),
    ],
)
def test_random_samplers_depend_on_seed_and_epoch_alone(data, sampler):
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    loader = make(data, sampler(data))
    first = order(loader)
    loader.set_epoch(1)
    second = order(loader)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    torch.manual_seed(2)
    other = make(data, sampler(data))
    other.set_epoch(1)
    assert order(other) == second != first
    other.set_epoch(0)
    assert order(other) == first != order(make(data, sampler(data), seed=6))


def test_the_samplers_generator_keeps_its_state(data):
    generator = torch.Generator().manual_seed(8)
    make(data, RandomSampler(data, generator=generator))
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(8).get_state())


def test_repeats_draw_other_crops_and_transforms(data):
    (batch,) = make(data, [2, 2, 2], batch_size=3, augment="hmdb51")
    assert batch.plan.repeats.tolist() == [0, 1, 2]
    assert len({clip.numpy().tobytes() for clip in batch.frames}) == 3
    everything = {number: batch.frames[0] for batch in make(data, None, batch_size=1, augment="hmdb51")
                  for number in batch.numbers.tolist()}  # fmt: skip
    assert torch.equal(batch.frames[0], everything[2])  # the first time as without a sampler
    seeds = []

    def keep(frames, generator):
        seeds.append(generator.integers(2**62))
        return frames

    list(make(data, [2, 2, 2], batch_size=3, transform=keep))
    assert len(set(seeds)) == 3
    assert count_repeats(np.array([5, 3, 5, 5, 3])).tolist() == [0, 0, 1, 2, 1]


def test_ranks_share_each_batch(data):
    sampler = [6, 1, 0, 3, 3, 2]
    parts = [make(data, sampler, rank=rank, world_size=2) for rank in range(2)]
    assert [order(part) for part in parts] == [[6, 0, 3], [1, 3, 2]]
    whole = list(make(data, sampler))
    for rank, part in enumerate(parts):
        for index, batch in enumerate(part):
            assert torch.equal(batch.frames, whole[index].frames[rank::2])


def test_views_of_a_video_stay_together(data):
    loader = make(data, [3, 1], train=False, sampling="clips", batch_size=20)
    plan = loader.plan(0, 0)
    assert plan.videos.tolist() == [3] * 10 + [1] * 10 and plan.views.tolist() == [*range(10)] * 2


def test_shapes_take_their_clips_from_the_sampler(data):
    shapes = [BatchShape(4, 2, 16, 16), BatchShape(2, 3, 24, 24), BatchShape(9, 2, 16, 16)]
    loader = make(data, [0, 1, 2, 3, 4, 5, 6], shapes=lambda epoch: shapes)
    assert [tuple(batch.frames.shape) for batch in loader] == [(4, 3, 2, 16, 16), (2, 3, 3, 24, 24)]


def test_resuming_gives_the_remaining_batches(data):
    sampler = WeightedRandomSampler([1.0] * len(data), 9)
    loader = make(data, sampler)
    loader.set_epoch(2)
    expected = [batch.frames.clone() for batch in loader]
    interrupted = make(data, WeightedRandomSampler([1.0] * len(data), 9))
    interrupted.set_epoch(2)
    iterator = iter(interrupted)
    next(iterator)
    state = interrupted.state_dict()
    iterator.close()
    resumed = make(data, WeightedRandomSampler([1.0] * len(data), 9))
    resumed.load_state_dict(state)
    got = [batch.frames for batch in resumed]
    assert len(got) == len(expected) - 1
    assert all(torch.equal(a, b) for a, b in zip(got, expected[1:], strict=True))


def test_resuming_with_another_order_is_refused(data):
    state = make(data, [1, 2, 3, 4]).state_dict()
    for other in ([4, 3, 2, 1], None):
        with pytest.raises(ValueError, match="resuming needs the same sampler"):
            make(data, other).load_state_dict(state)
    with pytest.raises(ValueError, match="resuming needs the same sampler"):
        make(data, [1, 2, 3, 4]).load_state_dict(make(data, None).state_dict())

    class Stateful:
        turn = 0

        def __iter__(self):
            self.turn += 1
            return iter([self.turn % 8, 0])

    with pytest.raises(ValueError, match="sampler's order of epoch 0"):
        make(data, Stateful()).load_state_dict(make(data, Stateful()).state_dict() | {"order": "0"})


@pytest.mark.parametrize(
    ("sampler", "error", "message"),
    [
        (iter([1, 2]), TypeError, "is an iterator"),
        (3, TypeError, "not iterable"),
        ([0, 1.5], TypeError, r"yields 1\.5"),
        (BatchSampler(SequentialSampler(range(4)), 2, drop_last=False), TypeError, r"yields \[0, 1\].*makes the batch"),
        ([], ValueError, "yields no video for epoch 0"),
        ([0, 8], ValueError, "yields video 8; the data set has videos 0 to 7"),
        ([-1], ValueError, "yields video -1"),
        (DistributedSampler(range(8), num_replicas=2, rank=0), ValueError, "divides the videos among processes"),
    ],
)
def test_samplers_that_give_no_order_are_refused(data, sampler, error, message):
    with pytest.raises(error, match=message):
        make(data, sampler)
