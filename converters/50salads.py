"""50Salads: 25 people prepare two salads each; 30 labels per second, 5 splits.

    python converters/50salads.py data/50salads
    python converters/50salads.py annotation --out data/50salads

Reads the MS-TCN data set (mapping.txt with 19 classes, groundTruth/, splits/) or the original annotation
(activity_annotation/*-activityAnnotation.txt with times in microseconds, and labels/low_to_mid.txt). From the original
annotation, low-level actions become the 17 mid-level actions, frames outside them become `background`, and high-level
actions are ignored. Videos are named rgb-01-1. Bundles in a splits/ folder beside the original annotation are read.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vidseg.cli.converter import SegmentationConverter, known_seconds
from vidseg.cli.main import run_program

if TYPE_CHECKING:
    from vidseg.labels.localization import LocalizedVideo
    from vidseg.labels.segmentation_labels import SegmentationLabels

ENDING = "-activityAnnotation.txt"


@dataclass
class Salads(SegmentationConverter):
    """Write 50Salads' frame labels, or its original annotation, to the catalog."""

    rate: float = 30.0
    """Labels per second."""
    background: tuple[str, ...] = ("action_start", "action_end", "background")
    """Background classes."""

    def read(self) -> "SegmentationLabels":
        if (self.source / "groundTruth").is_dir():
            return super().read()
        from vidseg.labels.localization import frame_labels_of
        from vidseg.labels.published import official_file, official_files
        from vidseg.labels.segmentation_files import by_name
        from vidseg.labels.segmentation_labels import read_splits

        middle = self._levels(official_file(self.source, "low_to_mid.txt"))
        files = official_files(self.source, f"*{ENDING}")
        videos = {f"rgb-{name}": self._video(path, middle) for name, path in by_name(files, ENDING).items()}
        labels = frame_labels_of(
            videos,
            rate=self.rate,
            background="background",
            classes=sorted(set(middle.values())),
            seconds=known_seconds(self.dataset),
            faults=self.faults,
        )
        labels.splits = read_splits(self.source / "splits", labels.labels, allow_missing=self.partial)
        return labels

    @staticmethod
    def _levels(path: Path) -> dict[str, str]:
        """Return the mid-level action of each low-level action."""
        from vidseg.labels.official_lists import read_lines

        levels = {}
        for line, text in read_lines(path):
            words = text.split(maxsplit=1)
            if len(words) != 2:
                raise ValueError(f"{path}:{line}: {text!r} is not of the form LOW_LEVEL MID_LEVEL")
            levels[words[0]] = words[1]
        return levels

    def _video(self, path: Path, middle: dict[str, str]) -> "LocalizedVideo":
        from vidseg.labels.localization import LocalizedVideo, TimedLabel
        from vidseg.labels.official_lists import read_lines

        segments = []
        for line, text in read_lines(path):
            words = text.split()
            if len(words) != 3 or not (words[0].isdecimal() and words[1].isdecimal()):
                raise ValueError(f"{path}:{line}: {text!r} is not of the form START STOP ACTION, times in microseconds")
            if words[2] in middle:
                start, stop = int(words[0]) / 1e6, int(words[1]) / 1e6
                times = self.faults.check(start, stop, place=f"{path}:{line}", label=words[2])
                if times is not None:
                    segments.append(TimedLabel(middle[words[2]], *times))
        return LocalizedVideo(segments)


if __name__ == "__main__":
    sys.exit(run_program(Salads))
