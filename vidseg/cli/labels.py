"""Catalog commands (`vidseg labels`), converters by name, and the base class of those of recognition data sets."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import tyro

from vidseg.cli.converter import converter_files, converter_summary, load_converter
from vidseg.cli.parsing import Prepared

if TYPE_CHECKING:
    from vidseg.labels.published import PublishedLabels

__all__ = ["Command", "LabelConverter", "prepare"]


@dataclass
class Scan:
    """Update the catalog to the databases on disk, after shards were merged or videos copied or deleted."""

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
    """Write label files to the catalog: classes, splits, and segments of untrimmed videos.

    Each split contains exactly the videos listed in the files, so pass all files of a split in one call. Labels without
    a video and videos without a label are listed in ROOT/labels_report.json.
    """

    root: tyro.conf.Positional[Path]
    """Folder of the data set."""
    files: tyro.conf.Positional[tuple[Path, ...]]
    """Label files: CSV files with the columns label, youtube_id or id or path, time_start, time_end, split; or lists
    such as train.txt with lines PATH LABEL or PATH FRAMES LABEL."""
    split: str | None = None
    """Split of all rows, replacing the column split."""
    classes: Path | None = None
    """Official class list that sets the class numbers: classInd.txt, one name per line, or a dictionary.json. Default:
    a class list beside the lists."""
    first_number: Literal[0, 1] | None = None
    """Number of the first class in lists; default: as the lists show."""
    on_error: Literal["stop", "skip"] = "stop"
    """A segment without length, or outside its video: stop, or skip it; each is named and counted."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from vidseg.labels.apply import apply_labels
        from vidseg.labels.faults import SegmentFaults
        from vidseg.labels.label_files import read_label_files

        if not self.files:
            raise ValueError("no label file; pass at least one CSV file or list")
        faults = SegmentFaults(skip=self.on_error == "skip")
        found = read_label_files(self.files, classes=self.classes, first_number=self.first_number, faults=faults)
        report = apply_labels(self.root, found.rows, split=self.split, classes=found.classes, faults=faults)
        faults.log()
        _print(report, self.json)
        return 1 if report.conflicts or report.skipped else 0


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


@dataclass
class Split:
    """Divide the videos of a data set at random into splits: train and test, or train, val and test.

    Every class is divided in these fractions. The result depends only on the seed and the names of the videos.
    """

    root: tyro.conf.Positional[Path]
    """Folder of the data set."""
    fractions: tyro.conf.Positional[tuple[float, ...]]
    """Fractions of the splits, such as 0.8 0.2 (train and test) or 0.8 0.1 0.1 (train, val and test)."""
    by_group: str | None = None
    r"""Regular expression of the group in a video's path, such as "_(g\d+)_": videos of a group stay in one split."""
    names: tuple[str, ...] | None = None
    """Names of the splits; default: train test, or train val test."""
    seed: int = 0
    """Random seed."""
    replace: bool = False
    """Replace splits of these names that have videos."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from vidseg.labels.splitting import divide_videos

        report = divide_videos(
            self.root,
            self.fractions,
            names=self.names,
            group=self.by_group,
            seed=self.seed,
            replace=self.replace,
        )
        _print(report, self.json)
        return 0


@dataclass
class Frames:
    """Convert the segments of untrimmed videos to frame labels, which segmentation and streaming networks train on.

    Frames outside all segments get the background class. Segments stay as they are; videos that have frame labels
    already are left unchanged.
    """

    root: tyro.conf.Positional[Path]
    """Folder of the data set."""
    background: str
    """Class of the frames outside all segments; added after the other classes if it does not exist."""
    rate: float | None = None
    """Labels per second; default: one label per frame of the video, as `vidseg train stream` needs."""
    empty: bool = False
    """Label videos without segments too, as background throughout."""
    replace: bool = False
    """Compute existing frame labels again; segments of the background class are replaced."""
    on_error: Literal["stop", "skip"] = "stop"
    """A segment without length, or outside its video: stop, or skip it; each is named and counted."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from vidseg.labels.faults import SegmentFaults
        from vidseg.labels.frame_labels import label_frames

        faults = SegmentFaults(skip=self.on_error == "skip")
        report = label_frames(
            self.root,
            background=self.background,
            rate=self.rate,
            empty=self.empty,
            replace=self.replace,
            faults=faults,
        )
        faults.log()
        _print(report, self.json)
        return 1 if report.skipped else 0


@dataclass
class Segments:
    """Write annotated segments of untrimmed videos to the catalog, for temporal action detection.

    The form of each file is recognized by its content: JSON files of ActivityNet, HACS, FineAction, THUMOS-14,
    MultiTHUMOS, Charades and EPIC-Kitchens, the derivative of BSN and BMN, their CSV and text files, and CSV files with
    the columns video, start, end, class, and optionally split and duration. Videos that are not in the catalog are
    added without frames, for features.
    """

    root: tyro.conf.Positional[Path]
    """Folder of the data set; its catalog is created if missing."""
    files: tyro.conf.Positional[tuple[Path, ...]]
    """All annotation files of the data set: segments, durations and splits may be in different files."""
    classes: Path | None = None
    """Class list that sets the class numbers: one name per line, `NUMBER NAME`, or a CSV file such as
    EPIC_100_verb_classes.csv. Default: names sorted."""
    blocked: Path | None = None
    """Videos left out of the splits val and test: one name per line, or a JSON list."""
    split: str | None = None
    """Split of the videos whose files have none."""
    level: Literal["verb", "noun", "action"] = "verb"
    """Classes of EPIC-Kitchens."""
    first_number: Literal[0, 1] | None = None
    """Number of the first class in MultiTHUMOS' and Charades' JSON files; default: as the numbers show."""
    without_durations: bool = False
    """Accept videos without frames whose duration is in no file, such as those of thumos14_gt.json."""
    on_error: Literal["stop", "skip"] = "stop"
    """A segment without length, outside its video or of an unknown class, or a video of unknown duration: stop, or skip
    it; each is named and counted."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from vidseg.labels.detection_labels import apply_detection, read_detection_labels
        from vidseg.labels.faults import SegmentFaults

        faults = SegmentFaults(skip=self.on_error == "skip")
        labels = read_detection_labels(
            self.files,
            classes=self.classes,
            blocked=self.blocked,
            level=self.level,
            first_number=self.first_number,
            split=self.split,
            faults=faults,
        )
        report = apply_detection(self.root, labels, without_durations=self.without_durations, faults=faults)
        faults.log()
        _print(report, self.json)
        return 1 if report.skipped else 0


@dataclass
class Targets:
    """Write several classes, or a number, for each video to the catalog, for `vidseg train --target classes` or value.

    CSV files with the columns id (or youtube_id, path, video), either `labels` (classes separated by ; or |, or none)
    or `value` (a number), and optionally split.
    """

    root: tyro.conf.Positional[Path]
    """Folder of the data set."""
    files: tyro.conf.Positional[tuple[Path, ...]]
    """CSV files; pass all files of a split in one call."""
    classes: Path | None = None
    """Class list that sets the class numbers; another class is an error. Default: the official classes of the data set,
    else the names of the files, sorted, behind the classes that the data set has."""
    split: str | None = None
    """Split of all rows, replacing the column split."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from vidseg.labels.video_targets import apply_targets

        if not self.files:
            raise ValueError("no label file; pass at least one CSV file")
        report = apply_targets(self.root, self.files, classes=self.classes, split=self.split)
        _print(report, self.json)
        return 1 if report.conflicts else 0


@dataclass
class Export:
    """Write the labels of a catalog to files that `vidseg labels` and other programs read."""

    root: tyro.conf.Positional[Path]
    """Folder of the data set."""
    out: tyro.conf.Positional[Path]
    """File to write; for lists and frame labels a folder."""
    form: Literal["classes", "lists", "targets", "values", "segments", "activitynet", "frames"] | None = None
    """classes: CSV file with the class of each video; lists: class_list.txt and a list of videos for each split;
    targets, values: CSV file with several classes, or a number, for each video; segments: CSV file; activitynet: JSON
    file; frames: mapping.txt, groundTruth/ and splits/. Default: frames if videos are labeled frame by frame, else
    segments, else classes, else targets."""
    division: str | None = None
    """Splits to write where there are several divisions: split1 of split1/train."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        from vidseg.labels.label_export import export_labels

        _print(export_labels(self.root, self.out, form=self.form, division=self.division), self.json)
        return 0


Command = (
    Annotated[Scan, tyro.conf.subcommand("scan")]
    | Annotated[Apply, tyro.conf.subcommand("apply")]
    | Annotated[Segments, tyro.conf.subcommand("segments")]
    | Annotated[Targets, tyro.conf.subcommand("targets")]
    | Annotated[Split, tyro.conf.subcommand("split")]
    | Annotated[Frames, tyro.conf.subcommand("frames")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Show, tyro.conf.subcommand("show")]
)


def prepare(words: list[str], name: str | None = None) -> Prepared:
    """Return what a command line asks for: a command of this module, or the converter of a data set.

    Args:
        words: of the command line, behind `vidseg labels`.
        name: of a converter; None takes it from the first word, if that is one.
    """
    files = converter_files()
    if name is None and words and words[0] in files:
        name, words = words[0], words[1:]
    if name is not None:
        return Prepared(name, load_converter(name), None, words)
    # Converters are listed with the first line of their files, and loaded when they are named.
    listed = [
        Annotated[type(file, (), {"__doc__": converter_summary(path)}), tyro.conf.subcommand(file)]
        for file, path in files.items()
    ]
    commands: Any = (Command, *listed)
    return Prepared("", Union[commands], None, words)  # noqa: UP007


def _print(report: Any, as_json: bool) -> None:
    print(json.dumps(asdict(report), ensure_ascii=False) if as_json else report)


@dataclass
class LabelConverter:
    """Base class of converters; subclasses implement `read` for their official files."""

    source: tyro.conf.Positional[Path]
    """Folder of the official annotation files."""
    out: Path = Path("labels")
    """Output folder of the CSV files."""
    dataset: Path | None = None
    """Data set whose catalog the labels are written to."""
    on_error: Literal["stop", "skip"] = "stop"
    """A clip without length, or before the start of its video: stop, or skip it; each is named and counted."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        from vidseg.labels.faults import SegmentFaults

        self.faults = SegmentFaults(skip=self.on_error == "skip")

    def read(self) -> PublishedLabels:
        """Read the official files."""
        raise TypeError(f"{type(self).__name__} must implement read()")

    def run(self) -> int:
        """Write the CSV files and, with `dataset`, the catalog."""
        from vidseg.labels.apply import apply_labels
        from vidseg.labels.counting import counted

        labels = self.read()
        self.faults.log()
        paths = labels.write(self.out)
        rows = dict(zip(map(str, paths), map(len, labels.files.values()), strict=True))
        report = None
        if self.dataset is not None:
            report = apply_labels(self.dataset, labels.rows(), classes=labels.classes)
        if self.json:
            content = {"files": rows, "classes": len(labels.classes), "report": report and asdict(report)}
            content |= {"skipped_segments": self.faults.skipped, "cut_segments": self.faults.cut}
            print(json.dumps(content, ensure_ascii=False))
        else:
            print("\n".join(f"{path}: {counted(count, 'row')}" for path, count in rows.items()))
            print(counted(len(labels.classes), "class", "classes"))
            if report is not None:
                print(report)
        return 1 if self.faults.skipped or (report is not None and report.conflicts) else 0
