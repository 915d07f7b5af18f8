"""Times of frames: restarted clocks, wild and missing time stamps, the duration of the last frame, constant rates.

Expected numbers of frames at a constant rate are those of `ffmpeg -vf fps=RATE` (FFmpeg 9, with the same files).
"""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import picture

from vidseg import convert_videos
from vidseg.frames import FrameDatabase
from vidseg.videos.clock import FrameClock
from vidseg.videos.decoding import VideoSource
from vidseg.videos.frame_index import chosen_frames, read_frame_index
from vidseg.videos.frame_reader import FrameReader


def test_times_in_decoding_order_are_sorted():
    """MXF without an index: FFmpeg returns the frames in display order with the times in decoding order."""
    stored = [0, 3, 2, 4, 1, 7, 6, 8, 5, 11, 10, 12, 9, 15, 14, 16, 13, 19, 18, 20, 17, 22, 23, 21, 24]
    frames = ((number, time / 25, 0.0) for number, time in enumerate(stored))
    clock = FrameClock(1 / 25)
    assert [timed.time for timed in clock.repaired(frames)] == pytest.approx([number / 25 for number in range(25)])
    assert clock.replaced == clock.restarts == 0


def write(
    path: Path,
    frames: int = 50,
    *,
    fps: Fraction | int = 25,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    shift: float = 0.0,
    wild: Mapping[int, float] | None = None,
    last: float | None = None,
    sound: float = 0.0,
) -> Path:
    """Write a video; `wild`: seconds added to the times of some frames, `last`: duration of the last frame, `sound`:
    seconds of silence beside the video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac" if path.suffix != ".wmv" else "wmav2", rate=44100) if sound else None

        if audio is not None:
            audio.bit_rate = 64000

        def mux(packets):
            for packet in packets:
                number = round(packet.pts * packet.time_base * fps)
                packet.pts += round((shift + (wild or {}).get(number, 0.0)) / packet.time_base)
                packet.dts += round(shift / packet.time_base)
                if last is not None and number == frames - 1:
                    packet.duration = round(last / packet.time_base)
                container.mux(packet)

        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, 1 / Fraction(fps)
            mux(stream.encode(frame))
        mux(stream.encode(None))
        for start in range(0, int(44100 * sound) if audio else 0, 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts, silence.time_base = 44100, start, Fraction(1, 44100)
            container.mux(audio.encode(silence))
        if audio is not None:
            container.mux(audio.encode(None))
    return path


def times_of(path: Path) -> np.ndarray:
    """Return the times of a conversion, after checking that the reader of unconverted videos has the same."""
    source = VideoSource(path)
    frames = [(item.time, item.duration) for item in source]
    times = np.array([time for time, _ in frames]) - source.origin
    index = read_frame_index(path)
    assert np.allclose(index.times, times, atol=1e-6)
    assert index.end == pytest.approx(times[-1] + frames[-1][1])
    assert source.damage == []
    return times


def count_at(path: Path, fps: float) -> int:
    """Return the number of frames at a constant rate, the same for a conversion and without one."""
    count = sum(1 for _ in VideoSource(path).at_rate(fps))
    assert len(chosen_frames(read_frame_index(path), start=None, stop=None, fps=fps)) == count
    return count


RATES = (5, 10, 12.5, 15, 24, 25, 29.97, 30, 60)
COUNTS = [
    (25, 50, "mp4", "libx264", (10, 20, 25, 30, 48, 50, 60, 60, 120)),
    (Fraction(30000, 1001), 90, "mp4", "libx264", (15, 30, 38, 45, 72, 75, 90, 90, 180)),
    (10, 7, "mkv", "ffv1", (4, 7, 9, 11, 17, 18, 21, 21, 42)),
    (24, 31, "webm", "libvpx-vp9", (6, 13, 16, 19, 31, 32, 39, 39, 77)),
    (30, 47, "avi", "mpeg4", (8, 16, 20, 24, 38, 39, 47, 47, 94)),
    (60, 61, "ts", "libx264", (5, 10, 13, 15, 24, 25, 30, 31, 61)),
    (15, 16, "flv", "flv", (5, 11, 13, 16, 26, 27, 32, 32, 64)),
]


@pytest.mark.parametrize("fps, frames, suffix, codec, counts", COUNTS, ids=[f"{c[0]}-{c[2]}" for c in COUNTS])
def test_counts_at_a_rate_are_those_of_ffmpeg(tmp_path, fps, frames, suffix, codec, counts):
    path = write(tmp_path / f"v.{suffix}", frames, fps=fps, codec=codec)
    assert np.allclose(times_of(path), np.arange(frames) / float(fps), atol=1.1e-3)
    assert tuple(count_at(path, rate) for rate in RATES) == counts


def test_a_clip_at_a_rate_counts_from_its_start(tmp_path):
    path = write(tmp_path / "v.mp4", 100)
    source = VideoSource(path, 1.0, 2.5)
    assert np.allclose([item.time for item in source.at_rate(10)], 1 + np.arange(15) / 10)
    numbers = chosen_frames(read_frame_index(path), start=1.0, stop=2.5, fps=10)
    assert numbers.tolist() == [26, 28, 31, 33, 36, 38, 41, 43, 46, 48, 51, 53, 56, 58, 61]  # of ffmpeg -ss 1 -t 1.5


@pytest.mark.parametrize("codec, options", [("mpeg4", {"bf": "2"}), ("mpeg4", {}), ("ffv1", {})])
def test_avi_has_the_times_of_ffmpeg(tmp_path, codec, options):
    """AVI has no presentation times; FFmpeg delays videos with B-frames by one frame interval."""
    times = times_of(write(tmp_path / "v.avi", codec=codec, options=options))
    assert np.allclose(times, (np.arange(50) + ("bf" in options)) / 25)


def test_joined_transport_streams_go_on(tmp_path):
    """The second part of a joined recording follows the first, whether its clock restarts or jumps an hour ahead."""
    first, later = write(tmp_path / "a.ts").read_bytes(), write(tmp_path / "b.ts", shift=3600.0).read_bytes()
    for number, parts in enumerate([(first, first), (first, later), (later, first, first)]):
        path = tmp_path / f"joined/{number}.ts"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"".join(parts))
        assert np.allclose(times_of(path), np.arange(50 * len(parts)) / 25, atol=1e-4)
        assert [count_at(path, rate) for rate in (10, 25)] == [20 * len(parts), 50 * len(parts)]
    report = convert_videos(tmp_path / "joined", tmp_path / "data", workers=1)
    assert report.ok and report.outcomes[0].duration == pytest.approx(4.0, abs=1e-3)
    index = read_frame_index(tmp_path / "joined/0.ts")
    with FrameReader(tmp_path / "joined/0.ts", index) as reader:
        assert reader.read(70).to_ndarray(format="rgb24").shape == (48, 64, 3)


def test_the_last_frame_lasts_as_long_as_the_file_says(tmp_path):
    path = write(tmp_path / "v/stays.mp4", options={"bf": "0"}, last=8.0)
    assert [count_at(path, rate) for rate in (5, 10, 25)] == [50, 100, 249]
    report = convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    assert report.ok and report.outcomes[0].duration == pytest.approx(9.96)


def test_slides_of_a_gif(tmp_path):
    from PIL import Image

    slides = [Image.fromarray(picture(9 * number)) for number in range(5)]
    times = (500, 1000, 200, 100, 3000)
    slides[0].save(tmp_path / "slides.gif", save_all=True, append_images=slides[1:], duration=times)
    assert np.allclose(times_of(tmp_path / "slides.gif"), (0, 0.5, 1.5, 1.7, 1.8))
    assert [count_at(tmp_path / "slides.gif", rate) for rate in (2, 5, 10, 25)] == [10, 24, 48, 120]


def test_a_gap_before_the_last_frame_does_not_repeat_it(tmp_path):
    """Only the frame before the gap is shown during the gap; the last frame has its own duration."""
    path = write(tmp_path / "v.mkv", wild={49: 10.0})
    assert times_of(path)[-2:] == pytest.approx([1.92, 11.96])
    assert count_at(path, 25) == 300


WILD = {
    "one": {20: 100.0},
    "two": {24: 300.0, 25: 300.0},
    "many": {number: 300.0 - number for number in range(20, 27)},
    "small": {20: 0.5, 33: 0.3},
    "first": {0: 300.0},
}


@pytest.mark.parametrize("b_frames", ["0", "2"])
@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize("name", WILD)
def test_wild_times_do_not_disturb_other_frames(tmp_path, name, suffix, b_frames):
    if name == "first" and suffix == "mp4":
        pytest.skip("MP4 hides the frames before the first one by its edit list")
    path = write(tmp_path / f"v.{suffix}", options={"bf": b_frames}, wild=WILD[name])
    assert np.allclose(times_of(path), np.arange(50) / 25, atol=1e-3)
    assert [count_at(path, rate) for rate in (10, 25, 30)] == [20, 50, 60]


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_a_wild_last_time(tmp_path, suffix):
    path = write(tmp_path / f"v.{suffix}", wild={49: 300.0})
    times = times_of(path)
    if suffix == "mp4":  # its header has the duration of the video
        assert np.allclose(times, np.arange(50) / 25)
    else:
        assert np.allclose(times[:-1], np.arange(49) / 25, atol=1e-4)


def test_wild_times_in_a_conversion(tmp_path):
    write(tmp_path / "v/x.mp4", wild={24: 300.0, 25: 300.0})
    assert convert_videos(tmp_path / "v", tmp_path / "data", workers=1).ok
    database = FrameDatabase(tmp_path / "data/jpg/unlabeled/x")
    assert np.allclose(database.timestamps, np.arange(50) / 25)
    assert database.meta["duration"] == pytest.approx(2.0) and database.meta["times_replaced"] == 2


def repaired(times, **options) -> list[float]:
    clock = FrameClock(0.1, **options)
    return [round(item.time, 6) for item in clock.repaired((None, time, 0.0) for time in times)]


@pytest.mark.parametrize(
    "times, expected",
    [
        ([], []),
        ([3.0], [3.0]),
        ([None, None, None], [0.0, 0.1, 0.2]),
        ([0.0, None, 0.2], [0.0, 0.1, 0.2]),
        ([0.0, 0.1, 0.1, 0.2], [0.0, 0.1, 0.1, 0.2]),
        ([0.0, 5.0, 5.1, 60.0, 61.0], [0.0, 5.0, 5.1, 60.0, 61.0]),  # slides
        ([0.0, 0.3, 0.1, 0.2, 0.4, 0.7, 0.5, 0.6], [k / 10 for k in range(8)]),  # decoding order
        ([0.2, 0.0, 0.1, 0.3, 0.4], [k / 10 for k in range(5)]),
        ([0.0, 0.1, 0.0, 0.3, 0.4], [0.0, 0.1, 0.2, 0.3, 0.4]),  # a dip
        ([0.0, 0.1, 0.2, 0.0, 0.0, 0.0, 0.6], [k / 10 for k in range(7)]),
        ([0.0, 0.1, 9.0, 0.3, 8.0, 0.5, 0.6], [k / 10 for k in range(7)]),  # two separate ones
        ([7.0, 8.0, 0.2, 0.3, 0.4], [k / 10 for k in range(5)]),
        ([0.0, 2.0, 2.1, 1.0, 2.3, 2.4], [0.0, 2.0, 2.1, 2.2, 2.3, 2.4]),  # a dip after a true gap
        ([k / 10 for k in range(20)] * 2, [k / 10 for k in range(40)]),  # a restart
        ([5 + k / 10 for k in range(20)] + [4.95 + k / 10 for k in range(20)], [5 + k / 10 for k in range(40)]),
    ],
)
def test_frame_clock(times, expected):
    assert repaired(times) == pytest.approx(expected)


def test_jumps_of_a_discontinuous_clock():
    times = [0.0, 0.1, 0.2, 100.0, 100.1, 109.0, 109.1]
    assert repaired(times) == times
    assert repaired(times, discontinuous=True) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 9.3, 9.4])
    assert repaired([0.0, 0.1, 100.0], end=0.3) == pytest.approx([0.0, 0.1, 0.2])
    assert repaired([0.0, 0.1, 100.0], end=100.1) == pytest.approx([0.0, 0.1, 100.0])


@pytest.mark.parametrize("suffix, codec", [("flv", "flv"), ("wmv", "wmv2"), ("mkv", "libx264"), ("mp4", "libx264")])
def test_sound_longer_than_the_picture_is_no_damage(tmp_path, suffix, codec):
    path = write(tmp_path / f"v/x.{suffix}", codec=codec, sound=6.0)
    report = convert_videos(tmp_path / "v", tmp_path / "data", workers=1)
    assert report.ok and report.outcomes[0].frames == 50
    data = path.read_bytes()
    source = VideoSource(path)
    path.write_bytes(data[: len(data) // 3])
    if suffix in {"flv", "mkv"}:  # the others have no duration, or no index, once they are cut
        assert len(list(source)) > 0 and source.damage
