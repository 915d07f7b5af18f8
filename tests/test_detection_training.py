"""Training of detectors, on features and from pixels: scores, resuming bit by bit, tests, predictions, bad input."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from detection_data import CLASSES, FPS, SIZE, add_videos, detection_dataset

import vidseg
from vidseg.cli.main import main
from vidseg.convert.synth import synthesize_videos
from vidseg.convert.synth_options import SynthOptions
from vidseg.engine import Trainer
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.labels.catalog import write_catalog
from vidseg.tasks.detection.recipes import RECIPES, recipe_options
from vidseg.tasks.detection.runs import plan_detection, train_detection
from vidseg.tasks.detection.task import DetectionTask

SMALL = {
    "actionformer": {"network_option": ("maps=32", "heads=2", "levels=4", "window=9"), "lr": 2e-3},
    "tridet": {"network_option": ("maps=32", "hidden=48", "levels=4", "bins=8"), "lr": 2e-3},
    "etad": {
        "network_option": ("maps=64", "hidden=32", "roi_size=8", "stages=2", "class_agnostic=False"),
        "loss_option": ("stage_ious=(0.7, 0.8)", "ratio=0.3"),
        "length": 32,
        "lr": 3e-3,
    },
    "bmn": {"network_option": ("hidden=32", "class_agnostic=False"), "length": 32, "lr": 2e-3},
}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return detection_dataset(tmp_path_factory.mktemp("detection") / "data", train=12, test=4)


@pytest.fixture
def own_root(root, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(root, tmp_path / "data")


def options(root, out, network="actionformer", **chosen):
    values = {"epochs": 2, "pictures": False, "device": "cpu", "validation_share": 0.25, "batch_size": 3}
    return recipe_options(
        "detection", network, **{**values, **SMALL[network], "dataset": str(root), "out": str(out), **chosen}
    )


def weights(run):
    (path,) = run.glob("*_last.pth")
    return read_checkpoint(path)["state_dict"]


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """A trained ActionFormer."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return train_detection(options(root, out, epochs=12, pictures=True))


@pytest.mark.slow
@pytest.mark.parametrize("network", SMALL)
def test_every_network_learns_to_detect(root, tmp_path, network):
    out = train_detection(options(root, tmp_path / "out", network, epochs=16 if network != "etad" else 10))
    test = json.loads((out / "test.json").read_text())
    assert test["scores"]["map"]["0.3"] > 0.6, test["scores"]["map"]
    with (out / "val_results_s0001.csv").open(newline="") as file:
        assert list(next(csv.DictReader(file))) == ["Epoch", "mAP@0.5", "mAP", "Loss"]


def test_a_test_leaves_scores_detections_and_pictures(root, run, capsys):
    assert {path.name for path in (run / "pictures").iterdir()} == {
        "timelines.png", "precision_recall.png", "false_positives.png",
    }  # fmt: skip
    test = json.loads((run / "test.json").read_text())
    again = vidseg.load_trained(run).test(picture=False)
    assert again["scores"] == test["scores"] and test["split"] == "test"
    assert main(["score", str(root), str(run / "predictions.json"), "--protocol", "thumos14", "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["average"] == pytest.approx(test["scores"]["average"], abs=1e-12)
    assert main(["test", str(run)]) == 0
    assert "mAP" in capsys.readouterr().out
    assert main(["plot", "report", str(run)]) == main(["plot", "curves", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 3 and f"{test['scores']['average']:.1%}" in page
    assert "AP@0.5" in page and "vidseg train detection --config" in page and (run / "curves.png").is_file()


def test_validations_have_pictures_in_tensorboard(root, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = train_detection(options(root, tmp_path / "out", epochs=2, tensorboard=True, pictures=True))
    log = events.EventAccumulator(str(out / "tensorboard")).Reload()
    assert {"timelines", "precision recall"} <= set(log.Tags()["images"]) and len(log.Images("timelines")) == 2
    assert log.Images("timelines")[0].width > 1000


def test_detections_of_features_are_those_of_the_test(root, run, tmp_path, capsys):
    results = json.loads((run / "predictions.json").read_text())["results"]
    data = vidseg.open_dataset(root, "test")
    name = data[0].name
    seconds = next(float(value) for value in durations(root, [name]))
    found = vidseg.load_trained(run).predict(root / f"features/{name}.npy", seconds=seconds)
    best = results[name][0]
    assert found.detections[0].label == best["label"] and found.detections[0].score == pytest.approx(best["score"])
    assert [found.detections[0].start, found.detections[0].stop] == pytest.approx(best["segment"], abs=1e-4)
    assert len(found.detections) == len(results[name])
    words = ["predict", str(root / f"features/{name}.npy"), "--weights", str(run), "--seconds", str(seconds)]
    for suffix in (".json", ".csv", ".srt", ".vtt", ".png"):
        assert main([*words, "--out", str(tmp_path / f"found{suffix}"), "--min-score", "0.1"]) == 0
        assert (tmp_path / f"found{suffix}").stat().st_size > 50
    assert name in capsys.readouterr().out


def durations(root, names):
    with write_catalog(root) as db:
        for name in names:
            yield db.conn.execute("SELECT seconds FROM videos WHERE path LIKE ?", (f"%/{name}",)).fetchone()[0]


@pytest.mark.parametrize("network", ["actionformer", "etad"])
def test_a_resumed_run_has_the_weights_of_an_undisturbed_one(root, tmp_path, network, monkeypatch):
    chosen = {"checkpoint_every": 1, "ema": 0.9, "epochs": 2, "select": "last"}
    whole = train_detection(options(root, tmp_path / "whole", network, **chosen))

    calls = {"left": 6}
    before = DetectionTask.train_batch

    def stopping(self, *arguments):
        calls["left"] -= 1
        if calls["left"] < 0:
            raise KeyboardInterrupt
        return before(self, *arguments)

    monkeypatch.setattr(DetectionTask, "train_batch", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_detection(options(root, tmp_path / "halves", network, **chosen))
    monkeypatch.setattr(DetectionTask, "train_batch", before)
    halves = train_detection(options(root, tmp_path / "halves", network, resume=True, **chosen))
    expected, found = weights(whole), weights(halves)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    tests = [json.loads((path / "test.json").read_text())["scores"] for path in (whole, halves)]
    assert tests[0] == tests[1]


@pytest.mark.parametrize("fit", ["window", "interpolate", "resize", "whole"])
def test_every_form_of_samples_trains(root, tmp_path, fit):
    length = None if fit == "whole" else 48
    out = train_detection(options(root, tmp_path / fit, fit=fit, length=length, epochs=1, crop=0.8))
    assert json.loads((out / "test.json").read_text())["scores"]["instances"] > 0


def test_proposals_without_classes_are_scored_by_recall(root, tmp_path, capsys):
    small = ("maps=64", "hidden=32", "roi_size=8", "stages=2", "class_agnostic=True")
    out = train_detection(options(root, tmp_path / "out", "etad", network_option=small, epochs=1))
    test = json.loads((out / "test.json").read_text())
    assert "map" not in test["scores"] and test["scores"]["average_recall"]["100"] > 0.2
    results = json.loads((out / "predictions.json").read_text())["results"]
    assert all(set(row) == {"score", "segment"} for rows in results.values() for row in rows)
    found = vidseg.load_trained(out).predict(np.zeros((SIZE, 40), np.float32), seconds=10.0)
    assert {row.label for row in found.detections} == {"action"}


@pytest.mark.parametrize(
    "network, small",
    [
        ("etad", ("maps=64", "hidden=32", "roi_size=8", "stages=2", "class_agnostic=True")),
        ("actionformer", ("class_agnostic=True",)),
        ("tridet", ("class_agnostic=True",)),
    ],
)
def test_class_scores_of_whole_videos_name_the_proposals(root, tmp_path, network, small):
    data = vidseg.open_dataset(root)
    scores = {video.name: [0.1, 0.7, 0.2] for video in data}
    (tmp_path / "cuhk.json").write_text(json.dumps({"class": list(CLASSES), "results": scores}))
    small += SMALL[network]["network_option"] if network != "etad" else ()
    chosen = {"network_option": small, "epochs": 1, "class_scores": str(tmp_path / "cuhk.json"), "class_top": 1}
    out = train_detection(options(root, tmp_path / "out", network, **chosen))
    results = json.loads((out / "predictions.json").read_text())["results"]
    assert {row["label"] for rows in results.values() for row in rows} == {CLASSES[1]}
    assert "map" in json.loads((out / "test.json").read_text())["scores"]


@pytest.mark.parametrize("network", ["actionformer", "tridet", "etad", "bmn"])
def test_a_loop_of_ones_own_needs_the_name_of_the_task_alone(root, tmp_path, network):
    data = vidseg.open_dataset(root, "train")
    loader = vidseg.loaders.DetectionLoader(data, fit="resize", length=16, batch_size=4)
    chosen = dict(word.split("=") for word in SMALL[network]["network_option"] if "maps" in word or "hidden" in word)
    model = vidseg.create_model(
        network, num_classes=3, in_features=SIZE, **{key: int(value) for key, value in chosen.items()}
    )
    validation = vidseg.loaders.DetectionLoader(data, fit="resize", length=16, train=False)
    result = Trainer(model, loader, task="detection", validation=validation, device="cpu").fit(1, tmp_path)
    assert len(result.pair.videos) == len(data) and 0 <= result.quality <= 1


# From pixels


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """Six untrimmed videos of moving shapes as frame databases, and their files."""
    folder = tmp_path_factory.mktemp("pixels")
    made = SynthOptions(videos=0, untrimmed=6, frames=24, width=64, height=48, test_share=0.34)
    synthesize_videos(folder, made, workers=1)
    vidseg.convert_videos(folder / "untrimmed", folder / "data", workers=1)
    assert main(["labels", "segments", str(folder / "data"), str(folder / "segments.csv")]) == 0
    return folder


def pixel_options(pixels, out, **chosen):
    values = {
        "encoder": "r3d_18", "encoder_option": ("width=0.125",), "snippet_frames": 4, "snippet_size": 32,
        "snippet_stride": 8, "chunk": 16, "batch_size": 2, "epochs": 1, "warmup_epochs": 0.0,
        "network_option": ("maps=32", "heads=2", "levels=3", "window=5"), "min_inside": 0.2,
    }  # fmt: skip
    return options(pixels / "data", out, **{**values, **chosen})


@pytest.mark.parametrize("gradients", ["sampled", "all", "recomputed", "none"])
def test_training_from_pixels_moves_the_encoder_as_the_option_says(pixels, tmp_path, gradients):
    chosen = {"gradients": gradients, "snippet_ratio": 0.5}
    out = train_detection(pixel_options(pixels, tmp_path / "out", encoder_frozen=("stem",), **chosen))
    torch.manual_seed(1)
    fresh = vidseg.tasks.detection.runs.build_network(pixel_options(pixels, tmp_path / "out"), 8, None).state_dict()
    trained = weights(out)
    moved = {name for name, value in trained.items() if not torch.equal(value, fresh[name])}
    inside = {name for name in moved if name.startswith("backbone.")}
    assert any(name.startswith("detector.") for name in moved)
    assert bool(inside) == (gradients != "none")
    assert not any(name.startswith("backbone.network.stem.") for name in inside)
    assert not any("running" in name for name in inside)


def test_all_gradients_of_a_sample_are_those_of_ordinary_training(pixels, tmp_path):
    small = ("maps=32", "heads=2", "levels=3", "window=5", "dropout=0", "drop_path=0")
    chosen = {"snippet_ratio": 1.0, "network_option": small, "optimizer": "sgd", "lr": 0.1, "select": "last"}
    runs = {
        gradients: weights(train_detection(pixel_options(pixels, tmp_path / gradients, gradients=gradients, **chosen)))
        for gradients in ("sampled", "all", "recomputed")
    }
    for gradients in ("sampled", "recomputed"):
        for name, value in runs["all"].items():
            torch.testing.assert_close(runs[gradients][name], value, rtol=1e-3, atol=1e-4)


def test_actions_of_a_raw_video_file(pixels, tmp_path, capsys):
    out = train_detection(pixel_options(pixels, tmp_path / "out"))
    results = json.loads((out / "predictions.json").read_text())["results"]
    name = sorted(results)[0]
    video = pixels / f"untrimmed/{name}.mp4"
    found = vidseg.load_trained(out).predict(video)
    best = results[name][0]
    assert found.detections[0].label == best["label"]
    # The databases hold JPEGs of the frames, so pixels and scores differ slightly.
    assert [found.detections[0].start, found.detections[0].stop] == pytest.approx(best["segment"], abs=0.2)
    words = ["predict", str(video), "--weights", str(out), "--out", str(tmp_path / "found.srt"), "--min-score", "0"]
    assert main([*words, "--draw", str(tmp_path / "drawn")]) == 0
    assert (tmp_path / "found.srt").read_text().startswith("1\n00:00:")
    assert (tmp_path / f"drawn/{name}.mp4").stat().st_size > 1000
    assert main(["predict", str(tmp_path), "--weights", str(out)]) == 0
    assert main(["predict", str(tmp_path / "absent.mp4"), "--weights", str(out)]) == 2


# Bad input


@pytest.mark.parametrize(
    "chosen, message",
    [
        ({"network_option": ("maps=32", "heads=2", "in_features=9")}, "features of 8 values a column, .* takes 9"),
        ({"features": ("absent",)}, "no such folder"),
        ({"split": "split7"}, "no split 'split7'"),
        ({"protocol": "coco"}, "protocol 'coco'"),
        ({"encoder": "mstcn"}, "encoder='mstcn' is a network for segmentation"),
        ({"encoder": "r3d_18"}, "has no frames"),
        ({"snippet_ratio": 1.5}, "snippet_ratio=1.5"),
        ({"class_scores": "absent.json", "network_option": ("maps=32", "heads=2")}, None),
    ],
)
def test_wrong_options(root, tmp_path, chosen, message):
    if message is None:  # ActionFormer has classes of its own, so the file is not read
        assert train_detection(options(root, tmp_path / "out", epochs=1, **chosen))
        return
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_detection(options(root, tmp_path / "out", **chosen))
    assert not (tmp_path / "out").exists()


def test_damaged_features_of_the_test_split_show_before_training(own_root, tmp_path):
    for video in vidseg.open_dataset(own_root, "test"):
        np.save(own_root / f"features/{video.name}.npy", np.zeros((SIZE + 1, 40), np.float32))
    with pytest.raises(ValueError, match="features of 9 values a column, but the network takes 8"):
        train_detection(options(own_root, tmp_path / "out"))


def test_a_network_of_another_task_is_refused(root, tmp_path):
    chosen = options(root, tmp_path / "out")
    with pytest.raises(ValueError, match="mstcn is a network for segmentation, not for detection"):
        train_detection(replace(chosen, network=replace(chosen.network, network="mstcn")))


def test_the_plan_of_a_run(root, tmp_path):
    plan = plan_detection(options(root, tmp_path / "out", epochs=4, batch_size=3, accumulate=3))
    assert [(epoch.batches, epoch.steps) for epoch in plan.epochs] == [(3, 1)] * 4 and plan.steps == 4
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_name_options_that_exist(name):
    for network in RECIPES[name]:
        made = recipe_options(name, network)
        assert made.network.network == network
        vidseg.create_model(network, num_classes=3, **{"in_features": 16, **made.network.chosen_options()})


def test_a_video_shorter_than_a_snippet_is_one(tmp_path):
    add_videos(tmp_path, {"short": (2 / FPS, "train", [(0.0, 0.04, 0)])}, size=(32, 32))
    source = vidseg.loaders.SnippetFrames(vidseg.open_dataset(tmp_path), frames=16, size=32)
    assert source.columns(0) == 1 and source.starts(0).tolist() == [0]
