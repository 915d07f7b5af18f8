"""Planes of video decoders in the compiled fill, and decoders that are kept from clip to clip."""

import os
import random
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vidseg import ClipLoader, open_videos
from vidseg.frames import decode_jpeg, encode_planes
from vidseg.frames.frame_planes import FramePlanes
from vidseg.frames.native import operators
from vidseg.videos import frame_reader
from vidseg.videos.decoding import VideoSource
from vidseg.videos.frame_index import read_frame_index
from vidseg.videos.frame_reader import FrameReader
from vidseg.videos.orientation import _EXIF
from vidseg.videos.reader_pool import IndexCache, ReaderPool
from vidseg.videos.source_planes import PlaneReader

IDENTITY = torch.eye(3, dtype=torch.float64)
B_FRAMES = "keyint=8:min-keyint=8:scenecut=0:bframes=3:b-pyramid=normal"
FRAMES = 30


def source_planes(planes, sampling, *, weights=(0.299, 0.114), full_range=True, orientation=1, width=None):
    """Planes as a decoder returns them, with a margin behind every row."""
    height = len(planes[0])
    padded = [np.pad(plane, ((0, 0), (0, 5)), constant_values=77) for plane in planes]
    flat = tuple(plane.reshape(-1) for plane in padded)
    strides = tuple(plane.shape[1] for plane in padded)
    width = planes[0].shape[1] if width is None else width
    return FramePlanes(flat, strides, width, height, weights, full_range, sampling, orientation=orientation)


def random_planes(height, width, sampling, seed=0):
    rng = np.random.default_rng(seed)
    across = -(-width // 2) if sampling in (420, 422) else width
    down = -(-height // 2) if sampling == 420 else height
    shapes = [(height, width), (down, across), (down, across)]
    bounds = [(50, 200), (100, 156), (100, 156)]
    return [rng.integers(*bound, shape, np.uint8) for shape, bound in zip(shapes, bounds, strict=True)]


def interpolated(plane: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Chroma of half resolution at full resolution: 3/4 of the nearer sample and 1/4 of the other one."""
    near = np.arange(size) // 2
    far = np.clip(np.where(np.arange(size) % 2 == 0, near - 1, near + 1), 0, plane.shape[axis] - 1)
    return 0.75 * plane.take(near, axis) + 0.25 * plane.take(far, axis)


def exact_rgb(planes, sampling, weights, full_range) -> np.ndarray:
    """ITU-R BT.601 or BT.709 in floating point."""
    height, width = planes[0].shape
    luma, *chroma = (plane.astype(float) for plane in planes)
    if sampling in (420, 422):
        chroma = [interpolated(plane, 1, width) for plane in chroma]
    if sampling == 420:
        chroma = [interpolated(plane, 0, height) for plane in chroma]
    luma = luma / 255 if full_range else (luma - 16) / 219
    blue, red = ((plane - 128) / (255 if full_range else 224) for plane in chroma)
    kr, kb = weights
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return np.clip(np.stack([r, g, b], axis=-1) * 255, 0, 255)


@pytest.mark.parametrize("sampling", [420, 422, 444, 400])
@pytest.mark.parametrize(("height", "width"), [(33, 47), (24, 40), (2, 2), (1, 9), (9, 1)])
@pytest.mark.parametrize("full_range", [True, False])
def test_colors_are_those_of_the_formula(sampling, height, width, full_range):
    planes = random_planes(height, width, sampling)
    if sampling == 400:
        planes[1:] = [np.full((height, width), 128, np.uint8)] * 2
    rgb = source_planes(planes, sampling, full_range=full_range).pixels(IDENTITY, height, width).numpy()
    exact = exact_rgb(planes, 444 if sampling == 400 else sampling, (0.299, 0.114), full_range)
    # luma, chroma, interpolated chroma and the result are rounded to 8 bits
    assert np.abs(rgb - exact).max() <= (2 if full_range else 3)
    assert np.abs(rgb - exact).mean() < 0.7


def test_other_matrices_are_converted():
    """BT.709 shares luma and chroma of a sample; constant chroma makes its formula exact."""
    planes = random_planes(20, 30, 420)
    planes[1:] = [np.full((10, 15), value, np.uint8) for value in (110, 150)]
    weights = (0.2126, 0.0722)
    rgb = source_planes(planes, 420, weights=weights, full_range=False).pixels(IDENTITY, 20, 30).numpy()
    assert np.abs(rgb - exact_rgb(planes, 420, weights, False)).max() <= 2.0


@pytest.mark.parametrize("sampling", [420, 422, 444])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_frames_are_those_of_turned_planes(sampling, orientation):
    """Even sides, so that the planes of the turned picture are the turned planes."""
    planes = random_planes(20, 32, sampling, seed=orientation)
    turned = np.ascontiguousarray(
        _EXIF[orientation - 1].apply(source_planes(planes, sampling).pixels(IDENTITY, 20, 32).numpy())
    )
    height, width, _ = turned.shape
    found = source_planes(planes, sampling, orientation=orientation).pixels(IDENTITY, height, width).numpy()
    # libjpeg's rounding of chroma depends on the side of a sample
    assert np.abs(found.astype(int) - turned).max() <= (0 if sampling == 444 else 2)


@pytest.mark.parametrize("sampling", [420, 422, 444])
@pytest.mark.parametrize("orientation", [1, 2, 6])
def test_a_part_of_a_frame_is_that_of_the_whole(sampling, orientation):
    """Only the part around a crop is converted."""
    source = source_planes(random_planes(61, 83, sampling), sampling, orientation=orientation)
    height, width = (83, 61) if orientation == 6 else (61, 83)
    whole = source.pixels(IDENTITY, height, width)
    for left, top, across, down in ((0, 0, 9, 7), (13, 8, 21, 30), (20, 31, 41, 30), (width - 5, height - 3, 5, 3)):
        shift = torch.tensor([[1, 0, left], [0, 1, top], [0, 0, 1]], dtype=torch.float64)
        assert torch.equal(source.pixels(shift, down, across), whole[top : top + down, left : left + across])


@pytest.mark.parametrize("name", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "nv21", "gray", "yuv420p10le"])
def test_formats_of_decoders_agree(name):
    """One smooth picture in every format."""
    y, x = np.mgrid[:48, :64]
    rgb = np.stack([60 + 2 * x, 200 - 2 * y, 90 + x + y], axis=-1).astype(np.uint8)
    rgb = np.repeat(rgb[:, :, :1], 3, axis=2) if name == "gray" else rgb
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=name)
    pixels = PlaneReader()(frame).pixels(IDENTITY, 48, 64).numpy()
    assert np.abs(pixels[2:-2, 2:-2].astype(int) - rgb[2:-2, 2:-2]).max() <= 4


@pytest.mark.parametrize("chroma", [420, 444])
@pytest.mark.parametrize(("height", "width"), [(33, 47), (2, 2), (1, 9)])
@pytest.mark.parametrize(("weights", "full_range"), [((0.299, 0.114), True), ((0.2126, 0.0722), False)])
def test_colors_are_those_of_a_stored_frame(chroma, height, width, weights, full_range):
    """Against libjpeg, which decodes what was encoded at quality 100."""
    planes = random_planes(height, width, chroma, seed=height)
    flat = [torch.from_numpy(plane.reshape(-1)) for plane in planes]
    strides = [plane.shape[1] for plane in planes]
    form = {"chroma": chroma, "luma_weights": weights, "full_range": full_range}
    (jpeg,) = encode_planes(flat, strides, width=width, height=height, quality=100, **form)
    rgb = source_planes(planes, chroma, weights=weights, full_range=full_range).pixels(IDENTITY, height, width)
    difference = (rgb.int() - decode_jpeg(jpeg).int()).abs()
    assert difference.max() <= 4 and difference.float().mean() < 1.0


def test_wrong_planes_are_refused():
    plane = torch.zeros(100, dtype=torch.uint8)
    none, plain = torch.empty(0, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.float64)

    def fill(
        *, width=10, matrix=IDENTITY, sampling=444, y=plane, step=1, orientation=1, position=0, shape=(1, 4, 4, 3)
    ):
        operators.fill_planes(
            torch.empty(shape, dtype=torch.uint8),
            torch.tensor([position]),
            *(y, plane, plane),
            *(10, 10, 10),
            *(width, 10, sampling, step, orientation, 0.299, 0.114, True),
            *(matrix, none, torch.empty(0, 8, dtype=torch.float64), plain, False, False),
        )

    fill()
    for wrong, kind, message in (
        ({"width": 11}, RuntimeError, "shorter than its 11 pixels"),
        ({"shape": (1, 0, 4, 3)}, ValueError, "frame size 4x0: each side must be 1 to 65500"),
        ({"shape": (1, 4, 4, 4)}, ValueError, r"of the shape \(3, T, H, W\) or \(T, H, W, 3\)"),
        ({"sampling": 411}, ValueError, "sampling is 411"),
        ({"step": 2}, RuntimeError, "Cb plane: a row of 10 bytes is shorter than its 10 pixels"),
        ({"step": 3}, ValueError, "step is 3"),
        ({"orientation": 9}, ValueError, "orientation is 9, must be 1 to 8"),
        ({"position": 1}, ValueError, "position 1 of a clip of 1 frames"),
        ({"y": plane[:50]}, RuntimeError, "50 bytes given, 100 needed"),
        ({"matrix": torch.full((3, 3), torch.nan, dtype=torch.float64)}, RuntimeError, "not finite"),
        ({"matrix": IDENTITY[:2].contiguous()}, ValueError, r"matrix must have the shape \(3, 3\), has \(2, 3\)"),
    ):
        with pytest.raises(kind, match=message):
            fill(**wrong)


@pytest.fixture(scope="module")
def files(tmp_path_factory, make_video) -> list[Path]:
    """H.264 and HEVC whose decoders may skip frames, with B frames that others refer to; and files whose may not."""
    folder = tmp_path_factory.mktemp("files")
    x265 = "log-level=error:keyint=8:min-keyint=8:bframes=3"
    made = {
        "b_frames.mp4": {"options": {"x264-params": B_FRAMES}},
        "open_gops.mkv": {"options": {"x264-params": f"{B_FRAMES}:open-gop=1"}},
        "one_gop.mp4": {"options": {"x264-params": "bframes=3:b-adapt=0:b-pyramid=none"}},
        "refresh.mkv": {"options": {"x264-params": "intra-refresh=1:keyint=6:bframes=0"}},
        "hevc.mp4": {"codec": "libx265", "options": {"x265-params": x265}},
        "layers.mp4": {"codec": "libx265", "options": {"x265-params": f"{x265}:temporal-layers=3"}},
        "old.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "6"}},
        "raw.h264": {"options": {"x264-params": B_FRAMES}, "container_format": "h264"},
    }
    return [make_video(folder / name, frames=FRAMES, size=(64, 96), **form) for name, form in made.items()]


def pixels_of(frame) -> np.ndarray:
    return frame.to_ndarray(format=frame.format.name).copy()


def test_clips_do_not_depend_on_those_before(files):
    """Kept decoders, in any order of clips, give the frames of a decoder that decodes everything."""
    pool, indices = ReaderPool(3), IndexCache()
    for path in files:
        expected = [pixels_of(item.frame) for item in VideoSource(path)]
        index, draw = indices.find(path), random.Random(1)
        assert indices.find(path) is index and len(index) == len(expected) == FRAMES
        clips = [range(first, last) for first, last in ((0, 4), (4, 8), (5, 9), (8, 16), (16, 30), (2, 3))]
        clips += [sorted(draw.sample(range(FRAMES), 4)) for _ in range(30)]
        for numbers in clips:
            with pool.reader(path, index, list(numbers), lambda: False) as reader:
                for number in numbers:
                    frame = reader.read(number)
                    assert frame is not None and np.array_equal(pixels_of(frame), expected[number]), (path, numbers)
    pool.close()


def test_frames_without_use_are_not_decoded(files, monkeypatch):
    """The decoder returns a part of the frames, does not go back, and the file is opened once."""
    opened, returned = [], []
    monkeypatch.setattr(
        frame_reader, "open_video", lambda path, original=frame_reader.open_video: opened.append(path) or original(path)
    )
    number_of = FrameReader._number
    monkeypatch.setattr(
        FrameReader, "_number", lambda self, stamp: returned.append(number_of(self, stamp)) or returned[-1]
    )
    path = next(path for path in files if path.name == "one_gop.mp4")
    index, pool = read_frame_index(path), ReaderPool(1)
    assert index.discardable and index.keys.tolist() == [0]
    for numbers in ([10, 14], [14, 15, 16], [17], [25]):
        with pool.reader(path, index, numbers, lambda: False) as reader:
            assert all(reader.read(number) is not None for number in numbers)
    assert opened == [path]
    assert returned == sorted(set(returned)) and {10, 14, 15, 16, 17, 25} <= set(returned)
    assert len(returned) < 20  # of 26
    with pool.reader(path, index, [3], lambda: False) as reader:  # back to the key frame
        assert reader.read(3) is not None
    assert len(opened) == 2
    pool.close()
    layers = {path.name: read_frame_index(path).discardable for path in files}
    assert layers == {
        "b_frames.mp4": True,
        "open_gops.mkv": True,
        "one_gop.mp4": True,
        "refresh.mkv": True,
        "hevc.mp4": True,
        "layers.mp4": False,  # a frame of a higher layer may refer to one that is marked as unused
        "old.avi": False,
        "raw.h264": False,
    }


def test_a_frame_that_was_not_announced_is_found(files):
    path = files[0]
    expected = [pixels_of(item.frame) for item in VideoSource(path)]
    with FrameReader(path, read_frame_index(path)) as reader:
        reader.begin([2, 20])
        for number in (2, 3, 4, 5, 6, 7, 20, 1):
            assert np.array_equal(pixels_of(reader.read(number)), expected[number]), number


def test_a_pool_is_bounded_and_not_shared_with_a_forked_process(files, tmp_path):
    pool = ReaderPool(2)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for path in files[:5]:
        with pool.reader(path, read_frame_index(path), [1], lambda: False) as reader:
            assert reader.read(1) is not None
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors + 2
    with pool.reader(path, read_frame_index(path), [1], lambda: True):
        pass  # a canceled clip leaves nothing
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors + 1
    child = os.fork()
    if child == 0:
        os._exit(0 if pool._take(files[3]) is None and not pool._idle else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(pool._idle) == [files[3]]
    pool.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_changed_file_is_read_again(files, tmp_path):
    indices, path = IndexCache(), tmp_path / "clip.mp4"
    path.write_bytes(files[0].read_bytes())
    first = indices.find(path)
    assert indices.find(path) is first and first.keys.tolist() == [0, 8, 16, 24]
    path.write_bytes(files[2].read_bytes())
    assert indices.find(path).keys.tolist() == [0]


@pytest.mark.parametrize("layout", ["bcthw", "btchw", "bthwc"])
def test_clips_of_one_video_are_shared_out_by_key_frame(files, layout):
    """All clips of a few videos in one batch, on one and on three threads, in every layout."""
    folder = files[0].parent
    data = open_videos(folder)
    options = {"frames": 3, "interval": 2, "sampling": "clips", "train": False, "size": 40, "batch_size": 50}
    plain, *others = [
        next(iter(ClipLoader(data, backend="video", threads=threads, dtype=torch.uint8, layout=form, **options)))
        for threads, form in ((1, "bthwc"), (3, layout), (1, layout))
    ]
    order = [layout.index(axis) for axis in "bthwc"]
    for batch in others:
        assert batch.replaced == 0 and torch.equal(batch.frames.permute(order), plain.frames)
