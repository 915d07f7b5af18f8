"""What the converters of frame-labeled data sets share: from label files to the catalog, and to other forms."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from vidseg.labels.segmentation import SegmentationLabels

__all__ = ["SegmentationConverter", "known_seconds"]


@dataclass
class SegmentationConverter:
    """What all converters ask for; each says in `read` how its official files are read."""

    source: tyro.conf.Positional[Path]
    """Folder of the data set, with mapping.txt, groundTruth/ and splits/, or of the official annotation."""
    dataset: Path | None = None
    """Data set whose catalog gets the labels; default: OUT, or SOURCE itself where it has groundTruth/."""
    out: Path | None = None
    """Folder to write mapping.txt, groundTruth/ and splits/ to."""
    rate: float = 15.0
    """Labels a second."""
    background: tuple[str, ...] = ()
    """Classes that are no action."""
    localization: Path | None = None
    """JSON file to write the actions with their times to."""
    clips: Path | None = None
    """Folder to write CSV files of trimmed clips to, one for each split, for recognition."""
    negatives: int = 0
    """Background clips (negative samples) to put among them."""
    seed: int = 0
    """Seed of the choice of negative samples."""
    partial: bool = False
    """Leave out the videos of splits that have no labels, instead of refusing them."""
    json: bool = False
    """Print the result as JSON."""

    def read(self) -> SegmentationLabels:
        """Reads the labels; here from the form that most data sets are distributed in."""
        from vidseg.labels.segmentation import read_segmentation

        return read_segmentation(self.source, rate=self.rate, allow_missing=self.partial)

    def run(self) -> int:
        """Writes what is asked for, and the catalog."""
        from vidseg.labels.localization import write_localization_json
        from vidseg.labels.segmentation import apply_segmentation

        root = self.dataset or self.out or (self.source if (self.source / "groundTruth").is_dir() else None)
        if root is None:
            raise ValueError(f"{self.source}: has no groundTruth/; say with --dataset or --out where labels shall go")
        labels = self.read()
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
            print(json.dumps({"catalog": str(root / "catalog.db"), "clips": rows, **asdict(report)}))
        else:
            print(report)
            print("\n".join([*(f"{path}: {count} rows" for path, count in rows.items()), str(root / "catalog.db")]))
        return 0

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


def known_seconds(root: Path | None) -> dict[str, float]:
    """Duration of each video that the catalog of `root` has frames of; empty where there is none."""
    from vidseg.labels.catalog import catalog_path, read_catalog

    if root is None or not catalog_path(root).is_file():
        return {}
    with closing(read_catalog(root)) as connection:
        rows = connection.execute("SELECT path, seconds FROM videos WHERE size_bytes > 0 AND seconds > 0")
        return {path.rpartition("/")[2]: seconds for path, seconds in rows}
