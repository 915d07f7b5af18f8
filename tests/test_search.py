"""Search: spaces and their errors, trials, pruning, failures, kill and resume, repetitions, the report, the command."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

pytest.importorskip("optuna")

from search_work import FAILURES, KILLED, REFUSED, fake_program, fake_search, final_score
from segmentation_data import segmentation_dataset

from vidseg.cli.main import main
from vidseg.cli.train import searched_program
from vidseg.metrics import sign_flip_test
from vidseg.search import (
    Parameter,
    SearchOptions,
    bound_space,
    read_results,
    read_space,
    repeat_best,
    write_search_report,
)
from vidseg.search.costs import CostMeter, over_budget
from vidseg.search.ray_trials import RayCluster
from vidseg.search.results import search_importance
from vidseg.search.scores import make_objective, read_run_scores, score_names
from vidseg.search.slots import share_gpus
from vidseg.search.trial_process import Launch, LocalProcess

WORK = Path(__file__).with_name("search_work.py")
LR = {"low": 1e-4, "high": 1.0, "log": True}


def space_file(folder: Path, name: str = "space.yaml", **changes) -> Path:
    """A search of the fake program."""
    content = {
        "options": {"network": "r3d_18", "epochs": 4},
        "space": {"lr": LR},
        "method": "random",
        "pruner": "none",
        "trials": 4,
        **changes,
    }
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def starts(out: Path) -> dict[str, int]:
    """Number of starts of each trial."""
    return {path.parent.name: len(path.read_text().splitlines()) for path in sorted(out.glob("trials/*/starts"))}


def has_ended(process: int) -> bool:
    """Whether a process is gone, or waits for its new parent to take note of its end."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return True
    return text.rpartition(")")[2].split()[0] in "ZX"


# --- spaces


@pytest.mark.parametrize(
    "content, message",
    [
        ({"low": 2, "high": 1}, "low=2 must be below high=1"),
        ({"low": 0, "high": 1, "log": True}, "low=0 of a range with log must be above 0"),
        ({"low": 0.0, "high": 1.0, "step": 2.0}, "leaves no second value"),
        ({"low": 1.0, "high": 2.0, "step": 0.1, "log": True}, "exclude each other"),
        ({"low": 1}, "low and high"),
        ({"low": "many", "high": 2}, "low='many' is not a number"),
        ({"lo": 1, "high": 2}, "unknown key 'lo'; did you mean 'low'?"),
        ({"choices": [1], "low": 1}, "exclude each other"),
        ({"choices": []}, "is not a list of values"),
        ({"choices": [1, 2], "when": "optimizer"}, "when='optimizer' is not a mapping"),
        ([1, 2, 1], "1 is there twice"),
        ([], "the list of values is empty"),
        (0.1, "goes under `options`"),
    ],
)
def test_a_wrong_parameter_is_named(content, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Parameter.from_description(content)


@pytest.mark.parametrize(
    "content, size, inside, outside",
    [
        ([1, 2, 5], 3, 5, 3),
        ([True, False], 2, True, 1),
        ([[1, 2], [3]], 2, (3,), (1,)),
        ({"low": 1, "high": 8}, 8, 8, 9),
        ({"low": 2, "high": 9, "step": 3}, 3, 8, 9),
        ({"low": 0.0, "high": 1.0, "step": 0.1}, 11, 0.3, 0.35),
        ({"low": "1e-4", "high": 0.1, "log": True}, None, 0.05, 0.2),
    ],
)
def test_values_of_a_parameter(content, size, inside, outside):
    found = Parameter.from_description(content)
    assert found.size == size and found.holds(inside) and not found.holds(outside)
    assert Parameter.from_description(json.loads(json.dumps(found.description()))) == found
    if size is not None:
        assert len(found.values()) == size and all(map(found.holds, found.values()))


SEGMENTATION = {
    "program": "segmentation",
    "options": {"epochs": 2},
    "space": {
        "lr": LR,
        "optimizer": ["adam", "sgd"],
        "momentum": {"low": 0.5, "high": 0.9, "when": {"optimizer": "sgd"}},
    },
}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"space": {}}, "space is empty"),
        ({"space": {"lrr": [1]}}, "there is no option 'lrr'; did you mean 'lr'?"),
        ({"space": {"lr.x": [1]}}, "only network-option.NAME and loss-option.NAME"),
        ({"space": {"epochs": [1, 2]}}, "epochs has a value under options and is searched"),
        ({"options": {"epochs": "two"}}, "epochs='two' is not of the type int"),
        ({"space": {"network-option.lyers": [2, 3]}}, "mstcn has no option 'lyers'; did you mean 'layers'?"),
        ({"space": {"network": ["mstcnn"]}}, "mstcnn"),
        ({"space": {"optimizer": {"low": 1, "high": 2}}}, "is not a number and has no range"),
        ({"space": {"batch-size": {"low": 1, "high": 2.5}}}, "takes whole numbers"),
        ({"space": {"lr": [-1, -2]}}, "no combination of values is valid: lr=-1.0 must be above 0"),
        ({"space": {"out": ["a"]}}, "out is set by the search"),
        ({"space": {"momentum": {"low": 0.5, "high": 0.9, "when": {"optimizer": "sgd"}}}}, "optimizer is 'adam' in"),
        ({"space": {"optimizer": ["adam", "adamw"], "nesterov": {"choices": [True], "when": {"optimizer": "sgd"}}}},
         "'sgd' is not among the values of optimizer"),
        ({"space": {"lr": {**LR, "when": {"momentum": 0.5}}, "momentum": {"choices": [0.5], "when": {"lr": 0.1}}}},
         "circle"),
        ({"objectives": ["f1@55"]}, "segmentation has no score 'f1@55'; did you mean 'f1@50'?"),
        ({"objectives": ["top1"]}, "segmentation has no score 'top1'"),
        ({"objectives": ["acc", "acc"]}, "'acc' is there twice"),
        ({"objectives": ["operations"]}, "costs alone need no training"),
        ({"objectives": ["acc", "operations"], "pruner": "median"}, "compares one validation score"),
        ({"method": "tpee"}, "unknown method 'tpee'; did you mean 'tpe'?"),
        ({"method": "nsga2"}, "for several objectives"),
        ({"method": "grid"}, "lr: a grid needs step or a list"),
        ({"budget": {"latncy": 1}}, "unknown cost 'latncy'; did you mean 'latency'?"),
        ({"trials": 0}, "trials=0 must be at least 1"),
        ({"time": -1}, "time=-1 must be above 0"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_named(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        bound_space({**SEGMENTATION, **changes}, "my.yaml", searched_program("segmentation"))
    assert str(error.value).startswith("my.yaml: ")


def test_files_that_hold_no_space(tmp_path, capsys):
    path = tmp_path / "space.yaml"
    for text, message in (
        ("a: [", "not a YAML file"),
        ("- 1", "holds no search space"),
        ("spce: {}", "did you mean 'space'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_space(path)
    with pytest.raises(FileNotFoundError, match="no such file of a search space"):
        read_space(tmp_path / "none.yaml")
    path.write_text("program: recogniton\nspace: {lr: [1]}\n")
    assert main(["search", str(path), str(tmp_path)]) == 2
    assert "unknown program 'recogniton'" in capsys.readouterr().err


def test_a_grid_has_each_combination_once():
    program = searched_program("segmentation")
    content = {**SEGMENTATION, "method": "grid"}
    content["space"] = {**content["space"], "lr": [0.1, 0.2]}
    content["space"]["momentum"] = {"choices": [0.5, 0.6, 0.7], "when": {"optimizer": "sgd"}}
    space = bound_space(content, "my.yaml", program)
    found = [tuple(one.values()) for one in space.combinations(program.options(space.options))]
    assert sorted(found, key=str) == sorted(
        [(lr, "adam") for lr in (0.1, 0.2)] + [(lr, "sgd", m) for lr in (0.1, 0.2) for m in (0.5, 0.6, 0.7)], key=str
    )


def test_score_names_are_those_of_the_tasks():
    from vidseg.engine.frame_label_scores import FrameLabelResult  # noqa: F401
    from vidseg.tasks.flow.task import FlowTask
    from vidseg.tasks.recognition import target_kinds as kinds

    names = {
        "recognition": {*kinds.ClassTarget.columns, *kinds.ClassesTarget.columns, *kinds.ValueTarget.columns},
        "detection": {"mAP@0.5", "mAP", "AR@100", "AUC", "Loss"},  # made in instances
        "flow": set(FlowTask.columns),
    }
    for task, columns in names.items():
        assert {name.lower() for name in columns} == set(score_names(task)) - {
            "score",
            "operations",
            "parameters",
            "latency",
        }
    assert make_objective("flow", "F1-all").direction == make_objective("recognition", "loss").direction == "minimize"
    assert make_objective("recognition", "Top1").direction == make_objective("flow", "score").direction == "maximize"


def test_rows_of_a_resumed_run_replace_those_of_the_first_start(tmp_path):
    (tmp_path / "val_results_s0000.csv").write_text("Epoch,MAE,R2,Loss\n1,4,0,9\n2,3,0,8\n3,9,0,7\n")
    (tmp_path / "val_results_s0003.csv").write_text("Epoch,MAE,R2,Loss\n3,1,0,6\n4,2,0,5\n5,0,0")  # being written
    (found,) = read_run_scores(tmp_path, "recognition")
    assert found.epochs == [1, 2, 3, 4] and found.columns["score"] == [-4, -3, -1, -2]
    assert found.best() == 2 and found.best(2) == 1 and found.at(2)["loss"] == 6


# --- the search


@pytest.mark.slow
def test_a_search_repeats_exactly_and_finds_the_best_value(tmp_path, data):
    path = space_file(tmp_path, method="tpe", trials=9)
    first = fake_search(path, data, tmp_path / "a")
    second = fake_search(path, data, tmp_path / "b")
    assert [one.values for one in first.trials] == [one.values for one in second.trials]
    assert len(first.complete) == 9 and all(one.state == "complete" for one in first.trials)
    best = first.best
    assert best.objectives == [final_score(best.values["lr"])] == [max(one.objectives[0] for one in first.trials)]
    assert best.scores["top5"] == 1 and best.epochs == [4]
    # the trials that depend on results are better than the random ones
    halves = [[one.objectives[0] for one in first.trials[part]] for part in (slice(4), slice(4, None))]
    assert sum(halves[1]) / 5 > sum(halves[0]) / 4
    other = fake_search(space_file(tmp_path, "c.yaml", method="tpe", trials=2, seed=5), data, tmp_path / "c")
    assert other.trials[0].values != first.trials[0].values
    assert (tmp_path / "a/trials.csv").read_text().count("\n") == 10
    again = fake_search(path, data, tmp_path / "a")  # finished: nothing starts
    assert again.trials == first.trials and set(starts(tmp_path / "a").values()) == {1}
    more = fake_search(path, data, tmp_path / "a", trials=10)
    assert len(more.trials) == 10 and more.trials[:9] == first.trials


def test_the_first_trial_has_the_values_of_the_recipe(tmp_path, data):
    space = {
        "lr": LR,  # the recipe has none, so it is drawn
        "weight-decay": {"low": 0.5, "high": 1.0},  # the recipe's is outside
        "optimizer": ["adamw", "adam", "sgd"],
        "momentum": {"low": 0.0, "high": 0.95, "when": {"optimizer": "sgd"}},
        "clip-norm": {"low": 1.0, "high": 9.0, "when": {"optimizer": "adam"}},
        "mean": [[0.5, 0.5, 0.5], [0.1, 0.2, 0.3], None],
    }
    first, second = fake_search(space_file(tmp_path, space=space, trials=2), data, tmp_path / "a").trials
    recipe = fake_program().options({"network": "r3d_18", "dataset": str(data)})
    same = {name: first.values[name] for name in ("optimizer", "momentum", "mean")}
    assert same == {name: recipe[name] for name in same} and "clip_norm" not in first.values
    assert 0.5 <= first.values["weight_decay"] <= 1 and LR["low"] <= first.values["lr"] <= LR["high"]
    assert second.values != first.values


def test_processors_and_options_of_a_trial(tmp_path, data):
    fake_search(space_file(tmp_path, trials=1), data, tmp_path / "a", cpus_per_trial=3)
    folder = tmp_path / "a/trials/0000"
    assert (folder / "starts").read_text() == "3 \n"
    record = json.loads((folder / "trial.json").read_text())
    assert record["options"] | {"lr": 0} == {
        "network": "r3d_18", "epochs": 4, "dataset": str(data), "threads": 3, "lr": 0
    }  # fmt: skip
    assert record["command"] == f"OMP_NUM_THREADS=3 vidseg train --config {folder}/trial.json --out {folder}_again"
    assert SearchOptions().threads(10**6) == 1


@pytest.mark.parametrize(
    "jobs, present, each, expected",
    [
        (2, 0, None, [(), ()]),
        (2, 4, None, [(0, 1), (2, 3)]),
        (3, 1, None, [(0,), (0,), (0,)]),
        (4, 2, 0.5, [(0,), (0,), (1,), (1,)]),
        (2, 2, 1.0, [(0,), (1,)]),
        (3, 1, 0.5, "need more than 1 GPUs"),
        (2, 3, 2.0, "need 4; there are 3"),
    ],
)
def test_gpus_are_shared(jobs, present, each, expected):
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            share_gpus(jobs, present, each)
    else:
        assert share_gpus(jobs, present, each) == expected


def test_jobs_run_at_the_same_time(tmp_path, data):
    (data / "meet").touch()
    found = fake_search(space_file(tmp_path, trials=2), data, tmp_path / "a", jobs=2)
    assert len(found.complete) == 2


def test_pruning_stops_the_process_and_depends_on_validations_alone(tmp_path, data):
    path = space_file(tmp_path, pruner="median", method="grid", trials=6, options={"network": "r3d_18", "epochs": 6})
    content = yaml.safe_load(path.read_text())
    content["space"] = {"lr": [0.02, 0.01, 0.012, 1.0, 0.011, 0.5]}
    path.write_text(yaml.safe_dump(content))
    free = fake_search(path, data, tmp_path / "free")
    (data / "block").write_text("0.4")
    blocked = fake_search(path, data, tmp_path / "blocked")
    for found in (free, blocked):
        assert [one.state for one in found.trials] == ["complete"] * 3 + ["pruned", "complete", "pruned"]
        assert found.trials[3].history == [pytest.approx(final_score(1.0) * epoch / 6) for epoch in (1, 2)]
        assert found.trials[3].epochs == [2] and not found.trials[3].objectives
    for number in ("0003", "0005"):
        process = int((tmp_path / f"blocked/trials/{number}/blocked").read_text())
        assert has_ended(process)


def test_failures_are_results(tmp_path, data, caplog):
    values = [0.9, *FAILURES, REFUSED, KILLED, 0.96]
    path = space_file(
        tmp_path, method="grid", space={"momentum": values}, options={"network": "r3d_18", "epochs": 2, "lr": 0.01}
    )
    found = fake_search(path, data, tmp_path / "a", trials=9)
    kinds = [None if one.failure is None else one.failure.kind for one in found.trials]
    assert kinds == [None, "diverged", "out of memory", "error", "refused", "killed", None]
    assert [one.failure.message for one in found.trials[1:4]] == list(FAILURES.values())
    assert "SIGKILL" in found.trials[5].failure.message
    assert found.counts() == (
        "2 complete, 1 failed (diverged), 1 failed (out of memory), 1 failed (error), 1 failed (refused), "
        "1 failed (killed)"
    )
    assert "trial 0001: diverged: epoch 1, batch 3: the loss is nan" in caplog.text
    assert fake_search(path, data, tmp_path / "a", trials=9).trials == found.trials  # failed trials are not repeated
    path = space_file(
        tmp_path,
        "bad.yaml",
        method="grid",
        space={"momentum": [REFUSED, 0.93, KILLED, 0.9]},
        options={"network": "r3d_18", "epochs": 2, "lr": 0.01},
    )
    with pytest.raises(
        RuntimeError, match=r"the first trials failed, the last one with: .*SIGKILL.*trials/0002/trial\.log"
    ):
        fake_search(path, data, tmp_path / "b")


def test_known_values_are_not_trained_again(tmp_path, data):
    path = space_file(tmp_path, space={"lr": [0.1, 0.01]}, trials=50)
    found = fake_search(path, data, tmp_path / "a")
    assert sum(one.trained for one in found.trials) == len(starts(tmp_path / "a")) == len(found.complete) == 2
    repeats = [one for one in found.trials if one.state == "repetition"]
    assert repeats and all(one.objectives == found.trials[one.repeats].objectives for one in repeats)


def test_a_score_that_the_runs_lack(tmp_path, data):
    with pytest.raises(ValueError, match=r"no score 'map' on this data set; they have top1, top5, loss, score"):
        fake_search(space_file(tmp_path, objectives=["mAP"]), data, tmp_path / "a")


def test_costs_budget_and_front(tmp_path):
    program = searched_program("segmentation")
    root = segmentation_dataset(tmp_path / "seg")
    meter = CostMeter(root, "segmentation", ("operations", "parameters", "latency"))
    costs = [meter.measure(program.options({"network_option.layers": layers})) for layers in (2, 4)]
    assert costs[0]["operations"] < costs[1]["operations"] and costs[0]["parameters"] < costs[1]["parameters"]
    assert costs[0]["latency"] > 0
    assert over_budget(costs[1], {"parameters": costs[0]["parameters"]}).startswith("parameters ")
    assert over_budget(costs[0], {"parameters": costs[0]["parameters"]}) == ""


def test_several_objectives_under_a_budget(tmp_path, data):
    options = {"network": "r3d_18", "epochs": 2, "frames": 4, "size": 32}
    space = {"lr": [0.01, 0.1], "network-option.width": [0.125, 0.25, 0.5]}
    path = space_file(
        tmp_path,
        objectives=["top1", "parameters"],
        space=space,
        options=options,
        method="grid",
        budget={"parameters": 3e6},
    )
    found = fake_search(path, data, tmp_path / "a", trials=9)
    over = [one for one in found.trials if one.failure is not None]
    assert {one.values["network_option.width"] for one in over} == {0.5} and not any(one.trained for one in over)
    assert all(re.match(r"parameters 8\.\d+e\+06 above 3e\+06", one.failure.message) for one in over)
    (best,) = found.front  # the smallest network has the same score as the larger ones
    assert best.values == {"lr": 0.01, "network_option.width": 0.125} and best.objectives[1] == best.costs["parameters"]
    page = write_search_report(found, tmp_path / "a/report.html").read_text()
    assert "Pareto front" in page and (tmp_path / "a/pictures/pareto.png").is_file()


# --- storage


def test_another_search_is_refused(tmp_path, data):
    out = tmp_path / "a"
    fake_search(space_file(tmp_path, trials=1), data, out)
    for changes, message in (
        ({"seed": 3}, "its seed is 0, now it is 3"),
        ({"space": {"lr": [1.0]}}, r'its space is \{"lr": .* now it is \{"lr": \{"choices": \[1\.0\]'),
        ({"method": "tpe"}, 'its method is "random", now it is "tpe"'),
    ):
        with pytest.raises(ValueError, match=message):
            fake_search(space_file(tmp_path, "other.yaml", **changes), data, out)
    found = fake_search(tmp_path / "other.yaml", data, out, overwrite=True, trials=1)
    assert len(found.trials) == 1 and found.description["method"] == "tpe"
    (out / "search.db").write_bytes(b"not a database, but long enough to be one" * 9)
    with pytest.raises(ValueError, match=r"search\.db: not the storage of a search \(file is not a database\)"):
        fake_search(tmp_path / "other.yaml", data, out)
    (out / "search.db").write_bytes(b"SQLite format 3\x00" + bytes(range(256)) * 20)
    with pytest.raises(ValueError, match=r"search\.db: not the storage of a search"):
        fake_search(tmp_path / "other.yaml", data, out)
    import sqlite3

    (out / "search.db").unlink()
    with sqlite3.connect(out / "search.db") as connection:
        connection.execute("CREATE TABLE mine (a)")
    with pytest.raises(ValueError, match=r"search\.db: not the storage of a search; use another"):
        fake_search(tmp_path / "other.yaml", data, out)
    assert sqlite3.connect(out / "search.db").execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
    with pytest.raises(FileNotFoundError, match="is not the folder of a search"):
        read_results(tmp_path)


def wait_for(path: Path) -> None:
    """Wait until a file is there; the test's own limit ends the wait."""
    while not path.is_file():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_search_continues_without_losing_or_repeating_a_trial(tmp_path, data, number):
    path = space_file(tmp_path, method="grid", trials=4, space={"lr": [0.02, 0.5, 0.01, 0.001]})
    (data / "block").write_text("0.4")
    out = tmp_path / "a"
    words = [sys.executable, str(WORK), "search", str(path), str(data), str(out)]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    wait_for(out / "trials/0001/blocked")
    trial = int((out / "trials/0001/blocked").read_text())
    with pytest.raises(OSError, match="another process is searching in this folder"):
        fake_search(path, data, out)
    process.send_signal(number)
    process.wait()
    (data / "block").unlink()
    found = fake_search(path, data, out)  # starts as soon as the trial's process has ended
    assert has_ended(trial)
    assert [one.state for one in found.trials] == ["complete"] * 4
    assert starts(out) == {"0000": 1, "0001": 2, "0002": 1, "0003": 1}
    whole = fake_search(path, data, tmp_path / "b")
    assert [one.objectives for one in whole.trials] == [one.objectives for one in found.trials]


def test_the_time_limit_stops_running_trials(tmp_path, data, monkeypatch):
    from vidseg.search import searching

    out, path = tmp_path / "a", space_file(tmp_path, method="grid", space={"lr": [0.02, 0.5, 0.01]})
    (data / "block").write_text("0.4")
    monkeypatch.setattr(searching._Loop, "_over", lambda self: (out / "trials/0001/blocked").is_file())
    found = fake_search(path, data, out)
    assert [one.state for one in found.trials] == ["complete", "running"] and found.trials[1].seconds > 0
    monkeypatch.undo()
    (data / "block").unlink()
    assert len(fake_search(path, data, out).complete) == 3
    assert len(fake_search(path, data, tmp_path / "b", time=1e-9).trials) == 0


# --- repetitions, report


def test_the_sign_flip_test_by_hand():
    assert sign_flip_test([1.0]) == 1 and sign_flip_test([0.0, 0.0]) == 1
    assert sign_flip_test([0.1, 0.2, 0.3, 0.1, 0.2]) == 2 / 32
    assert sign_flip_test([1, 1, 1, -1]) == 10 / 16  # |sum| 2 or 4: 2 (1 + 4) of 16 choices
    for wrong in ([], [float("nan")], [1.0] * 21):
        with pytest.raises(ValueError, match="expected 1 to 20 finite numbers"):
            sign_flip_test(wrong)


def test_repetitions_and_the_report(tmp_path, data):
    space = {
        "lr": LR,
        "optimizer": ["sgd", "adamw"],
        "label-smoothing": {"low": 0.0, "high": 0.2, "when": {"optimizer": "sgd"}},
    }
    path = space_file(tmp_path, method="tpe", trials=8, space=space)
    out = tmp_path / "a"
    results = fake_search(path, data, out)
    program = fake_program()
    # the fake program needs a learning rate, which the baseline leaves to the task
    with_rate = {**results.description["options"], "lr": 0.1}
    results = replace(results, description={**results.description, "options": with_rate})
    found = repeat_best(results, program, seeds=6, options=SearchOptions(jobs=2))
    seeds = list(range(2, 8))
    assert list(found.baseline.test) == list(found.best.test) == seeds  # not the seed of the trials
    assert found.baseline.validation == {seed: final_score(0.1, seed) for seed in seeds}
    assert found.p_value("test") == 2 / 64 and "unlikely to be chance" in str(found)
    assert "trial_" in str(found) and "validation score" in str(found)
    times = {path: path.stat().st_mtime_ns for path in out.glob("repeat/*/*/starts")}
    assert len(times) == 12 and repeat_best(results, program, seeds=6, options=SearchOptions()) == found
    assert {path: path.stat().st_mtime_ns for path in out.glob("repeat/*/*/starts")} == times  # nothing is repeated

    page = write_search_report(results, out / "report.html", repetition=found).read_text()
    for one in results.trials:
        assert f'href="trials/{one.number:04d}/"' in page and (out / f"trials/{one.number:04d}").is_dir()
    for text in (
        "prefers-color-scheme: dark",
        "@media print",
        "max-width: 480px",
        "History",
        "over several seeds",
        "PED-ANOVA",
    ):
        assert text in page, text
    assert not re.search(r'(src|href)="https?:', page) and "<script" not in page
    assert {path.name for path in (out / "pictures").iterdir()} == {"history.png", "importance.png", "values.png"}
    assert results.importance and abs(sum(results.importance.values()) - 1) < 1e-6


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_importance_is_that_of_the_better_trials(direction):
    import optuna

    study = optuna.create_study(direction=direction, sampler=optuna.samplers.RandomSampler(seed=0))
    sign = 1 if direction == "maximize" else -1
    study.optimize(
        lambda one: sign * (-((one.suggest_float("x", -1, 1) - 0.5) ** 2) + 0 * one.suggest_float("y", 0, 1)), 40
    )
    found = search_importance(study)
    assert sum(found.values()) == pytest.approx(1) and found["x"] > 0.8


@pytest.mark.slow
@pytest.mark.ray
def test_trials_run_on_ray(tmp_path, data):
    pytest.importorskip("ray")
    import ray

    ray.init(num_cpus=2, num_gpus=1, log_to_driver=False, configure_logging=False, include_dashboard=False)
    try:
        (data / "meet").touch()
        path = space_file(tmp_path, method="grid", space={"lr": [0.02, 0.01]})
        found = fake_search(path, data, tmp_path / "a", jobs=2, ray=True, gpus_per_trial=0.5, cpus_per_trial=1)
        assert len(found.complete) == 2  # at the same time, on one GPU
        assert [(tmp_path / f"a/trials/000{number}/starts").read_text() for number in (0, 1)] == ["1 0\n"] * 2
        (data / "meet").unlink()
        (data / "block").write_text("0.4")
        path = space_file(
            tmp_path,
            method="grid",
            pruner="median",
            space={"lr": [0.02, 0.01, 0.03, 0.5]},
            options={"network": "r3d_18", "epochs": 6},
        )
        found = fake_search(path, data, tmp_path / "b", ray=True, cpus_per_trial=1)
        assert [one.state for one in found.trials] == ["complete"] * 3 + ["pruned"]
        process = int((tmp_path / "b/trials/0003/blocked").read_text())
        assert has_ended(process)
        with pytest.raises(
            ValueError, match=r"--cpus-per-trial 99: no machine of the Ray cluster has more than 2 CPUs"
        ):
            fake_search(path, data, tmp_path / "c", ray=True, cpus_per_trial=99)
    finally:
        ray.shutdown()


def test_a_task_of_ray_that_misses_its_cancellation_is_ended(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from vidseg.search import ray_trials

    def deaf(launch):
        process, ended = LocalProcess(launch), False
        while not ended:
            try:
                (tmp_path / "started").write_text(str(process._process.pid))
                time.sleep(0.1)
                ended = process.poll() is not None
            except KeyboardInterrupt:
                pass

    monkeypatch.setattr(ray_trials, "_PATIENCE", 3.0)
    ray.init(num_cpus=1, log_to_driver=False, configure_logging=False, include_dashboard=False)
    try:
        cluster = RayCluster(threads=1, gpus=0)
        cluster._task = ray.remote(num_cpus=1)(deaf)
        process = cluster.start(
            Launch((sys.executable, "-c", "import signal; signal.pause()"), str(tmp_path / "log"), 1)
        )
        started = tmp_path / "started"
        while not (number := started.read_text() if started.is_file() else ""):
            time.sleep(0.1)
        process.stop()
        assert process.poll() == -signal.SIGTERM and has_ended(int(number))
    finally:
        ray.shutdown()


# --- the command, with real training


@pytest.mark.slow
def test_the_command_killed_and_continued(tmp_path, capsys):
    data = segmentation_dataset(tmp_path / "data")
    content = {
        "program": "segmentation",
        "options": {
            "epochs": 30, "splits": ["split1"], "validation-share": 0.5, "pictures": False,
            "network-option.layers": 2, "network-option.maps": 4,
        },
        "space": {"lr": {"low": 1e-3, "high": 1e-1, "log": True}, "network-option.dropout": [0.1, 0.3]},
        "objectives": "acc",
    }  # fmt: skip
    path, out = tmp_path / "space.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(content))
    words = ["search", str(path), str(data), "--trials", "2", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "vidseg.cli.main", *words], stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_for(out / "trials/0001/split1/validation.csv")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = read_results(out).trials[0]
    assert first.state == "complete"
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["state"] for one in found["trials"]] == ["complete"] * 2 and found["report"] == str(out / "report.html")
    assert found["trials"][0] == {**found["trials"][0], "objectives": first.objectives, "seconds": first.seconds}
    record = json.loads((out / "trials/0001/trial.json").read_text())
    command, folder = record["command"].split(), out / "trials/0001"
    assert command[:3] == [f"OMP_NUM_THREADS={record['threads']}", "vidseg", "train"]
    again = subprocess.run(
        [sys.executable, "-m", "vidseg.cli.main", *command[2:]],
        env={**os.environ, "OMP_NUM_THREADS": str(record["threads"])},
        capture_output=True,
    )
    assert again.returncode == 0
    tables = [run / "split1/validation.csv" for run in (folder, Path(f"{folder}_again"))]
    assert tables[0].read_text() == tables[1].read_text()
