"""`vidseg labels`: the catalog from disk, from label files, and on the screen; and what all converters share."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from vidseg.labels.published import PublishedLabels

__all__ = ["Command", "LabelConverter"]


@dataclass
class Scan:
    """Make the catalog agree with the databases on disk, after shards were merged or videos copied or deleted."""

    root: tyro.conf.Positional[Path]
    """Folder of the data set."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from vidseg.labels.scan import scan_catalog

        report = scan_catalog(self.root)
        _print(report, self.json)
        return 1 if report.unreadable else 0


@dataclass
class Apply:
    """Put label files into the catalog: classes, splits, and segments of untrimmed videos.

    A split holds exactly the videos that these files name, so give all files of a split at once. Labels without a
    video and videos without a label are listed in ROOT/labels_report.json.
    """

    root: tyro.conf.Positional[Path]
    """Folder of the data set."""
    csv: tyro.conf.Positional[tuple[Path, ...]]
    """Label files: label, youtube_id or id or path, time_start, time_end, split."""
    split: str | None = None
    """Split of all rows, instead of the column split."""
    classes: Path | None = None
    """Official class list that numbers the classes: classInd.txt, one name a line, or a dictionary.json."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from vidseg.labels.apply import apply_labels
        from vidseg.labels.csv_labels import read_label_csv
        from vidseg.labels.official_lists import read_class_list

        if not self.csv:
            raise ValueError("give at least one label file")
        rows = [row for path in self.csv for row in read_label_csv(path)]
        classes = None if self.classes is None else read_class_list(self.classes)
        report = apply_labels(self.root, rows, split=self.split, classes=classes)
        _print(report, self.json)
        return 1 if report.conflicts else 0


@dataclass
class Show:
    """Count the videos of a data set by class and split."""

    root: tyro.conf.Positional[Path]
    """Folder of the data set."""
    json: bool = False
    """Print the counts as JSON."""

    def run(self) -> int:
        from vidseg.labels.summary import summarize_catalog

        _print(summarize_catalog(self.root), self.json)
        return 0


Command = (
    Annotated[Scan, tyro.conf.subcommand("scan")]
    | Annotated[Apply, tyro.conf.subcommand("apply")]
    | Annotated[Show, tyro.conf.subcommand("show")]
)


def _print(report: Any, as_json: bool) -> None:
    print(json.dumps(asdict(report), ensure_ascii=False) if as_json else report)


@dataclass
class LabelConverter:
    """What all converters ask for; each says in `read` where its official files lie and how they are read."""

    source: tyro.conf.Positional[Path]
    """Folder of the official annotation."""
    out: Path = Path("labels")
    """Folder for the CSV files."""
    dataset: Path | None = None
    """Data set whose catalog gets the labels as well."""
    json: bool = False
    """Print the result as JSON."""

    def read(self) -> PublishedLabels:
        """Reads the official files."""
        raise TypeError(f"{type(self).__name__} must define read()")

    def run(self) -> int:
        """Writes the CSV files and, if asked, the catalog."""
        from vidseg.labels.apply import apply_labels

        labels = self.read()
        paths = labels.write(self.out)
        rows = dict(zip(map(str, paths), map(len, labels.files.values()), strict=True))
        report = None
        if self.dataset is not None:
            report = apply_labels(self.dataset, labels.rows(), classes=labels.classes)
        if self.json:
            content = {"files": rows, "classes": len(labels.classes), "report": report and asdict(report)}
            print(json.dumps(content, ensure_ascii=False))
        else:
            print("\n".join(f"{path}: {count} rows" for path, count in rows.items()))
            print(f"{len(labels.classes)} classes")
            if report is not None:
                print(report)
        return 1 if report is not None and report.conflicts else 0
