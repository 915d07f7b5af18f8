"""Segmental scores: the published evaluation's values, what it leaves undefined, and labels that make no sense."""

import itertools
import json
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from golden_vectors import FOLDER
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.cli.main import main
from vidseg.metrics import SegmentalMeter, boundary_scores, label_boundaries, segmental_scores
from vidseg.metrics.segmental_errors import boundary_offsets, frame_confusion, segment_confusion

GOLDEN = json.loads((FOLDER / "segmental_metrics.json").read_text())
VIDEOS, VOCABULARIES = GOLDEN["videos"], GOLDEN["vocabularies"]
OVERLAPS = (0.1, 0.25, 0.5)


def frames(runs) -> np.ndarray:
    """Frame labels of run lengths [[class, frames], ...]."""
    return np.repeat([label for label, _ in runs], [length for _, length in runs])


def background(dataset: str, names: str) -> list[int]:
    return [VOCABULARIES[dataset].index(name) for name in names.split("+") if name in VOCABULARIES[dataset]]


@pytest.mark.parametrize("video", VIDEOS, ids=lambda video: f"{video['dataset']}, {video['what']}")
def test_published_values_of_one_video(video):
    for names, expected in video["expected"]["by_background"].items():
        scores = segmental_scores(
            [frames(video["gt"])], [frames(video["pred"])], background=background(video["dataset"], names)
        )
        assert (scores["correct"], scores["frames"]) == (video["expected"]["correct"], video["expected"]["frames"])
        assert scores["edit"] == expected["edit"]
        assert list(scores["counts"].values()) == expected["tp_fp_fn"]


@pytest.mark.parametrize("name", [name for name in GOLDEN["datasets"] if "ONE FRAME SHORT" not in name])
def test_published_values_of_a_data_set(name):
    which, names = name.split(", background ")
    dataset = which.split(",")[0]
    videos = [v for v in VIDEOS if v["dataset"] == dataset and (v["what"] == "random" or "edge" in which)]
    scores = segmental_scores(
        [frames(video["gt"]) for video in videos],
        [frames(video["pred"]).tolist() for video in videos],
        background=background(dataset, names),
    )
    expected = GOLDEN["datasets"][name]
    assert (scores["acc"], scores["edit"]) == (expected["acc"], expected["edit"])
    assert scores["f1"] == dict(zip(OVERLAPS, (expected[f"f1_{k}"] for k in (10, 25, 50)), strict=True))
    assert list(scores["counts"].values()) == expected["tp_fp_fn"]


@pytest.mark.parametrize("case", GOLDEN["undefined_in_the_reference"], ids=lambda case: case["what"])
def test_cases_that_the_published_evaluation_leaves_undefined(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = segmental_scores([frames(case["gt"])], [frames(case["pred"])], background=[10])
    assert scores["edit"] == case["sensible"]["edit"]
    assert scores["counts"][0.5] == case["sensible"]["tp_fp_fn"]
    assert scores["f1"] == {0.1: 0.0, 0.25: 0.0, 0.5: 0.0}


def test_a_truth_with_segments_against_none():
    scores = segmental_scores([[1, 1, 0, 2]], [[0, 0, 0, 0]], background=[0])
    assert (scores["acc"], scores["edit"], scores["counts"][0.5]) == (25.0, 0.0, [0, 0, 2])


@pytest.mark.parametrize("case", GOLDEN["boundary"], ids=lambda case: f"{case['frames']} frames")
def test_published_values_of_boundaries(case):
    changes = np.zeros(case["frames"], int)
    changes[case["gt_positions"]] = 1
    truth = np.cumsum(changes)
    assert np.flatnonzero(label_boundaries(truth)).tolist() == case["gt_positions"]
    scores = boundary_scores([truth], [case["pred"]], threshold=case["threshold"], tolerance=case["tolerance"])
    assert {name: scores[name] for name in case["expected"]} == case["expected"]


def test_boundaries_of_predicted_labels():
    truth = np.repeat([3, 1, 4, 1], [20, 20, 20, 20])
    late = np.repeat([3, 1, 4], [24, 22, 34])  # 4 and 6 frames late, one missed
    scores = boundary_scores([truth, truth], [label_boundaries(truth), label_boundaries(late)])
    assert (scores["tp"], scores["fp"], scores["fn"]) == (4 + 2, 1, 2)
    assert scores["accuracy"] == 100 * (160 - 3) / 160
    assert boundary_scores([truth], [label_boundaries(late)], tolerance=6)["tp"] == 3
    # the two ends of a single frame cancel each other, in the truth as in the prediction
    alone = boundary_scores([[0, 0, 0, 1, 0, 0]], [[0, 0, 0, 0.9, 0.9, 0]])
    assert (alone["tp"], alone["fp"], alone["fn"]) == (1, 0, 0)


@pytest.mark.parametrize(
    "probabilities, message",
    [
        ([[0.1, 2.5, 0.0]], "2.5 at frame 1 is not a probability; apply a sigmoid"),
        ([[0.1, float("nan"), 0.0]], "nan at frame 1"),
        ([[0.1, 0.2]], r"probabilities have shape \(2,\), expected \(3,\)"),
        ([], "numbers of videos differ: truth 1, probabilities 0"),
    ],
)
def test_wrong_probabilities(probabilities, message):
    with pytest.raises(ValueError, match=message):
        boundary_scores([[0, 0, 1]], probabilities)


def test_tables():
    truth = [[0, 0, 1, 1, 1, 2, 2, 0], [1, 1, 1, 1]]
    prediction = [[0, 0, 1, 1, 2, 2, 2, 0], [3, 3, 1, 1]]
    scores = segmental_scores(truth, prediction, background=[0], overlaps=(0.5, 0.75))
    classes, videos = scores["classes"], scores["videos"]
    assert classes["number"] == [0, 1, 2, 3] and classes["background"] == [True, False, False, False]
    assert (classes["frames"], classes["predicted"]) == ([3, 7, 2, 0], [3, 4, 3, 2])
    assert classes["correct"] == [3, 4, 2, 0]
    assert classes["acc"] == [100, 100 * 4 / 7, 100, 0] and classes["precision"] == [100, 100, 100 * 2 / 3, 0]
    assert classes["iou"] == [100, 100 * 4 / 7, 100 * 2 / 3, 0]
    assert classes["counts"] == {
        0.5: [[0, 0, 0], [2, 0, 0], [1, 0, 0], [0, 1, 0]],
        0.75: [[0, 0, 0], [0, 2, 2], [0, 1, 1], [0, 1, 0]],
    }
    assert classes["f1"][0.5] == [0, 100, 100, 0]
    assert videos["name"] == ["0", "1"] and videos["frames"] == [8, 4] and videos["correct"] == [7, 2]
    assert videos["acc"] == [87.5, 50.0] and videos["edit"] == [100.0, 50.0]
    assert videos["f1"][0.5] == [100.0, pytest.approx(200 / 3)]
    assert np.sum(classes["counts"][0.75], axis=0).tolist() == scores["counts"][0.75]


def plain_scores(truth, prediction, dropped, overlap):
    """The definition, word by word: every pair of segments, the first of the largest IoU, a table of distances."""

    def segments(labels):
        cuts = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
        return [(labels[a], a, b) for a, b in itertools.pairwise(cuts) if labels[a] not in dropped]

    true, ours = segments(truth), segments(prediction)
    hit = [False] * len(true)
    tp = 0
    for label, start, stop in ours:
        iou = [(min(stop, b) - max(start, a)) / (max(stop, b) - min(start, a)) * (label == name) for name, a, b in true]
        best = int(np.argmax(iou)) if iou else -1
        if iou and iou[best] >= overlap and not hit[best]:
            hit[best], tp = True, tp + 1
    rows = [list(range(len(ours) + 1))]
    for i, (name, *_) in enumerate(true, start=1):
        rows.append([i])
        for j, (label, *_) in enumerate(ours, start=1):
            rows[i].append(min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (name != label)))
    longer = max(len(true), len(ours))
    return (1 - rows[-1][-1] / longer) * 100 if longer else 100.0, [tp, len(ours) - tp, len(true) - sum(hit)]


runs = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40)), min_size=1, max_size=90)


@settings(deadline=None, max_examples=150)
@given(truth=runs, prediction=runs, overlap=st.sampled_from([0.1, 0.25, 0.5, 1.0]), drop=st.booleans())
def test_agrees_with_the_definition(truth, prediction, overlap, drop):
    true, ours = frames(truth), frames(prediction)
    length = min(len(true), len(ours))
    true, ours = true[:length], ours[:length]
    dropped = [0] if drop else []
    scores = segmental_scores([true], [ours], background=dropped, overlaps=[overlap])
    assert (scores["edit"], scores["counts"][overlap]) == plain_scores(true, ours, dropped, overlap)
    assert scores["correct"] == (true == ours).sum()
    table = scores["classes"]
    assert table["frames"] == [int((true == number).sum()) for number in table["number"]]
    assert table["predicted"] == [int((ours == number).sum()) for number in table["number"]]
    assert table["correct"] == [int(((true == number) & (ours == number)).sum()) for number in table["number"]]


def test_streaming_is_the_same_in_one_process_or_several():
    truth, prediction = [frames(v["gt"]) for v in VIDEOS], [frames(v["pred"]) for v in VIDEOS]
    whole = SegmentalMeter([10])
    first, second = SegmentalMeter([10]), SegmentalMeter([10])
    for index, (true, ours) in enumerate(zip(truth, prediction, strict=True)):
        whole.update(true, ours)
        (first if index < 17 else second).update(torch.from_numpy(true), ours.astype(np.int32), name=str(index))
    assert whole.scores() == segmental_scores(truth, prediction, background=[10])
    first.merge(pickle.loads(pickle.dumps(second)))
    assert first.scores() == whole.scores() and len(first) == len(VIDEOS)
    first.update([70], [70])  # after merging, with a class that no table has yet
    assert first.scores()["classes"]["number"][-1] == 70 and len(first) == len(VIDEOS) + 1
    with pytest.raises(ValueError, match=r"background \[\]"):
        whole.merge(SegmentalMeter())
    whole.reset()
    with pytest.raises(ValueError, match="no video has been added"):
        whole.scores()


@pytest.mark.parametrize(
    "truth, prediction, message",
    [
        ([[0, 1]], [[0, 1, 1]], "video '0': 2 true, but 3 predicted labels"),
        ([[0, 1]], [], "numbers of videos differ: truth 1, prediction 0"),
        ([], [], "no video"),
        ([[]], [[]], "video '0': truth has no frames"),
        ([[0, 1], [0, -100]], [[0, 1], [0, 0]], "video '1': truth has label -100 at frame 1"),
        ([[0, 1]], [[0, 1 << 40]], "prediction has label 1099511627776 at frame 1"),
        ([[0.0, 1.0]], [[0, 1]], "truth has type float64, expected integer class numbers"),
        ([0, 1], [0, 1], r"truth has shape \(\)"),
    ],
)
def test_wrong_labels(truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        segmental_scores(truth, prediction)


@pytest.mark.parametrize("overlaps", [(), (0.0,), (10, 25), (0.5, 0.5)])
def test_wrong_overlaps(overlaps):
    with pytest.raises(ValueError, match="overlap"):
        segmental_scores([[0]], [[0]], overlaps=overlaps)


def test_a_refused_video_is_not_counted():
    meter = SegmentalMeter()
    meter.update([0, 1], [0, 0])
    before = meter.scores()
    for wrong in ([0, -1], [0, 1 << 20], [0]):
        with pytest.raises(ValueError):
            meter.update(wrong, [0, 1])
    assert meter.scores() == before


def test_numba_is_imported_on_first_use():
    code = "import sys, vidseg.metrics; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_kernels_compile_where_nothing_can_be_cached():
    """A function without a source file is refused by the cache as one in a read-only folder is."""
    from vidseg.metrics._compiled import compiled

    namespace: dict = {}
    exec("def double(number):\n    return 2 * number", namespace)
    double = compiled(namespace["double"])
    assert double(4) == 8 and len(double.signatures) == 1


# Errors


def test_confusions_and_offsets():
    truth = [np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([1, 1])]
    prediction = [np.array([0, 0, 1, 1, 2, 2, 2, 0]), np.array([2, 2])]
    assert frame_confusion(truth, prediction, 3).tolist() == [[2, 1, 0], [0, 1, 3], [1, 0, 2]]
    # half of the second segment is 1, half is 2: the lower one
    assert segment_confusion(truth, prediction, 3).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    assert boundary_offsets(truth, prediction).tolist() == [-1, -1]
    assert boundary_offsets([truth[0]], [np.array([0, 0, 0, 0, 0, 0, 1, 1])]).tolist() == [3, 1]
    assert boundary_offsets([truth[0]], [np.zeros(8, int)]).tolist() == []
    for function in (frame_confusion, segment_confusion):
        with pytest.raises(ValueError, match="video 0: labels 0 to 2, expected 0 to 1"):
            function(truth, prediction, 2)
    with pytest.raises(ValueError, match="video 1: 2 true labels, but 1"):
        boundary_offsets(truth, [prediction[0], np.array([1])])
    with pytest.raises(ValueError, match="numbers of videos differ: truth 2, prediction 1"):
        boundary_offsets(truth, prediction[:1])


# Command


def label_files(folder, videos, *, ending=".txt"):
    folder.mkdir(exist_ok=True)
    for name, labels in videos.items():
        (folder / f"{name}{ending}").write_text("\n".join(labels.split()) + "\n")
    return str(folder)


def test_scores_from_files(tmp_path, capsys):
    truth = label_files(tmp_path / "gt", {"a": "none take take open", "b": "take none"})
    ours = label_files(tmp_path / "ours", {"a": "none take open open"})
    (tmp_path / "ours/b").write_text("### Frame level recognition: ###\ntake none")
    assert main(["score", truth, ours, "--background", "none", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = segmental_scores([[0, 2, 2, 1], [2, 0]], [[0, 2, 1, 1], [2, 0]], background=[0])
    assert (found["acc"], found["edit"]) == (expected["acc"], expected["edit"])
    assert found["f1"] == {str(overlap): value for overlap, value in expected["f1"].items()}
    assert found["classes"]["name"] == ["none", "open", "take"] and found["videos"]["name"] == ["a", "b"]
    assert found["boundaries"]["recall"] <= 100 and found["failed"] == []
    assert main(["score", truth, ours, "--classes", "--videos"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["acc", "edit", "F1@10", "F1@25", "F1@50"]
    assert lines[2].split()[0] == f"{expected['acc']:.2f}"
    assert [line.split()[0] for line in lines[-2:]] == ["a", "b"]  # worst first


def test_videos_that_are_not_scored_are_listed(tmp_path, capsys):
    truth = label_files(tmp_path / "gt", {"a": "take open", "b": "take open", "c": "take", "d": "take"})
    ours = label_files(tmp_path / "ours", {"a": "take open", "b": "take open open", "d": "tkae"})
    (tmp_path / "mapping.txt").write_text("0 take\n1 open\n")
    (tmp_path / "test.bundle").write_text("a.txt\nb.txt\nc.txt\n")
    words = ["score", truth, ours, "--mapping", str(tmp_path / "mapping.txt")]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "b.txt: 3 labels, but" in error and "c: only one of truth" in error and "3 videos not scored" in error
    assert "d.txt:1: class 'tkae' is not in the mapping; did you mean 'take'?" in error
    assert main([*words, "--bundle", str(tmp_path / "test.bundle"), "--truncate"]) == 1
    output = capsys.readouterr()
    assert " c: " in output.err and "test.bundle:3 lists it" in output.err and " d: " not in output.err
    assert output.out.startswith("2 videos, 4 frames, 2 classes\n1 video truncated to the shorter side, such as b\n")
    assert main(["score", truth]) == 2
    assert "no pair of truth and prediction" in capsys.readouterr().err


def test_scores_of_the_files_that_the_published_evaluation_leaves(tmp_path, capsys):
    folder = label_files(tmp_path / "both", {"x": "take open"}, ending="-gt.txt")
    label_files(tmp_path / "both", {"x": "take take"}, ending="-pred.txt")
    assert main(["score", folder, "--json", "--overlaps", "0.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["acc"] == 50 and found["counts"] == {"0.5": [1, 0, 1]}
