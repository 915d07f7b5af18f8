"""Comparison of tested runs of one task: scores side by side, gains by class and video, and whether they are noise.

For recognition the difference in top-1 has the p-value of the exact McNemar test and a paired bootstrap interval over
videos; for frame labels the differences in frame accuracy and edit score have bootstrap intervals over videos. mAP of
detections is shown without a test: it is not a mean over videos.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidseg.frames.whole_file import whole_file
from vidseg.labels.counting import counted
from vidseg.metrics import mcnemar, paired_bootstrap
from vidseg.metrics.video_scores import VideoScores, read_scores

__all__ = ["Comparison", "Difference", "PairedRuns", "compare_runs", "write_gains"]

_LEVEL = 0.95
_RESAMPLES = 2000
_SHOWN = 10  # classes and videos in a table


@dataclass(frozen=True)
class Difference:
    """Difference of one score between two runs, the second minus the first.

    Attributes:
        score: name of the score.
        value: the difference.
        interval: percentile interval of a paired bootstrap over videos; None: not computed.
        p_value: two-sided p-value of the exact McNemar test; None: not computed.
    """

    score: str
    value: float
    interval: tuple[float, float] | None = None
    p_value: float | None = None

    @property
    def noise(self) -> bool | None:
        """Whether the difference can be due to the choice of videos, at 5 %; None: not tested."""
        if self.p_value is not None:
            return self.p_value > 1 - _LEVEL
        return None if self.interval is None else self.interval[0] <= 0 <= self.interval[1]

    def __str__(self) -> str:
        text = f"{self.score} {self.value:+.4g}"
        if self.interval is not None:
            text += f", {_LEVEL:.0%} interval {self.interval[0]:+.4g} to {self.interval[1]:+.4g} (paired bootstrap)"
        if self.p_value is not None:
            text += f", p = {self.p_value:.3g} (exact McNemar test)"
        if self.noise is not None:
            text += ": may be noise" if self.noise else ": unlikely to be noise"
        return text


@dataclass(frozen=True)
class PairedRuns:
    """Differences between the first run and another one.

    Attributes:
        run: name of the other run.
        differences: of the scores over all videos.
        class_score: name of the score of each class.
        class_gains: class name to the gain of its score, the other run minus the first; classes without a score are
            left out.
        lost: videos that the first run classifies correctly and the other one does not; of recognition.
        won: videos that the other run classifies correctly and the first one does not; of recognition.
        video_gains: video to the gain of its frame accuracy in percentage points; of frame labels.
    """

    run: str
    differences: list[Difference]
    class_score: str
    class_gains: dict[str, float]
    lost: list[str] = field(default_factory=list)
    won: list[str] = field(default_factory=list)
    video_gains: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Scores of several tested runs on the same videos; `str()` is a table.

    Attributes:
        task: name of the task.
        split: tested split.
        videos: number of tested videos.
        scores: of each run: name of the run -> score -> value; recognition as shares, other tasks in percent.
        pairs: the first run against each other one.
    """

    task: str
    split: str
    videos: int
    scores: dict[str, dict[str, float]]
    pairs: list[PairedRuns]

    def summary(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        content = asdict(self)
        for pair, found in zip(content["pairs"], self.pairs, strict=True):
            for one, difference in zip(pair["differences"], found.differences, strict=True):
                one["noise"] = difference.noise
        return content

    def __str__(self) -> str:
        names = list(next(iter(self.scores.values())))
        width = max(8, *map(len, self.scores))
        columns = [max(8, len(name) + 2) for name in names]
        cells = zip(names, columns, strict=True)
        lines = [f"{'run':{width}}" + "".join(f"{name:>{column}}" for name, column in cells)]
        for run, scores in self.scores.items():
            values = zip(scores.values(), columns, strict=True)
            lines.append(f"{run:{width}}" + "".join(f"{value:{column}.4f}" for value, column in values))
        lines.append(f"{self.task}, {self.split}: {counted(self.videos, 'video')}")
        first = next(iter(self.scores))
        for pair in self.pairs:
            lines += ["", f"{pair.run} minus {first}", *(f"  {difference}" for difference in pair.differences)]
            if self.task == "recognition":
                lines += _listed(f"only {pair.run} is right", pair.won) + _listed(f"only {first} is right", pair.lost)
            lines += _gains(f"gains in {pair.class_score}", pair.class_gains)
            lines += _gains("gains in frame accuracy of videos", pair.video_gains)
        return "\n".join(lines)


def _listed(title: str, videos: Sequence[str]) -> list[str]:
    shown = ", ".join(videos[:_SHOWN]) + (", ..." if len(videos) > _SHOWN else "")
    return [f"  {title}: {counted(len(videos), 'video')}" + (f": {shown}" if videos else "")]


def _gains(title: str, gains: Mapping[str, float]) -> list[str]:
    """Return the largest losses and gains, in rising order."""
    ordered = sorted(((name, gain) for name, gain in gains.items() if gain), key=lambda pair: pair[1])
    if not ordered:
        return []
    if len(ordered) > 2 * _SHOWN:
        title += f", the {_SHOWN} lowest and {_SHOWN} highest of {len(ordered)}"
        ordered = ordered[:_SHOWN] + ordered[-_SHOWN:]
    width = max(len(name) for name, _ in ordered)
    return [f"  {title}:", *(f"    {name:{width}} {gain:+9.4f}" for name, gain in ordered)]


def compare_runs(runs: Sequence[str | Path]) -> Comparison:
    """Compare tested runs of one task on the same videos.

    Args:
        runs: at least two folders of runs with test.json, or JSON files of tests.

    Raises:
        FileNotFoundError: a run has not been tested.
        ValueError: fewer than two runs, or their tasks, classes, splits or videos differ; the message names the
            difference.
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run given; a comparison needs at least two")
    paths = [_test_file(Path(run)) for run in runs]
    tests = [_read(path) for path in paths]
    for path, test in zip(paths[1:], tests[1:], strict=True):
        _check_same(paths[0], tests[0], path, test)
    names = _names(paths)
    task = tests[0]["task"]
    make = {"recognition": _recognition, "detection": _detection}.get(task, _frame_labels)
    scores, pairs, videos = make(names, paths, tests)
    return Comparison(task, tests[0]["split"], videos, dict(zip(names, scores, strict=True)), pairs)


def _test_file(run: Path) -> Path:
    path = run if run.suffix == ".json" else run / "test.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; run `vidseg test {run}` first")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        test = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(test, dict) or "task" not in test:
        raise ValueError(f"{path}: not the file of a test; run `vidseg test {path.parent}` again")
    if test["task"] == "flow":
        raise ValueError(f"{path}: the scores of optical flow are means over pixels, which have no comparison by video")
    if test["task"] == "recognition" and "confusion" not in test:
        raise ValueError(
            f"{path}: its videos have several classes or numbers; only runs with one class for each video are compared"
        )
    return test


def _names(paths: Sequence[Path]) -> list[str]:
    """Return short names of runs that differ: of the folder, with its parents or the test where needed."""
    parts = [path.resolve().parts[:-1] for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    tests = [f"{path.resolve().parent.name}/{path.stem}" for path in paths]
    if len(set(tests)) == len(tests):
        return tests
    raise ValueError(f"{paths[0]}: given twice; a comparison needs different runs")


def _check_same(first: Path, known: Mapping[str, Any], path: Path, test: Mapping[str, Any]) -> None:
    for name in ("task", "split"):
        if known[name] != test[name]:
            raise ValueError(f"{path}: its {name} is {test[name]!r}, that of {first} is {known[name]!r}")
    pairs = itertools.zip_longest(_classes(known), _classes(test))
    for number, (old, new) in enumerate(pairs):
        if old != new:
            raise ValueError(f"{path}: class {number} is {new!r}, in {first} it is {old!r}")
    one, other = _videos(first, known), _videos(path, test)
    only = sorted(one ^ other)
    if only:
        place = path if only[0] in other else first
        raise ValueError(
            f"{path}: tested on other videos than {first}: {only[0]!r} is only in {place} "
            f"({counted(len(only), 'video')} of {len(one | other)} differ)"
        )


def _classes(test: Mapping[str, Any]) -> list[str]:
    if test["task"] == "detection":
        return sorted(str(row["class"]) for row in test["scores"].get("by_class", []))
    return list(test["classes"])


def _videos(path: Path, test: Mapping[str, Any]) -> set[str]:
    if test["task"] == "recognition":
        return set(_scores(path).videos)
    if test["task"] == "detection":
        return {f"{Path(test['dataset']).name}: {counted(test['scores']['videos'], 'video')}"}
    return {video["name"] for video in test["videos"]}


def _scores(path: Path) -> VideoScores:
    """Return the scores that a test left beside its JSON file.

    Raises:
        FileNotFoundError: there is no such file; it is one of an earlier version.
    """
    scores = path.with_name(f"{path.stem.replace('test', 'scores', 1)}.npz")
    if not scores.is_file():
        raise FileNotFoundError(f"{scores}: not found; run `vidseg test {path.parent}` again")
    return read_scores(scores)


_Made = tuple[list[dict[str, float]], list[PairedRuns], int]


def _recognition(names: Sequence[str], paths: Sequence[Path], tests: Sequence[Mapping[str, Any]]) -> _Made:
    found = [_scores(path) for path in paths]
    first = found[0]
    right = []
    for path, scores in zip(paths, found, strict=True):
        places = {video: place for place, video in enumerate(scores.videos)}
        order = [places[video] for video in first.videos]
        labels = scores.labels[order]
        if not np.array_equal(labels, first.labels):
            wrong = int(np.flatnonzero(labels != first.labels)[0])
            raise ValueError(
                f"{path}: {first.videos[wrong]!r} is labeled {first.classes[labels[wrong]]!r}, in {paths[0]} it is "
                f"{first.classes[first.labels[wrong]]!r}; test both runs again"
            )
        right.append(scores.scores[order].argmax(axis=1) == labels)
    columns = {"top-1": "top1", "top-5": "top5", "mean class": "mean_class_accuracy", "loss": "loss"}
    tables = [{name: float(test[key]) for name, key in columns.items()} for test in tests]
    pairs = [
        _paired_recognition(name, first, right[0], other) for name, other in zip(names[1:], right[1:], strict=True)
    ]
    return tables, pairs, len(first.videos)


def _paired_recognition(
    name: str, scores: VideoScores, first: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]
) -> PairedRuns:
    gains = other.astype(np.float64) - first
    interval = paired_bootstrap(lambda rows: gains[rows].mean(axis=1), len(gains), resamples=_RESAMPLES, level=_LEVEL)
    lost = [scores.videos[row] for row in np.flatnonzero(gains < 0)]
    won = [scores.videos[row] for row in np.flatnonzero(gains > 0)]
    by_class = {
        label: float(gains[scores.labels == number].mean())
        for number, label in enumerate(scores.classes)
        if (scores.labels == number).any()
    }
    difference = Difference("top-1", float(gains.mean()), interval, mcnemar(len(lost), len(won)))
    return PairedRuns(name, [difference], "class accuracy", by_class, lost, won)


def _frame_labels(names: Sequence[str], paths: Sequence[Path], tests: Sequence[Mapping[str, Any]]) -> _Made:
    del paths
    tables = [
        {
            **{f"F1@{100 * float(overlap):g}": float(value) for overlap, value in test["scores"]["f1"].items()},
            "edit": float(test["scores"]["edit"]),
            "acc": float(test["scores"]["acc"]),
        }
        for test in tests
    ]
    first = {video["name"]: video for video in tests[0]["videos"]}
    frames = np.array([sum(count for _, count in video["truth"]) for video in first.values()], np.float64)
    pairs = []
    for name, test in zip(names[1:], tests[1:], strict=True):
        other = {video["name"]: video for video in test["videos"]}
        gains = {key: np.array([other[video][key] - first[video][key] for video in first]) for key in ("acc", "edit")}
        weighted = gains["acc"] * frames

        def accuracy(rows: npt.NDArray[np.int64], weighted: npt.NDArray[np.float64] = weighted) -> Any:
            return weighted[rows].sum(axis=1) / frames[rows].sum(axis=1)

        def edit(rows: npt.NDArray[np.int64], edits: npt.NDArray[np.float64] = gains["edit"]) -> Any:
            return edits[rows].mean(axis=1)

        differences = [
            Difference(key, value, paired_bootstrap(score, len(first), resamples=_RESAMPLES, level=_LEVEL))
            for key, value, score in (
                ("acc", float(weighted.sum() / frames.sum()), accuracy),
                ("edit", float(gains["edit"].mean()), edit),
            )
        ]
        videos = dict(zip(first, gains["acc"].tolist(), strict=True))
        pairs.append(PairedRuns(name, differences, "class recall", _class_gains(tests[0], test), video_gains=videos))
    return tables, pairs, len(first)


def _class_gains(first: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    columns = []
    for test in (first, other):
        table = test["class_scores"]
        columns.append(dict(zip(table["number"], table["acc"], strict=True)))
    found = {
        first["classes"][number]: columns[1][number] - value
        for number, value in columns[0].items()
        if number in columns[1]
    }
    return {name: float(gain) for name, gain in found.items() if math.isfinite(gain)}


def _detection(names: Sequence[str], paths: Sequence[Path], tests: Sequence[Mapping[str, Any]]) -> _Made:
    del paths
    tables = []
    for test in tests:
        scores = test["scores"]
        table = {f"mAP@{float(key):g}": 100 * float(value) for key, value in scores.get("map", {}).items()}
        if "average" in scores:
            table["mAP"] = 100 * float(scores["average"])
        table |= {f"AR@{key}": 100 * float(value) for key, value in scores.get("average_recall", {}).items()}
        tables.append(table)
    different = next((test for test in tests if list(_keys(test)) != list(_keys(tests[0]))), None)
    if different is not None:
        raise ValueError(
            f"different scores: {', '.join(_keys(tests[0]))} and {', '.join(_keys(different))}; test the "
            "runs with one protocol"
        )
    shared = "mAP" if "mAP" in tables[0] else list(tables[0])[-1]
    rows = [{str(row["class"]): row["average"] for row in test["scores"].get("by_class", [])} for test in tests]
    pairs = [
        PairedRuns(
            name,
            [Difference(shared, table[shared] - tables[0][shared])],
            "AP of the class",
            {label: 100 * (value - rows[0][label]) for label, value in row.items()},
        )
        for name, table, row in zip(names[1:], tables[1:], rows[1:], strict=True)
    ]
    return tables, pairs, int(tests[0]["scores"]["videos"])


def _keys(test: Mapping[str, Any]) -> list[str]:
    return [*test["scores"].get("map", {}), *test["scores"].get("average_recall", {})]


def write_gains(path: str | Path, comparison: Comparison) -> Path:
    """Write the gains of every class as CSV: a row for each class, a column for each run but the first.

    Args:
        path: .csv file.
        comparison: of `compare_runs`.
    """
    path = Path(path)
    classes = sorted({name for pair in comparison.pairs for name in pair.class_gains})
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", *(pair.run for pair in comparison.pairs)])
        for name in classes:
            writer.writerow([name, *(_number(pair.class_gains.get(name)) for pair in comparison.pairs)])
    return path


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
