"""Breakfast: 52 people prepare breakfast in 18 kitchens; 1712 videos, 15 labels per second, 4 splits.

    python converters/breakfast.py data/breakfast
    python converters/breakfast.py segmentation_fine --out data/breakfast_fine

Reads the MS-TCN data set (mapping.txt with 48 classes, groundTruth/, splits/) or the original coarse or fine
annotation: a folder, with or without subfolders, of `<video>.txt` files with lines such as `1-30 SIL`. Classes of the
original annotation are numbered by sorted name; in the fine annotation `garbage` becomes `background`, the last class.
A splits/ folder beside it is read.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vidseg.cli.converter import SegmentationConverter
from vidseg.cli.main import run_program

if TYPE_CHECKING:
    from vidseg.labels.segmentation_labels import SegmentationLabels


@dataclass
class Breakfast(SegmentationConverter):
    """Write Breakfast's frame labels, or its original annotation, to the catalog."""

    rate: float = 15.0
    """Labels per second."""
    background: tuple[str, ...] = ("SIL", "background")
    """Background classes."""

    def read(self) -> "SegmentationLabels":
        if (self.source / "groundTruth").is_dir():
            return super().read()
        import numpy as np

        from vidseg.labels.segmentation_files import by_name, read_range_names
        from vidseg.labels.segmentation_labels import SegmentationLabels, read_splits

        files = by_name((path for path in self.source.rglob("*.txt") if "splits" not in path.parts), ".txt")
        if not files:
            raise FileNotFoundError(f"{self.source}: no <video>.txt found; pass the folder of the annotation files")
        names = {}
        for video, path in files.items():
            ranges = read_range_names(path, faults=self.faults)
            names[video] = ["background" if name == "garbage" else name for name in ranges]
        found = {name for video in names.values() for name in video}
        classes = [*sorted(found - {"background"}), *sorted(found & {"background"})]
        numbers = {name: number for number, name in enumerate(classes)}
        labels = {name: np.array([numbers[word] for word in video]) for name, video in names.items()}
        splits = read_splits(self.source / "splits", labels, allow_missing=self.partial)
        return SegmentationLabels(classes, labels, splits, self.rate)


if __name__ == "__main__":
    sys.exit(run_program(Breakfast))
