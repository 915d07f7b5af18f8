"""Loggers of a run: events.jsonl, trackers that work, fail and are missing, pictures of every task."""

import importlib.machinery
import json
import logging
import sys
import types
from pathlib import Path

import pytest
import torch
from test_engine import Batches, linear, rows
from torch import nn

from vidseg.engine import CheckpointOptions, EvaluationOptions, Logger, MonitorOptions, Trainer
from vidseg.engine.event_file import EVENTS, read_events


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def fit(out, epochs=3, *, loggers=(), resume=False, model=None, **monitors):
    trainer = Trainer(
        model or linear(),
        Batches(5),
        validation=Batches(2),
        loggers=loggers,
        monitors=MonitorOptions(**{"log_every": 1, **monitors}),
        checkpoints=CheckpointOptions(checkpoint_every=2),
        evaluation=EvaluationOptions(test_every_steps=4),
    )
    trainer.fit(epochs, out, resume=resume, record={"options": {"lr": 0.1, "recipe": "none"}, "classes": ["a"]})
    return trainer


def named(events, *names):
    return [event for event in events if event["event"] in names]


def timeless(event):
    """An event without what differs between two runs that are alike."""
    return {key: value for key, value in event.items() if key not in ("time", "seconds", "run")}


# events.jsonl


def test_events_are_what_happened(tmp_path):
    fit(tmp_path / "run", 2)
    lines = (tmp_path / "run" / EVENTS).read_text().splitlines()

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    assert [json.loads(line, parse_constant=refuse)["event"] for line in lines[:3]] == [
        "start",
        "iteration",
        "iteration",
    ]
    events = read_events(tmp_path / "run")
    assert events == read_events(tmp_path / "run" / EVENTS)
    start, end = events[0], events[-1]
    assert (
        start["record"]["options"] == {"lr": 0.1, "recipe": "none"} and start["versions"]["torch"] == torch.__version__
    )
    assert not start["resumed"] and start["schedule"]["epochs"] == 2 and start["batches"] == 5
    assert (end["event"], end["status"], end["error"], end["done"]) == ("end", "complete", "", (2, 0))
    scores = named(events, "scores")
    for split in ("train", "val"):
        table = rows(tmp_path / "run" / f"{split}_results_s0001.csv")
        assert [[event["epoch"], *event["scores"].values()] for event in scores if event["split"] == split] == table
    # Steps 4 and 8 have a validation inside an epoch, which is not at the end of it.
    assert [event["done"] for event in scores if event["split"] == "val"] == [(0, 4), (1, 0), (1, 3), (2, 0)]
    iterations = named(events, "iteration")
    assert [(event["epoch"], event["batch"], event["number"]) for event in iterations] == [
        (1 + number // 5, number % 5, number) for number in range(10)
    ]
    assert all(event["rate"] == 0.1 and event["seconds"]["backward"] > 0 for event in iterations)
    saved = named(events, "checkpoint")
    assert [event["done"] for event in saved][-1] == (2, 0) and saved[-1]["path"] == "model_last.pth"
    assert any(event["best"] for event in saved)


def test_iterations_are_as_frequent_as_lines_of_the_log(tmp_path):
    fit(tmp_path, 1, log_every=2)
    assert [event["batch"] for event in named(read_events(tmp_path), "iteration")] == [0, 2, 4]


class Interrupter(Logger):
    """Ends a run at the n-th call of a method, as Ctrl-C does."""

    def __init__(self, method, number):
        self.left = number
        setattr(self, method, self._count)

    def _count(self, *_):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "method, number",
    [
        ("iteration", 2),
        ("iteration", 8),
        ("iteration", 10),
        ("epoch", 2),
        ("epoch", 3),
        ("epoch", 5),
        ("checkpoint", 4),
    ],
)
def test_no_epoch_is_lost_or_twice_after_an_interruption(tmp_path, method, number):
    """At odd numbers the process is killed while it writes a line, so it has no time to write the end."""
    fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", loggers=[Interrupter(method, number)], pictures=False)
    path = tmp_path / "run" / EVENTS
    assert read_events(path)[-1]["status"] == "interrupted"
    if number % 2:
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]) + b'{"event": "scores", "spl')
    fit(tmp_path / "run", resume=True)
    events, expected = read_events(path), read_events(tmp_path / "whole")
    kinds = ("scores", "iteration", "checkpoint")
    found = [timeless(event) for event in named(events, *kinds)]
    # A process that was killed behind a checkpoint did not write its event.
    wanted = [timeless(event) for event in named(expected, *kinds)]
    assert [event for event in found if event["event"] != "checkpoint"] == [
        event for event in wanted if event["event"] != "checkpoint"
    ]
    assert len({event["run"] for event in named(events, "start")}) == 1
    assert [event["resumed"] for event in named(events, "start")][-1] == (events[1]["event"] != "start")
    assert events[-1]["status"] == "complete"


def test_another_run_in_the_folder_has_another_file(tmp_path):
    fit(tmp_path, 1)
    first = read_events(tmp_path)[0]["run"]
    fit(tmp_path, 1)
    events = read_events(tmp_path)
    assert len(named(events, "start")) == len(named(events, "end")) == 1 and events[0]["run"] != first


def test_warnings_and_failures_are_events(tmp_path):
    class Diverging(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) * (float("nan") if self.training and self.weight.std() != self.first else 1)

    class Warns(Logger):
        def checkpoint(self, saved):
            logging.getLogger("vidseg.loaders").warning("video %s is damaged", "ü.mp4")

    layer = Diverging(12, 3)
    layer.first = layer.weight.std().item()
    with pytest.raises(RuntimeError, match="the loss is nan"):
        fit(tmp_path, loggers=[Warns()], model=nn.Sequential(nn.Flatten(), layer))
    events = read_events(tmp_path)
    assert events[-1]["status"] == "failed" and "RuntimeError: epoch 1, batch 1: the loss is nan" in events[-1]["error"]
    fit(tmp_path, 1, loggers=[Warns()])
    warnings = named(read_events(tmp_path), "warning")
    assert warnings and {event["text"] for event in warnings} == {"video ü.mp4 is damaged"}
    count = len(read_events(tmp_path))
    logging.getLogger("vidseg.loaders").warning("after the run")
    assert len(read_events(tmp_path)) == count


def test_damaged_events_are_named(tmp_path):
    fit(tmp_path, 1)
    path = tmp_path / EVENTS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "nothing\n", *lines[2:]]))
    with pytest.raises(ValueError, match=r"events\.jsonl:3: not an event of a run"):
        fit(tmp_path, 2, resume=True)


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    seen = []

    class Watch(Logger):
        def iteration(self, iteration):
            seen.append(iteration)

    monkeypatch.setattr("vidseg.engine.distributed.is_first", lambda: False)
    fit(tmp_path, 1, loggers=[Watch()], tensorboard=True)
    assert not (tmp_path / EVENTS).exists() and not (tmp_path / "tensorboard").exists() and not seen


# Trackers


@pytest.mark.parametrize("method", ["start", "iteration", "epoch", "picture", "checkpoint", "close"])
def test_a_tracker_that_fails_ends_no_run(tmp_path, caplog, method):
    calls = []

    class Fails(Logger):
        def __getattribute__(self, name):
            if name != method:
                return super().__getattribute__(name)

            def fail(*_):
                calls.append(name)
                raise OSError("no route\n to the host")

            return fail

    good, after = fit(tmp_path / "good"), fit(tmp_path / "run", loggers=[Fails()])
    for name, value in good.model.state_dict().items():
        assert torch.equal(value, after.model.state_dict()[name])
    assert calls == [method]
    text = "Fails failed and gets nothing more of this run, which continues: OSError: no route to the host"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [text]
    events = read_events(tmp_path / "run")
    assert [event["text"] for event in named(events, "warning")] == [text] and events[-1]["status"] == "complete"


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_refused_before_the_run(tmp_path, monkeypatch, name):
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None if module == name else real(module))
    with pytest.raises(ImportError, match=rf"option {name} needs the package {name}: pip install 'vidseg\[{name}\]'"):
        fit(tmp_path / "run", **{name: True})
    assert not (tmp_path / "run").exists()


def module(monkeypatch, name, **content):
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(made).update(content)
    monkeypatch.setitem(sys.modules, name, made)
    return made


class FakeWandb:
    """What vidseg uses of Weights & Biases."""

    def __init__(self):
        self.inits, self.rows, self.metrics, self.codes = [], [], {}, []
        self.summary = {}

    def init(self, **options):
        self.inits.append(options)
        return self

    def define_metric(self, name, step_metric=None, hidden=False):
        self.metrics[name] = step_metric

    def log(self, row):
        self.rows.append(row)

    def finish(self, exit_code):
        self.codes.append(exit_code)


def test_weights_and_biases(tmp_path, monkeypatch):
    fake = FakeWandb()
    read = {
        "Image": lambda picture: ("png", picture.size),
        "Video": lambda path, format: (format, Path(path).read_bytes()),
    }
    module(monkeypatch, "wandb", init=fake.init, **read)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, 2, wandb=True, loggers=[Interrupter("iteration", 8)])
    fit(tmp_path, 2, wandb=True, resume=True)
    first, second = fake.inits
    assert first["id"] == second["id"] == read_events(tmp_path)[0]["run"] and second["resume"] == "allow"
    assert first["config"]["options"] == {"lr": 0.1, "recipe": "none"} and first["name"] == tmp_path.name
    assert fake.codes == [1, 0]
    table = rows(tmp_path / "train_results_s0001.csv") + rows(tmp_path / "train_results_s0002.csv")
    logged = [row for row in fake.rows if "train/Loss" in row]
    assert [[row["epoch"], *(row[f"train/{name}"] for name in ("Top1", "Top5", "Loss"))] for row in logged] == table
    numbers = [row["iteration/number"] for row in fake.rows if "iteration/rate" in row]
    assert numbers == [*range(8), *range(7, 10)]  # the checkpoint was written behind iteration 6
    clips = [row["pictures/clips"] for row in fake.rows if "pictures/clips" in row]
    assert [kind for kind, _ in clips] == ["gif"] * len(clips) and clips[0][1].startswith(b"GIF89a")
    assert any("pictures/confusion" in row for row in fake.rows) and fake.summary["best"]["Top1"] <= 1
    assert set(fake.metrics.values()) == {None, "epoch", "iteration/number"}


class FakeMlflow:
    """What vidseg uses of MLflow: a server with runs."""

    def __init__(self):
        self.experiments, self.runs, self.requests = {}, {}, 0

    def get_experiment_by_name(self, name):
        return types.SimpleNamespace(experiment_id=name) if name in self.experiments else None

    def create_experiment(self, name):
        self.experiments[name] = True
        return name

    def search_runs(self, experiments, filter_string, max_results):
        wanted = filter_string.partition("= ")[2].strip("'")
        return [one["run"] for one in self.runs.values() if one["tags"]["vidseg.run"] == wanted]

    def create_run(self, experiment, run_name, tags):
        run = types.SimpleNamespace(info=types.SimpleNamespace(run_id=f"{experiment}/{run_name}"))
        self.runs[run.info.run_id] = {
            "run": run,
            "tags": dict(tags),
            "metrics": [],
            "params": {},
            "files": [],
            "status": "",
        }
        return run

    def update_run(self, run, status):
        self.runs[run]["status"] = status

    def log_batch(self, run, metrics=(), params=()):
        assert len(metrics) <= 1000 and len(params) <= 100
        self.requests += 1
        self.runs[run]["metrics"] += metrics
        for key, value in params:
            assert self.runs[run]["params"].setdefault(key, value) == value, "a parameter cannot change"

    def log_artifact(self, run, path, folder):
        self.runs[run]["files"].append((folder, Path(path).name, Path(path).stat().st_size))

    def set_tag(self, run, key, value):
        self.runs[run]["tags"][key] = value

    def set_terminated(self, run, status):
        self.runs[run]["status"] = status


def test_mlflow(tmp_path, monkeypatch):
    fake = FakeMlflow()
    module(monkeypatch, "mlflow", MlflowClient=lambda: fake)
    module(
        monkeypatch,
        "mlflow.entities",
        Metric=lambda key, value, timestamp, step: (key, value, step),
        Param=lambda key, value: (key, value),
    )
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, 2, mlflow=True, loggers=[Interrupter("iteration", 8)])
    (run,) = fake.runs.values()
    assert run["status"] == "KILLED" and run["params"] == {"network": "model", "lr": "0.1", "recipe": "none"}
    fit(tmp_path, 2, mlflow=True, resume=True)
    assert list(fake.runs) == [f"ours/{tmp_path.name}"] and run["status"] == "FINISHED"
    assert [step for key, _, step in run["metrics"] if key == "iteration/rate"] == [*range(8), *range(7, 10)]
    table = rows(tmp_path / "train_results_s0001.csv") + rows(tmp_path / "train_results_s0002.csv")
    assert [[step, value] for key, value, step in run["metrics"] if key == "train/Loss"] == [
        [epoch, loss] for epoch, *_, loss in table
    ]
    assert fake.requests <= 12  # not one for each iteration
    assert {folder for folder, *_ in run["files"]} == {"pictures/clips", "pictures/confusion"}
    assert "model_last.pth of epoch" in run["tags"]["best checkpoint"]


def test_names_that_mlflow_accepts():
    from vidseg.engine.mlflow import _plain

    assert [_plain(name) for name in ("val/mAP@0.5", "F1-all", "clips per second/é")] == [
        "val/mAP_0.5",
        "F1-all",
        "clips per second/_",
    ]


def test_the_real_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    fit(tmp_path / "run", 1, mlflow=True)
    fit(tmp_path / "run", 2, mlflow=True, resume=True)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("vidseg").experiment_id])
    table = rows(tmp_path / "run/val_results_s0002.csv")
    assert run.info.status == "FINISHED" and run.data.metrics["val/Loss"] == pytest.approx(table[-1][-1])
    history = client.get_metric_history(run.info.run_id, "iteration/Loss")
    assert [metric.step for metric in history] == list(range(10))
    assert {item.path for item in client.list_artifacts(run.info.run_id, "pictures")} == {
        "pictures/clips",
        "pictures/confusion",
    }


def test_the_real_weights_and_biases(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit(tmp_path, 1, wandb=True)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"train/Loss" in content and b"iteration/rate" in content and not named(read_events(tmp_path), "warning")
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/**/*.gif"))) == 1


# TensorBoard


def test_a_resumed_run_has_every_iteration_once_in_tensorboard(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, tensorboard=True, loggers=[Interrupter("iteration", 8)])
    fit(tmp_path, tensorboard=True, resume=True)
    log = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in log.Scalars("iteration/Loss")] == list(range(15))
    assert [event.step for event in log.Scalars("train/Loss")] == [1, 2, 3]


def test_no_pictures_without_the_option(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit(tmp_path, 1, tensorboard=True, pictures=False)
    log = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert log.Tags()["images"] == [] and log.Scalars("val/Top1")
