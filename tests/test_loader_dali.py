"""The DALI backend: the native backend's batches within the stated tolerance, whatever the shape and form; damage."""

import contextlib
import dataclasses
import multiprocessing
import pickle
import sqlite3
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vidseg import ClipLoader
from vidseg.clips import BatchPlan, ColorPlan
from vidseg.clips.operations import color_code
from vidseg.frames import FrameDatabaseError, FrameWriter, encode_rgb
from vidseg.labels import open_dataset, scan_catalog
from vidseg.loaders.dali_backend import TOLERANCE, DaliFiller, choose_sources
from vidseg.loaders.native_backend import NativeFiller
from vidseg.loaders.output import OutputForm

HEIGHT, WIDTH, FRAMES = 96, 136, 12
BYTES = OutputForm(dtype=torch.uint8, layout="bthwc")


def write_database(path, seed: int, *, levels: int) -> None:
    """Soft random patches under fine noise, drifting."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(30, 220, (1, 3, HEIGHT // 16, WIDTH // 16)))
    patches = F.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic")[0].permute(1, 2, 0).numpy()
    patches += rng.normal(0, 4, patches.shape)
    with FrameWriter(path, levels=levels) as writer:
        for number in range(FRAMES):
            pixels = np.ascontiguousarray(np.roll(patches, 2 * number, axis=1).clip(0, 255), np.uint8)
            full, *copies = encode_rgb(torch.from_numpy(pixels), levels=levels)
            writer.add(full, width=WIDTH, levels=copies)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("dali")
    for number in range(3):
        write_database(root / f"jpg/patches/video{number}/frames.db", number, levels=2)
    write_database(root / "jpg/plain/video3/frames.db", 3, levels=0)
    scan_catalog(root)
    return root


@pytest.fixture(scope="module")
def data(root):
    pytest.importorskip("nvidia.dali")
    return open_dataset(root)


def crop(box: tuple[float, ...], height: int, width: int) -> np.ndarray:
    """The matrix of a crop (left, top, width, height), negative sizes mirror."""
    left, top, across, down = box
    return np.array([[across / width, 0, left], [0, down / height, top], [0, 0, 1.0]])


def make_plan(matrices, height: int, width: int, *, videos=None, frames=(0, 3, 5)) -> BatchPlan:
    clips = len(matrices)
    videos = np.arange(clips) % 3 if videos is None else np.array(videos)
    numbers = (np.arange(clips)[:, None] + np.array(frames)) % FRAMES
    zeros = np.zeros(clips, np.int64)
    return BatchPlan(0, 0, height, width, videos, zeros, zeros, numbers, np.stack(matrices), ColorPlan.none(clips))


def distances(one: torch.Tensor, other: torch.Tensor) -> list[float]:
    """Mean absolute difference of each clip."""
    return (one.double() - other.double()).abs().flatten(1).mean(1).tolist()


@pytest.fixture(scope="module")
def fillers(data):
    dali, native = DaliFiller(data, BYTES, threads=2, device="cpu"), NativeFiller(data, BYTES, threads=2)
    yield dali, native
    dali.close()
    native.close()


BOXES = [(10, 5, 100, 80), (0, 0, WIDTH, HEIGHT), (30.5, 20.25, 40, 33), (130, 90, -90, -60), (60, 90, 64, -64)]


@pytest.mark.parametrize("height, width", [(64, 64), (20, 30), (100, 90), (64, 64)])
def test_crops_and_mirrors(fillers, height, width):
    plan = make_plan([crop(box, height, width) for box in BOXES], height, width)
    (frames, shown), (expected, _) = (filler.fill(plan) for filler in fillers)
    assert frames.shape == (len(BOXES), 3, height, width, 3)
    assert torch.equal(shown, torch.from_numpy(plan.frames))
    assert max(distances(frames, expected)) < TOLERANCE
    assert min(distances(frames, expected.roll(1, 0))) > 10  # the clips do differ


def test_pixels_that_need_no_resampling_are_those_of_the_jpeg(fillers):
    plan = make_plan([crop((17, 9, 64, 48), 48, 64)], 48, 64)
    (frames, _), (expected, _) = (filler.fill(plan) for filler in fillers)
    assert torch.equal(frames, expected)


def turned(height: int, width: int, angle: float, scale: float, tilt: float) -> np.ndarray:
    """A rotation about the center of the frame, with perspective."""
    center = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    back = np.array([[cos, -sin, WIDTH / 2], [sin, cos, HEIGHT / 2], [0, 0, 1]])
    return back @ np.array([[1, 0, 0], [0, 1, 0], [tilt, 0, 1]]) @ center


def test_rotations_and_perspectives_beside_crops(fillers):
    matrices = [turned(40, 50, 0.2, 1.0, 0.0), crop(BOXES[0], 40, 50), turned(40, 50, -0.3, 1.7, 0.001)]
    matrices += [turned(40, 50, 0.1, 2.6, 0.0), crop((-20, -10, 80, 60), 40, 50)]  # beyond the frame: black
    plan = make_plan(matrices, 40, 50)
    (frames, _), (expected, _) = (filler.fill(plan) for filler in fillers)
    assert max(distances(frames[:4], expected[:4])) < TOLERANCE
    # the frame begins at row 40 / 60 * 10 and column 50 / 80 * 20 of the last clip
    assert max(distances(frames[4:, :, 8:, 14:], expected[4:, :, 8:, 14:])) < TOLERANCE
    assert frames[4, :, :6].max() == 0 and frames[4, :, :, :12].max() == 0


def test_a_database_without_copies(fillers):
    plan = make_plan([crop(BOXES[1], 20, 28), turned(20, 28, 0.2, 4.5, 0.0)], 20, 28, videos=[3, 3])
    (frames, _), (expected, _) = (filler.fill(plan) for filler in fillers)
    assert max(distances(frames, expected)) < TOLERANCE


def test_clips_longer_than_a_chunk(fillers):
    plan = make_plan([crop(box, 16, 16) for box in BOXES[:2]], 16, 16, frames=range(300))
    (frames, _), (expected, _) = (filler.fill(plan) for filler in fillers)
    assert max(distances(frames, expected)) < TOLERANCE


@pytest.mark.parametrize("layout", ["bcthw", "bthwc"])
@pytest.mark.parametrize(
    "dtype, color",
    [(torch.float32, "rgb"), (torch.float16, "bgr"), (torch.bfloat16, "rgb"), (torch.uint8, "bgr")],
)
def test_every_form(data, dtype, color, layout):
    form = OutputForm(dtype=dtype, layout=layout, color=color, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    plan = make_plan([crop(box, 24, 32) for box in BOXES], 24, 32)
    dali, native = DaliFiller(data, form, threads=1, device="cpu"), NativeFiller(data, form, threads=1)
    frames, expected = dali.fill(plan)[0], native.fill(plan)[0]
    assert frames.dtype == dtype and frames.shape == expected.shape
    assert max(distances(frames, expected)) < TOLERANCE / (1 if dtype is torch.uint8 else 255 * 0.2)
    dali.close()


def colored(plan: BatchPlan, operations: list[list[tuple]]) -> BatchPlan:
    """The plan with operations (name, parameter, ...) for each clip."""
    flat = [operation for clip in operations for operation in clip]
    parameters = np.zeros((len(flat), 8))
    for row, (_, *values) in enumerate(flat):
        parameters[row, : len(values)] = values
    offsets = np.cumsum([0, *map(len, operations)])
    codes = np.array([color_code(name) for name, *_ in flat], np.int64)
    return dataclasses.replace(plan, colors=ColorPlan(offsets, codes, parameters))


def test_color_operations_in_their_order(fillers):
    operations = [
        [("add", 9.7, -4, 12), ("gamma", 0.8, 1.0, 1.3)],
        [("gaussian_blur", 0.6), ("multiply", 1.2, 0.8, 1), ("average_blur", 2)],
        [("linear_contrast", 0.9, 1.1, 1.115), ("enhance_color", 1.5), ("add", 3, 3, 3)],
        [("saturation", 0.4), ("brightness", 1.1), ("contrast", 0.7)],
        [("random_erasing", 3, 5, 11, 20, 124, 0, 255)],
        [("grayscale",)],
        [],
    ]
    for order in (operations, [clip[::-1] for clip in operations]):
        plan = colored(make_plan([crop(BOXES[0], 60, 70), *[crop((9, 9, 70, 60), 60, 70)] * 6], 60, 70), order)
        (frames, _), (expected, _) = (filler.fill(plan) for filler in fillers)
        assert max(distances(frames, expected)) < TOLERANCE
        plain = fillers[0].fill(colored(plan, [[]] * 7))[0]
        assert min(distances(frames[:6], plain[:6])) > 1.5 * TOLERANCE and torch.equal(frames[6], plain[6])


def test_an_operation_that_dali_does_not_have_is_named(fillers):
    plan = colored(make_plan([crop(BOXES[0], 60, 70)], 60, 70), [[("hue_saturation", 5, 5)]])
    with pytest.raises(NotImplementedError, match=r'hue_saturation.*use backend="native"'):
        fillers[0].fill(plan)


@pytest.fixture
def damaged(root, tmp_path):
    """The data set with frame 4 of the first video cut short and frame 7 missing."""
    pytest.importorskip("nvidia.dali")
    for number in range(2):
        write_database(tmp_path / f"jpg/patches/video{number}/frames.db", number, levels=0)
    scan_catalog(tmp_path)
    connection = sqlite3.connect(tmp_path / "jpg/patches/video0/frames.db")
    connection.execute("UPDATE Images SET frames = substr(frames, 1, 300) WHERE rowid = 5")
    connection.execute("DELETE FROM Images WHERE rowid = 8")
    connection.commit()
    connection.close()
    return open_dataset(tmp_path)


def test_damage_is_named(damaged):
    filler = DaliFiller(damaged, BYTES, threads=2, device="cpu")
    matrices = [crop(BOXES[0], 48, 56)] * 2
    with pytest.raises(FrameDatabaseError, match=r"video0/frames.db: frame 4: "):
        filler.fill(make_plan(matrices, 48, 56, frames=(3, 4, 5)))
    with pytest.raises(FrameDatabaseError, match=r"video0/frames.db: frame 7: "):
        filler.fill(make_plan(matrices, 48, 56, frames=(6, 7)))
    sound = make_plan(matrices, 48, 56, frames=(0, 1, 2))
    expected = NativeFiller(damaged, BYTES, threads=1).fill(sound)[0]
    assert max(distances(filler.fill(sound)[0], expected)) < TOLERANCE


def test_damage_is_replaced_by_a_neighbor(damaged):
    filler = DaliFiller(damaged, BYTES, threads=2, device="cpu", on_error="replace")
    plan = make_plan([crop(BOXES[0], 48, 56)] * 2, 48, 56, frames=(3, 4, 7))
    frames, shown = filler.fill(plan)
    assert shown.tolist() == [[3, 3, 6], [4, 5, 8]]
    expected = NativeFiller(damaged, BYTES, threads=1).fill(dataclasses.replace(plan, frames=shown.numpy()))[0]
    assert max(distances(frames, expected)) < TOLERANCE


def test_a_canceled_batch_leaves_nothing_behind(fillers):
    plan = make_plan([crop(box, 32, 32) for box in BOXES], 32, 32, frames=range(200))
    fillers[0].fill(plan, torch.ones(1, dtype=torch.uint8))
    (frames, _), (expected, _) = (filler.fill(plan) for filler in fillers)
    assert max(distances(frames, expected)) < TOLERANCE


def fill_elsewhere(filler, plan, queue) -> None:
    queue.put(filler.fill(plan)[0].sum().item())


def test_a_forked_process_and_a_pickled_copy_fill_too(data):
    filler, plan = DaliFiller(data, BYTES, threads=2, device="cpu"), make_plan([crop(BOXES[0], 32, 32)], 32, 32)
    expected = filler.fill(plan)[0].sum().item()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=fill_elsewhere, args=(filler, plan, queue))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join(timeout=60)
    assert process.exitcode == 0
    copy = pickle.loads(pickle.dumps(filler))  # what a spawned process gets
    assert [one.fill(plan)[0].sum().item() for one in (filler, copy)] == [expected, expected]


def test_the_clip_loader_has_the_same_batches_with_either_backend(data):
    options = {"frames": 3, "size": (40, 48), "batch_size": 2, "seed": 5, "dtype": torch.uint8}
    batches = {name: list(ClipLoader(data, backend=name, **options)) for name in ("dali", "native")}
    assert len(batches["dali"]) == 2
    for one, other in zip(batches["dali"], batches["native"], strict=True):
        assert one.plan == other.plan and torch.equal(one.labels, other.labels) and one.replaced == 0
        assert max(distances(one.frames.cpu(), other.frames)) < TOLERANCE


def test_without_dali_the_error_says_what_to_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(ImportError, match=r'pip install "vidseg\[dali\]"'):
        DaliFiller(open_dataset(root), BYTES, threads=1)


def test_the_smallest_copy_that_is_not_enlarged():
    plan = make_plan(
        [crop(box, 24, 34) for box in (BOXES[1], (0, 0, 68, 48), (0, 0, 67, 48), (10, 10, 20, 20))], 24, 34
    )
    sizes, levels = np.tile([HEIGHT, WIDTH], (4, 1)), np.array([2, 2, 2, 2])
    geometry = choose_sources(plan, sizes, levels)
    assert geometry.levels.tolist() == [2, 1, 0, 0] and not geometry.warped.any()
    assert geometry.windows[:3].tolist() == [[0, 0, 34, 24], [0, 0, 36, 26], [0, 0, 70, 51]]
    left, top, right, bottom = geometry.windows[3]
    assert (left, top) <= (8, 8) and right >= 32 and bottom >= 32
    assert choose_sources(plan, sizes, np.zeros(4, int)).levels.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "matrix, message",
    [
        (np.diag([0.0, 1.0, 1.0]), "to a line"),
        (np.diag([1.0, 1.0, 0.0]), "not finite"),
        (np.array([[1, 0, 0], [0, 1, 0], [-0.1, 0, 1.0]]), "at infinity"),
    ],
)
def test_matrices_that_show_no_picture(matrix, message):
    with pytest.raises(ValueError, match=message), np.errstate(all="ignore"):
        choose_sources(make_plan([matrix], 20, 20), np.array([[96, 136]]), np.array([0]))


def test_copies_from_a_gpu_pipeline_run_on_a_stream_of_their_own(data, monkeypatch):
    """As on a GPU, with a stream that records what happens; the pipeline itself runs on the CPU."""
    events, inside = [], []

    class Stream:
        def synchronize(self):
            events.append("wait for the own stream")

    @contextlib.contextmanager
    def current(stream):
        inside.append(stream)
        yield
        inside.pop()

    filler, plan = DaliFiller(data, BYTES, threads=1, device="cpu"), make_plan([crop(BOXES[0], 32, 32)], 32, 32)
    expected, _ = filler.fill(plan)
    feed, pipeline = filler._pipelines[False, 0]

    class Pipeline:
        def run(self, stream):
            events.append(("decode", stream is own, inside == [own]))
            return pipeline.run()

        def reset(self):
            pipeline.reset()

    own = filler._stream = Stream()
    filler._pipelines[False, 0] = feed, Pipeline()
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: pytest.fail("the consumer's stream is used"))
    frames, _ = filler.fill(plan)
    assert events == [("decode", True, True), "wait for the own stream"] and not inside
    assert torch.equal(frames, expected)
    filler.close()
