"""JPEG encode, decode and re-coding against Pillow, and color against exact arithmetic."""

import io

import numpy as np
import pytest
import torch
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vidseg.frames import decode_jpeg, encode_planes, encode_rgb, recode_jpeg
from vidseg.frames.jpeg import resize_frame


def pillow_decode(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def pillow_encode(rgb: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def markers(jpeg: bytes) -> int:
    """Restart markers in the entropy-coded data."""
    return sum(jpeg.count(bytes([0xFF, 0xD0 + k])) for k in range(8))


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.RandomState(seed).randint(0, 256, (max(2, height // 12), max(2, width // 12), 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    chroma=st.sampled_from([420, 444]),
    restart=st.sampled_from([-1, 0, 1, 3]),
    optimize=st.booleans(),
    levels=st.integers(0, 3),
)
def test_encode_rgb_is_readable_by_pillow_at_every_size(height, width, chroma, restart, optimize, levels):
    rgb = smooth(height, width)
    jpegs = encode_rgb(
        torch.from_numpy(rgb), 95, chroma=chroma, restart_interval=restart, optimize=optimize, levels=levels
    )
    assert len(jpegs) == 1 + levels
    for level, jpeg in enumerate(jpegs):
        image = Image.open(io.BytesIO(jpeg))
        expected = (-(-height // 2**level), -(-width // 2**level))
        assert (image.height, image.width) == expected
        assert np.array_equal(decode_jpeg(jpeg).numpy(), pillow_decode(jpeg))


@pytest.mark.parametrize("chroma", [420, 444])
def test_encode_rgb_matches_pillows_encoder(chroma):
    rgb = smooth(96, 130)
    ours = decode_jpeg(encode_rgb(torch.from_numpy(rgb), 90, chroma=chroma)[0]).numpy().astype(int)
    theirs = pillow_decode(pillow_encode(rgb, quality=90, subsampling={420: 2, 444: 0}[chroma])).astype(int)
    assert np.abs(ours - rgb).mean() <= np.abs(theirs - rgb).mean() + 0.05
    assert np.abs(ours - theirs).mean() < 0.6


def test_restart_interval_divides_a_row_of_mcus():
    for width in (340, 320, 352, 456, 64, 170, 102):
        (jpeg,) = encode_rgb(torch.from_numpy(smooth(64, width)), 90)
        mcus = -(-width // 16)
        interval = int.from_bytes(jpeg[jpeg.index(b"\xff\xdd") + 4 :][:2], "big")
        assert mcus % interval == 0
        assert markers(jpeg) == mcus * 4 // interval - 1
    assert markers(encode_rgb(torch.from_numpy(smooth(64, 64)), 90, restart_interval=0)[0]) == 0


def test_levels_are_the_halved_picture():
    rgb = smooth(64, 96)
    full, half, quarter = (
        decode_jpeg(jpeg).numpy().astype(float) for jpeg in encode_rgb(torch.from_numpy(rgb), 95, chroma=444, levels=2)
    )
    expected = rgb.reshape(32, 2, 48, 2, 3).mean((1, 3))
    assert np.abs(full - rgb).mean() < 2
    assert np.abs(half - expected).mean() < 2
    assert np.abs(quarter - expected.reshape(16, 2, 24, 2, 3).mean((1, 3))).mean() < 2


KR_KB = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}


def to_ycbcr(rgb: np.ndarray, kr: float, kb: float, full: bool) -> list[np.ndarray]:
    """The definition: ITU-R BT.601/709/2020, 8 bits."""
    r, g, b = (rgb[..., k].astype(float) for k in range(3))
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))
    planes = (y, cb + 128, cr + 128) if full else (16 + y * 219 / 255, 128 + cb * 224 / 255, 128 + cr * 224 / 255)
    return [np.clip(np.round(plane), 0, 255).astype(np.uint8) for plane in planes]


@pytest.mark.parametrize("matrix", KR_KB)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("chroma", [420, 444])
def test_encode_planes_brings_every_encoding_back_to_the_same_rgb(matrix, full, chroma):
    rgb = smooth(80, 112, seed=3)
    rgb = (rgb // 2 + 60).astype(np.uint8)  # stays within the gamut of limited range after rounding
    planes = to_ycbcr(rgb, *KR_KB[matrix], full)
    if chroma == 420:
        planes[1:] = [plane.reshape(40, 2, 56, 2).mean((1, 3)).round().astype(np.uint8) for plane in planes[1:]]
    (jpeg,) = encode_planes(
        [torch.from_numpy(plane.reshape(-1).copy()) for plane in planes],
        [plane.shape[1] for plane in planes],
        width=112,
        height=80,
        quality=100,
        chroma=chroma,
        luma_weights=KR_KB[matrix],
        full_range=full,
    )
    error = decode_jpeg(jpeg).numpy().astype(float) - rgb
    assert np.abs(error).mean() < 1.5
    assert np.abs(error.mean((0, 1))).max() < 0.5  # no cast of color or brightness


def test_encode_planes_honors_strides_and_refuses_short_planes():
    y = torch.arange(64 * 40, dtype=torch.int64).remainder(256).to(torch.uint8)
    chroma = torch.full((32 * 20,), 128, dtype=torch.uint8)
    wide = torch.zeros(40, 80, dtype=torch.uint8)
    wide[:, :64] = y.reshape(40, 64)
    one = encode_planes([y, chroma, chroma], [64, 32, 32], width=64, height=40)
    assert one == encode_planes([wide.reshape(-1), chroma, chroma], [80, 32, 32], width=64, height=40)
    with pytest.raises(RuntimeError, match="luma plane: 2000 bytes given, 2560 needed"):
        encode_planes([y[:2000], chroma, chroma], [64, 32, 32], width=64, height=40)
    with pytest.raises(RuntimeError, match="shorter than its 64 pixels"):
        encode_planes([y, chroma, chroma], [60, 32, 32], width=64, height=40)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"quality": 0}, "quality is 0"),
        ({"chroma": 422}, "chroma is 422"),
        ({"levels": 9}, "levels is 9"),
        ({"restart_interval": -2}, "restart_interval is -2"),
        ({"luma_weights": (0.6, 0.5)}, "kr 0.6 and kb 0.5"),
        ({"width": 65501}, "frame size 65501x40"),
    ],
)
def test_encode_planes_names_what_is_out_of_range(options, message):
    planes = [np.zeros(64 * 40, np.uint8), np.zeros(32 * 20, np.uint8), np.zeros(32 * 20, np.uint8)]
    with pytest.raises(ValueError, match=message):
        encode_planes(planes, [64, 32, 32], **({"width": 64, "height": 40} | options))


def test_encode_planes_refuses_other_arrays():
    luma, chroma = np.zeros((40, 64), np.uint8), np.zeros(32 * 20, np.uint8)
    for bad in (luma.astype(np.float32), np.zeros((40, 128), np.uint8)[:, ::2]):
        with pytest.raises(ValueError, match="must be contiguous uint8"):
            encode_planes([bad, chroma, chroma], [64, 32, 32], width=64, height=40)
    with pytest.raises(RuntimeError, match="Cr plane"):
        encode_planes([luma, chroma], [64, 32], width=64, height=40)


@pytest.mark.parametrize(
    "options", [{"quality": 101}, {"quality": 0}, {"chroma": 422}, {"levels": -1}, {"restart_interval": -2}]
)
def test_encode_rgb_names_what_is_out_of_range(options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=f"{name} is {options[name]}"):
        encode_rgb(torch.zeros(8, 8, 3, dtype=torch.uint8), **options)


def test_encode_rgb_refuses_other_tensors():
    for bad in (torch.zeros(8, 8, 4, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8), torch.zeros(8, 8, 3)):
        with pytest.raises(ValueError, match="frame must"):
            encode_rgb(bad)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 1}, {"optimize": True}])
def test_decode_equals_pillow(mode, options):
    rgb = smooth(61, 83)
    jpeg = pillow_encode(np.asarray(Image.fromarray(rgb).convert(mode)), **options)
    assert np.array_equal(decode_jpeg(jpeg).numpy(), pillow_decode(jpeg))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("restart", [-1, 0, 1])
def test_recode_keeps_every_pixel(mode, options, restart):
    jpeg = pillow_encode(np.asarray(Image.fromarray(smooth(61, 83)).convert(mode)), **options)
    other = recode_jpeg(jpeg, restart_interval=restart)
    assert np.array_equal(decode_jpeg(other).numpy(), decode_jpeg(jpeg).numpy())
    assert (markers(other) > 0) == (restart != 0)
    assert len(recode_jpeg(jpeg, restart_interval=restart, optimize=True)) <= len(other)


def test_damaged_jpegs_raise_and_never_crash():
    jpeg = pillow_encode(smooth(64, 64))
    cmyk = io.BytesIO()
    Image.new("CMYK", (16, 16)).save(cmyk, "JPEG")
    for bad in (
        jpeg[:200],
        jpeg[: len(jpeg) // 2],
        b"\xff\xd8\xff",
        b"not a JPEG",
        cmyk.getvalue(),
        jpeg[:2] + jpeg[100:],
    ):
        for function in (decode_jpeg, recode_jpeg):
            with pytest.raises(RuntimeError, match="JPEG"):
                function(bad)
    with pytest.raises(ValueError, match="no bytes"):
        decode_jpeg(b"")


def test_a_frame_larger_than_any_video_is_refused_before_its_memory_is_taken():
    jpeg = bytearray(pillow_encode(smooth(16, 16)))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = (65500).to_bytes(2, "big") * 2
    with pytest.raises(RuntimeError, match="65500x65500 pixels is larger than any video frame"):
        decode_jpeg(bytes(jpeg))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_never_crash(data):
    jpeg = bytearray(JPEG)
    for _ in range(data.draw(st.integers(1, 8))):
        jpeg[data.draw(st.integers(0, len(jpeg) - 1))] = data.draw(st.integers(0, 255))
    for function in (decode_jpeg, recode_jpeg):
        try:
            function(bytes(jpeg))
        except RuntimeError as error:
            assert "JPEG" in str(error)


JPEG = pillow_encode(picture(0), progressive=False)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), to_height=st.integers(1, 120), to_width=st.integers(1, 120))
def test_resize_is_pillows_antialiased_bilinear(height, width, to_height, to_width):
    rgb = np.random.RandomState(0).randint(0, 256, (height, width, 3), np.uint8)
    ours = resize_frame(torch.from_numpy(rgb), (to_height, to_width)).numpy().astype(int)
    theirs = np.asarray(Image.fromarray(rgb).resize((to_width, to_height), Image.Resampling.BILINEAR))
    assert np.abs(ours - theirs).max() <= 1
