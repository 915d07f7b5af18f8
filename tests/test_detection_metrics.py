"""Detection scores: the published evaluation's values, loops written from the definitions, ties and wrong input."""

import json
import warnings

import numpy as np
import pytest
from golden_vectors import FOLDER
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.metrics import (
    PROTOCOLS,
    DetectionProtocol,
    Detections,
    average_recall,
    detection_map,
    detection_protocol,
    false_positive_profile,
    precision_recall,
    recall_at,
)

MAPS = json.loads((FOLDER / "detection_map.json").read_text())["cases"]
RECALLS = json.loads((FOLDER / "detection_recall.json").read_text())["cases"]


def numbered(database, results, *, subset=None, blocked=()):
    """Truth and detections of the official JSON objects, and the classes."""
    videos = {name: number for number, name in enumerate(sorted({*database, *results} - set(blocked)))}
    truth = [
        (videos[name], one["segment"], one.get("label", "-"))
        for name, entry in database.items()
        for one in entry["annotations"]
        if name in videos and subset in (None, entry["subset"])
    ]
    found = [
        (videos[name], one["segment"], one.get("label", "-"), one["score"])
        for name, entries in results.items()
        for one in entries
        if name in videos
    ]
    classes = sorted({row[2] for row in (*truth, *found)})

    def rows(found):
        columns = list(zip(*found, strict=True))
        columns[2] = [classes.index(label) for label in columns[2]]
        return Detections.of(*columns)

    return rows(truth), rows(found), classes


@pytest.mark.parametrize("case", MAPS, ids=lambda case: case["name"])
def test_published_values_of_map(case):
    truth, found, classes = numbered(
        case["ground_truth"]["database"],
        case["detections"]["results"],
        subset=case["subset"],
        blocked=case["blocked"] or (),
    )
    plain = DetectionProtocol(tuple(case["tiou_thresholds"]))
    without = DetectionProtocol(tuple(case["tiou_thresholds"]), duplicate_tolerance=1e-3, min_length=0.0)
    for key, protocol in (("expected", plain), ("expected_duplicates_removed", without)):
        expected = case.get(key)
        if expected is None:
            continue
        scores = detection_map(truth, found, protocol=protocol)
        np.testing.assert_allclose(scores.map, expected["mAP"], atol=1e-9, rtol=0)
        assert scores.average == pytest.approx(expected["average_mAP"], abs=1e-9)
        assert scores.instances.sum() == expected["n_gt"] == len(truth) - scores.left_out
        if key == "expected":
            assert scores.detections.sum() == expected["n_pred"] == len(found) - scores.ignored
            table = {row["class"]: row for row in scores.table(classes)}
            assert table.keys() == expected["ap"].keys()
            for name, values in expected["ap"].items():
                np.testing.assert_allclose(list(table[name]["ap"].values()), values, atol=1e-9, rtol=0)


@pytest.mark.parametrize("case", RECALLS, ids=["equal numbers", "unequal numbers"])
def test_published_values_of_average_recall(case):
    truth, found, _ = numbered(case["ground_truth"]["database"], case["proposals"]["results"])
    curve = average_recall(truth, found, max_proposals=case["max_avg_nr_proposals"])
    expected = case["expected"]
    np.testing.assert_allclose(curve.average, expected["avg_recall"], atol=1e-9, rtol=0)
    np.testing.assert_allclose(curve.proposals_per_video, expected["proposals_per_video"], rtol=1e-8)
    np.testing.assert_allclose(curve.recall[:, -1], expected["recall_at_last"], atol=1e-9, rtol=0)
    assert 100 * curve.auc == pytest.approx(expected["AUC"], rel=1e-8)
    assert {number: curve.at(int(number)) for number in expected["AR"]} == pytest.approx(expected["AR"], abs=1e-9)


def overlap(a, b) -> float:
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (b[1] - b[0]) + (a[1] - a[0]) - shared
    return shared / union if union > 0 else 0.0


def assigned(truth, found, threshold):
    """For each detection by falling score, class by class: (row, row of its instance or None)."""
    taken, result = set(), []
    for row in sorted(range(len(found)), key=lambda row: -found.scores[row]):
        best = None
        for g in range(len(truth)):
            alike = (truth.videos[g], truth.labels[g]) == (found.videos[row], found.labels[row])
            iou = overlap(found.segments[row], truth.segments[g]) if alike and g not in taken else -1
            if iou >= threshold and (best is None or iou > best[0]):
                best = iou, g
        if best is not None:
            taken.add(best[1])
        result.append((row, best and best[1]))
    return result


def area(hits, instances, weight=None) -> float:
    """Area under the monotone precision-recall curve of a list of hits and misses."""
    points = []
    for count in range(1, len(hits) + 1):
        recall = sum(hits[:count]) / instances
        misses = count - sum(hits[:count])
        right = recall * (weight or instances)
        points.append((recall, right / (right + misses) if right + misses else 0.0))
    total, last = 0.0, 0.0
    for place, (recall, _) in enumerate(points):
        total += (recall - last) * max(precision for _, precision in points[place:])
        last = recall
    return total


def random_detections(seed, instances, count, videos=3, classes=3):
    rng = np.random.default_rng(seed)

    def segments(number):
        starts = rng.integers(0, 20, number) / 2
        return np.stack([starts, starts + rng.integers(0, 10, number) / 2], axis=1)

    truth = Detections.of(
        rng.integers(videos, size=instances), segments(instances), rng.integers(classes, size=instances)
    )
    found = Detections.of(
        rng.integers(videos + 1, size=count), segments(count), rng.integers(classes + 1, size=count),
        rng.integers(0, 6, size=count) / 5,
    )  # fmt: skip
    return truth, found


SIZES = {"seed": st.integers(0, 10**6), "instances": st.integers(1, 14), "count": st.integers(0, 40)}


@settings(max_examples=60, deadline=None)
@given(**SIZES)
def test_map_and_curves_follow_the_definition(seed, instances, count):
    truth, found = random_detections(seed, instances, count)
    thresholds = (0.3, 0.5, 1.0)
    scores = detection_map(truth, found, thresholds=thresholds)
    recalls, curves = precision_recall(truth, found, thresholds=thresholds)
    for column, threshold in enumerate(thresholds):
        rows = assigned(truth, found, threshold)
        for k, number in enumerate(scores.classes):
            hits = [match is not None for row, match in rows if found.labels[row] == number]
            total = int((truth.labels == number).sum())
            assert scores.ap[k, column] == pytest.approx(area(hits, total), abs=1e-12)
            assert scores.recall[k, column] == pytest.approx(sum(hits) / total)
            reached = [sum(hits[:n]) / total for n in range(1, len(hits) + 1)]
            precisions = [sum(hits[:n]) / n for n in range(1, len(hits) + 1)]
            expected = [
                max((p for p, r in zip(precisions, reached, strict=True) if r >= recall - 1e-9), default=0.0)
                for recall in recalls
            ]
            np.testing.assert_allclose(curves[k, column], expected, atol=1e-12)
    assert scores.average == pytest.approx(scores.ap.mean())
    assert scores.ignored == sum(label not in scores.classes for label in found.labels)


@settings(max_examples=40, deadline=None)
@given(limit=st.integers(1, 3), normalize=st.booleans(), **SIZES)
def test_profile_follows_the_definition(seed, instances, count, limit, normalize):
    truth, found = random_detections(seed, instances, count)
    threshold, classes = 0.5, sorted(set(truth.labels.tolist()))
    profile = false_positive_profile(truth, found, thresholds=[threshold], limit=limit, normalize=normalize)
    weight = len(truth) / len(classes) if normalize else None
    kinds, counts = {}, np.zeros((limit, 6))
    for number in classes:
        total = int((truth.labels == number).sum())
        rows = [(row, match) for row, match in assigned(truth, found, threshold) if found.labels[row] == number]
        kinds[number] = total, []
        for rank, (row, match) in enumerate(rows[: limit * total]):
            others = [g for g in range(len(truth)) if truth.videos[g] == found.videos[row]]
            # the order of the module: instances of a video by class, then in the order of the input
            others.sort(key=lambda g: truth.labels[g])
            ious = [overlap(found.segments[row], truth.segments[g]) for g in others]
            kind = 5
            if match is not None:
                kind = 0
            elif ious and max(ious) >= 0.1:
                same = truth.labels[others[int(np.argmax(ious))]] == number
                kind = (1 if same else 2) + (0 if max(ious) >= threshold else 2)
            kinds[number][1].append(kind)
            counts[rank // total, kind] += 1

    def average(removed):
        values = [area([k == 0 for k in found if k != removed], n, weight) for n, found in kinds.values()]
        return sum(values) / len(values)

    assert profile.average == pytest.approx(average(None), abs=1e-12)
    np.testing.assert_allclose(profile.gains, [average(kind) - average(None) for kind in range(1, 6)], atol=1e-12)
    np.testing.assert_allclose(profile.counts, counts.sum(axis=0))
    sums = counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(profile.shares, np.where(sums > 0, counts / np.maximum(sums, 1), 0))


@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_recall_of_multiples_follows_the_definition(seed, instances, count):
    truth, found = random_detections(seed, instances, count)
    multiples, thresholds = (1, 3), (0.2, 0.6)
    recall = recall_at(truth, found, multiples=multiples, thresholds=thresholds, protocol="activitynet")
    for column, multiple in enumerate(multiples):
        for row, threshold in enumerate(thresholds):
            values = []
            for number in sorted(set(truth.labels.tolist())):
                mine = [g for g in range(len(truth)) if truth.labels[g] == number]
                hits = 0
                for g in mine:
                    same = [o for o in mine if truth.videos[o] == truth.videos[g]]
                    rows = [
                        n for n in range(len(found)) if (found.videos[n], found.labels[n]) == (truth.videos[g], number)
                    ]
                    rows = sorted(rows, key=lambda n: -found.scores[n])[: multiple * len(same)]
                    hits += any(overlap(found.segments[n], truth.segments[g]) >= threshold for n in rows)
                values.append(hits / len(mine))
            assert recall[row, column] == pytest.approx(np.mean(values))


def test_equal_scores_keep_the_order_of_the_input():
    truth = Detections.of([0], [[0, 10]], [0])
    wrong, right = [20, 30], [0, 10]
    for segments, ap in (([right, wrong], 1.0), ([wrong, right], 0.5)):
        assert detection_map(truth, Detections.of([0, 0], segments, [0, 0], [0.5, 0.5])).average == ap
    # of equal IoU the first instance: the second detection then finds the second instance only in this order
    truth = Detections.of([0, 0], [[0, 10], [10, 20]], [0, 0])
    both = Detections.of([0, 0], [[5, 15], [8, 20]], [0, 0], [0.9, 0.8])
    assert detection_map(truth, both, thresholds=[0.3]).recall.tolist() == [[1.0]]
    first_only = Detections.of([0, 0], [[5, 15], [0, 12]], [0, 0], [0.9, 0.8])
    assert detection_map(truth, first_only, thresholds=[0.3]).recall.tolist() == [[0.5]]
    proposals = Detections.of([0, 0], [wrong, right], [0, 0], [0.5, 0.5])
    assert average_recall(Detections.of([0], [[0, 10]], [0]), proposals, max_proposals=2).average.tolist() == [0, 1]


def test_a_threshold_that_is_met_exactly_counts():
    truth, found = Detections.of([0], [[0, 10]], [0]), Detections.of([0], [[0, 5]], [0], [1])
    assert detection_map(truth, found, thresholds=[0.5]).average == 1.0
    assert detection_map(truth, found, thresholds=[0.5, np.nextafter(0.5, 1)]).map.tolist() == [1.0, 0.0]


def test_segments_without_length_match_nothing():
    """The published evaluator divides by zero there, and counts such a detection as correct."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        truth, found = Detections.of([0, 0], [[5, 5], [1, 2]], [0, 0]), Detections.of([0], [[5, 5]], [0], [1])
        assert detection_map(truth, found, thresholds=[0.5]).average == 0
        assert detection_map(truth, Detections.of([0], [[2, 1]], [0]), thresholds=[0.5]).average == 0  # reversed
    short = Detections.of([0, 0, 0], [[5, 5], [1, 1.0004], [2, 3]], [0, 0, 0])
    for length, left in ((None, 0), (0.0, 1), (1e-3, 2)):
        assert detection_map(short, found, protocol=DetectionProtocol((0.5,), min_length=length)).left_out == left


def test_duplicates_are_left_out_where_the_protocol_says_so():
    truth = Detections.of([0, 0, 0, 1, 0], [[1, 2], [1.0009, 2], [1.0018, 2], [1, 2], [1, 2]], [0, 0, 0, 0, 1])
    found = Detections.of([0], [[1, 2]], [0])
    assert detection_map(truth, found).left_out == 0
    # the third is near the second only, which is left out
    assert detection_map(truth, found, protocol="thumos14").left_out == 1
    assert detection_map(truth, found, protocol="thumos14").instances.tolist() == [3, 1]


def test_protocols():
    assert np.allclose(PROTOCOLS["activitynet"].thresholds, np.arange(0.5, 0.96, 0.05))
    assert PROTOCOLS["thumos14"].thresholds == tuple(np.linspace(0.3, 0.7, 5))
    assert [len(PROTOCOLS[name].thresholds) for name in ("epic", "multithumos")] == [5, 9]
    scores = detection_map(Detections.of([0], [[0, 1]], [3]), Detections.of([], [], []), protocol="thumos14")
    assert scores.at(0.4) == 0 and scores.classes.tolist() == [3] and scores.summary()["instances"] == 1
    with pytest.raises(ValueError, match=r"0.45 is not one of \[0.3, 0.4"):
        scores.at(0.45)
    with pytest.raises(ValueError, match="'thumos' is not one of activitynet, "):
        detection_protocol("thumos")
    for thresholds in ((), (0.0, 0.5), (0.5, 0.3), (0.5, 1.1)):
        with pytest.raises(ValueError, match="ascending IoU thresholds"):
            DetectionProtocol(thresholds)
    with pytest.raises(ValueError, match="min_length=-1 must be at least 0"):
        DetectionProtocol((0.5,), min_length=-1)


def test_wrong_input_is_refused():
    truth = Detections.of([0], [[0, 1]], [0])
    nothing = Detections.of([], [], [])
    with pytest.raises(ValueError, match="class 4 of a detection has no instance"):
        protocol = DetectionProtocol((0.5,), unknown_labels="refuse")
        detection_map(truth, Detections.of([0], [[0, 1]], [4]), protocol=protocol)
    with pytest.raises(ValueError, match="nothing to score"):
        detection_map(nothing, truth)
    with pytest.raises(ValueError, match="1 instances, 0 proposals"):
        average_recall(truth, nothing)
    with pytest.raises(ValueError, match="no video of the truth keeps a proposal"):
        average_recall(truth, Detections.of([7], [[0, 1]], [0]))
    with pytest.raises(ValueError, match="thresholds > min_iou"):
        false_positive_profile(truth, truth, thresholds=[0.1, 0.5])
    with pytest.raises(ValueError, match="multiples"):
        recall_at(truth, truth, multiples=[0])
    for columns, message in (
        (([0], [[0, 1]], [0, 1]), "lengths"),
        (([0], [[0, np.nan]], [0]), "segment .* of detection 0 is not finite"),
        (([0], [[0, 1]], [0], [np.inf]), "score inf of detection 0"),
        (([0, -2], [[0, 1], [0, 1]], [0, 0]), "video -2 of detection 1 is negative"),
    ):
        with pytest.raises(ValueError, match=message):
            Detections.of(*columns)
    joined = Detections.of_videos([[[0, 1], [1, 2]], []], [[3, 4], []], [[0.5, 0.6], []])
    assert (
        joined.videos.tolist() == [0, 0] and joined.labels.tolist() == [3, 4] and joined.scores.tolist() == [0.5, 0.6]
    )
    with pytest.raises(ValueError, match="2 videos with segments, but 1"):
        Detections.of_videos([[], []], [[]])


def test_average_recall_of_more_proposals_than_the_curve_has():
    """9, 2 and 2 proposals, 2 on average: the ratio 6 / 13 keeps 4, 0 and 0 of them, as in the published evaluator."""
    truth = Detections.of([0, 1, 2], [[0, 10]] * 3, [0, 0, 0])
    videos = [0] * 9 + [1] * 2 + [2] * 2
    segments = [[50, 60 + row] for row in range(13)]
    segments[2] = segments[9] = segments[11] = [0, 10]  # the third of video 0, the first of the others
    curve = average_recall(truth, Detections.of(videos, segments, [0] * 13, np.linspace(1, 0, 13)), max_proposals=2)
    assert curve.average.tolist() == pytest.approx([1 / 3, 1 / 3])  # 3 and 4 proposals of video 0
    assert curve.proposals_per_video.tolist() == pytest.approx([1.0, 2.0])
