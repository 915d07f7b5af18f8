"""Features of long videos: which frames a column sees, what a file holds, going on, and what is refused."""

import dataclasses
import json
from contextlib import closing

import numpy as np
import pytest
import torch
from clip_data import FRAMES, break_row, clip_dataset
from torch import nn

import vidseg
from vidseg.cli.main import main
from vidseg.clips import BatchPlan, ColorPlan
from vidseg.engine.weight_source import find_weights
from vidseg.frames import FrameDatabase
from vidseg.loaders import FeatureLoader
from vidseg.loaders.native_backend import NativeFiller
from vidseg.loaders.output import OutputForm
from vidseg.models import InputSpec, create_model
from vidseg.tasks.recognition.feature_extraction import extract_features
from vidseg.tasks.recognition.trained import RecognitionModel
from vidseg.tasks.recognition.video_windows import VideoWindows, window_frames

KINDS = ("automatic", "levels", "optimized")
SMALL = InputSpec(frames=3, interval=1, size=16, crop="stretch")
NETWORK = "srtg_r3d_18"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return clip_dataset(tmp_path_factory.mktemp("clips"), KINDS)


class Means(nn.Module):
    """The classifier gets the mean color of each frame: (B, 3 T)."""

    def __init__(self, frames):
        super().__init__()
        self.fc = nn.Linear(3 * frames, 2)

    def forward(self, clips):
        return self.fc(clips.mean(dim=(3, 4)).flatten(1))


class Trained(RecognitionModel):
    """A model made here in place of one from a file."""

    def __init__(self, model, spec=SMALL, weights="w"):
        self.model, self.input_spec, self.device = model.eval(), spec, torch.device("cpu")
        self.network, self.weights, self.val_geometry = "means", weights, None

    def identity(self):
        return {"network": self.network, "weights": self.weights}


def test_a_column_sees_the_frames_around_its_own():
    spec = InputSpec(frames=4, interval=2)
    assert window_frames(spec, range(4), 3, 10).tolist() == [[0, 0, 0, 2], [0, 1, 3, 5], [2, 4, 6, 8], [5, 7, 9, 9]]
    assert window_frames(InputSpec(frames=1), range(2, 4), 1, 4).tolist() == [[2], [3]]


def test_files_hold_what_the_classifier_is_given(data, tmp_path):
    trained = Trained(Means(3))
    report = extract_features(data, trained, tmp_path / "f", stride=2, batch_size=2, threads=1)
    assert (report.written, report.present, report.columns, report.failed) == (3, 0, 9, [])
    assert not trained.model.fc._forward_pre_hooks
    for row in range(len(data)):
        features = np.load(tmp_path / f"f/{data[row].name}.npy")
        assert features.shape == (9, 3) and features.dtype == np.float32
        frames = FrameDatabase(data[row].path).decode(range(FRAMES)).double().mean(dim=(1, 2)) / 255
        shown = (frames - torch.tensor([124, 117, 104]) / 255) * 0.0167 * 255
        for column, seen in enumerate([(0, 0, 1), (1, 2, 3), (3, 4, 5)]):
            expected = shown[list(seen)].T.flatten()
            assert np.allclose(features[:, column], expected, atol=0.05), (row, column)


def test_the_batch_size_does_not_matter_and_logits_can_be_written(data, tmp_path):
    torch.manual_seed(0)
    trained = Trained(Means(3))
    found = {}
    for name, size, output in (
        ("a", 1, "features"),
        ("b", 5, "features"),
        ("c", 2, "logits"),
        ("d", 2, "probabilities"),
    ):
        extract_features(data, trained, tmp_path / name, stride=2, output=output, batch_size=size, threads=1)
        found[name] = torch.from_numpy(np.load(tmp_path / f"{name}/{data[0].name}.npy"))
    assert torch.allclose(found["a"], found["b"], atol=1e-6)
    logits = trained.model.fc(found["a"].T).T.detach()
    assert torch.allclose(found["c"], logits, atol=1e-5) and torch.allclose(found["d"], logits.softmax(0), atol=1e-5)


def test_it_continues_where_it_stopped_and_refuses_other_settings(data, tmp_path):
    model, out = Means(3), tmp_path / "f"

    def extract(*, weights="w", spec=SMALL, stride=2, **chosen):
        return extract_features(data, Trained(model, spec, weights), out, stride=stride, threads=1, **chosen)

    extract()
    first, second, third = sorted(out.glob("*.npy"))
    before = first.stat().st_mtime_ns
    second.unlink()
    np.save(third, np.load(third)[:, :-1])  # of a video that had fewer frames then
    report = extract()
    assert (report.written, report.present) == (2, 1) and first.stat().st_mtime_ns == before
    assert np.load(third).shape[1] == 3 and not list(out.glob(".*npy*"))
    with pytest.raises(ValueError, match=r"extraction\.json: .* have weights='w', now it is 'v'"):
        extract(weights="v")
    with pytest.raises(ValueError, match=r"have input=\{.*0\.48.*now it is \{.*0\.5"):
        extract(spec=dataclasses.replace(SMALL, mean=(0.5, 0.5, 0.5)))
    with pytest.raises(ValueError, match="have stride=2, now it is 1"):
        extract(stride=1)
    with pytest.raises(ValueError, match="have geometry=None, now it is 'center'"):
        extract(geometry="center")
    assert extract(stride=1, overwrite=True).written == 3
    (out / "extraction.json").unlink()
    with pytest.raises(ValueError, match="features of another origin"):
        extract()


def test_a_damaged_video_is_named_and_the_others_are_written(tmp_path, capsys):
    data = clip_dataset(tmp_path / "data", KINDS)
    break_row(data[2].path, 4, b"nothing")
    torch.save(create_model(NETWORK, num_classes=2).state_dict(), tmp_path / "w.pth")
    words = ["extract-features", str(tmp_path / "data"), "--weights", str(tmp_path / "w.pth"), "--frames", "2"]
    status = main([*words, "--network", NETWORK, "--size", "16", "--stride", "1", "--json", "--device", "cpu"])
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert status == 1 and report["written"] == 2
    assert len(report["failed"]) == 1 and report["failed"][0].startswith(data[2].name) and data[2].name in printed.err
    assert {path.stem for path in (tmp_path / "data/features").glob("*.npy")} == {data[0].name, data[1].name}


def test_what_is_extracted_can_be_loaded(tmp_path):
    from vidseg.labels import SegmentationLabels, apply_segmentation, open_dataset

    data = clip_dataset(tmp_path, KINDS[:2])
    labels = {data[row].name: np.arange(FRAMES) // 3 for row in range(2)}
    apply_segmentation(tmp_path, SegmentationLabels(["x", "y"], labels, {}, 25.0))
    extract_features(data, Trained(Means(3)), tmp_path / "features", stride=2, threads=1)
    (batch,) = FeatureLoader(open_dataset(tmp_path), batch_size=2, labels_per_column=2, train=False)
    assert batch.features.shape == (2, 9, 3) and batch.labels.tolist() == [[0, 0, 1]] * 2


def test_weights_that_do_not_fit_are_refused(data, tmp_path, capsys):
    torch.save(create_model(NETWORK, num_classes=5).state_dict(), tmp_path / "w.pth")
    words = ["extract-features", str(data.root), "--out", str(tmp_path / "f"), "--device", "cpu", "--weights"]
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    assert main([*words, str(tmp_path / "x.pth")]) == 2
    assert "give it with --network" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "none.pth"), "--network", NETWORK]) == 2
    assert "no weights at" in capsys.readouterr().err
    two = [str(tmp_path / "w.pth"), str(tmp_path / "w.pth"), "--network", NETWORK]
    assert main([*words, *two]) == 2
    assert "is for one file of weights; of 2 files the network is recognized" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "x.pth"), "--network", NETWORK]) == 2
    assert f"cannot make the network {NETWORK} of these weights" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "w.pth"), "--network", NETWORK, "--geometry", "three_crops"]) == 2
    assert "3 views; a column is made of one" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no linear classifier"):
        extract_features(data, Trained(nn.Conv3d(3, 2, 1)), tmp_path / "g", threads=1)
    for wrong in ({"stride": 0}, {"batch_size": 0}, {"output": "labels"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            extract_features(data, Trained(Means(3)), tmp_path / "g", threads=1, **wrong)


def test_the_network_of_a_file_is_recognized(tmp_path):
    torch.save(create_model("i3d_flow", num_classes=3).state_dict(), tmp_path / "flow.pth")
    found = find_weights(tmp_path / "flow.pth")
    assert (found.network, found.task) == ("i3d_flow", "recognition")


def test_features_are_cut_as_in_the_validation_of_the_run(data, tmp_path):
    """--val-geometry stretch of a run shows the whole frame in its features too."""
    trained = Trained(Means(3), dataclasses.replace(SMALL, crop="center"))
    extract_features(data, trained, tmp_path / "center", threads=1)
    trained.val_geometry = "stretch"
    extract_features(data, trained, tmp_path / "stretch", threads=1)
    extract_features(data, Trained(Means(3)), tmp_path / "whole", threads=1)
    center, stretch, whole = (
        np.load(tmp_path / f"{name}/{data[0].name}.npy") for name in ("center", "stretch", "whole")
    )
    assert np.array_equal(stretch, whole) and not np.array_equal(stretch, center)


def test_a_file_of_weights_brings_the_input_of_its_network(data, tmp_path):
    torch.save(create_model(NETWORK, num_classes=5).state_dict(), tmp_path / "w.pth")
    trained = vidseg.load_trained(tmp_path / "w.pth", network=NETWORK, size=16, frames=2)
    report = extract_features(data, trained, tmp_path / "f", stride=6, threads=1)
    record = json.loads((tmp_path / "f/extraction.json").read_text())
    assert report.written == 3 and record["network"] == NETWORK and record["input"]["frames"] == 2
    assert np.load(tmp_path / f"f/{data[0].name}.npy").shape == (512, 1)


@pytest.mark.parametrize(("stride", "interval"), [(1, 1), (1, 2), (2, 3), (3, 2), (4, 2), (9, 1)])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_windows_have_the_frames_of_their_columns(data, stride, interval, color):
    """Bytes are cut and normalized after decoding, as if each window were decoded."""
    spec = InputSpec(frames=3, interval=interval, size=16, crop="stretch", color=color, std=(0.2, 0.3, 0.4))
    geometry = Trained(Means(3), spec).geometry()
    samples_of = NativeFiller(data, OutputForm(color=color, mean=spec.mean, std=spec.std), threads=1)
    one, sizes = np.zeros(1, np.int64), (data.heights[[1]].astype(np.int64), data.widths[[1]].astype(np.int64))
    matrices = geometry.matrices(*sizes, output=(16, 16), views=one, seed=0, epoch=0, samples=one)
    with closing(VideoWindows(data, spec, geometry, threads=1)) as cut:
        for windows in (range(2), range(1, 3), range(2, 3)):
            frames = window_frames(spec, windows, stride, FRAMES)
            for clip, numbers in zip(cut.clips(1, windows, stride, "center"), frames, strict=True):
                plan = BatchPlan(
                    epoch=0, index=0, height=16, width=16, videos=one + 1, views=one, labels=one, frames=numbers[None],
                    matrices=matrices, colors=ColorPlan.none(1),
                )  # fmt: skip
                torch.testing.assert_close(clip, samples_of.fill(plan)[0][0], atol=1e-5, rtol=1e-5)
