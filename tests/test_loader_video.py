"""Plans filled straight from video files: the same frames as from their databases, but for the JPEGs' loss."""

import json
import random
import shutil
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import picture

from vidseg import ClipLoader, convert_videos, open_dataset, open_videos
from vidseg.loaders import ClipDataset
from vidseg.loaders.video_backend import VideoFiller
from vidseg.videos.decoding import VideoError, VideoSource
from vidseg.videos.frame_index import chosen_frames, read_frame_index
from vidseg.videos.frame_reader import FrameReader

UNEVEN = [0, 1, 2, 5, 6, 9, 14, 15, 16, 20, 21, 22, 30, 31, 32, 33, 40, 41, 42, 43, 44, 50, 51, 60]
SIZE = (72, 96)


def turn(path: Path) -> None:
    """Write a display matrix of 90 degrees clockwise into an MP4."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version, flags and times of a version 0 track header
    quarter = [0, 0x10000, 0, -0x10000, 0, 0, SIZE[0] << 16, 0, 0x40000000]
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter)
    path.write_bytes(data)


def cut(path: Path, frames: int) -> None:
    """Make the edit list of an MP4 of 25 frames/s begin later."""
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12  # duration in milliseconds, then the first moment in 1/12800 s
    for position, change in ((entry, -40 * frames), (entry + 4, 512 * frames)):
        value = int.from_bytes(data[position : position + 4], "big") + change
        data[position : position + 4] = value.to_bytes(4, "big")
    path.write_bytes(data)


@pytest.fixture(scope="module")
def videos(tmp_path_factory, make_video) -> Path:
    """Files whose frames are hard to number, with different pictures in all frames."""
    folder = tmp_path_factory.mktemp("files")
    few = {"frames": 24, "size": SIZE}
    x264 = "keyint=8:min-keyint=8:scenecut=0:bframes=3:b-pyramid=normal"
    make_video(folder / "run/b_frames.mp4", options={"x264-params": x264}, **few)
    make_video(folder / "run/open_gops.mkv", options={"x264-params": f"{x264}:open-gop=1"}, **few)
    make_video(folder / "run/refresh.mkv", options={"x264-params": "intra-refresh=1:keyint=6:bframes=0"}, **few)
    make_video(folder / "jump/uneven.mkv", options={"x264-params": x264}, times=UNEVEN, **few)
    make_video(folder / "jump/stream.ts", options={"x264-params": x264}, **few)
    make_video(folder / "jump/old.avi", codec="mpeg4", options={"bf": "2", "g": "6", "qscale": "2"}, **few)
    make_video(folder / "jump/raw.h264", options={"x264-params": x264}, container_format="h264", **few)
    make_video(folder / "jump/odd.mp4", frames=5, size=(90, 70), options={"qp": "4"})
    make_video(folder / "jump/turned.mp4", options={"x264-params": x264}, **few)
    turn(folder / "jump/turned.mp4")
    make_video(folder / "run/cut.mp4", options={"x264-params": x264}, **few)
    cut(folder / "run/cut.mp4", frames=5)
    return folder


@pytest.fixture(scope="module")
def converted(videos, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("converted")
    assert convert_videos(videos, root, workers=1, quality=100, levels=0, size="64").ok
    return root


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.*") if not path.name.startswith("."))


def pixels_of(frame) -> np.ndarray:
    return frame.to_ndarray(format=frame.format.name).copy()


def test_every_frame_has_the_number_that_a_conversion_gives_it(videos):
    for path in files_of(videos):
        expected = [pixels_of(item.frame) for item in VideoSource(path)]
        index = read_frame_index(path)
        assert len(index) == len(expected), path
        numbers = [*range(len(expected)), *random.Random(3).choices(range(len(expected)), k=20)]
        with FrameReader(path, index) as reader:
            for number in numbers:
                frame = reader.read(number)
                assert frame is not None and np.array_equal(pixels_of(frame), expected[number]), (path, number)
            with pytest.raises(
                IndexError, match=f"frame {len(expected)} is out of range; the number of frames is {len(expected)}"
            ):
                reader.read(len(expected))


def test_packets_tell_the_frames_where_they_can(videos):
    indices = {path.stem: read_frame_index(path) for path in files_of(videos)}
    assert indices["b_frames"].keys.tolist() == [0, 8, 16]
    assert indices["raw"].stamps is None and indices["raw"].keys.tolist() == [0]  # no times at all
    assert indices["old"].stamps is not None and indices["old"].keys.tolist()[:3] == [0, 6, 12]  # found by decoding
    assert indices["cut"].keys.tolist() == [0, 3, 11] and len(indices["cut"]) == 19
    assert np.allclose(indices["uneven"].times * 25, UNEVEN, atol=0.05)
    assert (indices["turned"].height, indices["turned"].width) == SIZE[::-1]


@pytest.mark.parametrize(
    "options",
    [
        {"train": True, "augment": "hmdb51", "size": 48},
        {"train": False, "size": (40, 56), "sampling": "segments"},
        {"train": False, "size": 24, "geometry": "three_crops", "interval": 3, "dtype": torch.bfloat16},
        {"train": True, "size": 64, "layout": "bthwc", "color": "bgr", "dtype": torch.float32},
    ],
)
def test_batches_are_those_of_the_converted_videos(videos, converted, options):
    options = {"frames": 5, "batch_size": 3, "seed": 7, "dtype": torch.uint8, **options}
    files, databases = open_videos(videos, size="64"), open_dataset(converted)
    step = 1.0 if options["dtype"] == torch.uint8 else 1 / (255 * ClipLoader(files, backend="video").form.std[0])
    batches = zip(
        ClipLoader(files, backend="video", threads=2, **options), ClipLoader(databases, **options), strict=True
    )
    for batch, expected in batches:
        assert batch.plan == expected.plan and batch.replaced == 0
        assert batch.frames.dtype == expected.frames.dtype and batch.frames.shape == expected.frames.shape
        difference = (batch.frames.float() - expected.frames.float()).abs() / step
        assert difference.mean() < 0.8, batch.plan
        assert torch.quantile(difference.flatten(), 0.999) < 16


def test_names_classes_and_order_are_those_after_conversion(videos, converted):
    files, databases = open_videos(videos, size="64"), open_dataset(converted)
    assert files.classes == databases.classes == ["jump", "run"]
    for name in ("labels", "frames", "heights", "widths"):
        assert getattr(files, name).tolist() == getattr(databases, name).tolist()
    for row, (one, other) in enumerate(zip(files, databases, strict=True)):
        assert (one.name, one.fps) == (other.name, other.fps) and one.path.is_file()
        assert files.video_path(row) == databases.video_path(row)
        assert files.video_file(row).path == one.path and databases.video_file(row) is None
    assert not files.converted and databases.converted and files.segments(0) == []
    assert [video.name for video in files.subset([2, 0])] == [files[2].name, files[0].name]


def test_parts_and_rates_are_those_of_a_conversion(videos, tmp_path):
    index = read_frame_index(videos / "jump/uneven.mkv")
    assert chosen_frames(index, start=0.2, stop=0.8, fps=None).tolist() == list(range(3, 9))
    with pytest.raises(VideoError, match=r"no frame between 9 s and inf s"):
        chosen_frames(index, start=9.0, stop=None, fps=None)
    table = tmp_path / "clips.csv"
    table.write_text("path,label,time_start,time_end\nuneven.mkv,walk,0.5,1.7\nstream.ts,walk,0.3,0.7\n")
    assert convert_videos(table, tmp_path / "data", workers=1, videos=str(videos / "jump"), fps=12.5, quality=100).ok
    files, databases = open_videos(table, videos=videos / "jump", fps=12.5), open_dataset(tmp_path / "data")
    assert files.frames.tolist() == databases.frames.tolist() and [video.fps for video in files] == [12.5, 12.5]
    options = {"frames": 9, "interval": 1, "size": 64, "train": False, "dtype": torch.uint8, "batch_size": 2}
    (batch,), (expected,) = ClipLoader(files, backend="video", **options), ClipLoader(databases, **options)
    assert batch.plan == expected.plan
    assert (batch.frames.float() - expected.frames.float()).abs().mean() < 0.8


def test_splits_are_folders(videos, tmp_path):
    for part, name in (("train", "b_frames.mp4"), ("val", "refresh.mkv")):
        (tmp_path / part / "run").mkdir(parents=True)
        (tmp_path / part / "run" / name).symlink_to(videos / "run" / name)
    assert open_videos(tmp_path).splits == ["train", "val"]
    assert [video.name for video in open_videos(tmp_path, "val")] == ["refresh"]
    with pytest.raises(ValueError, match="unknown split 'test'; the folder has train, val"):
        open_videos(tmp_path, "test")


def test_frames_are_counted_once(videos, tmp_path, monkeypatch, caplog):
    (tmp_path / "a").mkdir()
    for path in (videos / "run/b_frames.mp4", videos / "jump/odd.mp4"):
        (tmp_path / "a" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "a/broken.mp4").write_bytes(b"no video at all")
    counted = []
    monkeypatch.setattr(
        sys.modules[open_videos.__module__],
        "read_frame_index",
        lambda path: counted.append(path.name) or read_frame_index(path),
    )
    first = open_videos(tmp_path)
    assert [video.name for video in first] == ["b_frames", "odd"]
    assert "broken.mp4: skipped: FFmpeg cannot open this file as a video" in caplog.text
    assert open_videos(tmp_path).frames.tolist() == first.frames.tolist() == [24, 5]
    assert sorted(counted) == ["b_frames.mp4", "broken.mp4", "broken.mp4", "odd.mp4"]
    (tmp_path / "a/b_frames.mp4").write_bytes((videos / "jump/odd.mp4").read_bytes())
    assert open_videos(tmp_path).frames.tolist() == [5, 5] and counted.count("b_frames.mp4") == 2
    index = tmp_path / ".vidseg_videos.json"
    index.write_text("{")
    assert open_videos(tmp_path).frames.tolist() == [5, 5] and "not a valid video index" in caplog.text
    assert len(json.loads(index.read_text())["videos"]) == 2
    index.unlink()
    index.mkdir()  # as good as a folder that cannot be written to
    assert open_videos(tmp_path).frames.tolist() == [5, 5]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_threads_and_workers_change_nothing(videos):
    files = open_videos(videos, size="64")
    options = {"frames": 4, "size": 32, "dtype": torch.uint8, "seed": 2, "augment": "hmdb51"}
    one, three = (
        list(ClipLoader(files, backend="video", threads=threads, batch_size=3, **options)) for threads in (1, 3)
    )
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(one, three, strict=True))
    clips = ClipDataset(files, backend="video", **options)
    frames = {number: clip for batch in one for number, clip in zip(batch.numbers.tolist(), batch.frames, strict=True)}
    loader = torch.utils.data.DataLoader(clips, batch_size=3, num_workers=2)
    got = {n: clip for batch in loader for n, clip in zip(batch["number"].tolist(), batch["frames"], strict=True)}
    assert len(frames) == 9 and all(torch.equal(got[number], clip) for number, clip in frames.items())


def test_nothing_stays_behind(videos):
    files = open_videos(videos, size="64")
    loader = ClipLoader(files, backend="video", frames=4, size=32, batch_size=2, threads=2)
    list(loader)
    loader.close()
    threads, opened = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        list(loader)
        assert len(list(Path("/proc/self/fd").iterdir())) <= opened + 2  # a file for each thread
    next(iter(loader))
    loader.close()
    assert threading.active_count() == threads and len(list(Path("/proc/self/fd").iterdir())) == opened
    cancel = torch.ones(1, dtype=torch.uint8)
    decoded = []
    filler = loader._filler
    filler._fill_clip = lambda *arguments: decoded.append(arguments)
    filler.fill(loader.plan(0, 0), cancel)
    assert decoded == []


@pytest.fixture
def damaged(tmp_path, make_video) -> Path:
    """20 frames, of which number 12 and 13 are zeros: Motion JPEG, so that no other frame suffers."""
    path = make_video(
        tmp_path / "hurt/clip.mkv", frames=20, size=SIZE, codec="mjpeg", pixel_format="yuvj420p", options={"q:v": "2"}
    )
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    for packet in packets[12:14]:
        assert data.count(packet) == 1
        data = data.replace(packet, bytes(len(packet)))
    path.write_bytes(data)
    return path


def test_damage_is_named_or_replaced(damaged):
    files = open_videos(damaged.parent.parent)
    options = {"frames": 10, "interval": 1, "train": False, "size": 32, "dtype": torch.uint8, "backend": "video"}
    with pytest.raises(VideoError, match=r"hurt/clip\.mkv: frame 12: cannot be decoded"):
        list(ClipLoader(files, **options))
    loader = ClipLoader(files, on_error="replace", **options)
    (batch,) = loader
    assert batch.replaced == 2
    frames = dict(zip(batch.plan.frames[0].tolist(), batch.frames[0].unbind(1), strict=True))
    assert torch.equal(frames[12], frames[11]) and torch.equal(frames[13], frames[14])
    assert not torch.equal(frames[11], frames[14])


def test_files_that_are_gone_or_changed_are_named(videos, tmp_path):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a/clip.mp4"
    path.write_bytes((videos / "run/b_frames.mp4").read_bytes())
    files = open_videos(tmp_path)
    options = {"frames": 16, "interval": 1, "train": False, "size": 32, "backend": "video"}
    path.write_bytes((videos / "jump/odd.mp4").read_bytes())
    with pytest.raises(VideoError, match=r"a/clip\.mp4: frame 5: the video has 5 frames; open the data set again"):
        list(ClipLoader(files, **options))
    path.unlink()
    with pytest.raises(VideoError, match=r"a/clip\.mp4: cannot be read"):
        list(ClipLoader(files, **options))
    with pytest.raises(ValueError, match=r"backend='native' reads frame databases"):
        ClipLoader(files)


def test_converted_videos_lead_to_their_files(videos, converted, tmp_path):
    root, path = shutil.copytree(converted, tmp_path / "data"), tmp_path / "odd.mp4"
    path.write_bytes((videos / "jump/odd.mp4").read_bytes())
    report = root / "conversion_report.json"
    report.write_text(report.read_text().replace(str(videos / "jump/odd.mp4"), str(path)))
    data = open_dataset(root)
    data = data.subset(np.array([video.name == "odd" for video in data]))
    options = {"frames": 4, "train": False, "size": 32, "dtype": torch.uint8}
    (expected,), (batch,) = ClipLoader(data, **options), ClipLoader(data, backend="video", **options)
    assert batch.plan == expected.plan and (batch.frames.float() - expected.frames.float()).abs().mean() < 0.8
    with open(path, "ab") as file:
        file.write(b"more")
    with pytest.raises(VideoError, match=r"has changed since the conversion; use backend=\"native\""):
        list(ClipLoader(data, backend="video", **options))
    path.unlink()
    with pytest.raises(VideoError, match="does not exist; use backend"):
        list(ClipLoader(data, backend="video", **options))
    report.unlink()
    with pytest.raises(VideoError, match="does not list its source video"):
        list(ClipLoader(data, backend="video", **options))


def test_pictures_differ(videos):
    """The comparisons above can fail: neighboring frames are not alike."""
    one, other = picture(3, height=SIZE[0], width=SIZE[1]), picture(4, height=SIZE[0], width=SIZE[1])
    assert np.abs(one.astype(int) - other).mean() > 1.5


@pytest.mark.parametrize("threads", [1, 4])
def test_the_first_failing_clip_is_reported(videos, monkeypatch, threads):
    """Clip 1 fails while clip 0, which fails too, is being decoded."""
    files = open_videos(videos)
    loader = ClipLoader(files, backend="video", frames=2, size=16, batch_size=3, threads=threads, train=False)
    failed = threading.Event()

    def fill_clip(self, batch, clip, video, canceled):
        if clip == 0 and threads > 1:
            assert failed.wait(20)
        if canceled():
            return
        failed.set()
        raise VideoError(f"clip {clip}")

    monkeypatch.setattr(VideoFiller, "_fill_clip", fill_clip)
    with pytest.raises(VideoError, match="clip 0"):
        next(iter(loader))
