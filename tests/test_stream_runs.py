"""Runs of streaming networks on videos, and trained streaming networks: tests, predictions, live sessions."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from stream_data import CLASSES, FPS, labels_of, stream_dataset, tiny_options, write_video
from streams import Tiny, objective

import vidseg
from vidseg.clips.stream_windows import WindowShape
from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.engine.options import flat_options
from vidseg.engine.published_recipe import Recipe
from vidseg.engine.run_record import run_record
from vidseg.engine.schedules import Schedule, filled_schedule
from vidseg.labels import open_dataset
from vidseg.live.session import LiveSession
from vidseg.live.source import LiveSource
from vidseg.loaders import StreamLoader
from vidseg.losses import streaming
from vidseg.models import InputSpec, _registry, create_model, model_input_spec, register_model
from vidseg.tasks.recognition.recipes import recipe_options as recognition_options
from vidseg.tasks.streaming.inference import label_streams
from vidseg.tasks.streaming.recipes import RECIPES, recipe_options
from vidseg.tasks.streaming.runs import train_streaming
from vidseg.videos.decoding import VideoError


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stream_dataset(tmp_path_factory.mktemp("streams"), videos=7, train=5)


@pytest.fixture(scope="module")
def run(folder):
    return train_streaming(
        tiny_options(folder / "data", folder / "run", epochs=3, lr=0.01, update="window", pictures=True)
    )


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(path):
    return {found: found.read_bytes() for found in path.rglob("*") if found.is_file()}


def test_training_leaves_a_run(run):
    table = rows(run / "validation.csv")
    assert [row["Epoch"] for row in table] == ["1", "2", "3"]
    assert all(0 <= float(row["F1@50"]) <= 100 for row in table)
    assert [row["Epoch"] for row in rows(run / "train_results_s0001.csv")] == ["1", "2", "3"]
    record = json.loads((run / "options.json").read_text())
    assert (record["task"], record["classes"], record["stride"]) == ("streaming", CLASSES, 8)
    assert len(record["validation_videos"]) == 2 and record["input"]["size"] == 32
    assert not {"resume", "overwrite"} & record["options"].keys()
    assert {"etesvs_last.pth", "etesvs_best.pth", "etesvs_ep-0003.pth"} <= {path.name for path in run.glob("*.pth")}
    log = (run / "train.log").read_text()
    assert "3 training, 2 validation and 2 test videos, 3 classes" in log
    assert log.count("(train)  frame accuracy") == 3 and log.count("(val)  F1@10") == 3
    pictures = sorted(path.name for path in (run / "pictures").iterdir())
    assert pictures == ["epoch_0001.png", "epoch_0002.png", "epoch_0003.png", "test.png"]
    tested = json.loads((run / "test.json").read_text())
    assert [video["name"] for video in tested["videos"]] == ["v5", "v6"]
    assert tested["scores"]["frames"] == len(labels_of(5)) + len(labels_of(6))
    assert len((run / "predictions/v5-pred.txt").read_text().splitlines()) == len(labels_of(5))


def test_a_run_resumes_bit_by_bit(folder, tmp_path, monkeypatch):
    """Stopped in the middle of the second epoch, behind its first group."""
    chosen = {"epochs": 2, "checkpoint_every": 1, "seed": 3}
    whole = train_streaming(tiny_options(folder / "data", tmp_path / "whole", **chosen))
    save = CheckpointFolder.save

    def stop(self, content, **named):
        save(self, content, **named)
        if (content["epoch"], content["batch"] > 0) == (1, True):
            raise MemoryError("stopped")

    monkeypatch.setattr(CheckpointFolder, "save", stop)
    with pytest.raises(MemoryError):
        train_streaming(tiny_options(folder / "data", tmp_path / "parts", **chosen))
    monkeypatch.setattr(CheckpointFolder, "save", save)
    parts = train_streaming(tiny_options(folder / "data", tmp_path / "parts", resume=True, **chosen))
    states = [torch.load(out / "etesvs_last.pth", weights_only=True)["state_dict"] for out in (whole, parts)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert rows(parts / "train_results_s0002.csv") == rows(whole / "train_results_s0001.csv")[-1:]
    for name in ("validation.csv", "test.json"):
        assert (parts / name).read_text() == (whole / name).read_text()


def test_another_run_is_not_resumed(folder, run):
    """Refused before anything is written; other options are accepted."""
    before = contents(run)
    data = folder / "data"
    chosen = {"epochs": 3, "lr": 0.01, "update": "window", "resume": True}
    for change, said in (
        ({"network": "memory_tcn"}, 'network="etesvs", now it is "memory_tcn"'),
        ({"network_option": ("width=0.2",)}, 'network_options={"width": 0.1}, now'),
        ({"size": 40}, "input="),
        ({"stride": 4}, "stride=8, now it is 4"),
        ({"select": "last"}, "validation_videos="),
    ):
        with pytest.raises(ValueError) as error:
            train_streaming(tiny_options(data, run, **(chosen | change)))
        assert said in str(error.value).replace("\\", "") and contents(run) == before
    with pytest.raises(FileExistsError, match="--resume"):
        train_streaming(tiny_options(data, run))
    assert contents(run) == before


def test_changed_options_are_recorded(folder, tmp_path):
    data, out = folder / "data", tmp_path / "run"
    train_streaming(tiny_options(data, out, epochs=1, checkpoint_every=3))
    train_streaming(tiny_options(data, out, epochs=2, lr=1e-3, clip_norm=1.0, resume=True, checkpoint_every=3))
    record = json.loads((out / "options.json").read_text())
    assert record["changes"] == [{"epochs": [1, 2], "lr": [5e-4, 1e-3], "clip_norm": [None, 1.0]}]
    log = (out / "train.log").read_text()
    assert "resumed with other options" in log and "lr: 0.0005 -> 0.001" in log and "continuing with epoch [2]" in log


def test_wrong_use_is_refused(folder, tmp_path):
    data = folder / "data"
    for changes, message in (
        ({"network": "etesv"}, "did you mean 'etesvs'"),
        ({"split": "split7"}, "no split 'split7'"),
        ({"network_option": ("layers",)}, "NAME=VALUE"),
        ({"network_option": ("depth=3",)}, "etesvs has no option 'depth'"),
        ({"loss_option": ("weight=3",)}, "stream loss 'etesvs' has no option 'weight'"),
        ({"stride": 200}, "leave gaps"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            train_streaming(tiny_options(data, tmp_path / "run", **changes))
        assert not (tmp_path / "run").exists()


def test_recipes_build_their_networks():
    for name, recipes in RECIPES.items():
        for network, recipe in recipes.items():
            found = recipe_options(name, network)
            flat = flat_options(found)
            assert {key: flat[key] for key in recipe.options} == dict(recipe.options)
            schedule = filled_schedule(found, batches=100, batch_size=1)
            assert Schedule(schedule, found.session.epochs).rate(0) == 5e-4
    gtea = recipe_options("gtea", "etesvs")
    assert (gtea.session.epochs, gtea.input.stride, gtea.input.frames, gtea.input.interval) == (50, 120, 30, 4)
    assert gtea.training.weighting == "group"
    rates = Schedule(filled_schedule(gtea, batches=100, batch_size=1), 50)
    assert [round(rates.rate(epoch), 8) for epoch in (0, 19, 20, 40)] == [5e-4, 5e-4, 5e-5, 5e-6]
    salads = recipe_options("50salads", "etesvs_convlstm")
    assert (salads.session.epochs, salads.input.stride) == (70, 640)
    assert Schedule(filled_schedule(salads, batches=100, batch_size=1), 70).rate(50) == 2.5e-4
    reward = recipe_options("gtea", "svtas_rl")
    assert Schedule(filled_schedule(reward, batches=100, batch_size=1), 80).rate(80) == pytest.approx(1e-5)
    assert reward.optimizer.backbone_lr == 0.02
    constant = recipe_options("gtea", "svtas_rl", lr_steps=())
    assert Schedule(filled_schedule(constant, batches=100, batch_size=1), 80).rate(79) == 5e-4
    assert recipe_options("gtea", "etesvs", frames=8).input.stride is None


def test_a_network_is_added_with_a_loss_and_a_recipe(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("vidseg.models._registry._ENTRIES", dict(_registry._ENTRIES))
    monkeypatch.setattr("vidseg.losses.streaming._OBJECTIVES", dict(streaming._OBJECTIVES))
    recipe = Recipe({"lr": 0.05, "frames": 4, "interval": 2, "stride": 8, "update": "window"})
    monkeypatch.setitem(RECIPES["gtea"], "tiny", recipe)

    def make(num_classes: int, *, dropout: float = 0.0) -> Tiny:
        assert num_classes == 3
        return Tiny(dropout)

    register_model("tiny", make, task="streaming", input_spec=InputSpec(frames=8, interval=1, size=32))
    streaming.register_stream_loss("tiny", lambda *, update: objective)
    options = tiny_options(folder / "data", tmp_path, "tiny", network_option=("dropout=0.1",), epochs=12)
    trained = vidseg.load_trained(train_streaming(options))
    assert (trained.network, trained.shape) == ("tiny", WindowShape(8, 4, 2))
    found = trained.predict(folder / "videos/v6.mkv").labels
    assert np.mean(found == labels_of(6)) > 0.7


# Trained networks


def test_weights_from_a_run_a_checkpoint_and_a_file(folder, run, tmp_path):
    trained = vidseg.load_trained(run)
    assert (trained.task, trained.network, trained.classes) == ("streaming", "etesvs", CLASSES)
    assert trained.shape == WindowShape(8, 4, 2) and trained.input_spec.std == (0.3, 0.3, 0.3)
    bare = tmp_path / "bare.pth"
    torch.save(torch.load(run / "etesvs_best.pth", weights_only=True)["state_dict"], bare)
    named = {"network": "etesvs", "network_options": {"width": 0.1}, "classes": CLASSES}
    changes = {"frames": 4, "interval": 2, "stride": 8, "size": 32, "mean": (0.5,) * 3, "std": (0.3,) * 3}
    video = folder / "videos/v5.mkv"
    expected = trained.predict(video)
    for other in (vidseg.load_trained(run / "etesvs_best.pth"), vidseg.load_trained(bare, **named, **changes)):
        found = other.predict(video)
        assert np.array_equal(found.labels, expected.labels)
        assert np.array_equal(found.probabilities, expected.probabilities)
    with pytest.raises(ValueError, match=r"bare\.pth: does not hold the name of its network"):
        vidseg.load_trained(bare)
    with pytest.raises(ValueError, match=r"bare\.pth.*run"):
        vidseg.load_trained(bare, **named).test(dataset=folder / "data")
    with pytest.raises(ValueError, match=r"does not fit|etesvs"):
        vidseg.load_trained(bare, network="etesvs", classes=CLASSES)
    with pytest.raises(ValueError, match="its windows have no color"):
        vidseg.load_trained(run, color="bgr")
    assert vidseg.load_trained(run, stride=4).shape == WindowShape(4, 4, 2)


def test_a_run_is_tested_again(folder, run):
    before = contents(run)
    assert vidseg.load_trained(run).test() == json.loads((run / "test.json").read_text())
    assert {path: value for path, value in contents(run).items() if path.suffix != ".png"} == {
        path: value for path, value in before.items() if path.suffix != ".png"
    }
    tested = vidseg.load_trained(run, checkpoint=run / "etesvs_ep-0001.pth").test(split="train", picture=False)
    assert (tested["split"], tested["epoch"], len(tested["videos"])) == ("train", 1, 5)
    assert json.loads((run / "test_train_etesvs_ep-0001.json").read_text()) == tested


def test_a_video_file_is_predicted_as_in_the_test_of_its_run(folder, run, tmp_path):
    trained = vidseg.load_trained(run)
    found = trained.predict(folder / "videos/v5.mkv")
    expected = (run / "predictions/v5-pred.txt").read_text().split()
    assert found.labels.shape == found.probabilities.shape == found.times.shape == (len(labels_of(5)),)
    assert np.mean([CLASSES[label] == name for label, name in zip(found.labels, expected, strict=True)]) > 0.9
    assert found.times == pytest.approx(np.arange(len(labels_of(5))) / FPS)
    segments = found.segments()
    assert segments[0][1] == 0 and segments[-1][2] == pytest.approx(len(found.labels) / FPS)
    assert [CLASSES.index(name) for name, _, _ in segments] == [
        label for number, label in enumerate(found.labels) if number == 0 or found.labels[number - 1] != label
    ]
    with pytest.raises(FileNotFoundError, match="no such file"):
        trained.predict(folder / "videos/v9.mkv")
    (tmp_path / "broken.mkv").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"broken\.mkv: FFmpeg cannot open"):
        trained.predict(tmp_path / "broken.mkv")


# Live sessions


def labeled(session, video):
    found = [each for frame, moment in LiveSource(str(video)) for each in session.push(frame, moment)]
    return found + session.finish()


def test_frames_are_prepared_as_the_loader_does(folder, run):
    trained = vidseg.load_trained(run)
    spec, prepare = trained.input_spec, LiveSession(trained).prepare
    frames = torch.stack([prepare(frame) for frame, _ in LiveSource(str(folder / "videos/v6.mkv"))], dim=1)
    data = open_dataset(folder / "data", "test").subset([1])
    shape = WindowShape(frames.shape[1], frames.shape[1])
    given = {"size": 32, "resize": spec.resize, "mean": spec.mean, "std": spec.std}
    with StreamLoader(data, shape, train=False, threads=1, **given) as loader:
        (batch,) = loader
    assert frames.shape == batch.clips[0].shape == (3, len(labels_of(6)), 32, 32)
    assert (frames - batch.clips[0]).abs().mean() * 255 * spec.std[0] < 2  # the loss of JPEG
    black = batch.clips.new_tensor([-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)])
    assert torch.allclose(prepare.black, black)


@pytest.mark.parametrize("stride", [8, 3])
def test_a_session_labels_as_label_streams_does(folder, run, stride):
    trained = vidseg.load_trained(run, stride=stride)
    session = LiveSession(trained)
    prepared = [session.prepare(frame) for frame, _ in LiveSource(str(folder / "videos/v6.mkv"))]
    found = labeled(session, folder / "videos/v6.mkv")
    assert [each.number for each in found] == list(range(len(prepared)))
    video = torch.stack(prepared)
    (expected,) = label_streams(trained.model, windows(video, trained.shape, session.prepare.black), trained.shape)
    assert [each.label for each in found] == expected.labels.tolist()
    assert labeled(session, folder / "videos/v6.mkv") == found  # a new stream


def windows(video, shape, black):
    from vidseg.clips.stream_windows import StreamPlan
    from vidseg.loaders.stream_loader import StreamBatch

    for item in StreamPlan([len(video)], shape):
        clips = black.view(1, 3, 1, 1).repeat(shape.frames, 1, *video.shape[2:])
        real = item.frames[0] >= 0
        clips[torch.from_numpy(real)] = video[item.frames[0][real]]
        labels = torch.zeros(1, shape.span, dtype=torch.int64)
        yield StreamBatch(clips.transpose(0, 1)[None], labels, torch.from_numpy(item.mask), item)


def test_a_session_resumes_from_its_state(folder, run, tmp_path):
    frames = list(LiveSource(str(folder / "videos/v5.mkv")))
    whole = labeled(LiveSession(vidseg.load_trained(run)), folder / "videos/v5.mkv")
    first = LiveSession(vidseg.load_trained(run))
    found = [each for frame, moment in frames[:13] for each in first.push(frame, moment)]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    second = LiveSession(vidseg.load_trained(run))
    second.load_state_dict(saved)
    found += [each for frame, moment in frames[13:] for each in second.push(frame, moment)]
    assert found + second.finish() == whole
    for changes, said in (({"stride": 4}, "stride 8"), ({"size": 40}, "of input"), ({"mean": (0.4,) * 3}, "of input")):
        with pytest.raises(ValueError, match=f"the state is .*{said}"):
            LiveSession(vidseg.load_trained(run, **changes)).load_state_dict(saved)
    other = saved["identity"] | {"classes": ["a", "b", "c"]}
    with pytest.raises(ValueError, match="the state is of classes"):
        second.load_state_dict(saved | {"identity": other})
    other = saved["identity"] | {"network": "memory_tcn"}
    with pytest.raises(ValueError, match="the state is of network memory_tcn"):
        second.load_state_dict(saved | {"identity": other})


class Clips(torch.nn.Module):
    """Names the class whose color a clip has most of, at its last frame."""

    def forward(self, clips):
        return 10 * clips[:, :, -1].mean(dim=(2, 3))


def test_a_recognition_network_labels_a_sliding_window(folder, tmp_path, monkeypatch):
    """The class of a clip is the label of the first frames of its window."""
    torch.manual_seed(0)
    options = recognition_options("synth", network="r3d_18", dataset=str(folder / "data"))
    model = create_model("r3d_18", num_classes=3)
    spec = replace(model_input_spec("r3d_18"), frames=4, interval=2, size=32)
    record = run_record(
        "recognition", options, input_spec=spec, dataset=str(folder / "data"), train=open_dataset(folder / "data")
    )
    record["classes"] = CLASSES
    torch.save({"state_dict": model.state_dict(), "record": record}, tmp_path / "weights.pth")
    trained = vidseg.load_trained(tmp_path / "weights.pth")
    assert (trained.task, trained.input_spec.frames) == ("recognition", 4)
    assert LiveSession(trained).shape == WindowShape(4, 4, 2)  # half of a window
    labels = np.repeat([0, 1, 2, 1], 8)
    video = write_video(tmp_path / "video.mkv", labels)
    trained.model = Clips()
    found = labeled(LiveSession(trained, stride=2), video)
    # A window of 8 frames sees every other one: its first two frames have the label of its seventh.
    assert [each.label for each in found][:24] == [labels[6 + 2 * (number // 2)] for number in range(24)]
    assert len(found) == len(labels) and found[-1].label == 1
    with pytest.raises(ValueError, match="change the stride of a streaming network in load_trained"):
        LiveSession(vidseg.load_trained(folder / "run"), stride=4)
