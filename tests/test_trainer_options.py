"""What users give the loop: optimizers, schedulers, lengths in steps, averages; and its defaults."""

import logging
import re

import pytest
import torch
from torch import nn
from training_batches import Batch, Batches, constant, linear, rows

from vidseg.engine import (
    CheckpointOptions,
    EvaluationOptions,
    MonitorOptions,
    OptimizerOptions,
    Schedule,
    ScheduleOptions,
    Task,
    Trainer,
)
from vidseg.engine.averaging import WeightAverage
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.engine.schedules import plateau_share
from vidseg.engine.task import BatchResult, make_task, sums_of


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def rates(caplog) -> list[float]:
    lines = [record.getMessage() for record in caplog.records if "Batch [" in record.getMessage()]
    return [float(re.search(r"lr = (\S+),", line)[1]) for line in lines]


def test_an_optimizer_of_the_user_keeps_its_rate(tmp_path, caplog):
    caplog.set_level(logging.INFO, "vidseg")
    model, expected = linear(dropout=0), linear(dropout=0)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.003)
    Trainer(model, Batches(3), optimizer=optimizer, monitors=MonitorOptions(log_every=1)).fit(2, tmp_path)
    assert rates(caplog) == [0.003] * 6
    own = torch.optim.RMSprop(expected.parameters(), lr=0.003)
    for _ in range(2):
        for batch in Batches(3):
            own.zero_grad()
            nn.functional.cross_entropy(expected(batch.frames), batch.labels).backward()
            own.step()
    assert torch.allclose(model[2].weight, expected[2].weight, atol=1e-6)


def test_an_optimizer_may_be_a_function_and_follow_a_schedule(tmp_path, caplog):
    caplog.set_level(logging.INFO, "vidseg")
    options = {"schedule": ScheduleOptions(lr=0.5, lr_steps=(1,)), "monitors": MonitorOptions(log_every=1)}
    Trainer(linear(), Batches(2), optimizer=lambda groups: torch.optim.NAdam(groups, lr=9.0), **options).fit(
        2, tmp_path
    )
    assert rates(caplog) == pytest.approx([0.5, 0.5, 0.05, 0.05])


def test_a_scheduler_of_torch_steps_once_in_an_epoch_and_resumes(tmp_path, caplog):
    caplog.set_level(logging.INFO, "vidseg")

    def make(epochs, folder, resume=False):
        model = linear()
        trainer = Trainer(
            model,
            Batches(2),
            optimizer=torch.optim.SGD(model.parameters(), lr=0.4, momentum=0.9),
            scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5),
            monitors=MonitorOptions(log_every=1),
        )
        trainer.fit(epochs, tmp_path / folder, resume=resume)
        return model

    whole = make(4, "whole")
    assert rates(caplog) == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05])
    make(2, "parts")
    caplog.clear()
    parts = make(4, "parts", resume=True)
    assert rates(caplog) == pytest.approx([0.1, 0.1, 0.05, 0.05])
    assert torch.equal(whole[2].weight, parts[2].weight)


def test_a_plateau_scheduler_of_torch_sees_the_training_loss(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12)  # no progress
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    Trainer(model, Batches(1), optimizer=optimizer, scheduler=scheduler).fit(3, tmp_path)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-14, rel=1e-3)


def test_two_sources_of_the_learning_rate_are_refused():
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="schedule and scheduler both set the learning rate"):
        Trainer(
            model,
            Batches(),
            optimizer=optimizer,
            scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 1),
            schedule=constant(0.1),
        )
    with pytest.raises(ValueError, match="give the optimizer as a function"):
        Trainer(linear(), Batches(), optimizer=optimizer, opt_level="O2")


def test_each_step_may_have_its_own_factor():
    rate = Schedule(ScheduleOptions(lr=1.0, lr_steps=(1, 2), lr_factor=(0.5, 0.1)), 3).rate
    assert [rate(at) for at in (0.9, 1, 2)] == pytest.approx([1.0, 0.5, 0.05])
    with pytest.raises(ValueError, match=r"lr_factor=\(0.5, 0.1\): one number, or one for each of lr_steps=\(1,\)"):
        ScheduleOptions(lr_steps=(1,), lr_factor=(0.5, 0.1))


def test_a_run_may_be_counted_in_steps(tmp_path, caplog):
    """max_steps ends the run inside an epoch; warm-up, steps and evaluations count steps."""
    caplog.set_level(logging.INFO, "vidseg")
    trainer = Trainer(
        linear(),
        Batches(4),
        validation=Batches(1),
        schedule=ScheduleOptions(lr=1.0, warmup_steps=2, lr_steps=(5,)),
        evaluation=EvaluationOptions(test_every_steps=3),
        monitors=MonitorOptions(log_every=1),
    )
    trainer.fit(out=tmp_path, max_steps=6)
    assert rates(caplog) == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, 0.1])
    content = read_checkpoint(tmp_path / "model_last.pth")
    assert (content["epoch"], content["steps"]) == (2, 6)
    # after step 3, at the end of the first epoch, and after the last step
    assert [row[0] for row in rows(tmp_path / "val_results_s0001.csv")] == [1, 1, 2]
    with pytest.raises(ValueError, match="warmup_steps=2 needs max_steps"):
        Schedule(ScheduleOptions(lr=1.0, warmup_steps=2), 3)
    with pytest.raises(ValueError, match=r"warmup_epochs=2\.0 with max_steps"):
        Schedule(ScheduleOptions(lr=1.0, warmup_epochs=2.0), 9, "step")
    with pytest.raises(ValueError, match="give the length of the run"):
        trainer.fit(out=tmp_path)


def test_a_run_in_steps_resumes_inside_an_epoch(tmp_path):
    class Breaking(Batches):
        def __iter__(self):
            for index, batch in enumerate(self.batches):
                if (self.epochs[-1], index) == (1, 2):
                    raise OSError("the disk is gone")
                yield batch

    def make(folder, batches, resume=False):
        model = linear()
        options = {"schedule": ScheduleOptions(lr=0.5, schedule="cosine")}
        trainer = Trainer(model, batches, checkpoints=CheckpointOptions(checkpoint_every=1), **options)
        trainer.fit(out=tmp_path / folder, max_steps=10, resume=resume)
        return model

    whole = make("whole", Batches(4))
    with pytest.raises(OSError, match="the disk is gone"):
        make("parts", Breaking(4))
    assert read_checkpoint(tmp_path / "parts/model_last.pth")["steps"] == 6
    parts = make("parts", Batches(4), resume=True)
    assert torch.equal(whole[2].weight, parts[2].weight)


def test_the_plateau_of_a_resumed_run_is_that_of_one_that_never_stopped(tmp_path):
    options = {"schedule": ScheduleOptions(lr=30.0, schedule="plateau", lr_factor=(0.5,), patience=0)}

    def make(epochs, folder, resume=False):
        model = linear()
        Trainer(model, Batches(2), **options).fit(epochs, tmp_path / folder, resume=resume)
        return model

    whole = make(8, "whole")
    losses = read_checkpoint(tmp_path / "whole/model_last.pth")["losses"]
    assert len(losses) == 8 and plateau_share(losses, patience=0) < 1
    make(3, "parts")
    parts = make(8, "parts", resume=True)
    assert torch.equal(whole[2].weight, parts[2].weight)


def test_averaged_weights_are_evaluated_and_saved(tmp_path):
    def make(epochs, folder, resume=False):
        model = linear()
        options = {"optimizer": OptimizerOptions(ema=0.9), "schedule": constant(0.5)}
        trainer = Trainer(model, Batches(3), validation=Batches(1), **options)
        return model, trainer.fit(epochs, tmp_path / folder, resume=resume)

    model, result = make(3, "whole")
    saved = read_checkpoint(tmp_path / "whole/model_last.pth")
    assert not torch.equal(saved["state_dict"]["2.weight"], model[2].weight)
    assert torch.equal(saved["trained"]["2.weight"], model[2].weight)
    averaged = linear()
    averaged.load_state_dict(saved["state_dict"])
    assert torch.allclose(averaged.eval()(Batches(1).batches[0].frames), result.logits, atol=1e-6)
    make(1, "parts")
    resumed, again = make(3, "parts", resume=True)
    assert torch.equal(model[2].weight, resumed[2].weight) and torch.equal(result.logits, again.logits)


def test_the_average_is_the_sum_written_out():
    model = nn.Linear(1, 1, bias=False)
    average, expected = WeightAverage(model, 0.5), model.weight.detach().clone()
    for step in range(1, 20):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert torch.allclose(average.weights()["weight"], expected)
    with average.applied():
        assert torch.equal(model.weight, average.weights()["weight"])
    assert model.weight.item() == 19


def test_a_log_has_about_ten_lines_an_epoch(tmp_path, caplog):
    caplog.set_level(logging.INFO, "vidseg")
    Trainer(linear(), Batches(35)).fit(1, tmp_path)
    assert len(rates(caplog)) == 9


def test_every_tenth_of_a_run_is_kept(tmp_path):
    Trainer(linear(), Batches(1), validation=Batches(1)).fit(25, tmp_path)
    kept = [int(path.stem[-4:]) for path in sorted(tmp_path.glob("model_ep-*.pth"))]
    assert kept == [3, 6, 9, 12, 15, 18, 21, 24, 25]
    assert (tmp_path / "model_best.pth").is_file() and (tmp_path / "model_last.pth").is_file()


class Given(Task):
    """A task whose validation losses are given."""

    columns = ("Score", "Loss")

    def __init__(self, losses):
        self.losses, self.seen = list(losses), []

    def train_batch(self, model, batch, position, backward):
        loss = model(batch.inputs).square().mean()
        backward(loss)
        return BatchResult(sums_of([1.0, loss.detach()], 1.0, device=loss.device))

    def evaluate(self, model, loader, **_):
        class Found:
            values = (0.5, self.losses.pop(0))
            quality = 0.5

        return Found()

    def evaluated(self, epoch, result):
        self.seen.append((epoch, result.values[1]))


def test_a_diverging_validation_loss_is_reported_at_once(tmp_path, caplog):
    task = Given([1.0, 1.5, 2.5])
    Trainer(linear(), Batches(1), task=task, validation=Batches(1), schedule=constant(1e-3)).fit(3, tmp_path)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "epoch 3: the validation loss is 2.5, 2.5 times the lowest one (1)" in warning and "--lr" in warning
    assert task.seen == [(0, 1.0), (1, 1.5), (2, 2.5)]


def test_a_task_of_the_user_trains_like_the_others(tmp_path, caplog):
    caplog.set_level(logging.INFO, "vidseg")
    Trainer(linear(), Batches(2), task=Given([]), schedule=constant(0.1)).fit(2, tmp_path)
    assert "Epoch [2]:  (train)  score = 1.00000, loss = " in caplog.text
    table = rows(tmp_path / "train_results_s0001.csv")
    assert [row[0] for row in table] == [1, 2] and table[1][2] < table[0][2]
    with pytest.raises(ValueError, match="'recognition', 'segmentation', 'streaming'"):
        make_task("cooking")


def test_several_backward_passes_of_a_batch_make_one_step(tmp_path):
    """The gradient of a step is that of the sum of the losses."""

    class Halves(Given):
        one_backward = False

        def train_batch(self, model, batch, position, backward):
            for part in batch.inputs.chunk(2):
                backward(model(part).square().sum())
            return BatchResult(sums_of([1.0, 1.0], 1.0, device=batch.inputs.device))

    class Whole(Given):
        def train_batch(self, model, batch, position, backward):
            backward(model(batch.inputs).square().sum())
            return BatchResult(sums_of([1.0, 1.0], 1.0, device=batch.inputs.device))

    models = [linear(dropout=0), linear(dropout=0)]
    for model, task in zip(models, (Halves([]), Whole([])), strict=True):
        Trainer(model, Batches(2), task=task, schedule=constant(1e-3)).fit(1, tmp_path / type(task).__name__)
    assert torch.allclose(models[0][2].weight, models[1][2].weight, atol=1e-7)


def test_gradients_of_an_incomplete_batch_wait_for_the_next(tmp_path):
    """A task that says when a step is complete: two batches a step, as one batch of both."""

    class Pairs(Given):
        def steps(self, loader):
            return len(loader) // 2

        def train_batch(self, model, batch, position, backward):
            backward(model(batch.inputs).square().sum())
            complete = position.batch % 2 == 1
            return BatchResult(
                sums_of([1.0, 1.0], 1.0, device=batch.inputs.device), complete=complete, resumable=complete
            )

    small, large = Batches(4), Batches(4)
    pairs = [large.batches[:2], large.batches[2:]]
    large.batches = [Batch(torch.cat([b.frames for b in pair]), torch.cat([b.labels for b in pair])) for pair in pairs]

    class Whole(Given):
        def train_batch(self, model, batch, position, backward):
            backward(model(batch.inputs).square().sum())
            return BatchResult(sums_of([1.0, 1.0], 1.0, device=batch.inputs.device))

    models = [linear(dropout=0), linear(dropout=0)]
    checkpoints = CheckpointOptions(checkpoint_every=1)
    Trainer(models[0], small, task=Pairs([]), schedule=constant(1e-3), checkpoints=checkpoints).fit(1, tmp_path / "a")
    Trainer(models[1], large, task=Whole([]), schedule=constant(1e-3)).fit(1, tmp_path / "b")
    assert torch.allclose(models[0][2].weight, models[1][2].weight, atol=1e-7)
    assert read_checkpoint(tmp_path / "a/model_last.pth")["steps"] == 2
