"""Training window by window: the gradient of a step, when memory is cleared, resuming, memory use, options of a run."""

import copy
import csv
import multiprocessing
import random
import signal
import weakref

import numpy as np
import pytest
import torch
from streams import (
    CLASSES,
    LENGTHS,
    SHAPE,
    Streams,
    Tiny,
    load,
    make_trainer,
    make_videos,
    objective,
    train_streams,
    train_streams_and_die,
)
from torch import Tensor, nn

from vidseg.clips.stream_windows import StreamPlan
from vidseg.engine import CheckpointOptions, DeviceOptions, EvaluationOptions, MonitorOptions, OptimizerOptions
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.engine.task import Position
from vidseg.loaders.stream_loader import StreamBatch
from vidseg.losses import create_stream_loss
from vidseg.models import create_model, list_models
from vidseg.models._streaming import StreamOutput, StreamState
from vidseg.tasks.streaming.inference import StreamMemory, forward_window, label_streams
from vidseg.tasks.streaming.task import StreamingTask


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def count_steps(trainer) -> list[int]:
    """Grows by one at each step of the optimizer."""
    steps: list[int] = []
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    return steps


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# The gradient of a step


def gradients(lengths, weighting: str) -> Tensor:
    """Of one group, by hand: the mean over its windows."""
    model = make_trainer().model.eval()
    state, total = None, 0.0
    for batch in load(StreamPlan(lengths, SHAPE, group=len(lengths)), make_videos(lengths)):
        output, state = model(batch.clips, state, batch.mask)
        state = state.detach()
        if weighting == "video":
            loss = objective(output, batch.labels, torch.from_numpy(batch.item.counts)).total
        else:
            loss = objective(output, batch.labels, None).total / batch.item.windows
        total = total + loss
    total.backward()
    return torch.cat([value.grad.flatten() for value in model.parameters()])


@pytest.mark.parametrize("weighting", ["video", "group"])
def test_a_step_is_the_mean_over_the_windows(weighting, tmp_path):
    lengths = [30, 13]
    trainer = make_trainer(
        Streams(lengths, shuffle=False), task={"weighting": weighting}, options={"frozen_norms": True}
    )
    before, steps = flat(trainer.model), count_steps(trainer)
    trainer.fit(1, tmp_path)
    assert len(steps) == 1 and len(trainer.model.fresh) == 4
    assert torch.allclose(before - 0.1 * gradients(lengths, weighting), flat(trainer.model), atol=1e-6)
    (row,) = rows(tmp_path / "train_results_s0001.csv")
    assert (
        float(row["Loss"]) > 0
        and 0 <= float(row["Acc"]) <= 1
        and float(row["Acc"]) * 43 == pytest.approx(round(float(row["Acc"]) * 43), abs=1e-4)
    )


def test_groups_are_accumulated(tmp_path):
    """Two groups make a step, and the third one alone."""
    trainer = make_trainer(
        Streams([30, 13, 9], shuffle=False, group=1), options={"frozen_norms": True, "accumulate": 2}
    )
    moved, before = [], flat(trainer.model)
    trainer.optimizer.register_step_post_hook(lambda *_: moved.append(flat(trainer.model)))
    trainer.fit(1, tmp_path)
    assert len(moved) == 2
    videos, model, found, state = make_videos([30, 13, 9]), make_trainer().model.eval(), [], StreamState({})
    for number in range(2):
        model.zero_grad()
        for batch in load(StreamPlan([30, 13, 9], SHAPE), videos):
            if batch.item.group == number:
                output, state = model(batch.clips, None if batch.item.starts else state.detach(), batch.mask)
                objective(output, batch.labels, torch.from_numpy(batch.item.counts)).total.backward()
        found.append(torch.cat([value.grad.flatten() for value in model.parameters()]))
    assert torch.allclose(before - 0.1 * (found[0] + found[1]) / 2, moved[0], atol=1e-6)
    assert not torch.equal(moved[0], moved[1])


@pytest.mark.parametrize("update", ["video", "window"])
def test_memory_is_cleared_exactly_when_the_videos_change(update, tmp_path):
    loader = Streams()
    expected = [[item.starts for item in loader.plan(epoch)] for epoch in range(2)]
    assert [(one.count(True), len(one)) for one in expected] == [(3, 9), (3, 8)]
    trainer = make_trainer(loader, task={"update": update})
    made = count_steps(trainer)
    trainer.fit(2, tmp_path)
    assert trainer.model.fresh == expected[0] + expected[1] and len(made) == (6 if update == "video" else 17)
    trainer.model.fresh.clear()
    list(label_streams(trainer.model, load(loader.plan(0), loader.videos), SHAPE))
    assert trainer.model.fresh == expected[0]


def test_an_update_after_each_window_sees_its_own_loss(tmp_path):
    """ "TD": neither the number of windows nor the other windows enter a step."""
    loader = Streams([20], shuffle=False, group=1)
    trainer = make_trainer(loader, task={"update": "window"}, options={"frozen_norms": True})
    trainer.fit(1, tmp_path)
    model = make_trainer().model.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = None
    for batch in load(loader.plan(0), loader.videos):
        output, state = model(batch.clips, state, batch.mask)
        state = state.detach()
        optimizer.zero_grad()
        objective(output, batch.labels, None).total.backward()
        optimizer.step()
    assert torch.allclose(flat(model), flat(trainer.model), atol=1e-6)


def train_on(batches, task=None, model=None) -> None:
    """Give batches to a task, without a loop."""
    task, model = task or StreamingTask(objective), model or Tiny()
    for number, batch in enumerate(batches):
        task.train_batch(model, batch, Position(0, 0, number), Tensor.backward)


def test_windows_out_of_order_are_refused():
    batches = list(load(StreamPlan([30, 30], SHAPE), make_videos([30, 30])))
    for chosen, message in (
        ((1,), "window 1 of group 0 came after window -1 of group -1"),
        ((0, 1, 3), "window 3 of group 0 came after window 1 of group 0"),
        ((0, 1, 6), "window 2 of group 1 came after window 1 of group 0"),
    ):
        with pytest.raises(ValueError, match=message):
            train_on([batches[number] for number in chosen])
        with pytest.raises(ValueError, match=message):
            list(label_streams(Tiny(), [batches[number] for number in chosen], SHAPE))


def test_frozen_norms_stay(tmp_path):
    frozen, trained = make_trainer(options={"frozen_norms": True}), make_trainer()
    for number, trainer in enumerate((frozen, trained)):
        trainer.fit(1, tmp_path / str(number))
    assert not frozen.model.norm.running_mean.any() and trained.model.norm.running_mean.any()
    assert not torch.equal(flat(frozen.model), flat(make_trainer().model))


def test_gradients_are_clipped(tmp_path):
    moved = []
    for number, norm in enumerate((None, 1e-3)):
        trainer = make_trainer(Streams([20]), options={"clip_norm": norm})
        before = flat(trainer.model)
        trainer.fit(1, tmp_path / str(number))
        moved.append(float((flat(trainer.model) - before).norm()))
    assert moved[1] <= 1.01e-4 < moved[0]


def test_a_loss_that_is_not_finite_stops(tmp_path):
    loader = Streams([20], group=1, shuffle=False)
    loader.videos[0][0][9:] = torch.inf
    with pytest.raises(RuntimeError, match="epoch 1, batch 1: the loss is nan"):
        make_trainer(loader).fit(1, tmp_path)
    assert not list(tmp_path.glob("*.pth"))


# Resuming


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")  # forks a process that has imported torch and computed nothing
    context.set_forkserver_preload(["streams"])
    return context


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    found = {}
    for update in ("video", "window"):
        out = tmp_path_factory.mktemp(update)
        train_streams(out, update)
        found[update] = out
    return found


WINDOWS = len(Streams(group=1))
AT = [(0, 0), *sorted(random.Random(3).sample([(epoch, index) for epoch in range(2) for index in range(WINDOWS)], 4))]


@pytest.mark.slow
@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize("update", ["video", "window"])
def test_killed_at_a_window_and_resumed(processes, undisturbed, tmp_path, update, at):
    """Bit by bit; the memory of an update after each window is in the checkpoint, inside a video as well."""
    process = processes.Process(target=train_streams_and_die, args=(tmp_path, update, at))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    saved = read_checkpoint(tmp_path / "tiny_last.pth") if (tmp_path / "tiny_last.pth").is_file() else None
    if update == "window" and at != (0, 0):  # two windows make a step, and the end of an epoch ends one
        assert (saved["epoch"], saved["batch"]) == (at[0], at[1] - at[1] % 2) if saved is not None else at == (0, 1)
    loader = Streams(group=1)
    trainer = train_streams(tmp_path, update, loader=loader)
    if saved is not None:
        assert loader.made == (2 - saved["epoch"]) * WINDOWS - saved["batch"]
    expected = read_checkpoint(undisturbed[update] / "tiny_last.pth")
    found = read_checkpoint(tmp_path / "tiny_last.pth")
    for entry in ("state_dict", "trained"):
        assert found[entry].keys() == expected[entry].keys()
        for name, value in expected[entry].items():
            assert torch.equal(found[entry][name], value), (entry, name)
    assert (found["steps"], found["best"], found["losses"]) == (
        expected["steps"],
        expected["best"],
        expected["losses"],
    )
    table = sorted(tmp_path.glob("train_results_s*.csv"))[-1]
    assert rows(table)[-1] == rows(undisturbed[update] / "train_results_s0001.csv")[-1]
    assert trainer.task.memory.state_dict()["state"] is None


def test_checkpoints_inside_a_video_hold_the_memory(tmp_path, monkeypatch):
    """Where a step ends inside it; the videos of a group are else finished first."""
    saved = {}
    for update in ("window", "video"):
        positions = []
        trainer = make_trainer(
            Streams([30], group=1), task={"update": update}, checkpoints=CheckpointOptions(checkpoint_every=1)
        )
        save = trainer._save

        def spy(progress, schedule, trainer=trainer, save=save, positions=positions, **options):
            state = trainer.task.state_dict()["memory"]["state"]
            positions.append((progress.epoch, progress.batch, state is not None))
            save(progress, schedule, **options)

        monkeypatch.setattr(trainer, "_save", spy)
        trainer.fit(1, tmp_path / update)
        saved[update] = positions
    assert saved == {"window": [(0, 1, True), (0, 2, True), (0, 3, True), (1, 0, False)], "video": [(1, 0, False)]}


# Precision and memory use


def clips_of(length: int, pixels: int) -> list:
    return [(torch.randn(length, 3, pixels, pixels, generator=torch.Generator().manual_seed(1)),
             np.arange(length) % CLASSES)]  # fmt: skip


@pytest.mark.parametrize("name", ["etesvs", "etesvs_convlstm", "memory_tcn", "block_recurrent"])
def test_lower_precision(name, tmp_path):
    """bfloat16 is close to float32, and resumes in the middle of a video bit by bit."""
    options = {"state_length": 8, "layers": 2, "channels": 8, "decoders": 1} if name == "block_recurrent" else {}

    def train(level: str, out: str, stop: int | None = None, resume: bool = False):
        torch.manual_seed(0)
        model = create_model(name, num_classes=CLASSES, width=0.25, **options)
        loader = Streams([24], group=1, videos=clips_of(24, 32))
        trainer = make_trainer(
            loader,
            model=model,
            lr=0.01,
            loss=create_stream_loss(name, update="window"),
            task={"update": "window"},
            options={"frozen_norms": True},
            opt_level=level,
            checkpoints=CheckpointOptions(checkpoint_every=1),
        )
        trainer.fit(None if stop else 1, tmp_path / out, max_steps=stop, resume=resume)
        return trainer

    train("O0", "O0")
    whole = train("bf16", "bf16")
    losses = [float(rows(tmp_path / level / "train_results_s0001.csv")[0]["Loss"]) for level in ("O0", "bf16")]
    assert losses[1] == pytest.approx(losses[0], rel=0.05) and losses[0] != losses[1]

    def stop(progress, schedule, save=None, **options):
        save(progress, schedule, **options)
        raise MemoryError("stopped")

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(MemoryError):
        from vidseg.engine.trainer import Trainer

        save = Trainer._save
        patch.setattr(Trainer, "_save", lambda self, *given, **named: stop(*given, save=save.__get__(self), **named))
        train("bf16", "parts")
    assert read_checkpoint(next((tmp_path / "parts").glob("*_last.pth")))["batch"] == 1
    resumed = train("bf16", "parts", resume=True)
    assert torch.equal(flat(whole.model), flat(resumed.model))


class _Saved:
    """A tensor that autograd keeps for the backward pass, counted while it lives."""

    live = peak = 0

    def __init__(self, value: Tensor):
        self.value = value
        size = value.numel()
        _Saved.live += size
        _Saved.peak = max(_Saved.peak, _Saved.live)
        weakref.finalize(self, _Saved.free, size)

    @staticmethod
    def free(size: int) -> None:
        _Saved.live -= size


@pytest.mark.parametrize("name", ["etesvs", "memory_tcn"])
def test_kept_activations_do_not_grow_with_the_video(name, tmp_path):
    peaks = []
    for length in (8, 40):
        torch.manual_seed(0)
        model = create_model(name, num_classes=CLASSES, width=0.25)
        loader = Streams([length], group=1, videos=clips_of(length, 32))
        trainer = make_trainer(loader, model=model, lr=0.01, loss=create_stream_loss(name))
        _Saved.live = _Saved.peak = 0
        with torch.autograd.graph.saved_tensors_hooks(_Saved, lambda saved: saved.value):
            trainer.fit(1, tmp_path / str(length))
        assert loader.made == length // 8
        peaks.append(_Saved.peak)
    assert peaks[1] == peaks[0] > 0


# Labeling


def test_labels_do_not_depend_on_the_group():
    videos = make_videos(LENGTHS)
    model = make_trainer().model
    found = {}
    for group in (1, 2, 5):
        plan = StreamPlan(LENGTHS, SHAPE, group=group, shuffle=group == 2)
        predictions = list(label_streams(model, load(plan, videos), SHAPE))
        assert sorted(prediction.video for prediction in predictions) == [0, 1, 2, 3, 4]
        for prediction in predictions:
            assert prediction.truth.tolist() == videos[prediction.video][1].tolist()
        found[group] = {prediction.video: prediction.labels.tolist() for prediction in predictions}
    assert found[1] == found[2] == found[5]
    assert [len(found[1][video]) for video in range(5)] == LENGTHS
    order = [prediction.video for prediction in label_streams(model, load(plan, videos), SHAPE)]
    assert order == [4, 1, 2, 3, 0]  # as they end: after 1, 2, 2, 3 and 4 windows


def test_labeling_resumes_in_the_middle(tmp_path):
    videos, plan = make_videos([30]), StreamPlan([30], SHAPE)
    model = make_trainer().model
    (whole,) = label_streams(model, load(plan, videos), SHAPE)
    memory = StreamMemory()
    assert not list(label_streams(model, [*load(plan, videos)][:2], SHAPE, memory=memory))
    torch.save(memory.state_dict(), tmp_path / "memory.pt")
    restored = StreamMemory()
    restored.load_state_dict(torch.load(tmp_path / "memory.pt", weights_only=True))
    (rest,) = label_streams(model, load(plan, videos, start=2), SHAPE, memory=restored)
    assert rest.labels.tolist() == whole.labels[16:].tolist()


@pytest.mark.parametrize("name", list_models(task="streaming"))
@pytest.mark.parametrize("update", ["video", "window"])
def test_every_network_has_its_loss(name, update):
    logits = torch.randn(2, 1, 3, 4, requires_grad=True)
    output = StreamOutput(logits, backbone_logits=logits[0], neck_logits=logits[1])
    loss = create_stream_loss(name, update=update)(output, torch.tensor([[0, 1, 2, -100] * 2]), torch.tensor([2]))
    loss.total.backward()
    assert logits.grad.abs().sum() > 0


def test_wrong_options_are_refused():
    for option in ({"update": "epoch"}, {"weighting": "frame"}):
        with pytest.raises(ValueError, match=next(iter(option))):
            StreamingTask(objective, **option)
    with pytest.raises(ValueError, match="clip_norm"):
        OptimizerOptions(clip_norm=0.0)
    with pytest.raises(ValueError, match="opt_level='O2': this task supports O0, O1, bf16"):
        make_trainer(opt_level="O2")
    with pytest.raises(ValueError, match="unknown stream loss 'srtg'"):
        create_stream_loss("srtg")
    with pytest.raises(ValueError, match="backbone"):
        create_stream_loss("etesvs")(StreamOutput(torch.zeros(1, 1, 2, 3)), torch.zeros(1, 3), None)
    wide = create_model("memory_tcn", num_classes=4, width=0.25, layers=2, channels=8)
    with pytest.raises(ValueError, match="3 classes, but the network has 4 outputs"):
        make_trainer(model=wide)
    (batch,) = load(StreamPlan([8], SHAPE), make_videos([8]))
    for change in ("clips", "labels", "mask"):
        parts = {"clips": batch.clips, "labels": batch.labels, "mask": batch.mask} | {change: torch.zeros(1, 1)}
        with pytest.raises(ValueError, match=change):
            StreamBatch(**parts, item=batch.item)


def test_videos_that_have_ended_are_not_seen():
    """Neither batch norm nor the memory of the others sees them; their logits are 0."""
    lengths = [30, 13]
    videos = make_videos(lengths)
    torch.manual_seed(0)
    together = create_model("memory_tcn", num_classes=3, width=0.25, layers=2, channels=8)
    alone = copy.deepcopy(together)
    batches = list(load(StreamPlan(lengths, SHAPE, group=2), videos))
    last = batches[-1]
    assert last.item.valid.tolist() == [6, 0]
    before = StreamState({name: torch.zeros(2, *value.shape[1:]) + 0.5 for name, value in alone(last.clips)[1].items()})
    together.load_state_dict(alone.state_dict())
    output, after = forward_window(together, last, before)
    expected, state = alone(last.clips[:1], before.take([0]), last.mask[:1])
    assert torch.equal(output.logits[:, :1], expected.logits) and not output.logits[:, 1].any()
    assert all(torch.equal(after[name][:1], value) and not after[name][1].any() for name, value in state.items())
    for one, other in zip(together.buffers(), alone.buffers(), strict=True):
        assert torch.equal(one, other)


def test_a_process_whose_videos_have_ended_still_steps(tmp_path):
    loader = Streams([30, 13], group=1, shuffle=False, ranks=2, rank=1)
    batches = list(load(loader.plan(0), loader.videos))
    assert [bool(batch.item.valid.any()) for batch in batches] == [True, True, False, False]
    trainer = make_trainer(loader)
    before, steps = flat(trainer.model), count_steps(trainer)
    trainer.fit(1, tmp_path)
    assert len(steps) == 1 and len(trainer.model.fresh) == 2 and not torch.equal(before, flat(trainer.model))
    (found,) = label_streams(trainer.model, batches, SHAPE)
    assert found.video == 1 and len(found.labels) == 13 and found.cross_entropy > 0


# What every task has


def test_a_moving_average_is_evaluated_and_saved(tmp_path):
    trainer = make_trainer(options={"ema": 0.9}, validation=Streams(train=False))
    states = []
    trainer.optimizer.register_step_post_hook(lambda *_: states.append(copy.deepcopy(trainer.model.state_dict())))
    weights = copy.deepcopy(trainer.model.state_dict())
    result = trainer.fit(2, tmp_path)
    for number, state in enumerate(states, 1):
        decay = min(0.9, (1 + number) / (10 + number))
        weights = {key: decay * value + (1 - decay) * state[key] for key, value in weights.items()}
    saved = read_checkpoint(tmp_path / "model_last.pth")
    for name in ("now.weight", "past.bias", "norm.running_var"):
        assert torch.allclose(saved["state_dict"][name], weights[name], atol=1e-6)
        assert torch.equal(saved["trained"][name], trainer.model.state_dict()[name])
    averaged = Tiny()
    averaged.load_state_dict(saved["state_dict"])
    again = trainer.task.evaluate(averaged, Streams(train=False))
    assert again.values == result.values and again.scores == result.scores
    assert trainer.task.evaluate(trainer.model, Streams(train=False)).values != result.values


@pytest.mark.parametrize("update, epochs", [("video", 2), ("window", 1)])
def test_the_run_ends_after_so_many_steps(tmp_path, update, epochs):
    loader = Streams()
    trainer = make_trainer(loader, task={"update": update})
    steps = count_steps(trainer)
    trainer.fit(out=tmp_path, max_steps=5)
    assert len(steps) == 5 and len(rows(tmp_path / "train_results_s0001.csv")) == epochs
    ended = [[item.last for item in loader.plan(epoch)] for epoch in range(2)]
    windows = 5 if update == "window" else len(ended[0]) + 1 + [n for n, last in enumerate(ended[1]) if last][1]
    assert len(trainer.model.fresh) == windows


def test_evaluations_between_steps_leave_the_training_as_it_is(tmp_path):
    weights, counts = [], []
    for number, every in enumerate((None, 2)):
        trainer = make_trainer(
            model=Tiny(dropout=0.3),
            task={"update": "window"},
            validation=Streams(train=False),
            evaluation=EvaluationOptions(test_every_steps=every),
        )
        torch.manual_seed(0)
        for value in trainer.model.parameters():
            nn.init.normal_(value)
        trainer.fit(1, tmp_path / str(number))
        weights.append(flat(trainer.model))
        counts.append([row["Epoch"] for row in rows(tmp_path / str(number) / "val_results_s0001.csv")])
    assert counts == [["1"], ["1"] * 5] and torch.equal(*weights)  # after 2, 4, 6, 8 of 9 windows, and at the end


def test_precise_norms_are_means_over_the_first_windows(tmp_path):
    """With the memory of the windows before, and without videos that have ended."""
    loader = Streams([30, 13], shuffle=False)
    trainer = make_trainer(loader, validation=Streams([9], train=False), evaluation=EvaluationOptions(precise_bn=4))
    trainer.fit(1, tmp_path)
    plan = loader.plan(0)
    assert trainer.model.fresh[4:8] == [item.starts for item in plan]
    seen = []
    for batch in load(plan, loader.videos):
        valid = torch.from_numpy(batch.item.valid > 0)
        seen.append(batch.clips[valid].mean(dim=(3, 4)).mean(dim=(0, 2)))
    assert torch.allclose(trainer.model.norm.running_mean, torch.stack(seen).mean(dim=0), atol=1e-6)


def test_tensorboard(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer = make_trainer(
        Streams([20]), validation=Streams([9], train=False), monitors=MonitorOptions(tensorboard=True)
    )
    trainer.fit(2, tmp_path)
    log = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"train/Acc", "train/Loss", "val/Acc", "val/Loss", "iteration/rate"} <= set(log.Tags()["scalars"])
    table = [float(row["Loss"]) for row in rows(tmp_path / "train_results_s0001.csv")]
    assert [event.value for event in log.Scalars("train/Loss")] == pytest.approx(table)
    assert [event.step for event in log.Scalars("iteration/Loss")] == list(range(6))
    assert [event.step for event in log.Images("clips")] == [1, 2]
    assert log.Images("clips")[0].encoded_image_string.startswith(b"GIF89a")
    for name in ("segments", "confusion"):
        assert [event.step for event in log.Images(name)] == [1, 2] and log.Images(name)[0].width > 300


def test_compiled_and_recomputed_as_the_network_allows(tmp_path, monkeypatch):
    compiled = []
    original = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, backend: (compiled.append(backend), original(self, backend="eager"))
    )
    plain = make_trainer(Streams([20]))
    fast = make_trainer(Streams([20]), devices=DeviceOptions(compile=True))
    for number, trainer in enumerate((plain, fast)):
        trainer.model.fresh = _Nothing()
        trainer.fit(1, tmp_path / str(number))
    assert compiled == ["inductor"] and torch.allclose(flat(plain.model), flat(fast.model), atol=1e-6)
    with pytest.raises(ValueError, match="Tiny has no stages of residual blocks"):
        make_trainer(devices=DeviceOptions(recompute=True))


class _Nothing(list):
    """A list that stays empty, so that a compiled network does not depend on its length."""

    def append(self, _):
        pass
