"""Runs on flow, motion vectors and residuals: training, tests, fusion, features, and streams of frames with motion."""

import csv
import json

import numpy as np
import pytest
import torch
from motion_data import CLASSES, motion_dataset
from stream_data import tiny_options, write_video

import vidseg
from vidseg.cli.main import main
from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.frames import FlowForm, FlowWriter, FrameDatabaseError
from vidseg.loaders import ClipLoader
from vidseg.metrics.video_scores import read_scores
from vidseg.models import InputSpec, create_model, input_options, load_weights
from vidseg.tasks.detection.options import SnippetOptions
from vidseg.tasks.detection.runs import snippet_spec
from vidseg.tasks.flow.video_dataset import make_motion_dataset
from vidseg.tasks.recognition.data import mirrored, resolved_input
from vidseg.tasks.recognition.feature_extraction import extract_features
from vidseg.tasks.recognition.options import InputOptions, RecognitionOptions
from vidseg.tasks.recognition.recipes import recipe_options
from vidseg.tasks.recognition.runs import run_input, train_recognition
from vidseg.tasks.recognition.video_windows import window_frames
from vidseg.tasks.streaming.runs import train_streaming


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return motion_dataset(tmp_path_factory.mktemp("motion"))


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    return motion_dataset(tmp_path_factory.mktemp("streams"), videos=6, streams=True)


def options(root, out, **changes) -> RecognitionOptions:
    """Options of a run of seconds."""
    values = {
        "dataset": str(root),
        "out": str(out),
        "network": "tsn_r18",
        "network_option": ("width=0.125", "dropout=0.0"),
        "modality": "flow",
        "frames": 2,
        "interval": 1,
        "train_interval": (1,),
        "size": 32,
        "batch_size": 4,
        "epochs": 4,
        "precise_bn": 2,
        "mirror": False,
        "optimizer": "adamw",
        "lr": 0.01,
        "warmup_epochs": 0.0,
        "threads": 1,
        "device": "cpu",
        "pictures": False,
    }
    return recipe_options("synth", **(values | changes))


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """One run on RGB, which is noise, and one on each other modality."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        modality: train_recognition(options(root, folder / modality, modality=modality))
        for modality in ("rgb", "flow", "motion", "residual", "rgb+flow")
    }


def state(run):
    (path,) = run.glob("*_last.pth")
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize("modality", ["flow", "motion", "residual", "rgb+flow"])
def test_a_run_learns_from_motion_that_frames_do_not_show(runs, modality):
    """The frames are noise: a run that read them instead would stay at chance."""
    with (runs[modality] / "val_results_s0001.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["Top1"]) == 1.0
    record = json.loads((runs[modality] / "options.json").read_text())
    channels = {"flow": 2, "motion": 2, "residual": 3, "rgb+flow": 5}[modality]
    assert record["input"]["modality"] == modality
    assert record["network_options"].get("in_channels", 3) == channels
    name = modality.removeprefix("rgb+")
    method = {"flow": "dis", "motion": "motion-vectors", "residual": "residual"}[name]
    assert record["motion"] == {name: {"method": method, "bound": 255.0 if name == "residual" else 20.0}}


def test_a_run_resumes_bit_by_bit(root, tmp_path, monkeypatch):
    whole = train_recognition(options(root, tmp_path / "whole", epochs=2, checkpoint_every=1, mirror=True))
    save = CheckpointFolder.save

    def stop(self, content, **named):
        save(self, content, **named)
        if (content["epoch"], content["batch"] > 0) == (1, True):
            raise MemoryError("stopped")

    monkeypatch.setattr(CheckpointFolder, "save", stop)
    changed = options(root, tmp_path / "parts", epochs=2, checkpoint_every=1, mirror=True)
    with pytest.raises(MemoryError):
        train_recognition(changed)
    monkeypatch.setattr(CheckpointFolder, "save", save)
    assert main(["train", str(root), "--resume", "--out", str(tmp_path / "parts")]) == 0
    first, second = state(whole), state(tmp_path / "parts")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_scores_of_runs_are_fused(root, runs, tmp_path, capsys):
    for name in ("rgb", "flow", "motion"):
        dump = str(tmp_path / f"{name}.npz")
        assert main(["test", str(runs[name]), "--dump", dump, "--device", "cpu", "--worst", "0"]) == 0
    capsys.readouterr()
    files = [str(tmp_path / f"{name}.npz") for name in ("rgb", "flow", "motion")]
    out = tmp_path / "fused.npz"
    assert main(["score", *files, "--weights", "1", "1.5", "1", "--dump", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    parts = [read_scores(path).scores for path in files]
    expected = (parts[0] + 1.5 * parts[1] + parts[2]) / 3.5
    assert np.allclose(read_scores(out).scores, expected, atol=1e-6)
    assert summary["top1"] == 1.0 and summary["videos"] == 4


def test_a_test_on_flow_of_another_bound_is_refused(root, runs, tmp_path):
    other = motion_dataset(tmp_path / "other", videos=2)
    for name in CLASSES:
        for folder in (other / "jpg" / name).iterdir():
            with FlowWriter(folder / "flow.db", FlowForm("flow", method="raft_small", bound=10.0)) as writer:
                for _ in range(12):
                    writer.add_field(torch.zeros(2, 40, 48))
    trained = vidseg.load_trained(runs["flow"], device="cpu")
    with pytest.raises(ValueError, match=r"flow has a bound of 10 pixels, that of the run has 20; .* --bound 20"):
        trained.test(dataset=other, split="train")


def test_a_missing_database_is_named(root, tmp_path):
    other = motion_dataset(tmp_path / "other", videos=4)
    for path in other.glob("jpg/*/*/flow.db"):
        path.unlink()
    with pytest.raises(FrameDatabaseError, match=r"has no flow\.db; run `vidseg extract-flow"):
        train_recognition(options(other, tmp_path / "run"))


def test_cross_modality_initialization():
    """TSN, section 3.2: the mean over R, G and B, for each channel of the flow."""
    rgb = create_model("tsn_r18", num_classes=3, width=0.125)
    flow = create_model("tsn_r18", num_classes=3, width=0.125, in_channels=10)
    report = load_weights(flow, rgb.state_dict(), cross_modality=True)
    key = "backbone.conv1.conv.weight"
    first, other = rgb.state_dict()[key], flow.state_dict()[key]
    assert other.shape[1] == 10
    assert torch.equal(other, first.mean(dim=1, keepdim=True).expand_as(other))
    assert report.filled == 1.0 and f"{key} was averaged over R, G and B and repeated for 10 channels" in report.notes
    with pytest.raises(ValueError, match=r"shapes differ: 1 \(backbone\.conv1\.conv\.weight"):
        load_weights(flow, rgb.state_dict())
    with pytest.raises(ValueError, match="cross_modality, but no convolution for 3 channels"):
        load_weights(rgb, rgb.state_dict(), cross_modality=True)


def test_a_run_on_stacks_of_flow_from_weights_for_rgb(root, runs, tmp_path):
    changes = {"modality": "flow", "stack": 5, "pretrained": str(runs["rgb"] / "tsn_r18_last.pth"), "epochs": 1}
    run = train_recognition(options(root, tmp_path / "stacks", cross_modality=True, **changes))
    record = json.loads((run / "options.json").read_text())
    assert record["network_options"]["in_channels"] == 10 and record["input"]["stack"] == 5
    assert "averaged over R, G and B and repeated for 10 channels" in (run / "train.log").read_text()
    spec = vidseg.load_trained(run, device="cpu").input_spec
    assert (spec.modality, spec.mean, spec.std) == ("flow", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ValueError, match="cross_modality has no effect without pretrained"):
        options(root, tmp_path / "x", cross_modality=True)


@pytest.mark.slow
def test_predictions_of_data_sets_and_of_video_files(root, runs, tmp_path, capsys):
    """The motion of a file is extracted as that of the run."""
    assert main(["predict", str(root), "--weights", str(runs["motion"]), "--json", "--device", "cpu"]) == 0
    found = {row["video"]: row["classes"][0] for row in json.loads(capsys.readouterr().out)}
    assert found == {str(path.parent): path.parent.parent.name for path in root.glob("jpg/*/*/frames.db")}
    video = write_video(tmp_path / "videos" / "one.mkv", np.zeros(8, int))
    trained = vidseg.load_trained(runs["motion"], device="cpu")
    with pytest.raises(ValueError, match="the network sees motion, which the decoded frames of a video do not have"):
        trained.predict(video)
    words = ["--weights", str(runs["motion"]), "--json", "--device", "cpu", "--threads", "1"]
    assert main(["predict", str(video), *words]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["video"] == str(video) and sum(row["probabilities"]) == pytest.approx(1)
    picture = tmp_path / "cam.png"
    assert main(["plot", "cam", str(runs["motion"]), str(video), "--out", str(picture), "--device", "cpu"]) == 0
    assert picture.stat().st_size > 0
    with pytest.raises(ValueError, match=r"motion of the method 'raft_small', which cannot be computed here: run"):
        make_motion_dataset(video, tmp_path / "data", {"motion": {"method": "raft_small", "bound": 20.0}})


def test_input_of_a_run():
    own = InputSpec(mean=(0.4,) * 3, std=(0.2,) * 3, color="bgr")
    flow = resolved_input(InputOptions(modality="flow", stack=3), own)
    assert (flow.channels, flow.mean, flow.std, flow.color) == (6, (0.5,) * 3, (0.5,) * 3, "rgb")
    assert resolved_input(InputOptions(modality="rgb+flow"), own).mean == own.mean
    assert resolved_input(InputOptions(std=(0.226,) * 3), flow).std == (0.226,) * 3
    with pytest.raises(ValueError, match="color='bgr' has no effect with modality='flow'"):
        resolved_input(InputOptions(modality="flow", color="bgr"), own)
    assert run_input(recipe_options("synth", network="i3d_flow")).modality == "flow"
    assert run_input(recipe_options("synth", network="i3d_flow", modality="rgb")).channels == 3
    with pytest.raises(ValueError, match="3 input channels, clips with modality='flow' and stack=1 have 2; leave"):
        input_options("tsn_r18", {"in_channels": 3}, InputSpec(modality="flow"))
    with pytest.raises(ValueError, match=r"svtas_rl has 3 input channels, .*; choose another network"):
        input_options("svtas_rl", {}, InputSpec(modality="rgb+motion"))
    with pytest.raises(ValueError, match="encoder='i3d_flow' sees flow, and snippets are frames"):
        snippet_spec(SnippetOptions(encoder="i3d_flow"))
    assert input_options("etesvs", {}, InputSpec(modality="rgb+residual")) == {"in_channels": 6, "motion_channels": 3}


def test_mirrored_clips_are_those_of_the_loader(root):
    """Of flow, x changes its sign; of frames nothing but the place."""
    data = vidseg.open_dataset(root, "test")
    spec = InputSpec(frames=2, size=24, modality="rgb+flow", mean=(0.4,) * 3, std=(0.2,) * 3)
    clips = ClipLoader(data, modality=("rgb", "flow"), frames=2, size=24, train=False, batch_size=2, threads=1)
    batch = next(iter(clips))
    found = mirrored(batch.inputs, spec)
    assert torch.equal(found[:, :3], batch.inputs[:, :3].flip(-1))
    assert torch.allclose(found[:, 3], -batch.inputs[:, 3].flip(-1), atol=1e-6)
    assert torch.equal(found[:, 4], batch.inputs[:, 4].flip(-1))
    other = InputSpec(modality="flow", mean=(0.4,) * 3, std=(0.2,) * 3)
    zero = torch.full((1, 2, 1, 2, 2), 0.5)  # no motion, normalized: (0.5 - 0.4) / 0.2
    assert torch.allclose(mirrored(zero, other), zero)


def test_features_of_two_networks(root, runs, tmp_path):
    data = vidseg.open_dataset(root, "test")
    both = [vidseg.load_trained(runs[name], device="cpu") for name in ("rgb", "flow")]
    common = {"stride": 4, "threads": 1}
    for name, trained in (("rgb", both[0]), ("flow", both[1])):
        extract_features(data, trained, tmp_path / name, **common)
    words = ["--stride", "4", "--threads", "1", "--split", "test", "--out", str(tmp_path / "both"), "--device", "cpu"]
    assert main(["extract-features", str(root), "--weights", str(runs["rgb"]), str(runs["flow"]), *words]) == 0
    name = data.video_path(0).rpartition("/")[2]
    columns = {part: np.load(tmp_path / part / f"{name}.npy") for part in ("rgb", "flow", "both")}
    assert columns["both"].shape == (2 * columns["rgb"].shape[0], 3)
    assert np.array_equal(columns["both"], np.concatenate([columns["rgb"], columns["flow"]]))
    with pytest.raises(ValueError, match="'logits' of 2 networks"):
        extract_features(data, both, tmp_path / "logits", output="logits", **common)


def test_features_of_windows_that_begin_at_their_frame(root, runs, tmp_path):
    spec = InputSpec(frames=3, interval=2, modality="flow", stack=2)
    assert window_frames(spec, range(2), 4, 20, position="start").tolist() == [
        [0, 2, 4, 6, 8, 10],
        [4, 6, 8, 10, 12, 14],
    ]
    data = vidseg.open_dataset(root, "test")
    trained = vidseg.load_trained(runs["flow"], device="cpu", frames=5)
    report = extract_features(data, trained, tmp_path / "f", stride=2, position="start", threads=1)
    assert report.columns == 4 * 4  # windows of 5 of 12 frames begin at 0, 2, 4 and 6
    whole = ClipLoader(data, modality="flow", frames=5, interval=1, size=32, train=False, batch_size=1, threads=1,
                       mean=(0.5,) * 3, std=(0.5,) * 3, geometry=trained.geometry(), sampling="sequential")  # fmt: skip
    first = next(iter(whole))
    name = data.video_path(int(first.numbers[0])).rpartition("/")[2]
    with torch.inference_mode():
        pooled = trained.model.backbone(first.inputs).mean(dim=(1, 3, 4))[0]
    assert np.allclose(np.load(tmp_path / "f" / f"{name}.npy")[:, 0], pooled.numpy(), atol=1e-5)


def test_two_streams_with_one_classifier(root, tmp_path):
    words = ("width=0.125", "frames_network=tsn_r18", "motion_network=tsn_r18", "dropout=0.0")
    changes = {"network": "two_stream", "network_option": words, "modality": "rgb+motion"}
    run = train_recognition(options(root, tmp_path / "both", **changes))
    trained = vidseg.load_trained(run, device="cpu")
    assert trained.input_spec.channels == 5 and trained.test(mistakes=0).top1 == 1.0
    torch.manual_seed(0)
    model = trained.model.eval()
    clips = torch.randn(2, 5, 2, 32, 32)
    features = model.forward_features(clips)
    assert features.shape[1] == model.num_features == 128
    changed = clips.clone()
    changed[:, 3:] += 1
    assert torch.equal(model.forward_features(changed)[:, :64], features[:, :64])
    assert not torch.allclose(model.forward_features(changed)[:, 64:], features[:, 64:])


@pytest.mark.parametrize("network", ["etesvs", "etesvs_convlstm", "memory_tcn", "block_recurrent", "transeger"])
def test_streaming_networks_of_frames_and_motion(network):
    """Weights of the network of frames fill its part, and motion reaches the logits."""
    torch.manual_seed(0)
    text = {"frames": 4, "vocabulary_size": 128, "text_width": 16, "text_heads": 2, "text_layers": 1}
    given = {"width": 0.1, **(text if network == "transeger" else {})}
    plain = create_model(network, num_classes=3, **given).eval()
    model = create_model(network, num_classes=3, **given, in_channels=5, motion_channels=2).eval()
    report = load_weights(model, plain.state_dict(), strict=False)
    assert not report.left and all(".motion." in key for key in report.missing)
    clips = torch.randn(1, 5, 4, 32, 32)
    other = clips.clone()
    other[:, 3:] *= 2
    assert not torch.allclose(model(clips)[0].logits, model(other)[0].logits)
    for key, value in model.named_parameters():
        if ".motion.conv2." in key:
            value.data.zero_()
    for key, value in model.named_buffers():  # the last norm of the motion gives 0
        if ".motion.conv2.bn.running" in key:
            value.zero_()
    if network != "etesvs_convlstm":  # it also uses the maps before the last convolution
        assert torch.allclose(model(clips)[0].logits, plain(clips[:, :3])[0].logits, atol=1e-5)


@pytest.mark.parametrize("modality", ["rgb+flow", "motion"])
def test_streams_with_motion(streams, tmp_path, modality):
    run = train_streaming(
        tiny_options(
            streams, tmp_path / "run", "memory_tcn", modality=modality, stride=4, frames=2, interval=2, epochs=2,
            mean=(0.5,) * 3, std=(0.5,) * 3, lr=0.01,
        )
    )  # fmt: skip
    record = json.loads((run / "options.json").read_text())
    assert record["input"]["modality"] == modality and list(record["motion"]) == [modality.removeprefix("rgb+")]
    test = json.loads((run / "test.json").read_text())
    trained = vidseg.load_trained(run, device="cpu")
    assert trained.test(picture=False)["scores"] == test["scores"]
    channels = trained.input_spec.channels
    assert channels == {"rgb+flow": 5, "motion": 2}[modality]


def test_windows_of_frames_and_motion_continue_the_stream():
    """The causal network labels a window of 8 frames as two windows of 4 with the state between them."""
    torch.manual_seed(0)
    model = create_model(
        "memory_tcn", num_classes=3, width=0.1, shift_division=1000, in_channels=5, motion_channels=2
    ).eval()
    clips = torch.randn(2, 5, 8, 32, 32)
    whole, end = model(clips)
    first, state = model(clips[:, :, :4])
    second, last = model(clips[:, :, 4:], state)
    assert torch.allclose(torch.cat([first.logits, second.logits], dim=3), whole.logits, atol=1e-5)
    assert all(torch.allclose(last[name], value, atol=1e-5) for name, value in end.items())
