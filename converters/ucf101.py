"""UCF-101: convert the folder ucfTrainTestlist (classInd.txt, trainlist01.txt, testlist01.txt ... 03) to CSV and
catalog.

The official parts are train and test; the published file names call the second one val. The catalog has the splits
split1/train, split1/test and so on. The first division is required; the second and third are optional.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vidseg.cli.labels import LabelConverter
from vidseg.cli.main import run_program

if TYPE_CHECKING:
    from vidseg.labels.published import PublishedLabels


@dataclass
class Ucf101(LabelConverter):
    """Convert UCF-101's ucfTrainTestlist to the published CSV files: ucf101_split{1,2,3}_{train,val}.csv."""

    def read(self) -> "PublishedLabels":
        from vidseg.labels.official_lists import read_class_list, read_ucf_list
        from vidseg.labels.published import PublishedLabels, official_file

        classes = official_file(self.source, "classInd.txt")
        files = {}
        for division in (1, 2, 3):
            if division > 1 and not list(classes.parent.glob(f"t*list{division:02d}.txt")):
                continue
            for part, name in (("train", "train"), ("test", "val")):
                path = official_file(classes.parent, f"{part}list{division:02d}.txt")
                files[f"ucf101_split{division}_{name}"] = read_ucf_list(path, split=f"split{division}/{part}")
        return PublishedLabels(files, expected_classes=101, classes=read_class_list(classes))


if __name__ == "__main__":
    sys.exit(run_program(Ucf101))
