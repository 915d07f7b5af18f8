"""Training window by window: which gradient a step has, when memory is cleared, going on in the middle, flat memory."""

import copy
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidseg.clips.windows import StreamPlan, WindowShape, window_labels
from vidseg.loaders.stream_loader import StreamBatch
from vidseg.losses.streaming import StreamLoss, stage_loss
from vidseg.models import create_model, list_models
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState
from vidseg.tasks.streaming.task import StreamMemory, StreamTrainer, _forward, label_streams, published_objective

SHAPE = WindowShape(8, 4, 2)
CLASSES = 3


class Tiny(StreamModel):
    """Labels a frame by its mean color and a running mean of all frames before; has a BatchNorm and sees states."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.now, self.past = nn.Linear(3, CLASSES), nn.Linear(3, CLASSES)
        self.fresh: list[bool] = []

    def forward(self, clips, state=None, mask=None):
        self.fresh.append(state is None)
        colors = self.norm(clips.mean(dim=(3, 4)))
        past = clips.new_zeros(len(clips), 3) if state is None else state["past"]
        logits = (self.now(colors.transpose(1, 2)) + self.past(past)[:, None]).transpose(1, 2)
        following = 0.5 * past + colors.mean(dim=2)
        return StreamOutput(logits[None], backbone_logits=logits, neck_logits=logits), StreamState({"past": following})


def make_videos(lengths: list[int]) -> list[tuple[Tensor, np.ndarray]]:
    """Frames (L, 3, 2, 2) and labels (L,) of each video."""
    random = np.random.RandomState(len(lengths))
    videos = []
    for length in lengths:
        labels = random.randint(0, CLASSES, length)
        frames = torch.from_numpy(random.standard_normal((length, 3, 2, 2)).astype(np.float32))
        videos.append((frames, labels))
    return videos


def load(plan: StreamPlan, videos: list, start: int = 0):
    for index in range(start, len(plan)):
        item = plan[index]
        clips = torch.full((len(item.videos), SHAPE.frames, 3, 2, 2), -1.0)
        labels = []
        for row, video in enumerate(item.videos):
            frames, truth = videos[video]
            real = item.frames[row] >= 0
            clips[row, torch.from_numpy(real)] = frames[item.frames[row][real]]
            labels.append(window_labels(plan.shape, item.window, truth))
        yield StreamBatch(clips.transpose(1, 2), torch.from_numpy(np.stack(labels)), torch.from_numpy(item.mask), item)


def objective(output, labels, windows):
    return StreamLoss(stage_loss(output.logits, labels, windows=windows), {})


def make_trainer(seed: int = 0, **options) -> StreamTrainer:
    torch.manual_seed(seed)
    model = Tiny()
    return StreamTrainer(model, objective, torch.optim.SGD(model.parameters(), lr=0.1), **options)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


@pytest.mark.parametrize("weighting", ["video", "group"])
def test_a_step_is_the_mean_over_the_windows(weighting):
    lengths = [30, 13]
    videos, plan = make_videos(lengths), StreamPlan(lengths, SHAPE, group=2)
    trainer = make_trainer(weighting=weighting, frozen_norms=True)
    before = flat(trainer.model)
    report = trainer.train(load(plan, videos))
    assert (report.windows, report.steps, report.frames) == (4, 1, 43)

    expected = make_trainer().model.eval()
    state, total = None, 0.0
    for batch in load(plan, videos):
        output, state = expected(batch.clips, state, batch.mask)
        state = state.detach()
        if weighting == "video":
            loss = objective(output, batch.labels, torch.tensor([4, 2])).total
        else:
            loss = objective(output, batch.labels, None).total / 4
        total = total + loss
    total.backward()
    gradient = torch.cat([value.grad.flatten() for value in expected.parameters()])
    assert torch.allclose(before - 0.1 * gradient, flat(trainer.model), atol=1e-6)
    assert report.mean_loss > 0 and 0 <= report.accuracy <= 1


@pytest.mark.parametrize("update, steps", [("video", 3), ("window", 9)])
def test_memory_is_cleared_exactly_when_the_videos_change(update, steps):
    lengths = [30, 13, 9, 17, 5]
    videos, plan = make_videos(lengths), StreamPlan(lengths, SHAPE, group=2, shuffle=True, seed=1)
    expected = [item.starts for item in plan]
    assert expected.count(True) == 3 and len(expected) == 9
    trainer = make_trainer(update=update)
    for _ in range(2):
        trainer.model.fresh.clear()
        assert trainer.train(load(plan, videos)).steps == steps
        assert trainer.model.fresh == expected
    trainer.model.fresh.clear()
    list(label_streams(trainer.model, load(plan, videos), SHAPE))
    assert trainer.model.fresh == expected


def test_an_update_after_each_window_sees_its_own_loss():
    """ "TD": neither the number of windows nor the other windows enter a step."""
    videos, plan = make_videos([20]), StreamPlan([20], SHAPE)
    trainer = make_trainer(update="window", frozen_norms=True)
    trainer.train(load(plan, videos))
    model = make_trainer().model.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = None
    for batch in load(plan, videos):
        output, state = model(batch.clips, state, batch.mask)
        state = state.detach()
        optimizer.zero_grad()
        objective(output, batch.labels, None).total.backward()
        optimizer.step()
    assert torch.allclose(flat(model), flat(trainer.model), atol=1e-6)


def test_windows_out_of_order_are_refused():
    videos, plan = make_videos([30, 30]), StreamPlan([30, 30], SHAPE)
    trainer = make_trainer()
    with pytest.raises(ValueError, match="window 1 of group 0 came after window -1 of group -1"):
        trainer.train(load(plan, videos, start=1))
    batches = list(load(plan, videos))
    with pytest.raises(ValueError, match="window 3 of group 0 came after window 1 of group 0"):
        make_trainer().train([batches[0], batches[1], batches[3]])
    with pytest.raises(ValueError, match="window 2 of group 1 came after window 1 of group 0"):
        list(label_streams(Tiny(), [batches[0], batches[1], batches[6]], SHAPE))


def test_training_goes_on_in_the_middle_of_a_video(tmp_path):
    lengths = [30, 13, 26]
    videos, plan = make_videos(lengths), StreamPlan(lengths, SHAPE, group=2)
    whole = make_trainer()
    whole.train(load(plan, videos))
    first = make_trainer()
    first.train([batch for batch in load(plan, videos) if batch.item.index < 6])
    torch.save(first.state_dict(), tmp_path / "stop.pt")
    second = make_trainer(seed=9)
    second.load_state_dict(torch.load(tmp_path / "stop.pt", weights_only=True))
    second.train(load(plan, videos, start=6))
    assert torch.equal(flat(whole.model), flat(second.model))
    assert torch.equal(whole.model.norm.running_mean, second.model.norm.running_mean)


def test_frozen_norms_stay():
    videos, plan = make_videos([20]), StreamPlan([20], SHAPE)
    frozen, trained = make_trainer(frozen_norms=True), make_trainer()
    for trainer in (frozen, trained):
        trainer.train(load(plan, videos))
    assert not frozen.model.norm.running_mean.any() and trained.model.norm.running_mean.any()


def test_gradients_are_clipped():
    videos, plan = make_videos([20]), StreamPlan([20], SHAPE)
    free, clipped = make_trainer(), make_trainer(clip_norm=1e-3)
    for trainer in (free, clipped):
        before = flat(trainer.model)
        trainer.train(load(plan, videos))
        trainer.moved = (flat(trainer.model) - before).norm()
    assert clipped.moved <= 1.01e-4 < free.moved


@pytest.mark.parametrize("name", ["etesvs", "etesvs_convlstm", "memory_tcn", "block_recurrent"])
def test_lower_precision(name):
    """bfloat16 is close to float32, and goes on in the middle of a video bit by bit."""
    options = {"state_length": 8, "layers": 2, "channels": 8, "decoders": 1} if name == "block_recurrent" else {}
    plan = StreamPlan([24], SHAPE)
    labels = torch.arange(8)[None] % CLASSES
    generator = torch.Generator().manual_seed(1)
    batches = [
        StreamBatch(torch.randn(1, 3, 4, 32, 32, generator=generator), labels, torch.from_numpy(item.mask), item)
        for item in plan
    ]

    def make(level: str) -> StreamTrainer:
        torch.manual_seed(0)
        model = create_model(name, num_classes=CLASSES, width=0.25, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        return StreamTrainer(model, published_objective(name), optimizer, opt_level=level, frozen_norms=True)

    def train(trainer: StreamTrainer, some: list[StreamBatch]) -> float:
        torch.manual_seed(5)  # of dropout
        return trainer.train(some).mean_loss

    assert train(make("bf16"), batches) == pytest.approx(train(make("O0"), batches), rel=0.05)
    whole, first, second = make("bf16"), make("bf16"), make("bf16")
    train(whole, batches[:2])
    train(first, batches[:2])
    second.load_state_dict(first.state_dict())
    for trainer in (whole, second):
        train(trainer, batches[2:])
    assert torch.equal(flat(whole.model), flat(second.model))


def test_a_loss_that_is_not_finite_stops():
    videos, plan = make_videos([20]), StreamPlan([20], SHAPE)
    trainer = make_trainer()
    videos[0][0][9:] = torch.inf
    with pytest.raises(ValueError, match=r"window 1 of group 0 \(videos \[0\]\) is nan"):
        trainer.train(load(plan, videos))


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
def test_kept_activations_do_not_grow_with_the_video(name):
    peaks = []
    for length in (8, 40):
        torch.manual_seed(0)
        model = create_model(name, num_classes=CLASSES, width=0.25)
        trainer = StreamTrainer(model, published_objective(name), torch.optim.SGD(model.parameters(), lr=0.01))
        videos = [(torch.randn(length, 3, 32, 32), np.zeros(length, np.int64))]
        plan = StreamPlan([length], SHAPE)

        def batches(plan=plan, videos=videos):
            for item in plan:
                clips = videos[0][0][item.frames[0]].transpose(0, 1)[None]
                labels = torch.from_numpy(window_labels(SHAPE, item.window, videos[0][1]))[None]
                yield StreamBatch(clips, labels, torch.from_numpy(item.mask), item)

        _Saved.live = _Saved.peak = 0
        with torch.autograd.graph.saved_tensors_hooks(_Saved, lambda saved: saved.value):
            assert trainer.train(batches()).windows == length // 8
        peaks.append(_Saved.peak)
    assert peaks[1] == peaks[0] > 0


def test_labels_do_not_depend_on_the_group():
    lengths = [30, 13, 9, 17, 5]
    videos = make_videos(lengths)
    model = make_trainer().model
    found = {}
    for group in (1, 2, 5):
        plan = StreamPlan(lengths, SHAPE, group=group, shuffle=group == 2)
        predictions = list(label_streams(model, load(plan, videos), SHAPE))
        assert sorted(prediction.video for prediction in predictions) == [0, 1, 2, 3, 4]
        for prediction in predictions:
            assert prediction.truth.tolist() == videos[prediction.video][1].tolist()
        found[group] = {prediction.video: prediction.labels.tolist() for prediction in predictions}
    assert found[1] == found[2] == found[5]
    assert [len(found[1][video]) for video in range(5)] == lengths
    order = [prediction.video for prediction in label_streams(model, load(plan, videos), SHAPE)]
    assert order == [4, 1, 2, 3, 0]  # as they end: after 1, 2, 2, 3 and 4 windows


def test_labeling_goes_on_in_the_middle(tmp_path):
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
    loss = published_objective(name, update=update)(output, torch.tensor([[0, 1, 2, -100] * 2]), torch.tensor([2]))
    loss.total.backward()
    assert logits.grad.abs().sum() > 0


def test_wrong_options_are_refused():
    for option in ({"update": "epoch"}, {"weighting": "frame"}, {"clip_norm": 0.0}, {"opt_level": "O2"}):
        with pytest.raises(ValueError, match=next(iter(option))):
            make_trainer(**option)
    with pytest.raises(ValueError, match="no published loss is known for 'srtg'"):
        published_objective("srtg")
    with pytest.raises(ValueError, match="backbone"):
        published_objective("etesvs")(StreamOutput(torch.zeros(1, 1, 2, 3)), torch.zeros(1, 3), None)
    (batch,) = load(StreamPlan([8], SHAPE), make_videos([8]))
    for change in ("clips", "labels", "mask"):
        parts = {"clips": batch.clips, "labels": batch.labels, "mask": batch.mask} | {change: torch.zeros(1, 1)}
        with pytest.raises(ValueError, match=change):
            StreamBatch(**parts, item=batch.item)


def test_videos_that_have_ended_are_not_seen():
    """Neither BatchNorm nor the memory of the others notices them; their logits are 0."""
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
    output, after = _forward(together, last, before)
    expected, state = alone(last.clips[:1], before.take([0]), last.mask[:1])
    assert torch.equal(output.logits[:, :1], expected.logits) and not output.logits[:, 1].any()
    assert all(torch.equal(after[name][:1], value) and not after[name][1].any() for name, value in state.items())
    for one, other in zip(together.buffers(), alone.buffers(), strict=True):
        assert torch.equal(one, other)


def test_a_process_whose_videos_have_ended_still_steps():
    lengths = [30, 13]
    videos = make_videos(lengths)
    batches = list(load(StreamPlan(lengths, SHAPE, group=1, ranks=2, rank=1), videos))
    assert [bool(batch.item.valid.any()) for batch in batches] == [True, True, False, False]
    trainer = make_trainer()
    before = flat(trainer.model)
    report = trainer.train(batches)
    assert (report.windows, report.steps, report.frames) == (4, 1, 13) and not torch.equal(before, flat(trainer.model))
    (found,) = label_streams(trainer.model, batches, SHAPE)
    assert found.video == 1 and len(found.labels) == 13 and found.cross_entropy > 0
