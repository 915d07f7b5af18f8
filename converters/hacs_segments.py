"""HACS segments: 200 activities in 50,000 untrimmed videos; splits train, val and test.

    python converters/hacs_segments.py HACS_v1.1.1 data/hacs_segments

Reads `HACS_segments_v1.1.1.json` or `HACS_segments_v1.1.json`, which have ActivityNet's form. Classes are numbered by
sorted names. `converters/hacs.py` reads the clips of HACS, for recognition.
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
class HacsSegments(DetectionConverter):
    """Write HACS' segments to the catalog."""

    def read(self, faults: "SegmentFaults") -> "DetectionLabels":
        from vidseg.labels.detection_labels import read_detection_labels
        from vidseg.labels.published import official_file

        path = official_file(self.source, "HACS_segments_v1.1.1.json", "HACS_segments_v1.1.json")
        return read_detection_labels([path], faults=faults)


if __name__ == "__main__":
    sys.exit(run_program(HacsSegments))
