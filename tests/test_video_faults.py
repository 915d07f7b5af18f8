"""Pictures as a player shows them, and files that must not open others, take all memory, or end unnoticed."""

import errno
import itertools
import os
import random
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from conftest import picture, write_published_database
from PIL import Image, ImageOps

from vidseg import ClipLoader, convert_videos, open_dataset, open_videos
from vidseg.convert.export import export_frames
from vidseg.frames import FrameDatabase, encode_rgb
from vidseg.live.source import LiveSource
from vidseg.videos import LabeledVideoWriter
from vidseg.videos.container_check import ContainerCheck, check_container
from vidseg.videos.decoding import VideoSource
from vidseg.videos.frame_index import read_frame_index
from vidseg.videos.frame_size import MAX_PIXELS
from vidseg.videos.opening import VideoError
from vidseg.videos.orientation import jpeg_orientation, jpeg_size

# --- orientation --------------------------------------------------------------------------------------------------


def displayed(pixels: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Place each stored pixel (x, y) at (a x + c y, b x + d y), the meaning of a display matrix."""
    y, x = np.mgrid[0 : pixels.shape[0], 0 : pixels.shape[1]]
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    result = np.zeros((down.max() + 1, right.max() + 1, 3), np.uint8)
    result[down, right] = pixels
    return result


MATRICES = [(a, 0, 0, d) for a, d in itertools.product((1, -1), repeat=2)]
MATRICES += [(0, b, c, 0) for b, c in itertools.product((1, -1), repeat=2)]


def test_all_display_matrices(tmp_path, make_video):
    plain = make_video(tmp_path / "plain.mp4", frames=3, options={"qp": "4"})
    data = bytearray(plain.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version, flags and times of a version 0 track header
    for number, (a, b, c, d) in enumerate(MATRICES):
        matrix = [value << 16 for value in (a, b, 0, c, d, 0, 0, 0)] + [0x40000000]
        data[start : start + 36] = struct.pack(">9i", *matrix)
        (tmp_path / "v").mkdir(exist_ok=True)
        (tmp_path / f"v/{number}.mp4").write_bytes(data)
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=1, quality=98).ok
    files = open_videos(tmp_path / "v")
    for number, matrix in enumerate(MATRICES):
        expected = displayed(picture(0), *matrix).astype(int)
        database = FrameDatabase(tmp_path / f"data/jpg/unlabeled/{number}")
        stored = database.decode([0])[0].numpy()
        assert stored.shape == expected.shape and np.abs(stored - expected).mean() < 4, matrix
        assert (files.heights[number], files.widths[number]) == expected.shape[:2]
        with LabeledVideoWriter(tmp_path / "labeled.mp4") as writer:
            writer.write(next(iter(VideoSource(tmp_path / f"v/{number}.mp4"))).frame, 0.0, "")
        with av.open(str(tmp_path / "labeled.mp4")) as container:
            drawn = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert np.abs(drawn.astype(int) - expected).mean() < 8, matrix
    options = {"frames": 2, "interval": 1, "size": 48, "train": False, "batch_size": 8, "dtype": torch.uint8}
    (batch,) = ClipLoader(files, backend="video", **options)
    (expected,) = ClipLoader(open_dataset(tmp_path / "data"), **options)
    assert (batch.frames.float() - expected.frames.float()).abs().mean((1, 2, 3, 4)).max() < 1.5


def turned_jpeg(orientation: int, number: int = 0) -> bytes:
    (jpeg,) = encode_rgb(torch.from_numpy(picture(number)), 95, restart_interval=0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = exif.tobytes()
    return jpeg[:2] + b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content + jpeg[2:]


def test_exif_orientation_of_jpegs(tmp_path):
    """In folders and in old databases, against Pillow."""
    for orientation in range(1, 9):
        jpegs = [turned_jpeg(orientation, number) for number in range(2)]
        folder = tmp_path / f"frames/run/{orientation}"
        folder.mkdir(parents=True)
        for number, jpeg in enumerate(jpegs, start=1):
            (folder / f"img_{number:05d}.jpg").write_bytes(jpeg)
        write_published_database(tmp_path / f"old/jpg/run/{orientation}", jpegs, width=64)
        assert (jpeg_orientation(jpegs[0]).exif, jpeg_size(jpegs[0])) == (orientation, (64, 48))
    for source in ("frames", "old"):
        assert convert_videos(tmp_path / source, tmp_path / f"new_{source}", workers=1, quality=98).ok
        for orientation in range(1, 9):
            with Image.open(tmp_path / f"frames/run/{orientation}/img_00002.jpg") as image:
                expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
            database = FrameDatabase(tmp_path / f"new_{source}/jpg/run/{orientation}")
            stored = database.decode([1])[0].numpy()
            assert stored.shape == expected.shape and np.abs(stored - expected).mean() < 3, orientation
            assert jpeg_orientation(database.read([1])[0]).exif == 1


@pytest.mark.parametrize("exif", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"JJ*\0\0\0\0\0"])
def test_damaged_exif_is_upright(exif):
    content = b"Exif\0\0" + exif
    jpeg = b"\xff\xd8\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content + b"\xff\xda"
    assert jpeg_orientation(jpeg).exif == 1
    assert jpeg_size(jpeg) is None


# --- crop ---------------------------------------------------------------------------------------------------------


def insert(data: bytes, place: int, content: bytes, sizes: list[tuple[int, int]]) -> bytes:
    """Insert bytes and add their number to the big-endian sizes at (place, width)."""
    changed = bytearray(data)
    for start, width in sizes:
        size = int.from_bytes(changed[start : start + width], "big") + len(content)
        changed[start : start + width] = size.to_bytes(width, "big")
    changed[place:place] = content
    return bytes(changed)


def clean_aperture(data: bytes, *, width: int, height: int, right: int, down: int) -> bytes:
    """Add a clean aperture to an MP4 with its index at the end; `right` and `down`: twice the offsets of its center."""
    starts, start = [], data.index(b"moov")
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        start = data.index(name, start)
        starts.append((start - 4, 4))
    end = start - 4 + int.from_bytes(data[start - 4 : start], "big")
    box = struct.pack(">I4s8i", 40, b"clap", width, 1, height, 1, right, 2, down, 2)
    return insert(data, end, box, starts)


def pixel_crop(data: bytes, *, left: int, top: int, right: int, bottom: int) -> bytes:
    """Add a crop to the first track of a Matroska file."""
    width = {1 << (8 - length): length for length in range(1, 9)}

    def size_at(place: int) -> tuple[int, int]:
        first = data[place]
        return place, next(length for bit, length in width.items() if first & bit)

    segment = size_at(data.index(b"\x18\x53\x80\x67") + 4)
    tracks = size_at(data.rindex(b"\x16\x54\xae\x6b") + 4)  # the first one is in the table of contents
    track = size_at(data.index(b"\xae\x01", sum(tracks)) + 1)
    video = size_at(data.index(b"\xe0", data.index(b"\x23\xe3\x83", sum(track)) + 7) + 1)
    end = sum(video) + (data[video[0]] & 0x7F)
    sides = zip((0x54CC, 0x54BB, 0x54DD, 0x54AA), (left, top, right, bottom), strict=True)
    content = b"".join(struct.pack(">HBB", name, 0x81, value) for name, value in sides)
    return insert(data, end, content, [segment, tracks, track, video])


def test_the_container_crops(tmp_path, make_video):
    """The clean aperture of MP4 and the crop of Matroska, which FFmpeg applies from version 7.1 on."""
    for suffix in ("mp4", "mkv"):
        make_video(tmp_path / f"plain.{suffix}", frames=6, options={"qp": "0"})
    (tmp_path / "v").mkdir()
    mp4, mkv = (tmp_path / "plain.mp4").read_bytes(), (tmp_path / "plain.mkv").read_bytes()
    # The center of the aperture is 2 pixels right of that of the picture and 3 above: 64 - 40 = 24 = 14 + 10.
    (tmp_path / "v/a.mp4").write_bytes(clean_aperture(mp4, width=40, height=30, right=4, down=-6))
    (tmp_path / "v/b.mkv").write_bytes(pixel_crop(mkv, left=10, top=4, right=6, bottom=8))
    (tmp_path / "v/c.mp4").write_bytes(clean_aperture(mp4, width=400, height=30, right=0, down=0))  # invalid
    expected = {"a": np.s_[6:36, 14:54], "b": np.s_[4:40, 10:58], "c": np.s_[:, :]}
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=1, quality=100, chroma=444).ok
    files = open_videos(tmp_path / "v")
    with av.open(str(tmp_path / "plain.mkv")) as container:
        whole = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    for number, (name, place) in enumerate(expected.items()):
        database = FrameDatabase(tmp_path / f"data/jpg/unlabeled/{name}")
        stored = database.decode(range(6)).numpy()
        assert stored.shape[1:] == whole[0][place].shape
        differences = [np.abs(one - other[place]).mean() for one, other in zip(stored, whole, strict=True)]
        assert max(differences) < 3.5, (name, differences)
        assert (files.heights[number], files.widths[number]) == stored.shape[1:3]
    assert FrameDatabase(tmp_path / "data/jpg/unlabeled/a").meta["crop"] == "14,6,10,12"
    options = {"frames": 2, "interval": 1, "size": 30, "train": False, "batch_size": 1, "dtype": torch.uint8}
    batches = ClipLoader(files, backend="video", **options), ClipLoader(open_dataset(tmp_path / "data"), **options)
    for batch, other in zip(*batches, strict=True):
        assert (batch.frames.float() - other.frames.float()).abs().mean() < 1.5


# --- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (9, 1), (3, 5)])
def test_narrow_videos_go_both_ways(tmp_path, make_video, size):
    make_video(tmp_path / "v/x.mov", frames=4, size=size, codec="png", pixel_format="rgb24")
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=1, quality=100, chroma=444).ok
    assert FrameDatabase(tmp_path / "data/jpg/unlabeled/x").frame_size == size
    export_frames(tmp_path / "data", tmp_path / "films", form="video")
    with av.open(str(tmp_path / "films/unlabeled/x.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 4
    assert frames[0].shape == (*(max(2, side // 2 * 2) for side in size), 3)
    stored = FrameDatabase(tmp_path / "data/jpg/unlabeled/x").decode([0])[0].numpy().astype(int)
    assert np.abs(frames[0][0, 0] - stored[0, 0]).max() < 60  # color at half resolution


@pytest.mark.parametrize("codec, pixel_format, suffix", [("amv", "yuvj420p", "avi"), ("tiff", "yuv420p", "mov")])
def test_codecs_with_unusual_frames(tmp_path, make_video, codec, pixel_format, suffix):
    """AMV frames have their last row first in memory; FFmpeg 8 adds side data to TIFF that PyAV 18 does not know."""
    path = tmp_path / f"v/a.{suffix}"
    make_video(path, frames=3, codec=codec, pixel_format=pixel_format, options={"strict": "-2"})
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=1).ok
    database = FrameDatabase(tmp_path / "data/jpg/unlabeled/a")
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(database) == len(expected) == 3
    for index, pixels in enumerate(expected):
        assert np.abs(database.decode([index])[0].numpy().astype(int) - pixels).mean() < 4
    assert np.abs(expected[0][::-1].astype(int) - expected[0]).mean() > 20


@pytest.mark.parametrize(
    "codec, pixel_format, form, named",
    [
        ("libx264", "yuv420p", "h264", "a.h264"),
        ("libx264", "yuv420p", "h264", "a.mp4"),
        ("mjpeg", "yuvj420p", "mjpeg", "a.mjpeg"),
        ("mpeg2video", "yuv420p", "mpeg2video", "a.m2v"),
        ("rawvideo", "yuv420p", "yuv4mpegpipe", "a.y4m"),
    ],
)
def test_streams_without_a_container(tmp_path, make_video, codec, pixel_format, form, named):
    """Raw streams have no times and no index: frames are in display order, and the times are those of the rate."""
    make_video(tmp_path / "v" / named, frames=12, codec=codec, pixel_format=pixel_format, container_format=form)
    report = convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    assert report.ok, report
    database = FrameDatabase(tmp_path / "data/jpg/unlabeled/a")
    assert len(database) == 12
    assert np.diff(database.timestamps) == pytest.approx(0.04)
    expected = np.stack([picture(index) for index in range(12)]).astype(int)
    for index in range(12):
        distances = np.abs(expected - database.decode([index])[0].numpy()).mean(axis=(1, 2, 3))
        assert distances.argmin() == index


def test_a_size_is_a_number_too(tmp_path, make_video):
    make_video(tmp_path / "v/x.mp4", frames=2)
    convert_videos(tmp_path / "v", tmp_path / "data", workers=1, size=24)
    assert FrameDatabase(tmp_path / "data/jpg/unlabeled/x").frame_size == (24, 32)
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=1, size="24").outcomes[0].other_options is False
    assert open_videos(tmp_path / "v", size=24).heights.tolist() == [24]
    with pytest.raises(ValueError, match="size is '0'"):
        convert_videos(tmp_path / "v", tmp_path / "data", size=0)


# --- names and formats --------------------------------------------------------------------------------------------


def test_playlists_scripts_and_text_are_no_videos(tmp_path, make_video):
    secret = make_video(tmp_path / "secret.ts", frames=5)
    make_video(tmp_path / "v/good.ts", frames=5)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n"
    manifest = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp2t">'
        '<Representation id="1" bandwidth="1">'
        f"<BaseURL>{secret}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    )
    texts = {
        "a.m3u8": playlist,
        "b.mp4": playlist,
        "c.ffconcat": f"ffconcat version 1.0\nfile {secret}\n",
        "d.mpd": manifest,
        "e.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "f.sub2": "1\n00:00:00,000 --> 00:00:02,000\nhello\n",
        "g.ans": "\033[31mhello\033[0m\n" * 50,
        "h.svg": f'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><image href="file://{secret}"/></svg>',
    }
    for name, text in texts.items():
        (tmp_path / "v" / name).write_text(text)
    report = convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    assert {Path(outcome.source).name for outcome in report.problems()} == set(texts)
    assert all("cannot open this file as a video" in outcome.problem for outcome in report.problems())
    assert [Path(o.source).name for o in report.outcomes if o.state == "converted"] == ["good.ts"]
    for name in texts:
        with pytest.raises(VideoError):
            list(LiveSource(str(tmp_path / "v" / name)))


NAMES = ["http:/127.0.0.1:9/x.ts", "concat:a|b.ts", "file:x.ts", "a%03d.ts", "-i.ts", "pipe:0.ts", "data:,x.ts"]


def test_names_are_names_of_files(tmp_path, make_video, monkeypatch):
    for name in NAMES:
        make_video(tmp_path / "plain.ts", frames=9)
        (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "plain.ts", tmp_path / "v" / name)
    monkeypatch.chdir(tmp_path / "v")
    for name in NAMES:
        assert len(list(VideoSource(Path(name)))) == len(read_frame_index(Path(name))) == 9
    assert convert_videos(".", tmp_path / "data", workers=1).count("converted") == len(NAMES)
    with LabeledVideoWriter("http:/labeled.mp4") as writer:
        writer.write(next(iter(VideoSource(Path("-i.ts")))).frame, 0.0, "x")
    assert (tmp_path / "v/http:/labeled.mp4").stat().st_size > 0


def test_streams_on_standard_input_open_no_other_files(tmp_path, make_video):
    secret = make_video(tmp_path / "secret.ts", frames=5)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n".encode()
    assert b"cannot open it" in piped(playlist).stderr


# --- limits -------------------------------------------------------------------------------------------------------


def huge_gif(path: Path, side: int) -> Path:
    """A GIF of three frames of which each changes one pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = b"\x21\xf9\x04\0\x0a\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    path.write_bytes(head + 3 * frame + b";")
    return path


def test_frames_of_any_size_do_not_take_all_memory(tmp_path, make_video):
    path = huge_gif(tmp_path / "v/huge.gif", 23000)
    make_video(tmp_path / "v/good.mp4", frames=3)
    code = (
        "import resource, sys; from pathlib import Path; import torch; from vidseg.videos.decoding import VideoSource\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: list(VideoSource(Path(sys.argv[1])))\n"
        "except RuntimeError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    message, kilobytes = run.stdout.splitlines()
    assert f"larger than the limit of {MAX_PIXELS} pixels (max_pixels)" in message
    assert int(kilobytes) < 100_000
    report = convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    assert {o.target: o.state for o in report.outcomes} == {"unlabeled/good": "converted", "unlabeled/huge": "failed"}
    assert "max_pixels" in report.problems()[0].problem


def test_limits_of_a_conversion(tmp_path, make_video):
    make_video(tmp_path / "v/x.mp4", frames=20)
    make_video(tmp_path / "large/x.mkv", frames=2, size=(3000, 4000), codec="ffv1")
    (jpeg,) = encode_rgb(torch.from_numpy(picture(0)), 90)
    (tmp_path / "jpegs/x").mkdir(parents=True)
    (tmp_path / "jpegs/x/img_1.jpg").write_bytes(jpeg)

    def problem(source: str, **options) -> str:
        report = convert_videos(tmp_path / source, tmp_path / "data", workers=1, **options)
        assert report.outcomes[0].state == "failed"
        assert not list((tmp_path / "data/jpg").rglob("frames.db*"))
        return report.outcomes[0].problem

    assert "more frames than the limit of 19 (max_frames)" in problem("v", max_frames=19)
    assert "more frames than the limit of 39 (max_frames)" in problem("v", max_frames=39, fps=50)
    assert "frames of 64x48 pixels, more than the limit of 3000 (max_pixels)" in problem("v", max_pixels=3000)
    assert "64x48 pixels, more than the limit of 3000 (max_pixels)" in problem("jpegs", max_pixels=3000)
    # FFmpeg 8.1.1 (PyAV 17.1) crashes when it gets no memory for a decoder, which ends the worker
    assert re.search("needs more memory|worker process crashed", problem("large", memory_limit=0.01))
    for name in ("max_pixels", "max_frames", "memory_limit"):
        with pytest.raises(ValueError, match=f"{name} is 0, must be greater than 0"):
            convert_videos(tmp_path / "v", tmp_path / "data", **{name: 0})
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=1, max_frames=20, max_pixels=64 * 48).ok
    assert convert_videos(tmp_path / "large", tmp_path / "unlimited", workers=1, memory_limit=None).ok


def test_a_decoder_without_threads_is_no_damage():
    """FFmpeg cannot open it (EAGAIN) for one packet, and can for the next: a frame would be lost."""

    class Packet:
        is_corrupt, stream = False, object()

        def decode(self):
            raise av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    packet = Packet()
    container = SimpleNamespace(demux=lambda *streams: iter([packet]))
    source = VideoSource("x.mp4")
    with pytest.raises(VideoError, match="needs more memory or threads after frame 0"):
        list(source._decode(container, packet.stream, SimpleNamespace(streams=[])))
    assert source.damage == []


# --- streams that end in something else ---------------------------------------------------------------------------


def piped(data: bytes) -> subprocess.CompletedProcess:
    """Read a stream from standard input; prints the number of frames and the damage."""
    code = (
        "from vidseg.live.source import LiveSource\n"
        "source = LiveSource('-')\n"
        "print(len(list(source)), *source.damage, sep='\\n')"
    )
    return subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=False)


CONTAINERS = {
    "ts": ("a packet of MPEG-TS", {}),
    "mkv": ("an element of Matroska", {}),
    "mp4": ("a box of MP4", {"movflags": "frag_keyframe+empty_moov"}),
    "flv": ("a tag of FLV", {}),
}


@pytest.fixture(scope="module")
def streams(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("streams")
    for suffix, (_, options) in CONTAINERS.items():
        with av.open(str(folder / f"x.{suffix}"), "w", container_options=options) as container:
            stream = container.add_stream("libx264" if suffix != "flv" else "flv", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(30):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format="yuv420p")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return {suffix: (folder / f"x.{suffix}").read_bytes() for suffix in CONTAINERS}


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_streams_that_end_in_garbage(tmp_path, streams, suffix):
    good, name = streams[suffix], CONTAINERS[suffix][0]
    ends = {
        "noise": good + random.Random(1).randbytes(9000),
        "zeros": good + bytes(9000),
        "text": good + b"connection reset by peer\n" * 40,
    }
    for path, data in {"good": good, **ends}.items():
        (tmp_path / path).write_bytes(data)
        check, start, parts = ContainerCheck(), 0, random.Random(2)
        while start < len(data):
            size = parts.randint(1, 700)
            check.feed(data[start : start + size])
            start += size
        assert check.finish() == check_container(tmp_path / path)
        source = LiveSource(str(tmp_path / path))
        assert len(list(source)) == 30
        assert len(source.damage) == (path != "good") and all(name in sentence for sentence in source.damage)
    lines = piped(ends["noise"]).stdout.decode().splitlines()
    assert lines[0] == "30" and f"is damaged from byte {len(good) - 4 * (suffix == 'flv')} on: this is not" in lines[1]
    assert piped(good).stdout.decode().splitlines() == ["30"]


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_streams_that_are_cut(tmp_path, streams, suffix):
    (tmp_path / "x").write_bytes(streams[suffix][: len(streams[suffix]) * 2 // 3 + 1])
    assert f"ends inside {CONTAINERS[suffix][0]}" in str(check_container(tmp_path / "x"))
    source = LiveSource(str(tmp_path / "x"))
    assert 10 < len(list(source)) < 30 and source.damage


def test_other_bytes_have_no_structure(tmp_path, make_video):
    for name, data in {"empty": b"", "short": b"G", "noise": os.urandom(5000), "raw": b"\0\0\0\1" * 900}.items():
        (tmp_path / name).write_bytes(data)
        assert check_container(tmp_path / name) is None
    for suffix, codec in (
        ("avi", "mpeg4"),
        ("mov", "mjpeg"),
        ("webm", "libvpx"),
        ("mpg", "mpeg2video"),
        ("gif", "gif"),
    ):
        options = {"pixel_format": {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")}
        assert check_container(make_video(tmp_path / f"x.{suffix}", codec=codec, **options)) is None
