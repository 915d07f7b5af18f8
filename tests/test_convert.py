"""Conversion of videos: every frame, its time, its color; every kind of source; every option."""

import gc
import json
import re
import shutil
import sqlite3
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import picture, write_published_database

from vidseg.convert import ConvertOptions, convert_videos
from vidseg.frames import FrameDatabase
from vidseg.labels import open_dataset
from vidseg.videos.decoding import TimedFrame, at_rate
from vidseg.videos.frame_size import target_size


def rgb_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def converted(root: Path, target: str) -> FrameDatabase:
    database = FrameDatabase(root / "jpg" / target)
    assert database.verify() == []
    return database


def test_a_tree_of_videos(tmp_path, make_video):
    make_video(tmp_path / "videos/run/a.mp4", frames=7)
    make_video(tmp_path / "videos/jump/b.one.MKV", frames=12, fps=10)
    make_video(tmp_path / "videos/jump/c.avi", frames=5, codec="mpeg4")
    (tmp_path / "videos/readme.txt").write_text("about")
    report = convert_videos(tmp_path / "videos", tmp_path / "data", workers=2)
    assert report.ok
    assert [(outcome.target, outcome.frames, outcome.state) for outcome in report.outcomes] == [
        ("jump/b.one", 12, "converted"),
        ("jump/c", 5, "converted"),
        ("run/a", 7, "converted"),
    ]
    assert report.ignored == [str(tmp_path / "videos/readme.txt")]
    database = converted(tmp_path / "data", "jump/b.one")
    assert np.allclose(database.timestamps, np.arange(12) / 10)
    assert database.meta["codec"] == "h264"
    assert database.meta["source_bytes"] == (tmp_path / "videos/jump/b.one.MKV").stat().st_size
    difference = database.decode(range(12)).numpy().astype(int) - rgb_of(tmp_path / "videos/jump/b.one.MKV")
    assert np.abs(difference).mean() < 3
    data = open_dataset(tmp_path / "data")
    assert data.classes == ["jump", "run"]
    assert data.frames.tolist() == [12, 5, 7]
    saved = json.loads((tmp_path / "data/conversion_report.json").read_text())
    assert saved["counts"] == {"converted": 3}
    assert saved["frames"] == 24


FORMATS = [
    ("libx264", "yuv420p", "mp4", {}),
    ("libx264", "yuv444p", "mp4", {}),
    ("libx264", "yuv422p10le", "mkv", {}),
    ("libx264rgb", "rgb24", "mkv", {"qp": "10"}),
    ("ffv1", "gray", "mkv", {}),
    ("ffv1", "bgr0", "avi", {}),
    ("mjpeg", "yuvj420p", "avi", {"q:v": "3"}),
    ("libvpx-vp9", "yuv420p", "webm", {"cpu-used": "8", "b": "2M"}),
    ("mpeg2video", "yuv420p", "mpg", {"b": "3M"}),
    ("gif", "rgb8", "gif", {}),
    ("png", "rgb24", "mov", {}),
    ("wmv2", "yuv420p", "wmv", {"b": "3M"}),
]


@pytest.mark.parametrize("chroma", [420, 444])
@pytest.mark.parametrize("codec, pixel_format, suffix, options", FORMATS, ids=[f"{f[0]}-{f[1]}" for f in FORMATS])
def test_codecs_and_pixel_formats(tmp_path, make_video, codec, pixel_format, suffix, options, chroma):
    from vidseg.convert.conversion import convert_one
    from vidseg.videos.listing import Job

    path = make_video(
        tmp_path / f"v.{suffix}", codec=codec, pixel_format=pixel_format, options=options, frames=6, size=(50, 66)
    )
    job = Job(str(path), "video", "x/v")
    outcome = convert_one(job, tmp_path / "jpg", ConvertOptions(chroma=chroma, quality=98), lambda frames: None)
    assert (outcome.state, outcome.problem, outcome.frames) == ("converted", None, 6)
    ours = converted(tmp_path, "x/v").decode(range(6)).numpy().astype(float)
    theirs = rgb_of(path).astype(float)
    # a GIF's dithering is color noise from pixel to pixel, which half the color resolution cannot hold
    assert np.abs(ours - theirs).mean() < (20 if codec == "gif" else 5)
    assert np.abs((ours - theirs).mean((0, 1, 2))).max() < 2.5  # no color cast, black and white in place


@pytest.mark.parametrize("space, number", [("bt709", 1), ("bt2020", 9), ("unmarked", 2)])
@pytest.mark.parametrize("color_range", [1, 2])
@pytest.mark.parametrize("size", ["none", "30x20"])
def test_matrix_and_range_are_honored(tmp_path, make_video, space, number, color_range, size):
    """A lossless video whose marking says how its planes are meant, against the exact arithmetic of that marking."""
    from vidseg.convert.conversion import convert_one
    from vidseg.videos.listing import Job

    color = {"colorspace": number, "color_range": color_range}
    path = make_video(
        tmp_path / "v.mkv", pixel_format="yuv444p", options={"qp": "0"}, color=color, frames=2, size=(40, 60)
    )
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (int(frame.colorspace), int(frame.color_range)) == (number, color_range)
        y, cb, cr = (np.array(plane).reshape(40, -1)[:, :60].astype(float) for plane in map(memoryview, frame.planes))
    kr, kb = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593), 2: (0.299, 0.114)}[number]
    if color_range == 1:
        y, cb, cr = (y - 16) * 255 / 219, (cb - 128) * 255 / 224, (cr - 128) * 255 / 224
    else:
        cb, cr = cb - 128, cr - 128
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    exact = np.clip(np.stack([red, (y - kr * red - kb * blue) / (1 - kr - kb), blue], -1), 0, 255)
    options = ConvertOptions(chroma=444, quality=100, size=size, levels=0)
    assert convert_one(Job(str(path), "video", "x/v"), tmp_path / "jpg", options, lambda frames: None).problem is None
    ours = converted(tmp_path, "x/v").decode([0])[0].numpy().astype(float)
    if size == "none":
        assert np.abs(ours - exact).mean() < 1.5
    assert np.abs(ours.mean((0, 1)) - exact.mean((0, 1))).max() < 1.5


def test_variable_rate_keeps_every_frame_and_its_time(tmp_path, make_video):
    times = [0, 1, 2, 8, 9, 20]
    make_video(tmp_path / "v/x.mkv", frames=6, times=times)
    convert_videos(tmp_path / "v", tmp_path / "all", workers=1)
    database = converted(tmp_path / "all", "unlabeled/x")
    assert len(database) == 6
    assert np.allclose(database.timestamps, np.array(times) / 25, atol=1e-3)
    convert_videos(tmp_path / "v", tmp_path / "even", workers=1, fps=12.5)
    even = converted(tmp_path / "even", "unlabeled/x")
    assert np.allclose(np.diff(even.timestamps), 1 / 12.5)
    shown = [max(i for i, time in enumerate(times) if time <= 2 * k + 1e-6) for k in range(11)]
    expected = database.decode(shown)
    assert np.abs(even.decode(range(11)).numpy().astype(int) - expected.numpy()).mean() < 0.01


def test_at_rate_repeats_the_displayed_frame():
    times = (1.0, 1.04, 1.5, 1.6, 1.7)
    frames = [TimedFrame(name, one, two - one) for name, one, two in zip("abcd", times, times[1:], strict=False)]
    shown = list(at_rate(iter(frames), 10.0))
    assert "".join(item.frame for item in shown) == "bbbbbcd"  # as ffmpeg -vf fps=10: times are rounded to 1/10 s
    assert np.allclose([item.time for item in shown], 1.0 + np.arange(7) / 10)
    assert np.allclose([item.time for item in at_rate(iter(frames), 10.0, origin=0.96)], 0.96 + np.arange(7) / 10)
    assert [item.frame for item in at_rate(iter(frames[:1]), 10.0)] == ["a"]
    assert list(at_rate(iter([]), 10.0)) == []


@pytest.mark.parametrize("store", ["jpeg", "video"])
def test_rotation_is_applied(tmp_path, store):
    """A display matrix of 90 degrees clockwise, written into the container by hand."""
    from conftest import picture as frame_picture

    path = tmp_path / "v/turned.mp4"
    path.parent.mkdir()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_picture(index), format="rgb24")))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd")
    matrix = header + 4 + 40  # version, flags and times of a version 0 track header
    quarter = [0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000]
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter)
    path.write_bytes(data)
    assert convert_videos(tmp_path / "v", tmp_path / "data", store=store, workers=1).ok
    database = converted(tmp_path / "data", "unlabeled/turned")
    assert database.frame_size == (64, 48)
    upright = np.rot90(picture(0), -1)  # clockwise
    assert np.abs(database.decode([0])[0].numpy().astype(int) - upright).mean() < 6


@pytest.mark.parametrize(
    "size, source, expected",
    [
        ("256", (1920, 1080), (456, 256)),
        ("256", (1080, 1920), (256, 456)),
        ("256", (340, 256), (340, 256)),
        ("256", (320, 240), (320, 240)),
        ("none", (1921, 1081), (1921, 1081)),
        ("340x256", (1920, 1080), (340, 256)),
        ("2", (5000, 3), (3334, 2)),
    ],
)
def test_target_size(size, source, expected):
    assert target_size(size, *source) == expected


@pytest.mark.parametrize(
    "change, message",
    [
        ({"size": "big"}, "size is 'big'"),
        ({"size": "0"}, "size is '0'"),
        ({"quality": 0}, "quality is 0, must be between 1 and 100"),
        ({"chroma": 422}, "chroma is 422, must be one of 420, 444"),
        ({"fps": -1.0}, "fps is -1.0, must be greater than 0"),
        ({"workers": 0}, "workers is 0"),
        ({"shard": "3/2"}, "shard is '3/2'"),
        ({"on_error": "explode"}, "on_error is 'explode'"),
    ],
)
def test_options_are_checked_before_anything_happens(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        convert_videos(tmp_path, tmp_path / "data", **change)
    with pytest.raises(TypeError, match="qality"):
        convert_videos(tmp_path, tmp_path / "data", qality=3)
    assert not (tmp_path / "data").exists()


def test_options_reach_the_database(tmp_path, make_video):
    make_video(tmp_path / "v/x.mp4", size=(96, 128))
    convert_videos(tmp_path / "v", tmp_path / "small", size="48", levels=1, quality=50, restart_interval=0, workers=1)
    convert_videos(tmp_path / "v", tmp_path / "exact", size="40x30", levels=0, chroma=444, workers=1)
    small, exact = converted(tmp_path / "small", "unlabeled/x"), converted(tmp_path / "exact", "unlabeled/x")
    assert (small.frame_size, small.levels, exact.frame_size, exact.levels) == ((48, 64), 1, (30, 40), 0)
    assert b"\xff\xdd" not in small.read([0])[0][:700]
    assert b"\xff\xdd" in exact.read([0])[0][:700]
    assert small.meta["quality"] == 50


# --- sources ------------------------------------------------------------------------------------------------------


def test_csv_of_paths(tmp_path, make_video):
    make_video(tmp_path / "films/one.mp4", frames=4)
    make_video(tmp_path / "films/two.mp4", frames=5)
    (tmp_path / "list.csv").write_text(
        "path,label,split\nfilms/one.mp4,run,train\nfilms/two.mp4,jump,test\nfilms/none.mp4,run,train\n"
    )
    report = convert_videos(tmp_path / "list.csv", tmp_path / "data", workers=1)
    assert {outcome.target: (outcome.state, outcome.frames) for outcome in report.outcomes} == {
        "run/one": ("converted", 4),
        "jump/two": ("converted", 5),
        "run/none": ("failed", 0),
    }
    assert "does not exist" in report.problems()[0].problem
    assert [video.name for video in open_dataset(tmp_path / "data", split="train")] == ["one"]


@pytest.mark.parametrize("suffix", ["mp4", "avi", "webm"])
def test_timed_csv_cuts_clips(tmp_path, make_video, suffix):
    codec = {"mp4": "libx264", "avi": "mpeg4", "webm": "libvpx"}[suffix]
    make_video(tmp_path / f"films/abc-_123.{suffix}", frames=100, fps=10, codec=codec, options={"g": "12"})
    (tmp_path / "clips.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nrun,abc-_123,2.0,4.0,train\njump,abc-_123,7,9,val\nrun,abc-_123,50,60,val\n"
    )
    report = convert_videos(tmp_path / "clips.csv", tmp_path / "data", videos=str(tmp_path / "films"), workers=1)
    states = {outcome.target: (outcome.state, outcome.frames) for outcome in report.outcomes}
    assert states["run/abc-_123_000002_000004"] == ("converted", 20)
    assert states["jump/abc-_123_000007_000009"] == ("converted", 20)
    assert states["run/abc-_123_000050_000060"] == ("failed", 0)
    assert "no frame between 50 s and 60 s" in report.problems()[0].problem
    database = converted(tmp_path / "data", "run/abc-_123_000002_000004")
    assert database.timestamps[0] >= 2.0 - 0.11
    whole = rgb_of(tmp_path / f"films/abc-_123.{suffix}").astype(int)
    difference = [np.abs(whole - frame).mean((1, 2, 3)).argmin() for frame in database.decode([0, 7, 19]).numpy()]
    assert difference[1:] == [difference[0] + 7, difference[0] + 19]
    assert difference[0] in (19, 20)  # AVI stamps its first frame with one frame's duration


def jpeg_folder(folder: Path, numbers: range, name: str = "img_{:05d}.jpg") -> list[bytes]:
    import torch

    from vidseg.frames import encode_rgb

    folder.mkdir(parents=True)
    jpegs = [encode_rgb(torch.from_numpy(picture(number)), 80, restart_interval=0)[0] for number in numbers]
    for number, jpeg in zip(numbers, jpegs, strict=True):
        (folder / name.format(number)).write_bytes(jpeg)
    return jpegs


def test_folders_of_jpegs_keep_their_pixels(tmp_path):
    from vidseg.frames import decode_jpeg

    jpegs = jpeg_folder(tmp_path / "frames/run/clip_1", range(1, 13))
    (tmp_path / "frames/run/clip_1/flow_x_00001.jpg").write_bytes(jpegs[0])
    jpeg_folder(tmp_path / "frames/run/clip_2", range(98, 103), "frame{}.JPG")
    report = convert_videos(tmp_path / "frames", tmp_path / "data", workers=1)
    assert {outcome.target: outcome.frames for outcome in report.outcomes} == {"run/clip_1": 12, "run/clip_2": 5}
    assert report.ok
    database = converted(tmp_path / "data", "run/clip_1")
    assert all(
        np.array_equal(decode_jpeg(jpeg), frame) for jpeg, frame in zip(jpegs, database.decode(range(12)), strict=True)
    )
    assert database.levels == 2
    assert b"\xff\xdd" in database.read([0])[0]  # and yet a reader can decode a crop alone


def test_gaps_and_damage_in_jpeg_folders_are_named(tmp_path):
    jpegs = jpeg_folder(tmp_path / "frames/run/clip", range(1, 11))
    (tmp_path / "frames/run/clip/img_00004.jpg").unlink()
    (tmp_path / "frames/run/clip/img_00007.jpg").write_bytes(jpegs[0][:200])
    report = convert_videos(tmp_path / "frames", tmp_path / "data", workers=1)
    (outcome,) = report.outcomes
    assert (outcome.state, outcome.frames) == ("recovered", 8)
    assert "1 frame missing, first missing number 4" in outcome.problem
    assert "img_00007.jpg: damaged JPEG" in outcome.problem


def test_published_databases_are_upgraded(tmp_path):
    jpegs = jpeg_folder(tmp_path / "frames", range(8))
    write_published_database(tmp_path / "old/jpg/run/clip.one", jpegs, width=64, order=[3, 1, 0, 2, 7, 6, 5, 4])
    report = convert_videos(tmp_path / "old", tmp_path / "new", workers=1)
    assert report.ok
    old, new = FrameDatabase(tmp_path / "old/jpg/run/clip.one"), converted(tmp_path / "new", "run/clip.one")
    assert np.array_equal(old.decode(range(8)), new.decode(range(8)))
    assert new.levels == 2
    again = convert_videos(tmp_path / "new", tmp_path / "smaller", size="24", quality=70, workers=1)
    assert again.ok
    assert converted(tmp_path / "smaller", "run/clip.one").frame_size == (24, 32)


def test_splits_from_folder_names(tmp_path, make_video):
    make_video(tmp_path / "v/train/run/a.mp4", frames=3)
    make_video(tmp_path / "v/validation/run/b.mp4", frames=3)
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=1).ok
    assert open_dataset(tmp_path / "data").splits == ["train", "val"]


def test_timed_rows_find_videos_by_every_usual_name(tmp_path, make_video):
    for name in ("v_one", "two_000001_000002"):  # a downloader's name; a clip that is cut already
        make_video(tmp_path / f"films/{name}.mp4", frames=30, fps=10)
    (tmp_path / "clips.csv").write_text("label,id,time_start,time_end\nrun,one,1,2\nrun,two,1,2\n")
    report = convert_videos(tmp_path / "clips.csv", tmp_path / "data", videos=str(tmp_path / "films"), workers=1)
    assert {outcome.target: outcome.frames for outcome in report.outcomes} == {
        "run/one_000001_000002": 10,
        "run/two_000001_000002": 30,
    }


def test_dry_run_touches_nothing(tmp_path, make_video):
    make_video(tmp_path / "v/run/a.mp4")
    report = convert_videos(tmp_path / "v", tmp_path / "data", dry_run=True)
    assert [(outcome.target, outcome.state) for outcome in report.outcomes] == [("run/a", "planned")]
    assert f"planned: {tmp_path}/v/run/a.mp4 -> jpg/run/a" in str(report)
    assert not (tmp_path / "data").exists()


def test_shards_divide_the_videos_and_are_merged(tmp_path, make_video):
    from vidseg.labels import scan_catalog

    for index in range(12):
        make_video(tmp_path / f"v/c{index % 2}/clip_{index}.mp4", frames=2)
    counts = []
    for part in (1, 2, 3):
        report = convert_videos(tmp_path / "v", tmp_path / "data", shard=f"{part}/3", workers=1)
        counts.append(len(report.outcomes))
        assert report.ok
        assert (tmp_path / f"data/conversion_report.shard-{part}-of-3.json").is_file()
    assert sum(counts) == 12
    assert min(counts) > 0
    assert not (tmp_path / "data/catalog.db").exists()
    scan_catalog(tmp_path / "data")
    assert len(open_dataset(tmp_path / "data")) == 12


@pytest.mark.slow
@pytest.mark.ray
def test_ray_gives_the_same_databases(tmp_path, make_video, monkeypatch):
    pytest.importorskip("ray", reason='pip install "vidseg[ray]"')
    for index in range(4):
        make_video(tmp_path / f"v/run/clip_{index}.mp4", frames=3 + index)
    (tmp_path / "v/run/bad.mp4").write_bytes(b"no video")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    on_ray = convert_videos(tmp_path / "v", tmp_path / "ray", executor="ray")
    local = convert_videos(tmp_path / "v", tmp_path / "local", workers=1)
    assert [(o.target, o.state, o.frames) for o in on_ray.outcomes] == [
        (o.target, o.state, o.frames) for o in local.outcomes
    ]
    assert not on_ray.ok
    for index in range(4):
        name = f"jpg/run/clip_{index}/frames.db"
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


# --- the way back ------------------------------------------------------------------------------------------------


def test_export_to_jpegs_and_videos(tmp_path, make_video):
    from vidseg.convert.export import export_frames

    make_video(tmp_path / "v/run/a.mkv", frames=6, times=[0, 1, 2, 8, 9, 20], size=(49, 65), pixel_format="yuv444p")
    convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    database = converted(tmp_path / "data", "run/a")
    assert export_frames(tmp_path / "data", tmp_path / "jpegs", form="jpeg").startswith("1 video, 6 frames")
    for index in range(6):
        assert (tmp_path / f"jpegs/run/a/frame_{index + 1:05d}.jpg").read_bytes() == database.read([index])[0]
    export_frames(database.path, tmp_path / "films", form="video")
    with av.open(str(tmp_path / "films/a.mp4")) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert np.allclose([time for time, _ in frames], np.array([0, 1, 2, 8, 9, 20]) / 25, atol=2e-3)
    assert frames[0][1].shape == (48, 64, 3)
    assert np.abs(frames[3][1].astype(int) - database.decode([3])[0].numpy()[:48, :64]).mean() < 4
    with pytest.raises(FileNotFoundError, match=r"no frames\.db"):
        export_frames(tmp_path / "v", tmp_path / "films", form="jpeg")


def test_an_export_that_was_interrupted_is_completed_and_other_files_are_refused(tmp_path, make_video):
    from vidseg.convert.export import export_frames

    for name in "ab":
        make_video(tmp_path / f"v/run/{name}.mp4", frames=3, size=(48, 64 if name == "a" else 80))
    convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    jpegs, films = tmp_path / "jpegs", tmp_path / "films"
    for form, out in (("jpeg", jpegs), ("video", films)):
        export_frames(tmp_path / "data", out, form=form)
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        removed = sorted(before)[0]
        removed.unlink()
        report = export_frames(tmp_path / "data", out, form=form)
        assert report.startswith(f"1 video, {1 if form == 'jpeg' else 3} frame")
        assert report.endswith("; 1 video exported earlier")
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    for form, out, path in (("jpeg", jpegs, "run/b/frame_00002.jpg"), ("video", films, "run/b.mp4")):
        shutil.copy(out / path.replace("b", "a", 1), out / path)
        with pytest.raises(FileExistsError, match=rf"{re.escape(path)}: the file exists, .*--overwrite"):
            export_frames(tmp_path / "data/jpg/run/b", out / "run", form=form)
        export_frames(tmp_path / "data/jpg/run/b", out / "run", form=form, overwrite=True)
        assert (out / path).is_file()


def test_catalog_equals_the_databases(tmp_path, make_video):
    make_video(tmp_path / "v/run/a.mp4", frames=7, fps=10)
    convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    (row,) = sqlite3.connect(tmp_path / "data/catalog.db").execute("SELECT frames, height, width, fps FROM videos")
    assert row == (7, 48, 64, 10.0)


def test_encoded_frames_are_freed_at_once(tmp_path, make_video):
    """A frame of 1080p has 3 MB; the garbage collector would keep hundreds of them."""
    from vidseg.convert.encoding import JpegStore
    from vidseg.videos.decoding import VideoSource
    from vidseg.videos.upright import UprightFrames

    path = make_video(tmp_path / "a.mp4", frames=20)
    upright, store = UprightFrames(size="32"), JpegStore(ConvertOptions(size="32"))
    gc.collect()
    gc.disable()
    try:
        for item in VideoSource(path):
            assert store.of_planes(upright.planes(item.frame))
        assert sum(type(one) is av.VideoFrame for one in gc.get_objects()) <= 1
    finally:
        gc.enable()
