"""Clips of optical flow, motion vectors and residuals: vectors follow the geometry of their clip."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_data import break_row, crop, hand_plan, natural
from late_device import LateStream, PageLockedMemory
from PIL import Image

from vidseg import ClipLoader
from vidseg.clips import Geometry, Mirror, ResizeExact, Rotation, SegmentSampling
from vidseg.clips.augmentations import color_jitter
from vidseg.clips.stream_windows import WindowShape
from vidseg.clips.warps import perspective_matrices, rotation_matrices
from vidseg.frames import FlowDatabase, FlowForm, FlowWriter, FrameDatabaseError, FrameWriter, encode_rgb
from vidseg.labels import VideoRecord, open_dataset, update_catalog
from vidseg.loaders import ClipDataset, StreamLoader
from vidseg.loaders.field_backend import FieldFiller
from vidseg.loaders.native_backend import NativeFiller
from vidseg.loaders.output import OutputForm, PixelNormalizer
from vidseg.models import InputSpec

HEIGHT, WIDTH, FRAMES = 72, 104, 9
BOUND = 20.0
KINDS = ("smooth", "leveled", "constant", "zero")
CONSTANT = (38 * BOUND / 127, -19 * BOUND / 127)  # stored without error: 166 and 109


def smooth(seed, channels=2):
    """A field of -16 to 16 that changes little from pixel to pixel, float32 (C, H, W)."""
    coarse = np.random.default_rng(seed).uniform(-16, 16, (channels, 5, 6)).astype(np.float32)
    rows = [Image.fromarray(one).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for one in coarse]
    return torch.from_numpy(np.stack([np.asarray(row) for row in rows]).clip(-19, 19))


def field(kind, frame):
    if kind in ("constant", "zero"):
        value = CONSTANT if kind == "constant" else (0.0, 0.0)
        return torch.tensor(value).view(2, 1, 1).expand(2, HEIGHT, WIDTH).contiguous()
    return smooth(frame)


def write_fields(path, fields, **options):
    with FlowWriter(path, FlowForm(**{"quality": 100, "bound": BOUND, "levels": 0, **options})) as writer:
        for one in fields:
            writer.add_field(one)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("flow")
    records = []
    for number, kind in enumerate(KINDS):
        folder = root / "jpg" / "ab"[number % 2] / f"{number}_{kind}"
        with FrameWriter(folder / "frames.db") as writer:
            for frame in range(FRAMES):
                rgb = torch.from_numpy(natural(10 * number + frame, height=HEIGHT, width=WIDTH))
                writer.add(encode_rgb(rgb, 90)[0], width=WIDTH)
        levels = 2 if kind == "leveled" else 0
        fields = [field(kind, frame) for frame in range(FRAMES)]
        write_fields(folder / "flow.db", fields, levels=levels)
        write_fields(folder / "motion.db", [-one for one in fields], modality="motion")
        residuals = [smooth(50 + frame, 3) * 10 for frame in range(FRAMES)]
        write_fields(folder / "residual.db", residuals, modality="residual")
        records.append(
            VideoRecord(
                path=folder.relative_to(root).as_posix(),
                label="ab"[number % 2],
                frames=FRAMES,
                height=HEIGHT,
                width=WIDTH,
                fps=25.0,
                seconds=FRAMES / 25,
                size_bytes=(folder / "frames.db").stat().st_size,
            )
        )
    update_catalog(root, records)
    return root


@pytest.fixture(scope="module")
def data(root):
    return open_by_number(root)


@pytest.fixture
def copied(root, tmp_path):
    """A copy of the data set, to be damaged."""
    shutil.copytree(root, tmp_path / "copy")
    return open_by_number(tmp_path / "copy")


def open_by_number(root):
    data = open_dataset(root)
    return data.subset(sorted(range(len(data)), key=lambda index: int(data[index].name.partition("_")[0])))


def flow_path(data, video):
    return Path(data.root) / data.video_path(video) / "flow.db"


HALF = OutputForm(modality="flow")  # v / bound


def fill(data, plan, *, form=HALF, threads=2, **options):
    filler = NativeFiller(data, form, threads=threads, **options)
    try:
        return filler.fill(plan)[0]
    finally:
        filler.close()


def bilinear(image, x, y):
    """Values (H', W') of an image (H, W) at points, 0 outside."""
    x, y = x - 0.5, y - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    total = np.zeros(x.shape)
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = left + dx, top + dy
            inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
            share = (1 - abs(x - column)) * (1 - abs(y - row))
            total += np.where(inside, image[row.clip(0, HEIGHT - 1), column.clip(0, WIDTH - 1)], 0.0) * share
    return total


def place(matrix, x, y):
    points = matrix @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    return points[:2] / points[2]


def expected_vectors(stored, matrix, size):
    """The slow way: whole fields (T, 2, H, W), resampled; vectors moved by finite differences of the map."""
    height, width = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    across, along = abs(matrix[0, 0]), abs(matrix[1, 1])
    separable = matrix[0, 1] == matrix[1, 0] == matrix[2, 0] == matrix[2, 1] == 0
    values = np.zeros((len(stored), 2, height, width))
    for t in range(len(stored)):
        for c in range(2):
            image = stored[t, c].numpy()
            if separable:
                left = min(matrix[0, 2], matrix[0, 2] + matrix[0, 0] * width)
                box = (left, matrix[1, 2], left + across * width, matrix[1, 2] + along * height)
                shown = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box))
                values[t, c] = shown[:, ::-1] if matrix[0, 0] < 0 else shown
            else:
                values[t, c] = bilinear(image, *place(matrix, x, y)).reshape(height, width)
    middle, step = np.array([width / 2, height / 2]), 1e-4
    moved = [
        (place(matrix, *(middle + step * axis)[:, None]) - place(matrix, *(middle - step * axis)[:, None]))[:, 0]
        for axis in np.eye(2)
    ]
    linear = np.linalg.inv(np.stack(moved, axis=1) / (2 * step))
    return torch.from_numpy(np.einsum("cd,tdhw->cthw", linear, values)), np.abs(linear).sum(axis=1).max()


def centered(matrix, *, scale=1.0, size):
    """A crop of the middle, seen through a warp of the whole frame."""
    return matrix @ crop(
        (WIDTH - size[1] * scale) / 2, (HEIGHT - size[0] * scale) / 2, size[1] * scale, size[0] * scale, size=size
    )


def warp(kind):
    heights, widths = np.array([HEIGHT]), np.array([WIDTH])
    if kind == "rotation":
        return rotation_matrices(np.array([17.0]), heights, widths)[0]
    corners = np.array([[[0.05, 0.02], [0.03, 0.08], [0.01, 0.04], [0.06, 0.0]]])
    return perspective_matrices(corners, heights, widths)[0]


MAPS = {
    "crop": (crop(13, 7, 48, 40, size=(40, 48)), (40, 48)),
    "mirrored crop": (crop(13, 7, 48, 40, size=(40, 48), mirror=True), (40, 48)),
    "enlarged": (crop(20, 11, 30, 22, size=(44, 60)), (44, 60)),
    "enlarged and mirrored": (crop(20.5, 11.25, 30, 20, size=(44, 64), mirror=True), (44, 64)),
    "shrunk": (crop(2, 3, 90, 60, size=(25, 33)), (25, 33)),
    "rotated": (centered(warp("rotation"), size=(40, 40)), (40, 40)),
    "rotated and enlarged": (centered(warp("rotation"), scale=0.5, size=(60, 60)), (60, 60)),
    "perspective": (centered(warp("perspective"), size=(HEIGHT, WIDTH)), (HEIGHT, WIDTH)),
}


@pytest.mark.parametrize("name", MAPS)
def test_vectors_equal_a_slow_computation(data, name):
    matrix, size = MAPS[name]
    frames = [0, 5, 2]
    expected, gain = expected_vectors(FlowDatabase(flow_path(data, 0)).flow(frames), matrix, size)
    plan = hand_plan([matrix], size=size, frames=frames)
    found = fill(data, plan)[0] * BOUND
    assert found.shape == (2, 3, *size)
    # A stored step is bound / 127 pixels; resampling rounds twice, and libjpeg halves a frame in its own way.
    steps = 2.5 if name == "shrunk" else 1.2
    assert (found - expected).abs().max() < steps * gain * BOUND / 127
    assert found.std() > 2


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (crop(0, 0, WIDTH, HEIGHT, size=(HEIGHT, WIDTH)), CONSTANT),
        (crop(0, 0, WIDTH, HEIGHT, size=(HEIGHT, WIDTH), mirror=True), (-CONSTANT[0], CONSTANT[1])),
        (crop(0, 0, WIDTH, HEIGHT, size=(2 * HEIGHT, WIDTH)), (CONSTANT[0], 2 * CONSTANT[1])),
        (crop(0, 0, WIDTH, HEIGHT, size=(HEIGHT, WIDTH // 2)), (CONSTANT[0] / 2, CONSTANT[1])),
        # The picture turns clockwise by 90 degrees: right becomes down, up becomes right.
        (np.array([[0, 1.0, 0], [-1, 0, HEIGHT], [0, 0, 1]]), (-CONSTANT[1], CONSTANT[0])),
    ],
    ids=["whole", "mirrored", "taller", "narrower", "turned"],
)
def test_a_constant_field_becomes_the_transformed_constant(data, matrix, expected):
    size = (HEIGHT, WIDTH) if matrix[0, 0] == 0 else (round(HEIGHT / matrix[1, 1]), round(WIDTH / abs(matrix[0, 0])))
    size = (WIDTH, HEIGHT) if matrix[0, 0] == 0 else size
    found = fill(data, hand_plan([matrix], size=size, videos=[2]))
    assert found[0, 0].unique().numel() == found[0, 1].unique().numel() == 1
    assert torch.allclose(found[0, :, 0, 0, 0] * BOUND, torch.tensor(expected), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8"])
def test_no_motion_is_exactly_zero_inside_and_outside_the_frame(data, dtype):
    outside = crop(-40, -30, 2 * WIDTH, 2 * HEIGHT, size=(50, 60))
    beyond = crop(2 * WIDTH, 0, 30, 30, size=(50, 60))
    turned = rotation_matrices(np.array([33.0]), np.array([50]), np.array([60]))[0] * 1.7
    turned[2] = [0, 0, 1]
    plan = hand_plan([outside, beyond, turned, crop(0, 0, 60, 50, size=(50, 60))], size=(50, 60), videos=[3] * 4)
    form = dataclasses.replace(HALF, dtype=getattr(torch, dtype))
    found = fill(data, plan, form=form)
    assert (found == (128 if dtype == "uint8" else 0)).all()
    residuals = OutputForm(modality="residual", dtype=form.dtype)
    assert (fill(data, plan.take([1]), form=residuals) == (128 if dtype == "uint8" else 0)).all()


def test_outside_the_frame_vectors_and_their_border_blend_to_zero(data):
    plan = hand_plan([crop(-8, 0, 16, 16, size=(16, 16))], size=(16, 16), videos=[2])
    found = fill(data, plan)[0, 0, 0] * BOUND
    assert (found[:, :8] == 0).all() and torch.allclose(found[:, 8:], torch.tensor(CONSTANT[0]))


def every_form():
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.uint8):
        for layout in ("bcthw", "btchw", "bthwc"):
            for stack in (1, 3):
                yield OutputForm(
                    modality="flow", dtype=dtype, layout=layout, stack=stack, mean=(0.4, 0.6, 0), std=(0.3, 0.2, 1)
                )


def several(frames=(0, 4, 1, 2, 3, 8)):
    matrices = [one for one, size in (MAPS[name] for name in ("crop", "mirrored crop", "rotated", "enlarged"))]
    return hand_plan(matrices, size=(40, 48), videos=[0, 1, 1, 0], frames=frames)


@pytest.mark.parametrize("form", list(every_form()), ids=lambda form: f"{form.dtype}-{form.layout}-{form.stack}")
def test_types_layouts_and_stacks(data, form):
    plan = several()
    samples = fill(data, plan)  # v / bound, (B, 2, T, H, W)
    found = fill(data, plan, form=form)
    assert found.shape == form.shape(*plan.shape)
    if form.dtype is torch.uint8:
        expected = (128 + 127 * samples).round().clamp(0, 255)
    else:
        mean, std = (torch.tensor(value[:2]).view(2, 1, 1, 1) for value in (form.mean, form.std))
        expected = (samples * 0.5 + 0.5 - mean) / std
    # channels x1, y1, x2, y2, ... of the frames of a stack
    channels = [expected[:, c, place :: form.stack] for place in range(form.stack) for c in range(2)]
    expected = torch.stack(channels, dim=1).permute(*("bcthw".index(axis) for axis in form.layout))
    near = {torch.uint8: 1, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[form.dtype]
    assert (found.float() - expected.float()).abs().max() <= near
    if form.dtype is torch.uint8:
        assert (found != expected.to(torch.uint8)).float().mean() < 0.01  # halves are rounded differently
    # The same bits when stored vectors are copied to a device and normalized there.
    pixels = fill(data, plan, form=form.as_pixels)
    assert pixels.dtype is torch.uint8
    assert torch.equal(PixelNormalizer(form)(pixels, plan), found)
    assert torch.equal(fill(data, plan, form=form, threads=1), found)


def test_portable_code_gives_the_same_bits(data, tmp_path):
    plan = several()
    for number, form in enumerate(every_form()):
        torch.save(fill(data, plan, form=form), tmp_path / f"{number}.pt")
    program = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); import test_loader_flow as t\n"
        "data, plan = t.open_by_number(sys.argv[2]), t.several()\n"
        "for number, form in enumerate(t.every_form()):\n"
        "    assert torch.equal(t.fill(data, plan, form=form), torch.load(f'{sys.argv[3]}/{number}.pt')), form\n"
    )
    here = str(Path(__file__).parent)
    environment = {**os.environ, "VIDSEG_SIMD": "baseline"}
    command = [sys.executable, "-c", program, here, str(data.root), str(tmp_path)]
    subprocess.run(command, check=True, env=environment, timeout=120)


def test_smaller_copies_give_the_same_vectors(data):
    plan = hand_plan([crop(0, 0, 96, 64, size=(16, 24))] * 2, size=(16, 24), videos=[0, 1])
    full, copied = fill(data, plan)
    assert not torch.equal(full, copied)
    assert (full - copied).abs().max() < 2 * 4 / 127 / 4  # vectors shrink by 4, copies are rounded once more


def test_residuals_are_resampled_and_not_turned(data):
    plan = hand_plan([crop(10, 4, 40, 30, size=(30, 40), mirror=True)], size=(30, 40))
    found = fill(data, plan, form=OutputForm(modality="residual"))[0, :, 0]
    path = flow_path(data, 0).with_name("residual.db")
    stored = FlowDatabase(path).residual([0])[0]
    assert torch.allclose(found * 255, stored[:, 4:34, 10:50].flip(2), atol=1e-3)
    swapped = fill(data, plan, form=OutputForm(modality="residual", color="bgr"))[0, :, 0]
    assert torch.equal(swapped, found.flip(0))


def loader(data, **options):
    settings = {"frames": 3, "interval": 1, "size": 32, "batch_size": 2, "threads": 2, "seed": 5, "modality": "flow"}
    return ClipLoader(data, **{**settings, **options})


def epochs(made, count=1):
    return [batch for _ in range(count) for batch in made]


WARPED = Geometry((Mirror(0.5), Rotation((-20, 20)), ResizeExact()))


def test_batches_do_not_depend_on_threads_ranks_or_the_place_of_resuming(data):
    whole = epochs(loader(data, geometry=WARPED))
    assert [tuple(batch.frames.shape) for batch in whole] == [(2, 2, 3, 32, 32)] * 2
    for one, other in zip(whole, epochs(loader(data, geometry=WARPED, threads=4)), strict=True):
        assert torch.equal(one.frames, other.frames)
    ranks = [epochs(loader(data, geometry=WARPED, rank=rank, world_size=2)) for rank in range(2)]
    for one, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(one.frames, torch.cat([part.frames for part in parts]))
    first = loader(data, geometry=WARPED)
    next(iter(first))
    second = loader(data, geometry=WARPED)
    second.load_state_dict(first.state_dict())
    assert torch.equal(next(iter(second)).frames, whole[1].frames)
    items = ClipDataset(data, modality="flow", frames=3, interval=1, size=32, seed=5, geometry=WARPED)
    sample = int(whole[0].numbers[0])
    assert torch.equal(items[sample]["frames"], whole[0].frames[0])


def test_colors_and_flow_of_the_same_clips(data):
    options = {"augment": "kinetics", "mean": {"rgb": (0.5, 0.4, 0.3)}, "std": {"rgb": (0.2, 0.2, 0.2)}}
    pairs = epochs(loader(data, modality=("rgb", "flow"), **options))
    colors = epochs(loader(data, modality="rgb", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), augment="kinetics"))
    flows = epochs(loader(data, augment="kinetics"))
    for pair, color, flow in zip(pairs, colors, flows, strict=True):
        assert list(pair.frames) == ["rgb", "flow"]
        assert torch.equal(pair.inputs, torch.cat([color.frames, flow.frames], dim=1))
        assert torch.equal(pair.frames["rgb"], color.frames) and torch.equal(pair.frames["flow"], flow.frames)
        assert (flow.plan.colors.offsets == 0).all() and np.array_equal(flow.plan.matrices, color.plan.matrices)
        moved = pair.to("meta").frames
        assert {name: tuple(one.shape) for name, one in moved.items()} == {
            "rgb": (2, 3, 3, 32, 32),
            "flow": (2, 2, 3, 32, 32),
        }
        assert moved["flow"].is_meta and "flow (2, 2, 3, 32, 32)" in repr(pair)
    assert any((color.plan.colors.offsets > 0).any() for color in colors)
    item = ClipDataset(data, modality=("rgb", "flow"), frames=3, interval=1, size=32, seed=5, augment="kinetics")
    number = int(flows[0].numbers[0])
    assert torch.equal(item[number]["frames"]["flow"], flows[0].frames[0])


def test_stacks_of_segments(data):
    options = {"frames": 2, "stack": 3, "train": False, "sampling": "segments"}
    (batch, _) = epochs(loader(data, **options))
    assert batch.frames.shape == (2, 6, 2, 32, 32) and batch.plan.frames.shape == (2, 6)
    assert (np.diff(batch.plan.frames.reshape(2, 2, 3), axis=2) == 1).all()
    single = epochs(loader(data, frames=6, train=False, sampling=SegmentSampling(consecutive=3)))[0]
    assert torch.equal(batch.frames, single.frames.unflatten(2, (2, 3)).movedim(3, 1).flatten(1, 2))
    pair = epochs(loader(data, modality=("rgb", "flow"), **options))[0]
    assert torch.equal(pair.frames["flow"], batch.frames)
    color = epochs(loader(data, modality="rgb", frames=6, train=False, sampling=SegmentSampling(consecutive=3)))[0]
    assert torch.equal(pair.frames["rgb"], color.frames[:, :, ::3])


def remove(data):
    flow_path(data, 1).unlink()


def shorten(data):
    write_fields(flow_path(data, 1), [field("smooth", frame) for frame in range(FRAMES - 1)])


def shrink(data):
    write_fields(flow_path(data, 1), [field("smooth", frame)[:, :-8] for frame in range(FRAMES)])


def widen(data):
    write_fields(flow_path(data, 1), [field("smooth", frame) for frame in range(FRAMES)], bound=15.0)


def exchange(data):
    shutil.copy(flow_path(data, 1).with_name("motion.db"), flow_path(data, 1))


def color(data):
    shutil.copy(flow_path(data, 1).with_name("frames.db"), flow_path(data, 1))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove, "video jpg/b/1_leveled has no flow.db; run `vidseg extract-flow"),
        (shorten, "has 8 frames, but the catalog has 9 for this video"),
        (shrink, "has frames of 104x64 pixels, but the catalog has 104x72"),
        (widen, "are uint8 with a bound of 15 pixels, those of .*0_smooth/flow.db are uint8 with 20"),
        (exchange, "holds 'motion', not 'flow'"),
        (color, "has no optical flow, motion vectors or residuals"),
    ],
)
def test_a_database_that_does_not_fit_is_named_or_replaced(copied, damage, said, caplog):
    damage(copied)
    with pytest.raises(FrameDatabaseError, match=said) as raised:
        epochs(loader(copied, train=False))
    assert str(flow_path(copied, 1)) in str(raised.value)
    batches = epochs(loader(copied, train=False, on_error="replace", modality=("rgb", "flow")))
    assert sum(batch.replaced for batch in batches) == 3
    assert torch.cat([batch.numbers for batch in batches]).tolist() == [0, 3, 2, 3]
    assert "1_leveled: cannot be read and is replaced" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"modality": "depth"}, "modality='depth' is not one of 'rgb', 'flow', 'motion', 'residual'"),
        ({"modality": ("flow", "flow")}, "name each modality once"),
        ({"modality": "rgb", "stack": 5}, "stack=5 of rgb: only flow and motion"),
        ({"stack": 0}, "stack=0"),
        ({"backend": "video"}, "backend='video' reads colors only; use backend='native' .* `vidseg extract-flow`"),
        ({"backend": "dali"}, "backend='dali' reads colors only"),
        ({"transform": lambda frames: frames}, "transform= changes colors"),
        ({"augment": color_jitter(brightness=0.5)}, "has color operations only, and these clips have no colors"),
        ({"color": "bgr", "dtype": "int64"}, "dtype='int64'"),
        ({"mean": {"flwo": (0.5,) * 3}}, "'flwo' is not a modality"),
        ({"stack": 2, "sampling": SegmentSampling(consecutive=3)}, "must take that many consecutive frames"),
    ],
)
def test_options_that_do_not_fit_are_refused(data, options, said):
    with pytest.raises(ValueError, match=said):
        loader(data, **options)


def test_streams_of_colors_and_motion_vectors(data):
    labels = [np.zeros(FRAMES - number, np.int64) for number in range(len(data))]
    options = {"labels": labels, "group": 2, "size": 32, "resize": 40, "seed": 3, "flip": True, "threads": 1}
    shape = WindowShape(stride=4, frames=4)
    single = list(StreamLoader(data, shape, modality="motion", **options))
    pairs = list(StreamLoader(data, shape, modality=("rgb", "motion"), **options))
    colors = list(StreamLoader(data, shape, **options))
    assert len(single) == len(pairs) == len(colors) > 2
    for one, pair, color in zip(single, pairs, colors, strict=True):
        assert one.clips.shape == (2, 2, 4, 32, 32) and len(pair) == 2
        assert torch.equal(pair.clips["motion"], one.clips) and torch.equal(pair.clips["rgb"], color.clips)
        ended = torch.from_numpy(one.item.frames < 0)
        assert (one.clips.movedim(1, 2)[ended] == 0).all()
    # The constant field, with the signs of mirroring and the factor of the resize.
    scale = 40 / HEIGHT
    for one in single:
        for row, video in enumerate(one.item.videos.tolist()):
            if video == 2 and one.item.frames[row, 0] >= 0:
                x, y = one.clips[row, :, 0, 0, 0] * BOUND
                assert abs(abs(x) - CONSTANT[0] * scale) < 1e-4 and abs(y + CONSTANT[1] * scale) < 1e-4


@pytest.mark.parametrize(
    "options", [{}, {"modality": ("rgb", "flow"), "dtype": "float16"}, {"stack": 3}, {"dtype": "uint8"}]
)
def test_a_device_gets_the_batches_of_the_host(data, options, monkeypatch):
    options = {**options, "geometry": WARPED, "batch_size": 1}
    expected = [dict(batch.tensors) for batch in loader(data, pin=False, **options)]
    memory = PageLockedMemory().install(monkeypatch)
    stream = LateStream(memory).install(monkeypatch)
    copied = [batch.tensors for batch in loader(data, pin=True, device="meta", **options)]
    assert len(copied) == len(expected) == 4
    for one, other in zip(copied, expected, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert not any(kind.is_floating_point for kind in stream.types)  # bytes were copied


def test_a_device_gets_the_streams_of_the_host(data, monkeypatch):
    options = {"labels": [np.zeros(FRAMES, np.int64)] * len(data), "size": 32, "flip": True, "group": 3}
    shape, both = WindowShape(stride=4, frames=4), ("rgb", "motion")
    expected = [batch.tensors for batch in StreamLoader(data, shape, modality=both, pin=False, **options)]
    memory = PageLockedMemory().install(monkeypatch)
    LateStream(memory).install(monkeypatch)
    copied = [batch.tensors for batch in StreamLoader(data, shape, modality=both, pin=True, device="meta", **options)]
    assert len(copied) == len(expected) > 4
    for one, other in zip(copied, expected, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def lossless(root, tmp_path_factory):
    """The data set with float16 in place of JPEGs."""
    copy = tmp_path_factory.mktemp("lossless") / "copy"
    shutil.copytree(root, copy)
    made = open_by_number(copy)
    for number, kind in enumerate(KINDS):
        write_fields(flow_path(made, number), [field(kind, frame) for frame in range(FRAMES)], values="float16")
    return made


@pytest.mark.parametrize("name", MAPS)
def test_lossless_vectors_equal_the_slow_computation(lossless, name):
    matrix, size = MAPS[name]
    expected, gain = expected_vectors(FlowDatabase(flow_path(lossless, 0)).flow([0, 5, 2]), matrix, size)
    plan = hand_plan([matrix], size=size, frames=[0, 5, 2])
    found = FieldFiller(lossless, HALF, threads=1).fill(plan)[0]
    assert (found[0] * BOUND - expected).abs().max() < 1e-4 * max(1, gain)


@pytest.mark.parametrize("form", list(every_form()), ids=lambda form: f"{form.dtype}-{form.layout}-{form.stack}")
def test_lossless_types_layouts_and_stacks(data, lossless, form):
    plan = several()
    found = FieldFiller(lossless, form, threads=2).fill(plan)[0]
    compared = fill(data, plan, form=form)
    assert found.dtype is form.dtype and found.shape == compared.shape
    step = 1 if form.dtype is torch.uint8 else 0.5 / 127 / 0.2
    assert (found.float() - compared.float()).abs().max() <= 3 * step
    assert (found.float() - compared.float()).abs().mean() <= 0.6 * step


def test_loaders_of_lossless_flow(lossless, monkeypatch, tmp_path):
    expected = epochs(loader(lossless, geometry=WARPED, pin=False))
    again = epochs(loader(lossless, geometry=WARPED, threads=1))
    assert all(torch.equal(one.frames, two.frames) for one, two in zip(again, expected, strict=True))
    LateStream(PageLockedMemory().install(monkeypatch)).install(monkeypatch)
    copied = epochs(loader(lossless, geometry=WARPED, pin=True, device="meta"))  # not rounded to bytes
    assert all(torch.equal(one.frames, two.frames) for one, two in zip(copied, expected, strict=True))
    with pytest.raises(ValueError, match="flow is stored as float16, which is read without a cache"):
        loader(lossless, cache_bytes=1000)


def test_a_damaged_lossless_row_is_replaced(lossless, tmp_path):
    shutil.copytree(lossless.root, tmp_path / "copy")
    damaged = open_by_number(tmp_path / "copy")
    break_row(flow_path(damaged, 0), 3, b"VF16 is not all")
    plan = hand_plan([crop(0, 0, 32, 32, size=(32, 32))], size=(32, 32), frames=[1, 2])
    with pytest.raises(FrameDatabaseError, match=r"flow\.db: frame 2"):
        FieldFiller(damaged, HALF, threads=1).fill(plan)
    frames, shown = FieldFiller(damaged, HALF, threads=1, on_error="replace").fill(plan)
    assert shown.tolist() == [[1, 1]] and torch.equal(frames[:, :, 0], frames[:, :, 1])
    write_fields(flow_path(damaged, 0), [field("smooth", frame) for frame in range(FRAMES)])
    with pytest.raises(FrameDatabaseError, match=r"1_leveled/flow\.db: its values are float16 .* are uint8"):
        epochs(loader(damaged, train=False))


@pytest.mark.parametrize(
    ("values", "channels"),
    [({}, 3), ({"modality": "residual"}, 3), ({"modality": "flow"}, 2), ({"modality": "motion", "stack": 5}, 10)],
)
def test_channels_of_an_input_spec(values, channels):
    assert InputSpec(**values).channels == channels
    assert InputSpec.from_dict(InputSpec(**values).as_dict()) == InputSpec(**values)


def test_a_stack_of_colors_is_refused_by_the_input_spec():
    with pytest.raises(ValueError, match="stack=5 has no effect with modality='rgb'"):
        InputSpec(stack=5)
