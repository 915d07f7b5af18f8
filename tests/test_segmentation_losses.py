"""Losses of segmentation networks: published values, padding, weights from labels, what they refuse."""

import json
import math

import pytest
import torch
from golden_vectors import FOLDER, made_input

from vidseg.losses import create_loss, list_losses, register_loss
from vidseg.losses.staged import StagedLoss
from vidseg.losses.targets import (
    boundary_frames,
    class_counts,
    filter_gaussian,
    gaussian_similarity,
    median_frequency_weights,
    smoothed_boundaries,
    smoothed_labels,
)
from vidseg.losses.terms import (
    boundary_cross_entropy,
    cross_entropy,
    focal_loss,
    soft_cross_entropy,
    transition_cross_entropy,
    truncated_mse,
)
from vidseg.models._segmentation import SegmentationOutput
from vidseg.models.c2f_tcn import ensemble_probabilities

VECTORS = json.loads((FOLDER / "segmentation_losses.json").read_text())["cases"]
POST = json.loads((FOLDER / "segmentation_postprocess.json").read_text())
NAMES = ("mstcn", "mstcn2", "asformer", "asrf", "c2f_tcn", "diffact")


def cases(name: str) -> list[dict]:
    return [case for case in VECTORS if case["loss"] == name]


def read_case(case: dict) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The case's tensors, and its labels with -100 on padding."""
    tensors = {
        spec["name"]: made_input(spec["shape"], spec["kind"], spec["seed"]) * spec["scale"] for spec in case["inputs"]
    }
    labels = torch.tensor([[label for label, count in runs for _ in range(count)] for runs in case["labels"]])
    return tensors, labels.masked_fill(labels == case.get("ignore_index", -100), -100)


def close(value: torch.Tensor, expected: float | list[float]) -> bool:
    return value.tolist() == pytest.approx(expected, rel=1e-5)


# Published values


@pytest.mark.parametrize("case", cases("mstcn"))
def test_loss_of_mstcn(case):
    tensors, labels = read_case(case)
    expected, logits = case["expected"], tensors["logits"]
    assert close(cross_entropy(logits, labels, labels >= 0), expected["ce_per_stage"])
    assert close(truncated_mse(logits, labels >= 0, mean="padded"), expected["tmse_per_stage"])
    loss = create_loss("mstcn", num_classes=case["num_classes"], smoothing_mean="padded")
    assert close(loss(SegmentationOutput(logits), labels), expected["total"])


@pytest.mark.parametrize("case", cases("asrf"))
def test_loss_of_asrf(case):
    tensors, labels = read_case(case)
    expected, logits, valid = case["expected"], tensors["logits"], labels >= 0
    weights = torch.tensor(case["class_weight"])
    assert close(cross_entropy(logits, labels, valid, class_weights=weights), expected["weighted_ce_per_stage"])
    plain = truncated_mse(logits, valid, mean="videos", over="time", detach=False)
    assert close(plain, expected["tmse_per_stage"])
    similarity = gaussian_similarity(tensors["features"])
    similar = truncated_mse(logits, valid, mean="videos", over="time", detach=False, similarity=similarity)
    assert close(similar, expected["gstmse_per_stage"])
    assert close(focal_loss(logits, labels, valid, per_frame=False), expected["focal_per_stage"])
    boundaries = tensors["boundary_logits"]
    assert close(
        boundary_cross_entropy(boundaries, boundary_frames(labels, valid), valid, boundary_weight=case["pos_weight"]),
        expected["boundary_per_stage"],
    )
    loss = create_loss(
        "asrf",
        num_classes=case["num_classes"],
        class_weights=weights,
        boundary_weight=case["pos_weight"],
        boundary=case["lambda_b"],
        smoothing_over="time",
    )
    output = SegmentationOutput(logits, boundaries)
    assert close(loss(output, labels, features=tensors["features"]), expected["total"])


@pytest.mark.parametrize("case", cases("c2f_tcn"))
def test_loss_of_c2f_tcn(case):
    tensors, labels = read_case(case)
    expected = case["expected"]
    levels = [tensors[name] for name in ("y1", "y2", "y3", "y4", "y5", "y")]
    whole = torch.full((len(labels),), labels.shape[1])  # padded frames go through the published network
    probabilities = ensemble_probabilities(levels, whole, weights=case["ensemble_weights"][::-1])
    output = SegmentationOutput(torch.stack([levels[-1], (probabilities + 1e-10).log()]))
    loss = create_loss("c2f_tcn", num_classes=case["num_classes"], smoothing_mean="padded")
    terms = loss.terms(output, labels)
    assert close(terms["cross_entropy"], expected["ce"])
    assert close(terms["smoothing"], expected["smoothing_already_times_0.15"])
    assert close(loss(output, labels), expected["total"])


@pytest.mark.parametrize("case", cases("diffact"))
def test_loss_of_diffact(case):
    tensors, labels = read_case(case)
    expected = case["expected"]
    output = SegmentationOutput(torch.stack([tensors["encoder_logits"], tensors["decoder_logits"]]))
    weights = case["class_weight"]
    soft = case["soft_label"]
    loss = create_loss(
        "diffact",
        num_classes=case["num_classes"],
        soft_label=soft,
        boundary_smooth=case["boundary_smooth"],
        class_weights=None if soft or weights is None else torch.tensor(weights),
    )
    target = loss.model_inputs(labels, None, seeds=[0])["boundaries"]
    assert target[0, 0].tolist() == pytest.approx(case["boundary_target"], abs=1e-6)
    factors = case["loss_weights"]
    names = {"cross_entropy": "ce_loss", "smoothing": "mse_loss", "boundary": "boundary_loss"}
    for term, value in loss.terms(output, labels).items():
        part, _, kind = term.partition("_")
        key = f"{part}_{names[kind]}"
        assert close(value, factors[key] * expected[key])
    assert close(loss(output, labels), expected["total_before_division_by_batch_size"])


@pytest.mark.parametrize("case", POST["boundary_targets"])
def test_boundary_targets_are_the_published_ones(case):
    labels = torch.tensor([[label for label, count in case["labels"] for _ in range(count)]])
    valid = torch.ones_like(labels, dtype=torch.bool)
    ratio = case["asrf_downsampled_by"]
    kept = torch.tensor([label for label, count in case["asrf_downsampled_labels"] for _ in range(count)])
    assert boundary_frames(labels, valid)[0, 0].nonzero()[:, 0].tolist() == case["asrf_boundary_frames"]
    reduced = boundary_frames(labels, valid, ratio=ratio)
    assert reduced[0, 0].nonzero()[:, 0].tolist() == case["asrf_downsampled_boundary_frames"]
    assert torch.equal(labels[0, ::ratio], kept) and reduced.shape[2] == len(kept)
    for sigma in (None, 1, 3, 20):
        target = smoothed_boundaries(labels, valid, sigma=sigma)[0, 0]
        assert target.tolist() == pytest.approx(case[f"diffact_boundary_smooth_{sigma}"], abs=1e-6)


# Padding, and frames without a label


def made_batch(frames: int = 40, *, classes: int = 5):
    """Outputs, features, mask and labels of three videos of 31, 2 and 17 frames, padded to `frames`, in double."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([31, 2, 17])
    mask = torch.arange(frames) < lengths[:, None]

    def made(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, 31, generator=generator, dtype=torch.float64)
        return torch.nn.functional.pad(values, (0, frames - 31)).masked_fill(~mask[:, None], 0)

    output = SegmentationOutput(3 * made(2, 3, classes), made(2, 3, 1))
    features = 0.2 * made(3, 4)
    labels = torch.randint(classes, (3, 8), generator=generator).repeat_interleave(5, dim=1)
    labels = torch.nn.functional.pad(labels, (0, max(0, frames - 40)))[:, :frames].masked_fill(~mask, -100)
    return output, features, mask, labels


@pytest.mark.parametrize("name", NAMES)
def test_more_padding_changes_nothing(name):
    loss = create_loss(name, num_classes=5, **({"presence": 0.3} if name == "c2f_tcn" else {}))
    values = []
    for frames in (31, 40, 77):
        output, features, mask, labels = made_batch(frames)
        values.append(float(loss(output, labels, mask, features=features)))
        assert float(loss(output, labels, features=features)) == values[-1]  # the mask says what the labels do
    assert values[0] > 0.1
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


def test_published_mean_of_mstcn_shrinks_with_padding():
    loss = create_loss("mstcn", num_classes=5, smoothing_mean="padded")
    few, many = (loss.terms(*(made_batch(frames)[index] for index in (0, 3))) for frames in (31, 77))
    assert few["cross_entropy"].item() == pytest.approx(many["cross_entropy"].item())
    assert few["smoothing"].item() == pytest.approx(many["smoothing"].item() * 76 / 30)
    # With one video and no padding both means are the same.
    output, _, _, labels = made_batch()
    one = SegmentationOutput(output.logits[:, :1, :, :31])
    assert float(loss(one, labels[:1, :31])) == pytest.approx(
        float(create_loss("mstcn", num_classes=5)(one, labels[:1, :31]))
    )


@pytest.mark.parametrize("name", ["asrf", "diffact"])
def test_mean_over_videos(name):
    """The loss of a batch is the mean of its videos' losses; ASRF's cross entropy is a mean over frames instead."""
    loss = create_loss(name, num_classes=5)
    output, features, mask, labels = made_batch()
    together = loss.terms(output, labels, mask, features=features)
    alone = []
    for video, frames in enumerate((31, 2, 17)):
        part = slice(video, video + 1)
        cut = SegmentationOutput(output.logits[:, part, :, :frames], output.boundaries[:, part, :, :frames])
        alone.append(loss.terms(cut, labels[part, :frames], features=features[part, :, :frames]))
    for term, value in together.items():
        weights = [31 / 50, 2 / 50, 17 / 50] if (name, term) == ("asrf", "cross_entropy") else [1 / 3] * 3
        mean = sum(weight * float(own[term]) for weight, own in zip(weights, alone, strict=True))
        assert float(value) == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_frames_without_a_label(name):
    """They have no class to learn: their labels' gradient in the cross entropy is 0."""
    loss = create_loss(name, num_classes=5, **({"soft_label": None} if name == "diffact" else {}))
    output, features, mask, labels = made_batch()
    labels[0, 10:15] = -100
    logits = output.logits.clone().requires_grad_()
    terms = loss.terms(SegmentationOutput(logits, output.boundaries), labels, mask, features=features)
    sum(value for term, value in terms.items() if "cross_entropy" in term).backward()
    stage = logits.grad[-1]
    assert not stage[0, :, 10:15].any() and stage[0, :, :10].any() and not stage[1, :, 2:].any()


def test_batches_of_nothing_have_no_loss():
    """A single frame has no change, frames without a label no class; nothing is NaN."""
    output = SegmentationOutput(torch.zeros(1, 1, 5, 1, requires_grad=True), torch.zeros(1, 1, 1, 1))
    nothing = torch.tensor([[-100]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    for name in NAMES:
        loss = create_loss(name, num_classes=5)
        terms = loss.terms(output, nothing, mask, features=torch.zeros(1, 2, 1))
        assert {value.item() for value in terms.values()} == {0.0}, name
    over_time = create_loss("asrf", num_classes=5, smoothing_over="time")
    value = over_time(output, nothing, mask, features=torch.zeros(1, 2, 1))
    value.backward()
    assert value.item() == 0 and output.logits.grad.isfinite().all()


# Terms


def test_smoothing_gradients():
    """To both frames of a change, or to the later one alone; none where the change is cut off."""
    valid = torch.ones(1, 3, dtype=torch.bool)
    for detach, touched in ((True, [False, True, True]), (False, [True, True, True])):
        logits = torch.tensor([[[[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]]]], requires_grad=True)
        truncated_mse(logits, valid, detach=detach).sum().backward()
        assert logits.grad[0, 0].abs().sum(dim=0).gt(0).tolist() == touched
    steep = torch.tensor([[[[-20.0, 20.0, 20.0], [0.0, 0.0, 0.0]]]], requires_grad=True)
    value = truncated_mse(steep, valid)
    value.sum().backward()
    assert value.item() == pytest.approx((16 + 16) / 4) and not steep.grad.any()


def test_smoothing_over_time_ignores_padding():
    output, _, mask, _ = made_batch()
    for video, frames in enumerate((31, 2, 17)):
        part = output.logits[:, video : video + 1]
        padded = truncated_mse(part, mask[video : video + 1], mean="videos", over="time")
        whole = truncated_mse(part[..., :frames], mask[video : video + 1, :frames], mean="videos", over="time")
        assert torch.allclose(padded, whole) and bool(padded.gt(0).all()) == (frames > 2)  # one pair is all of its time


def test_focal_loss_of_frames():
    logits = torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]])
    labels = torch.tensor([[0, 1]])
    p = [1 / (1 + math.exp(-2)), 0.5]
    expected = sum(0.25 * (1 - value) ** 2 * -math.log(value) for value in p) / 2
    assert float(focal_loss(logits, labels, labels >= 0)) == pytest.approx(expected)


def test_class_weights():
    logits = torch.zeros(1, 1, 2, 3)
    logits[0, 0, 0, 0] = 1.0
    labels = torch.tensor([[0, 1, 1]])
    each = [math.log(1 + math.exp(-1)), math.log(2), math.log(2)]
    weights = torch.tensor([3.0, 1.0])
    by_weight = (3 * each[0] + each[1] + each[2]) / 5
    by_video = (3 * each[0] + each[1] + each[2]) / 3
    valid = labels >= 0
    assert float(cross_entropy(logits, labels, valid, class_weights=weights)) == pytest.approx(by_weight)
    assert float(cross_entropy(logits, labels, valid, class_weights=weights, mean="videos")) == pytest.approx(by_video)


def test_soft_cross_entropy_of_hard_targets():
    output, _, mask, labels = made_batch()
    hard = torch.nn.functional.one_hot(labels.clamp(min=0), 5).transpose(1, 2).double()
    assert torch.allclose(
        soft_cross_entropy(output.logits, hard, mask), cross_entropy(output.logits, labels, mask, mean="videos")
    )


def test_transition_loss_has_gradients_at_boundaries():
    labels = torch.tensor([[0, 0, 1, 1]])
    valid = torch.ones_like(labels, dtype=torch.bool)
    right = 20.0 * torch.nn.functional.one_hot(labels, 2).transpose(1, 2)[None]
    target = boundary_frames(labels, valid)
    assert float(transition_cross_entropy(right, target, valid)) == pytest.approx(0, abs=1e-5)
    assert float(transition_cross_entropy(right.flip(3), 1 - target, valid)) > 10
    right.requires_grad_()
    transition_cross_entropy(right, 1 - target, valid).sum().backward()
    assert right.grad.isfinite().all()


def test_presence_of_classes():
    loss = create_loss("c2f_tcn", num_classes=2, presence=1.0, smoothing=0.0)
    probabilities = torch.tensor([[[0.9, 0.3], [0.1, 0.7]]])
    output = SegmentationOutput(probabilities.log()[None])
    terms = loss.terms(output, torch.tensor([[0, 0]]))
    assert float(terms["presence"]) == pytest.approx(-(math.log(0.9) + math.log(1 - 0.7)) / 2, rel=1e-5)
    certain = SegmentationOutput(torch.tensor([[[[0.0], [-math.inf]]]]).clamp(min=-200).requires_grad_())
    value = loss(certain, torch.tensor([[1]]))
    value.backward()
    assert value.isfinite() and certain.logits.grad.isfinite().all()


# Targets


def test_gaussian_filter_of_short_videos():
    """Mirrored again and again where the filter is wider than the video: its mean stays."""
    x = torch.zeros(2, 1, 6, dtype=torch.float64)
    x[0, 0, 2] = x[1, 0, 1] = 1
    filtered = filter_gaussian(x, torch.tensor([6, 2]), 9.0)
    assert filtered[0].sum() == pytest.approx(1) and filtered[1, 0, :2].sum() == pytest.approx(1)
    assert filtered[0].std() < 0.01
    alone = filter_gaussian(x[1:, :, :2], torch.tensor([2]), 9.0)
    assert torch.allclose(filtered[1:, :, :2], alone)


def test_videos_without_a_change_have_no_boundary():
    labels = torch.zeros(1, 7, dtype=torch.long)
    valid = torch.ones_like(labels, dtype=torch.bool)
    assert not smoothed_boundaries(labels, valid).any() and not smoothed_boundaries(labels, valid, sigma=None).any()
    assert boundary_frames(labels, valid).sum() == 1


def test_padding_has_no_boundary():
    labels = torch.tensor([[1, 1, 2, -100, -100]])
    valid = labels >= 0
    assert boundary_frames(labels, valid).flatten().tolist() == [1, 0, 1, 0, 0]
    assert smoothed_boundaries(labels, valid, sigma=None).flatten().tolist() == [0, 1, 1, 0, 0]
    assert not smoothed_boundaries(labels, valid, sigma=2).flatten()[3:].any()
    soft = smoothed_labels(labels, valid, num_classes=3, sigma=1.0)
    assert not soft[..., 3:].any() and torch.allclose(soft.sum(dim=1)[0, :3], torch.ones(3))


def test_weights_from_labels():
    sequences = [torch.tensor([0, 0, 0, 1, 1, -100]), torch.tensor([2, 2, 2, 2, 2, 2])]
    counts, boundaries = class_counts(sequences, num_classes=4)
    assert counts.tolist() == [3, 2, 6, 0] and boundaries == 3
    assert median_frequency_weights(counts).tolist() == pytest.approx([2 / 3, 1, 1 / 3, 1])
    asrf = create_loss("asrf", num_classes=4, label_sequences=sequences)
    assert asrf.class_weights.tolist() == pytest.approx([2 / 3, 1, 1 / 3, 1]) and asrf.boundary_weight == pytest.approx(
        11 / 3
    )
    given = create_loss("asrf", num_classes=4, label_sequences=sequences, boundary_weight=7.0)
    assert given.boundary_weight == 7 and given.class_weights is not None
    hard = create_loss("diffact", num_classes=4, label_sequences=sequences, soft_label=None)
    assert hard.class_weights.tolist() == pytest.approx([11 / 52, 11 / 48, 11 / 64, 11 / 40])
    assert create_loss("diffact", num_classes=4, label_sequences=sequences).class_weights is None
    assert create_loss("mstcn", num_classes=4, label_sequences=sequences).class_weights is None
    with pytest.raises(ValueError, match="sequence 2: label 2 is out of range; expected 0 to 1"):
        create_loss("mstcn", num_classes=2, label_sequences=sequences)
    with pytest.raises(ValueError, match="no label sequence"):
        create_loss("mstcn", num_classes=2, label_sequences=[])


# What losses refuse


def test_wrong_labels():
    loss = create_loss("mstcn", num_classes=5)
    output, _, mask, labels = made_batch()
    with pytest.raises(ValueError, match=r"labels have shape \(3, 39\).*\(3, 40\)"):
        loss(output, labels[:, 1:], mask)
    labels[1, 1] = 5
    with pytest.raises(ValueError, match="label 5 at frame 1 of video 1 of the batch; expected 0 to 4"):
        loss(output, labels, mask)
    labels[1, 1] = -1
    with pytest.raises(ValueError, match="label -1 at frame 1"):
        loss(output, labels, mask)


def test_asrf_needs_features_and_boundaries():
    loss = create_loss("asrf", num_classes=5)
    output, features, mask, labels = made_batch()
    with pytest.raises(ValueError, match="features="):
        loss(output, labels, mask)
    with pytest.raises(ValueError, match="boundaries"):
        loss(SegmentationOutput(output.logits), labels, mask, features=features)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("mstcn", {"smoothing_mean": "all"}, "smoothing_mean is 'all'"),
        ("mstcn", {"class_weights": [1.0, 2.0]}, "5 finite numbers"),
        ("asrf", {"class_weights": [1.0, 1.0, 1.0, 1.0, math.inf]}, "finite"),
        ("asrf", {"smoothing_over": "frames"}, "smoothing_over is 'frames'"),
        ("diffact", {"class_weights": [1.0] * 5}, "class_weights require hard labels"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_loss(name, num_classes=5, **options)


def test_names():
    assert set(NAMES) <= set(list_losses())
    with pytest.raises(ValueError, match=r"unknown loss 'astrf'; closest: asrf"):
        create_loss("astrf", num_classes=2)
    with pytest.raises(TypeError, match="'asrf' has no option 'padding'; available: class_weights"):
        create_loss("asrf", num_classes=2, padding=1)
    with pytest.raises(ValueError, match="'mstcn' is already registered"):
        register_loss("mstcn", StagedLoss)
