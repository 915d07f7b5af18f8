"""Whole runs of recognition: the commands, multigrid, and the plan of a run."""

import csv
import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch
from shapes import shapes_dataset
from torch import nn
from training_batches import constant, rows

from vidseg.cli.main import main
from vidseg.clips import BatchShape
from vidseg.clips.cycles import CyclesFirst
from vidseg.clips.multigrid import Multigrid
from vidseg.engine import (
    EvaluationOptions,
    MonitorOptions,
    Schedule,
    ScheduleOptions,
    Trainer,
)
from vidseg.engine.dry_run import plan_run
from vidseg.labels import open_dataset
from vidseg.loaders import ClipLoader
from vidseg.metrics.video_scores import read_scores
from vidseg.models import create_model, load_weights


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


# Commands


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return shapes_dataset(tmp_path_factory.mktemp("engine"), videos=32)


SHORT = "--clip-length 4 --clip-size 32 --batch-size 6 --end-epoch 2 --lr-base 0.05 --threads 2".split()
SMALL = ["--network-option", "width=0.125"]


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", str(root), *SHORT, *SMALL, "placement=mid", "--out", str(out)]) == 0
    return out


def test_a_run_through_the_commands(root, run, capsys):
    assert main(["test", str(run), "--checkpoint", str(run / "srtg_r3d_18_last.pth"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    held_out = open_dataset(root, "test")
    assert report == json.loads((run / "test_srtg_r3d_18_last.json").read_text())
    assert (report["split"], report["checkpoint"], report["epoch"]) == ("test", "srtg_r3d_18_last.pth", 2)
    assert report["videos"] == len(held_out) == 16 and report["classes"] == held_out.classes
    assert [sum(row) for row in report["confusion"]] == [2] * 8
    assert len(report["mistakes"]) == 16 - round(report["top1"] * 16)
    with (run / "mistakes_srtg_r3d_18_last.csv").open() as file:
        assert [row["video"] for row in csv.DictReader(file)] == [row["video"] for row in report["mistakes"]]
    sure = [mistake["probability_predicted"] for mistake in report["mistakes"]]
    assert sure == sorted(sure, reverse=True)
    # the last row of the score table is the same evaluation
    assert rows(run / "val_results_s0001.csv")[-1][1:] == pytest.approx(
        [report[key] for key in ("top1", "top5", "loss")]
    )
    log = (run / "train.log").read_text()
    assert re.search(
        r"^\S+ \S+: Epoch \[1\]   Batch \[1\]    Speed \(r=\S+ f=\S+ b=\S+\) clip/sec  loss-ce = ", log, re.M
    )
    assert "\033" not in log
    options = json.loads((run / "options.json").read_text())
    assert options["network_options"] == {"width": 0.125, "placement": "mid"} and options["task"] == "recognition"
    assert options["classes"] == held_out.classes and options["input"]["frames"] == 4


def test_report_as_a_table_and_its_files(run, capsys):
    assert main(["test", str(run), "--worst", "30"]) == 0
    text = capsys.readouterr().out
    report = json.loads((run / "test.json").read_text())
    scores = read_scores(run)
    assert scores.summary()["top1"] == report["top1"] and len(scores.videos) == 16
    rows = zip(scores.videos, scores.scores, scores.labels, strict=True)
    right = {video: row.argmax() == label for video, row, label in rows}
    assert {row["video"] for row in report["mistakes"]} == {video for video in right if not right[video]}
    pairs = report["confused_pairs"]
    assert sum(count for *_, count in pairs) == len(report["mistakes"])
    assert [count for *_, count in pairs] == sorted((count for *_, count in pairs), reverse=True)
    tables = {name: list(csv.reader((run / f"{name}.csv").open())) for name in ("confusion", "confusion_shares")}
    assert [[int(cell) for cell in row[1:]] for row in tables["confusion"][1:]] == report["confusion"]
    assert all(sum(map(float, row[1:])) == pytest.approx(1) for row in tables["confusion_shares"][1:])
    with (run / "classes.csv").open() as file:
        recalls = [float(row["recall"]) for row in csv.DictReader(file)]
    assert np.mean(recalls) == pytest.approx(report["mean_class_accuracy"], abs=1e-6)
    assert (run / "mistakes.png").stat().st_size > 10_000
    assert text.startswith("class") and "orbit_clockwise" in text
    assert re.search(r"top-1 0\.\d+   top-5 .* mean class accuracy 0\.\d+ .*\n.*16 videos, 1 view each", text)


def test_what_the_network_computes_can_be_plotted(run, tmp_path, capsys):
    features = ["--videos", "8", "--dump", str(tmp_path / "features.npz"), "--out", str(tmp_path / "map.png")]
    assert main(["plot", "features", str(run), *features]) == 0
    with np.load(tmp_path / "features.npz") as content:
        assert content["features"].shape[0] == 8 == len(set(content["labels"].tolist()))
    weights = (run / "srtg_r3d_18_best.pth").read_bytes()
    words = ["plot", "landscape", str(run), "--points", "3", "--dimensions", "1", "--videos", "16", "--json"]
    assert main([*words, "--out", str(tmp_path / "landscape.png")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["test", str(run), "--json"]) == 0
    assert found["losses"][1] == found["center"] == pytest.approx(json.loads(capsys.readouterr().out)["loss"], rel=1e-5)
    assert (run / "srtg_r3d_18_best.pth").read_bytes() == weights and (tmp_path / "map.png").is_file()


def test_an_earlier_run_is_not_lost(root, run, capsys):
    before = (run / "options.json").read_text()
    assert main(["train", str(root), *SHORT, *SMALL, "--out", str(run)]) == 2
    assert "holds a run" in capsys.readouterr().err
    assert (run / "options.json").read_text() == before


def test_overwriting_leaves_nothing_of_the_old_run(root, tmp_path):
    words = ["train", str(root), *SHORT, *SMALL, "--out", str(tmp_path), "--overwrite"]
    assert main(words) == main(["test", str(tmp_path), "--clips", "2"]) == main(["test", str(tmp_path)]) == 0
    assert main(["plot", "curves", str(tmp_path)]) == main(["plot", "confusion", str(tmp_path)]) == 0
    assert (tmp_path / "test.json").exists() and (tmp_path / "mistakes_2x1.csv").exists()
    assert main([*words, "--network", "r3d_18", "--end-epoch", "1"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        *("options.json", "events.jsonl", "train.log", "train_results_s0001.csv", "val_results_s0001.csv"),
        *("r3d_18_ep-0001.pth", "r3d_18_last.pth", "r3d_18_best.pth"),
    }


def test_without_official_splits_a_part_of_each_class_is_held_out(root, tmp_path):
    from vidseg.labels import scan_catalog
    from vidseg.tasks.recognition.data import choose_splits
    from vidseg.tasks.recognition.options import RecognitionData

    shutil.copytree(root, tmp_path / "data")
    root = tmp_path / "data"
    (root / "catalog.db").unlink()
    scan_catalog(root)
    splits = choose_splits(RecognitionData(str(root)), seed=1)
    train, held_out = splits.train, splits.validation
    paths = [{part.video_path(index) for index in range(len(part))} for part in (train, held_out)]
    assert not paths[0] & paths[1] and len(paths[0] | paths[1]) == 32
    assert [int((held_out.labels == label).sum()) for label in range(8)] == [1] * 8
    again = choose_splits(RecognitionData(str(root)), seed=1).validation
    assert {again.video_path(index) for index in range(len(again))} == paths[1]


def test_transfer_takes_what_fits(root, run, tmp_path):
    """Same classes: everything; a classifier of other classes stays fresh and learns at the whole rate."""
    state = torch.load(run / "srtg_r3d_18_last.pth", weights_only=True)["state_dict"]
    other = {key: value[:5] if key.startswith("fc.") else value for key, value in state.items()}
    torch.save({"state_dict": other}, tmp_path / "five.pth")
    words = ["train", str(root), *SHORT, *SMALL, "placement=mid", "--end-epoch", "1", "--lr-base", "1e-9"]
    for name, weights in (("same", run / "srtg_r3d_18_last.pth"), ("five", tmp_path / "five.pth")):
        extra = ["--fine-tune", "True", "--debug-mode", "True", "--out", str(tmp_path / name)]
        assert main([*words, "--pretrained_3d", str(weights), *extra]) == 0
    model = create_model("srtg_r3d_18", num_classes=8, width=0.125, placement="mid")
    load_weights(model, tmp_path / "same/srtg_r3d_18_last.pth")
    assert torch.allclose(model.fc.weight, state["fc.weight"], atol=1e-6)
    load_weights(model, tmp_path / "five/srtg_r3d_18_last.pth")
    assert torch.allclose(model.stem[0].weight, state["stem.0.weight"], atol=1e-6)
    assert not torch.allclose(model.fc.weight, state["fc.weight"], atol=1e-6)
    log = (tmp_path / "five/train.log").read_text()
    assert "184 entries taken" in log and "fc.weight" in log
    assert re.search(r"group classifier: \d+ values at 1 of the rate", log)
    assert re.search(r"group convolution: \d+ values at 0\.6 of the rate", log)


def test_wrong_use_is_answered_in_words(root, run, tmp_path, capsys, monkeypatch):
    cases = {
        "no network is called 'srtg_r3d18'": ["train", str(root), "--network", "srtg_r3d18", "--out", "a"],
        "has no option 'placement'": ["train", str(root), *"--network r3d_18 --network-option placement=mid".split()],
        "unknown split 'dev'": ["train", str(root), "--test-split", "dev", "--out", "b"],
        "epochs=0": ["train", str(root), "--end-epoch", "0"],
        "has 8 classes, 101 are expected": ["train", "ucf101", "--dataset", str(root), "--network", "r3d_18"],
        "not the folder of a run": ["test", str(root)],
        "name the folder of the data set": ["train"],
        "not found, so no run can continue with epoch 4": [
            "train",
            str(root),
            "--out",
            str(run),
            "--resume-epoch",
            "4",
        ],
        "exclude each other": ["train", str(root), "--resume", "--overwrite"],
        "gpus='4': this machine has 0 GPUs": ["train", str(root), "--gpus", "4"],
    }
    monkeypatch.chdir(tmp_path)
    for message, words in cases.items():
        assert main(words) == 2, words
        assert not list(tmp_path.iterdir())
        assert message in " ".join(capsys.readouterr().err.split())
    assert main(["list", "srtg_r3d_?8"]) == 0
    assert "options: placement=final, gate=False, pool=True, width=1.0" in capsys.readouterr().out
    assert main(["list", "nothing"]) == 1


# Multigrid


def test_multigrid_changes_shapes_and_rates_together(root, tmp_path, caplog):
    caplog.set_level(logging.INFO, "vidseg")
    data = open_dataset(root)  # 32 videos
    loader = ClipLoader(data, frames=8, interval=1, size=32, batch_size=1, seed=3, threads=1)
    model = nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(24, 8))
    Trainer(model, loader, multigrid=True, schedule=ScheduleOptions(lr=0.08, lr_steps=(1,))).fit(2, tmp_path)
    lines = [record.getMessage() for record in caplog.records if "Batch [" in record.getMessage()]
    found = [re.search(r"batch_size = \(\s*(\d+),3,(\d+),(\d+),\d+\), lr = (\S+),", line).groups() for line in lines]
    found = [(int(clips), int(frames), int(size), float(rate)) for clips, frames, size, rate in found]
    expected = Multigrid(32, 1, 8, 32)
    shapes = [(shape.clips, shape.frames, shape.height) for shape in expected.shapes(0)]
    assert [row[:3] for row in found] == shapes * 2 and len(set(shapes)) > 3
    for (clips, frames, size, rate), (long, _) in zip(found, expected.phases * 2, strict=True):
        assert (clips, frames, size) in {(s.clips, s.frames, s.height) for s in expected.shapes(0)}
        assert rate in (pytest.approx(0.08 / 2**long), pytest.approx(0.008 / 2**long))
    half = len(found) // 2
    assert [row[3] for row in found[half:]] == pytest.approx([row[3] / 10 for row in found[:half]])
    # a pass over the data set
    assert sum(shape[0] for shape in shapes) == 32


def test_one_cycle_alone_and_none(root, tmp_path, caplog):
    caplog.set_level(logging.INFO, "vidseg")
    model = nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(24, 8))
    for cycles in ({"long_cycles": False}, {"short_cycles": False}):
        grid = Multigrid(32, 1, 8, 32, **cycles)
        loader = ClipLoader(open_dataset(root), interval=1, threads=1, shapes=grid.shapes)
        caplog.clear()
        Trainer(model, loader, multigrid=grid, schedule=constant(0.08)).fit(1, tmp_path)
        lines = [record.getMessage() for record in caplog.records if "Batch [" in record.getMessage()]
        rates = {float(re.search(r"lr = (\S+),", line)[1]) for line in lines}
        assert rates == ({0.08} if "long_cycles" in cycles else {0.08, 0.04, 0.02, 0.01})


@pytest.mark.parametrize("cycle_epochs", [None, 2])
def test_the_plan_of_a_run_is_what_it_does(root, tmp_path, caplog, cycle_epochs):
    caplog.set_level(logging.INFO, "vidseg")
    grid = Multigrid(32, 1, 8, 32)
    if cycle_epochs is not None:
        grid = CyclesFirst(grid, cycle_epochs)
    loader = ClipLoader(open_dataset(root), interval=1, threads=1, shapes=grid.shapes)
    options = ScheduleOptions(lr=0.08, lr_steps=(2,))
    planned = plan_run(loader, Schedule(options, 3), epochs=3, multigrid=grid)
    model = nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(24, 8))
    Trainer(model, loader, multigrid=grid, schedule=options, monitors=MonitorOptions(log_every=1)).fit(3, tmp_path)
    lines = [record.getMessage() for record in caplog.records if "Batch [" in record.getMessage()]
    found = [float(re.search(r"lr = (\S+),", line)[1]) for line in lines]
    assert [batch.rate for batch in planned.batches] == pytest.approx(found, rel=1e-2)
    clips = [int(re.search(r"batch_size = \(\s*(\d+),", line)[1]) for line in lines]
    assert [batch.shape.clips for batch in planned.batches] == clips
    table = str(planned)
    assert re.search(r"^ +1-2 +\d+ +\d+ +8, 2, 22, 22 +8\.00e-2$", table, re.M)
    last = r"\d+ +\d+ +8, 2, 22, 22 +8\.00e-3" if cycle_epochs is None else r"32 +32 +1, 8, 32, 32 +1\.00e-3"
    assert re.search(rf"^ +3 +{last}$", table, re.M)
    assert table.endswith("an epoch has 32 of 32 clips (100.0%)")


@pytest.mark.parametrize("long_cycles", [False, True])
def test_the_last_epochs_may_go_without_cycles(long_cycles):
    cycles = Multigrid(1003, batch_size=8, frames=16, size=112, long_cycles=long_cycles)
    schedule, full = CyclesFirst(cycles, 2), (BatchShape(8, 16, 112, 112),) * 125
    assert [schedule.shapes(epoch) for epoch in range(4)] == [cycles.shapes(0), cycles.shapes(1), full, full]
    indices = range(len(cycles.phases))
    assert [schedule.lr_factor(1, index) for index in indices] == [cycles.lr_factor(1, index) for index in indices]
    assert {schedule.lr_factor(2, index) for index in range(125)} == {1 / 8 if long_cycles else 1}
    with pytest.raises(IndexError, match="batch 125 is out of range; the number of batches of epoch 2 is 125"):
        schedule.lr_factor(2, 125)


def test_the_plan_of_a_cosine_run():
    class Planner:
        samples, world_size = 20, 2
        base = BatchShape(4, 8, 32, 32)

        def batches(self, epoch):
            return 2

        def shape(self, epoch, index):
            return self.base

    class Loader:
        planner = Planner()

    planned = plan_run(Loader(), Schedule(ScheduleOptions(lr=1.0, schedule="cosine"), 4), epochs=4)
    lines = str(planned).splitlines()
    assert len(lines) == 3 and lines[1].split() == "1-4 2 16 8, 8, 32, 32 1.00e+0..3.81e-2".split()
    assert lines[2] == "8 batches in 4 epochs; an epoch has 16 of 20 clips (80.0%)"


def test_precise_statistics_are_of_clips_as_in_the_evaluation(root, tmp_path, monkeypatch):
    from vidseg.engine import validation as module

    seen = []

    def note(model, loader, batches, **_):
        seen.extend((len(batch), *batch.frames.shape[2:]) for batch in loader)
        return len(seen)

    monkeypatch.setattr(module, "renew_statistics", note)
    data = open_dataset(root)
    loader = ClipLoader(data, frames=8, interval=1, size=32, batch_size=1, seed=3, threads=1)
    validation = ClipLoader(data.subset([0]), frames=8, interval=1, size=32, train=False, threads=1)
    model = nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(24, 8))
    options = {"multigrid": True, "validation": validation, "evaluation": EvaluationOptions(precise_bn=3)}
    trainer = Trainer(model, loader, **options)
    trainer.fit(1, tmp_path)
    assert seen == [(1, 8, 32, 32)] * 3
    assert [shape.clips for shape in Multigrid(32, 1, 8, 32).shapes(0)] == [
        loader.planner.shape(0, index).clips for index in range(loader.planner.batches(0))
    ]


def test_short_clips_may_cover_as_long_a_time_as_full_ones(root):
    """With intervals of 2, clips of a quarter of the length draw steps of 2 to 8; full ones keep 2."""
    from vidseg.models import InputSpec
    from vidseg.tasks.recognition.data import training_loader
    from vidseg.tasks.recognition.options import RecognitionData

    options, spec = RecognitionData(str(root)), InputSpec(frames=8, size=32)
    given = {"seed": 1, "batch_size": 16, "train_interval": (2,)}
    steps = {}
    for stretched in (False, True):
        loader = training_loader(open_dataset(root), options, spec, stretch_intervals=stretched, **given)
        for length in (8, 2):
            loader.set_shapes(lambda epoch, length=length: [BatchShape(32, length, 32, 32)])
            plans = [loader.plan(epoch, 0) for epoch in range(20)]
            found = np.concatenate([(plan.frames[:, 1] - plan.frames[:, 0]) % 20 for plan in plans])
            steps[stretched, length] = set(found.tolist())
    assert steps[False, 8] == steps[False, 2] == steps[True, 8] == {2}
    assert steps[True, 2] == {2, 3, 4, 5, 6, 7, 8}
