"""HMDB-51: convert the folder testTrainMulti_7030_splits (<class>_test_split1.txt ... split3.txt) to CSV and catalog.

Each line has a video and its code: 1 train, 2 test, 0 not used in this division. The official parts are train and test;
the published file names call the second one val. The catalog has the splits split1/train, split1/test and so on; a
video with code 0 has a label but no split.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vidseg.cli.labels import LabelConverter
from vidseg.cli.main import run_program

if TYPE_CHECKING:
    from vidseg.labels.published import PublishedLabels


@dataclass
class Hmdb51(LabelConverter):
    """Convert HMDB-51's testTrainMulti_7030_splits to the published CSV files: hmdb_split{1,2,3}_{train,val}.csv."""

    def read(self) -> "PublishedLabels":
        from vidseg.labels.official_lists import read_hmdb_list
        from vidseg.labels.published import PublishedLabels, official_files

        files, unassigned = {}, []
        for division in (1, 2, 3):
            ending = f"_test_split{division}.txt"
            rows = [
                row
                for path in official_files(self.source, f"*{ending}")
                for row in read_hmdb_list(path, label=path.name.removesuffix(ending), division=f"split{division}")
            ]
            for part, name in (("train", "train"), ("test", "val")):
                files[f"hmdb_split{division}_{name}"] = [r for r in rows if r.split == f"split{division}/{part}"]
            unassigned += [row for row in rows if row.split is None]
        return PublishedLabels(files, expected_classes=51, unassigned=unassigned)


if __name__ == "__main__":
    sys.exit(run_program(Hmdb51))
