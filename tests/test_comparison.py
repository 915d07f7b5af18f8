"""Comparison and fusion of tested runs: statistics by hand, the right videos, refusals that name the difference."""

import itertools
import json
import math

import numpy as np
import pytest

from vidseg.cli.main import main
from vidseg.engine.comparison import compare_runs
from vidseg.metrics import mcnemar, paired_bootstrap
from vidseg.metrics.video_scores import VideoScores, find_weights, fuse_scores, read_scores, write_scores
from vidseg.plots import plot_class_gains

CLASSES = ("jump", "run", "throw")


def recognition_run(folder, right, *, classes=CLASSES, split="test", names=None):
    """A tested run whose prediction for video i is right where right[i] is."""
    folder.mkdir(parents=True)
    labels = np.arange(len(right)) % len(classes)
    predicted = np.where(right, labels, (labels + 1) % len(classes))
    scores = np.full((len(right), len(classes)), 0.1, np.float32)
    scores[np.arange(len(right)), predicted] = 0.8
    videos = tuple(names or (f"jpg/v{number:02d}" for number in range(len(right))))
    write_scores(folder / "scores.npz", VideoScores(videos, labels, scores, tuple(classes)))
    top1 = float(np.mean(right))
    test = {"task": "recognition", "split": split, "classes": list(classes), "network": "net", "videos": len(right)}
    test |= {"confusion": [], "top1": top1, "top5": 1.0, "mean_class_accuracy": top1, "loss": 0.5}
    (folder / "test.json").write_text(json.dumps(test))
    return folder


def frame_run(folder, accuracies, *, names=("a", "b", "c"), frames=10):
    folder.mkdir(parents=True)
    videos = [
        {"name": name, "acc": acc, "edit": acc / 2, "f1": {"0.5": acc}, "truth": [[0, frames * (place + 1)]]}
        for place, (name, acc) in enumerate(zip(names, accuracies, strict=True))
    ]
    test = {
        "task": "segmentation", "split": "split1/test", "classes": list(CLASSES),
        "scores": {"acc": float(np.mean(accuracies)), "edit": 1.0, "f1": {"0.5": 2.0}},
        "class_scores": {"number": [0, 2], "acc": [accuracies[0], accuracies[1]]},
        "videos": videos,
    }  # fmt: skip
    (folder / "test.json").write_text(json.dumps(test))
    return folder


def detection_run(folder, average, *, classes=CLASSES):
    folder.mkdir(parents=True)
    rows = [{"class": name, "average": average + 0.1 * place} for place, name in enumerate(classes)]
    scores = {"videos": 4, "map": {"0.5": average}, "average": average, "average_recall": {"100": 0.5}}
    test = {"task": "detection", "split": "test", "dataset": "data", "scores": {**scores, "by_class": rows}}
    (folder / "test.json").write_text(json.dumps(test))
    return folder


@pytest.mark.parametrize(
    "counts, expected",
    [((0, 0), 1.0), ((5, 5), 1.0), ((0, 6), 2 / 64), ((1, 9), 2 * 11 / 1024), ((9, 1), 2 * 11 / 1024), ((2, 3), 1.0)],
)
def test_mcnemar_by_hand(counts, expected):
    assert mcnemar(*counts) == pytest.approx(expected)


def test_mcnemar_counts_all_outcomes():
    """The p-value is the share of the coin sequences that are at least as uneven."""
    for total in (4, 7):
        outcomes = [sum(flips) for flips in itertools.product((0, 1), repeat=total)]
        for fewer in range(total // 2 + 1):
            even = [abs(2 * wins - total) >= abs(2 * fewer - total) for wins in outcomes]
            assert mcnemar(fewer, total - fewer) == pytest.approx(sum(even) / len(even))
    assert 0 < mcnemar(4000, 6000) < 1e-80
    with pytest.raises(ValueError, match="-1"):
        mcnemar(-1, 2)


def test_bootstrap_interval_is_that_of_the_normal_approximation():
    values = np.random.default_rng(1).normal(0.3, 1.0, 400)
    low, high = paired_bootstrap(lambda rows: values[rows].mean(axis=1), 400, resamples=4000)
    error = 1.96 * values.std() / math.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.02)
    assert paired_bootstrap(lambda rows: values[rows].mean(axis=1), 400, resamples=4000) == (low, high)
    with pytest.raises(ValueError, match="0 videos"):
        paired_bootstrap(lambda rows: rows.mean(axis=1), 0)


def test_recognition_runs(tmp_path, capsys):
    first = recognition_run(tmp_path / "first", [True] * 12 + [False] * 12)
    better = recognition_run(tmp_path / "better", [False] + [True] * 23)
    found = compare_runs([first, better])
    (pair,) = found.pairs
    (top1,) = pair.differences
    assert found.videos == 24 and pair.lost == ["jpg/v00"] and len(pair.won) == 12
    assert top1.value == pytest.approx(11 / 24) and top1.p_value == mcnemar(1, 12) and top1.noise is False
    assert top1.interval[0] < 11 / 24 < top1.interval[1]
    # of 8 videos of each class, 4 are gained, and one "jump" is lost
    assert pair.class_gains == pytest.approx({"jump": 3 / 8, "run": 0.5, "throw": 0.5})
    assert main(["compare", str(first), str(better), "--out", str(tmp_path / "gains.csv")]) == 0
    text = capsys.readouterr().out
    assert "better minus first" in text and "exact McNemar test): unlikely to be noise" in text
    assert "only first is right: 1 video: jpg/v00" in text
    assert (tmp_path / "gains.csv").read_text().splitlines()[:2] == ["class,better", "jump,0.375"]
    assert main(["compare", str(first), str(better), "--json", "--out", str(tmp_path / "gains.png")]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["pairs"][0]["differences"][0]["noise"] is False and (tmp_path / "gains.png").is_file()
    same = compare_runs([first, recognition_run(tmp_path / "same", [True] * 11 + [False, True] + [False] * 11)])
    assert same.pairs[0].differences[0].noise is True and "may be noise" in str(same)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    one, other = (recognition_run(tmp_path / name / "net", [True] * 3) for name in ("a", "b"))
    assert list(compare_runs([one, other]).scores) == ["a/net", "b/net"]
    with pytest.raises(ValueError, match="given twice"):
        compare_runs([one, one])


def test_frame_label_runs(tmp_path):
    found = compare_runs([frame_run(tmp_path / "a", [50, 60, 70]), frame_run(tmp_path / "b", [80, 60, 100])])
    acc, edit = found.pairs[0].differences
    assert acc.value == pytest.approx((30 * 1 + 0 * 2 + 30 * 3) / 6)  # by the frames of the videos
    assert edit.value == pytest.approx(10) and acc.noise is True  # one resample in 27 has the unchanged video alone
    assert found.pairs[0].video_gains == {"a": 30, "b": 0, "c": 30}
    assert found.pairs[0].class_gains == {"jump": 30, "throw": 0} and "F1@50" in str(found)


def test_detection_runs(tmp_path, capsys):
    runs = [detection_run(tmp_path / "a", 0.3), detection_run(tmp_path / "b", 0.35)]
    assert main(["compare", *map(str, runs)]) == 0
    text = capsys.readouterr().out
    assert "mAP@0.5" in text and "mAP +5" in text and "noise" not in text
    assert compare_runs(runs).pairs[0].class_gains == pytest.approx(dict.fromkeys(CLASSES, 5.0))


@pytest.mark.parametrize(
    "other, message",
    [
        ({"classes": ("jump", "walk", "throw")}, "class 1 is 'walk', in .* it is 'run'"),
        ({"split": "val"}, "its split is 'val', that of .* is 'test'"),
        ({"names": ["jpg/v00", "jpg/v01", "jpg/v07"]}, r"'jpg/v02' is only in .* \(2 videos of 4 differ\)"),
    ],
)
def test_runs_that_differ_are_refused(tmp_path, other, message):
    first = recognition_run(tmp_path / "a", [True] * 3)
    with pytest.raises(ValueError, match=message):
        compare_runs([first, recognition_run(tmp_path / "b", [True] * 3, **other)])


def test_what_is_no_tested_run_is_refused(tmp_path, capsys):
    first = recognition_run(tmp_path / "a", [True] * 3)
    with pytest.raises(ValueError, match="its task is 'segmentation'"):
        compare_runs([first, frame_run(tmp_path / "b", [1, 2, 3])])
    with pytest.raises(FileNotFoundError, match="run `vidseg test"):
        compare_runs([first, tmp_path / "absent"])
    (first / "scores.npz").unlink()
    assert main(["compare", str(first), str(first)]) == 2
    assert "scores.npz: not found; run `vidseg test" in capsys.readouterr().err
    with pytest.raises(ValueError, match="1 run given"):
        compare_runs([first])
    with pytest.raises(ValueError, match="no class"):
        plot_class_gains({}, tmp_path / "x.png")


def streams(videos=40, *, seed=0, prefix="v"):
    """Two networks of which the first is right more often; together they are better than each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=videos)
    parts = []
    for noise in (1.3, 2.0):
        logits = rng.normal(0, noise, (videos, 3))
        logits[np.arange(videos), labels] += 2
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        names = tuple(f"{prefix}{number}" for number in range(videos))
        parts.append(VideoScores(names, labels, shares.astype(np.float32), CLASSES))
    return parts


@pytest.mark.parametrize("how", ["softmax", "logits"])
def test_fusion_means_probabilities_or_their_logarithms(how):
    one, other = streams()
    fused = fuse_scores([one, other], [3, 1], how=how)
    if how == "softmax":
        expected = 0.75 * one.scores + 0.25 * other.scores
    else:
        logits = 0.75 * np.log(one.scores.astype(float)) + 0.25 * np.log(other.scores.astype(float))
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fused.scores, expected, rtol=1e-5)
    np.testing.assert_allclose(fused.scores.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("how", ["softmax", "logits"])
def test_the_best_weights_are_found(how):
    parts = streams(400)
    weights, fused = find_weights(parts, how=how)
    accuracies = {step: fuse_scores(parts, (step / 20, 1 - step / 20), how=how).summary()["top1"] for step in range(21)}
    assert sum(weights) == pytest.approx(1) and fused.summary()["top1"] == max(accuracies.values())
    assert accuracies[round(20 * weights[0])] == max(accuracies.values()) > max(accuracies[0], accuracies[20])
    assert len(find_weights([*parts, parts[0]], how=how)[0]) == 3
    with pytest.raises(ValueError, match="1 files of scores; weights can be found for 2 to 5"):
        find_weights(parts[:1])
    with pytest.raises(ValueError, match="weights"):
        fuse_scores(parts, [2, -1])


def test_fusion_of_runs_with_weights_of_a_validation_split(tmp_path, capsys):
    runs, held_out = [], []
    for number, (tested, tuned) in enumerate(zip(streams(60), streams(80, seed=5, prefix="w"), strict=True)):
        runs.append(recognition_run(tmp_path / f"run{number}", [True]))
        write_scores(runs[-1] / "scores.npz", tested)
        held_out.append(write_scores(runs[-1] / "scores_val.npz", tuned))
    words = ["score", *map(str, runs), "--tune", *map(str, held_out), "--fuse", "logits", "--json"]
    assert main([*words, "--dump", str(tmp_path / "fused.npz")]) == 0
    content = json.loads(capsys.readouterr().out)
    weights, best = find_weights([read_scores(path) for path in held_out], how="logits")
    assert content["weights"] == list(weights) and content["validation"] == best.summary()
    expected = fuse_scores([read_scores(run) for run in runs], weights, how="logits")
    assert content["top1"] == expected.summary()["top1"]
    np.testing.assert_array_equal(read_scores(tmp_path / "fused.npz").scores, expected.scores)
    assert main(["score", *map(str, runs), "--tune", *map(str, runs)]) == 2
    assert "60 of its videos are scored too, such as 'v0'" in capsys.readouterr().err
    assert main(["score", *map(str, runs), "--tune", str(held_out[0])]) == 2
    assert "--tune: 1 files, expected one for each of the 2 runs" in capsys.readouterr().err
    assert main([*words, "--weights", "1", "2"]) == 2
    assert "exclude each other" in capsys.readouterr().err
