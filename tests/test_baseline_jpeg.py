"""The loader's own decoder of baseline JPEGs against libjpeg: the same pixels, whatever part of a picture is wanted."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_data import break_row, crop, hand_plan, natural
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.frames import FrameDatabaseError, FrameWriter, decode_jpeg, encode_channels, encode_rgb
from vidseg.labels import VideoDataset, VideoRecord, open_dataset, update_catalog
from vidseg.loaders.native_backend import NativeFiller
from vidseg.loaders.output import OutputForm

ROOT = Path(__file__).parent.parent

def dataset_of(root: Path, jpegs: list[bytes], *, height: int, width: int) -> VideoDataset:
    """One video of these frames."""
    with FrameWriter(root / "jpg/a/v/frames.db") as writer:
        for jpeg in jpegs:
            writer.add(jpeg, width=width)
    size = (root / "jpg/a/v/frames.db").stat().st_size
    shape = {"frames": len(jpegs), "height": height, "width": width, "fps": 25.0, "seconds": 1.0}
    update_catalog(root, [VideoRecord(path="jpg/a/v", label="a", size_bytes=size, **shape)])
    return open_dataset(root)


def encoded(rgb: np.ndarray, quality: int, *, chroma: int, **options: int) -> bytes:
    """A JPEG of (H, W, 3); chroma 0: three channels without color conversion, as flow is stored."""
    frame = torch.from_numpy(np.clip(rgb, 0, 255).astype(np.uint8))
    if chroma == 0:
        return encode_channels(frame.permute(2, 0, 1).contiguous(), quality, **options)[0]
    return encode_rgb(frame, quality, chroma=chroma, **options)[0]


def cut(data: VideoDataset, left: int, top: int, width: int, height: int, *, frames: int) -> torch.Tensor:
    """uint8 (T, H, W, 3): a rectangle without resampling."""
    size = (height, width)
    plan = hand_plan([crop(left, top, width, height, size=size)], size=size, frames=range(frames))
    filler = NativeFiller(data, OutputForm(dtype=torch.uint8, layout="bthwc"), threads=1)
    return filler.fill(plan)[0][0]


@settings(max_examples=120, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 120),
    chroma=st.sampled_from([420, 444, 0]),
    restart=st.sampled_from([-1, 0, 1, 3, 5, 40]),
    quality=st.sampled_from([1, 30, 75, 90, 100]),
    optimize=st.booleans(),
    grain=st.sampled_from([0, 12, 255]),
    seed=st.integers(0, 2**16),
)
def test_every_part_of_a_picture_is_that_of_libjpeg(
    tmp_path_factory, height, width, chroma, restart, quality, optimize, grain, seed
):
    rng = np.random.default_rng(seed)
    rgb = natural(seed, height=height, width=width).astype(int) if min(height, width) > 8 else np.full((1, 1, 3), 99)
    rgb = np.broadcast_to(rgb, (height, width, 3)) + rng.integers(-grain, grain + 1, (height, width, 3))
    jpeg = encoded(rgb, quality, chroma=chroma, restart_interval=restart, optimize=optimize)
    whole = decode_jpeg(jpeg)
    data = dataset_of(tmp_path_factory.mktemp("baseline"), [jpeg], height=height, width=width)
    for _ in range(4):
        left, top = int(rng.integers(width)), int(rng.integers(height))
        across, down = int(rng.integers(1, width - left + 1)), int(rng.integers(1, height - top + 1))
        part = cut(data, left, top, across, down, frames=1)[0]
        assert torch.equal(part, whole[top : top + down, left : left + across])


def test_no_picture_is_left_to_libjpeg(tmp_path):
    """That would be as right, and slower: none of the other tests would notice. The planes and pixels are those of every
    instruction set, and of the code for processors without any."""
    common = ("baseline", "huffman", "layout", "planes", "region")
    sources = {
        "common": [ROOT / "tests/baseline_decoder.cpp", *(ROOT / f"csrc/frames/{name}.cpp" for name in common)],
        "vectors": [ROOT / "csrc/frames/idct.cpp", ROOT / "csrc/frames/upsample.cpp"],
        "plain": [ROOT / "csrc/frames/idct.cpp", ROOT / "csrc/frames/upsample.cpp", "-DVIDSEG_PLAIN_VECTORS"],
    }
    builds = []
    for folder, arguments in sources.items():
        (tmp_path / folder).mkdir()
        command = ["g++", "-std=c++17", "-O1", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/frames'}", "-c", *arguments]
        builds.append(subprocess.Popen(command, cwd=tmp_path / folder))
    assert [build.wait() for build in builds] == [0, 0, 0]
    for folder in ("vectors", "plain"):
        objects = [*(tmp_path / "common").glob("*.o"), *(tmp_path / folder).glob("*.o")]
        subprocess.run(["g++", *objects, "-o", tmp_path / folder / "program"], check=True)
    rng = np.random.default_rng(0)
    for number in range(80):
        height, width, quality = int(rng.integers(16, 90)), int(rng.integers(16, 120)), (30, 75, 90, 100)[number % 4]
        noise = rng.integers(-1, 2, (height, width, 3)) * (0, 12, 255)[number % 3]
        rgb = natural(number, height=height, width=width).astype(int) + noise
        restart = (-1, 0, 1, 3, 5, 40)[int(rng.integers(6))]
        options = {"chroma": (420, 444, 0)[number // 2 % 3], "restart_interval": restart, "optimize": number % 5 == 0}
        jpeg = encoded(rgb, quality, **options)
        (tmp_path / f"{quality} {restart} {number}.jpg").write_bytes(jpeg)
    files = sorted(tmp_path.glob("*.jpg"))
    results = []
    for folder, simd in (("vectors", ""), ("vectors", "baseline"), ("plain", "")):
        environment = {**os.environ, "VIDSEG_SIMD": simd}
        run = subprocess.run([tmp_path / folder / "program", *files], capture_output=True, text=True, check=True, env=environment)
        assert [line for line in run.stdout.splitlines() if line.endswith(".jpg")] == []
        results.append(run.stdout)
    assert len(results[0].splitlines()) == len(files) and results[0] == results[1] == results[2]


def test_it_is_this_decoder_that_reads(tmp_path):
    """Markers that do not divide a row are of no use to libjpeg, which reads all that stands before a crop."""
    rgb = torch.from_numpy(natural(1, height=64, width=128))
    (jpeg,) = encode_rgb(rgb, 90, restart_interval=3)
    whole = decode_jpeg(jpeg)
    marker = jpeg.index(b"\xff\xd0")
    damaged = jpeg[: marker - 6] + jpeg[marker:]  # the end of the first interval is missing
    with pytest.raises(RuntimeError, match="damaged JPEG"):
        decode_jpeg(damaged)
    data = dataset_of(tmp_path / "data", [damaged], height=64, width=128)
    assert torch.equal(cut(data, 70, 20, 50, 40, frames=1)[0], whole[20:60, 70:120])


def test_tables_are_those_of_each_frame(tmp_path):
    """One decoder reads frames of different Huffman and quantization tables in turn."""
    size = {"height": 40, "width": 56}
    jpegs = [
        encode_rgb(torch.from_numpy(natural(number, **size)), quality, optimize=optimize)[0]
        for number, (quality, optimize) in enumerate([(90, False), (50, True), (90, True), (50, False), (90, False)])
    ]
    data = dataset_of(tmp_path, jpegs, **size)
    parts = cut(data, 3, 2, 50, 30, frames=len(jpegs))
    for part, jpeg in zip(parts, jpegs, strict=True):
        assert torch.equal(part, decode_jpeg(jpeg)[2:32, 3:53])


def test_bytes_behind_an_interval_change_no_pixel(tmp_path):
    """Between its last code and the marker: the decoder leaves such files to libjpeg, which skips the bytes."""
    rgb = torch.from_numpy(natural(2, height=32, width=64))
    (jpeg,) = encode_rgb(rgb, 90, restart_interval=2)
    data = dataset_of(tmp_path, [jpeg], height=32, width=64)
    whole = cut(data, 0, 0, 64, 32, frames=1)
    marker = jpeg.index(b"\xff\xd0")
    break_row(data[0].path, 1, jpeg[:marker] + bytes(8) + jpeg[marker:])
    assert torch.equal(cut(data, 0, 0, 64, 32, frames=1), whole)


def test_a_smaller_decode_reads_the_intervals_of_its_crop_alone(tmp_path):
    """That one is libjpeg's, of a part cut out between markers: damage elsewhere is not met."""
    rgb = torch.from_numpy(natural(3, height=128, width=256))
    (jpeg,) = encode_rgb(rgb, 90, restart_interval=2)
    data = dataset_of(tmp_path, [jpeg], height=128, width=256)
    size = (12, 16)
    plan = hand_plan([crop(160, 64, 64, 48, size=size)], size=size)
    expected = NativeFiller(data, OutputForm(dtype=torch.uint8), threads=1).fill(plan)[0]
    marker = jpeg.index(b"\xff\xd0")
    break_row(data[0].path, 1, jpeg[: marker - 6] + jpeg[marker:])
    assert torch.equal(NativeFiller(data, OutputForm(dtype=torch.uint8), threads=1).fill(plan)[0], expected)
    with pytest.raises(RuntimeError, match="damaged"):
        whole = hand_plan([crop(0, 0, 256, 128, size=(32, 64))], size=(32, 64))
        NativeFiller(data, OutputForm(dtype=torch.uint8), threads=1).fill(whole)


@pytest.mark.parametrize("parameter", [0, 1, 2], ids=["start", "end", "approximation"])
def test_headers_that_libjpeg_refuses_are_refused(tmp_path, parameter):
    """A scan of part of the coefficients is not a sequential JPEG; libjpeg warns of it, and reads all of them."""
    jpeg = bytearray(encode_rgb(torch.from_numpy(natural(3, height=32, width=48)), 80)[0])
    scan = jpeg.index(b"\xff\xda")
    jpeg[scan + 11 + parameter] ^= 1  # after marker, length, number of components, and two bytes for each
    with pytest.raises(RuntimeError, match="damaged JPEG: Invalid SOS parameters"):
        decode_jpeg(bytes(jpeg))
    data = dataset_of(tmp_path, [bytes(jpeg)], height=32, width=48)
    with pytest.raises(FrameDatabaseError, match="frame 0: damaged JPEG: Invalid SOS parameters"):
        cut(data, 0, 0, 48, 32, frames=1)
