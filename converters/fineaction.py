"""FineAction: 106 fine-grained actions in 16,732 untrimmed videos; splits train, val and test.

    python converters/fineaction.py annotation data/fineaction

Reads `annotations_gt.json`, which has ActivityNet's form. Classes are numbered by sorted names.
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
class FineAction(DetectionConverter):
    """Write FineAction's segments to the catalog."""

    def read(self, faults: "SegmentFaults") -> "DetectionLabels":
        from vidseg.labels.detection_labels import read_detection_labels
        from vidseg.labels.published import official_file

        return read_detection_labels([official_file(self.source, "annotations_gt.json")], faults=faults)


if __name__ == "__main__":
    sys.exit(run_program(FineAction))
