"""Copies of batches to a device: what a consumer reads, order, resuming, errors, and what runs beside what."""

import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from clip_data import clip_dataset
from late_device import META, LateStream, PageLockedMemory
from test_loader_features import feature_dataset
from torch import Tensor

from vidseg import ClipLoader, open_videos
from vidseg.clips.stream_windows import WindowShape
from vidseg.engine import Task, Trainer, trainer
from vidseg.engine.distributed import process_device
from vidseg.loaders import FeatureLoader, StreamLoader
from vidseg.loaders.batch import FieldAccess
from vidseg.loaders.memory import BatchMemory
from vidseg.loaders.output import MEAN, STD, OutputForm, PixelNormalizer
from vidseg.loaders.transfer import CudaCopyStream, DevicePrefetcher, copy_ahead

SLOW = 200_000_000  # clock cycles, about 0.1 s


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return clip_dataset(tmp_path_factory.mktemp("transfer"))


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return feature_dataset(tmp_path_factory.mktemp("transfer_features"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory, make_video):
    folder = tmp_path_factory.mktemp("transfer_videos")
    for number in range(4):
        make_video(folder / f"a/v{number}.mp4", frames=8 + number, size=(48, 64))
    return open_videos(folder)


@dataclass(frozen=True)
class Numbers(FieldAccess):
    """A batch that holds one number."""

    number: Tensor


def clips(data, **options):
    return ClipLoader(data, **{"frames": 3, "size": 24, "batch_size": 4, "seed": 5, "threads": 1} | options)


def streams(data, **options):
    labels = [np.arange(int(count)) % 3 for count in data.frames]
    return StreamLoader(
        data, WindowShape(4, 2, 2), **{"labels": labels, "size": 16, "group": 3, "seed": 5, "threads": 1} | options
    )


def invert(frames):
    return 255 - frames


def halve(frames):
    return torch.from_numpy(frames).float() / 2


LOADERS = {
    "clips": (clips, "data", {"augment": "hmdb51"}),
    "clips in half precision": (clips, "data", {"dtype": "float16", "color": "bgr", "layout": "btchw"}),
    "pixels": (clips, "data", {"dtype": "uint8", "layout": "bthwc"}),
    "transformed pixels": (clips, "data", {"transform": invert, "mean": None}),
    "transformed samples": (clips, "data", {"transform": halve, "color": "bgr"}),
    "targets": (clips, "data", {"target": lambda video: torch.tensor(video.label)}),
    "videos": (clips, "videos", {"backend": "video", "batch_size": 2}),
    "streams": (streams, "data", {"dtype": "bfloat16"}),
    "features": (FeatureLoader, "features", {"batch_size": 2}),
}


def late(monkeypatch, **options) -> LateStream:
    memory = PageLockedMemory().install(monkeypatch)
    return LateStream(memory, **options).install(monkeypatch)


def equal(one, other) -> bool:
    pairs = zip(one.values(), other.values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


@pytest.mark.parametrize("name", LOADERS)
def test_every_loader_gives_a_device_the_batches_of_the_host(name, request, monkeypatch):
    make, fixture, options = LOADERS[name]
    source = request.getfixturevalue(fixture)
    expected = list(make(source, pin=False, **options))
    stream = late(monkeypatch)
    with_device = make(source, pin=True, device="meta", **options)
    copied = list(with_device)
    assert len(copied) == len(expected) > 1
    assert all(equal(one, other) for one, other in zip(copied, expected, strict=True))
    moved = sum(len(batch.tensors) for batch in expected)
    assert len(stream.types) == len(stream.kept) == moved  # all are kept for the consumer's stream
    floats = {kind for kind in stream.types if kind.is_floating_point}
    assert floats == ({torch.float32} if name in ("features", "transformed samples") else set())  # pixels are bytes
    with_device.set_device(None)
    with_device.set_epoch(0)
    assert equal(next(iter(with_device)), expected[0]) and len(stream.kept) == moved


def test_a_consumer_that_does_not_wait_reads_other_values(data, monkeypatch):
    """The fake device finds what it is for."""
    expected = list(clips(data, pin=False))
    late(monkeypatch, waits=False)
    assert not any(equal(a, b) for a, b in zip(clips(data, pin=True, device="meta"), expected, strict=True))


@pytest.mark.parametrize("counts_copies", [True, False])
def test_a_page_locked_block_is_not_reused_while_a_slow_copy_reads_it(monkeypatch, counts_copies):
    """With blocks that are free as soon as Python drops their tensor, batches are damaged."""
    memory = PageLockedMemory(counts_copies=counts_copies).install(monkeypatch)
    stream = LateStream(memory, slow=2).install(monkeypatch)
    blocks = BatchMemory(pin=True)

    def made():
        for number in range(12):
            yield Numbers(blocks.empty((32, 32), torch.uint8).fill_(number))

    copied = [batch for batch, _ in DevicePrefetcher(made(), count=12, device=META)]
    stream.finish()
    damaged = [number for number, batch in enumerate(copied) if not bool((batch.number == number).all())]
    assert bool(damaged) is not counts_copies


def test_the_position_is_that_of_the_batches_that_were_yielded(data, features, monkeypatch):
    late(monkeypatch)
    for make in (
        lambda: clips(data, device="meta", batch_size=2),
        lambda: streams(data, device="meta"),
        lambda: FeatureLoader(features, device="meta"),
    ):
        whole = list(make())
        loader = make()
        iterator = iter(loader)
        for _ in range(2):
            next(iterator)
        time.sleep(0.02)  # the thread has copied the third batch
        state = loader.state_dict()
        iterator.close()
        resumed = make()
        resumed.load_state_dict(state)
        rest = list(resumed)
        assert len(rest) == len(whole) - 2 > 0
        assert all(equal(one, other) for one, other in zip(rest, whole[2:], strict=True))
        assert resumed.state_dict()["epoch"] == 1


def test_one_batch_is_copied_ahead(monkeypatch):
    late(monkeypatch)
    taken = []

    def made():
        for number in range(6):
            taken.append(number)
            yield Numbers(torch.full((4,), number))

    for number, (batch, waited) in enumerate(DevicePrefetcher(made(), count=6, device=META)):
        assert batch.number.tolist() == [number] * 4 and waited >= 0
        deadline = time.monotonic() + 5
        while len(taken) < min(6, number + 2) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.005)
        assert taken == list(range(min(6, number + 2)))


def test_an_error_comes_after_the_batches_before_it(monkeypatch):
    late(monkeypatch)

    def made():
        yield from (Numbers(torch.full((1,), number)) for number in range(3))
        raise OSError("the disk is gone")

    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        for batch, _ in DevicePrefetcher(made(), count=9, device=META):
            seen.append(int(batch.number))
    assert seen == [0, 1, 2]


def test_an_error_of_a_copy_ends_both_threads(data, monkeypatch):
    stream = late(monkeypatch)

    def copy(tensor):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stream, "copy", copy)
    before = set(threading.enumerate())
    with pytest.raises(torch.OutOfMemoryError):
        next(iter(clips(data, device="meta")))
    assert set(threading.enumerate()) <= before


def test_what_makes_the_batches_is_ended_before_the_first_one(monkeypatch):
    late(monkeypatch)
    ended = []
    empty = DevicePrefetcher(iter([]), count=0, device=META, cancel=lambda: ended.append(True))
    assert list(empty) == [] and ended


@pytest.mark.parametrize("make", [clips, streams, FeatureLoader])
def test_leaving_early_ends_the_threads(make, data, features, monkeypatch):
    late(monkeypatch)
    before = set(threading.enumerate())
    # The device holds two batches at most. Only while more are to come, the thread that copies them is certain to live.
    few = {"group": 1} if make is streams else {"batch_size": 1}
    loader = make(features if make is FeatureLoader else data, device="meta", **few)
    assert len(loader) > 3
    for _ in loader:
        break
    assert set(threading.enumerate()) <= before
    iterator = iter(loader)
    next(iterator)
    assert set(threading.enumerate()) > before
    iterator.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("layout", ["bcthw", "btchw", "bthwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_normalized_pixels_have_the_bits_of_the_host(layout, dtype, color):
    pixels = torch.arange(256, dtype=torch.uint8).repeat(6).view(1, 2, 4, 64, 3)
    for mean, std in ((MEAN, STD), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), (None, None)):
        form = OutputForm(dtype=dtype, layout=layout, color=color, mean=mean, std=std)
        normalize = PixelNormalizer(form)
        for _ in range(2):
            found = normalize(form.as_pixels.from_pixels(pixels))
            assert found.dtype is dtype and found.is_contiguous()
            assert torch.equal(found, form.from_pixels(pixels))
    samples = form.from_pixels(pixels)
    assert normalize(samples) is samples or dtype is torch.uint8


def test_loaders_without_a_device_get_that_of_the_model(data, monkeypatch):
    late(monkeypatch)
    loader = clips(data)
    copy_ahead(loader, torch.device("cpu"))
    assert loader.device is None
    copy_ahead(loader, META)
    assert loader.device == META
    copy_ahead(loader, torch.device("cuda", 3))  # one that it has is kept
    assert loader.device == META
    copy_ahead([], META)
    with pytest.raises(ValueError, match="device='gpu' is not the name of a device"):
        loader.set_device("gpu")


def test_a_trainer_gives_its_device_to_its_loaders(monkeypatch):
    seen = []
    monkeypatch.setattr(trainer, "copy_ahead", lambda loader, device: seen.append((loader, device)))
    batches, others = [Numbers(torch.zeros(1))], [Numbers(torch.ones(1))]
    Trainer(torch.nn.Linear(1, 1), batches, task=Task(), validation=others, device="cpu")
    assert seen == [(batches, torch.device("cpu")), (others, torch.device("cpu"))]


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.cuda
@needs_cuda
def test_a_page_locked_block_is_not_overwritten_while_its_copy_is_queued():
    memory = BatchMemory(pin=True)
    memory.empty((64 << 20,), torch.uint8)
    for _ in range(5):
        block = memory.empty((64 << 20,), torch.uint8).fill_(1)
        torch.cuda._sleep(SLOW)  # the stream is busy with the batch before
        copied = block.to("cuda", non_blocking=True)
        del block
        memory.empty((64 << 20,), torch.uint8).fill_(2)
        assert bool((copied == 1).all())


@pytest.mark.cuda
@needs_cuda
def test_copies_overlap_with_the_kernels_of_the_consumer():
    device = torch.device("cuda", torch.cuda.current_device())
    stream = CudaCopyStream(device)
    source = torch.full((64 << 20,), 3, dtype=torch.uint8).pin_memory()
    stream.copy(source)
    torch.cuda.synchronize()
    torch.cuda._sleep(5 * SLOW)
    busy = torch.cuda.Event()
    busy.record()
    copied = stream.copy(source)
    event = stream.record()
    event.synchronize()
    assert not busy.query()  # the copy has ended, the kernel before it on the consumer's stream has not
    stream.hand_over(event, [copied])
    assert int(copied.sum(dtype=torch.int64)) == 3 * len(source)


@pytest.mark.cuda
@needs_cuda
def test_a_consumer_on_a_busy_stream_reads_its_own_batch():
    """Kernels are late by several batches, so that early reuse of host or device memory would show."""
    device = torch.device("cuda", torch.cuda.current_device())
    memory = BatchMemory(pin=True)

    def made():
        for number in range(24):
            yield Numbers(memory.empty((8 << 20,), torch.uint8).fill_(number))

    totals = []
    for batch, _ in DevicePrefetcher(made(), count=24, device=device):
        torch.cuda._sleep(SLOW // 10)
        totals.append(batch.number.sum(dtype=torch.int64))
    assert [int(total) for total in totals] == [number * (8 << 20) for number in range(24)]


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("name", LOADERS)
def test_every_loader_gives_a_gpu_the_batches_of_the_host(name, request):
    make, fixture, options = LOADERS[name]
    source = request.getfixturevalue(fixture)
    expected, loader = list(make(source, **options)), make(source, device="cuda", **options)
    for _ in range(3):
        loader.set_epoch(0)
        for one, other in zip(loader, expected, strict=True):
            torch.cuda._sleep(SLOW // 100)
            assert one.inputs.is_cuda and one.labels.is_cuda and equal(one.to("cpu"), other)


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs 2 CUDA devices")
def test_events_are_those_of_a_device_that_is_not_the_first():
    before = torch.cuda.current_device()
    try:
        device = process_device("cuda:1")
        torch.cuda._sleep(5 * SLOW)
        event = torch.Event(device)
        event.record()  # as the trainer and its SpeedMonitor do
        assert not event.query()
    finally:
        torch.cuda.set_device(before)
