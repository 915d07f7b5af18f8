"""EPIC-Kitchens-100: 97 verbs and 300 nouns in 700 videos; splits train, val and test.

    python converters/epic_kitchens.py epic-kitchens-100-annotations data/epic --level noun

Reads `EPIC_100_train.csv`, `EPIC_100_validation.csv`, `EPIC_100_test_timestamps.csv` if it is there, and the durations
in `EPIC_100_video_info.csv`. Class names are those of `EPIC_100_verb_classes.csv` or `EPIC_100_noun_classes.csv`. The
level `action` has the classes `<verb>,<noun>` by number, as in the challenge.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vidseg.cli.converter import DetectionConverter
from vidseg.cli.main import run_program

if TYPE_CHECKING:
    from vidseg.labels.detection_labels import DetectionLabels
    from vidseg.labels.faults import SegmentFaults


@dataclass
class EpicKitchens(DetectionConverter):
    """Write EPIC-Kitchens' segments to the catalog."""

    level: Literal["verb", "noun", "action"] = "verb"
    """Classes: verbs, nouns, or pairs of both."""

    def read(self, faults: "SegmentFaults") -> "DetectionLabels":
        from vidseg.labels.detection_labels import read_detection_labels
        from vidseg.labels.published import official_file, optional_file

        parts = ("train", "validation", "video_info")
        files = [official_file(self.source, f"EPIC_100_{part}.csv") for part in parts]
        test = optional_file(self.source, "EPIC_100_test_timestamps.csv")
        classes = None if self.level == "action" else official_file(self.source, f"EPIC_100_{self.level}_classes.csv")
        return read_detection_labels([*files, *filter(None, [test])], classes=classes, level=self.level, faults=faults)


if __name__ == "__main__":
    sys.exit(run_program(EpicKitchens))
