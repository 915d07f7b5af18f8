"""NVIDIA apex where it is asked for: the same training as torch's, resuming, and what is said where it is missing."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from test_engine_precision import Clips, small
from training_batches import Batches, constant, linear, rows

from vidseg.engine import DeviceOptions, OptimizerOptions, Trainer
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.engine.options import options_from
from vidseg.engine.precision import make_precision
from vidseg.tasks.recognition.options import RecognitionOptions
from vidseg.tasks.recognition.runs import train_recognition

CPU = torch.device("cpu")


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "apex"]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def apex(monkeypatch):
    """A fresh stand-in for apex on the path; the tests' folder has its source."""
    forget()
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fake_apex"))
    yield importlib.import_module("apex.amp"), importlib.import_module("apex.optimizers")
    forget()


@pytest.fixture
def other_apex(monkeypatch, tmp_path):
    """A function that puts a package `apex` of given files on the path."""

    def put(**files: str) -> None:
        folder = tmp_path / "path/apex"
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        forget()
        monkeypatch.syspath_prepend(str(folder.parent))

    yield put
    forget()


def train(out: Path, *, epochs: int = 2, amp: str = "torch", level: str = "O0", **options) -> Trainer:
    resume = options.pop("resume", False)
    trainer = Trainer(
        small(),
        Clips(),
        opt_level=level,
        schedule=constant(0.02),
        devices=DeviceOptions(amp=amp),
        optimizer=OptimizerOptions(**options),
    )
    trainer.fit(epochs, out, resume=resume)
    return trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return trainer.model.state_dict()


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "clip_norm": 0.1}, {"optimizer": "adamw"}], ids=str)
@pytest.mark.parametrize("level", ["O0", "O1"])
def test_mixed_precision_of_apex_trains_alike(tmp_path, caplog, apex, level, options):
    """The stand-in scales and does not cast, and a scale that is a power of two rounds nothing."""
    caplog.set_level("INFO", "vidseg")
    found, expected = train(tmp_path / "apex", amp="apex", level=level, **options), train(tmp_path / "torch", **options)
    for name, value in weights(expected).items():
        assert torch.allclose(weights(found)[name], value, rtol=1e-5, atol=1e-7), name
    scores = [torch.tensor(rows(tmp_path / name / "train_results_s0001.csv")) for name in ("apex", "torch")]
    assert torch.allclose(*scores)
    assert apex[0].calls == [level] + 4 * ["scale_loss"]
    assert ("scale = 65536" in caplog.text) == (level == "O1")


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizers_of_apex_step_alike(tmp_path, apex, optimizer):
    found = train(tmp_path / "apex", optimizer=optimizer, implementation="apex", weight_decay=0.1)
    expected = train(tmp_path / "torch", optimizer=optimizer, implementation="torch", weight_decay=0.1)
    assert apex[1].made == [found.optimizer]
    assert all(torch.equal(weights(found)[name], value) for name, value in weights(expected).items())


def test_both_together_go_on_where_they_stopped(tmp_path, apex):
    options = {"amp": "apex", "level": "O1", "implementation": "apex", "clip_norm": 1.0}
    whole = train(tmp_path / "whole", epochs=3, **options)
    train(tmp_path / "parts", epochs=1, **options)
    saved = read_checkpoint(tmp_path / "parts/model_last.pth")["scaler"]
    assert saved == {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 2}}
    apex[0].calls.clear()
    parts = train(tmp_path / "parts", epochs=3, resume=True, **options)
    assert apex[0].calls[:2] == ["O1", "load_state_dict"]
    assert all(torch.equal(weights(parts)[name], value) for name, value in weights(whole).items())
    assert apex[0].state_dict()["loss_scaler0"]["unskipped"] == 6


@pytest.mark.parametrize("first, second", [("torch", "apex"), ("apex", "torch")])
def test_a_run_can_go_on_with_the_other(tmp_path, apex, first, second):
    """The loss scale is then a fresh one."""
    train(tmp_path, epochs=1, amp=first, level="O1")
    trainer = train(tmp_path, epochs=2, amp=second, level="O1", resume=True)
    assert trainer.precision.scale().item() == 65536


def test_an_overflow_leaves_its_step_out(apex):
    model = linear(dropout=0)
    precision = make_precision("O1", CPU, amp="apex")
    optimizer = torch.optim.SGD(precision.prepare(model, [{"params": list(model.parameters())}]), lr=0.5)
    precision.attach(model, optimizer)
    before = model[2].weight.detach().clone()
    precision.backward(model[2].weight.sum() * float("inf"))
    precision.step(model, optimizer, clip_norm=None)
    assert torch.equal(model[2].weight, before) and precision.scale().item() == 32768
    precision.backward(model[2].weight.sum() * 1e-4)
    norm = precision.step(model, optimizer, clip_norm=1.0)
    assert norm.item() == pytest.approx(1e-4 * 6)  # of the true gradient
    assert torch.allclose(model[2].weight, before - 0.5e-4)
    with pytest.raises(RuntimeError, match="not finite at a loss scale of 1e-06"):
        precision.check_scale(1e-6)


# What is missing


def test_without_apex_nothing_is_begun(tmp_path):
    forget()
    for values, message in (
        ({"amp": "apex"}, r"amp='apex' needs an NVIDIA apex with `amp`.*No module named 'apex'.*amp='torch'"),
        ({"implementation": "apex"}, r"implementation='apex' needs NVIDIA apex.*No module named 'apex'.*'fused'"),
    ):
        with pytest.raises(ImportError, match=message):
            given = {"dataset": str(tmp_path / "none"), "out": str(tmp_path / "run"), **values}
            train_recognition(options_from(given, defaults=RecognitionOptions()))
        assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="bf16 needs amp='torch'"):
        DeviceOptions(amp="apex", opt_level="bf16")
    with pytest.raises(ValueError, match="bf16 is torch's"):
        make_precision("bf16", CPU, amp="apex")


@pytest.mark.parametrize(
    "files, said",
    [
        ({}, "No module named 'apex.amp'"),
        ({"amp": "from torch._six import string_classes"}, "torch._six"),
        ({"amp": "def initialize(): ..."}, "scale_loss"),
    ],
    ids=["of today", "too old", "another apex"],
)
def test_an_apex_without_amp(other_apex, files, said):
    other_apex(**files)
    with pytest.raises(ImportError, match=rf"removed from it in May 2025 \(.*{said}"):
        make_precision("O1", CPU, amp="apex")


@pytest.mark.parametrize(
    "text, said",
    [
        ("def FusedSGD(*_, **__):\n    raise RuntimeError('requires cuda extensions')", "cuda"),
        ("class FusedAdam: ...", "FusedSGD"),
    ],
    ids=["without extensions", "without the class"],
)
def test_an_apex_without_its_optimizers(other_apex, text, said):
    other_apex(optimizers=text)
    with pytest.raises(ImportError, match=f"CUDA extensions .*{said}.*implementation='fused'"):
        Trainer(linear(), Batches(), optimizer=OptimizerOptions(implementation="apex"))
