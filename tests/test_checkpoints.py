"""Checkpoints: whole or not there, everything in them; killed anywhere and resumed, a run ends with the same bits."""

import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from trained import ShuffledClips, train, train_and_die, train_and_die_writing
from training_batches import Batches, linear, rows

import vidseg
from vidseg.engine import CheckpointOptions, OptimizerOptions, ScheduleOptions, Trainer
from vidseg.engine.checkpoints import CheckpointFolder, read_checkpoint, save_checkpoint
from vidseg.models import create_model, read_state


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


@pytest.mark.slow
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


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_stopped_between_the_names_of_one_checkpoint(tmp_path, monkeypatch, stop):
    """The checkpoint of the first epoch is the numbered, the best and the last one; a resumed run has all three."""
    replace, calls = Path.replace, []

    def stopping(path, target):
        calls.append(target)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, epochs=1, every=None)
    monkeypatch.undo()
    train(tmp_path, epochs=1, every=None)
    found = [read_checkpoint(tmp_path / f"net_{name}.pth") for name in ("ep-0001", "best", "last")]
    assert [content["epoch"] for content in found] == [1, 1, 1]
    assert len({path.stat().st_ino for path in tmp_path.glob("net_*.pth")}) == 1


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


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path):
    path = tmp_path / "net_last.pth"
    save_checkpoint(path, {"epoch": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # stands for a full disk
    try:
        with pytest.raises(OSError, match=r"File too large; checkpoints of earlier steps are unchanged") as caught:
            save_checkpoint(path, {"epoch": 2, "state_dict": {"w": torch.zeros(10_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [path] and torch.load(path) == {"epoch": 1}


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


class NanGradient(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(context, values):
        return values.clone()

    @staticmethod
    def backward(context, gradient):
        return torch.full_like(gradient, torch.nan)


class Breaking(torch.nn.Module):
    """A network whose gradient is NaN in forward call number `at` of training, or whose validation loss is."""

    def __init__(self, at: int = -1, validation_at: int = -1):
        super().__init__()
        self.network, self.at, self.validation_at = linear(), at, validation_at
        self.calls = self.validations = 0

    def forward(self, clips):
        scores = self.network(clips)
        if not self.training:
            self.validations += 1
            return scores * torch.nan if self.validations - 1 == self.validation_at else scores
        self.calls += 1
        return NanGradient.apply(scores) if self.calls - 1 == self.at else scores


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_nan_gradient_in_the_last_batch_is_not_saved(tmp_path, validated, epoch):
    batches = len(Batches())
    model = Breaking(batches * epoch + batches - 1)
    trainer = Trainer(model, Batches(), validation=Batches(1) if validated else None)
    with pytest.raises(RuntimeError, match=rf"epoch {epoch + 1}, batch {batches - 1}: .*weight is not finite"):
        trainer.fit(3, tmp_path)
    names = {path.name for path in tmp_path.glob("*.pth")}
    kept = {"model_last.pth", *(["model_best.pth"] if validated else [])}
    assert names == (set() if epoch == 0 else {"model_ep-0001.pth", *kept})
    for name in names:
        content = read_checkpoint(tmp_path / name)
        assert content["epoch"] == 1
        assert all(value.isfinite().all() for value in content["state_dict"].values())


def test_a_nan_gradient_before_a_checkpoint_inside_an_epoch(tmp_path):
    trainer = Trainer(Breaking(3), Batches(8), checkpoints=CheckpointOptions(checkpoint_every=2))
    with pytest.raises(RuntimeError, match="epoch 1, batch 3: "):
        trainer.fit(1, tmp_path)
    assert read_checkpoint(tmp_path / "model_last.pth")["batch"] == 2


def test_a_validation_loss_that_is_not_finite_ends_the_run(tmp_path):
    trainer = Trainer(Breaking(validation_at=3), Batches(), validation=Batches(2))  # batch 1 of the second evaluation
    with pytest.raises(RuntimeError, match=r"epoch 2, validation batch 1: the validation loss is nan.*learning rate"):
        trainer.fit(3, tmp_path)
    assert read_checkpoint(tmp_path / "model_best.pth")["epoch"] == 1
    assert read_checkpoint(tmp_path / "model_last.pth")["epoch"] == 1
    assert len(rows(tmp_path / "val_results_s0001.csv")) == 1


def test_weights_are_checked_by_the_writer(tmp_path):
    mask = torch.tensor([0.0, -torch.inf])
    good = {"weight": torch.ones(2), "mask": mask, "count": torch.tensor(3)}
    save_checkpoint(tmp_path / "a.pth", {"epoch": 1, "state_dict": good})
    stored = (tmp_path / "a.pth").read_bytes()
    for wrong in (torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf]), torch.tensor([1.0, -torch.inf])):
        for part in ("state_dict", "trained"):
            with pytest.raises(ValueError, match="weight is not finite"):
                save_checkpoint(tmp_path / "a.pth", {"epoch": 2, "state_dict": good} | {part: {"weight": wrong}})
    assert (tmp_path / "a.pth").read_bytes() == stored
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "model.pth"
    content = {"epoch": 1, "optimizer": {}, "state_dict": {"weight": torch.arange(5000.0)}}
    save_checkpoint(path, content)
    return path


READERS = {"checkpoint": read_checkpoint, "weights": read_state}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_damaged_bytes_are_found(tmp_path, checkpoint, reader):
    """Bits flipped anywhere, also in the tensors, which torch.load alone reads without an error."""
    stored, expected = checkpoint.read_bytes(), torch.arange(5000.0)
    path = tmp_path / "model.pth"
    found, silent = 0, 0
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(len(stored), (150,), generator=generator).tolist():
        data = bytearray(stored)
        data[place] ^= 0x40
        path.write_bytes(data)
        try:
            content = reader(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
            found += 1
        else:  # padding, or the time of a record
            assert torch.equal(content.get("state_dict", content)["weight"], expected)
            silent += 1
    assert found > 100
    assert silent < 50


@pytest.mark.parametrize("length", [0, 1, 100, 4000, 10000, -1, -100])
def test_truncated_files_and_other_files_give_one_sentence(tmp_path, checkpoint, length):
    path = tmp_path / "model.pth"
    stored = checkpoint.read_bytes()
    for data in (
        stored[:length],
        os.urandom(max(length, 0)),
        b"\0" * max(length, 0),
        stored[:2000] + bytes(len(stored)),
    ):
        path.write_bytes(data)
        for reader in READERS.values():
            with pytest.raises(ValueError) as raised:
                reader(path)
            assert str(raised.value).startswith(f"{path}: ")
            assert "\n" not in str(raised.value)


def test_old_files_and_files_without_checksums_are_read(tmp_path):
    state = {"weight": torch.arange(100.0)}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "bare.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    for name in ("old.pth", "bare.pth"):
        assert torch.equal(read_state(tmp_path / name)["weight"], state["weight"])


class Payload:
    def __reduce__(self):
        return os.mkdir, ("payload-ran",)


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        torch.save({"state_dict": Payload()}, "x.pth", _use_new_zipfile_serialization=zipped)
        for reader in READERS.values():
            with pytest.raises(ValueError, match="could run code"):
                reader("x.pth")
    assert not (tmp_path / "payload-ran").exists()


RECORD = {
    "task": "segmentation",
    "network": "mstcn",
    "network_options": {"in_features": 4, "stages": 1, "layers": 1, "maps": 2},
    "input": {"modality": "features"},
    "classes": ["run", "jump"],
    "division": "",
    "validation_videos": [],
    "data": "data",
    "options": {},
}


@pytest.fixture
def run(tmp_path):
    """A small run: its record, and a checkpoint of its network."""
    model = create_model("mstcn", num_classes=2, **RECORD["network_options"])
    content = {"epoch": 1, "optimizer": {}, "state_dict": model.state_dict(), "record": RECORD}
    save_checkpoint(tmp_path / "mstcn_last.pth", content)
    (tmp_path / "options.json").write_text(json.dumps(RECORD))
    assert vidseg.load_trained(tmp_path).classes == ["run", "jump"]
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "not the record of a run, but NoneType"),
        ({"classes": None}, "classes is None, expected a list"),
        ({"classes": ["run", 3]}, "classes has 3, expected names"),
        ({"network": {}}, "network is {}, expected a text"),
        ({"network_options": []}, r"network_options is \[\], expected a mapping"),
        ({"options": "none"}, "options is 'none', expected a mapping"),
        ({"input": {"frames": "many"}}, "frames='many' must be an integer"),
        ({"network_options": {"in_features": 4, "width": 3}}, "cannot make the network mstcn .* no option 'width'"),
        ({"network": "../other"}, "network is '../other', which is not a name"),
        ({"task": "x" * 70_000}, "task is 'x+, which is not a name"),
        ({"network_options": {"in_features": 1 << 21}}, "much larger than the file"),
        ({"network_options": {"in_features": 4, "stages": 1 << 20}}, "much larger than the file"),
    ],
)
def test_records_from_elsewhere(run, change, message):
    """Of a run, and in a checkpoint alone: the message names the file, and no large network is made."""
    record = None if change is None else {**RECORD, **change}
    (run / "options.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message) as caught:
        vidseg.load_trained(run)
    assert str(run) in str(caught.value)
    if record is not None:
        content = {**read_checkpoint(run / "mstcn_last.pth"), "record": record}
        save_checkpoint(run / "other.pth", content)
        with pytest.raises(ValueError, match=message) as caught:
            vidseg.load_trained(run / "other.pth")
        assert str(run / "other.pth") in str(caught.value)


def test_a_record_that_is_not_json(run):
    (run / "options.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"options\.json: not valid JSON"):
        vidseg.load_trained(run)


def test_a_zip_file_with_a_wrong_directory(tmp_path, checkpoint):
    """Without its first bytes, records begin before the file does; zipfile raises an OSError."""
    data = checkpoint.read_bytes()
    (tmp_path / "a.pth").write_bytes(data[:64] + data[256:])
    for reader in READERS.values():
        with pytest.raises(ValueError, match=r"a\.pth: the file is damaged"):
            reader(tmp_path / "a.pth")
