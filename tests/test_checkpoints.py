"""Checkpoints: whole or not there, everything in them; killed anywhere and resumed, a run ends with the same bits."""

import json
import multiprocessing
import os
import signal

import pytest
import torch
from test_engine import Batches, linear, rows
from trained import ShuffledClips, train, train_and_die, train_and_die_writing

from vidseg.engine import CheckpointOptions, OptimizerOptions, ScheduleOptions, Trainer
from vidseg.engine.checkpoints import CheckpointFolder, read_checkpoint, save_checkpoint


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")  # forks a process that has imported torch and computed nothing
    context.set_forkserver_preload(["trained"])
    return context


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    train(out)
    return read_checkpoint(out / "net_ep-0002.pth"), rows(out / "train_results_s0001.csv")


def die(processes, target, *arguments):
    process = processes.Process(target=target, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def assert_same_end(out, undisturbed):
    expected, table = undisturbed
    found = read_checkpoint(out / "net_ep-0002.pth")
    assert (found["epoch"], found["batch"], found["best"]) == (2, 0, expected["best"])
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    for key, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][key], value), key
    momenta = [state["optimizer"]["state"] for state in (found, expected)]
    for number, state in momenta[1].items():
        assert torch.equal(momenta[0][number]["momentum_buffer"], state["momentum_buffer"])
    tables = [row for path in sorted(out.glob("train_results_s*.csv")) for row in rows(path)]
    assert tables[-1] == table[-1]  # of the whole epoch, what came before the kill included
    assert not [path for path in out.iterdir() if path.name.startswith(".") and str(os.getpid()) in path.name]


@pytest.mark.parametrize(
    "at, stateful", [((0, 0), True), ((0, 1), True), ((1, 0), True), ((1, 3), True), ((1, 2), False)]
)
def test_killed_at_a_batch_and_resumed(processes, undisturbed, tmp_path, at, stateful):
    die(processes, train_and_die, tmp_path, at, stateful)
    assert (tmp_path / "net_last.pth").is_file() == (at != (0, 0))
    loader = ShuffledClips(stateful=stateful)
    train(tmp_path, loader=loader)
    assert_same_end(tmp_path, undisturbed)
    # a loader that knows where it stands makes only what is left (and one batch for precise norms in each epoch)
    left, precise = 8 - (4 * at[0] + at[1]), 2 - at[0]
    assert loader.made == left + precise + (0 if stateful else at[1])


def test_killed_while_writing_a_checkpoint(processes, undisturbed, tmp_path):
    die(processes, train_and_die_writing, tmp_path, 2)
    assert [path.name for path in tmp_path.glob(".*")]  # half a file, under another name
    assert read_checkpoint(tmp_path / "net_last.pth")["batch"] == 2
    train(tmp_path)
    assert_same_end(tmp_path, undisturbed)
    assert not list(tmp_path.glob(".net*"))


def test_more_epochs_later(tmp_path):
    """A finished run goes on; another schedule's rates apply from there."""
    schedule = ScheduleOptions(lr=0.1, lr_steps=(1,))
    first, second = linear(), linear()
    Trainer(first, Batches(), schedule=schedule).fit(2, tmp_path / "one")
    Trainer(second, Batches(), schedule=schedule).fit(1, tmp_path / "two")
    third = linear()
    loader = Batches()
    Trainer(third, loader, schedule=schedule).fit(2, tmp_path / "two", resume=True)
    assert loader.epochs[-1] == 1 and torch.equal(first[2].weight, third[2].weight)
    assert [row[0] for row in rows(tmp_path / "two/train_results_s0001.csv")] == [1]
    Trainer(third, Batches(), schedule=schedule).fit(2, tmp_path / "two", resume=True)  # nothing left to do
    with pytest.raises(ValueError, match="past the end of this run of 1 epochs"):
        Trainer(third, Batches(), schedule=schedule).fit(1, tmp_path / "two", resume=True)


def test_checkpoints_only_between_steps(tmp_path, monkeypatch):
    """With accumulation a checkpoint in the middle of a step would lose its gradients."""
    saved = []
    monkeypatch.setattr(CheckpointFolder, "save", lambda self, content, **_: saved.append(content["batch"]))
    options = OptimizerOptions(accumulate=2)
    Trainer(linear(), Batches(5), optimizer=options, checkpoints=CheckpointOptions(checkpoint_every=1)).fit(1, tmp_path)
    assert saved == [2, 4, 0]


def test_everything_is_in_it_and_plain(tmp_path):
    record = {"options": {"lr_steps": [1, 2]}, "classes": ["a", "b", "c"]}
    trainer = Trainer(linear(), Batches(), opt_level="O1", seed=9, validation=Batches(1))
    trainer.fit(1, tmp_path, record=record)
    content = torch.load(tmp_path / "model_ep-0001.pth", weights_only=True)
    assert content["record"] == record and content["random"] == {"seed": 9}
    assert content["scaler"]["scale"] == 65536 and content["epoch"] == 1 and content["best"] > 0
    assert content["schedule"]["lr"] == 0.1 and content["schedule"]["epochs"] == 1
    assert content["optimizer"]["param_groups"][0]["weight_decay"] == 1e-4


def test_the_last_few_are_kept_and_the_best(tmp_path):
    options = CheckpointOptions(keep=2)
    Trainer(linear(), Batches(), validation=Batches(2), checkpoints=options).fit(4, tmp_path)
    names = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert names == ["model_best.pth", "model_ep-0003.pth", "model_ep-0004.pth", "model_last.pth"]
    best = max(range(4), key=lambda epoch: (rows(tmp_path / "val_results_s0001.csv")[epoch][1], -epoch))
    assert read_checkpoint(tmp_path / "model_best.pth")["epoch"] == best + 1
    assert (tmp_path / "model_last.pth").samefile(tmp_path / "model_ep-0004.pth")  # written once


def test_a_copy_where_the_disk_has_no_links(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    CheckpointFolder(tmp_path, "net").save({"epoch": 3, "x": torch.ones(2)}, numbered=True, best=True)
    for name in ("net_ep-0003.pth", "net_best.pth", "net_last.pth"):
        assert torch.load(tmp_path / name, weights_only=True)["x"].tolist() == [1, 1]
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_is_left_of_a_failed_write(tmp_path):
    save_checkpoint(tmp_path / "a.pth", {"epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path / "a.pth", {"epoch": lambda: 1})
    assert torch.load(tmp_path / "a.pth", weights_only=True) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_what_cannot_be_resumed_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "x.pth")
    torch.save({"state_dict": {}}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="has no epoch, optimizer; its weights may serve as --pretrained-3d"):
        Trainer(linear(), Batches()).fit(1, tmp_path, resume=tmp_path / "weights.pth")
    Trainer(linear(), Batches()).fit(1, tmp_path)
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    with pytest.raises(ValueError, match="not of this network"):
        Trainer(other, Batches()).fit(2, tmp_path, resume=True)


def test_found_checkpoints_are_ordered_by_number(tmp_path):
    folder = CheckpointFolder(tmp_path, "net.v2")
    for name in ("net.v2_ep-10000.pth", "net.v2_ep-0009.pth", "netxv2_ep-0001.pth", "net.v2_ep-0010.pth.txt"):
        (tmp_path / name).write_text("")
    assert [path.name for path in folder.found()] == ["net.v2_ep-0009.pth", "net.v2_ep-10000.pth"]
    assert folder.newest().name == "net.v2_ep-10000.pth"
    assert json.dumps(str(folder.last)).endswith('net.v2_last.pth"')
