"""Losses of detection networks: targets and terms of ETAD and BMN against the published ones, sampling, batches."""

import json
import math
import threading
from types import SimpleNamespace

import pytest
import torch
from golden_vectors import FOLDER
from test_detection_models import CLASSES, FEATURES, SMALL, small

from vidseg.losses import DetectionTargets, create_loss, list_losses
from vidseg.losses.detection import draw_uniform
from vidseg.losses.proposal_targets import (
    assign_instances,
    boundary_targets,
    clip_instances,
    jittered_instances,
    paired_iou,
    proposal_offsets,
    sample_proposals,
)
from vidseg.losses.proposals import (
    balanced_cross_entropy,
    positive_smooth_l1,
    sampled_cross_entropy,
    sampled_squared_error,
)
from vidseg.losses.shared import shared_batch
from vidseg.models.etad import refine_segments

VECTOR = json.loads((FOLDER / "detection_targets.json").read_text())
OPTIONS = {"etad": {"stage_ious": (0.5, 0.6), "ratio": 0.5}, "bmn": {}}


def instances_of(annotations, duration: float, columns: int) -> DetectionTargets:
    segments = torch.tensor([annotation["segment"] for annotation in annotations], dtype=torch.float64)
    return DetectionTargets((segments / duration * columns).float()[None], torch.zeros(1, len(annotations)).long())


def case_targets(case):
    """Clipped instances in columns, which of them exist, and the columns of the video."""
    video, columns = case["video"], case["tscale"]
    duration = video.get("duration") or video["duration_second"] * video["feature_frame"] / video["duration_frame"]
    inside = torch.ones(1, columns, dtype=torch.bool)
    return *clip_instances(instances_of(video["annotations"], duration, columns), inside), inside


def close(found, expected, limit: float = 1e-5) -> bool:
    return torch.allclose(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=limit, atol=limit)


# Targets


@pytest.mark.parametrize("case", VECTOR["etad"], ids=lambda case: f"T={case['tscale']}")
def test_published_targets_of_etad(case):
    columns, expected = case["tscale"], case["expected"]
    segments, present, inside = case_targets(case)
    bounds = [boundary_targets(at, present, inside, offset=0, eps=1e-6)[0] for at in segments.unbind(dim=2)]
    assert close(bounds[0], expected["gt_start"]) and close(bounds[1], expected["gt_end"])
    proposals = torch.tensor(case["anchors"])[None] * columns
    iou, rows = assign_instances(proposals, segments, present)
    assigned = segments[0, rows[0]]
    assert close(iou[0], expected["iou"]) and close(assigned / columns, expected["assigned_segment"])
    assert torch.allclose(paired_iou(proposals, assigned[None]), iou)
    names = ("delta_start", "delta_end", "delta_center", "delta_width")
    offsets = proposal_offsets(proposals[0], assigned)
    assert all(close(found, expected[name], 1e-4) for found, name in zip(offsets.unbind(dim=1), names, strict=True))
    refined = refine_segments(proposals[0], torch.tensor(case["reg"])[:, :4])
    assert close(refined / columns, case["refined"])


@pytest.mark.parametrize("case", VECTOR["bmn"], ids=lambda case: f"T={case['tscale']}")
def test_published_targets_of_bmn(case):
    columns, expected = case["tscale"], case["expected"]
    segments, present, inside = case_targets(case)
    bounds = [boundary_targets(at, present, inside, offset=-0.5)[0] for at in segments.unbind(dim=2)]
    assert close(bounds[0], expected["start"]) and close(bounds[1], expected["end"])
    cells = torch.triu_indices(columns, columns)
    proposals = torch.stack([cells[0], cells[1] + 1], dim=1).float()[None]
    found = torch.zeros(columns, columns)
    found[cells[0], cells[1]] = assign_instances(proposals, segments, present)[0][0]
    assert close(found, expected["iou_map"])


def test_ends_of_refined_proposals_agree_with_their_targets():
    proposals = torch.tensor([[2.0, 7.0], [0.0, 3.0]])
    assigned = torch.tensor([[1.0, 9.5], [2.0, 5.0]])
    assert torch.allclose(refine_segments(proposals, proposal_offsets(proposals, assigned)), assigned, atol=1e-4)
    assert refine_segments(proposals, torch.full((2, 4), 1e4)).isfinite().all()


def test_iou_of_reversed_segments():
    segments = torch.tensor([[3.0, 1.0], [2.0, 2.0], [0.0, 4.0]])
    assert paired_iou(segments, torch.tensor([0.0, 4.0])).tolist() == [0, 0, 1]
    assert paired_iou(segments[1], segments[1]) == 0


def test_padding_is_never_assigned():
    segments = torch.tensor([[[0.0, 0.0], [6.0, 8.0]]])
    iou, rows = assign_instances(torch.tensor([[[1.0, 3.0], [5.0, 8.0]]]), segments, torch.tensor([[False, True]]))
    assert rows.tolist() == [[1, 1]] and torch.allclose(iou, torch.tensor([[0.0, 2 / 3]]))


# Sampling


@pytest.mark.parametrize("case", VECTOR["sampling_counts"], ids=lambda case: f"T={case['tscale']}-{case['ratio']}")
def test_published_numbers_of_proposals(case):
    found = {
        sampling: len(sample_proposals(case["tscale"], sampling=sampling, ratio=case["ratio"], seed=5))
        for sampling in ("random", "grid", "block")
    }
    assert found == {"random": case["sampled_random"], "grid": case["grid"], "block": case["block"]}


def test_published_grid():
    case = VECTOR["grid_anchors"]
    assert sample_proposals(case["tscale"], sampling="grid", ratio=case["ratio"]).tolist() == case["anchors"]


@pytest.mark.parametrize("sampling", ["random", "grid", "block"])
@pytest.mark.parametrize("longest", [None, 5])
def test_sampled_proposals_are_different_segments_of_the_video(sampling, longest):
    for length in (1, 2, 3, 9, 20, 41):
        for ratio in (0.01, 0.06, 0.5):
            found = [
                sample_proposals(length, sampling=sampling, ratio=ratio, max_duration=longest, seed=seed)
                for seed in range(12)
            ]
            for segments in found:
                start, end = segments.unbind(dim=1)
                assert len(segments) >= 1 and len(segments.unique(dim=0)) == len(segments)
                assert ((start >= 0) & (start < end) & (end <= length)).all()
                assert longest is None or (end - start <= longest).all()
            if sampling == "grid":
                assert all(torch.equal(segments, found[0]) for segments in found)
            elif length == 41:
                assert len({tuple(segments.flatten().tolist()) for segments in found}) > 1
    assert torch.equal(sample_proposals(9, sampling=sampling, seed=3), sample_proposals(9, sampling=sampling, seed=3))


def test_a_block_is_a_square_and_a_random_sample_is_uniform():
    start, end = sample_proposals(64, sampling="block", ratio=0.1, seed=1).unbind(dim=1)
    assert len(start.unique()) == len((end - start).unique()) == 14
    everything = sample_proposals(6, sampling="random", ratio=1.0, seed=1)
    assert len(everything.unique(dim=0)) == 21
    counts = torch.zeros(7, 7)
    for seed in range(2000):
        for start, end in sample_proposals(6, sampling="random", ratio=0.2, seed=seed).tolist():
            counts[start, end] += 1
    drawn = counts[counts > 0]
    assert len(drawn) == 21 and drawn.min() > 320 and drawn.max() < 450  # 4 of 21 in each of 2000: 381 on average


# Terms


def of_kind(kind: str):
    return [case for case in VECTOR["losses"] if case["loss"] == kind]


@pytest.mark.parametrize("case", of_kind("etad_bce_balance"), ids=lambda case: case.get("remark", "both"))
def test_published_balanced_cross_entropy(case):
    p, targets = torch.tensor(case["pred"]), torch.tensor(case["gt"])
    assert close(balanced_cross_entropy(p, targets, torch.ones_like(p, dtype=torch.bool)), case["expected"])


@pytest.mark.parametrize("case", of_kind("etad_smooth_l1"), ids=lambda case: case.get("remark", "positives"))
def test_published_smooth_l1(case):
    positive = torch.tensor(case["iou"]) > case["thresh"]
    assert close(
        positive_smooth_l1(torch.tensor(case["pred"]), torch.tensor(case["target"]), positive), case["expected"]
    )


@pytest.mark.parametrize("case", of_kind("etad_bce_sample"), ids=lambda case: case["remark"])
def test_published_sampled_cross_entropy(case):
    p, iou = torch.tensor(case["pred"]), torch.tensor(case["iou"])
    valid, draws = torch.ones_like(p, dtype=torch.bool), torch.rand(p.shape)
    assert close(sampled_cross_entropy(p, iou, valid, draws, threshold=case["pos_thresh"]), case["expected"])


@pytest.mark.parametrize("case", of_kind("etad_l2_sample"), ids=lambda case: case["remark"])
def test_published_sampled_squared_error(case):
    p, iou = torch.tensor(case["pred"]), torch.tensor(case["iou"])
    valid, draws = torch.ones_like(p, dtype=torch.bool), torch.rand(p.shape)
    found = sampled_squared_error(p, iou, valid, draws, high=case["high"], low=case["low"])
    assert close(found, case["expected"])


def test_published_terms_of_bmn():
    (case,) = of_kind("bmn_tem")
    valid = torch.ones(2, 20, dtype=torch.bool)
    found = sum(
        balanced_cross_entropy(torch.tensor(case[f"pred_{side}"]), torch.tensor(case[f"gt_{side}"]), valid)
        for side in ("start", "end")
    )
    assert close(found, case["expected"])
    cells = torch.triu_indices(8, 8)
    for kind in ("bmn_pem_cls", "bmn_pem_reg"):
        (case,) = of_kind(kind)
        p, iou = (torch.tensor(case[key])[:, cells[0], cells[1]] for key in ("pred", "iou_map"))
        valid = torch.ones_like(p, dtype=torch.bool)
        if kind == "bmn_pem_cls":
            found = balanced_cross_entropy(p, iou, valid, threshold=0.9)
        else:
            found = 0.5 * sampled_squared_error(p, iou, valid, torch.rand(p.shape), zeros=False)
        assert close(found, case["expected"])


def test_shares_of_sampled_terms():
    """With more positives than negatives all are kept once, not twice as in the published code."""
    p = torch.full((1, 8), 0.5, dtype=torch.float64)
    few = torch.tensor([[0.95] * 6 + [0.0] * 2])
    valid, draws = torch.ones(1, 8, dtype=torch.bool), torch.full((1, 8), 0.99)
    p[0, 6:] = 0.9
    found = sampled_cross_entropy(p, few, valid, draws, threshold=0.9)
    assert found.item() == pytest.approx((6 * math.log(2) + 2 * math.log(10)) / 8, abs=1e-4)
    # One of two negatives per positive: draws decide.
    many = torch.tensor([[0.95] * 2 + [0.0] * 6])
    draws = torch.tensor([[0.0, 0.0, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5]])
    p = torch.tensor([[0.5, 0.5, 0.9, 0.2, 0.2, 0.2, 0.2, 0.2]], dtype=torch.float64)
    found = sampled_cross_entropy(p, many, valid, draws, threshold=0.9)
    assert found.item() == pytest.approx((2 * math.log(2) + math.log(10)) / 3, abs=1e-4)
    # No middle target: the published ratio is infinite.
    iou = torch.tensor([[0.8] * 2 + [0.1] * 4 + [0.0] * 2])
    draws = torch.tensor([[0.9] * 2 + [0.1, 0.9, 0.9, 0.9] + [0.1, 0.9]])
    found = sampled_squared_error(torch.ones(1, 8), iou, valid, draws)
    assert found.item() == pytest.approx((2 * 0.04 + 0.81 + 1) / 4, rel=1e-5)
    found = sampled_squared_error(torch.ones(1, 8), iou, valid, draws, zeros=False)
    assert found.item() == pytest.approx((2 * 0.04 + 0.81) / 3, rel=1e-5)


def mean_log(*p: float) -> float:
    """Mean of -log p, with the published epsilon."""
    return sum(-math.log(value + 1e-6) for value in p) / len(p)


def one_instance():
    """A video of ten columns with one instance, and constant predictions of the boundaries."""
    targets = DetectionTargets(torch.tensor([[[2.0, 6.0]]]), torch.tensor([[0]]))
    return targets, {"starts": torch.full((1, 10), 0.5), "ends": torch.full((1, 10), 0.5)}


def test_terms_of_etad_by_definition():
    """Two stages with equal predictions; proposals with an IoU of 1 and 0."""
    targets, predictions = one_instance()
    stage = {
        "proposals": [[2.0, 6.0], [7.0, 9.0]],
        "ious": [[0.8, 0.9], [0.3, 0.2]],
        "regression": [[0.1, -0.1, 0.05, 0.2], [3.0, 3.0, 3.0, 3.0]],
        "bounds": [[0.6, 0.7], [0.1, 0.2]],
    }
    predictions |= {key: torch.tensor([value])[None].expand(2, -1, -1, -1) for key, value in stage.items()}
    output = SimpleNamespace(predictions=predictions, valid=torch.ones(1, 2, dtype=torch.bool))
    loss = create_loss("etad", num_classes=1, stage_ious=(0.7, 0.8))
    found = loss.terms(output, targets, seeds=[0])
    expected = {
        "boundaries": 2 * mean_log(0.5),
        "iou_classes": 2 * mean_log(0.8, 0.7),
        "ious": 2 * 5 * (0.1**2 + 0.2**2) / 2,
        "offsets": 2 * (10 * (0.1**2 / 2 + 0.1**2 / 2) + 10 * (0.05**2 / 2 + 0.2**2 / 2)),
        "bounds": 2 * 0.5 * (mean_log(0.6, 0.9) + mean_log(0.7, 0.8)),
    }
    assert {key: value.item() for key, value in found.items()} == pytest.approx(expected, rel=1e-4)


def test_terms_of_bmn_by_definition():
    targets, predictions = one_instance()
    # Columns whose bins, around their left edges, are covered by the windows at 2 and 6.
    predictions["starts"] = torch.tensor([[0.1, 0.9, 0.9, 0.9] + [0.1] * 6])
    predictions["ends"] = torch.tensor([[0.1] * 5 + [0.9, 0.9, 0.9] + [0.1] * 2])
    predictions["ious"] = torch.tensor([[[0.9, 0.8], [0.7, 0.4], [0.3, 0.3]]])
    segments = torch.tensor([[[2.0, 6.0], [2.0, 4.0], [7.0, 9.0]]])  # IoU 1, 0.5 and 0
    output = SimpleNamespace(segments=segments, predictions=predictions, valid=torch.ones(1, 3, dtype=torch.bool))
    found = create_loss("bmn", num_classes=1).terms(output, targets, seeds=[0])
    expected = {
        "boundaries": 2 * mean_log(0.9),
        "ious": 10 * 0.5 * (0.1**2 + 0.2**2) / 2,
        "iou_classes": (mean_log(0.8) + mean_log(0.6, 0.7)) / 2,
    }
    assert {key: value.item() for key, value in found.items()} == pytest.approx(expected, rel=1e-4)


# Whole losses


def batch(*, extra: int = 0, empty: bool = False):
    lengths = torch.tensor([18, 9, 13])
    mask = torch.arange(18 + extra) < lengths[:, None]
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(3, FEATURES, 18, generator=generator, dtype=torch.float64)
    features = torch.nn.functional.pad(features, (0, extra)).masked_fill(~mask[:, None], 0)
    segments = torch.tensor([[[1.0, 6.2], [8.0, 17.5]], [[2.0, 8.9], [0.0, 0.0]], [[0.0, 4.0], [3.0, 13.0]]])
    labels = torch.tensor([[0, 4], [2, -1], [1, 1]])
    if empty:
        segments, labels = segments[:, :0], labels[:, :0]
    return features, mask, DetectionTargets(segments.double(), labels)


def run(name, features, mask, targets, *, seeds, model=None, **options):
    model = small(name, class_agnostic=False).double() if model is None else model
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    loss = create_loss(name, num_classes=CLASSES, class_agnostic=False, **(OPTIONS[name] | options))
    output = model(features, mask, **loss.model_inputs(targets, mask, seeds=seeds))
    return model, loss, output


@pytest.mark.parametrize("name", SMALL)
def test_a_loss_is_the_sum_of_its_terms(name):
    features, mask, targets = batch()
    seeds = [1, 2, 3]
    model, loss, output = run(name, features, mask, targets, seeds=seeds)
    terms = loss.terms(output, targets, mask, seeds=seeds)
    value = loss(output, targets, mask, seeds=seeds)
    assert torch.allclose(value, sum(terms.values())) and name in list_losses()
    assert all(term.shape == () and term > 0 for term in terms.values())
    value.backward()
    assert [key for key, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []
    # Draws and proposals depend on the seeds alone.
    again = run(name, features, mask, targets, seeds=seeds, model=model)[2]
    assert torch.equal(loss(again, targets, mask, seeds=seeds), value)
    other = run(name, features, mask, targets, seeds=[4, 5, 6], model=model)[2]
    assert not torch.equal(loss(other, targets, mask, seeds=[4, 5, 6]), value)


@pytest.mark.parametrize("name", SMALL)
def test_padding_does_not_change_a_loss(name):
    values = []
    for extra in (0, 7):
        features, mask, targets = batch(extra=extra)
        if extra:
            targets = DetectionTargets(
                torch.nn.functional.pad(targets.segments, (0, 0, 0, 2)),
                torch.nn.functional.pad(targets.labels, (0, 2), value=-1),
            )
        _, loss, output = run(name, features, mask, targets, seeds=[1, 2, 3])
        values.append(loss.terms(output, targets, mask, seeds=[1, 2, 3]))
    assert all(torch.allclose(value, values[1][key], atol=1e-9) for key, value in values[0].items())
    # Without padding, no mask is needed.
    features, targets = features[:1, :, :18], DetectionTargets(targets.segments[:1], targets.labels[:1])
    mask = torch.ones(1, 18, dtype=torch.bool)
    _, loss, output = run(name, features, mask, targets, seeds=[1])
    assert torch.equal(loss(output, targets, mask, seeds=[1]), loss(output, targets, seeds=[1]))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("kind", ["no column", "padded", "short instances"])
def test_losses_without_positives_are_finite(name, kind):
    features, mask, targets = batch(empty=kind == "no column")
    if kind == "padded":
        targets = DetectionTargets(torch.zeros_like(targets.segments), torch.full_like(targets.labels, -1))
    elif kind == "short instances":
        segments = torch.zeros_like(targets.segments)
        segments[..., 0], segments[..., 1] = 3.2, 3.21
        targets = DetectionTargets(segments, targets.labels)
    model, loss, output = run(name, features, mask, targets, seeds=[1, 2, 3])
    value = loss(output, targets, mask, seeds=[1, 2, 3])
    value.backward()
    assert value.isfinite() and value > 0
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
    terms = loss.terms(output, targets, mask, seeds=[1, 2, 3])
    if kind != "short instances":
        assert terms["classes"] == 0
    if name == "etad":
        assert terms["offsets"] == 0


@pytest.mark.parametrize("name", SMALL)
def test_processes_that_share_a_batch_have_its_loss(name):
    features, mask, targets = batch()
    model, loss, output = run(name, features, mask, targets, seeds=[1, 2, 3])
    whole = loss.terms(output, targets, mask, seeds=[1, 2, 3])
    barrier, sent, results = threading.Barrier(2), [None, None], [None, None]

    def process(rank: int, rows: slice) -> None:
        def mean(value):
            sent[rank] = value
            barrier.wait(60)
            both = (sent[0] + sent[1]) / 2
            barrier.wait(60)
            return both

        own = DetectionTargets(targets.segments[rows], targets.labels[rows])
        seeds = [1, 2, 3][rows]
        with shared_batch(mean):
            part = run(name, features[rows], mask[rows], own, seeds=seeds, model=model)[2]
            results[rank] = loss.terms(part, own, mask[rows], seeds=seeds)

    threads = [threading.Thread(target=process, args=(rank, rows)) for rank, rows in enumerate((slice(2), slice(2, 3)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key, value in whole.items():
        assert torch.allclose((results[0][key] + results[1][key]) / 2, value, atol=1e-9), key


def test_validation_proposals_do_not_depend_on_seeds():
    _, mask, targets = batch()
    loss = create_loss("etad", num_classes=CLASSES, class_agnostic=False).eval()
    first, second = (loss.model_inputs(targets, mask, seeds=seeds) for seeds in ([1, 2, 3], [4, 5, 6]))
    assert torch.equal(first["proposals"], second["proposals"])
    grid = sample_proposals(9, sampling="grid")
    assert torch.equal(first["proposals"][1, : len(grid)], grid.float())
    assert not first["proposals"][1, len(grid) :].any()
    assert torch.equal(first["instances"], targets.segments)


def test_copies_of_instances():
    _, _, targets = batch()
    found = jittered_instances(targets, seeds=[1, 2, 3], copies=3, jitter=0.2)
    assert found.shape == (3, 6, 2)
    moves = (found - targets.segments.repeat_interleave(3, dim=1)).abs()
    length = (targets.segments[..., 1] - targets.segments[..., 0]).repeat_interleave(3, dim=1)[..., None]
    assert (moves <= 0.2 * length).all() and moves[0].all() and not moves[1, 3:].any()
    assert len(moves[0].unique()) == 12


def test_a_draw_depends_on_the_video_alone():
    valid = torch.tensor([[True, True, True], [True, False, True]])
    both = draw_uniform(valid, [8, 9], "a", count=2)
    assert both.shape == (2, 2, 3) and both[:, 1, 1].tolist() == [1, 1]
    alone = draw_uniform(torch.ones(1, 2, dtype=torch.bool), [9], "a", count=2)
    assert torch.equal(both[:, 1, [0, 2]], alone[:, 0])
    assert not torch.equal(draw_uniform(valid, [8, 9], "b", count=2), both)


@pytest.mark.parametrize("name", SMALL)
def test_training_lowers_the_loss(name):
    features, mask, targets = batch()
    model = small(name, class_agnostic=False).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    values = []
    for _ in range(12):
        _, loss, output = run(name, features, mask, targets, seeds=[1, 2, 3], model=model)
        values.append(loss(output, targets, mask, seeds=[1, 2, 3]))
        optimizer.zero_grad()
        values[-1].backward()
        optimizer.step()
    assert values[-1] < 0.8 * values[0]


# What is refused


def test_wrong_targets():
    with pytest.raises(ValueError, match=r"segments must be \(B, M, 2\).*\(1, 2\) and \(1, 2\)"):
        DetectionTargets(torch.zeros(1, 2), torch.zeros(1, 2).long())
    segments = torch.tensor([[[1.0, 2.0], [3.0, 3.0]]])
    for labels, message in (([[0, 7]], "label 7"), ([[0, 1]], r"segment \[3.0, 3.0\]"), ([[0, -2]], "label -2")):
        with pytest.raises(ValueError, match=f"instance 1 of video 0.*{message}"):
            DetectionTargets(segments, torch.tensor(labels)).check(num_classes=5)
    DetectionTargets(segments, torch.tensor([[0, -1]])).check(num_classes=5)
    targets = DetectionTargets(segments, torch.tensor([[0, -1]])).to("cpu")
    assert targets.valid.tolist() == [[True, False]]


def test_wrong_inputs():
    features, mask, targets = batch()
    model, loss, output = run("etad", features, mask, targets, seeds=[1, 2, 3])
    with pytest.raises(ValueError, match="3 videos with targets and 2 seeds for an output of 3 videos"):
        loss(output, targets, mask, seeds=[1, 2])
    with pytest.raises(ValueError, match=r"stage_ious=\(0.7, 0.8, 0.9\) has 3 values for 2 stages"):
        create_loss("etad", num_classes=CLASSES)(output, targets, mask, seeds=[1, 2, 3])
    with pytest.raises(ValueError, match="the output has no class_logits"):
        loss(model(features, mask), targets, mask, seeds=[1, 2, 3])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sampling": "fps"}, "sampling='fps'"),
        ({"ratio": 0.0}, "ratio=0.0"),
        ({"ratio": 0.6, "sampling": "block"}, "ratio=0.6"),
        ({"copies": 0}, "copies=0"),
        ({"jitter": 0.5}, "jitter=0.5"),
        ({"max_duration": 0}, "max_duration=0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        create_loss("etad", num_classes=2, **options)


def test_label_sequences_are_for_segmentation():
    with pytest.raises(TypeError, match="'bmn' computes nothing from label_sequences"):
        create_loss("bmn", num_classes=2, label_sequences=[torch.zeros(3).long()])
