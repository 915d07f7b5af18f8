"""Training of streaming networks from the command line, and labelling of streams, on tiny videos of plain colours."""

import csv
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vidseg.cli.main import main
from vidseg.convert import convert_videos
from vidseg.engine.stream_recipes import StreamOptions, stream_recipe
from vidseg.labels import apply_segmentation
from vidseg.labels.segmentation import SegmentationLabels

COLOURS = np.array([(210, 40, 40), (40, 200, 60), (50, 70, 220)], np.uint8)
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
            picture = np.broadcast_to(COLOURS[label], (40, 48, 3)).copy()
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
    from vidseg.engine.stream_runs import _Run

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
