"""Training of streaming networks from the command line, and labeling of streams, on tiny videos of plain colors."""

import csv
import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vidseg.cli.main import main
from vidseg.convert import convert_videos
from vidseg.labels import apply_segmentation
from vidseg.labels.segmentation import SegmentationLabels
from vidseg.plots import class_colors

COLORS = np.array([(210, 40, 40), (40, 200, 60), (50, 70, 220)], np.uint8)
CLASSES = ["red", "green", "blue"]
FPS = 10
TINY = (
    "--width 0.1 --size 32 --stride 8 --frames 4 --interval 2 --threads 1 --device cpu --no-pictures "
    "--mean 0.5 0.5 0.5 --std 0.3 0.3 0.3 --validation-share 0.4"
).split()


def labels_of(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return np.concatenate([np.repeat(label, rng.integers(5, 12)) for label in rng.permutation(3)])


def write_video(path: Path, labels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
        for number, label in enumerate(labels):
            picture = np.broadcast_to(COLORS[label], (40, 48, 3)).copy()
            picture[(3 * number) % 32 :][:8] //= 2
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("streams")
    labels = {f"v{number}": labels_of(number) for number in range(7)}
    for name, values in labels.items():
        write_video(root / f"videos/{name}.mkv", values)
    assert convert_videos(root / "videos", root / "data", workers=1).ok
    splits = {"train": list(labels)[:5], "test": list(labels)[5:]}
    apply_segmentation(root / "data", SegmentationLabels(CLASSES, labels, splits, FPS))
    return root


def train(folder: Path, out: str, *words: object) -> Path:
    given = [str(folder / "data"), "--out", str(folder / out), *TINY, *map(str, words)]
    assert main(["train", "stream", *given]) == 0
    return folder / out


@pytest.fixture(scope="module")
def run(folder) -> Path:
    return train(folder, "run", "--epochs", 3, "--lr", 0.01, "--update", "window")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "etesvs_last.pth", weights_only=True)["state_dict"]


def test_training_leaves_a_run(run):
    with (run / "validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Epoch"] for row in rows] == ["0", "1", "2"]
    assert all(0 <= float(row["F1@50"]) <= 100 for row in rows)
    record = json.loads((run / "options.json").read_text())
    assert record["classes"] == CLASSES and len(record["validation_videos"]) == 2
    assert {"etesvs_last.pth", "etesvs_best.pth", "etesvs_ep-0003.pth"} == {path.name for path in run.glob("*.pth")}
    log = (run / "train.log").read_text()
    assert "3 training, 2 validation and 2 test videos, 3 classes" in log
    assert log.count("(train)  frames right") == 3 and log.count("(val)  F1@10") == 3
    tested = json.loads((run / "test.json").read_text())
    assert [video["name"] for video in tested["videos"]] == ["v5", "v6"]
    assert tested["scores"]["frames"] == len(labels_of(5)) + len(labels_of(6))
    assert len((run / "predictions/v5-pred.txt").read_text().splitlines()) == len(labels_of(5))


def test_training_goes_on_bit_by_bit(folder, monkeypatch):
    """Killed in the middle of the second epoch, behind its first group."""
    from vidseg.tasks.streaming.runs import _Run

    whole = train(folder, "whole", "--epochs", 2, "--checkpoint-every", 1, "--seed", 3)
    save = _Run._save

    def killed(self, **options):
        save(self, **options)
        if self.epoch == 1 and self.window:
            raise MemoryError("killed")

    monkeypatch.setattr(_Run, "_save", killed)
    words = ["--epochs", 2, "--checkpoint-every", 1, "--seed", 3]
    with pytest.raises(MemoryError):
        train(folder, "parts", *words)
    monkeypatch.setattr(_Run, "_save", save)
    saved = torch.load(folder / "parts/etesvs_last.pth", weights_only=True)
    assert saved["epoch"] == 1 and saved["batch"] > 0
    parts = train(folder, "parts", *words, "--resume")
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(parts).items())
    rows = [(out / "train_results_s0001.csv").read_text().splitlines()[-1] for out in (parts,)]
    assert rows == (whole / "train_results_s0000.csv").read_text().splitlines()[-1:]
    assert (parts / "validation.csv").read_text() == (whole / "validation.csv").read_text()


def test_runs_from_before_an_option_go_on(folder, run, tmp_path, capsys):
    """It had the default then; and a run of another kind is told."""
    old = shutil.copytree(run, tmp_path / "old")
    record = json.loads((old / "options.json").read_text())
    del record["options"]["sync_bn"]
    (old / "options.json").write_text(json.dumps(record))
    words = [str(folder / "data"), "--out", str(old), *TINY, "--epochs", "3", "--lr", "0.01", "--update", "window"]
    assert main(["train", "stream", *words, "--resume", "--sync-bn"]) == 2
    assert "has sync_bn=False, now it is True" in capsys.readouterr().err
    assert main(["train", "stream", *words, "--resume"]) == 0
    (old / "options.json").write_text(json.dumps(record | {"task": "segmentation"}))
    assert main(["train", "stream", *words, "--resume"]) == 2
    assert "of another kind of run, segmentation" in capsys.readouterr().err


def test_wrong_use_is_refused(folder, run, capsys):
    data = str(folder / "data")
    for words, message in (
        ([data, "--model", "etesv"], "did you mean 'etesvs'"),
        ([data, "--split", "split7"], "no split 'split7'"),
        ([data, "--out", str(run)], "--resume"),
        ([data, "--out", str(run), "--resume", *TINY, "--lr", "0.5"], "has lr=0.01, now it is 0.5"),
        ([data, "--network-option", "layers"], "NAME=VALUE"),
        ([data, "--stride", "200"], "leave gaps"),
    ):
        assert main(["train", "stream", *words]) == 2
        assert message in capsys.readouterr().err


def test_published_settings_are_the_defaults():
    recipe = stream_recipe(StreamOptions("data"))
    assert (recipe.epochs, recipe.stride, recipe.frames, recipe.interval) == (50, 120, 30, 4)
    assert [round(recipe.rate_at(epoch), 8) for epoch in (0, 19, 20, 40)] == [5e-4, 5e-4, 5e-5, 5e-6]
    salads = stream_recipe(StreamOptions("data", recipe="50salads", model="etesvs_convlstm"))
    assert (salads.epochs, salads.stride, salads.rate_at(50)) == (70, 640, 2.5e-4)
    reward = stream_recipe(StreamOptions("data", model="svtas_rl"))
    assert reward.rate_at(0) == 5e-4 and reward.rate_at(80) == pytest.approx(1e-5) and reward.backbone_rate == 0.02
    assert stream_recipe(StreamOptions("data", model="svtas_rl", lr_steps=())).rate_at(79) == 5e-4


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


def test_frames_are_prepared_as_the_loader_does(folder, run):
    from vidseg.clips.windows import WindowShape
    from vidseg.labels import open_dataset
    from vidseg.live.session import FramePreparer, load_stream_network
    from vidseg.live.source import LiveSource
    from vidseg.loaders import StreamLoader

    network = load_stream_network(run)
    recipe = network.recipe
    prepare = FramePreparer(recipe)
    frames = torch.stack([prepare(frame) for frame, _ in LiveSource(str(folder / "videos/v6.mkv"))], dim=1)
    data = open_dataset(folder / "data", "test").subset([1])
    shape = WindowShape(frames.shape[1], frames.shape[1])
    with StreamLoader(data, shape, size=32, train=False, threads=1, mean=recipe.mean, std=recipe.std) as loader:
        (batch,) = loader
    assert frames.shape == batch.clips[0].shape == (3, len(labels_of(6)), 32, 32)
    gray = 255 * recipe.std[0]
    assert (frames - batch.clips[0]).abs().mean() * gray < 2  # what JPEG loses
    black = batch.clips.new_tensor([-mean / std for mean, std in zip(recipe.mean, recipe.std, strict=True)])
    assert torch.allclose(prepare.black, black)


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


def test_a_stream_is_gone_on_with(folder, run, tmp_path, capsys, monkeypatch):
    """Stopped in the middle by Ctrl-C; the rest of the file follows."""
    from vidseg.live.session import LiveSession

    video, state, out = folder / "videos/v5.mkv", tmp_path / "stream.state", tmp_path / "part.mp4"
    assert predict(video, "--weights", run, "--json") == 0
    whole = frame_names(said(capsys.readouterr().out)[0])
    push = LiveSession.push

    def pushed(self, frame, moment):
        import os
        import signal

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
    from vidseg.live.session import LiveSession, load_stream_network
    from vidseg.live.source import LiveSource

    videos, state = [folder / "videos/v5.mkv", folder / "videos/v6.mkv"], tmp_path / "stream.state"
    session = LiveSession(load_stream_network(run))
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
    assert "the state is of recipe" in capsys.readouterr().err


def test_standard_input(folder, run, capfd, monkeypatch):
    import os

    assert predict(folder / "videos/v6.mkv", "--weights", run / "etesvs_best.pth", "--json") == 0
    expected = frame_names(said(capfd.readouterr().out)[0])
    kept = os.dup(0)
    try:
        with (folder / "videos/v6.mkv").open("rb") as file:
            os.dup2(file.fileno(), 0)
        assert predict("-", "--weights", run / "etesvs_best.pth", "--json") == 0
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert frame_names(said(capfd.readouterr().out)[0]) == expected


def test_a_silent_input_can_be_stopped(folder, run, capfd, monkeypatch):
    """Standard input stays open and gives no more; Ctrl-C comes while it is waited for."""
    import os
    import signal
    import threading

    from vidseg.live.source import LiveSource

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


def test_a_camera_that_is_pulled_out(folder, run, capsys, monkeypatch):
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
    assert predict("/dev/null", "--weights", run, "--format", "v4l2") == 1  # FFmpeg's own answer
    assert "cameras often have a second one" in capsys.readouterr().err
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/video77" or exists(path))
    for kind, number, remedy in (
        (av.error.PermissionError, 13, "usermod -aG video"),
        (av.error.OSError, 16, "another program has it open"),
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
        ([video, "--weights", bare], 2, "name the network and give its classes"),
        ([video, "--weights", bare, *named], 2, "does not fit the Etesvs"),
        ([video, "--weights", run, "--more"], 2, "--more needs --state"),
        ([folder / "absent.mkv", "--weights", run], 2, "no such file"),
        ([tmp_path / "broken.mkv", "--weights", run], 1, "not a video"),
        ([video, "--weights", folder / "data"], 2, "not the folder of a run"),
        ([video, "--weights", run, "--source-option", "framerate"], 2, "NAME=VALUE"),
    ):
        assert predict(*words) == status, words
        assert message in capsys.readouterr().err
