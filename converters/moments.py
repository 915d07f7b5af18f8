"""Moments in Time: convert trainingSet.csv, validationSet.csv and moments_categories.txt to CSV and catalog."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vidseg.cli.labels import LabelConverter
from vidseg.cli.main import run_program

if TYPE_CHECKING:
    from vidseg.labels.published import PublishedLabels


@dataclass
class Moments(LabelConverter):
    """Convert Moments in Time's annotation to the published CSV files: Moments_in_Time_{train,val}.csv.

    The first release has 339 classes, the second 305.
    """

    def read(self) -> "PublishedLabels":
        from vidseg.labels.official_csv import read_moments_csv
        from vidseg.labels.official_lists import read_class_list
        from vidseg.labels.published import PublishedLabels, official_file

        files = {
            f"Moments_in_Time_{split}": read_moments_csv(official_file(self.source, name), split=split)
            for split, name in (("train", "trainingSet.csv"), ("val", "validationSet.csv"))
        }
        classes = read_class_list(official_file(self.source, "moments_categories.txt"))
        return PublishedLabels(files, expected_classes=339, classes=classes)


if __name__ == "__main__":
    sys.exit(run_program(Moments))
