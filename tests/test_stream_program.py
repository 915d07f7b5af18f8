"""Streaming networks from the command line: training, and labels of files, cameras and standard input."""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from stream_data import CLASSES, FPS, labels_of, stream_dataset
from test_labeled_video import TICKS, beep_of, frames_of, turn, write

import vidseg
from vidseg.cli.main import main
from vidseg.live.session import LiveSession
from vidseg.live.source import LiveSource
from vidseg.plots import class_colors

TINY = (
    "--network-option width=0.1 --size 32 --stride 8 --frames 4 --interval 2 --threads 1 --device cpu --no-pictures "
    "--mean 0.5 0.5 0.5 --std 0.3 0.3 0.3 --validation-share 0.4"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return stream_dataset(tmp_path_factory.mktemp("streams"), videos=7, train=5)


@pytest.fixture(scope="module")
def run(folder) -> Path:
    words = ["--out", str(folder / "run"), *TINY, "--epochs", "3", "--lr", "0.01", "--update", "window"]
    assert main(["train", "stream", str(folder / "data"), *words]) == 0
    return folder / "run"


def test_a_run_from_the_command_line(run, capsys):
    record = json.loads((run / "options.json").read_text())
    assert record["task"] == "streaming" and record["options"]["update"] == "window"
    before = json.loads((run / "test.json").read_text())
    assert main(["test", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == before["scores"]


def test_a_run_is_resumed_with_its_own_options(folder, run, tmp_path, capsys):
    resumed = shutil.copytree(run, tmp_path / "resumed")
    assert main(["train", "stream", str(folder / "data"), "--out", str(resumed), "--resume", "--epochs", "4"]) == 0
    record = json.loads((resumed / "options.json").read_text())
    assert record["changes"] == [{"epochs": [3, 4]}] and record["options"]["lr"] == 0.01
    words = ["train", "stream", str(folder / "data"), "--out", str(resumed), "--resume", "--network", "memory_tcn"]
    assert main(words) == 2
    assert "etesvs" in capsys.readouterr().err


def test_wrong_use_is_refused(folder, run, capsys):
    data = str(folder / "data")
    for words, message in (
        ([data, "--network", "etesv"], "did you mean 'etesvs'"),
        ([data, "--split", "split7"], "no split 'split7'"),
        ([data, "--out", str(run)], "--resume"),
        ([data, "--network-option", "layers"], "NAME=VALUE"),
        ([data, "--stride", "200"], "leave gaps"),
    ):
        assert main(["train", "stream", *words]) == 2
        assert message in capsys.readouterr().err


# Labels of streams.


def predict(*words: object) -> int:
    return main(["predict", "--stream", *map(str, words), "--device", "cpu"])


def said(text: str) -> tuple[list[dict], dict]:
    """Lines of windows, and the one at the end."""
    *windows, last = map(json.loads, text.splitlines())
    return windows, last


def frame_names(windows: list[dict]) -> list[str]:
    """The label of each frame."""
    return [
        each["label"]
        for window in windows
        for each in window["segments"]
        for _ in range(round(FPS * (each["stop"] - each["start"])))
    ]


def test_a_file_is_labeled_as_in_the_test_of_its_run(folder, run, tmp_path, capsys):
    out = tmp_path / "drawn/out.mp4"
    assert predict(folder / "videos/v5.mkv", "--weights", run, "--json", "--draw", out) == 0
    windows, last = said(capsys.readouterr().out)
    expected = (run / "predictions/v5-pred.txt").read_text().split()
    found = frame_names(windows)
    assert len(found) == len(expected) == last["frames"] == last["labeled"]
    assert np.mean([one == other for one, other in zip(found, expected, strict=True)]) > 0.9
    assert [window["first_frame"] for window in windows][:2] == [0, 7]
    assert last["windows"] == sum(number + 7 <= len(found) for number in range(0, len(found), 8))
    assert last["longest_latency"] >= last["latency"] >= 6 / FPS and last["real_time_factor"] > 0
    with av.open(str(out)) as container:
        drawn = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(drawn) == len(found) and drawn[0].shape == (40, 48, 3)
    strips = np.stack([frame[-1].mean(axis=0) for frame in drawn])  # a video's colors run a little
    nearest = np.abs(strips[:, None] - 255 * class_colors(3)).sum(axis=2).argmin(axis=1)
    assert [CLASSES[label] for label in nearest] == found


@contextlib.contextmanager
def standard_input(path):
    """The file is what file descriptor 0 reads."""
    kept = os.dup(0)
    try:
        with path.open("rb") as file:
            os.dup2(file.fileno(), 0)
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


@pytest.mark.parametrize(
    "name, sound, words, codec",
    [
        ("v.mp4", "aac", [], "aac"),
        ("v.mov", "pcm_mulaw", [], "aac"),  # MP4 holds no mu-law: it is encoded again
        ("v.ts", "mp2", ["--format", "mpegts"], "mp3float"),  # MP4 has one name for the layers of MPEG audio
        ("v.ts", "mp2", None, "mp3float"),  # standard input
        ("v.mkv", "wavpack", None, "aac"),
    ],
)
def test_drawn_streams_keep_times_and_sound(run, tmp_path, name, sound, words, codec):
    """Of upright and turned files of a variable rate, and of a container that can be read only once."""
    source, out = write(tmp_path / name, sound=sound), tmp_path / "out.mp4"
    if name == "v.mp4":
        turn(source, (0, 1, -1, 0))
    if words is None:
        with standard_input(source):
            assert predict("-", "--weights", run, "--draw", out) == 0
    else:
        assert predict(source, "--weights", run, "--draw", out, *words) == 0
    drawn = frames_of(out)
    times = np.array([time for time, _ in drawn]) - drawn[0][0]
    assert times == pytest.approx(np.array(TICKS) / 25, abs=2e-3)
    assert drawn[0][1].shape[:2] == ((96, 64) if name == "v.mp4" else (64, 96))
    begin, found = beep_of(out)
    assert found == codec and begin == pytest.approx(beep_of(source)[0], abs=0.05) and 0.9 < begin < 1.1


def test_the_sound_of_a_resumed_stream_belongs_to_its_frames(run, tmp_path, monkeypatch):
    """Stopped after 5 frames of 0.48 s, before the tone; the rest has it, as many seconds after its first frame."""
    source, state = write(tmp_path / "v.mp4"), tmp_path / "stream.state"
    push = LiveSession.push

    def pushed(self, frame, moment):
        if self.frames == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return push(self, frame, moment)

    monkeypatch.setattr(LiveSession, "push", pushed)
    words = ("--weights", run, "--state", state, "--draw")
    assert predict(source, *words, tmp_path / "first.mp4") == 130
    monkeypatch.setattr(LiveSession, "push", push)
    with av.open(str(tmp_path / "first.mp4")) as container:
        ends = [float(frame.pts * frame.time_base) for frame in container.decode(audio=0)]
    assert len(frames_of(tmp_path / "first.mp4")) == 5 and max(ends) < 0.6
    assert predict(source, *words, tmp_path / "rest.mp4") == 0
    assert len(frames_of(tmp_path / "rest.mp4")) == len(TICKS) - 5
    assert beep_of(tmp_path / "rest.mp4")[0] == pytest.approx(1.0 - TICKS[5] / 25, abs=0.06)


def test_a_stream_is_resumed(folder, run, tmp_path, capsys, monkeypatch):
    """Stopped in the middle by Ctrl-C; the rest of the file follows."""
    video, state, out = folder / "videos/v5.mkv", tmp_path / "stream.state", tmp_path / "part.mp4"
    assert predict(video, "--weights", run, "--json") == 0
    whole = frame_names(said(capsys.readouterr().out)[0])
    push = LiveSession.push

    def pushed(self, frame, moment):
        if self.frames == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return push(self, frame, moment)

    monkeypatch.setattr(LiveSession, "push", pushed)
    assert predict(video, "--weights", run, "--json", "--state", state, "--draw", out) == 130
    monkeypatch.setattr(LiveSession, "push", push)
    first, last = said(capsys.readouterr().out)
    assert last["stopped"] and last["frames"] == 13 and last["state"] == str(state)
    with av.open(str(out)) as container:  # the last ones without a label
        assert sum(1 for _ in container.decode(video=0)) == 13
    assert predict(video, "--weights", run, "--json", "--state", state) == 0
    second, last = said(capsys.readouterr().out)
    assert frame_names(first) + frame_names(second) == whole and not state.exists()
    assert last["frames"] == len(whole) - 13
    times = [each["start"] for window in first + second for each in window["segments"]]
    assert times == sorted(times)


def test_two_files_are_one_stream(folder, run, tmp_path, capsys):
    videos, state = [folder / "videos/v5.mkv", folder / "videos/v6.mkv"], tmp_path / "stream.state"
    session = LiveSession(vidseg.load_trained(run))
    frames = [item for video in videos for item in LiveSource(str(video))]
    expected = [each.label for number, (frame, _) in enumerate(frames) for each in session.push(frame, number / FPS)]
    expected += [each.label for each in session.finish()]
    assert predict(videos[0], "--weights", run, "--json", "--state", state, "--more") == 0
    first = said(capsys.readouterr().out)[0]
    assert state.is_file()
    assert predict(videos[1], "--weights", run, "--json", "--state", state) == 0
    found = frame_names(first + said(capsys.readouterr().out)[0])
    assert found == [CLASSES[label] for label in expected]
    assert predict(videos[0], "--weights", run, "--state", state, "--more") == 0
    assert predict(videos[1], "--weights", run, "--state", state, "--stride", 4) == 2
    assert "the state is of stride 8" in capsys.readouterr().err


def test_standard_input(folder, run, capfd, monkeypatch):
    assert predict(folder / "videos/v6.mkv", "--weights", run / "etesvs_best.pth", "--json") == 0
    expected = frame_names(said(capfd.readouterr().out)[0])
    with standard_input(folder / "videos/v6.mkv"):
        assert predict("-", "--weights", run / "etesvs_best.pth", "--json") == 0
    assert frame_names(said(capfd.readouterr().out)[0]) == expected


def test_a_silent_input_can_be_stopped(folder, run, capfd, monkeypatch):
    """Standard input stays open and gives no more; Ctrl-C comes while it is waited for."""
    import threading

    kept, (readable, writable) = os.dup(0), os.pipe()
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    read = LiveSource.read

    def timed(self, size):
        if not timer.is_alive() and not self._stopped:
            timer.start()
        return read(self, size)

    monkeypatch.setattr(LiveSource, "read", timed)
    try:
        os.dup2(readable, 0)
        os.write(writable, (folder / "videos/v6.mkv").read_bytes()[:1000])
        assert predict("-", "--weights", run, "--json") == 130
    finally:
        timer.cancel()
        os.dup2(kept, 0)
        for descriptor in (kept, readable, writable):
            os.close(descriptor)
    captured = capfd.readouterr()
    windows, last = said(captured.out)
    assert last["stopped"] and last["labeled"] == last["frames"] == len(frame_names(windows))
    assert "Traceback" not in captured.err


class Camera:
    """`av.open` as it is where there is a camera: a device of /dev gives the pictures of a file, then an error."""

    def __init__(self, folder, monkeypatch, *, gone=None):
        from vidseg.live import source

        self.opened, self.gone, self.file = [], gone, folder / "videos/v5.mkv"
        self.real, exists = av.open, Path.exists
        monkeypatch.setattr(source.av, "open", self.open)
        monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/video7" or exists(path))

    def open(self, source, mode="r", **options):
        if source != "/dev/video7":
            return self.real(source, mode, **options)
        self.opened.append((options["format"], options["options"]))
        self.container, self.streams = self.real(str(self.file)), self
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.container.close()

    def best(self, kind):
        return self.container.streams.best(kind)

    def demux(self, stream):
        for number, packet in enumerate(self.container.demux(stream)):
            if number == self.gone:
                raise av.error.OSError(19, "No such device")
            if packet.pts is not None:  # since the machine was started
                packet.pts += round(86400 / packet.time_base)
            yield packet


@pytest.mark.parametrize("name", ["/dev/video7", "7"])
def test_a_camera(folder, run, capsys, monkeypatch, name):
    assert predict(folder / "videos/v5.mkv", "--weights", run, "--json") == 0
    expected = said(capsys.readouterr().out)[0]
    camera = Camera(folder, monkeypatch)
    assert predict(name, "--weights", run, "--json", "--source-option", "framerate=10") == 0
    windows = said(capsys.readouterr().out)[0]
    assert camera.opened == [("v4l2", {"framerate": "10"})]
    assert [window["segments"] for window in windows] == [window["segments"] for window in expected]


def test_an_unplugged_camera(folder, run, capsys, monkeypatch):
    Camera(folder, monkeypatch, gone=12)
    assert predict("7", "--weights", run, "--json") == 1
    captured = capsys.readouterr()
    windows, last = said(captured.out)
    assert last["labeled"] == last["frames"] == len(frame_names(windows)) > 0
    assert "7: reading stops after frame" in captured.err and "No such device" in captured.err


def test_cameras_that_cannot_be_read(run, capsys, monkeypatch):
    from vidseg.live import source

    for name in ("77", "/dev/video77"):
        assert predict(name, "--weights", run) == 2
        refused = capsys.readouterr().err
        assert "/dev/video77: no such camera" in refused and "docker run --device /dev/video77" in refused
    assert predict("/dev/null", "--weights", run, "--format", "v4l2") == 1  # an error of FFmpeg
    assert "cameras often have two devices" in capsys.readouterr().err
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/video77" or exists(path))
    for kind, number, remedy in (
        (av.error.PermissionError, 13, "usermod -aG video"),
        (av.error.OSError, 16, "another program uses it"),
        (av.error.ArgumentError, 22, "v4l2-ctl --device /dev/video77"),
    ):

        def refuse(*_, kind=kind, number=number, **__):
            raise kind(number, "refused")

        monkeypatch.setattr(source.av, "open", refuse)
        assert predict("77", "--weights", run) == 1
        assert remedy in capsys.readouterr().err
    monkeypatch.setattr(source.av, "formats_available", {"mov,mp4"})
    assert predict("77", "--weights", run) == 2
    assert "ffmpeg -f v4l2 -i /dev/video77 -f mpegts - | vidseg predict --stream -" in capsys.readouterr().err


def test_text_and_wrong_use(folder, run, tmp_path, capsys):
    video = folder / "videos/v5.mkv"
    assert predict(video, "--weights", run) == 0
    text = capsys.readouterr().out
    assert "real-time factor" in text and "latency" in text and f"{len(labels_of(5))} frames" in text.splitlines()[-1]
    bare = tmp_path / "bare.pth"
    torch.save(torch.load(run / "etesvs_last.pth", weights_only=True)["state_dict"], bare)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    (tmp_path / "broken.mkv").write_bytes(b"no video")
    named = ["--network", "etesvs", "--classes", tmp_path / "names.txt"]
    for words, status, message in (
        ([video, "--weights", bare], 2, "does not hold the name of its network; give it with --network"),
        ([video, "--weights", bare, *named], 2, "does not fit the Etesvs"),
        ([video, "--weights", run, "--more"], 2, "--more needs --state"),
        ([folder / "absent.mkv", "--weights", run], 2, "no such file"),
        ([tmp_path / "broken.mkv", "--weights", run], 1, "broken.mkv: FFmpeg cannot open this file as a video"),
        ([video, "--weights", folder / "data"], 2, "not the folder of a run"),
        ([video, "--weights", run, "--source-option", "framerate"], 2, "NAME=VALUE"),
    ):
        assert predict(*words) == status, words
        assert message in capsys.readouterr().err
