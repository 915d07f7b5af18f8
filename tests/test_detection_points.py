"""ActionFormer and TriDet against the published networks: values, targets, losses, candidates; padding, options."""

import ast
import math
import threading
from dataclasses import astuple

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import made_input, made_weight, read_vector, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.losses import DetectionTargets, create_loss, list_losses
from vidseg.losses.points import (
    assign_points,
    distance_iou_loss,
    offset_iou,
    sigmoid_focal_loss,
)
from vidseg.losses.shared import shared_batch
from vidseg.models import create_model, list_models, load_weights
from vidseg.models._candidates import top_candidates
from vidseg.models._detection import DetectionOutput
from vidseg.models._identify import with_names
from vidseg.models._profile import count_cost, input_shape, measure
from vidseg.models._pyramid_layers import ChannelNorm, StochasticDepth, max_pool
from vidseg.models.actionformer import local_attention
from vidseg.models.tridet import decode_bins

# Small networks without dropout and noise.
SMALL = {
    "actionformer": {"maps": 16, "heads": 2, "window": 5, "levels": 4, "dropout": 0.0, "drop_path": 0.0},
    "tridet": {"maps": 32, "hidden": 24, "levels": 4, "bins": 4, "drop_path": 0.0, "input_noise": 0.0},
}
VARIANTS = [
    ("actionformer", {}),
    ("actionformer", {"window": (5, 3, 0, 0), "position_encoding": True, "max_seq_len": 24, "head_kernel": 5}),
    ("tridet", {}),
    (
        "tridet",
        {
            "window": 3,
            "ratio": 1.3,
            "position_encoding": True,
            "max_seq_len": 24,
            "head_kernel": 5,
            "boundary_kernel": 1,
            "head_maps": 8,
        },
    ),
]
FEATURES, CLASSES = 8, 5
LENGTHS = (40, 23, 1, 35)
INSTANCES = [[[2.0, 6.5], [10.0, 31.0], [12.0, 33.0]], [[3.0, 20.0]], [], [[0.0, 34.5], [11.0, 15.0]]]
LABELS = [[0, 1, 3], [2], [], [4, 4]]


def small(name: str, **options):
    """A network whose biases are not 0, so that padding matters."""
    torch.manual_seed(3)
    model = create_model(name, num_classes=CLASSES, in_features=FEATURES, **(SMALL[name] | options))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("bias"):
                value += 0.3 * torch.randn_like(value)
    return model


def padded_batch(*, extra: int = 0):
    """Features (B, D, L) that hold NaN on padding, the mask and the targets."""
    lengths = torch.tensor(LENGTHS)
    mask = torch.arange(int(lengths.max()) + extra) < lengths[:, None]
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(len(lengths), FEATURES, int(lengths.max()), generator=generator, dtype=torch.float64)
    features = F.pad(features, (0, extra)).masked_fill(~mask[:, None], math.nan)
    rows = [[*one, *[[0.0, 0.0]] * (3 - len(one))] for one in INSTANCES]
    labels = [[*one, *[-1] * (3 - len(one))] for one in LABELS]
    return features, mask, DetectionTargets(torch.tensor(rows), torch.tensor(labels))


def seeds(videos: int = len(LENGTHS)) -> list[int]:
    return list(range(videos))


# Published networks


class Published:
    """A vector: the network with its weights, the output for its input, what is expected."""

    def __init__(self, name: str):
        self.spec, values = read_vector(f"{name}_thumos")
        self.expected = dict(zip([label for label, *_ in self.spec["outputs"]], values, strict=True))
        ((_, shape, kind, seed),) = self.spec["inputs"]
        self.length = shape[2]
        options = {"drop_path": 0.0, "max_seq_len": self.length, "padding": "published"}
        self.model = create_model(name, num_classes=20, in_features=shape[1], **options)
        load_weights(self.model, {key: made_weight(key, size, kind) for key, size, kind in self.spec["state"]})
        self.heads = {}
        for head in ("cls_head", "reg_head", "start_head", "end_head"):
            if hasattr(self.model, head):
                getattr(self.model, head).register_forward_hook(
                    lambda _, inputs, output, head=head: self.heads.__setitem__(head, (inputs[0], output))
                )
        notes = self.spec["notes"]
        lengths, segments, labels = (
            ast.literal_eval(self._bracket(notes, start)) for start in ("; lengths ", "segments [", "with labels ")
        )
        self.lengths = lengths
        self.mask = torch.arange(self.length) < torch.tensor(lengths)[:, None]
        # The vector's grid unit n is the center of column n.
        self.targets = DetectionTargets(torch.tensor(segments) + 0.5, torch.tensor(labels))
        with torch.no_grad():
            self.output = self.model.eval()(made_input(shape, kind, seed), self.mask)

    @staticmethod
    def _bracket(text: str, start: str) -> str:
        """The list after `start`."""
        first = text.index("[", text.index(start))
        depth = 0
        for end in range(first, len(text)):
            depth += {"[": 1, "]": -1}.get(text[end], 0)
            if not depth:
                return text[first : end + 1]
        raise AssertionError(start)


@pytest.fixture(scope="module", params=["actionformer", "tridet"])
def published(request):
    return Published(request.param)


def test_published_values(published):
    model, spec = published.model, published.spec
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == [
        [key, shape] for key, shape, _ in spec["state"]
    ]
    assert sum(value.numel() for value in model.parameters()) == spec["params"]
    names = {"cls_head": "logits", "start_head": "start", "end_head": "end"}
    found = {}
    for head, (joined, output) in published.heads.items():
        levels = output if head == "reg_head" else joined.split(output)
        name = names.get(head) or ("offsets" if "offsets_0" in published.expected else "regression")
        found |= {f"{name}_{level}": value for level, value in enumerate(levels)}
    assert set(found) == {label for label in published.expected if label[-2] == "_" and label[-1].isdigit()}
    errors = {label: relative_error(value.float(), published.expected[label]) for label, value in found.items()}
    assert max(errors.values()) < 1e-6, errors


def test_published_targets(published):
    points = published.output.predictions["points"]
    low = torch.where(points[:, 1] > 1, 2 * points[:, 1], 0)
    high = torch.where(points[:, 1] < 32, 4 * points[:, 1], 10_000)
    four = torch.stack([points[:, 0] - 0.5, low, high, points[:, 1]], dim=1)
    assert relative_error(four, published.expected["points"]) == 0
    ranges = [(0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10_000)]
    for given_ranges in (None, ranges):
        found = assign_points(points, published.targets, num_classes=20, ranges=given_ranges)
        positive = found.classes.any(dim=2)
        classes = torch.where(positive, found.classes.int().argmax(dim=2), -1)
        assert relative_error(classes.float(), published.expected["class_of_point"]) == 0
        step = math.ceil(found.offsets.numel() / 4096)
        chosen = positive[..., None].expand(-1, -1, 2).flatten()[::step]
        expected = torch.from_numpy(published.expected["offset_targets"])
        assert chosen.sum() > 10 and torch.equal(found.offsets.flatten()[::step][chosen], expected[chosen])


def test_published_losses(published):
    name = "tridet" if hasattr(published.model, "start_head") else "actionformer"
    loss = create_loss(name, num_classes=20)
    terms = loss.terms(published.output, published.targets, published.mask, seeds=[0, 1])
    expected = {key: float(value[0]) for key, value in published.expected.items() if key.startswith("loss_")}
    assert float(terms["classes"]) == pytest.approx(expected["loss_cls_loss"], rel=1e-6)
    assert float(terms["segments"]) == pytest.approx(expected["loss_reg_loss"], rel=1e-6)
    before = loss.positives.clone()
    assert before != 50
    total = loss.eval()(published.output, published.targets, published.mask, seeds=[0, 1])
    assert float(total) == pytest.approx(expected["loss_final_loss"], rel=1e-6)
    assert torch.equal(loss.positives, before)


def test_published_candidates(published):
    strides = published.output.predictions["points"][:, 1]
    found = top_candidates(published.output, count=200, groups=strides)[0]
    segments = torch.from_numpy(published.expected["decoded_segments"]).view(-1, 2)
    scores = torch.from_numpy(published.expected["decoded_scores"])
    labels = torch.from_numpy(published.expected["decoded_labels"])
    assert torch.allclose(found.scores.float(), scores, rtol=1e-6)
    # Scores that differ by rounding have any order, and those at the end of a level's list may be others.
    alike = (found.scores[:, None].float() - scores).abs() < 1e-6
    alike &= (found.segments[:, None] - 0.5 - segments).abs().amax(dim=2) < 1e-3
    alike &= found.labels[:, None] == labels
    last = scores.view(-1, 200)[:, -1:].expand(-1, 200).flatten()
    settled = scores > last + 2e-6
    assert settled.sum() > 1150 and alike.any(dim=0)[settled].all() and alike.any(dim=1)[settled].all()


@pytest.mark.parametrize("name, size, branches", [("actionformer", 26_197_020, 14), ("tridet", 12_937_060, 10)])
def test_published_sizes(name, size, branches):
    """With the scales of stochastic depth, which the vectors do not have."""
    with torch.device("meta"):
        model = create_model(name, num_classes=20, in_features=64)
    assert sum(value.numel() for value in model.parameters()) == size + branches * 512


def test_names_and_attributes():
    assert set(SMALL) <= set(list_models(task="detection")) and set(SMALL) <= set(list_losses())
    for name in SMALL:
        model = small(name)
        assert (model.class_agnostic, model.in_features, model.num_classes) == (False, FEATURES, CLASSES)


# Output


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("length", [1, 8, 30])
def test_output(name, length):
    output = small(name).eval()(torch.randn(2, FEATURES, length))
    counts = [math.ceil(length / 2**level) for level in range(4)]
    points = torch.tensor([[2**level * n + 0.5, 2**level] for level in range(4) for n in range(counts[level])])
    found = output.predictions
    assert torch.equal(found["points"], points)
    assert output.scores.shape == (2, sum(counts), CLASSES) and output.valid.all()
    assert torch.equal(output.scores, found["logits"].sigmoid())
    assert output.segments.shape == ((2, sum(counts), CLASSES, 2) if name == "tridet" else (2, sum(counts), 2))
    assert (found["offsets"] >= 0).all() and found["offsets"].any()
    per_class = (-1, 1) if name == "tridet" else (-1,)
    position, stride = (value.view(per_class) for value in points.unbind(dim=1))
    assert torch.allclose(output.segments[..., 0], position - stride * found["offsets"][..., 0])
    assert torch.allclose(output.segments[..., 1], position + stride * found["offsets"][..., 1])


# Padded batches


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name, options", VARIANTS)
def test_padded_batch_gives_each_videos_own_result(name, options, training):
    model = small(name, **options).double().train(training)
    features, mask, _ = padded_batch(extra=11)
    output = model(features, mask)
    for video, length in enumerate(LENGTHS):
        alone = model(features[video : video + 1, :, :length])
        own = output.valid[video]
        assert alone.valid.all() and own.sum() == alone.valid.shape[1]
        assert torch.equal(output.predictions["points"][own], alone.predictions["points"])
        assert torch.allclose(output.segments[video, own], alone.segments[0], atol=1e-9)
        assert torch.allclose(output.scores[video, own], alone.scores[0], atol=1e-9)
        assert not output.scores[video, ~own].any()
    assert all(value.isfinite().all() for value in (output.segments, output.scores, *output.predictions.values()))


@pytest.mark.parametrize("name, options", VARIANTS)
def test_published_padding_is_that_of_a_padded_video(name, options):
    """A network with padding="published" computes as if every video were padded to `max_seq_len` columns."""
    sizes = options | {"max_seq_len": 64, "padding": "published"}
    model = small(name, **sizes).double().eval()
    features, mask, _ = padded_batch(extra=24)
    assert features.shape[2] == 64
    padded = model(features, mask)
    for video, length in enumerate(LENGTHS):
        alone = model(features[video : video + 1, :, :length])
        own = padded.valid[video]
        assert torch.allclose(padded.segments[video, own], alone.segments[0], atol=1e-9)
        assert torch.allclose(padded.scores[video, own], alone.scores[0], atol=1e-9)
    exact = small(name, **(sizes | {"padding": "exact"})).double().eval()
    whole = torch.randn(1, FEATURES, 64, dtype=torch.float64)
    assert torch.allclose(model(whole).scores, exact(whole).scores, atol=1e-9)
    assert not torch.allclose(model(whole[..., :50]).scores, exact(whole[..., :50]).scores, atol=1e-4)
    assert model(torch.randn(1, FEATURES, 70, dtype=torch.float64)).scores.isfinite().all()


def test_position_encoding_of_long_videos():
    model = small("actionformer", position_encoding=True, max_seq_len=10)
    table = model.backbone.position.table
    assert table.shape == (10, 16)
    expected = [math.sin(3), math.cos(3), math.sin(3 / 10_000 ** (2 / 16)), math.cos(3 / 10_000 ** (2 / 16))]
    assert (table[3, :4] * 4).tolist() == pytest.approx(expected, abs=1e-6)
    x = torch.zeros(3, 16, 20)
    added = model.backbone.position(x, torch.tensor([20, 10, 4]))
    stretched = F.interpolate(table.T[None], size=20, mode="linear", align_corners=False)
    assert torch.allclose(added[0], stretched[0], atol=1e-6)
    assert torch.equal(added[1, :, :10], table.T) and torch.equal(added[2, :, :4], table.T[:, :4])


# Parts


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 75), st.sampled_from([1, 3, 7, 19]), st.booleans(), st.integers(0, 2**31))
def test_local_attention_is_what_it_says(frames, window, padded, seed):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 2, frames, 4, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([frames, 1 + seed % frames if padded else frames])
    outside = (torch.arange(frames) >= lengths[:, None])[..., None] if padded else None
    found = local_attention(query, key, value, outside, heads=2, window=window)
    place = torch.arange(frames)
    near = (place[:, None] - place).abs() <= window // 2
    for video in range(2):
        length = int(lengths[video])
        for head in (slice(0, 2), slice(2, 4)):
            scores = query[video, :length, head] @ key[video, :length, head].T / math.sqrt(2)
            weights = scores.masked_fill(~near[:length, :length], -torch.inf).softmax(dim=1)
            assert torch.allclose(found[video, :length, head], weights @ value[video, :length, head], atol=1e-9)
    assert found.isfinite().all()


@pytest.mark.parametrize("dim", [1, 2])
def test_max_pool(dim):
    x = torch.randn(2, 3, 12)
    expected = F.max_pool1d(x, 3, stride=2, padding=1)
    layout = (lambda value: value) if dim == 2 else (lambda value: value.transpose(1, 2))
    assert torch.equal(max_pool(layout(x), None, dim=dim, exact=True), layout(expected))
    padding = torch.arange(12).expand(2, 1, -1) >= torch.tensor([7, 12])[:, None, None]
    negative = x.abs().neg().masked_fill(padding, 0)
    alone = F.max_pool1d(negative[:1, :, :7], 3, stride=2, padding=1)
    found = layout(max_pool(layout(negative), layout(padding), dim=dim, exact=True))
    assert torch.equal(found[:1, :, :4], alone)
    published = layout(max_pool(layout(negative), layout(padding), dim=dim, exact=False))
    assert (published[0, :, 3] == 0).all() and (alone[..., 3] < 0).all()


def test_channel_norm():
    norm = ChannelNorm(6).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    weight, bias = norm.weight.flatten(), norm.bias.flatten()
    expected = F.layer_norm(x.transpose(1, 2), (6,), weight, bias)
    assert torch.allclose(norm(x).transpose(1, 2), expected) and torch.allclose(
        norm.by_rows(x.transpose(1, 2)), expected
    )
    half = norm.float()(x.bfloat16())
    assert half.dtype == torch.bfloat16 and torch.allclose(half.double(), expected.transpose(1, 2), atol=0.05)


def test_decode_bins_is_what_it_says():
    starts, ends = torch.randn(2, 2, 3, 6, dtype=torch.float64)
    bins = torch.randn(2, 2 * 4, 6, dtype=torch.float64)
    found = decode_bins(starts, ends, bins)
    for video in range(2):
        for label in range(3):
            for point in range(6):
                for side, logits, order, sign in ((0, starts, (3, 2, 1, 0), -1), (1, ends, (0, 1, 2, 3), 1)):
                    sums = total = 0.0
                    for row, distance in enumerate(order):
                        at = point + sign * distance
                        score = float(bins[video, 4 * side + row, point])
                        score += float(logits[video, label, at]) if 0 <= at < 6 else 0.0
                        sums += math.exp(score)
                        total += math.exp(score) * distance
                    assert float(found[video, label, point, side]) == pytest.approx(total / sums, rel=1e-9)


def test_stochastic_depth():
    depth = StochasticDepth(2, 0.25)
    torch.nn.init.constant_(depth.scale, 3.0)
    x = torch.ones(4000, 2, 3)
    assert torch.equal(depth.eval()(x), 3 * x)
    torch.manual_seed(0)
    dropped = depth.train()(x)
    torch.manual_seed(0)
    assert torch.equal(depth(x), dropped)
    rows = dropped.flatten(1)
    assert set(rows.unique().tolist()) == {0.0, 4.0} and (rows == rows[:, :1]).all()
    assert (rows[:, 0] == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    with pytest.raises(ValueError, match=r"drop_path=1.0"):
        small("tridet", drop_path=1.0)


def test_noise_and_dropout_are_for_training():
    features = torch.randn(2, FEATURES, 20)
    for name, options in (
        ("tridet", {"input_noise": 0.5}),
        ("actionformer", {"dropout": 0.5, "drop_path": 0.5}),
        ("tridet", {"drop_path": 0.5}),
    ):
        model = small(name, **options)
        for module in model.modules():
            if isinstance(module, StochasticDepth):
                torch.nn.init.ones_(module.scale)
        torch.manual_seed(0)
        first = model(features).scores
        second = model(features).scores
        torch.manual_seed(0)
        assert torch.equal(model(features).scores, first) and not torch.allclose(first, second, atol=1e-4)
        model.eval()
        assert torch.equal(model(features).scores, model(features).scores)


# Targets and losses


def test_assigned_points():
    points = torch.tensor([[n + 0.5, 1.0] for n in range(20)] + [[2 * n + 0.5, 2.0] for n in range(10)])
    segments = torch.tensor([[[2.0, 6.0], [2.5, 5.5], [7.0, 17.0], [7.0, 17.0], [18.0, 18.2], [8.0, 16.0]]])
    targets = DetectionTargets(segments, torch.tensor([[0, 1, 2, 3, 4, -1]]))
    found = assign_points(points, targets, num_classes=5)
    positive = found.classes.any(dim=2)[0].nonzero()[:, 0].tolist()
    # Level 0: within 1.5 columns of a center at 4: positions 2.5 (on the edge) and 5.5 are out, 3.5 and 4.5 are in; the
    # long instance has distances above 4 and belongs to level 1; the short one contains no point.
    assert positive == [3, 4, 20 + 5, 20 + 6, 20 + 7]
    assert found.classes[0, 3].tolist() == [False, True, False, False, False]
    assert found.classes[0, 25].tolist() == [False, False, True, True, False]
    assert found.offsets[0, 25].tolist() == [(10.5 - 7) / 2, (17 - 10.5) / 2]
    everywhere = assign_points(points, targets, num_classes=5, radius=None)
    # Without a radius all points inside are positive; 2.5 lies on the start of the shorter instance.
    inside = everywhere.classes.any(dim=2)[0].nonzero()[:, 0].tolist()
    assert inside == [2, 3, 4, 5, 20 + 4, 20 + 5, 20 + 6, 20 + 7, 20 + 8]
    assert everywhere.classes[0, 2].tolist() == [True, False, False, False, False]
    overlapping = assign_points(points, targets, num_classes=5, ranges=[(0, 20), (0, 20)])
    assert overlapping.classes[0, 12].tolist() == [False, False, True, True, False]
    with pytest.raises(ValueError, match="ranges has 1 entries, but the network has 2 levels"):
        assign_points(points, targets, num_classes=5, ranges=[(0, 4)])
    none = DetectionTargets(torch.zeros(2, 0, 2), torch.zeros(2, 0).long())
    assert not assign_points(points, none, num_classes=5).classes.any()


def test_losses_of_segments():
    predicted = torch.tensor([[2.0, 4.0], [0.0, 0.0], [1.0, 3.0]])
    target = torch.tensor([[2.0, 4.0], [1.0, 3.0], [2.0, 2.0]])
    assert offset_iou(predicted, target).tolist() == pytest.approx([1, 0, 3 / 5])
    assert distance_iou_loss(predicted, target).tolist() == pytest.approx([0, 1 + (1 / 4) ** 2, 2 / 5 + (1 / 5) ** 2])


def test_sigmoid_focal_loss():
    logits, targets = torch.tensor([0.3, -2.0, 40.0]), torch.tensor([1.0, 0.0, 0.2])
    found = sigmoid_focal_loss(logits, targets)
    for logit, target, value in zip(logits.tolist(), targets.tolist(), found.tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        entropy = math.log1p(math.exp(-abs(logit))) + max(logit, 0) - logit * target
        wrong = 1 - (p * target + (1 - p) * (1 - target))
        assert value == pytest.approx((0.25 * target + 0.75 * (1 - target)) * wrong**2 * entropy, rel=1e-4)


def loss_of(name: str, features, mask, targets, *, model=None, loss=None):
    model = small(name).double() if model is None else model
    loss = create_loss(name, num_classes=CLASSES) if loss is None else loss
    return model, loss, loss(model(features, mask), targets, mask, seeds=seeds(len(features)))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("kind", ["none", "empty", "tiny", "padding"])
def test_losses_without_positives(name, kind):
    features, mask, targets = padded_batch()
    segments, labels = targets.segments.clone(), targets.labels.clone()
    if kind == "none":
        labels[:] = -1
    elif kind == "empty":
        segments, labels = segments[:, :0], labels[:, :0]
    elif kind == "tiny":
        segments[..., 0], segments[..., 1] = 3.1, 3.2
    else:  # in the padding of the second video
        labels[:] = -1
        segments[1, 0], labels[1, 0] = torch.tensor([25.0, 33.0]), 2
    model, loss, value = loss_of(name, features, mask, DetectionTargets(segments, labels))
    value.backward()
    assert value.isfinite() and value > 0
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
    assert float(loss.positives) == pytest.approx(0.9 * 50 + 0.1 / len(features))


@pytest.mark.parametrize("name", SMALL)
def test_loss_does_not_depend_on_padding(name):
    values = []
    for extra in (0, 40):
        _, _, value = loss_of(name, *padded_batch(extra=extra))
        values.append(value.item())
    assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.mark.parametrize(
    "name, options", [*VARIANTS, ("tridet", {"drop_path": 0.1}), ("actionformer", {"drop_path": 0.1})]
)
def test_gradients_reach_every_parameter(name, options):
    model = small(name, **options).double()
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.probability = 0.0
    _, _, value = loss_of(name, *padded_batch(), model=model)
    value.backward()
    for key, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), key


@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_those_of_the_loss(name):
    """Against finite differences, along random directions."""
    model = small(name).double()
    batch = padded_batch()
    loss = create_loss(name, num_classes=CLASSES, label_smoothing=0.1).double().eval()
    # The boundary heads of TriDet do not pass gradients on.
    parts = ("cls_head", "reg_head", "start_head", "end_head") if name == "tridet" else ("",)
    weights = [weight for key, weight in model.named_parameters() if key.startswith(parts)]
    generator = torch.Generator().manual_seed(1)
    _, _, value = loss_of(name, *batch, model=model, loss=loss)
    gradients = torch.autograd.grad(value, weights)
    for _ in range(3):
        steps = [1e-7 * torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in weights]
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                for weight, step in zip(weights, steps, strict=True):
                    weight += sign * step
                ends.append(loss_of(name, *batch, model=model, loss=loss)[2].item())
                for weight, step in zip(weights, steps, strict=True):
                    weight -= sign * step
        slope = sum(float((grad * step).sum()) for grad, step in zip(gradients, steps, strict=True))
        assert (ends[0] - ends[1]) / 2 == pytest.approx(slope, rel=1e-4)


def test_zero_weights_of_depthwise_convolutions_stay():
    """As the docstring of the option says."""
    torch.manual_seed(0)
    model = create_model("tridet", num_classes=CLASSES, in_features=FEATURES, **SMALL["tridet"], deviation=0.0).double()
    _, _, value = loss_of("tridet", *padded_batch(), model=model)
    value.backward()
    for block in (*model.backbone.stem, *model.backbone.branch):
        for layer in (block.psi, block.fc, block.convw, block.convkw, block.global_fc):
            assert not layer.weight.any() and not layer.weight.grad.any() and not layer.bias.grad.any()


def test_boundary_heads_do_not_train_the_backbone():
    model = small("tridet").double()
    features, mask, _ = padded_batch()
    features = features.nan_to_num().requires_grad_()

    def gradients() -> tuple[torch.Tensor, ...]:
        value = model(features, mask).predictions["offsets"].square().sum()
        return torch.autograd.grad(value, (features, model.start_head.head[0].conv.weight))

    assert all(gradient.any() for gradient in gradients())
    with torch.no_grad():
        for weight in model.reg_head.parameters():
            weight.zero_()
    of_features, of_head = gradients()
    assert of_head.any() and not of_features.any()


@pytest.mark.parametrize("name", SMALL)
def test_processes_that_share_a_batch_have_its_loss(name):
    features, mask, targets = padded_batch()
    model = small(name).double().eval()
    whole_loss = create_loss(name, num_classes=CLASSES)
    whole = whole_loss.terms(model(features, mask), targets, mask, seeds=seeds())
    barrier, sent, results, averages = threading.Barrier(2), [None, None], [None, None], [None, None]

    def process(rank: int, rows: slice) -> None:
        def mean(value):
            sent[rank] = value
            barrier.wait(60)
            both = (sent[0] + sent[1]) / 2
            barrier.wait(60)
            return both

        loss = create_loss(name, num_classes=CLASSES)
        own = DetectionTargets(targets.segments[rows], targets.labels[rows])
        with shared_batch(mean):
            results[rank] = loss.terms(model(features[rows], mask[rows]), own, mask[rows], seeds=seeds(len(own.labels)))
        averages[rank] = float(loss.positives)

    parts = (slice(0, 3), slice(3, 4))
    threads = [threading.Thread(target=process, args=(rank, rows)) for rank, rows in enumerate(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key, value in whole.items():
        assert torch.allclose((results[0][key] + results[1][key]) / 2, value, atol=1e-9), key
    assert averages == pytest.approx([float(whole_loss.positives)] * 2)


def test_the_moving_average_is_state_of_the_loss():
    features, mask, targets = padded_batch()
    model, loss, _ = loss_of("tridet", features, mask, targets)
    again = create_loss("tridet", num_classes=CLASSES)
    again.load_state_dict(loss.state_dict())
    first, second = (loss_of("tridet", features, mask, targets, model=model, loss=one)[2] for one in (loss, again))
    assert first.equal(second) and float(loss.positives) == float(again.positives) < 50


@pytest.mark.parametrize("name", SMALL)
def test_a_class_agnostic_network_has_the_loss_of_a_single_class(name):
    features, mask, targets = padded_batch()
    agnostic = small(name, class_agnostic=True).double()
    output = agnostic(features, mask)
    assert output.scores.shape[2] == 1
    loss = create_loss(name, num_classes=CLASSES, class_agnostic=True, label_smoothing=0.1)
    single = create_loss(name, num_classes=1, label_smoothing=0.1)
    ones = DetectionTargets(targets.segments, targets.labels.clamp(max=0))
    values = [one(output, given, mask, seeds=seeds()) for one, given in ((loss, targets), (single, ones))]
    assert values[0].equal(values[1])


@pytest.mark.parametrize("name", SMALL)
def test_trains_in_mixed_precision(name):
    features, mask, targets = padded_batch()
    model = small(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, _, value = loss_of(name, features.float(), mask, targets, model=model)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_learns_a_planted_signal(name):
    """Actions of two classes, whose features differ from the rest but for noise."""
    generator = torch.Generator().manual_seed(0)
    lengths, labels = [[6.0, 15.0], [20.0, 27.0]], [0, 1]
    features = 0.3 * torch.randn(4, FEATURES, 40, generator=generator)
    segments = torch.tensor([[[start + 2 * video, end + 2 * video] for start, end in lengths] for video in range(4)])
    for video in range(4):
        for (start, end), label in zip(segments[video].int().tolist(), labels, strict=True):
            features[video, 2 * label : 2 * label + 2, start:end] += 2
    targets = DetectionTargets(segments, torch.tensor([labels] * 4))
    model = small(name, levels=3)
    loss = create_loss(name, num_classes=CLASSES, initial_positives=10.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(50):
        value = loss(model(features), targets, seeds=seeds())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    with torch.no_grad():
        candidates = top_candidates(model.eval()(features), groups=None)
    for video, found in enumerate(candidates):
        for segment, label in zip(segments[video], labels, strict=True):
            best = found.segments[found.labels == label][0]
            assert (best - segment).abs().max() < 1.5, (name, video, label, best)


# Candidates


def test_top_candidates():
    scores = torch.tensor([[[0.9, 0.2], [0.9, 0.0005], [0.3, 0.8]]] * 2)
    scores[1] = 0
    segments = torch.tensor([[[0.0, 4.0], [1.0, 1.01], [2.0, 9.0]]] * 2)
    output = DetectionOutput(segments, scores, scores.any(dim=2))
    found = top_candidates(output)
    assert found[0].labels.tolist() == [0, 1, 0, 1] and found[0].scores.tolist() == pytest.approx([0.9, 0.8, 0.3, 0.2])
    assert found[0].segments.tolist() == [[0, 4], [2, 9], [2, 9], [0, 4]]
    assert [len(part) for part in found[1]] == [0, 0, 0]
    assert top_candidates(output, count=2)[0].scores.tolist() == pytest.approx([0.9])  # the other one is too short
    found = top_candidates(output, count=1, groups=torch.tensor([1, 1, 2]))[0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8]) and found.labels.tolist() == [0, 1]
    both = torch.stack([segments, segments + 100], dim=2)
    found = top_candidates(DetectionOutput(both, scores, output.valid))[0]
    assert found.segments.tolist() == [[0, 4], [102, 109], [2, 9], [100, 104]]
    with pytest.raises(ValueError, match="count=0"):
        top_candidates(output, count=0)
    with pytest.raises(ValueError, match=r"minimum_score=-1"):
        top_candidates(output, minimum_score=-1)
    with pytest.raises(ValueError, match=r"groups must be \(3,\).*\(2,\)"):
        top_candidates(output, groups=torch.tensor([1, 2]))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name, options", VARIANTS)
def test_same_on_cuda(name, options):
    """Output, loss, gradients and candidates."""
    results = []
    for device in ("cpu", "cuda"):
        features, mask, targets = padded_batch()
        model = small(name, **options).double().to(device)
        loss = create_loss(name, num_classes=CLASSES).to(device)
        features, mask, targets = features.to(device), mask.to(device), targets.to(device)
        output = model(features, mask)
        value = loss(output, targets, mask, seeds=seeds())
        value.backward()
        gradients = torch.cat([weight.grad.flatten() for weight in model.parameters()])
        best = top_candidates(output, count=20)[0]
        parts = (value, gradients, output.scores, output.segments, best.segments, best.scores, loss.positives)
        results.append([part.detach().cpu() for part in parts])
    for cpu, cuda in zip(*results, strict=True):
        assert torch.allclose(cpu, cuda, rtol=1e-5, atol=1e-8)


# Weights, costs, compilation, refused input


def test_weights():
    assert with_names(small("actionformer", drop_path=0.1).state_dict()) == ["actionformer"]
    assert with_names(small("tridet", drop_path=0.1).state_dict()) == ["tridet"]
    wrapped = {f"module.{key}": value for key, value in small("tridet").state_dict().items()}
    report = load_weights(small("tridet"), {"epoch": 3, "state_dict": wrapped})
    assert report.filled == 1 and report.left == ()
    averaged = {key: value + 1 for key, value in wrapped.items()}
    model = small("tridet")
    load_weights(model, {"epoch": 3, "state_dict": wrapped, "state_dict_ema": averaged})
    assert torch.equal(model.reg_head.scale[0].scale, averaged["module.reg_head.scale.0.scale"])
    with pytest.raises(ValueError, match="the keys of the file are those of tridet"):
        load_weights(small("actionformer"), small("tridet", drop_path=0.1).state_dict())


@pytest.mark.parametrize("name", SMALL)
def test_costs(name):
    shape = input_shape(name, in_features=FEATURES, frames=64)
    cost = count_cost(name, shape, num_classes=2, in_features=FEATURES, **SMALL[name])
    assert cost.counted_on == "meta" and cost.macs > 0
    timing = measure(small(name), torch.randn(shape), rounds=1)
    assert timing.training_bytes > timing.inference_bytes > 0


@pytest.mark.parametrize("name, options", [("actionformer", {"window": (5, 0)}), ("tridet", {"padding": "published"})])
def test_compiled_networks(name, options):
    model = small(name, **(options | {"levels": 2, "stem": 1, "max_seq_len": 48})).eval()
    features = torch.randn(2, FEATURES, 40)
    mask = torch.arange(40) < torch.tensor([[40], [29]])
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for found, expected in zip(astuple(compiled(features, mask)), astuple(model(features, mask)), strict=True):
            if isinstance(found, torch.Tensor):
                assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("actionformer", {"padding": "none"}, "padding='none'"),
        ("actionformer", {"levels": 0}, "levels=0 must be at least 1"),
        ("actionformer", {"head_layers": 1}, "head_layers=1 must be at least 2"),
        ("actionformer", {"head_kernel": 2}, "kernel size 2 of a head must be odd"),
        ("actionformer", {"padding": "published", "max_seq_len": 100}, "max_seq_len=100 must be a multiple of 32"),
        ("actionformer", {"window": (3, 3)}, r"window=\(3, 3\).*6 levels"),
        ("actionformer", {"window": 4}, "window: 4 must be odd"),
        ("actionformer", {"maps": 30}, "maps=30 must be a multiple of heads=4"),
        ("tridet", {"padding": "none"}, "padding='none'"),
        ("tridet", {"maps": 24}, "maps=24 must be a multiple of 16"),
        ("tridet", {"window": 2}, "window=2 must be odd"),
        ("tridet", {"boundary_kernel": 0}, "kernel size 0 of a head must be odd"),
        ("tridet", {"bins": 0}, "bins=0 must be at least 1"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, num_classes=2, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"initial_positives": 0.0}, "initial_positives=0.0"),
    ],
)
def test_wrong_loss_options(options, message):
    with pytest.raises(ValueError, match=message):
        create_loss("actionformer", num_classes=2, **options)


@pytest.mark.parametrize("name", SMALL)
def test_wrong_input(name):
    model = small(name)
    with pytest.raises(ValueError, match=r"\(B, 8, L\).*\(2, 12, 8\)"):
        model(torch.randn(2, 12, FEATURES))
    with pytest.raises(ValueError, match=r"bool of shape \(2, 12\).*float32"):
        model(torch.randn(2, FEATURES, 12), torch.ones(2, 12))
