"""Post-processing of detections: published vectors, windows, voting and external class scores."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_vectors import FOLDER

from vidseg.labels.thumos import THUMOS_CLASSES
from vidseg.metrics.video_scores import VideoScores, write_scores
from vidseg.tasks.detection.external_scores import read_external_scores
from vidseg.tasks.detection.suppression import (
    PUBLISHED_SUPPRESSIONS,
    SuppressionOptions,
    boundary_filter,
    boundary_mask,
    classify_proposals,
    suppress,
    suppress_windows,
)

SOFT_NMS = json.loads((FOLDER / "detection_softnms.json").read_text())["cases"]
ETAD = json.loads((FOLDER / "detection_etad_post.json").read_text())["cases"]


def options_of(case) -> SuppressionOptions:
    params, family = case["params"], case["method"].split("_")[0]
    if family != "opentad":
        changes = {"max_detections": params["max_num"], "nms_sigma": params.get("sigma", params.get("alpha"))}
        if family == "etad":
            changes["nms_iou"] = params["iou_threshold"]
        if family == "bmn":
            changes |= {"nms_iou": params["t1"], "nms_slope": params["t2"] - params["t1"]}
        return replace(PUBLISHED_SUPPRESSIONS[family], **changes)
    hard = not params.get("use_soft_nms", True) or params["method"] == 0
    return SuppressionOptions(
        nms="hard" if hard else {1: "linear"}.get(params["method"], "gaussian"),
        nms_sigma=params.get("sigma", 0.5),
        nms_iou=params.get("t1", params.get("iou_threshold", 0.0)),
        nms_slope=params.get("t2", 0.0),
        nms_by_class=params["multiclass"],
        voting=params.get("voting_thresh", 0.0),
        min_score=params["min_score"],
        max_detections=params.get("max_seg_num", 100),
    )


@pytest.mark.parametrize("case", SOFT_NMS, ids=[f"{i}-{case['method']}" for i, case in enumerate(SOFT_NMS)])
def test_published_vectors_of_suppression(case):
    opentad = case["method"].startswith("opentad")
    values = torch.tensor(case["proposals"], dtype=torch.float32 if opentad else torch.float64)
    labels = torch.tensor(case.get("labels", [0] * len(values)))
    # One class per proposal: its score in the column of the class, nothing that counts elsewhere.
    scores = torch.full((len(values), int(labels.max()) + 1), -1.0, dtype=values.dtype)
    scores[torch.arange(len(values)), labels] = values[:, 2]
    found = suppress(values[:, :2], scores, options_of(case))
    expected = torch.tensor(case["expected"], dtype=torch.float64)
    if not opentad and len(found.scores) == len(expected) + 1:  # the published loops drop the last candidate
        found = type(found)(*(part[:-1] for part in found))
    torch.testing.assert_close(found.scores.double(), expected[:, 2], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.segments.double(), expected[:, :2], rtol=0, atol=1e-4)
    if "expected_labels" in case:
        assert found.labels.tolist() == case["expected_labels"]


@pytest.mark.parametrize("case", ETAD, ids=lambda case: f"{case['tscale']} bins")
def test_published_vectors_of_the_whole_post_processing_of_etad(case):
    start, end, anchors, iou = (
        torch.tensor(case[key], dtype=torch.float64) for key in ("start", "end", "anchors", "iou")
    )
    assert boundary_mask(start).tolist() == [bool(one) for one in case["start_mask"]]
    assert boundary_mask(end).tolist() == [bool(one) for one in case["end_mask"]]
    kept = boundary_filter(anchors, start, end)
    chosen = replace(
        PUBLISHED_SUPPRESSIONS["etad"],
        nms_sigma=case["sigma"],
        nms_iou=case["iou_threshold"],
        max_detections=case["num_prop"],
    )
    proposals = suppress(anchors[kept], (iou[kept, 0] * iou[kept, 1])[:, None], chosen)
    found = classify_proposals(
        proposals.segments, proposals.scores, torch.tensor(case["class_scores"]), top=case["topk"]
    )
    segments, count = found.segments.clamp(0, 1) * case["duration"], len(case["expected"])
    assert len(segments) - count in (0, case["topk"])  # the published loop drops the last proposal
    for row, expected in enumerate(case["expected"]):
        assert case["classes"][found.labels[row]] == expected["label"]
        assert found.scores[row].item() == pytest.approx(expected["score"], abs=1e-5)
        assert segments[row].tolist() == pytest.approx(expected["segment"], abs=1e-3)


def test_every_class_of_a_segment_is_a_candidate():
    segments = torch.tensor([[0.0, 1.0], [0.1, 1.0], [5.0, 6.0]])
    scores = torch.tensor([[0.9, 0.8], [0.7, 0.1], [0.0, 0.6]])
    hard = SuppressionOptions(nms="hard", nms_iou=0.5, min_score=0.2)
    by_class = suppress(segments, scores, hard)
    assert by_class.labels.tolist() == [0, 1, 1] and by_class.segments[:, 0].tolist() == [0.0, 0.0, 5.0]
    together = suppress(segments, scores, replace(hard, nms_by_class=False))
    assert together.scores.tolist() == pytest.approx([0.9, 0.6])
    everything = suppress(segments, scores, SuppressionOptions(nms="none", min_score=0.0))
    assert everything.scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.1, 0.0])
    assert len(suppress(segments, scores, SuppressionOptions(nms="none", min_score=0.0, max_candidates=4)).labels) == 4
    assert len(suppress(segments, scores, replace(hard, max_detections=1)).labels) == 1
    assert suppress(segments, scores, replace(hard, max_length=1.0)).segments[:, 0].tolist() == pytest.approx([0.1])
    empty = suppress(segments[:0], scores[:0], SuppressionOptions(voting=0.5))
    assert [tuple(part.shape) for part in empty] == [(0, 2), (0,), (0,)] and empty.labels.dtype == torch.int64


def test_voting_stays_within_a_class():
    segments = torch.tensor([[0.0, 10.0], [0.0, 8.0], [0.0, 9.0]], dtype=torch.float64)
    scores = torch.tensor([[0.6, 0.0], [0.3, 0.0], [0.0, 0.5]], dtype=torch.float64)
    chosen = SuppressionOptions(nms="hard", nms_iou=0.5, voting=0.7)
    found = suppress(segments, scores, chosen)
    assert found.segments[0, 1].item() == pytest.approx((0.6 * 10 + 0.3 * 8) / 0.9)
    assert found.segments[1].tolist() == [0.0, 9.0]
    mixed = suppress(segments, scores, replace(chosen, nms_by_class=False))
    assert mixed.segments[0, 1].item() == pytest.approx((0.6 * 10 + 0.3 * 8 + 0.5 * 9) / 1.4)
    point = torch.tensor([[3.0, 3.0]])
    assert suppress(point, torch.tensor([[0.5]]), SuppressionOptions(voting=0.5)).segments.tolist() == [[3.0, 3.0]]


def test_windows_are_joined():
    torch.manual_seed(0)
    starts = torch.rand(40, dtype=torch.float64) * 60
    segments = torch.stack([starts, starts + 1 + 10 * torch.rand(40, dtype=torch.float64)], dim=1)
    scores = torch.rand(40, 2, dtype=torch.float64)
    chosen = SuppressionOptions(nms_sigma=0.4, voting=0.8)
    whole = suppress(segments, scores, chosen, duration=70)
    parts = [(segments[:25] - 10, scores[:25]), (segments[25:] - 30, scores[25:])]
    for one, other in zip(whole, suppress_windows(parts, chosen, offsets=[10, 30], duration=70), strict=True):
        torch.testing.assert_close(one, other)
    # each window first, then the union
    chosen = replace(chosen, voting=0.0)
    each = suppress_windows(parts, replace(chosen, nms_each_window=True), offsets=[10, 30], duration=70)
    first = [suppress(part[0] + at, part[1], chosen) for part, at in zip(parts, (10, 30), strict=True)]
    union, labels, values = (torch.cat(columns) for columns in zip(*first, strict=True))
    spread = torch.zeros(len(labels), 2, dtype=torch.float64)
    spread[torch.arange(len(labels)), labels] = values
    torch.testing.assert_close(each.scores, suppress(union, spread, chosen).scores)
    assert each.scores.sum() < whole.scores.sum()
    alone = suppress_windows([(segments, scores)], replace(chosen, nms_each_window=True))
    torch.testing.assert_close(alone.scores, suppress(segments, scores, chosen).scores)


def test_the_slope_refers_to_the_duration():
    segments = torch.tensor([[0.0, 80.0], [0.0, 55.0]], dtype=torch.float64)
    scores = torch.tensor([[0.9], [0.8]], dtype=torch.float64)
    bmn = PUBLISHED_SUPPRESSIONS["bmn"]  # threshold 0.5 + 0.4 * 0.8 = 0.82 above the IoU 0.6875
    assert suppress(segments, scores, bmn, duration=100).scores.tolist() == pytest.approx([0.9, 0.8])
    assert suppress(segments, scores, bmn, duration=1000).scores[1] < 0.5  # threshold 0.532


def test_plateaus_and_the_outer_bins():
    values = torch.tensor([0.1, 0.3, 0.3, 0.1, 0.9, 0.1])
    assert boundary_mask(values).tolist() == [False, False, False, False, True, False]
    assert boundary_mask(values, plateaus=True).tolist() == [False, True, True, False, True, False]
    low = torch.full((6,), 0.1)
    low[3] = 0.9
    segments = torch.tensor([[-0.5, 1.5], [0.0, 0.99], [0.2, 1.0], [0.5, 0.6], [0.55, 0.3]])
    assert boundary_filter(segments, low, low).tolist() == [True, True, False, True, False]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"nms": "soft"}, "nms='soft'"),
        ({"nms": "hard"}, "nms_iou=0.0"),
        ({"nms": "hard", "nms_iou": 0.5, "nms_slope": 0.1}, "set nms_iou alone"),
        ({"nms_sigma": 0.0}, "nms_sigma=0.0 must be above 0"),
        ({"voting": 1.5}, "voting=1.5"),
        ({"max_detections": 0}, "max_detections=0"),
        ({"max_length": 0.0}, "max_length=0.0"),
    ],
)
def test_wrong_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SuppressionOptions(**changes)


def test_wrong_input_is_refused():
    chosen, one = SuppressionOptions(), torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"\(1, 2\) and scores \(1,\)"):
        suppress(one, torch.zeros(1), chosen)
    with pytest.raises(ValueError, match="not finite"):
        suppress(one, torch.tensor([[float("nan")]]), chosen)
    with pytest.raises(ValueError, match="1 windows, 2 offsets"):
        suppress_windows([(one, torch.zeros(1, 1))], chosen, offsets=[0, 1])
    with pytest.raises(ValueError, match="duration=0"):
        suppress(one, torch.zeros(1, 1), chosen, duration=0)
    with pytest.raises(ValueError, match="top=3"):
        classify_proposals(one, torch.zeros(1), torch.zeros(2), top=3)


def test_external_scores_of_cuhk(tmp_path):
    path = tmp_path / "cuhk.json"
    path.write_text(json.dumps({"class": ["Long jump", "Polo"], "results": {"abc": [0.1, 0.9], "v_xyz": [0.7, 0.3]}}))
    found = read_external_scores(path, ["Polo", "Long_Jump"])
    assert found.of("v_abc").tolist() == pytest.approx([0.9, 0.1])
    assert found.of("xyz").tolist() == pytest.approx([0.3, 0.7])
    with pytest.raises(ValueError, match=r"cuhk\.json: has no scores of the video 'other'"):
        found.of("other")
    with pytest.raises(ValueError, match=r"cuhk.json: has no scores of the class 'Golf'; its classes are Long jump"):
        read_external_scores(path, ["Golf"])
    for content, message in (
        ({"class": ["a"], "results": {"abc": [1, 2]}}, "video 'abc': 2 scores, expected 1"),
        ({"class": ["a"], "results": {"abc": ["x"]}}, "video 'abc': the scores are not numbers"),
        ({"class": ["a"]}, "'class' .names. and 'results'"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            read_external_scores(path, ["a"])
    path.write_text('{"class": ["a"], "results": {"abc": [1], "abc": [2]}}')
    with pytest.raises(ValueError, match="entry 'abc' occurs twice"):
        read_external_scores(path, ["a"])
    with pytest.raises(FileNotFoundError, match=r"none\.json: file of class scores not found"):
        read_external_scores(tmp_path / "none.json", ["a"])


def test_external_scores_of_untrimmed_net_and_of_a_recognition_network(tmp_path):
    array = np.zeros((1574, 101), np.float32)
    array[5, 21] = 0.75  # video 6, class 22 of UCF-101
    np.save(tmp_path / "uNet_test.npy", array)
    found = read_external_scores(tmp_path / "uNet_test.npy", list(THUMOS_CLASSES))
    scores = found.of("video_test_0000006")
    assert len(scores) == 20 and list(THUMOS_CLASSES)[int(scores.argmax())] == "CliffDiving"
    np.save(tmp_path / "uNet_test.npy", array[:, :50])
    with pytest.raises(ValueError, match=r"array \(1574, 50\), expected"):
        read_external_scores(tmp_path / "uNet_test.npy", ["CliffDiving"])
    ours = VideoScores(
        ("run/a.mp4", "b"), np.array([0, 1]), np.array([[0.2, 0.8], [0.6, 0.4]], np.float32), ("run", "jump")
    )
    write_scores(tmp_path / "ours.npz", ours)
    assert read_external_scores(tmp_path / "ours.npz", ["jump", "run"]).of("a").tolist() == pytest.approx([0.8, 0.2])
