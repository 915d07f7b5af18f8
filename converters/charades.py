"""Charades: 157 actions in 9,848 videos of everyday activities; splits train and test.

    python converters/charades.py Charades data/charades

Reads `Charades_v1_train.csv`, `Charades_v1_test.csv` and `Charades_v1_classes.txt`.
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
class Charades(DetectionConverter):
    """Write Charades' segments to the catalog."""

    def read(self, faults: "SegmentFaults") -> "DetectionLabels":
        from vidseg.labels.detection_labels import read_detection_labels
        from vidseg.labels.published import official_file

        files = [official_file(self.source, f"Charades_v1_{part}.csv") for part in ("train", "test")]
        return read_detection_labels(
            files, classes=official_file(self.source, "Charades_v1_classes.txt"), faults=faults
        )


if __name__ == "__main__":
    sys.exit(run_program(Charades))
