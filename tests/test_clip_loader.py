"""ClipLoader: the plans' batches in order, whatever threads, ranks, interruptions and processes."""

import gc
import multiprocessing
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_data import FRAMES, break_row, clip_dataset
from torch.utils.data import DataLoader, IterableDataset

from vidseg import ClipLoader
from vidseg.clips import BatchShape
from vidseg.frames import FrameDatabaseError
from vidseg.labels import VideoDataset
from vidseg.loaders.native_backend import NativeFiller


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> VideoDataset:
    videos = clip_dataset(tmp_path_factory.mktemp("loader"))
    return videos.subset([*range(8), *range(8), *range(5)])  # 21 videos


def make(data, **options) -> ClipLoader:
    defaults = {"frames": 3, "size": 24, "batch_size": 4, "seed": 5, "dtype": torch.uint8, "augment": "hmdb51"}
    return ClipLoader(data, **{**defaults, **options})


def frames_of(loader) -> list[torch.Tensor]:
    return [batch.frames.clone() for batch in loader]


def same(one, other) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def vidseg_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "vidseg-prefetch"]


def test_batches_are_their_plans(data):
    loader = make(data)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4] * 5 and len(loader) == 5
    filler = NativeFiller(data, loader.form, threads=1)
    for index, batch in enumerate(batches):
        plan = loader.plan(0, index)
        assert batch.plan == plan and torch.equal(batch.frames, filler.fill(plan)[0])
        assert batch.labels.tolist() == data.labels[plan.videos].tolist()
        assert batch.numbers.tolist() == plan.videos.tolist() and batch.valid.all()
        assert batch.fill_seconds > 0 and batch.wait_seconds >= 0
    assert len(set(np.concatenate([batch.plan.videos for batch in batches]).tolist())) == 20
    assert loader.stats.clips == 20 and loader.stats.frames == 60 and loader.stats.clips_per_second > 0


def test_evaluation_sees_every_video_once_in_order(data):
    batches = list(make(data, train=False, augment=None))
    assert torch.cat([batch.numbers for batch in batches]).tolist() == list(range(21))
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 1]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_change_nothing(data, threads):
    assert same(frames_of(make(data, threads=threads)), frames_of(make(data, threads=3, ahead_bytes=0)))


def test_an_iteration_is_an_epoch(data):
    loader = make(data)
    first, second = frames_of(loader), frames_of(loader)
    assert not same(first, second) and loader.epoch == 2
    loader.set_epoch(1)
    assert same(frames_of(loader), second)
    assert same(frames_of(make(data)), first) and not same(frames_of(make(data, seed=6)), first)


def test_ranks_share_the_batches_of_one(data):
    whole = list(make(data))
    parts = [list(make(data, rank=rank, world_size=2)) for rank in range(2)]
    assert [len(part) for part in parts] == [5, 5]
    for index, batch in enumerate(whole):
        for rank, part in enumerate(parts):
            assert torch.equal(part[index].frames, batch.frames[rank::2])


def test_ranks_pad_the_last_batch_of_an_evaluation(data):
    parts = [list(make(data, train=False, augment=None, rank=rank, world_size=2)) for rank in range(2)]
    assert [len(batch) for batch in parts[0]] == [len(batch) for batch in parts[1]]
    seen = torch.cat([batch.numbers[batch.valid] for part in parts for batch in part])
    assert sorted(seen.tolist()) == list(range(21))
    assert sum(int((~batch.valid).sum()) for part in parts for batch in part) == 1


@pytest.mark.parametrize("taken", [0, 1, 4, 5])
def test_resuming_gives_the_remaining_batches(data, taken):
    loader = make(data)
    frames_of(loader)  # epoch 0
    expected = frames_of(loader)  # epoch 1
    interrupted = make(data, threads=1)
    interrupted.set_epoch(1)
    iterator = iter(interrupted)
    for _ in range(taken):
        next(iterator)
    state = interrupted.state_dict()
    iterator.close()
    assert (state["epoch"], state["batch"]) == (1, taken)
    resumed = make(data, threads=4)
    resumed.load_state_dict(state)
    resumed.set_epoch(1)  # as a training loop does
    assert same(frames_of(resumed), expected[taken:])
    assert (resumed.epoch, resumed.state_dict()["batch"]) == (2, 0)


def test_skipped_batches_are_not_decoded(data, tmp_path):
    videos = clip_dataset(tmp_path, ["automatic"] * 6)
    loader = make(videos, batch_size=2, frames=2)
    order = [loader.plan(0, index).videos.tolist() for index in range(3)]
    for video in order[0]:
        videos[video].path.write_bytes(b"")
    loader.load_state_dict({**loader.state_dict(), "batch": 1, "clips": 2})
    assert [batch.numbers.tolist() for batch in loader] == order[1:]


def test_a_state_of_something_else_is_refused(data):
    state = make(data).state_dict()
    with pytest.raises(ValueError, match=r"seed 5 .* seed 6"):
        make(data, seed=6).load_state_dict(state)
    with pytest.raises(ValueError, match="data"):
        make(data.subset([1, 2, 3])).load_state_dict(state)
    with pytest.raises(ValueError, match="batch 99 of an epoch of 5"):
        make(data).load_state_dict({**state, "batch": 99})
    started = make(data, batch_size=2)
    next(iter(started))
    with pytest.raises(ValueError, match="is after 2 clips, and batch 1 of this loader is after 1"):
        make(data, batch_size=1).load_state_dict(started.state_dict())


def test_shapes_may_change_from_batch_to_batch(data):
    shapes = [BatchShape(8, 2, 16, 16), BatchShape(4, 2, 24, 20), BatchShape(9, 4, 32, 32)]
    loader = make(data, shapes=lambda epoch: shapes if epoch == 0 else shapes[:1] * 2)
    assert [tuple(batch.frames.shape) for batch in loader] == [(8, 3, 2, 16, 16), (4, 3, 2, 24, 20), (9, 3, 4, 32, 32)]
    assert [tuple(batch.frames.shape) for batch in loader] == [(8, 3, 2, 16, 16)] * 2


def test_leaving_early_ends_the_thread_at_once(data):
    before = threading.active_count()
    for batch in make(data, ahead_bytes=2**30):
        assert len(batch) == 4
        break
    gc.collect()
    assert threading.active_count() == before and not vidseg_threads()
    loader = make(data)
    iterator = iter(loader)
    next(iterator)
    loader.close()
    assert not vidseg_threads()
    with pytest.raises(RuntimeError, match="closed"):
        next(iterator)
    assert same(frames_of(loader), frames_of(make(data)))


def test_prefetched_batches_are_not_overwritten(data):
    one = 4 * 3 * 3 * 24 * 24
    loader = make(data, ahead_bytes=2 * one)
    made = []
    original = loader._make
    loader._make = lambda *arguments: made.append(arguments[1]) or original(*arguments)
    iterator = iter(loader)
    next(iterator)
    deadline = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # were there no limit, it would make a fourth now
    assert made == [0, 1, 2]
    iterator.close()


def test_two_loaders_at_once(data):
    expected = frames_of(make(data)), frames_of(make(data, seed=9))
    got: tuple[list, list] = ([], [])
    for one, other in zip(make(data), make(data, seed=9), strict=True):
        got[0].append(one.frames.clone())
        got[1].append(other.frames.clone())
    assert same(got[0], expected[0]) and same(got[1], expected[1])


def _send_sums(loader, queue):
    queue.put([int(batch.frames.long().sum()) for batch in loader])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_loader_works_in_another_process(data, method):
    loader = make(data)
    expected = [int(batch.frames.long().sum()) for batch in make(data)]
    running = iter(make(data))
    next(running)  # this process has threads and open files meanwhile
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_send_sums, args=(loader, queue))
    child.start()
    assert queue.get(timeout=120) == expected
    child.join(timeout=60)
    assert child.exitcode == 0
    assert len(list(running)) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_iterator_does_not_survive_a_fork(data):
    iterator = iter(make(data))
    next(iterator)
    child = os.fork()
    if child == 0:
        try:
            next(iterator)
        except RuntimeError as error:
            os._exit(0 if "fork" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(iterator)) == 4


class Clips(IterableDataset):
    """A user's data set around the loader: each worker takes its share."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        for batch in make(self.data, rank=worker.id, world_size=worker.num_workers, threads=1):
            yield batch.frames


def test_a_loader_works_in_the_workers_of_a_data_loader(data):
    got = list(DataLoader(Clips(data), batch_size=None, num_workers=2))
    expected = frames_of(make(data))
    assert len(got) == 10
    assert same([torch.stack(pair, 1).flatten(0, 1) for pair in zip(got[::2], got[1::2], strict=True)], expected)


def test_nothing_is_left_in_shared_memory(data):
    shared = Path("/dev/shm")
    before = set(shared.iterdir())
    list(make(data))
    left = {path.name for path in set(shared.iterdir()) - before}
    assert not [name for name in left if name.startswith(("vidseg", "torch", "psm"))]


def test_a_damaged_frame_stops_the_loop_or_is_counted(tmp_path, caplog):
    videos = clip_dataset(tmp_path, ["automatic", "gray"])
    break_row(videos[1].path, 2, b"broken")
    options = {"train": False, "augment": None, "frames": FRAMES, "interval": 1, "batch_size": 1}
    iterator = iter(make(videos, **options))
    next(iterator)
    with pytest.raises(FrameDatabaseError, match=r"1_gray/frames\.db: frame 1"):
        next(iterator)
    assert not vidseg_threads()
    loader = make(videos, on_error="replace", **options)
    assert [batch.replaced for batch in loader] == [0, 1]
    assert loader.stats.replaced == 1 and "1 damaged frames replaced" in str(loader.stats)
    assert "1_gray: damaged frames [1] show their neighbors [0]" in caplog.text


def test_a_cache_tells_its_hit_rate(data):
    loader = make(data, train=False, cache="decoded", cache_bytes=2**26)
    expected = frames_of(make(data, train=False))
    assert same(frames_of(loader), expected)
    assert loader.stats.cache.hit_rate == 0
    frames_of(loader)
    assert loader.stats.cache.hit_rate == 0.5 and "50.0% hits" in str(loader.stats)


def test_a_transform_sees_each_clip_with_its_own_generator(data):
    def darker(frames: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return (frames * random.uniform(0.2, 0.8)).astype(np.uint8)

    plain, changed = frames_of(make(data)), frames_of(make(data, transform=darker))
    assert same(changed, frames_of(make(data, transform=darker, threads=1)))
    factors = [
        (b.float().mean() / a.float().mean()).item()
        for x, y in zip(plain, changed, strict=True)
        for a, b in zip(x, y, strict=True)
    ]
    assert 0.15 < min(factors) < 0.4 and 0.6 < max(factors) < 0.85
    floats = frames_of(make(data, transform=lambda frames: frames, dtype=torch.float32, layout="bthwc", color="bgr"))
    expected = frames_of(make(data, dtype=torch.float32, layout="bthwc", color="bgr"))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(floats, expected, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads=0"),
        ({"ahead_bytes": -1}, "ahead_bytes=-1"),
        ({"cache": "pixels"}, "cache='pixels'"),
        ({"on_error": "skip"}, "on_error='skip'"),
        ({"backend": "magic"}, "backend='magic'"),
        ({"dtype": torch.int32}, "dtype=torch.int32"),
        ({"rank": 1}, "rank=1 and world_size=None"),
        ({"backend": "video", "cache_bytes": 5}, "only backend='native'"),
    ],
)
def test_bad_options_are_named(data, options, message):
    with pytest.raises(ValueError, match=message):
        make(data, **options)
