"""Motion vectors and residuals of codecs: known motion, an independent construction, and the frames of a conversion."""

import itertools
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.codec.context import Flags2
from test_video_faults import pixel_crop

from vidseg import convert_videos
from vidseg.frames import FrameDatabase
from vidseg.frames.native import operators
from vidseg.videos import MotionSource, VideoError, VideoSource, compensated, read_motion, residual_of
from vidseg.videos.orientation import frame_orientation

MOTION = (3, 2)  # pixels per frame to the right and down
SIZE = (112, 144)


def texture(side: int = 320) -> np.ndarray:
    """Smooth RGB noise of three scales, in which every block has one place."""
    generator = np.random.default_rng(0)
    total = np.zeros((side, side, 3))
    for step in (40, 20, 8):
        values = generator.random((side // step + 2, side // step + 2, 3))
        whole, part = np.divmod(np.arange(side) / step, 1)
        index, part = whole.astype(int), part**2 * (3 - 2 * part)
        rows = values[index] * (1 - part)[:, None, None] + values[index + 1] * part[:, None, None]
        total += rows[:, index] * (1 - part)[None, :, None] + rows[:, index + 1] * part[None, :, None]
    return (16 + 220 * (total - total.min()) / np.ptp(total)).astype(np.uint8)


TEXTURE = texture()


def write(path: Path, codec="libx264", frames=13, size=SIZE, motion=MOTION, options=None, pixels="yuv420p") -> Path:
    """Write a video of the texture, moved by `motion` from frame to frame."""
    height, width = size
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        if codec != "libx264":
            stream.bit_rate = 8_000_000
        for index in range(frames):
            top, left = 90 - motion[1] * index, 100 - motion[0] * index
            part = np.ascontiguousarray(TEXTURE[top : top + height, left : left + width])
            frame = av.VideoFrame.from_ndarray(part, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def x264(text: str) -> dict:
    return {"x264-params": f"scenecut=0:{text}"}


VIDEOS = {
    "p.mp4": {"options": x264("bframes=0:ref=1")},
    "b.ts": {"options": x264("bframes=2:b-adapt=0:b-pyramid=none:ref=1")},
    "pyramid.mp4": {"options": x264("bframes=3:b-adapt=0:b-pyramid=normal:ref=1")},
    "several.mkv": {"options": x264("bframes=3:b-adapt=0:b-pyramid=normal:ref=4:keyint=8")},
    "raw.h264": {"options": x264("bframes=3:b-adapt=0:b-pyramid=normal:ref=1")},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4_b.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "40"}},
    "mpeg2_b.mpg": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "mpeg1.mpg": {"codec": "mpeg1video"},
}

ONLY_P = {"p.mp4", "mpeg4.mp4", "mpeg1.mpg"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("motion")
    for name, arguments in VIDEOS.items():
        write(folder / name, **arguments)
    return folder


def inside(field: np.ndarray) -> np.ndarray:
    """Field without a margin, (2, N): blocks at the edges have no place in the frame before."""
    return field[:, 24:-24, 24:-24].reshape(2, -1)


def raw_vectors(path: Path) -> list[np.ndarray]:
    """Motion vectors of each displayed frame as PyAV returns them."""
    rows = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.flags2 |= Flags2.export_mvs
        for frame in container.decode(stream):
            found = frame.side_data.get("MOTION_VECTORS")
            rows.append(np.empty(0) if found is None else found.to_ndarray().copy())
    return rows


def slow_field(rows: np.ndarray, height: int, width: int) -> np.ndarray:
    """Field of vectors to the frame before, one block and pixel at a time."""
    field = np.zeros((2, height, width), np.float32)
    for row in rows:
        for y in range(int(row["dst_y"]) - row["h"] // 2, int(row["dst_y"]) + row["h"] // 2):
            for x in range(int(row["dst_x"]) - row["w"] // 2, int(row["dst_x"]) + row["w"] // 2):
                if 0 <= y < height and 0 <= x < width:
                    field[:, y, x] = np.array([row["motion_x"], row["motion_y"]]) / row["motion_scale"]
    return field


# --- known motion -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VIDEOS)
def test_vectors_are_the_motion_between_neighbors(folder, name):
    motions = list(read_motion(folder / name))
    assert len(motions) == len(list(VideoSource(folder / name))) == 13
    assert [motion.index for motion in motions] == list(range(13))
    moving = [motion for motion in motions if motion.field.any()]
    assert len(moving) >= 9
    assert {motion.picture_type for motion in moving} == ({"P"} if name in ONLY_P else {"P", "B"})
    for motion in moving:
        values = inside(motion.field)
        assert np.abs(np.median(values, axis=1) + MOTION).max() < 0.3
        assert (np.abs(values.T + MOTION).max(axis=1) < 0.3).mean() > 0.7
    exact = [tuple(np.median(inside(motion.field), axis=1)) == (-3, -2) for motion in moving]
    assert np.mean(exact) > 0.8


@pytest.mark.parametrize("name", VIDEOS)
def test_accumulated_motion_is_the_sum(folder, name):
    since = 0
    for motion in read_motion(folder / name, accumulate=True):
        if motion.picture_type == "I":
            since = motion.index
            assert not motion.field.any()
            continue
        # Textures that enter the frame since the I-frame have no place in it.
        part = motion.field[:, 24 + 2 * (motion.index - since) : -24, 24 + 3 * (motion.index - since) : -24]
        expected = np.array(MOTION) * (motion.index - since)
        if name in {"mpeg4_b.avi", "mpeg2_b.mpg"} and motion.index > 6:
            continue  # these encoders code many blocks without vectors; nothing leads further back
        assert np.abs(np.median(part, axis=(1, 2)) + expected).max() < 0.3, motion.index
    assert since < 13


def test_an_i_frame_has_no_motion_and_starts_anew(folder):
    types = [motion.picture_type for motion in read_motion(folder / "several.mkv")]
    assert types.count("I") == 2
    second = types.index("I", 1)
    for accumulate in (False, True):
        motions = list(read_motion(folder / "several.mkv", accumulate=accumulate, residuals=True))
        for index in (0, second):
            assert not motions[index].field.any() and not motions[index].residual.any()
    after = inside(motions[second + 1].field)
    assert np.median(after, axis=1).tolist() == [-3, -2]


# --- construction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, pixels", [(SIZE, "yuv420p"), ((75, 101), "yuv444p")])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_the_field_equals_a_slow_construction(tmp_path, size, pixels, codec):
    options = x264("bframes=0:ref=1:qp=30") if codec == "libx264" else {}
    path = write(
        tmp_path / "x.mp4",
        codec,
        size=size,
        frames=6,
        options=options,
        pixels="yuv420p" if codec == "mpeg4" else pixels,
    )
    rows = raw_vectors(path)
    assert sum(len(each) for each in rows) > 100
    for motion, each in zip(read_motion(path), rows, strict=True):
        assert np.array_equal(motion.field, slow_field(each, *size))


def test_a_block_begins_half_its_size_before_its_center(folder):
    """16x8 and 8x8 blocks, too; the published `dst // size` moves them by half a block."""
    rows = raw_vectors(folder / "pyramid.mp4")
    sizes = {(int(row["w"]), int(row["h"])) for each in rows for row in each}
    assert {(16, 16), (8, 8)} < sizes
    for each in rows:
        for row in each:
            assert (row["dst_x"] - row["w"] // 2) % row["w"] == (row["dst_y"] - row["h"] // 2) % row["h"] == 0


def bilinear(picture: np.ndarray, field: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    x, y = (x + field[0]).clip(0, width - 1), (y + field[1]).clip(0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, low = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    a, b = (x - left)[..., None], (y - top)[..., None]
    upper = picture[top, left] * (1 - a) + picture[top, right] * a
    return upper * (1 - b) + (picture[low, left] * (1 - a) + picture[low, right] * a) * b


def test_compensation_is_bilinear_with_repeated_borders():
    generator = np.random.default_rng(1)
    picture = generator.integers(0, 256, (37, 51, 3), dtype=np.uint8)
    field = generator.uniform(-40, 40, (2, 37, 51)).astype(np.float32)
    assert np.abs(compensated(picture, field) - bilinear(picture, field)).max() < 0.501
    whole = field.round()
    assert np.array_equal(compensated(picture, whole), bilinear(picture, whole).astype(np.uint8))
    assert np.array_equal(compensated(picture, np.zeros_like(field)), picture)
    far = np.full_like(field, -1e9)
    assert (compensated(picture, far) == picture[0, 0]).all()


@pytest.mark.parametrize("name", ["p.mp4", "pyramid.mp4", "mpeg4_b.avi", "mpeg2_b.mpg"])
def test_a_frame_is_the_compensated_reference_plus_the_residual(folder, name):
    last, remaining, unmoved = None, [], []
    for motion in read_motion(folder / name, pictures=True, residuals=True):
        assert motion.residual.dtype == np.int16 and motion.residual.shape == motion.picture.shape == (*SIZE, 3)
        if motion.field.any():
            assert np.array_equal(compensated(last, motion.field) + motion.residual, motion.picture)
            assert np.array_equal(motion.residual, residual_of(motion.picture, last, motion.field))
            remaining.append(np.abs(motion.residual[24:-24, 24:-24]).mean())
            unmoved.append(np.abs(motion.picture.astype(int) - last)[24:-24, 24:-24].mean())
        last = motion.picture
    assert np.mean(remaining) < 0.5 * np.mean(unmoved)


def test_accumulated_residuals_refer_to_the_i_frame(folder):
    base = None
    for motion in read_motion(folder / "several.mkv", accumulate=True, pictures=True, residuals=True):
        if motion.picture_type == "I":
            base = motion.picture
        else:
            assert np.array_equal(compensated(base, motion.field) + motion.residual, motion.picture)


def test_pictures_are_the_decoded_frames(folder):
    frames = [item.frame.to_ndarray(format="rgb24") for item in VideoSource(folder / "pyramid.mp4")]
    for motion, frame in zip(read_motion(folder / "pyramid.mp4", pictures=True), frames, strict=True):
        assert motion.residual is None
        assert np.abs(motion.picture.astype(int) - frame).mean() < 3  # swscale repeats chroma, vidseg interpolates it


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.zeros(41, dtype=torch.uint8), 0, 0, 8, 8, False, False, False, 8, 8, 1.0, 0.0), "41 bytes"),
        ((torch.zeros(40, dtype=torch.uint8), 0, 0, 8, 8, False, False, False, 0, 8, 1.0, 0.0), "frame size"),
        ((torch.zeros(40, dtype=torch.uint8), 0, 0, 0, 8, False, False, False, 8, 8, 1.0, 0.0), "frame size"),
        ((torch.zeros(40), 0, 0, 8, 8, False, False, False, 8, 8, 1.0, 0.0), "uint8"),
    ],
)
def test_arguments_of_the_operator_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        operators.motion_field(*arguments)


def test_vectors_of_any_value_stay_inside():
    """Blocks outside of the frame, of no size, and without a scale."""
    generator = np.random.default_rng(2)
    noise = torch.from_numpy(generator.integers(0, 256, 40 * 500, dtype=np.uint8))
    field = operators.motion_field(noise, -5, 3, 60, 40, True, True, False, 33, 71, 0.5, -1.0)
    assert field.shape == (2, 71, 33) and torch.isfinite(field).all()
    with pytest.raises(ValueError, match="must be equal"):
        operators.chain_motion(field, field[:, 1:].contiguous())
    with pytest.raises(ValueError, match="frame must have the shape"):
        compensated(np.zeros((4, 5, 3), np.uint8), np.zeros((2, 5, 4), np.float32))


# --- frames of a conversion ---------------------------------------------------------------------------------------


def with_matrix(path: Path, source: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Copy an MP4 with another display matrix."""
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # of version 0
    a, b, c, d = matrix
    data[place : place + 36] = struct.pack(">9i", *(value << 16 for value in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "matrix", [(0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]
)
def test_a_rotated_video_has_rotated_vectors(folder, tmp_path, matrix):
    turned = with_matrix(tmp_path / "turned.mp4", folder / "pyramid.mp4", matrix)
    orientation = frame_orientation(next(iter(VideoSource(turned))).frame)
    a, b, c, d = matrix
    pairs = zip(read_motion(folder / "pyramid.mp4"), read_motion(turned, residuals=True), strict=True)
    for upright, motion in pairs:
        x, y = (orientation.apply(plane) for plane in upright.field)
        assert np.array_equal(motion.field, np.stack([a * x + c * y, b * x + d * y]))
        assert motion.residual.shape[:2] == motion.field.shape[1:]
    expected = (-a * 3 - c * 2, -b * 3 - d * 2)
    assert tuple(np.median(inside(motion.field), axis=1)) == expected


def test_vectors_scale_with_the_frame(folder):
    full = list(read_motion(folder / "p.mp4"))
    for size, (height, width) in {"56": (56, 72), "100x200": (200, 100), "none": SIZE}.items():
        for motion, whole in zip(read_motion(folder / "p.mp4", size=size, residuals=True), full, strict=True):
            rows = ((np.arange(height) + 0.5) * SIZE[0] / height).astype(int)
            columns = ((np.arange(width) + 0.5) * SIZE[1] / width).astype(int)
            scale = np.array([width / SIZE[1], height / SIZE[0]], np.float32)[:, None, None]
            assert np.allclose(motion.field, whole.field[:, rows][:, :, columns] * scale, atol=1e-5)
            assert motion.residual.shape == (height, width, 3)


@pytest.mark.parametrize("fps", [None, 10, 50])
def test_rows_are_those_of_the_database(folder, tmp_path, fps):
    names = ["pyramid.mp4", "mpeg4_b.avi"]
    (tmp_path / "v").mkdir()
    for name in names:
        (tmp_path / "v" / name).symlink_to(folder / name)
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=1, size="64", fps=fps).ok
    for name in names:
        database = FrameDatabase(tmp_path / "data/jpg/unlabeled" / Path(name).stem)
        motions = list(read_motion(folder / name, size="64", fps=fps, pictures=True, residuals=True))
        assert len(motions) == len(database)
        frames = database.decode(range(len(database))).numpy()
        for index, motion in enumerate(motions):
            assert motion.time == pytest.approx(database.timestamps[index], abs=1e-4)
            assert np.abs(frames[index].astype(int) - motion.picture).mean() < 6


def test_resampled_motion_leads_to_the_frame_shown_before(folder):
    half = list(read_motion(folder / "pyramid.mp4", fps=12.5, pictures=True, residuals=True))
    assert not half[0].field.any()
    for one, other in itertools.pairwise(half):
        assert np.median(inside(other.field), axis=1).tolist() == [-6, -4]
        assert np.array_equal(compensated(one.picture, other.field) + other.residual, other.picture)
    double = list(read_motion(folder / "pyramid.mp4", fps=50, residuals=True))
    moves = [np.median(inside(motion.field), axis=1).tolist() for motion in double]
    assert moves[1::2] == [[0, 0]] * 13 and moves[2::2] == [[-3, -2]] * 12
    assert not any(motion.residual.any() for motion in double[1::2])
    last = list(read_motion(folder / "pyramid.mp4", fps=12.5, accumulate=True))[-1]
    assert np.median(inside(last.field), axis=1) == pytest.approx([-36, -24], abs=0.5)


def test_a_clip_has_the_motion_of_the_whole_video_after_its_first_frame(folder):
    whole = list(read_motion(folder / "pyramid.mp4"))
    clip = list(MotionSource(folder / "pyramid.mp4", start=0.22, stop=0.40))
    assert [motion.time for motion in clip] == pytest.approx([0.24, 0.28, 0.32, 0.36])
    assert not clip[0].field.any()
    for motion, other in zip(clip[1:3], whole[7:9], strict=True):
        assert np.array_equal(motion.field, other.field)
    accumulated = list(MotionSource(folder / "pyramid.mp4", start=0.22, accumulate=True))
    assert np.median(inside(accumulated[3].field), axis=1).tolist() == [-9, -6]


def test_margins_of_the_container_are_cut_off(tmp_path):
    path = write(tmp_path / "x.mkv", options=x264("bframes=0:ref=1"), frames=4)
    cropped = tmp_path / "cropped.mkv"
    cropped.write_bytes(pixel_crop(path.read_bytes(), left=10, top=4, right=6, bottom=8))
    for whole, part in zip(read_motion(path), read_motion(cropped, residuals=True), strict=True):
        assert np.array_equal(part.field, whole.field[:, 4:-8, 10:-6])
        assert part.residual.shape[:2] == part.field.shape[1:]


# --- faults -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pyramid.mp4", "several.mkv", "b.ts", "mpeg2_b.mpg", "mpeg4_b.avi"])
@pytest.mark.parametrize("fault", ["cut", "noise"])
def test_damaged_videos_give_the_frames_of_the_decoder(folder, tmp_path, name, fault):
    data = bytearray((folder / name).read_bytes())
    if fault == "cut" and name != "pyramid.mp4":  # whose index is at the end
        data = data[: len(data) * 2 // 3]
    else:
        places = np.random.default_rng(3).integers(len(data) // 4, len(data) * 3 // 4, 12)
        for place in places:
            data[place] ^= 0x55
    path = tmp_path / name
    path.write_bytes(data)
    source = VideoSource(path)
    try:
        times = [item.time for item in source]
    except VideoError as error:
        with pytest.raises(VideoError) as raised:
            list(read_motion(path))
        assert str(raised.value) == f"{path}: {error}"
        return
    for accumulate in (False, True):
        motions = MotionSource(path, accumulate=accumulate, residuals=True)
        found = list(motions)
        assert [motion.time for motion in found] == times
        assert motions.damage == source.damage
        assert all(np.isfinite(motion.field).all() for motion in found)


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"x\.mp4: FFmpeg cannot open this file as a video"):
        next(read_motion(tmp_path / "x.mp4"))
    with pytest.raises(ValueError, match="fps is 0"):
        MotionSource(tmp_path / "x.mp4", fps=0)


@pytest.mark.parametrize("codec, name", [("libx265", "x.mp4"), ("libvpx-vp9", "x.webm"), ("mjpeg", "x.avi")])
def test_codecs_without_vectors_are_refused_with_the_remedy(tmp_path, codec, name):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    path = write(tmp_path / name, codec, frames=3, pixels="yuvj420p" if codec == "mjpeg" else "yuv420p")
    with pytest.raises(VideoError, match=rf"{name}: no motion vectors: .*Re-encode the video, .*ffmpeg -i"):
        next(read_motion(path))
