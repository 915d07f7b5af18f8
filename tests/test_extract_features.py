"""Features of long videos: which frames a column sees, what a file holds, going on, and what is refused."""

import json

import numpy as np
import pytest
import torch
from clip_data import FRAMES, break_row, clip_dataset
from torch import nn

from vidseg.cli.main import main
from vidseg.frames import FrameDatabase
from vidseg.loaders import MEAN, STD, FeatureLoader
from vidseg.models import create_model
from vidseg.tasks.recognition.feature_extraction import Extraction, centered_frames, extract_features, load_recognition

KINDS = ("automatic", "levels", "optimized")
SMALL = {"frames": 3, "size": 16, "stride": 2}
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


def test_a_column_sees_the_frames_around_its_own():
    chosen = Extraction(frames=4, interval=2, stride=3)
    assert centered_frames(chosen, range(4), 10).tolist() == [[0, 0, 0, 2], [0, 1, 3, 5], [2, 4, 6, 8], [5, 7, 9, 9]]
    assert centered_frames(Extraction(frames=1), range(2, 4), 4).tolist() == [[2], [3]]


def test_files_hold_what_the_classifier_is_given(data, tmp_path):
    model = Means(3).train()
    extraction = Extraction(**SMALL, geometry="stretch")
    report = extract_features(data, model, tmp_path / "f", extraction=extraction, batch_size=2, threads=1)
    assert (report.written, report.present, report.columns, report.failed) == (3, 0, 9, [])
    assert model.training and not model.fc._forward_pre_hooks
    for row in range(len(data)):
        features = np.load(tmp_path / f"f/{data[row].name}.npy")
        assert features.shape == (9, 3) and features.dtype == np.float32
        frames = FrameDatabase(data[row].path).decode(range(FRAMES)).double().mean(dim=(1, 2)) / 255
        shown = (frames - torch.tensor([124, 117, 104]) / 255) * 0.0167 * 255
        for column, seen in enumerate([(0, 0, 1), (1, 2, 3), (3, 4, 5)]):
            expected = shown[list(seen)].T.flatten()
            assert np.allclose(features[:, column], expected, atol=0.05), (row, column)


def test_the_batch_size_does_not_matter_and_answers_can_be_had(data, tmp_path):
    torch.manual_seed(0)
    model = Means(3)
    found = {}
    for name, size, output in (
        ("a", 1, "features"),
        ("b", 5, "features"),
        ("c", 2, "logits"),
        ("d", 2, "probabilities"),
    ):
        extraction = Extraction(**SMALL, output=output)
        extract_features(data, model, tmp_path / name, extraction=extraction, batch_size=size, threads=1)
        found[name] = torch.from_numpy(np.load(tmp_path / f"{name}/{data[0].name}.npy"))
    assert torch.allclose(found["a"], found["b"], atol=1e-6)
    logits = model.fc(found["a"].T).T.detach()
    assert torch.allclose(found["c"], logits, atol=1e-5) and torch.allclose(found["d"], logits.softmax(0), atol=1e-5)


def test_it_goes_on_where_it_stopped_and_refuses_other_settings(data, tmp_path):
    model, out, extraction = Means(3), tmp_path / "f", Extraction(**SMALL)

    def extract(**chosen):
        values = {"extraction": extraction, "record": {"weights": "w"}, "threads": 1} | chosen
        return extract_features(data, model, out, **values)

    extract()
    first, second, third = sorted(out.glob("*.npy"))
    before = first.stat().st_mtime_ns
    second.unlink()
    np.save(third, np.load(third)[:, :-1])  # of a video that had fewer frames then
    report = extract()
    assert (report.written, report.present) == (2, 1) and first.stat().st_mtime_ns == before
    assert np.load(third).shape[1] == 3 and not list(out.glob(".*npy*"))
    with pytest.raises(ValueError, match=r"extraction\.json: .* have weights='w', now it is 'v'"):
        extract(record={"weights": "v"})
    with pytest.raises(ValueError, match=r"have mean=\[0\.48.*now it is \[0\.5"):
        extract(extraction=Extraction(**SMALL, mean=(0.5, 0.5, 0.5)))
    older = json.loads((out / "extraction.json").read_text())
    del older["mean"], older["std"]
    (out / "extraction.json").write_text(json.dumps(older))
    assert extract().present == 3
    with pytest.raises(ValueError, match="have stride=2, now it is 1"):
        extract(extraction=Extraction(frames=3, size=16))
    assert extract(extraction=Extraction(frames=3, size=16), overwrite=True).written == 3
    (out / "extraction.json").unlink()
    with pytest.raises(ValueError, match="not extracted here"):
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
    extract_features(data, Means(3), tmp_path / "features", extraction=Extraction(**SMALL), threads=1)
    (batch,) = FeatureLoader(open_dataset(tmp_path), batch_size=2, labels_per_column=2, train=False)
    assert batch.features.shape == (2, 9, 3) and batch.labels.tolist() == [[0, 0, 1]] * 2


def test_weights_that_do_not_fit_are_refused(data, tmp_path):
    torch.save(create_model(NETWORK, num_classes=5).state_dict(), tmp_path / "w.pth")
    model, seen, record = load_recognition(tmp_path / "w.pth", network=NETWORK)
    assert seen == {"mean": MEAN, "std": STD} and record["network"] == NETWORK
    assert model.eval()(torch.zeros(1, 3, 2, 16, 16)).shape == (1, 5)
    with pytest.raises(ValueError, match="name the network"):
        load_recognition(tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError, match="neither a run's folder"):
        load_recognition(tmp_path / "none.pth", network=NETWORK)
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"these are not weights of {NETWORK}"):
        load_recognition(tmp_path / "x.pth", network=NETWORK)
    with pytest.raises(ValueError, match="3 views; a column is made of one"):
        chosen = Extraction(**SMALL, geometry="three_crops")
        extract_features(data, Means(3), tmp_path / "f", extraction=chosen, threads=1)
    with pytest.raises(ValueError, match="no linear classifier"):
        extract_features(data, nn.Conv3d(3, 2, 1), tmp_path / "f", extraction=Extraction(**SMALL), threads=1)
    for wrong in ({"stride": 0}, {"output": "labels"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Extraction(**wrong)
