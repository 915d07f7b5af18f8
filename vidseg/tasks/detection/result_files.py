"""Files of detections: the official JSON form of ActivityNet, CSV tables, and subtitles.

The official form is `{"version": .., "results": {video: [{"label": .., "score": .., "segment": [start, stop]}]},
"external_data": {}}` with times in seconds. Proposals have no label.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt

from vidseg.frames.whole_file import whole_file
from vidseg.labels.json_files import read_json
from vidseg.labels.names import clean_name, find_name, strip_extension
from vidseg.metrics.detections import Detections

__all__ = [
    "DETECTION_SUFFIXES",
    "DetectionResults",
    "DetectionRow",
    "read_results",
    "subtitle_cues",
    "write_csv",
    "write_detections",
    "write_results",
    "write_subtitles",
]

DETECTION_SUFFIXES = (".json", ".csv", ".srt", ".vtt")
"""Suffixes of the files that `write_detections` writes."""


class DetectionRow(NamedTuple):
    """One detection: class name, start and stop in seconds, score."""

    label: str
    start: float
    stop: float
    score: float


@dataclass(frozen=True)
class DetectionResults:
    """Detections of several videos.

    Attributes:
        videos: names by number, also of videos without detections.
        classes: names by number; one empty name for proposals, which have no class.
        detections: numbered by `videos` and `classes`.
    """

    videos: tuple[str, ...]
    classes: tuple[str, ...]
    detections: Detections

    @classmethod
    def of(
        cls,
        videos: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]],
        classes: Sequence[str],
    ) -> DetectionResults:
        """Return results from segments (N, 2) in seconds, class numbers (N,) and scores (N,) of each video.

        Raises:
            ValueError: the lengths differ, a class number is not one of `classes`, or a value is not finite.
        """
        parts = list(zip(*videos.values(), strict=True)) or [(), (), ()]
        found = Detections.of_videos(*parts)
        if len(found) and found.labels.max() >= len(classes):
            raise ValueError(f"class number {found.labels.max()}, but there are {len(classes)} classes")
        return cls(tuple(videos), tuple(classes), found)

    @property
    def has_classes(self) -> bool:
        """Whether the detections have classes; False for proposals."""
        return self.classes != ("",)

    def without(self, names: Iterable[str]) -> DetectionResults:
        """Return the results without these videos, whose names may have the prefix `v_` on one side only."""
        left_out = {found for name in names if (found := find_name(name, self.videos))}
        kept = [number for number, name in enumerate(self.videos) if name not in left_out]
        numbers = np.full(len(self.videos), -1, np.int64)
        numbers[kept] = np.arange(len(kept))
        chosen = self.detections.take(numbers[self.detections.videos] >= 0)
        detections = replace(chosen, videos=numbers[chosen.videos])
        return DetectionResults(tuple(self.videos[number] for number in kept), self.classes, detections)

    def rows(self) -> Iterator[tuple[str, list[DetectionRow]]]:
        """Yield each video with its detections, by falling score."""
        found = self.detections
        order = np.lexsort((-found.scores, found.videos))
        bounds = np.searchsorted(found.videos[order], np.arange(len(self.videos) + 1))
        for number, name in enumerate(self.videos):
            chosen = order[bounds[number] : bounds[number + 1]]
            columns = found.labels[chosen].tolist(), found.segments[chosen].tolist(), found.scores[chosen].tolist()
            yield (
                name,
                [
                    DetectionRow(self.classes[label], start, stop, score)
                    for label, (start, stop), score in zip(*columns, strict=True)
                ],
            )


def read_results(path: str | Path) -> DetectionResults:
    """Read detections or proposals in the official form; other entries of the file are ignored.

    Returns:
        The detections in the order of the file; classes are numbered in the order of their names.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has another form; the message names the video and the number of the detection.
    """
    content = read_json(path)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise ValueError(f"{path}: expected an object with the entry 'results': detections by video")
    names: list[str] = []
    videos, segments, labels, scores = [], [], [], []
    for written, entries in results.items():
        name = strip_extension(clean_name(written))
        if not isinstance(entries, list):
            raise ValueError(f"{path}: video {written!r} is not a list of detections")
        for position, entry in enumerate(entries):
            try:
                start, stop = entry["segment"]
                segments.append((float(start), float(stop)))
                scores.append(float(entry["score"]))
                labels.append(clean_name(str(entry.get("label", ""))))
                finite = all(map(math.isfinite, (*segments[-1], scores[-1])))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(
                    f"{path}: video {written!r}: detection {position}: {type(error).__name__}: {error}; expected label,"
                    " score and segment"
                ) from error
            if not finite:
                raise ValueError(f"{path}: video {written!r}: detection {position}: a time or score is not finite")
            videos.append(len(names))
        names.append(name)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: video {twice!r} occurs twice; remove one entry")
    classes = sorted(set(labels)) or [""]
    if "" in classes and len(classes) > 1:
        raise ValueError(f"{path}: some detections have a label and some have none")
    numbers = {label: number for number, label in enumerate(classes)}
    found = Detections.of(videos, segments, [numbers[label] for label in labels], scores)
    return DetectionResults(tuple(names), tuple(classes), found)


def write_results(
    path: str | Path,
    results: DetectionResults,
    *,
    prefix: bool | None = None,
    digits: int | None = None,
    version: str = "VERSION 1.3",
    external_data: Mapping[str, Any] | None = None,
) -> Path:
    """Write detections in the official form, replacing an existing file atomically.

    Args:
        path: file to write.
        results: detections; those of a video are written by falling score.
        prefix: True: names with the prefix `v_`; False: names without it, as the ActivityNet evaluator expects; None:
            names as they are.
        digits: decimals of times and scores; None: all. ActivityNet's server accepts files up to a limited size.
        version: entry `version`.
        external_data: entry `external_data`, which names the pretraining; default: empty.

    Returns:
        The path.

    Raises:
        ValueError: two names are equal after the change of the prefix.
    """

    def number(value: float) -> float:
        return value if digits is None else round(value, digits)

    content: dict[str, list[dict[str, Any]]] = {}
    for name, rows in results.rows():
        bare = name.removeprefix("v_")
        chosen = name if prefix is None else f"v_{bare}" if prefix else bare
        if chosen in content:
            raise ValueError(f"{path}: two videos have the name {chosen!r}; write the names as they are")
        content[chosen] = [
            {
                **({"label": row.label} if results.has_classes else {}),
                "score": number(row.score),
                "segment": [number(row.start), number(row.stop)],
            }
            for row in rows
        ]
    with _replacing(path) as file:
        json.dump(
            {"version": version, "results": content, "external_data": dict(external_data or {})},
            file,
            ensure_ascii=False,
        )
        file.write("\n")
    return Path(path)


def write_csv(path: str | Path, results: DetectionResults) -> Path:
    """Write detections as rows `video,start,end,class,score`; `vidseg labels segments` reads them as annotation."""
    with _replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "start", "end", "class", "score"])
        for name, rows in results.rows():
            for row in rows:
                writer.writerow([name, round(row.start, 3), round(row.stop, 3), row.label, round(row.score, 6)])
    return Path(path)


def subtitle_cues(rows: Iterable[DetectionRow], *, min_score: float) -> list[tuple[float, float, list[str]]]:
    """Return cues that do not overlap: start, stop, and a line for each class that is detected between them.

    Players show overlapping cues in different places, or only one of them, so times are divided where a detection
    starts or stops. Of detections of one class at the same time, the best one is shown.

    Args:
        rows: detections of one video.
        min_score: detections with a score below this are left out.
    """
    kept = [row for row in rows if row.score >= min_score and row.stop > max(row.start, 0.0)]
    times = sorted({max(0.0, time) for row in kept for time in (row.start, row.stop)})
    cues: list[tuple[float, float, list[str]]] = []
    for start, stop in itertools.pairwise(times):
        best: dict[str, float] = {}
        for row in kept:
            if row.start <= start and row.stop >= stop:
                best[row.label] = max(best.get(row.label, 0.0), row.score)
        lines = [f"{label} {score:.0%}" for label, score in sorted(best.items(), key=lambda item: (-item[1], item[0]))]
        if lines and cues and cues[-1][1:] == (start, lines):
            cues[-1] = (cues[-1][0], stop, lines)
        elif lines:
            cues.append((start, stop, lines))
    return cues


def write_subtitles(path: str | Path, rows: Iterable[DetectionRow], *, min_score: float = 0.3) -> Path:
    """Write the detections of one video as subtitles, .srt or .vtt.

    Args:
        path: file to write; its suffix is the form.
        rows: detections of the video.
        min_score: detections with a score below this are left out.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    if path.suffix not in (".srt", ".vtt"):
        raise ValueError(f"{path}: subtitles are written as .srt or .vtt")
    web = path.suffix == ".vtt"
    with _replacing(path) as file:
        if web:
            file.write("WEBVTT\n\n")
        for number, (start, stop, lines) in enumerate(subtitle_cues(rows, min_score=min_score), start=1):
            text = "\n".join(lines)
            if web:  # a cue's text is markup there
                text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            file.write(f"{number}\n{_clock(start, web)} --> {_clock(stop, web)}\n{text}\n\n")
    return path


def write_detections(path: str | Path, results: DetectionResults, *, min_score: float = 0.3) -> list[Path]:
    """Write detections in the form of the suffix: .json, .csv, .srt or .vtt.

    Subtitles of several videos are written to `<path without suffix>/<video><suffix>`.

    Args:
        path: file to write.
        results: detections.
        min_score: smallest score in subtitles; the other forms have all detections.

    Returns:
        The files.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    if path.suffix == ".json":
        return [write_results(path, results)]
    if path.suffix == ".csv":
        return [write_csv(path, results)]
    if path.suffix not in DETECTION_SUFFIXES:
        raise ValueError(f"{path}: detections are written as {', '.join(DETECTION_SUFFIXES)}")
    rows = list(results.rows())
    if len(rows) == 1:
        return [write_subtitles(path, rows[0][1], min_score=min_score)]
    folder = path.with_suffix("")
    return [write_subtitles(folder / f"{name}{path.suffix}", found, min_score=min_score) for name, found in rows]


def _clock(seconds: float, web: bool) -> str:
    whole = round(seconds * 1000)
    minutes, rest = divmod(whole, 60_000)
    separator = "." if web else ","
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{separator}{rest % 1000:03d}"


@contextmanager
def _replacing(path: str | Path) -> Iterator[TextIO]:
    """Yield a text file whose content replaces `path` at the end."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file
