"""Converters of data sets: their programs by name, and base classes for labels by frame or by segment."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

if TYPE_CHECKING:
    from vidseg.labels.detection_labels import DetectionLabels
    from vidseg.labels.faults import SegmentFaults
    from vidseg.labels.segmentation_labels import SegmentationLabels

__all__ = [
    "DetectionConverter",
    "SegmentationConverter",
    "converter_files",
    "converter_summary",
    "known_seconds",
    "load_converter",
]


def converter_files() -> dict[str, Path]:
    """Return the program of each data set by its name, as in `vidseg labels NAME`.

    A wheel has copies of the programs of converters/ in this folder (setup.py); in a checkout they are those of
    converters/ itself.
    """
    here = Path(__file__).parent
    folders = (here / "converters", here.parents[1] / "converters")
    folder = next((folder for folder in folders if folder.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.py"))}


def converter_summary(path: Path) -> str:
    """Return the first paragraph of a converter's docstring, without loading the program."""
    return (ast.get_docstring(ast.parse(path.read_bytes())) or "").partition("\n\n")[0]


def load_converter(name: str) -> Any:
    """Return the command of a converter, the dataclass that its file defines.

    Raises:
        ValueError: there is no converter of this name.
    """
    files = converter_files()
    if name not in files:
        raise ValueError(f"there is no converter {name!r}; expected one of {', '.join(files)}")
    spec = importlib.util.spec_from_file_location(f"vidseg_converter_{name}", files[name])
    assert spec is not None and spec.loader is not None  # as for every file that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    (command,) = (value for value in vars(module).values() if isinstance(value, type) and value.__module__ == spec.name)
    return command


@dataclass
class SegmentationConverter:
    """Base class of converters; subclasses implement `read` for their official files."""

    source: tyro.conf.Positional[Path]
    """Folder of the data set with mapping.txt, groundTruth/ and splits/, or of the official annotation files."""
    dataset: Path | None = None
    """Data set whose catalog the labels are written to; default: OUT, or SOURCE if it has groundTruth/."""
    out: Path | None = None
    """Output folder of mapping.txt, groundTruth/ and splits/."""
    rate: float = 15.0
    """Labels per second."""
    background: tuple[str, ...] = ()
    """Background classes."""
    localization: Path | None = None
    """Output JSON file of the actions with their times (ActivityNet's format)."""
    clips: Path | None = None
    """Output folder of CSV files of trimmed clips for recognition, one per split."""
    negatives: int = 0
    """Number of background clips (negative samples) to add to the clips."""
    seed: int = 0
    """Random seed of the negative samples."""
    on_error: Literal["stop", "skip"] = "stop"
    """A segment without length, or outside its video: stop, or skip it; each is named and counted."""
    partial: bool = False
    """Skip videos of splits that have no labels, instead of stopping."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        from vidseg.labels.faults import SegmentFaults

        self.faults = SegmentFaults(skip=self.on_error == "skip")

    def read(self) -> SegmentationLabels:
        """Read the labels; the default implementation reads MS-TCN's format."""
        from vidseg.labels.segmentation_labels import read_segmentation

        return read_segmentation(self.source, rate=self.rate, allow_missing=self.partial)

    def run(self) -> int:
        """Write the requested outputs and the catalog."""
        from vidseg.labels.counting import counted
        from vidseg.labels.localization import write_localization_json
        from vidseg.labels.segmentation_labels import apply_segmentation

        root = self.dataset or self.out or (self.source if (self.source / "groundTruth").is_dir() else None)
        if root is None:
            raise ValueError(f"{self.source}: no groundTruth/ in this folder; set the output with --dataset or --out")
        labels = self.read()
        self.faults.log()
        background = tuple(name for name in self.background if name in labels.classes)
        if self.out is not None:
            self._write(labels, self.out)
        if self.localization is not None:
            write_localization_json(self.localization, labels, background=background)
        rows = self._write_clips(labels, self.clips, background) if self.clips is not None else {}
        root.mkdir(parents=True, exist_ok=True)
        mapping = self.source / "mapping.txt"
        report = apply_segmentation(root, labels, mapping=mapping if mapping.is_file() else None)
        if self.json:
            segments = {"skipped_segments": self.faults.skipped, "cut_segments": self.faults.cut}
            print(json.dumps({"catalog": str(root / "catalog.db"), "clips": rows, **asdict(report), **segments}))
        else:
            print(report)
            lines = [f"{path}: {counted(count, 'row')}" for path, count in rows.items()]
            print("\n".join([*lines, str(root / "catalog.db")]))
        return 1 if self.faults.skipped else 0

    def _write(self, labels: SegmentationLabels, out: Path) -> None:
        from vidseg.labels.segmentation_files import write_bundle, write_frame_labels, write_mapping

        for folder in ("groundTruth", "splits"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        write_mapping(out / "mapping.txt", labels.classes)
        for name, values in labels.labels.items():
            write_frame_labels(out / "groundTruth" / f"{name}.txt", values, labels.classes)
        for split, names in labels.splits.items():
            division, _, part = split.rpartition("/")
            write_bundle(out / "splits" / f"{'.'.join(filter(None, (part, division)))}.bundle", names)

    def _write_clips(self, labels: SegmentationLabels, folder: Path, background: tuple[str, ...]) -> dict[str, int]:
        from vidseg.labels.csv_labels import write_label_csv
        from vidseg.labels.localization import clip_rows

        rows = clip_rows(labels, background=background, negatives=self.negatives, seed=self.seed)
        folder.mkdir(parents=True, exist_ok=True)
        counts = {}
        for split, names in (labels.splits or {"all": list(labels.labels)}).items():
            members = set(names)
            found = [replace(row, split=split) for row in rows if row.name in members]
            path = folder / f"{split.replace('/', '_')}.csv"
            write_label_csv(path, found)
            counts[str(path)] = len(found)
        return counts


@dataclass
class DetectionConverter:
    """Base class of converters of segments of untrimmed videos; subclasses implement `read` for their official files.

    `vidseg labels segments` reads the same files, named one by one.
    """

    source: tyro.conf.Positional[Path]
    """Folder of the official annotation files."""
    dataset: tyro.conf.Positional[Path]
    """Data set whose catalog the segments are written to; created if missing."""
    without_durations: bool = False
    """Accept videos without frames whose duration is in no file."""
    on_error: Literal["stop", "skip"] = "stop"
    """A segment without length, outside its video or of an unknown class, or a video of unknown duration: stop, or skip
    it; each is named and counted."""
    json: bool = False
    """Print the report as JSON."""

    def read(self, faults: SegmentFaults) -> DetectionLabels:
        """Read the official files."""
        raise TypeError(f"{type(self).__name__} must implement read()")

    def run(self) -> int:
        """Write the segments to the catalog."""
        from vidseg.labels.detection_labels import apply_detection
        from vidseg.labels.faults import SegmentFaults

        faults = SegmentFaults(skip=self.on_error == "skip")
        labels = self.read(faults)
        report = apply_detection(self.dataset, labels, without_durations=self.without_durations, faults=faults)
        faults.log()
        print(json.dumps(asdict(report), ensure_ascii=False) if self.json else report)
        return 1 if report.skipped else 0


def known_seconds(root: Path | None) -> dict[str, float]:
    """Return the duration of each video with frames in the catalog of `root`; empty if there is no catalog."""
    from vidseg.labels.catalog import catalog_path, read_catalog
    from vidseg.labels.names import clean_name

    if root is None or not catalog_path(root).is_file():
        return {}
    with read_catalog(root) as connection:
        rows = connection.execute("SELECT path, seconds FROM videos WHERE size_bytes > 0 AND seconds > 0")
        return {clean_name(path.rpartition("/")[2]): seconds for path, seconds in rows}
