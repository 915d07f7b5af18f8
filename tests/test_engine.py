"""Monitors in the published format, the loop, checkpoints, and whole runs through the commands."""

import csv
import json
import logging
import re

import pytest
import torch
from shapes import shapes_dataset
from torch import nn

from vidseg.cli.main import main
from vidseg.engine import Trainer, TrainOptions, evaluate, test_run, train_run
from vidseg.engine.monitors import (
    Scores,
    ScoreTable,
    SpeedMonitor,
    epoch_line,
    iteration_line,
    paint_speeds,
    run_log,
    scientific,
    time_line,
)
from vidseg.labels import open_dataset
from vidseg.loaders import Batch, PlainLoader
from vidseg.models import create_model, load_weights

test_run.__test__ = False  # a function of the library, not a test

# Monitors


def test_published_lines():
    scores = Scores(top1=0.010419, top5=0.03125, loss=5.298317)
    speed = SpeedMonitor()
    speed.seconds = {"r": 48 / 153_000, "f": 48 / 98.4, "b": 48 / 17.8}
    assert iteration_line(
        epoch=3, batch=12, speed=speed.text(48), scores=scores, shape=(48, 3, 16, 224, 224), lr=0.0125
    ) == (
        "Epoch [3]   Batch [12]   Speed (r=1.53e+5 f=9.84e+1 b=1.78e+1) clip/sec  loss-ce = 5.29832, "
        "top1 = 0.01042, top5 = 0.03125, batch_size = (   48,3,16,224,224), lr = 1.25e-2"
    )
    assert time_line(0, 123.45) == "Epoch [0]   time cost: 123.45 sec (0.03 h)"
    assert epoch_line("train", 0, scores) == (
        "Epoch [0]  (train)  average top-1 acc: 0.01042   average top-5 acc: 0.03125   average loss: 5.29832"
    )
    assert epoch_line("val", 0, scores, iteration=50) == (
        "Epoch [0]: Iteration [50]:  (val)  average top-1 acc: 0.01042   average top-5 acc: 0.03125   "
        "average loss 5.29832"
    )
    assert epoch_line("val", 0, scores) == (
        "Epoch [0]:  (val)  average top-1 acc: 0.01042   average top-5 acc: 0.03125   average loss 5.29832"
    )


@pytest.mark.parametrize(
    "value, text", [(1.53e5, "1.53e+5"), (0.0125, "1.25e-2"), (1.5, "1.50e+0"), (1e-12, "1.00e-12")]
)
def test_exponents_have_no_leading_zero(value, text):
    assert scientific(value) == text


def test_speeds_are_painted_by_their_limits():
    line = "Epoch [3]   Speed (r=9.90e+1 f=5.00e+1 b=2.00e+2) clip/sec  loss-ce = 5.2, b=1.0"
    red, yellow, green, reset = "\033[91m", "\033[93m", "\033[92m", "\033[0m"
    assert paint_speeds(line) == line.replace("9.90e+1", f"{red}9.90e+1{reset}").replace(
        "5.00e+1", f"{yellow}5.00e+1{reset}"
    ).replace("2.00e+2", f"{green}2.00e+2{reset}")
    assert paint_speeds("no speeds (r=1) here") == "no speeds (r=1) here"


def test_speed_is_of_the_last_measurement(monkeypatch):
    clock = iter([10.0, 12.0, 20.0, 20.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    speed = SpeedMonitor()
    for _ in range(2):
        with speed.measure("f"):
            pass
    assert speed.seconds["f"] == 0.5
    assert speed.text(8, "f") == "Speed (f=1.60e+1) clip/sec"


class _Terminal:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_colours_only_on_a_terminal(tmp_path):
    terminal = _Terminal()
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    try:
        with run_log(tmp_path / "train.log"):
            logging.getLogger("vidseg.engine.trainer").info("Speed (r=1.00e+0) clip/sec")
        logging.getLogger("vidseg.engine.trainer").warning("Speed (r=2.00e+0) afterwards")
    finally:
        logging.getLogger().removeHandler(handler)
    assert terminal.text == "Speed (r=\033[91m1.00e+0\033[0m) clip/sec\nSpeed (r=2.00e+0) afterwards\n"
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"{stamp}: Speed \(r=1.00e\+0\) clip/sec\n", (tmp_path / "train.log").read_text())


def test_score_table(tmp_path):
    table = ScoreTable(tmp_path / "train_results_s0000.csv")
    table.append(0, Scores(1 / 3, 1.0, 2.5))
    assert table.path.read_text() == "Epoch,Top1,Top5,Loss\n0,0.3333333333333333,1.0,2.5\n"


# The loop


class _Batches:
    """Batches of points that a linear layer can tell apart; stands for a loader."""

    def __init__(self, batches: int = 6, clips: int = 8):
        generator = torch.Generator().manual_seed(0)
        self.batches = []
        for index in range(batches):
            labels = torch.randint(3, (clips,), generator=generator)
            frames = torch.randn(clips, 3, 1, 2, 2, generator=generator) * 0.1
            frames[torch.arange(clips), labels] += 1
            self.batches.append(Batch(frames, labels, torch.arange(clips) + index * clips))
        self.epochs = []

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(12, 3))


def rows(path):
    with path.open() as file:
        return [[float(value) for value in row] for row in list(csv.reader(file))[1:]]


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_fit_learns_and_leaves_its_files(tmp_path, schedule, caplog):
    caplog.set_level(logging.INFO, "vidseg")
    batches, model = _Batches(), linear()
    trainer = Trainer(model, batches, validation=_Batches(2), name="net", lr=0.5, schedule=schedule, save_every=2)
    result = trainer.fit(5, tmp_path)
    assert batches.epochs == [0, 1, 2, 3, 4]
    assert result.scores.top1 > 0.95 and len(result.labels) == 16
    train, val = rows(tmp_path / "train_results_s0000.csv"), rows(tmp_path / "val_results_s0000.csv")
    assert [row[0] for row in train] == [row[0] for row in val] == [0, 1, 2, 3, 4]
    assert train[-1][3] < train[0][3] / 2
    assert val[-1][1:] == [result.scores.top1, result.scores.top5, result.scores.loss]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "net_ep-0002.pth",
        "net_ep-0004.pth",
        "net_ep-0005.pth",
        "train_results_s0000.csv",
        "val_results_s0000.csv",
    ]
    checkpoint = torch.load(tmp_path / "net_ep-0005.pth", weights_only=True)
    assert checkpoint["epoch"] == 5 and "momentum_buffer" in checkpoint["optimizer"]["state"][0]
    assert load_weights(linear(), tmp_path / "net_ep-0005.pth").missing == ()
    assert "Epoch [4]   time cost: " in caplog.text and "Epoch [4]:  (val)  average top-1 acc: " in caplog.text
    lines = [record.getMessage() for record in caplog.records if "Batch [" in record.getMessage()]
    rates = [float(line.rpartition("lr = ")[2]) for line in lines]
    assert len(rates) == 30 and max(rates) == pytest.approx(0.5, rel=0.01) and rates[-1] < 0.01
    assert (rates[0] == 0.5) == (schedule == "cosine")


def test_training_is_repeatable(tmp_path):
    weights = []
    for name in ("one", "two"):
        model = linear()
        Trainer(model, _Batches(), lr=0.5).fit(2, tmp_path / name)
        weights.append(model[2].weight)
    assert torch.equal(*weights)


def test_one_step_is_nesterov_sgd(tmp_path):
    """Two steps on one batch against the update written out."""
    batches, model = _Batches(batches=1), nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False))
    weight, velocity = model[1].weight.detach().clone(), 0
    for lr in (0.1, 0.05):  # half a cosine over two steps: 1, 1/2
        leaf = weight.clone().requires_grad_()
        nn.functional.cross_entropy(batches.batches[0].frames.flatten(1) @ leaf.T, batches.batches[0].labels).backward()
        gradient = leaf.grad + 1e-2 * weight
        velocity = 0.9 * velocity + gradient
        weight = weight - lr * (gradient + 0.9 * velocity)
    Trainer(model, batches, lr=0.1, weight_decay=1e-2).fit(2, tmp_path)
    assert torch.allclose(model[1].weight, weight, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    batches = _Batches()
    batches.batches[3].frames[0] = float("nan")
    with pytest.raises(RuntimeError, match="epoch 0, batch 3: the loss is nan"):
        Trainer(linear(), batches).fit(1, tmp_path)
    assert not list(tmp_path.glob("*.pth"))


def test_evaluation_sees_every_clip_once_in_evaluation_mode():
    model = linear().train()
    result = evaluate(model, _Batches(3, clips=5))
    assert model.training
    assert result.numbers.tolist() == list(range(15)) and result.logits.shape == (15, 3)
    assert torch.equal(result.logits, evaluate(model, _Batches(3, clips=5)).logits)  # no dropout
    assert result.scores.loss == pytest.approx(nn.functional.cross_entropy(result.logits, result.labels).item())
    with pytest.raises(ValueError, match="no batch"):
        evaluate(model, [])


# Whole runs


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return shapes_dataset(tmp_path_factory.mktemp("engine"), videos=32)


SHORT = ["--width", "0.125", "--frames", "4", "--size", "32", "--batch-size", "6", "--epochs", "2", "--lr", "0.05"]


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", str(root), *SHORT, "--out", str(out), "--placement", "mid", "--threads", "2"]) == 0
    return out


def test_a_run_through_the_commands(root, run, capsys):
    assert main(["test", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    held_out = open_dataset(root, "test")
    assert report == json.loads((run / "test.json").read_text())
    assert report["videos"] == len(held_out) == 16 and report["classes"] == held_out.classes
    assert [sum(row) for row in report["confusion"]] == [2] * 8
    assert len(report["mistakes"]) == 16 - round(report["top1"] * 16)
    # the last row of the score table is the same evaluation
    assert rows(run / "val_results_s0000.csv")[-1][1:] == pytest.approx(
        [report[key] for key in ("top1", "top5", "loss")]
    )
    log = (run / "train.log").read_text()
    assert re.search(
        r"^\S+ \S+: Epoch \[1\]   Batch \[1\]    Speed \(r=\S+ f=\S+ b=\S+\) clip/sec  loss-ce = ", log, re.M
    )
    assert "\033" not in log
    options = json.loads((run / "options.json").read_text())
    assert options["options"]["placement"] == "mid" and options["classes"] == held_out.classes


def test_report_as_a_table(run, capsys):
    assert main(["test", str(run), "--checkpoint", str(run / "srtg_r3d_18_ep-0001.pth")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("class") and "orbit_clockwise" in text and re.search(r"top-1 0\.\d+   top-5", text)


def test_an_earlier_run_is_not_lost(root, run, capsys):
    before = (run / "options.json").read_text()
    assert main(["train", str(root), *SHORT, "--out", str(run)]) == 2
    assert "holds a run" in capsys.readouterr().err
    assert (run / "options.json").read_text() == before


def test_overwriting_leaves_no_old_checkpoint(root, tmp_path):
    options = {"width": 0.125, "frames": 2, "size": 32, "batch_size": 8, "out": str(tmp_path), "overwrite": True}
    train_run(TrainOptions(str(root), epochs=2, **options))
    assert test_run(tmp_path).checkpoint.endswith("ep-0002.pth")
    train_run(TrainOptions(str(root), epochs=1, **options))
    assert not (tmp_path / "test.json").exists()
    assert test_run(tmp_path).checkpoint.endswith("ep-0001.pth")


def test_without_official_splits_a_part_of_each_class_is_held_out(tmp_path):
    from vidseg.engine.recognition import _splits
    from vidseg.labels import scan_catalog

    root = shapes_dataset(tmp_path, videos=40, frames=4)
    (root / "catalog.db").unlink()
    scan_catalog(root)
    train, held_out = _splits(TrainOptions(str(root)))
    paths = [{part.video_path(index) for index in range(len(part))} for part in (train, held_out)]
    assert not paths[0] & paths[1] and len(paths[0] | paths[1]) == 40
    assert [int((held_out.labels == label).sum()) for label in range(8)] == [1] * 8
    again = _splits(TrainOptions(str(root)))[1]
    assert {again.video_path(index) for index in range(len(again))} == paths[1]


def test_a_run_starts_from_given_weights(root, run, tmp_path):
    weights = str(run / "srtg_r3d_18_ep-0002.pth")
    options = TrainOptions(
        str(root),
        width=0.125,
        placement="mid",
        frames=2,
        size=32,
        epochs=1,
        lr=1e-9,
        weights=weights,
        out=str(tmp_path),
    )
    train_run(options)
    model = create_model("srtg_r3d_18", num_classes=8, width=0.125, placement="mid")
    load_weights(model, tmp_path / "srtg_r3d_18_ep-0001.pth")
    assert torch.allclose(model.fc.weight, torch.load(weights, weights_only=True)["state_dict"]["fc.weight"], atol=1e-6)
    assert "186 entries taken" in (tmp_path / "train.log").read_text()


def test_wrong_use_is_answered_in_words(root, run, tmp_path, capsys, monkeypatch):
    cases = {
        "no network is called 'srtg_r3d18'": [
            "train",
            str(root),
            "--network",
            "srtg_r3d18",
            "--out",
            str(tmp_path / "a"),
        ],
        "has no option 'placement'": ["train", str(root), "--network", "r3d_18", "--placement", "mid"],
        "no split 'dev'": ["train", str(root), "--test-split", "dev", "--out", str(tmp_path / "b")],
        "epochs=0": ["train", str(root), "--epochs", "0"],
        "not the folder of a run": ["test", str(root)],
    }
    monkeypatch.chdir(tmp_path)
    for message, words in cases.items():
        assert main(words) == 2
        assert not list(tmp_path.iterdir())
        assert message in capsys.readouterr().err
    assert main(["list", "models", "srtg_r3d_?8"]) == 0
    assert capsys.readouterr().out == "srtg_r3d_18\n"
    assert main(["list", "models", "nothing"]) == 1


def test_speed_of_reading_is_measured_on_the_real_loader(root):
    speed = SpeedMonitor()
    batches = iter(PlainLoader(open_dataset(root), frames=2, size=32, batch_size=4))
    with speed.measure("r"):
        next(batches)
    assert speed.seconds["r"] > 0
    batches.close()
