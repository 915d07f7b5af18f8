"""Videos with labels drawn in: upright pixels, the times of the frames, the sound, and what is written on the strip."""

import struct
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from vidseg.engine.explanation import Explanation, draw_explanation
from vidseg.tasks.detection.result_files import DetectionRow
from vidseg.tasks.detection.trained import draw_detections
from vidseg.tasks.recognition.trained import Prediction, draw_prediction
from vidseg.videos import LabeledVideoWriter, VideoSource, draw_labels

TICKS = [0, 4, 5, 6, 12, 20, 21, 30, 31, 40, 48, 49]  # of a clock of 25 a second: a variable rate
RATE = 48000
LEVEL = 150  # of gray frames


def write(path, *, sound="aac", ticks=TICKS, side=(96, 64), beep=1.0):
    """Gray frames whose right upper corner is red, and a tone of 0.2 s beside them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = *side, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        audio = container.add_stream(sound, rate=RATE, layout="stereo") if sound else None
        for tick in ticks:
            pixels = np.full((side[1], side[0], 3), LEVEL, np.uint8)
            pixels[: side[1] // 2, side[0] // 2 :] = (220, 20, 20)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            time = np.arange(2 * RATE) / RATE
            wave = np.where((time >= beep) & (time < beep + 0.2), np.sin(2 * np.pi * 1000 * time), 0).astype(np.float32)
            resampler = av.AudioResampler(format=audio.codec_context.format, layout="stereo", rate=RATE)
            for start in range(0, len(wave), 960):
                part = av.AudioFrame.from_ndarray(np.stack([wave[start : start + 960]] * 2), format="fltp")
                part.sample_rate, part.pts, part.time_base = RATE, start, Fraction(1, RATE)
                for one in resampler.resample(part):
                    container.mux(audio.encode(one))
            container.mux(audio.encode(None))
    return path


def frames_of(path):
    with av.open(str(path)) as container:
        return [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24").astype(int))
            for frame in container.decode(video=0)
        ]


def beep_of(path):
    """Seconds from the first frame to the begin of the tone, and the codec of the sound."""
    with av.open(str(path)) as container:
        codec = container.streams.audio[0].codec_context.name
        loud = []
        for frame in container.decode(audio=0):
            samples = np.abs(frame.to_ndarray().astype(np.float64))
            samples = samples.max(axis=0) if samples.shape[0] > 1 else samples[0]
            start = float(frame.pts * frame.time_base)
            loud += [start + float(n) / RATE for n in np.flatnonzero(samples > 0.4)[:1]]
    return min(loud) - frames_of(path)[0][0], codec


def strip_height(pixels) -> int:
    """Rows at the top that are darker than the gray of the frame, in the left column."""
    dark = pixels[:, 0].mean(axis=1) < 0.7 * LEVEL
    return len(dark) if dark.all() else int(dark.argmin())


@pytest.mark.parametrize(
    "name, sound, out, codec",
    [
        ("v.mp4", "aac", "out.mp4", "aac"),
        ("v.mkv", "ac3", "out.mp4", "ac3"),
        ("v.mov", "pcm_mulaw", "out.mp4", "aac"),  # MP4 holds no mu-law: it is encoded again
        ("v.ts", "mp2", "out.mkv", "mp2"),
    ],
)
def test_times_and_sound_are_kept(tmp_path, name, sound, out, codec):
    source = write(tmp_path / name, sound=sound)
    seen = []
    draw_labels(source, tmp_path / out, lambda moment: seen.append(moment) or "walk")
    drawn = frames_of(tmp_path / out)
    times = np.array([time for time, _ in drawn]) - drawn[0][0]
    assert times == pytest.approx(np.array(TICKS) / 25, abs=2e-3) and seen == pytest.approx(times, abs=0.1)
    assert max(seen) < 2.1  # from the start of the video, also where its clock begins later
    begin, found = beep_of(tmp_path / out)
    assert found == codec and begin == pytest.approx(beep_of(source)[0], abs=0.05) and 0.9 < begin < 1.1


def test_explained_videos_keep_times_and_sound(tmp_path):
    source, heat = write(tmp_path / "v.mp4"), np.ones((1, 2, 2), np.float32)
    draw_explanation(
        Explanation(source, "net", np.zeros(1, int), heat, ("walk",), (0.0, 0.0, 1.0, 1.0)), tmp_path / "o.mp4"
    )
    drawn = frames_of(tmp_path / "o.mp4")
    assert [time - drawn[0][0] for time, _ in drawn] == pytest.approx([tick / 25 for tick in TICKS], abs=2e-3)
    assert beep_of(tmp_path / "o.mp4")[0] == pytest.approx(1.0, abs=0.05)


def test_a_video_without_sound_has_none(tmp_path):
    draw_labels(write(tmp_path / "v.mp4", sound=None), tmp_path / "out.mp4", lambda _: "walk")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def turn(path, matrix):
    """Let an MP4 file be shown turned."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # the first track is the video
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("matrix, size, corner", [
    ((0, 1, -1, 0), (96, 64), (1, 1)), ((-1, 0, 0, -1), (64, 96), (1, 0)), ((0, -1, 1, 0), (96, 64), (0, 0)),
])  # fmt: skip
def test_turned_videos_are_upright(tmp_path, matrix, size, corner):
    """The red corner is where a player shows it, and the text is at the top of what is shown."""
    turn(write(tmp_path / "v.mp4"), matrix)
    plain = draw_labels(tmp_path / "v.mp4", tmp_path / "plain.mp4", lambda _: "")
    shown = frames_of(plain)[0][1]
    assert shown.shape[:2] == size
    red = (shown[..., 0] - shown[..., 1] > 100).reshape(2, size[0] // 2, 2, size[1] // 2).mean(axis=(1, 3)) > 0.5
    assert np.argwhere(red).tolist() == [list(corner)]
    drawn = frames_of(draw_labels(tmp_path / "v.mp4", tmp_path / "text.mp4", lambda _: "walk"))[0][1]
    assert drawn.shape == shown.shape and 8 < (np.abs(drawn - shown).max(axis=2) > 40).any(axis=1).sum() < 40
    assert np.abs(drawn[40:] - shown[40:]).max() < 30


def test_the_strip_is_translucent_and_fits_the_text(tmp_path):
    def drawn(text):
        with LabeledVideoWriter(tmp_path / "out.mp4") as writer:
            frame = av.VideoFrame.from_ndarray(np.full((120, 160, 3), LEVEL, np.uint8), format="rgb24")
            writer.write(frame, 0.0, text)
        return frames_of(tmp_path / "out.mp4")[0][1]

    none, one, three = (drawn(text) for text in ("", "walk", "walk\nrun\njump"))
    heights = [strip_height(pixels) for pixels in (none, one, three)]
    assert heights[0] == 0 < heights[1] < heights[2] < 60
    assert 0.3 * LEVEL < one[2, -4].mean() < 0.6 * LEVEL  # the picture is visible through it
    assert one[: heights[1]].max() > 220  # white text
    long = drawn("a class whose name is much longer than the frame is wide, in one line")
    assert long[: strip_height(long), -3:].max() < 200  # smaller letters, nothing is cut at the right


def texts_of(monkeypatch, module, call):
    texts = []
    monkeypatch.setattr(f"{module}.draw_labels", lambda video, out, text_at: texts.append(text_at(1.0)))
    call()
    return texts[0]


def test_three_classes_of_at_least_one_percent(monkeypatch, tmp_path):
    def drawn(*shares):
        names = tuple("abcde"[: len(shares)])
        return texts_of(
            monkeypatch, "vidseg.tasks.recognition.trained",
            lambda: draw_prediction(Prediction("v.mp4", names, shares), tmp_path / "o.mp4"),
        )  # fmt: skip

    assert drawn(0.6, 0.2, 0.1, 0.06, 0.04) == " 60.0%  a\n 20.0%  b\n 10.0%  c"
    assert drawn(0.985, 0.01, 0.005) == " 98.5%  a\n  1.0%  b"
    assert drawn(0.009, 0.008) == ""


def test_three_actions_of_a_moment(monkeypatch, tmp_path):
    scores = {"a": 0.02, "b": 0.9, "c": 0.005, "d": 0.3, "e": 0.1}
    rows = [DetectionRow(name, 0.0, 2.0, score) for name, score in scores.items()]
    rows.append(DetectionRow("later", 1.5, 2.0, 0.99))
    found = SimpleNamespace(detections=tuple(rows))
    text = texts_of(
        monkeypatch, "vidseg.tasks.detection.trained", lambda: draw_detections(found, tmp_path / "v", tmp_path / "o")
    )
    assert text == " 90.0%  b\n 30.0%  d\n 10.0%  e"


def test_the_sound_of_a_damaged_file_is_kept_up_to_the_damage(tmp_path):
    data = write(tmp_path / "whole.ts", sound="mp2").read_bytes()
    (tmp_path / "v.ts").write_bytes(data[: int(len(data) * 0.7)])
    draw_labels(tmp_path / "v.ts", tmp_path / "out.mp4", lambda _: "walk")
    assert len(frames_of(tmp_path / "out.mp4")) == len(list(VideoSource(tmp_path / "v.ts")))
    assert beep_of(tmp_path / "out.mp4")[0] == pytest.approx(1.0, abs=0.1)
