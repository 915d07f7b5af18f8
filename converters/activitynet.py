"""ActivityNet-1.3: 200 activities in 19,994 untrimmed videos; splits train, val and test.

    python converters/activitynet.py annotation data/activitynet --blocked blocked.json

Reads `activity_net.v1-3.min.json`, or BMN's files `activitynet_anno_action.json` or `anet_anno_action.json` with the
splits in `activitynet_video_info.csv` or `video_info_new.csv`. Class numbers are those of `activitynet_action_name.csv`
or `action_name.csv` if it is there, else sorted names, which is the same order. The annotation has segments without
length, so the import needs `--on-error skip`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vidseg.cli.converter import DetectionConverter
from vidseg.cli.main import run_program

if TYPE_CHECKING:
    from vidseg.labels.detection_labels import DetectionLabels
    from vidseg.labels.faults import SegmentFaults


@dataclass
class ActivityNet(DetectionConverter):
    """Write ActivityNet's segments to the catalog."""

    blocked: Path | None = None
    """Videos that the evaluation leaves out: one id per line, or a JSON list."""

    def read(self, faults: "SegmentFaults") -> "DetectionLabels":
        from vidseg.labels.detection_labels import read_detection_labels
        from vidseg.labels.published import official_file, optional_file

        names = ("activity_net.v1-3.min.json", "activitynet_anno_action.json", "anet_anno_action.json")
        files = [official_file(self.source, *names)]
        if files[0].name != names[0]:
            files.append(official_file(self.source, "activitynet_video_info.csv", "video_info_new.csv"))
        classes = optional_file(self.source, "activitynet_action_name.csv", "action_name.csv")
        return read_detection_labels(files, classes=classes, blocked=self.blocked, faults=faults)


if __name__ == "__main__":
    sys.exit(run_program(ActivityNet))
