"""What the training loop gives to segmentation: resuming bit by bit, accumulation, averages, steps, logs."""

import copy
import csv
import multiprocessing
import random
import signal

import pytest
import torch
from segmentation_data import SIZE, segmentation_dataset
from streams import train_features_and_die
from torch import Tensor, nn

import vidseg
from vidseg.engine import (
    CheckpointOptions,
    DeviceOptions,
    EvaluationOptions,
    MonitorOptions,
    OptimizerOptions,
    ScheduleOptions,
    Trainer,
)
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.engine.published_recipe import Recipe
from vidseg.engine.task import Position
from vidseg.labels import open_dataset
from vidseg.loaders import FeatureLoader
from vidseg.losses import StagedLoss, register_loss
from vidseg.losses import _registry as losses
from vidseg.models import _registry, create_model, register_model
from vidseg.models._segmentation import SegmentationOutput
from vidseg.tasks.segmentation.cross_validation import cross_validate
from vidseg.tasks.segmentation.recipes import RECIPES, recipe_options
from vidseg.tasks.segmentation.task import SegmentationTask


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return segmentation_dataset(tmp_path_factory.mktemp("data") / "gtea")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Killed and resumed


def options(root, out, **chosen):
    """DiffAct draws noise in training and in evaluation; three training videos, a checkpoint after each step."""
    small = ("encoder_layers=3", "condition_layers=(1,2)", "decoder_layers=2", "encoder_maps=16", "sampling_steps=3")
    values = {"epochs": 2, "test_every": 1, "pictures": False, "device": "cpu", "validation_share": 0.25}
    values |= {"splits": ("split1",), "accumulate": 1, "ema": 0.5, "checkpoint_every": 1, "lr": 0.01}
    return recipe_options("gtea", "diffact", dataset=str(root), out=str(out), network_option=small, **(values | chosen))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the process that is killed: sums of several threads have other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory, one_thread):
    out = tmp_path_factory.mktemp("undisturbed")
    cross_validate(options(root, out))
    return out / "split1"


AT = [(0, 0), *sorted(random.Random(1).sample([(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)], 3))]


@pytest.mark.slow
@pytest.mark.parametrize("at", AT)
def test_killed_at_a_batch_and_resumed(root, undisturbed, tmp_path, at):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["streams"])
    process = context.Process(target=train_features_and_die, args=(options(root, tmp_path), at))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    run = tmp_path / "split1"
    saved = read_checkpoint(run / "diffact_last.pth") if at != (0, 0) else {"epoch": 0, "batch": 0}
    assert (saved["epoch"], saved["batch"]) == at
    cross_validate(options(root, tmp_path, resume=True))
    found, expected = (read_checkpoint(folder / "diffact_last.pth") for folder in (run, undisturbed))
    for entry in ("state_dict", "trained"):
        assert found[entry].keys() == expected[entry].keys()
        for name, value in expected[entry].items():
            assert torch.equal(found[entry][name], value), (entry, name)
    for state, other in zip(found["optimizer"]["state"].values(), expected["optimizer"]["state"].values(), strict=True):
        assert torch.equal(state["exp_avg_sq"], other["exp_avg_sq"])
    for name in ("test.json", "validation.csv"):
        assert (run / name).read_text() == (undisturbed / name).read_text()
    assert rows(sorted(run.glob("train_results_s*.csv"))[-1])[-1] == rows(undisturbed / "train_results_s0001.csv")[-1]


# What every task has


class Columns(nn.Module):
    """Labels each column by its values, behind a batch norm."""

    def __init__(self, num_classes: int = 4, in_features: int = SIZE, norm: bool = True):
        super().__init__()
        self.in_features, self.num_classes = in_features, num_classes
        self.norm = nn.BatchNorm1d(in_features) if norm else nn.Identity()
        self.classifier = nn.Conv1d(in_features, num_classes, 1)

    def forward(self, features, mask=None):
        return SegmentationOutput(self.classifier(self.norm(features))[None])


def loaders(root):
    train, validation = (open_dataset(root, f"split1/{part}") for part in ("train", "test"))
    return FeatureLoader(train, batch_size=1, seed=1), FeatureLoader(validation, batch_size=1, train=False)


def make_trainer(root, *, model=None, optimizer=None, **trainer):
    torch.manual_seed(0)
    model = Columns() if model is None else model
    loader, validation = loaders(root)
    given = OptimizerOptions(momentum=0.0, weight_decay=0.0, **(optimizer or {}))
    schedule = ScheduleOptions(lr=0.1)
    named = {"task": "segmentation", "validation": validation, "optimizer": given, "schedule": schedule} | trainer
    return Trainer(model, loader, device="cpu", **named)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def test_batches_are_accumulated_and_clipped(root, tmp_path):
    """Four videos: three make a step, the last one another."""
    trainer, moved = make_trainer(root, optimizer={"accumulate": 3, "frozen_norms": True}), []
    before = flat(trainer.model)
    trainer.optimizer.register_step_post_hook(lambda *_: moved.append(flat(trainer.model)))
    trainer.fit(1, tmp_path / "free")
    assert len(moved) == 2
    torch.manual_seed(0)
    model, task = Columns().eval(), SegmentationTask(StagedLoss(num_classes=4))
    for number, batch in enumerate(loaders(root)[0]):
        if number < 3:
            task.train_batch(model, batch, Position(0, 0, number), lambda loss: (loss / 3).backward())
    gradient = torch.cat([value.grad.flatten() for value in model.parameters()])
    assert torch.allclose(before - 0.1 * gradient, moved[0], atol=1e-6)
    clipped = make_trainer(root, optimizer={"accumulate": 4, "clip_norm": 1e-3})
    clipped.fit(1, tmp_path / "clipped")
    assert 0 < (flat(clipped.model) - before).norm() <= 1.01e-4


def test_a_moving_average_is_evaluated_and_saved(root, tmp_path):
    trainer = make_trainer(root, optimizer={"ema": 0.9})
    weights, states = copy.deepcopy(trainer.model.state_dict()), []
    trainer.optimizer.register_step_post_hook(lambda *_: states.append(copy.deepcopy(trainer.model.state_dict())))
    result = trainer.fit(1, tmp_path)
    for number, state in enumerate(states, 1):
        decay = min(0.9, (1 + number) / (10 + number))
        weights = {key: decay * value + (1 - decay) * state[key] for key, value in weights.items()}
    saved = read_checkpoint(tmp_path / "model_last.pth")["state_dict"]
    for name in ("classifier.weight", "norm.running_var"):
        assert torch.allclose(saved[name], weights[name], atol=1e-6)
    averaged = Columns()
    averaged.load_state_dict(saved)
    assert trainer.task.evaluate(averaged, loaders(root)[1]).values == result.values
    assert trainer.task.evaluate(trainer.model, loaders(root)[1]).values != result.values


def test_the_run_ends_after_so_many_steps(root, tmp_path):
    trainer, steps = make_trainer(root, evaluation=EvaluationOptions(test_every_steps=3)), []
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    trainer.fit(out=tmp_path, max_steps=7)
    assert len(steps) == 7 and len(rows(tmp_path / "train_results_s0001.csv")) == 2
    # Step 3 of epoch 1, its end, step 6 of epoch 2, and the end.
    assert [row["Epoch"] for row in rows(tmp_path / "val_results_s0001.csv")] == ["1", "1", "2", "2"]


def test_options_reach_a_run(root, tmp_path):
    chosen = options(root, tmp_path, max_steps=4, test_every_steps=2, tensorboard=True, precise_bn=0, keep=1, epochs=9)
    cross_validate(chosen)
    run = tmp_path / "split1"
    assert read_checkpoint(run / "diffact_last.pth")["steps"] == 4 and (run / "tensorboard").is_dir()
    assert [row["Epoch"] for row in rows(run / "validation.csv")] == ["1", "2"]
    assert len(rows(run / "val_results_s0001.csv")) == 3


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_precise_norms_are_means_over_videos(root, tmp_path, ema):
    """Evaluated and saved, also with averaged weights."""
    trainer = make_trainer(root, optimizer={"ema": ema}, evaluation=EvaluationOptions(precise_bn=3))
    result = trainer.fit(1, tmp_path)
    videos = [batch.features[0] for batch in loaders(root)[0]][:3]
    expected = torch.stack([values.mean(dim=1) for values in videos]).mean(dim=0)
    model = Columns()
    model.load_state_dict(read_checkpoint(tmp_path / "model_best.pth")["state_dict"])
    assert torch.allclose(model.norm.running_mean, expected, atol=1e-6)
    assert trainer.task.evaluate(model, loaders(root)[1]).values == result.values


def test_a_network_is_added_with_a_loss_and_a_recipe(root, tmp_path, monkeypatch):
    monkeypatch.setattr("vidseg.models._registry._ENTRIES", dict(_registry._ENTRIES))
    monkeypatch.setattr("vidseg.losses._registry._LOSSES", dict(losses._LOSSES))
    monkeypatch.setitem(RECIPES["gtea"], "columns", Recipe({"lr": 0.02, "network_option": ("norm=False",)}))
    register_model("columns", Columns, task="segmentation")
    register_loss("columns", StagedLoss)
    chosen = {"validation_share": 0.25, "epochs": 30, "device": "cpu", "splits": ("split1",), "test_every": 10}
    table = cross_validate(recipe_options("gtea", "columns", dataset=str(root), out=str(tmp_path), **chosen))
    assert table.network == "columns" and table.splits[0]["acc"] > 70
    trained = vidseg.load_trained(tmp_path / "split1")
    assert isinstance(trained.model.norm, nn.Identity)
    assert trained.predict(root / "features/S1_Tea_0.npy").labels.max() < 4


def test_tensorboard(root, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    make_trainer(root, monitors=MonitorOptions(tensorboard=True)).fit(2, tmp_path)
    log = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for kind in ("train", "val"):
        for title in ("Acc", "Loss"):
            table = [float(row[title]) for row in rows(tmp_path / f"{kind}_results_s0001.csv")]
            assert [event.value for event in log.Scalars(f"{kind}/{title}")] == pytest.approx(table)
    assert [event.step for event in log.Scalars("iteration/Loss")] == list(range(8))
    assert set(log.Tags()["images"]) == {"segments", "confusion"}  # features have no clips
    assert [event.step for event in log.Images("segments")] == [1, 2] and log.Images("segments")[0].width > 300


def test_compiled_and_recomputed_as_the_network_allows(root, tmp_path, monkeypatch):
    backends, original = [], nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, backend: (backends.append(backend), original(self, backend="eager"))
    )
    small = {"num_classes": 4, "in_features": SIZE, "layers": 2, "maps": 8, "stages": 2, "dropout": 0.0}
    trainers = []
    for number, compile in enumerate((False, True)):
        torch.manual_seed(0)
        model = create_model("mstcn", **small)
        trainers.append(make_trainer(root, model=model, devices=DeviceOptions(compile=compile)))
        trainers[-1].fit(1, tmp_path / str(number))
    assert backends == ["inductor"]
    assert torch.allclose(flat(trainers[0].model), flat(trainers[1].model), atol=1e-5)
    with pytest.raises(ValueError, match="no stages of residual blocks"):
        make_trainer(root, model=create_model("mstcn", **small), devices=DeviceOptions(recompute=True))


def test_checkpoints_only_between_steps(root, tmp_path):
    saved = []
    trainer = make_trainer(
        root, optimizer={"accumulate": 3}, validation=None, checkpoints=CheckpointOptions(checkpoint_every=1)
    )
    save = trainer._save
    trainer._save = lambda progress, *given, **named: (saved.append(progress.batch), save(progress, *given, **named))
    trainer.fit(1, tmp_path)
    assert saved == [3, 0]
