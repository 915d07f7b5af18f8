"""Diving-48: convert Diving48_V2_train.json, Diving48_V2_test.json and Diving48_vocab.json to CSV and catalog.

The videos are in one flat folder, so their databases are in jpg/unlabeled; the catalog stores their classes.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vidseg.cli.labels import LabelConverter
from vidseg.cli.main import run_program

if TYPE_CHECKING:
    from vidseg.labels.published import PublishedLabels


@dataclass
class Diving48(LabelConverter):
    """Convert Diving-48's JSON files (V2 or V1) to the published CSV files: diving48_{train,val}.csv."""

    def read(self) -> "PublishedLabels":
        from vidseg.labels.official_json import read_diving48_json, read_diving48_vocabulary
        from vidseg.labels.published import PublishedLabels, official_file

        classes = read_diving48_vocabulary(official_file(self.source, "Diving48_vocab.json"))
        files = {}
        for part, name in (("train", "train"), ("test", "val")):
            path = official_file(self.source, f"Diving48_V2_{part}.json", f"Diving48_{part}.json")
            files[f"diving48_{name}"] = read_diving48_json(path, classes=classes, split=part)
        return PublishedLabels(files, expected_classes=48, classes=classes)


if __name__ == "__main__":
    sys.exit(run_program(Diving48))
