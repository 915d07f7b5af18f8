"""The compiled fill: the right pixels from every kind of JPEG, whatever the crop, the threads and the damage."""

import io
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from clip_data import FRAMES, HEIGHT, KINDS, WIDTH, break_row, clip_dataset, crop, hand_plan, natural
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vidseg import ClipLoader
from vidseg.clips.augmentations import color_jitter, random_erasing
from vidseg.clips.color import draw_colors
from vidseg.frames import FrameDatabase, FrameDatabaseError, FrameWriter, encode_rgb
from vidseg.labels import VideoRecord, open_dataset, update_catalog
from vidseg.loaders.native_backend import NativeFiller
from vidseg.loaders.output import OutputForm
from vidseg.loaders.recolor import apply_colors

PLAIN = OutputForm(dtype=torch.uint8, layout="bthwc")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return clip_dataset(tmp_path_factory.mktemp("fill"))


@pytest.fixture(scope="module")
def wholes(data):
    """Every frame of every video, decoded whole, uint8 (N, T, H, W, 3)."""
    return torch.stack([FrameDatabase(video.path).decode(range(FRAMES)) for video in data])


def fill(data, plan, *, form=PLAIN, threads=2, **options):
    filler = NativeFiller(data, form, threads=threads, **options)
    try:
        return filler.fill(plan)[0]
    finally:
        filler.close()


@settings(max_examples=150, deadline=None)
@given(kind=st.integers(0, len(KINDS) - 1), frame=st.integers(0, FRAMES - 1), draw=st.data(), mirror=st.booleans())
def test_crops_without_resampling_equal_the_whole_decode_bit_for_bit(data, wholes, kind, frame, draw, mirror):
    left, top = draw.draw(st.integers(0, WIDTH - 1)), draw.draw(st.integers(0, HEIGHT - 1))
    width, height = draw.draw(st.integers(1, WIDTH - left)), draw.draw(st.integers(1, HEIGHT - top))
    size = (height, width)
    plan = hand_plan(
        [crop(left, top, width, height, size=size, mirror=mirror)], size=size, videos=[kind], frames=[frame]
    )
    expected = wholes[kind, frame, top : top + height, left : left + width]
    assert torch.equal(fill(data, plan)[0, 0], expected.flip(1) if mirror else expected)


BOXES = [(0, 0, WIDTH, HEIGHT), (3.3, 4.9, 101.2, 80.7), (60, 30, 40, 41), (0.25, 0, 9, 90), (100, 70, 31, 20)]


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    """Luma and chroma are resampled before they become pixels: two roundings more, and no clamping in between."""
    difference = np.abs(got.astype(int) - expected)
    assert difference.mean() < 0.55 and (difference <= 2).mean() > 0.99 and difference.max() <= 20


@pytest.mark.parametrize("size", [(56, 56), (64, 48), (90, 131), (200, 220), (1, 1), (7, 300)])
@pytest.mark.parametrize("kind", ["no_restart", "automatic", "progressive"])
def test_resampling_equals_pillow_within_rounding(data, wholes, kind, size):
    number = KINDS.index(kind)
    plan = hand_plan([crop(*box, size=size) for box in BOXES], size=size, videos=[number] * len(BOXES))
    image = Image.fromarray(wholes[number, 0].numpy())
    for got, (left, top, width, height) in zip(fill(data, plan)[:, 0], BOXES, strict=True):
        if min(width / size[1], height / size[0]) >= 1.99:
            continue  # decoded smaller: the next test
        box = (left, top, left + width, top + height)
        expected = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, box=box)).astype(int)
        if kind == "progressive":  # libjpeg's pixels
            difference = np.abs(got.numpy() - expected)
            assert difference.max() <= 1 and difference.mean() < 0.3
        else:
            assert_close(got.numpy(), expected)


def resampled(copy: np.ndarray, divisor: int, size: tuple[int, int]) -> np.ndarray:
    """A copy with 1/divisor of the side, its pixels as large as those of the frame that they stand for, resampled."""
    frame = Image.fromarray(copy.repeat(divisor, axis=0).repeat(divisor, axis=1))
    return np.asarray(frame.resize(size[::-1], Image.Resampling.BILINEAR, box=(0, 0, WIDTH, HEIGHT))).astype(int)


@pytest.mark.parametrize(
    ("size", "level"), [((90, 131), 0), ((50, 70), 0), ((45, 60), 1), ((30, 40), 1), ((20, 30), 2)]
)
def test_the_smallest_copy_that_is_not_enlarged_is_read(data, size, level):
    number = KINDS.index("levels")
    copy = FrameDatabase(data[number].path).decode([2], level=level)[0]
    expected = resampled(copy.numpy(), 2**level, size)
    plan = hand_plan([crop(0, 0, WIDTH, HEIGHT, size=size)], size=size, videos=[number], frames=[2])
    assert_close(fill(data, plan)[0, 0].numpy(), expected)


@pytest.mark.parametrize("kind", ["automatic", "no_restart", "progressive", "sharp_chroma"])
@pytest.mark.parametrize(("shrink", "denominator"), [(2.0, 2), (2.7, 2), (4.1, 4), (9.0, 8)])
def test_without_levels_the_jpeg_is_decoded_smaller(data, kind, shrink, denominator):
    """libjpeg's own scaled decode is the oracle, through Pillow's draft mode."""
    number = KINDS.index(kind)
    size = (int(HEIGHT / shrink), int(WIDTH / shrink))
    image = Image.open(io.BytesIO(FrameDatabase(data[number].path).read([0])[0]))
    image.draft("RGB", (WIDTH // denominator, HEIGHT // denominator))
    assert image.size == (-(-WIDTH // denominator), -(-HEIGHT // denominator))
    expected = resampled(np.asarray(image.convert("RGB")), denominator, size)
    plan = hand_plan([crop(0, 0, WIDTH, HEIGHT, size=size)], size=size, videos=[number])
    assert np.abs(fill(data, plan)[0, 0].numpy() - expected).max() <= 1


def rotation(degrees: float, *, size: tuple[int, int], scale: float = 1.0) -> np.ndarray:
    """Turned about the center of the frame; `scale` source pixels to an output pixel."""
    sine, cosine = np.sin(np.radians(degrees)) * scale, np.cos(np.radians(degrees)) * scale
    center = np.array([[1, 0, WIDTH / 2], [0, 1, HEIGHT / 2], [0, 0, 1]])
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    return center @ turn @ np.array([[1, 0, -size[1] / 2], [0, 1, -size[0] / 2], [0, 0, 1]])


PERSPECTIVE = np.array([[0.9, 0.05, 5], [0.02, 0.85, 8], [0.0004, 0.0006, 1]])


def averaged(frame: np.ndarray, matrix: np.ndarray, size: tuple[int, int], points: int) -> np.ndarray:
    """Bilinear look-ups at points x points places of each output pixel, black outside."""
    padded = np.pad(frame.astype(float), ((1, 1), (1, 1), (0, 0)))
    offsets = (np.arange(points) + 0.5) / points
    y, x = np.meshgrid(
        (np.arange(size[0])[:, None] + offsets).ravel(), (np.arange(size[1])[:, None] + offsets).ravel(), indexing="ij"
    )
    u, v, w = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
    u, v = u / w + 0.5, v / w + 0.5  # of the padded frame, at pixel centers
    inside = (u > 0) & (v > 0) & (u < frame.shape[1] + 1) & (v < frame.shape[0] + 1)
    left, top = np.clip(np.floor(u), 0, frame.shape[1]).astype(int), np.clip(np.floor(v), 0, frame.shape[0]).astype(int)
    a, b = (u - left)[..., None], (v - top)[..., None]
    values = (padded[top, left] * (1 - a) + padded[top, left + 1] * a) * (1 - b)
    values += (padded[top + 1, left] * (1 - a) + padded[top + 1, left + 1] * a) * b
    values[~inside] = 0
    return values.reshape(size[0], points, size[1], points, 3).mean(axis=(1, 3))


@pytest.mark.parametrize(
    "matrix",
    [
        rotation(10, size=(80, 100)),
        rotation(-77, size=(80, 100), scale=0.6),
        PERSPECTIVE,
        rotation(25, size=(80, 100), scale=1.7),
    ],
    ids=["rotation", "enlarged", "perspective", "shrunk"],
)
def test_warps_equal_a_dense_reference_within_a_gray_level(data, wholes, matrix):
    size, number = (80, 100), KINDS.index("automatic")
    got = fill(data, hand_plan([matrix], size=size, videos=[number]))[0, 0].numpy()
    shrinks = abs(np.linalg.det(matrix[:2, :2])) > 1.1
    expected = averaged(wholes[number, 0].numpy(), matrix, size, 8 if shrinks else 1)
    assert np.abs(got - expected).mean() < 1.0
    if not shrinks:
        assert np.abs(got - expected).max() <= 1.0


def test_warps_equal_opencv(data, wholes):
    size, number = (70, 90), KINDS.index("automatic")
    matrix = rotation(12, size=size)
    got = fill(data, hand_plan([matrix], size=size, videos=[number]))[0, 0].numpy()
    to_centers = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])  # OpenCV counts from the center of a pixel
    transform = to_centers @ matrix @ np.linalg.inv(to_centers)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = cv2.warpPerspective(wholes[number, 0].numpy(), transform, size[::-1], flags=flags)
    assert np.abs(got.astype(int) - expected).mean() < 1.0


def test_outside_of_the_frame_is_black(data):
    size = (40, 40)
    got = fill(data, hand_plan([crop(-20, -20, 40, 40, size=size), crop(WIDTH + 50, 0, 40, 40, size=size)], size=size))
    assert got[0, 0, :19].eq(0).all() and got[0, 0, 21:, :19].eq(0).all() and got[0, 0, 21:, 21:].float().mean() > 20
    assert got[1].eq(0).all()


@pytest.mark.parametrize("layout", ["bcthw", "bthwc"])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_forms_are_the_pixels_converted(data, dtype, layout, color):
    size = (31, 47)
    plan = hand_plan([crop(5, 6, 80, 70, size=size)] * 3, size=size, videos=[0, 2, 4], frames=[1, 3])
    form = OutputForm(dtype=dtype, layout=layout, color=color, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    got, pixels = fill(data, plan, form=form), fill(data, plan)
    expected = pixels if color == "rgb" else pixels.flip(4)
    if dtype != torch.uint8:
        scale, offset = form.normalization if color == "rgb" else form.normalization.flip(1)
        expected = expected * scale + offset
    expected = expected.permute(0, 4, 1, 2, 3) if layout == "bcthw" else expected
    assert got.dtype == dtype and got.shape == expected.shape
    assert torch.equal(form.from_pixels(pixels), got) and torch.equal(form.from_pixels(list(pixels)), got)
    tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(dtype, 0)
    assert torch.allclose(got.float(), expected.float(), rtol=tolerance, atol=tolerance)


JITTER = color_jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


@pytest.mark.parametrize(
    "preset", ["published", "hacs", JITTER, random_erasing(1.0)], ids=["published", "hacs", "jitter", "erasing"]
)
def test_colors_are_applied_to_the_resampled_pixels(data, preset):
    size, clips = (40, 56), 8
    matrices = [crop(3 * k, 2 * k, 60 + k, 50, size=size) for k in range(clips)]
    colors = draw_colors(preset, 3, 1, np.arange(clips), height=size[0], width=size[1])
    assert len(colors.codes) >= 3
    plain = fill(data, hand_plan(matrices, size=size, videos=range(clips), frames=[0, 4]))
    got = fill(data, hand_plan(matrices, size=size, videos=range(clips), frames=[0, 4], colors=colors))
    plan = hand_plan(matrices, size=size, videos=range(clips), colors=colors)
    for clip in range(clips):
        expected = apply_colors(plain[clip].numpy(), plan[clip].colors)
        assert torch.equal(got[clip], torch.from_numpy(expected))
    assert not torch.equal(got, plain)


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_the_number_of_threads_changes_nothing(data, threads):
    size = (40, 40)
    matrices = [crop(3 * k, 2 * k, 60 + k, 50, size=size, mirror=k % 2 == 1) for k in range(8)]
    plan = hand_plan(matrices, size=size, videos=range(8), frames=[0, 5, 2, 3, 3, 1])
    assert torch.equal(fill(data, plan, threads=threads), fill(data, plan, threads=2))


EVERY_PATH = """
import hashlib, sys, torch
sys.path.insert(0, 'tests')
from test_loader_fill import *
from vidseg.frames.frame_planes import FramePlanes
from vidseg.frames.native import simd

data, size = open_dataset(sys.argv[1]), (61, 43)
matrices = [crop(1.3, 2.2, w, w * 0.8, size=size, mirror=w % 2 == 0) for w in (12, 43, 60, 100)]
matrices += [crop(-4.5, 1.5, 120, 70, size=size), crop(20, 10, 43, 61, size=size)]
turns = [(10, 1.0), (-33, 0.4), (7, 1.7), (70, 2.3), (5, 3.4)]
turned = [rotation(degrees, size=size, scale=scale) for degrees, scale in turns] + [PERSPECTIVE]

def show(what, *tensors):
    for tensor in tensors:
        print(what, hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16])

for number, video in enumerate(data):
    every = matrices + turned
    show(video.name, fill(data, hand_plan(every, size=size, videos=[number] * len(every))))
colors = draw_colors('published', 3, 1, np.arange(len(turned)), height=size[0], width=size[1])
plan = hand_plan(turned, size=size, videos=range(len(turned)), colors=colors)
for layout in ('bcthw', 'bthwc'):
    for color in ('rgb', 'bgr'):
        for dtype in (torch.uint8, torch.float16, torch.bfloat16, torch.float32):
            form = OutputForm(dtype=dtype, layout=layout, color=color)
            show(f'{layout} {color} {dtype}', fill(data, plan, form=form))
random = torch.Generator().manual_seed(0)
def bytes_of(*shape): return torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
for width in (90, 131, 600, 1900):
    for share, chroma in ((1, 444), (2, 420)):
        across = (width + share - 1) // share
        planes = [bytes_of(90, each).numpy().reshape(-1) for each in (width, across, across)]
        for matrix in [*every, crop(0.5, 3, width - 1, 80, size=size)]:
            frame = FramePlanes(planes, (width, across, across), width, 90, (0.299, 0.114), True, chroma)
            show(f'{width} {chroma}', frame.pixels(torch.as_tensor(matrix), *size))
for height, width in ((1, 1), (3, 5), (9, 16), (17, 33), (60, 71)):
    frames = bytes_of(2, height, width, 3)
    for preset in ('published', 'hacs', JITTER):
        colors = draw_colors(preset, 3, 1, np.arange(8), height=height, width=width)
        plan = hand_plan([crop(0, 0, width, height, size=(height, width))] * 8, size=(height, width), colors=colors)
        for clip in range(8):
            show(f'{height}x{width}', torch.from_numpy(apply_colors(frames.numpy(), plan[clip].colors)))
assert not sys.argv[2] or simd().split()[0] == sys.argv[2], simd()
"""


def test_every_instruction_set_gives_the_same_bytes(data):
    """Of every kind of JPEG, crop, warp, preset of colors, layout and type, and of planes of every ratio of sizes."""
    runs = {}
    for simd in ("baseline", "avx2", "avx512"):
        environment = {**os.environ, "VIDSEG_SIMD": simd}
        command = [sys.executable, "-c", EVERY_PATH, str(data.root), simd]
        runs[simd] = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    results = {}
    for simd, run in runs.items():
        output, errors = run.communicate()
        if "supported by this processor" not in errors:
            assert run.returncode == 0, errors[-3000:]
            results[simd] = output
    assert len(results["baseline"].splitlines()) > 200
    for simd, lines in results.items():
        differences = [
            (ours, theirs)
            for ours, theirs in zip(lines.splitlines(), results["baseline"].splitlines(), strict=True)
            if ours != theirs
        ]
        assert not differences, simd


@pytest.mark.parametrize("kind", ["encoded", "decoded"])
def test_a_cache_changes_nothing_but_the_reading(data, kind):
    size = (40, 50)
    plan = hand_plan(
        [crop(k, k, 90, 70, size=size) for k in range(8)], size=size, videos=range(8), frames=range(FRAMES)
    )
    expected = fill(data, plan)
    filler = NativeFiller(data, PLAIN, threads=2, cache=kind, cache_bytes=64 * 2**20)
    assert torch.equal(filler.fill(plan)[0], expected)
    first = filler.cache_report
    assert (first.hits, first.misses, first.frames) == (0, 8 * FRAMES, 8 * FRAMES)
    assert first.bytes <= first.frames * HEIGHT * WIDTH * 4  # planes or pixels, never both
    assert torch.equal(filler.fill(plan)[0], expected)
    assert filler.cache_report.hit_rate == 0.5
    filler.close()


@pytest.mark.parametrize("kind", ["encoded", "decoded"])
def test_a_cache_keeps_its_limit(data, kind):
    size = (40, 50)
    plan = hand_plan([crop(0, 0, 90, 70, size=size)] * 8, size=size, videos=range(8), frames=range(FRAMES))
    expected = fill(data, plan)
    limit = 100_000
    filler = NativeFiller(data, PLAIN, threads=2, cache=kind, cache_bytes=limit)
    assert torch.equal(filler.fill(plan)[0], expected) and torch.equal(filler.fill(plan)[0], expected)
    report = filler.cache_report
    assert 0 < report.bytes <= limit and 0 < report.frames < 8 * FRAMES and report.hits == report.frames
    filler.close()


def test_memory_of_a_batch_is_used_again_when_nobody_holds_it(data):
    plan = hand_plan([crop(0, 0, 90, 70, size=(64, 64))], size=(64, 64))
    filler = NativeFiller(data, PLAIN, threads=1)
    first, _ = filler.fill(plan)
    address, copy, part = first.data_ptr(), first.clone(), first[0, 0, :3]
    del first
    second, _ = filler.fill(plan)  # a part of the first batch is still held
    assert second.data_ptr() != address and torch.equal(part, copy[0, 0, :3])
    del part
    third, _ = filler.fill(plan)
    assert third.data_ptr() == address and torch.equal(second, third)


HUGE = bytearray(encode_rgb(torch.zeros(16, 16, 3, dtype=torch.uint8), 80)[0])
HUGE[HUGE.index(b"\xff\xc0") + 5 : HUGE.index(b"\xff\xc0") + 9] = (65500).to_bytes(2, "big") * 2


@pytest.fixture
def damaged(tmp_path):
    """Damage row 3 (frame 2) of a video of its own: damaged(kind, blob) -> data set."""

    def make(kind: str, blob: object, *, table: str = "Images"):
        data = clip_dataset(tmp_path, [kind])
        if blob == "half":
            blob = FrameDatabase(data[0].path).read([2])[0][:-900]
        break_row(data[0].path, 3, blob, table=table)
        return data

    return make


@pytest.mark.parametrize("kind", ["automatic", "no_restart", "published"])
@pytest.mark.parametrize(
    "blob", ["half", b"no jpeg at all", bytes(HUGE), b"\xff\xd8\xff", 17, "text", b""], ids=lambda blob: str(blob)[:12]
)
def test_a_damaged_frame_is_named_or_replaced(damaged, kind, blob):
    data = damaged(kind, blob)
    frame = 5 if kind == "published" else 2  # the rows of the published database are in another order
    whole = crop(0, 0, WIDTH, HEIGHT, size=(HEIGHT, WIDTH))
    plan = hand_plan([whole], size=(HEIGHT, WIDTH), frames=range(FRAMES))
    with pytest.raises(FrameDatabaseError, match=rf"frames\.db: frame {frame}: .*on_error"):
        fill(data, plan)
    filler = NativeFiller(data, PLAIN, threads=2, on_error="replace")
    got, shown = filler.fill(plan)
    neighbor = frame - 1 if frame > 0 else frame + 1
    assert shown[0].tolist() == [neighbor if index == frame else index for index in range(FRAMES)]
    assert torch.equal(got[0, frame], got[0, neighbor]) and got.float().mean() > 20


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """Three videos of large frames. Frames 1 to 3 of video 0 and all of video 1 are damaged: frame 1 fails after almost
    all of it is decoded, the others at once."""
    root = tmp_path_factory.mktemp("failing")
    jpeg = encode_rgb(torch.from_numpy(natural(0, height=900, width=1200)), 95, restart_interval=0)[0]
    records = []
    for number in range(3):
        folder = root / f"jpg/a/{number}"
        with FrameWriter(folder / "frames.db") as writer:
            for _ in range(4):
                writer.add(jpeg, width=1200)
        records.append(VideoRecord(f"jpg/a/{number}", "a", 4, 900, 1200, 25.0, 0.16, 1))
    break_row(root / "jpg/a/0/frames.db", 2, jpeg[: len(jpeg) * 9 // 10])
    for video, row in ((0, 3), (0, 4), (1, 1), (1, 2), (1, 3), (1, 4)):
        break_row(root / f"jpg/a/{video}/frames.db", row, b"not a JPEG")
    update_catalog(root, records)
    return open_dataset(root)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("videos", "frame"), [((2, 0, 1), 1), ((2, 0), 1), ((0, 0), 1)])
def test_the_first_failure_in_the_order_of_the_plan_is_reported(failing, threads, videos, frame):
    matrix = crop(0, 0, 1200, 900, size=(90, 120))
    plan = hand_plan([matrix] * len(videos), size=(90, 120), videos=videos, frames=range(4))
    for _ in range(10):
        with pytest.raises(FrameDatabaseError, match=rf"jpg/a/0/frames\.db: frame {frame}: damaged JPEG"):
            fill(failing, plan, threads=threads)
    backward = hand_plan([matrix] * 2, size=(90, 120), videos=(1, 0), frames=(0, 3, 2, 1))
    with pytest.raises(FrameDatabaseError, match=r"jpg/a/1/frames\.db: frame 0: "):
        fill(failing, backward, threads=threads)


def test_a_damaged_level_is_named(damaged):
    data = damaged("levels", b"\xff\xd8 broken", table="Levels")  # after both levels of frame 0
    plan = hand_plan([crop(0, 0, WIDTH, HEIGHT, size=(40, 60))], size=(40, 60), frames=range(FRAMES))
    with pytest.raises(FrameDatabaseError, match=r"frame 1 \(level 1\): damaged JPEG"):
        fill(data, plan)


def test_damage_inside_an_interval_is_noticed(tmp_path):
    """A cut holds padding before each marker; swapped bytes must not hide in it."""
    data = clip_dataset(tmp_path, ["automatic"])
    jpeg = bytearray(FrameDatabase(data[0].path).read([1])[0])
    marker = jpeg.index(b"\xff\xd0")
    del jpeg[marker - 6 : marker]  # the end of the first interval is missing
    break_row(data[0].path, 2, bytes(jpeg))
    plan = hand_plan([crop(0, 0, 30, 20, size=(20, 30))], size=(20, 30), frames=[1])
    with pytest.raises(FrameDatabaseError, match="frame 1: damaged JPEG"):
        fill(data, plan)


def test_only_the_intervals_of_a_crop_are_read(tmp_path):
    """Damage beside the crop, in the same row of MCUs, would stop any other decoder."""
    data = clip_dataset(tmp_path, ["automatic"])
    database = FrameDatabase(data[0].path)
    expected = database.decode([1])[0, :12, :30]
    jpeg = bytearray(database.read([1])[0])
    marker = jpeg.index(b"\xff\xd2")  # behind the last interval of the first row
    del jpeg[marker - 6 : marker]
    break_row(data[0].path, 2, bytes(jpeg))
    plan = hand_plan([crop(0, 0, 30, 12, size=(12, 30))], size=(12, 30), frames=[1])
    assert torch.equal(fill(data, plan)[0, 0], expected)
    with pytest.raises(FrameDatabaseError, match="frame 1: damaged JPEG"):
        fill(data, hand_plan([crop(0, 0, 120, 12, size=(12, 120))], size=(12, 120), frames=[1]))


def test_frames_of_our_own_form_are_found_without_sqlite(tmp_path):
    """A number in the header that SQLite refuses, and that says nothing about where the rows are."""
    data = clip_dataset(tmp_path, ["levels"])
    plan = hand_plan([crop(0, 0, 90, 80, size=(20, 24))], size=(20, 24), frames=range(FRAMES))
    expected = fill(data, plan)
    header = bytearray(data[0].path.read_bytes())
    header[44:48] = (99).to_bytes(4, "big")  # the schema format
    data[0].path.write_bytes(header)
    with pytest.raises(FrameDatabaseError):
        FrameDatabase(data[0].path)
    assert torch.equal(fill(data, plan), expected)


def test_cmyk_is_refused_with_the_remedy(tmp_path):
    data = clip_dataset(tmp_path, ["automatic"])
    buffer = io.BytesIO()
    Image.new("CMYK", (WIDTH, HEIGHT)).save(buffer, "JPEG")
    break_row(data[0].path, 1, buffer.getvalue())
    with pytest.raises(FrameDatabaseError, match="CMYK"):
        fill(data, hand_plan([crop(0, 0, 9, 9, size=(9, 9))], size=(9, 9)))


@pytest.mark.parametrize("keep", [0, 100, 9000])
def test_a_truncated_database_is_named(tmp_path, keep):
    data = clip_dataset(tmp_path, ["automatic"])
    path = data[0].path
    path.write_bytes(path.read_bytes()[:keep])
    plan = hand_plan([crop(0, 0, 9, 9, size=(9, 9))], size=(9, 9), frames=[5])
    for on_error in ("raise", "replace"):
        with pytest.raises(FrameDatabaseError, match=r"0_automatic/frames\.db"):
            fill(data, plan, on_error=on_error)


def test_a_missing_database_and_a_missing_frame_are_named(tmp_path):
    data = clip_dataset(tmp_path, ["automatic", "gray"])
    plan = hand_plan([crop(0, 0, 9, 9, size=(9, 9))], size=(9, 9), videos=[0], frames=[FRAMES])
    with pytest.raises(FrameDatabaseError, match=f"frame {FRAMES}: not in the database"):
        fill(data, plan)
    data[1].path.unlink()
    with pytest.raises(FrameDatabaseError, match=r"1_gray/frames\.db: cannot open: No such file"):
        fill(data, hand_plan([crop(0, 0, 9, 9, size=(9, 9))], size=(9, 9), videos=[1]))


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((3, 3)), np.full((3, 3), np.nan), np.array([[1, 0, 0], [0, 1, 0], [-0.5, 0, 1]])],
    ids=["singular", "nan", "horizon"],
)
def test_matrices_that_show_nothing_are_refused(data, matrix):
    with pytest.raises(FrameDatabaseError, match=r"matrix|perspective"):
        fill(data, hand_plan([matrix], size=(9, 9)))


def test_copies_are_enlarged_where_that_is_asked_for(tmp_path):
    """A crop of 90 pixels at 60 is 1.5 times smaller: the half-size copy has 45 of them."""
    data = clip_dataset(tmp_path, ["levels"])
    plan = hand_plan([crop(6, 4, 90, 60, size=(40, 60))], size=(40, 60), frames=range(FRAMES))
    filler = {enlarge: NativeFiller(data, PLAIN, threads=1, enlarge=enlarge) for enlarge in (1, 1.3, 1.34, 2)}
    sharp, strict, soft, softest = (one.fill(plan)[0].float() for one in filler.values())
    assert torch.equal(sharp, strict)
    assert torch.equal(soft, softest)
    assert 1 < (sharp - soft).abs().mean() < 12
    frames = FrameDatabase(data[0].path)
    half = Image.open(io.BytesIO(frames.read([0], level=1)[0]))
    expected = half.resize((60, 40), Image.Resampling.BILINEAR, box=(3, 2, 48, 32))
    assert np.abs(soft[0, 0].numpy() - np.asarray(expected, np.float32)).mean() < 1
    breaks = hand_plan([crop(6, 4, 90, 60, size=(40, 60))], size=(40, 60), frames=[1])
    break_row(data[0].path, 2, b"not a JPEG")
    assert torch.equal(filler[2].fill(breaks)[0][0, 0].float(), softest[0, 1])  # the full frame is not read
    for enlarge in (0.9, 2.1):
        with pytest.raises(ValueError, match=f"enlarge={enlarge} must be 1"):
            ClipLoader(data, enlarge=enlarge)
    with pytest.raises(ValueError, match="only backend='native' enlarges"):
        ClipLoader(data, enlarge=1.5, backend="dali")
