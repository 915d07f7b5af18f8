"""Scores of detection results against annotation: videos and classes are matched by name, then all metrics computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vidseg.labels.catalog import read_catalog
from vidseg.labels.counting import counted
from vidseg.labels.dataset import open_dataset
from vidseg.labels.detection_files import Level
from vidseg.labels.detection_labels import read_detection_labels
from vidseg.labels.faults import UncheckedSegments
from vidseg.labels.localization import LocalizedVideo, TimedLabel
from vidseg.labels.names import find_name
from vidseg.labels.official_lists import read_id_list
from vidseg.metrics import (
    DetectionProtocol,
    Detections,
    DetectionScores,
    FalsePositiveProfile,
    ProposalRecall,
    average_recall,
    detection_map,
    detection_protocol,
    false_positive_profile,
    recall_at,
)
from vidseg.metrics.detection_scores import match_by_class
from vidseg.tasks.detection.result_files import DetectionResults, read_results

if TYPE_CHECKING:
    from vidseg.plots import DetectedVideo

__all__ = [
    "PairedDetections",
    "ResultScores",
    "detected_videos",
    "pair_files",
    "pair_results",
    "read_truth",
    "score_files",
    "score_pair",
]

_MULTIPLES = (1, 5)
_NUMBERS = (1, 5, 10, 100)  # AR@AN
_SEEN = 5


@dataclass(frozen=True)
class PairedDetections:
    """Truth and detections with common numbers of videos and classes.

    Attributes:
        videos: names by number, those of the truth first.
        classes: names by number, those of the truth first.
        truth: instances.
        detections: detections.
        protocol: rules that the detections were paired by.
        missing: videos of the truth that the results do not have.
        outside: videos of the results that the truth does not have.
        unknown: classes of the results without an instance.
        seconds: durations of the videos of the truth, as far as known.
    """

    videos: tuple[str, ...]
    classes: tuple[str, ...]
    truth: Detections
    detections: Detections
    protocol: DetectionProtocol
    missing: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def has_classes(self) -> bool:
        """Whether the detections have classes; False for proposals."""
        return self.unknown != [""]


@dataclass(frozen=True)
class ResultScores:
    """All scores of a result; without classes (proposals) only `recall`.

    Attributes:
        pair: what was scored.
        recall: recall of proposals, without regard to classes; None without any detection.
        scores: average precisions.
        multiples: Recall@kx by IoU threshold, (T, 2), for k = 1 and 5.
        profile: false positives by kind; None if no threshold is above 0.1.
    """

    pair: PairedDetections
    recall: ProposalRecall | None
    scores: DetectionScores | None = None
    multiples: npt.NDArray[np.float64] | None = None
    profile: FalsePositiveProfile | None = None

    def summary(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON files."""
        content: dict[str, Any] = {
            "videos": len({*self.pair.truth.videos.tolist()}),
            "missing_videos": self.pair.missing,
            "outside_videos": self.pair.outside,
            "unknown_classes": self.pair.unknown,
        }
        if self.scores is not None:
            content |= self.scores.summary() | {"by_class": self.scores.table(self.pair.classes)}
        if self.recall is not None:
            content["average_recall"] = {str(number): self.recall.at(number) for number in _NUMBERS}
            content["auc"] = self.recall.auc
        if self.multiples is not None:
            content["recall_at"] = {
                f"{multiple}x": {
                    f"{threshold:.4g}": float(value)
                    for threshold, value in zip(self.pair.protocol.thresholds, column, strict=True)
                }
                for multiple, column in zip(_MULTIPLES, self.multiples.T, strict=True)
            }
        if self.profile is not None:
            content["false_positives"] = self.profile.summary()
        return content

    def lines(self, *, classes: bool = False) -> list[str]:
        """Return the scores as a table in percent.

        Args:
            classes: also a table of the classes, lowest average precision first.
        """
        pair = self.pair
        thresholds = [f"{threshold:.4g}" for threshold in pair.protocol.thresholds]
        lines = [
            f"{counted(len(set(pair.truth.videos.tolist())), 'video')}, {counted(len(pair.truth), 'instance')},"
            f" {counted(len(set(pair.truth.labels.tolist())), 'class', 'classes')},"
            f" {counted(len(pair.detections), 'detection')}"
        ]
        for noun, items, text in (
            ("video", pair.missing, "without an entry in the results; their instances count as missed"),
            ("video", pair.outside, "of the results not in the truth; detections there are false positives"),
            ("class", pair.unknown if pair.has_classes else [], "of the results without an instance; ignored"),
        ):
            if items:
                number = counted(len(items), noun, "classes" if noun == "class" else None)
                lines.append(f"{number} {text}: {', '.join(items[:_SEEN])}{' ...' if len(items) > _SEEN else ''}")
        if self.scores is not None:
            lines += ["", f"{'IoU':10}" + "".join(f"{name:>8}" for name in (*thresholds, "average"))]
            lines.append(f"{'mAP':10}" + _cells((*self.scores.map, self.scores.average)))
        if self.multiples is not None:
            for multiple, column in zip(_MULTIPLES, self.multiples.T, strict=True):
                lines.append(f"{f'recall@{multiple}x':10}" + _cells((*column, column.mean())))
        if self.recall is not None:
            names = "".join(f"{f'AR@{number}':>8}" for number in _NUMBERS)
            lines += ["", f"{'proposals':10}{names}{'AUC':>8}"]
            lines.append(f"{'':10}" + _cells([*(self.recall.at(number) for number in _NUMBERS), self.recall.auc]))
        if self.profile is not None:
            lines += ["", f"{'false positives':18}{'share':>8}{'cost':>8}   (cost: mAP gained without these errors)"]
            total = self.profile.counts.sum()
            rows = zip(self.profile.summary()["gains"], self.profile.counts[1:], self.profile.gains, strict=True)
            lines += [f"{name:18}{100 * count / max(total, 1):8.2f}{100 * gain:8.2f}" for name, count, gain in rows]
        if classes and self.scores is not None:
            table = sorted(self.scores.table(pair.classes), key=lambda row: row["average"])
            width = max(5, *(len(row["class"]) for row in table))
            head = "".join(f"{name:>8}" for name in (*thresholds, "average"))
            lines += ["", f"{'class':{width}}{'instances':>11}{'detections':>12}{head}"]
            for row in table:
                counts = f"{row['instances']:11}{row['detections']:12}"
                lines.append(f"{row['class']:{width}}{counts}" + _cells((*row["ap"].values(), row["average"])))
        return lines


def _cells(values: Sequence[float] | npt.NDArray) -> str:
    return "".join(f"{100 * value:8.2f}" for value in values)


def read_truth(
    paths: Sequence[str | Path],
    *,
    split: str | None = None,
    blocked: str | Path | None = None,
    level: Level = "verb",
    classes: str | Path | None = None,
) -> dict[str, LocalizedVideo]:
    """Read the annotated videos of one split, for scoring.

    Segments of annotation files are used as they are, also outside their video or without length, because the published
    evaluators use them so. The catalog has segments that were checked when they were imported.

    Args:
        paths: folder of a data set, or annotation files.
        split: name of the split; None: the only one besides train that has segments, or all videos without splits.
        blocked: list of videos to leave out.
        level: classes of EPIC-Kitchens.
        classes: class list for files with class numbers.

    Raises:
        FileNotFoundError: a file or the split does not exist.
        ValueError: a file is malformed, or several splits have segments; the message names them.
    """
    if len(paths) == 1 and (Path(paths[0]) / "catalog.db").is_file():
        videos = _catalog_videos(Path(paths[0]))
    else:
        labels = read_detection_labels(paths, classes=classes, level=level, faults=UncheckedSegments())
        videos = [(video.split, name, video) for name, video in labels.videos.items()]
    with_segments = sorted({name for name, _, video in videos if name is not None and video.segments})
    place = ", ".join(map(str, paths))
    if split is None and with_segments:
        others = [name for name in with_segments if name != "train"] or with_segments
        if len(others) > 1:
            raise ValueError(f"{place}: the splits {', '.join(others)} have segments; choose one with --split")
        split = others[0]
    chosen = {name: video for own, name, video in videos if split is None or own == split}
    if not chosen:
        known = ", ".join(sorted({str(name) for name, _, _ in videos if name is not None})) or "none"
        raise ValueError(f"{place}: split {split!r} has no video; splits: {known}")
    left_out = {find_name(name, chosen) for name in read_id_list(blocked)} if blocked is not None else set()
    return {name: video for name, video in chosen.items() if name not in left_out}


def _catalog_videos(root: Path) -> list[tuple[str | None, str, LocalizedVideo]]:
    """Return split, name and segments of the videos of a catalog; a video of several splits occurs in each."""
    classes = open_dataset(root).classes
    videos: dict[str, LocalizedVideo] = {}
    with read_catalog(root) as connection:
        for path, seconds, fps in connection.execute("SELECT path, seconds, fps FROM videos ORDER BY path"):
            videos[path] = LocalizedVideo([], seconds or None, fps=fps or None)
        for path, start, stop, number in connection.execute(
            "SELECT v.path, s.start, s.stop, c.number FROM segments s JOIN videos v ON v.id = s.video_id"
            " JOIN classes c ON c.id = s.class_id ORDER BY s.video_id, s.start, s.stop"
        ):
            videos[path].segments.append(TimedLabel(classes[number], start, stop))
        members = connection.execute(
            "SELECT p.name, v.path FROM split_videos m JOIN splits p ON p.id = m.split_id"
            " JOIN videos v ON v.id = m.video_id ORDER BY v.path"
        ).fetchall()
    rows = [(split, path.rpartition("/")[2], videos[path]) for split, path in members]
    listed = {path for _, path in members}
    rest = [(None, path.rpartition("/")[2], video) for path, video in videos.items() if path not in listed]
    return [*rows, *rest]


def pair_results(
    truth: Mapping[str, LocalizedVideo],
    results: DetectionResults,
    *,
    protocol: str | DetectionProtocol = "activitynet",
    classes: Sequence[str] = (),
) -> PairedDetections:
    """Number videos and classes of truth and results alike, by the rules of a protocol.

    Names match if they are equal, or if one has the prefix `v_` and the other has not.

    Args:
        truth: annotated videos of the split that is scored.
        results: detections.
        protocol: name in `PROTOCOLS`, or a protocol.
        classes: names that get the first numbers; default: the names of the truth, sorted.

    Raises:
        ValueError: the protocol refuses a video or class of the results, or results have a video under two names.
    """
    rules = detection_protocol(protocol)
    known = list(classes)
    known += sorted({one.label for video in truth.values() for one in video.segments} - set(known))
    used = {one.label for video in truth.values() for one in video.segments}
    numbers = {name: number for number, name in enumerate(known)}
    unknown = [name for name in results.classes if name not in used]
    for name in results.classes:
        numbers.setdefault(name, len(numbers))
    places = {name: number for number, name in enumerate(truth)}
    outside, of_video, taken = [], [], set()
    for name in results.videos:
        home = find_name(name, truth)
        if home is None:
            outside.append(name)
            home = name
        elif home in taken:
            raise ValueError(f"the results have the video {home!r} twice, with and without the prefix v_")
        taken.add(home)
        of_video.append(places.setdefault(home, len(places)))
    missing = [name for name in truth if name not in taken]
    if missing and rules.missing_videos == "refuse":
        raise ValueError(f"{counted(len(missing), 'video')} of the truth not in the results, such as {missing[0]!r}")
    if rules.unknown_labels == "refuse" and unknown and results.has_classes:
        raise ValueError(f"class {unknown[0]!r} of the results has no instance in the truth")
    segments = [(places[name], one) for name, video in truth.items() for one in video.segments]
    instances = Detections.of(
        [place for place, _ in segments],
        [(one.start, one.stop) for _, one in segments],
        [numbers[one.label] for _, one in segments],
    )
    ours = results.detections
    found = Detections.of(
        np.array(of_video, np.int64)[ours.videos],
        ours.segments,
        np.array([numbers[name] for name in results.classes], np.int64)[ours.labels],
        ours.scores,
    )
    if rules.outside_videos == "ignore":
        found = found.take(found.videos < len(truth))
    return PairedDetections(
        tuple(places),
        tuple(numbers),
        instances,
        found,
        rules,
        missing,
        outside,
        unknown,
        {name: video.seconds for name, video in truth.items() if video.seconds},
    )


def score_pair(pair: PairedDetections) -> ResultScores:
    """Compute all metrics of paired detections.

    Raises:
        ValueError: the truth has no instance.
    """
    rules = pair.protocol
    recall = None
    if len(pair.detections) and np.isin(pair.detections.videos, pair.truth.videos).any():
        recall = average_recall(pair.truth, pair.detections, protocol=rules)
    if not pair.has_classes:
        return ResultScores(pair, recall)
    above = rules.thresholds[-1] > 0.1 + 1e-9
    return ResultScores(
        pair,
        recall,
        detection_map(pair.truth, pair.detections, protocol=rules),
        recall_at(pair.truth, pair.detections, multiples=_MULTIPLES, protocol=rules),
        false_positive_profile(pair.truth, pair.detections, protocol=rules) if above else None,
    )


def detected_videos(
    pair: PairedDetections, names: Sequence[str] = (), *, threshold: float = 0.5, most: int = 8
) -> list[DetectedVideo]:
    """Return videos for `plot_timelines`: truth, detections, and which of them are correct.

    Args:
        pair: truth and detections.
        names: names of the videos; empty: the first ones with an instance.
        threshold: IoU from which a detection is correct; the nearest one of the protocol is used.
        most: largest number of videos.

    Raises:
        ValueError: a name is not a video of the truth or the results.
    """
    from vidseg.plots import DetectedVideo  # matplotlib, which `vidseg score` does not need

    missing = [name for name in names if name not in pair.videos]
    if missing:
        raise ValueError(f"unknown video {missing[0]!r}; the videos are {', '.join(pair.videos[:_SEEN])}, ...")
    numbers = [pair.videos.index(name) for name in names] or np.unique(pair.truth.videos).tolist()
    correct = np.zeros(len(pair.detections), bool)
    if pair.has_classes:
        near = min(pair.protocol.thresholds, key=lambda value: abs(value - threshold))
        found = match_by_class(pair.truth, pair.detections, protocol=pair.protocol.with_thresholds([near]))
        correct[found.rows] = found.matched[0] >= 0
    videos = []
    for number in numbers[:most]:
        true, ours = pair.truth.videos == number, pair.detections.videos == number
        videos.append(
            DetectedVideo(
                pair.videos[number],
                pair.seconds.get(pair.videos[number]),
                pair.truth.segments[true],
                pair.truth.labels[true],
                pair.detections.segments[ours],
                pair.detections.labels[ours],
                pair.detections.scores[ours],
                correct[ours],
            )
        )
    return videos


def pair_files(
    truth: Sequence[str | Path],
    results: str | Path,
    *,
    protocol: str = "activitynet",
    thresholds: Sequence[float] = (),
    split: str | None = None,
    blocked: str | Path | None = None,
    level: Level = "verb",
    classes: str | Path | None = None,
) -> PairedDetections:
    """Read truth and detections from files, and pair them; see `read_truth` and `pair_results`.

    Args:
        truth: folder of a data set, or annotation files.
        results: file of detections in the official form.
        protocol: name in `PROTOCOLS`.
        thresholds: IoU thresholds; empty: those of the protocol.
        split: split that is scored.
        blocked: list of videos to leave out of truth and detections.
        level: classes of EPIC-Kitchens.
        classes: class list for annotation files with class numbers.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is malformed, or no truth is given.
    """
    rules = detection_protocol(protocol).with_thresholds(tuple(thresholds) or None)
    if not truth:
        raise ValueError(f"{results}: give the truth first: the folder of a data set, or annotation files")
    videos = read_truth(truth, split=split, blocked=blocked, level=level, classes=classes)
    found = read_results(results)
    if blocked is not None:
        found = found.without(read_id_list(blocked))
    return pair_results(videos, found, protocol=rules)


def score_files(truth: Sequence[str | Path], results: str | Path, **options: Any) -> ResultScores:
    """Score a file of detections; the options are those of `pair_files`."""
    return score_pair(pair_files(truth, results, **options))
