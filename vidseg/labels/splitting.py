"""Random division of a data set into splits, stratified by class, with groups of videos kept together."""

from __future__ import annotations

import hashlib
import math
import re
import sqlite3
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vidseg.labels.catalog import write_catalog
from vidseg.labels.catalog_videos import split_ids
from vidseg.labels.counting import counted
from vidseg.labels.names import clean_name

__all__ = ["SplitReport", "divide_videos"]

_NAMES = {2: ("train", "test"), 3: ("train", "val", "test")}
_NO_CLASS = "(no class)"
_ALL: Hashable = None  # key of the number of all videos beside those of the classes


@dataclass
class SplitReport:
    """Result of a division.

    Attributes:
        splits: number of videos of each split.
        groups: number of groups of each split; a video without a group counts as one.
        classes: number of videos of each class in each split.
        missing: `<class>: <split>` of each class that a split does not contain.
    """

    splits: dict[str, int]
    groups: dict[str, int]
    classes: dict[str, dict[str, int]]
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{name}: {counted(count, 'video')}"
            + (f" of {counted(self.groups[name], 'group')}" if self.groups[name] != count else "")
            for name, count in self.splits.items()
        ]
        if self.missing:
            more = f", ... and {len(self.missing) - 5} more" if len(self.missing) > 5 else ""
            lines.append(f"splits without a video of a class: {', '.join(self.missing[:5])}{more}")
        return "\n".join(lines)


def divide_videos(
    root: str | Path,
    fractions: Sequence[float],
    *,
    names: Sequence[str] | None = None,
    group: str | None = None,
    seed: int = 0,
    replace: bool = False,
) -> SplitReport:
    """Divide the videos of a data set into splits and write them to the catalog.

    Every class is divided in the given fractions, rounded to whole videos so that the fractions also hold for the whole
    data set. An untrimmed video counts for each class of its segments.

    Args:
        root: folder of the data set.
        fractions: fraction of each split, with a sum of 1.
        names: names of the splits; default: train and test, or train, val and test.
        group: regular expression that finds the group of a video in its path `<class>/<video>`; videos of one group
            stay in one split. The group is what the parentheses match, or the whole match.
        seed: random seed; the division depends only on it and the paths of the videos.
        replace: replace splits of these names that have videos.

    Returns:
        The numbers of videos.

    Raises:
        ValueError: the fractions or names are invalid, a video has no group, there are fewer groups than splits, or a
            split exists; the catalog is unchanged.
        FileNotFoundError: the folder or its catalog does not exist.
    """
    parts = _part_names(fractions, names)
    fractions = [fraction / sum(fractions) for fraction in fractions]
    pattern = None
    if group is not None:
        try:
            pattern = re.compile(group)
        except re.error as error:
            raise ValueError(f"group {group!r} is not a regular expression: {error}") from error
    with write_catalog(root, create=False) as db:
        members = _members(db.conn)
        if not members:
            raise ValueError(f"{root}: the catalog has no videos")
        _check_existing(db.conn, root, parts, replace)
        groups: dict[Hashable, list[str]] = {}
        for path in sorted(members):
            groups.setdefault(_group_of(path, pattern), []).append(path)
        if len(groups) < len(parts):
            raise ValueError(f"{root}: {counted(len(groups), 'group')} for {len(parts)} splits; use smaller groups")
        chosen = _assign(groups, members, fractions, seed)
        ids = dict(db.conn.execute("SELECT path, id FROM videos"))
        report = SplitReport({}, {}, {})
        for number, (split_id, name) in enumerate(zip(split_ids(db, parts), parts, strict=True)):
            videos = sorted(path for key, part in chosen.items() if part == number for path in groups[key])
            db.conn.execute("DELETE FROM split_videos WHERE split_id = ?", (split_id,))
            db.conn.executemany("INSERT INTO split_videos VALUES (?, ?)", [(split_id, ids[path]) for path in videos])
            report.splits[name] = len(videos)
            report.groups[name] = sum(part == number for part in chosen.values())
            for path in videos:
                for label in members[path]:
                    counts = report.classes.setdefault(label, dict.fromkeys(parts, 0))
                    counts[name] += 1
    report.classes = dict(sorted(report.classes.items()))
    report.missing = [
        f"{label}: {name}" for label, counts in report.classes.items() for name, count in counts.items() if not count
    ]
    return report


def _part_names(fractions: Sequence[float], names: Sequence[str] | None) -> list[str]:
    if names is None and len(fractions) not in _NAMES:
        raise ValueError(f"{counted(len(fractions), 'fraction')}; expected 2 (train, test) or 3 (train, val, test)")
    parts = [clean_name(name) for name in (names if names is not None else _NAMES[len(fractions)])]
    if len(parts) != len(fractions) or len(set(parts)) < len(parts) or not all(parts):
        raise ValueError(
            f"{counted(len(fractions), 'fraction')} for the splits {', '.join(parts)}; expected one for each"
        )
    if not all(math.isfinite(fraction) and fraction > 0 for fraction in fractions):
        raise ValueError(f"fractions {', '.join(map(str, fractions))}: each must be greater than 0")
    if abs(sum(fractions) - 1) > 1e-3:
        raise ValueError(f"fractions {', '.join(map(str, fractions))} have the sum {sum(fractions):g}, expected 1")
    return parts


def _members(connection: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    """Return the classes of each video by path: its class, those of its segments, or "(no class)"."""
    members: dict[str, tuple[str, ...]] = {
        path: (label or _NO_CLASS,)
        for path, label in connection.execute(
            "SELECT v.path, c.name FROM videos v LEFT JOIN classes c ON c.id = v.class_id"
        )
    }
    shown: dict[str, set[str]] = {}
    for path, label in connection.execute(
        "SELECT DISTINCT v.path, c.name FROM segments s JOIN videos v ON v.id = s.video_id"
        " JOIN classes c ON c.id = s.class_id"
    ):
        shown.setdefault(path, set()).add(label)
    return members | {path: tuple(sorted(labels)) for path, labels in shown.items()}


def _check_existing(connection: sqlite3.Connection, root: str | Path, parts: Sequence[str], replace: bool) -> None:
    counts = dict(
        connection.execute(
            "SELECT p.name, count(*) FROM splits p JOIN split_videos m ON m.split_id = p.id GROUP BY p.name"
        )
    )
    found = [f"{name} ({counted(counts[name], 'video')})" for name in parts if name in counts]
    if found and not replace:
        raise ValueError(
            f"{root}: the data set has the splits {', '.join(found)}; keep them, choose other names with --names, or"
            " replace them with --replace"
        )


def _group_of(path: str, pattern: re.Pattern[str] | None) -> Hashable:
    if pattern is None:
        return path
    name = clean_name(path.removeprefix("jpg/"))
    match = pattern.search(name)
    if match is None:
        raise ValueError(f"video {name}: the group {pattern.pattern!r} does not match; every video needs a group")
    return match.groups() or match[0]


def _assign(
    groups: Mapping[Hashable, Sequence[str]],
    members: Mapping[str, Sequence[str]],
    fractions: Sequence[float],
    seed: int,
) -> dict[Hashable, int]:
    """Return the number of the split of each group.

    Large groups are placed first, each in the split that lacks most of its classes.
    """
    sizes: dict[Hashable, Counter[Hashable]] = {}
    totals: Counter[Hashable] = Counter()
    for key, paths in groups.items():
        count: Counter[Hashable] = Counter({_ALL: len(paths)})
        for path in paths:
            count.update(members[path])
        sizes[key] = count
        totals.update(count)
    wanted = {_ALL: [totals[_ALL] * fraction for fraction in fractions]}
    given = [0.0] * len(fractions)  # sum of the quotas of the classes, to spread their rounding evenly
    for label in sorted((label for label in totals if label is not _ALL), key=str):
        quota = _quota(totals[label], fractions, given)
        given = [one + part for one, part in zip(given, quota, strict=True)]
        wanted[label] = [float(part) for part in quota]
    order = sorted(groups, key=lambda key: (-len(groups[key]), _hash(seed, key)))
    chosen: dict[Hashable, int] = {}
    for key in order:
        count = sizes[key]
        need = [
            sum(number * wanted[label][part] for label, number in count.items() if label is not _ALL)
            for part in range(len(fractions))
        ]
        lack = [wanted[_ALL][part] / fractions[part] for part in range(len(fractions))]
        best = max(range(len(fractions)), key=lambda part: (need[part], lack[part], -part))
        chosen[key] = best
        for label, number in count.items():
            wanted[label][best] -= number
    # Every split has a group: large groups can use up the quotas before a small split gets one.
    for part in range(len(fractions)):
        if part not in chosen.values():
            largest = max(range(len(fractions)), key=list(chosen.values()).count)
            chosen[next(key for key in reversed(order) if chosen[key] == largest)] = part
    return chosen


def _quota(total: int, fractions: Sequence[float], given: Sequence[float]) -> list[int]:
    """Divide the videos of a class: each split has its fraction of them, rounded down or up.

    The rest goes to the splits that are furthest below their fraction of all classes so far, so that the fractions hold
    for the data set also if classes are small. The first split has at least one video.
    """
    quota = [math.floor(total * fraction + 1e-9) for fraction in fractions]
    so_far = sum(given) + total
    lack = [so_far * fraction - had for fraction, had in zip(fractions, given, strict=True)]
    for _ in range(total - sum(quota)):
        candidates = [part for part in range(len(quota)) if quota[part] < total * fractions[part] - 1e-9]
        quota[max(candidates, key=lambda part: (round(lack[part] - quota[part], 6), -part))] += 1
    if quota[0] == 0:
        quota[quota.index(max(quota))] -= 1
        quota[0] = 1
    return quota


def _hash(seed: int, key: Hashable) -> bytes:
    return hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
