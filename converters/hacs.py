"""HACS clips: convert HACS_clips_v1.1.csv (or v1.1.1) to CSV and catalog.

Negative samples of the official file (label -1: the clip does not show the action) are skipped. The official download
tool names videos v_<youtube_id>.mp4.
"""

import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vidseg.cli.labels import LabelConverter
from vidseg.cli.main import run_program

if TYPE_CHECKING:
    from vidseg.labels.published import PublishedLabels


@dataclass
class Hacs(LabelConverter):
    """Convert HACS' clip annotation to the published CSV files: HACS_clips_v1.1_{train,val,test}.csv."""

    def read(self) -> "PublishedLabels":
        from vidseg.labels.official_csv import read_hacs_csv
        from vidseg.labels.published import PublishedLabels, official_file

        rows, negatives = read_hacs_csv(
            official_file(self.source, "HACS_clips_v1.1.csv", "HACS_clips_v1.1.1.csv"), faults=self.faults
        )
        logging.getLogger("vidseg.converters").warning("negative samples skipped: %d", negatives)
        files = {
            f"HACS_clips_v1.1_{split}": found
            for split in ("train", "val", "test")
            if (found := [row for row in rows if row.split == split])
        }
        return PublishedLabels(files, expected_classes=200)


if __name__ == "__main__":
    sys.exit(run_program(Hacs))
