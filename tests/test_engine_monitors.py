"""What a run reports: published lines, speeds, colors, tables, TensorBoard."""

import logging
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_batches import Batches, linear

from vidseg import plots
from vidseg.engine import MonitorOptions, ScheduleOptions, Trainer
from vidseg.engine.monitors import (
    ScoreTable,
    SpeedMonitor,
    Speeds,
    iteration_line,
    paint_speeds,
    progress_bar,
    run_log,
    scientific,
    time_line,
)
from vidseg.plots import plot_schedule, plot_speeds
from vidseg.plots.speed import read_speeds
from vidseg.tasks.recognition.task import RecognitionTask


def test_published_lines():
    scores, task = (0.010419, 0.03125, 5.298317), RecognitionTask()
    speeds = Speeds(clips=48, fill=48 / 153_000, wait=0.0, forward=48 / 98.4, backward=48 / 17.8)
    line = iteration_line(
        epoch=3,
        batch=12,
        speed=speeds.text(),
        scores=task.scores_text(scores),
        shape=(48, 3, 16, 224, 224),
        lr=0.0125,
        extra=["scale = 65536", speeds.limit()],
    )
    assert line == (
        "Epoch [3]   Batch [12]   Speed (r=1.53e+5 f=9.84e+1 b=1.78e+1) clip/sec  loss-ce = 5.29832, "
        "top1 = 0.01042, top5 = 0.03125, batch_size = (   48,3,16,224,224), lr = 1.25e-2"
        ", scale = 65536, limit = backward (waited 0%)"
    )
    assert time_line(0, 123.45) == "Epoch [0]   time cost: 123.45 sec (0.03 h)"
    assert task.epoch_text("train", 0, scores) == (
        "Epoch [0]  (train)  average top-1 acc: 0.01042   average top-5 acc: 0.03125   average loss: 5.29832"
    )
    assert task.epoch_text("val", 0, scores, iteration=50) == (
        "Epoch [0]: Iteration [50]:  (val)  average top-1 acc: 0.01042   average top-5 acc: 0.03125   "
        "average loss 5.29832"
    )
    assert task.epoch_text("val", 0, scores) == (
        "Epoch [0]:  (val)  average top-1 acc: 0.01042   average top-5 acc: 0.03125   average loss 5.29832"
    )


@pytest.mark.parametrize(
    "value, text", [(1.53e5, "1.53e+5"), (0.0125, "1.25e-2"), (1.5, "1.50e+0"), (1e-12, "1.00e-12")]
)
def test_exponents_have_no_leading_zero(value, text):
    assert scientific(value) == text


def test_reading_speed_is_what_the_loader_can_do():
    """A fed loop did not wait, a starved one waited for the whole making: r is the same."""
    fed = Speeds(clips=10, fill=0.5, wait=0.0, forward=2.0, backward=4.0)
    starved = Speeds(clips=10, fill=0.5, wait=0.5, forward=0.02, backward=0.04)
    assert fed.text() == "Speed (r=2.00e+1 f=5.00e+0 b=2.50e+0) clip/sec"
    assert starved.text().startswith("Speed (r=2.00e+1 ")
    assert fed.limit() == "limit = backward (waited 0%)"
    assert starved.limit() == "limit = reading (waited 89%)"
    assert Speeds(4, fill=None, wait=2.0, forward=1.0).text() == "Speed (r=2.00e+0 f=4.00e+0) clip/sec"
    assert Speeds(4, wait=0.1, forward=2.0, backward=1.0).limit() == "limit = forward (waited 3%)"


def test_speeds_are_of_the_latest_finished_iteration(monkeypatch):
    clock = iter([10.0, 12.0, 13.0, 20.0, 20.5, 24.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monitor = SpeedMonitor()
    for _ in range(2):
        monitor.start()
        monitor.turn()
        monitor.stop()
    speeds = monitor.speeds(8, wait=1.0, fill=2.0)
    assert (speeds.forward, speeds.backward, speeds.wait, speeds.fill) == (0.5, 4.0, 1.0, 2.0)


def test_events_are_read_only_when_the_device_has_passed_them(monkeypatch):
    class Event:
        now = 0.0
        passed = False

        def __init__(self, device, enable_timing):
            assert enable_timing

        def record(self):
            Event.now += 250.0
            self.at = Event.now

        def query(self):
            return Event.passed

        def elapsed_time(self, other):
            return other.at - self.at

    monkeypatch.setattr(torch, "Event", Event)
    monitor = SpeedMonitor("cuda")
    monitor.start()
    monitor.turn()
    monitor.stop()
    assert monitor.speeds(8, wait=0).forward is None
    Event.passed = True
    assert monitor.speeds(8, wait=0).text() == "Speed (r=8.00e+9 f=3.20e+1 b=3.20e+1) clip/sec"


def test_speeds_are_painted_by_their_limits():
    line = "Epoch [3]   Speed (r=9.90e+1 f=5.00e+1 b=2.00e+2) clip/sec  loss-ce = 5.2, b=1.0"
    red, yellow, green, reset = "\033[91m", "\033[93m", "\033[92m", "\033[0m"
    assert paint_speeds(line) == line.replace("9.90e+1", f"{red}9.90e+1{reset}").replace(
        "5.00e+1", f"{yellow}5.00e+1{reset}"
    ).replace("2.00e+2", f"{green}2.00e+2{reset}")
    assert paint_speeds("no speeds (r=1) here") == "no speeds (r=1) here"


class Terminal:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_colors_only_on_a_terminal(tmp_path):
    terminal = Terminal()
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    unopened = logging.FileHandler(tmp_path / "user.log", delay=True)  # its stream is None
    logging.getLogger().addHandler(unopened)
    try:
        with run_log(tmp_path / "train.log"):
            logging.getLogger("vidseg.engine.trainer").info("Speed (r=1.00e+0) clip/sec")
        logging.getLogger("vidseg.engine.trainer").warning("Speed (r=2.00e+0) afterwards")
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().removeHandler(unopened)
        unopened.close()
    assert terminal.text == "Speed (r=\033[91m1.00e+0\033[0m) clip/sec\nSpeed (r=2.00e+0) afterwards\n"
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"{stamp}: Speed \(r=1.00e\+0\) clip/sec\n", (tmp_path / "train.log").read_text())
    with run_log(tmp_path / "train.log", append=True, debug=True):
        logging.getLogger("vidseg.engine.trainer").debug("more")
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert len(lines) == 2 and lines[1].endswith(": more")


def test_the_bar_is_for_terminals_only(monkeypatch, capsys):
    with progress_bar(3, "epoch 0") as bar:
        bar.update()
    assert capsys.readouterr().err == ""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar(3, "epoch 7") as bar:
        bar.update()
    assert "epoch 7" in terminal.text and "3/3" not in terminal.text


def test_score_table(tmp_path):
    table = ScoreTable(tmp_path / "train_results_s0001.csv", ("Top1", "Top5", "Loss"))
    table.append(0, (1 / 3, 1.0, 2.5))
    assert table.path.read_text() == "Epoch,Top1,Top5,Loss\n0,0.3333333333333333,1.0,2.5\n"


def test_lines_come_every_few_iterations(tmp_path, caplog):
    caplog.set_level(logging.INFO, "vidseg")
    Trainer(linear(), Batches(5), validation=Batches(4), monitors=MonitorOptions(log_every=2)).fit(1, tmp_path)
    lines = [record.getMessage() for record in caplog.records]
    assert [re.search(r"Batch \[(\d)\]", line)[1] for line in lines if "Batch [" in line] == ["0", "2", "4"]
    running = [line for line in lines if "Iteration [" in line]
    assert [re.search(r"Iteration \[(\d)\]", line)[1] for line in running] == ["1", "3"]
    last = [line for line in lines if "(val)" in line][-1]
    assert running[-1].partition("(val)")[2] == last.partition("(val)")[2]  # the same average, over all four batches


def test_tensorboard(tmp_path, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    schedule = ScheduleOptions(lr=0.25, lr_steps=(1,))
    options, drawn, plot = MonitorOptions(tensorboard=True), [], plots.plot_confusion
    monkeypatch.setattr(plots, "plot_confusion", lambda *given, **more: (drawn.append(given), plot(*given, **more))[1])
    validation = Batches(1)
    validation.data = SimpleNamespace(labels=torch.tensor([0, 1, 2]), classes=["run", "jump", "höhle"])
    Trainer(linear(), Batches(3), validation=validation, schedule=schedule, monitors=options).fit(2, tmp_path)
    log = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in log.Scalars("iteration/rate")] == pytest.approx([0.25] * 3 + [0.025] * 3)
    assert len(log.Scalars("train/Loss")) == len(log.Scalars("val/Top1")) == 2
    assert len(log.Scalars("clips per second/backward")) == 6
    clips = log.Images("clips")
    assert len(clips) == 2 and clips[0].encoded_image_string.startswith(b"GIF89a") and clips[0].width == 8
    pictures = log.Images("confusion")
    assert [event.step for event in pictures] == [1, 2] and pictures[0].width > 300
    assert pictures[0].encoded_image_string.startswith(b"\x89PNG")
    counts, names, _ = drawn[-1]
    assert (
        names == ["run", "jump", "höhle"]
        and sum(map(sum, counts)) == 8
        and np.trace(counts) / 8 == pytest.approx(log.Scalars("val/Top1")[-1].value)
    )


def test_speeds_are_read_from_the_log(tmp_path):
    options = MonitorOptions(log_every=1)
    with run_log(tmp_path / "train.log"):
        Trainer(linear(), Batches(3), validation=Batches(1), monitors=options).fit(2, tmp_path)
    found = read_speeds(tmp_path / "train.log")
    assert (
        found.shape == (6, 5)
        and (found[:, :3] > 0).all()
        and (found[:, 3] <= 1).all()
        and found[:, 4].tolist() == [1, 1, 1, 2, 2, 2]
    )
    picture = plot_speeds(tmp_path, tmp_path / "speed.png", title="a run")
    assert picture.stat().st_size > 10_000
    (tmp_path / "train.log").write_text("2026-01-01 00:00:00: nothing\n")
    with pytest.raises(ValueError, match="no iteration line found"):
        read_speeds(tmp_path / "train.log")
    with pytest.raises(FileNotFoundError, match="log not found; pass the folder of a run"):
        plot_speeds(tmp_path / "absent", tmp_path / "x.png")


def test_curves_of_a_run_that_went_on(tmp_path):
    """The later table counts from its first epoch on."""
    from vidseg.plots.curves import read_run

    first = ScoreTable(tmp_path / "train_results_s0001.csv", ("Top1", "Top5", "Loss"))
    later = ScoreTable(tmp_path / "train_results_s0002.csv", ("Top1", "Top5", "Loss"))
    for epoch in range(3):
        first.append(epoch, (0.1, 0.2, 1.0))
    for epoch in (2, 3):
        later.append(epoch, (0.5, 0.6, 0.4))
    _, scores = read_run(tmp_path, "train")
    assert scores[:, 0].tolist() == [0, 1, 2, 3] and scores[:, 1].tolist() == [0.1, 0.1, 0.5, 0.5]


def test_picture_of_a_schedule(tmp_path):
    shapes = [(8, 4, 46, 46), (2, 16, 64, 64)]
    assert plot_schedule(shapes, [0.1, 0.05, 0.01], tmp_path / "s.png", title="x").stat().st_size > 10_000
    with pytest.raises(ValueError, match="the schedule is empty"):
        plot_schedule([], [], tmp_path / "s.png")
