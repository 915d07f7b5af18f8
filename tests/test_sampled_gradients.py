"""Sampled gradients: what is sampled, and that the gradients are those of ordinary training."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vidseg.models._snippets import SnippetDetector
from vidseg.tasks.detection.sampled_gradients import SnippetSampling, backward_sampled, sample_snippets

GOLDEN = json.loads((Path(__file__).parent / "golden/detection_sgs.json").read_text())
STRATEGIES = ("random", "grid", "block", "boundary")


class Encoder(nn.Module):
    """A layer, a norm with fixed statistics and tanh for each snippet; counts what it sees."""

    def __init__(self, inputs: int, outputs: int, *, frozen: bool = True, norm: bool = True):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        self.norm = nn.BatchNorm1d(outputs) if norm else nn.Identity()
        self.out_features, self.frozen, self.largest = outputs, frozen, 0

    def train(self, mode=True):
        return super().train(mode and not self.frozen)

    def forward(self, x):
        self.largest = max(self.largest, len(x))
        return self.norm(self.layer(x)).tanh()


def made_model(*, frozen: bool = True, chunk: int = 4) -> SnippetDetector:
    torch.manual_seed(0)
    encoder = Encoder(5, 6, frozen=frozen)
    encoder.norm.running_var.uniform_(0.5, 1.5)
    head = nn.Sequential(nn.Conv1d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 2, 1))
    model = SnippetDetector(encoder, head, chunk=chunk).double()
    return model.train()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 16, 5, generator=generator, dtype=torch.float64)
    return x, torch.ones(2, 16, dtype=torch.bool), torch.randn(2, 2, 16, generator=generator, dtype=torch.float64)


def plain_gradients(model, x, y) -> dict[str, torch.Tensor]:
    model.zero_grad()
    features = model.backbone(x.flatten(0, 1)).unflatten(0, x.shape[:2]).transpose(1, 2)  # in one pass
    (model.detector(features) - y).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def sampled_gradients(model, x, mask, y, chosen, **options) -> dict[str, torch.Tensor]:
    model.zero_grad()

    def loss_of(features):
        return (model.detector(features) - y).square().mean()

    backward_sampled(model, x, mask, loss_of, lambda loss: loss.backward(), chosen, **options)
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def chosen_for(ratio: float, strategy="random", *, seed=0, length=16):
    sampling = SnippetSampling(ratio, strategy)
    rng = np.random.default_rng(seed)
    return [sample_snippets(sampling, length, rng.random(length), boundaries=np.array([3.0, 9.5])) for _ in range(2)]


def difference(one, other) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['groups']} groups")
def test_published_gradients(case):
    x = torch.tensor(GOLDEN["x"], dtype=torch.float64)
    encoder = Encoder(4, 3, norm=False)
    head = nn.Conv1d(3, 2, 3, padding=1)
    model = SnippetDetector(encoder, head, chunk=5).double()
    with torch.no_grad():
        parameters = (encoder.layer.weight, encoder.layer.bias, head.weight, head.bias)
        for parameter, name in zip(parameters, ("W", "b", "K", "kb"), strict=True):
            parameter.copy_(torch.tensor(GOLDEN[name]))
    count = case["groups"] * GOLDEN["chunk"]
    chosen = [(np.array(order[:count]), np.ones(count)) for order in case["order"]]
    found = sampled_gradients(model, x, torch.ones(2, 12, dtype=torch.bool), torch.tensor(GOLDEN["y"]), chosen)
    for name, key in (("backbone.layer.weight", "W"), ("backbone.layer.bias", "b")):
        torch.testing.assert_close(found[name], torch.tensor(case["encoder_grad"][key]).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(
        found["detector.weight"], torch.tensor(GOLDEN["full_grad"]["K"]).double(), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("chunk", [1, 4, 5, 100])
def test_all_snippets_give_the_gradients_of_ordinary_training(batch, strategy, chunk):
    x, mask, y = batch
    model = made_model(chunk=chunk)
    found = sampled_gradients(model, x, mask, y, chosen_for(1.0, strategy))
    assert model.backbone.largest <= chunk
    assert difference(found, plain_gradients(model, x, y)) < 1e-14


def test_statistics_of_the_batch_would_give_others(batch):
    x, mask, y = batch
    model = made_model(frozen=False)
    assert difference(sampled_gradients(model, x, mask, y, chosen_for(1.0)), plain_gradients(model, x, y)) > 1e-4


def test_a_sample_gives_the_gradient_of_its_snippets_alone(batch):
    x, mask, y = batch
    model, chosen = made_model(), chosen_for(0.5)
    found = sampled_gradients(model, x, mask, y, chosen)
    features = model.encode(x).detach().requires_grad_()
    (model.detector(features) - y).square().mean().backward()
    weight = torch.zeros_like(features)
    for video, (rows, _) in enumerate(chosen):
        weight[video, :, rows] = features.grad[video, :, rows]
    model.zero_grad()
    (model.encode(x) * weight).sum().backward()
    for name, parameter in model.backbone.named_parameters():
        torch.testing.assert_close(found[f"backbone.{name}"], parameter.grad, rtol=0, atol=1e-15)


def test_frames_of_other_snippets_have_no_influence(batch):
    x, mask, y = batch
    model, chosen = made_model(), chosen_for(0.5)

    expected = sampled_gradients(model, x, mask, y, chosen)
    changed = x.clone()
    for video, (rows, _) in enumerate(chosen):
        others = np.setdiff1d(np.arange(16), rows)
        changed[video, others] = 1e3
    frames = x.clone()

    def loss_of(features):
        frames.copy_(changed)
        return (model.detector(features) - y).square().mean()

    model.zero_grad()
    backward_sampled(model, frames, mask, loss_of, lambda loss: loss.backward(), chosen)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, expected[name])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_unbiased_gradients_have_the_expectation_of_ordinary_training(batch, strategy):
    x, mask, y = batch
    model = made_model()
    plain = plain_gradients(model, x, y)["backbone.layer.weight"]
    total = {False: 0, True: 0}
    rounds = 300
    for seed in range(rounds):
        for unbiased in total:
            found = sampled_gradients(model, x, mask, y, chosen_for(0.25, strategy, seed=seed), unbiased=unbiased)
            total[unbiased] = total[unbiased] + found["backbone.layer.weight"] / rounds
    error = float((total[True] - plain).norm() / plain.norm())
    assert error < 0.25
    assert float(total[False].norm() / plain.norm()) < 0.6  # as published


def test_loss_scale_and_accumulation_leave_the_sum(batch):
    x, mask, y = batch
    model, chosen = made_model(), chosen_for(0.5)
    expected = sampled_gradients(model, x, mask, y, chosen)
    model.zero_grad()
    backward_sampled(
        model,
        x,
        mask,
        lambda features: (model.detector(features) - y).square().mean(),
        lambda loss: (loss * 4096 / 2).backward(),
        chosen,
    )
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad / 2048, expected[name], rtol=1e-12, atol=0)


def test_padded_snippets_are_never_encoded(batch):
    x, mask, y = batch
    model = made_model()
    mask[1, 10:] = False
    x[1, 10:] = torch.nan
    chosen = [chosen_for(0.5)[0], chosen_for(0.5, length=10)[0]]
    found = sampled_gradients(model, x, mask, y, chosen)
    assert all(bool(value.isfinite().all()) for value in found.values())
    features = model.encode(x, mask)
    assert (features[1, :, 10:] == 0).all() and features.isfinite().all()


def test_recomputed_gradients_are_those_of_ordinary_training(batch):
    x, mask, y = batch
    model = made_model()
    plain = plain_gradients(model, x, y)
    model.zero_grad()
    (model.detector(model.encode(x, mask, recompute=True)) - y).square().mean().backward()
    assert difference(plain, {name: one.grad for name, one in model.named_parameters()}) < 1e-14


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "count, ratio", [(128, 0.3), (128, 0.06), (10, 0.01), (7, 0.5), (1, 0.3), (20, 1.0), (20, 0.0)]
)
def test_samples_have_the_share_and_the_probabilities_they_say(strategy, count, ratio):
    sampling, seen, rounds = SnippetSampling(ratio, strategy), Counter(), 3000
    boundaries = np.array([0.1, 0.4, 0.8]) * count
    for draws in np.random.default_rng(0).random((rounds, count)):
        rows, chances = sample_snippets(sampling, count, draws, boundaries=boundaries)
        assert len(rows) == math.ceil(count * ratio) == len(set(rows.tolist()))
        seen.update(rows.tolist())
    expected = np.zeros(count)
    expected[rows] = chances
    for row in rows.tolist():
        assert seen[row] / rounds == pytest.approx(expected[row], abs=0.05)


def test_the_boundary_strategy_prefers_boundaries():
    sampling = SnippetSampling(0.2, "boundary")
    seen = np.zeros(100)
    for draws in np.random.default_rng(0).random((500, 100)):
        seen[sample_snippets(sampling, 100, draws, boundaries=np.array([30.0, 70.0]))[0]] += 1
    assert seen[28:32].mean() > 3 * seen[45:55].mean()
    assert seen.min() > 0


@pytest.mark.parametrize("options, message", [({"ratio": 1.5}, "ratio=1.5"), ({"strategy": "fps"}, "strategy='fps'")])
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        SnippetSampling(**options)
