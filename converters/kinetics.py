"""Kinetics-200, 400, 600 and 700: convert the official CSV or JSON files to CSV and catalog.

All releases have the columns label, youtube_id, time_start, time_end, split (some also is_cc); test sets may have no
label. The validation file is called validate, val or kinetics_val. Kinetics-200 (Mini-Kinetics) is a subset of
Kinetics-400 and needs train_ytid_list.txt and val_ytid_list.txt beside the files of Kinetics-400.
"""

import logging
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from vidseg.cli.labels import LabelConverter
from vidseg.cli.main import run_program

if TYPE_CHECKING:
    from vidseg.labels import LabelRow
    from vidseg.labels.published import PublishedLabels

logger = logging.getLogger("vidseg.converters")

SPELLINGS = {"train": ("train",), "val": ("validate", "val", "validation"), "test": ("test",)}


@dataclass
class Kinetics(LabelConverter):
    """Convert Kinetics' annotation to the published CSV files: kinetics-{200,400,600,700}_{train,val,test}.csv."""

    variant: Literal["200", "400", "600", "700"] = "700"
    """Number of classes of the release."""

    def read(self) -> "PublishedLabels":
        from vidseg.labels.published import PublishedLabels

        files = {}
        for split in ("train", "val", "test"):
            try:
                files[f"kinetics-{self.variant}_{split}"] = self.read_split(split)
            except FileNotFoundError:
                if split != "test":  # missing in some releases and in Kinetics-200
                    raise
        return PublishedLabels(files, expected_classes=int(self.variant))

    def read_split(self, split: str) -> "list[LabelRow]":
        from vidseg.labels import read_label_csv
        from vidseg.labels.official_json import read_kinetics_json
        from vidseg.labels.official_lists import read_id_list
        from vidseg.labels.published import official_file

        release = "400" if self.variant == "200" else self.variant
        beginnings = ("", "kinetics_", f"kinetics_{release}_", f"kinetics-{release}_")
        stems = [beginning + spelling for beginning in beginnings for spelling in SPELLINGS[split]]
        path = official_file(self.source, *(stem + kind for kind in (".csv", ".json") for stem in stems))
        read = read_kinetics_json if path.suffix == ".json" else read_label_csv
        rows = [replace(row, split=split) for row in read(path, faults=self.faults)]
        if self.variant == "200":
            chosen = read_id_list(official_file(self.source, f"{split}_ytid_list.txt"))
            rows = [row for row in rows if row.name in chosen]
            if len(rows) != len(chosen):
                logger.warning("%s: the list has %d ids, of which %s has %d", split, len(chosen), path, len(rows))
        return rows


if __name__ == "__main__":
    sys.exit(run_program(Kinetics))
