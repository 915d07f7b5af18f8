"""MultiTHUMOS: 65 actions, several at a time, in the 413 videos of THUMOS-14; splits train and test.

    python converters/multithumos.py multithumos data/multithumos --without-durations

Reads the published `annotations/<Class>.txt` and `class_list.txt`, or `multithumos.json`, whose classes are numbered
from 1. The text files have no durations, which come from the converted videos. The validation videos are the split
train.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vidseg.cli.converter import DetectionConverter
from vidseg.cli.main import run_program

if TYPE_CHECKING:
    from vidseg.labels.detection_labels import DetectionLabels
    from vidseg.labels.faults import SegmentFaults


@dataclass
class MultiThumos(DetectionConverter):
    """Write MultiTHUMOS' segments to the catalog."""

    def read(self, faults: "SegmentFaults") -> "DetectionLabels":
        from vidseg.labels.detection_labels import read_detection_labels
        from vidseg.labels.published import official_file, optional_file

        classes = optional_file(self.source, "class_list.txt")
        numbered = optional_file(self.source, "multithumos.json")
        if numbered is not None:
            return read_detection_labels([numbered], classes=classes, first_number=1, faults=faults)
        names = official_file(self.source, "class_list.txt")
        folder = self.source / "annotations"
        return read_detection_labels([folder if folder.is_dir() else self.source], classes=names, faults=faults)


if __name__ == "__main__":
    sys.exit(run_program(MultiThumos))
