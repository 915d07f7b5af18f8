"""The loop: learning, steps, schedules, precision, evaluation."""

import json
import logging
import re

import pytest
import torch
from golden_vectors import FOLDER
from torch import nn
from torch.nn import functional as F
from training_batches import Batch, Batches, constant, linear, rows

from vidseg.clips.mixing import draw_mixup
from vidseg.engine import (
    CheckpointOptions,
    EvaluationOptions,
    OptimizerOptions,
    Schedule,
    ScheduleOptions,
    Trainer,
)
from vidseg.engine.optimizers import classifier_names, parameter_groups
from vidseg.engine.precise_norm import renew_statistics
from vidseg.engine.schedules import cosine_rate, step_rate
from vidseg.engine.task import Position, means
from vidseg.metrics import class_accuracies, confusion_matrix, fuse_views, mean_class_accuracy, top_k_hits
from vidseg.models import create_model, load_weights
from vidseg.tasks.recognition.evaluation import evaluate
from vidseg.tasks.recognition.task import RecognitionTask

GOLDEN = json.loads((FOLDER / "training_math.json").read_text())


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


# Schedules and scores against recorded values


@pytest.mark.parametrize("case", GOLDEN["lr_schedule"], ids=["cosine", "steps"])
def test_rates_of_iterations(case):
    given = case["params"]
    peak, warmup = given["warmup_lr"], given["warmup_steps"]
    options = ScheduleOptions(
        lr=peak,
        schedule="cosine" if given["type"] == "COSINE" else "steps",
        lr_steps=tuple(given.get("lr_steps", ())),
        lr_factor=(0.1,),
        warmup_epochs=warmup,
        warmup_start=given["base_lr"],
        lr_end=given.get("min_lr", 0.0),
    )
    schedule = Schedule(options, given["max_iter"])
    for iteration, rate in case["points"]:
        assert schedule.rate(iteration) == pytest.approx(rate, rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("case", GOLDEN["lr_schedule_pyslowfast"])
def test_rates_of_fractional_epochs(case):
    given = case["params"]
    options = ScheduleOptions(
        lr=given["BASE_LR"],
        schedule="cosine",
        warmup_epochs=given["WARMUP_EPOCHS"],
        warmup_start=given["WARMUP_START_LR"],
        lr_end=given["COSINE_END_LR"],
        cosine_after_warmup=given["COSINE_AFTER_WARMUP"],
    )
    schedule = Schedule(options, given["MAX_EPOCH"])
    for epoch, rate in case["points"]:
        assert schedule.rate(epoch) == pytest.approx(rate, rel=1e-9)


def test_steps_hold_from_their_epoch_on_and_never_fall_below_the_floor():
    rate = Schedule(ScheduleOptions(lr=0.1, lr_steps=(1, 3)), 9).rate
    assert [rate(at) for at in (0, 0.99, 1, 2.5, 3)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    assert step_rate(9, peak=0.1, steps=[1, 2, 3, 4, 5, 6, 7]) == 1e-6
    assert step_rate(9, peak=1e-7, steps=[1]) == 1e-7
    assert step_rate(2, peak=1.0, steps=[1, 2], factor=[0.5, 0.2]) == pytest.approx(0.1)
    assert cosine_rate(20, peak=1.0, total=10, end=0.25) == 0.25
    with pytest.raises(ValueError, match="longer than the run"):
        Schedule(ScheduleOptions(lr=0.1, warmup_epochs=3), 2)
    with pytest.raises(ValueError, match=r"lr_steps=\(3, 1\) must be in rising order"):
        ScheduleOptions(lr_steps=(3, 1))


@pytest.mark.parametrize("case", GOLDEN["label_smoothing"])
def test_label_smoothing(case):
    class Given(nn.Module):
        def forward(self, _):
            return torch.tensor(case["logits"])

    batch = Batch(torch.zeros(len(case["targets"]), 1), torch.tensor(case["targets"]))
    loss, sums = train_batch(RecognitionTask(label_smoothing=case["epsilon"]), Given(), batch, Position(0, 0, 0))
    assert loss.item() == pytest.approx(case["loss_mean"], rel=1e-5)
    assert means(sums)[2] == pytest.approx(case["loss_mean"], rel=1e-5)


@pytest.mark.parametrize("case", GOLDEN["accuracy"])
def test_accuracies(case):
    scores, labels = torch.tensor(case["scores"]), torch.tensor(case["labels"])
    for k in (1, 2, 5):
        assert top_k_hits(scores, labels, k).double().mean().item() == pytest.approx(case[f"top{k}"])
    confusion = confusion_matrix(labels, scores.argmax(1), scores.shape[1])
    assert confusion.tolist() == case["confusion_matrix_rows_true"]
    shares = class_accuracies(confusion)
    assert shares.isnan().tolist() == [row == 0 for row in confusion.sum(1)]
    assert mean_class_accuracy(confusion) == pytest.approx(case["mean_class_accuracy"])


@pytest.mark.parametrize("case", GOLDEN["view_fusion"])
def test_fusion_of_views(case):
    logits = torch.tensor(case["view_logits"], dtype=torch.float64)
    one = torch.zeros(len(logits), dtype=torch.int64)
    fused = fuse_views(logits, one).softmax(dim=1)[0].tolist()
    assert fused == pytest.approx(case["mean_of_softmax"])
    fused = fuse_views(logits, one, how="logits").softmax(dim=1)[0].tolist()
    assert fused == pytest.approx(case["softmax_of_mean"])
    two = torch.tensor([1, 0, 1, 0])
    assert torch.equal(fuse_views(logits, two)[0], fuse_views(logits[two == 0], one[:2])[0])
    with pytest.raises(ValueError, match="video 1 has no view"):
        fuse_views(logits, one * 2 + torch.tensor([0, 2, 2, 2]))


# The loop


def train_batch(task, model, batch, position):
    """The loss that a task gives to the backward pass, and its sums."""
    losses = []
    result = task.train_batch(model, batch, position, losses.append)
    (loss,) = losses
    return loss, result.sums


def test_fit_learns_and_leaves_its_files(tmp_path, caplog):
    caplog.set_level(logging.INFO, "vidseg")
    batches = Batches()
    schedule = ScheduleOptions(lr=0.5, schedule="cosine", warmup_epochs=1)
    trainer = Trainer(
        linear(),
        batches,
        validation=Batches(2),
        name="net",
        schedule=schedule,
        checkpoints=CheckpointOptions(save_frequency=2),
    )
    result = trainer.fit(5, tmp_path)
    assert batches.epochs == [0, 1, 2, 3, 4]
    assert result.top1 > 0.95 and len(result.labels) == 16
    train, val = rows(tmp_path / "train_results_s0001.csv"), rows(tmp_path / "val_results_s0001.csv")
    assert [row[0] for row in train] == [row[0] for row in val] == [1, 2, 3, 4, 5]
    assert train[-1][3] < train[0][3] / 2
    assert tuple(val[-1][1:]) == result.values
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "events.jsonl",
        *("net_best.pth", "net_ep-0002.pth", "net_ep-0004.pth", "net_ep-0005.pth", "net_last.pth"),
        "train_results_s0001.csv",
        "val_results_s0001.csv",
    ]
    assert load_weights(linear(), tmp_path / "net_ep-0005.pth").missing == ()
    assert "Epoch [5]   time cost: " in caplog.text and "Epoch [5]:  (val)  average top-1 acc: " in caplog.text
    lines = [record.getMessage() for record in caplog.records if "Batch [" in record.getMessage()]
    rates = [float(re.search(r"lr = (\S+),", line)[1]) for line in lines]
    assert len(rates) == 30 and rates[0] == 0 and max(rates) == rates[6] == 0.5 and rates[-1] < 0.01
    # the row of an epoch is the mean of its lines
    losses = [float(re.search(r"loss-ce = (\S+),", line)[1]) for line in lines]
    assert train[1][3] == pytest.approx(sum(losses[6:12]) / 6, abs=1e-5)


def test_averages_weigh_clips_not_batches(tmp_path):
    batches = Batches(2)
    few = batches.batches[1]
    batches.batches[1] = Batch(few.frames[:2], few.labels[:2])
    model = linear(dropout=0)
    expected = F.cross_entropy(
        model(torch.cat([batch.frames for batch in batches])), torch.cat([batch.labels for batch in batches])
    ).item()
    Trainer(model, batches, schedule=constant(1e-9)).fit(1, tmp_path)
    assert rows(tmp_path / "train_results_s0001.csv")[0][3] == pytest.approx(expected, rel=1e-5)


def test_training_is_repeatable_whatever_the_generator_did_before(tmp_path):
    weights = []
    for name in ("one", "two"):
        model = linear()
        torch.manual_seed(len(weights))
        Trainer(model, Batches(), schedule=constant(0.5)).fit(2, tmp_path / name)
        weights.append(model[2].weight)
    assert torch.equal(*weights)
    other = linear()
    Trainer(other, Batches(), schedule=constant(0.5), seed=5).fit(2, tmp_path / "three")
    assert not torch.equal(other[2].weight, weights[0])  # another dropout


def test_one_step_is_nesterov_sgd(tmp_path):
    """Two steps on one batch against the update written out."""
    batches, model = Batches(batches=1), nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False))
    weight, velocity = model[1].weight.detach().clone(), 0
    for lr in (0.1, 0.05):  # half a cosine over two epochs: 1, 1/2
        leaf = weight.clone().requires_grad_()
        F.cross_entropy(batches.batches[0].frames.flatten(1) @ leaf.T, batches.batches[0].labels).backward()
        gradient = leaf.grad + 1e-2 * weight
        velocity = 0.9 * velocity + gradient
        weight = weight - lr * (gradient + 0.9 * velocity)
    Trainer(
        model,
        batches,
        schedule=ScheduleOptions(lr=0.1, schedule="cosine"),
        optimizer=OptimizerOptions(weight_decay=1e-2),
    ).fit(2, tmp_path)
    assert torch.allclose(model[1].weight, weight, atol=1e-6)


def test_accumulation_equals_larger_batches(tmp_path):
    """Five batches of 8 in steps of two: as 16, 16 and 8 clips at once."""
    small, large = Batches(5), Batches(5)
    groups = [large.batches[0:2], large.batches[2:4], large.batches[4:]]
    large.batches = [
        Batch(torch.cat([b.frames for b in group]), torch.cat([b.labels for b in group])) for group in groups
    ]
    models = [linear(dropout=0), linear(dropout=0)]
    Trainer(models[0], small, schedule=constant(0.3), optimizer=OptimizerOptions(accumulate=2)).fit(2, tmp_path / "a")
    Trainer(models[1], large, schedule=constant(0.3)).fit(2, tmp_path / "b")
    assert torch.allclose(models[0][2].weight, models[1][2].weight, atol=1e-6)


def test_clipping_limits_the_step(tmp_path):
    model = linear(dropout=0)
    before = model[2].weight.detach().clone(), model[2].bias.detach().clone()
    options = OptimizerOptions(clip_norm=0.01, momentum=0, weight_decay=0)
    Trainer(model, Batches(1), schedule=constant(1.0), optimizer=options).fit(1, tmp_path)
    moved = torch.cat([(model[2].weight - before[0]).flatten(), model[2].bias - before[1]])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    batches = Batches()
    batches.batches[3].frames[0] = float("nan")
    with pytest.raises(RuntimeError, match=r"epoch 1, batch 3: the loss is nan; try a lower learning rate than 0\.1"):
        Trainer(linear(), batches).fit(1, tmp_path)
    assert not list(tmp_path.glob("*.pth"))


def test_missing_memory_is_explained(tmp_path):
    class Greedy(nn.Linear):
        def forward(self, frames):
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    with pytest.raises(
        RuntimeError, match=r"epoch 1, batch 0: out of memory for an input of \(8, 3, 1, 2, 2\).*--batch-size"
    ):
        Trainer(Greedy(12, 3), Batches()).fit(1, tmp_path)


def test_data_that_do_not_fit_are_refused():
    class Labels:
        def __init__(self, labels):
            self.labels, self.classes = torch.tensor(labels).numpy(), ["a"] * 9

    batches = Batches()
    model = create_model("r3d_18", num_classes=4, width=0.125)
    batches.data = Labels([0, 8])
    with pytest.raises(ValueError, match="has 9 classes, the network has 4 outputs: create it with num_classes=9"):
        Trainer(model, batches)
    batches.data = Labels([0, -1])
    with pytest.raises(ValueError, match="1 video has no class"):
        Trainer(model, batches)
    batches.data = Labels([])
    with pytest.raises(ValueError, match="the split is empty"):
        Trainer(model, batches)
    with pytest.raises(ValueError, match="no batch to train on"):
        Trainer(model, Batches(0))
    with pytest.raises(ValueError, match="task='cooking'"):
        Trainer(model, Batches(), task="cooking")


def test_padding_does_not_count():
    batch = Batches(1).batches[0]
    padded = Batch(
        torch.cat([batch.frames, torch.full_like(batch.frames, 9.0)]),
        torch.cat([batch.labels, batch.labels]),
        valid=torch.arange(16) < 8,
    )
    model = linear(dropout=0)
    loss, sums = train_batch(RecognitionTask(), model, batch, Position(0, 0, 0))
    other_loss, other_sums = train_batch(RecognitionTask(), model, padded, Position(0, 0, 0))
    assert torch.allclose(sums, other_sums) and sums[1].tolist() == [8, 8, 8]
    assert other_loss.item() == pytest.approx(loss.item() / 2)  # every process divides by its rows
    found = evaluate(model, [padded])
    assert found.numbers.tolist() == list(range(8)) and torch.allclose(found.logits, evaluate(model, [batch]).logits)


def test_evaluation_sees_every_clip_once_in_evaluation_mode():
    model = linear().train()
    result = evaluate(model, Batches(3, clips=5))
    assert model.training
    assert result.numbers.tolist() == list(range(15)) and result.logits.shape == (15, 3)
    assert torch.equal(result.logits, evaluate(model, Batches(3, clips=5)).logits)  # no dropout
    assert result.loss == pytest.approx(F.cross_entropy(result.logits, result.labels).item())
    with pytest.raises(ValueError, match="no batch"):
        evaluate(model, [])


def test_views_of_a_video_are_fused():
    views = Batches(4, clips=6).batches  # four views of six videos, in some order
    order = torch.tensor([3, 1, 0, 5, 2, 4])
    labels = views[0].labels
    batches = [Batch(view.frames[order], labels[order], order) for view in views]
    model = linear()
    result = evaluate(model, batches)
    single = [evaluate(model, [batch]).logits.softmax(1) for batch in batches]
    assert torch.allclose(result.logits.softmax(1), sum(single) / 4, atol=1e-6)
    assert result.numbers.tolist() == list(range(6)) and torch.equal(result.labels, labels)


def test_precise_statistics_are_those_of_the_batches():
    batches = Batches(3)
    model = nn.Sequential(nn.BatchNorm3d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))
    model[0].momentum = 0.3
    assert renew_statistics(model.train(), batches, 2) == 2
    seen = [batch.frames for batch in batches.batches[:2]]
    mean = sum(frames.mean((0, 2, 3, 4)) for frames in seen) / 2
    variance = sum(frames.transpose(0, 1).flatten(1).var(1) for frames in seen) / 2
    assert torch.allclose(model[0].running_mean, mean, atol=1e-6)
    assert torch.allclose(model[0].running_var, variance, atol=1e-6)
    assert model.training and model[2].training and model[0].momentum == 0.3
    assert renew_statistics(linear(), batches, 2) == 0


def test_precise_statistics_come_before_the_evaluation(tmp_path, caplog):
    caplog.set_level(logging.INFO, "vidseg")
    model = nn.Sequential(nn.BatchNorm3d(3), nn.Flatten(), nn.Linear(12, 3))
    Trainer(model, Batches(3), validation=Batches(1), evaluation=EvaluationOptions(precise_bn=2)).fit(1, tmp_path)
    expected = nn.Sequential(nn.BatchNorm3d(3))
    renew_statistics(expected, Batches(3), 2)
    assert torch.allclose(model[0].running_var, expected[0].running_var)
    assert "batch norm statistics over 2 batches" in caplog.text


def test_mixup_mixes_clips_and_targets(tmp_path):
    batch, seen = Batches(1).batches[0], []

    class Linear(nn.Module):
        weight = torch.randn(12, 3, generator=torch.Generator().manual_seed(2))

        def forward(self, frames):
            seen.append(frames)
            return frames.flatten(1) @ self.weight

    losses = [
        train_batch(RecognitionTask(mixup=0.8), Linear(), batch, Position(1, 2, number))[0] for number in (3, 3, 4)
    ]
    assert losses[0] == losses[1] != losses[2]  # a function of the position
    mixing = draw_mixup(1, 2, 3, clips=8, alpha=0.8)
    share, partners = mixing.share, torch.from_numpy(mixing.partners)
    assert torch.allclose(seen[0], share * batch.frames + (1 - share) * batch.frames[partners], atol=1e-6)
    logits = seen[0].flatten(1) @ Linear.weight
    expected = share * F.cross_entropy(logits, batch.labels) + (1 - share) * F.cross_entropy(
        logits, batch.labels[partners]
    )
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-5)
    Trainer(linear(), Batches(2), task=RecognitionTask(mixup=0.5, label_smoothing=0.1)).fit(1, tmp_path)


# Parameter groups


def test_every_parameter_is_in_one_group():
    model = create_model("srtg_r3d_18", num_classes=5, width=0.125)
    assert classifier_names(model) == {"fc.weight", "fc.bias"}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for options in ({}, {"fine_tune": True}, {"fine_tune": True, "decay_all": False, "fresh": ["stem.0.weight"]}):
        groups = parameter_groups(model, weight_decay=1e-4, **options)
        found = [names[id(parameter)] for group in groups for parameter in group["params"]]
        assert sorted(found) == sorted(names.values())
    by_name = {group["name"]: group for group in groups}
    inside = {name: {names[id(p)] for p in group["params"]} for name, group in by_name.items()}
    assert {name: group["lr_mult"] for name, group in by_name.items()} == {
        "convolution": 0.6,
        "convolution, no decay": 0.6,
        "recurrent": 0.5,
        "recurrent, no decay": 0.5,
        "classifier": 1.0,
        "classifier, no decay": 1.0,
    }
    assert inside["classifier"] == {"fc.weight", "stem.0.weight"} and inside["classifier, no decay"] == {"fc.bias"}
    assert "stem.1.weight" in inside["convolution, no decay"] and "layer1.0.conv1.0.0.weight" in inside["convolution"]
    assert inside["recurrent"] == {name for name in names.values() if "lstm.weight" in name}
    assert all((group["weight_decay"] == 0) == ("no decay" in name) for name, group in by_name.items())


def test_fine_tuning_slows_what_was_learned(tmp_path):
    """One plain SGD step moves each group by its multiple of the whole rate."""

    def moved(fine_tune):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.Flatten(), nn.Linear(16, 3))
        before = [parameter.detach().clone() for parameter in model.parameters()]
        options = OptimizerOptions(momentum=0, weight_decay=0)
        Trainer(model, Batches(1), schedule=constant(0.1), optimizer=options, fine_tune=fine_tune).fit(1, tmp_path)
        return [(after - start).norm().item() for after, start in zip(model.parameters(), before, strict=True)]

    ratios = [slow / fast for slow, fast in zip(moved(True), moved(False), strict=True)]
    assert ratios == pytest.approx([0.6, 0.6, 1.0, 1.0], rel=1e-4)


def test_losses_of_a_seeded_run(tmp_path, caplog):
    """Any change of what is computed shows here: network, loss, order, rates, optimizer, in float64."""
    from trained import train

    caplog.set_level(logging.INFO, "vidseg")
    train(tmp_path, epochs=3, exact=True)
    lines = [record.getMessage() for record in caplog.records if "Batch [" in record.getMessage()]
    found = [float(re.search(r"loss-ce = (\S+),", line)[1]) for line in lines]
    held_out = [row[3] for row in rows(tmp_path / "val_results_s0001.csv")]
    stored = json.loads((FOLDER / "loss_curve.json").read_text())
    assert found == pytest.approx(stored["train"], abs=2e-5)
    assert held_out == pytest.approx(stored["val"], abs=2e-5)
    assert found[-1] < found[0]
