"""From an official annotation to the published CSV files: what every converter hands over, and how it is written."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from vidseg.labels.csv_labels import LabelRow, write_label_csv

__all__ = ["PublishedLabels", "official_file", "official_files"]

logger = logging.getLogger(__name__)


@dataclass
class PublishedLabels:
    """The labels of one data set.

    Attributes:
        files: rows of each CSV file, by its published name without extension: `ucf101_split1_train`.
        expected_classes: number of classes of the whole data set.
        classes: official order of the classes; empty: sorted names of all rows.
        unassigned: further rows that are in no split, and so in no file, but whose videos have a label.
    """

    files: dict[str, list[LabelRow]]
    expected_classes: int
    classes: list[str] = field(default_factory=list)
    unassigned: list[LabelRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        named = {row.label for row in self.rows() if row.label is not None}
        self.classes = self.classes or sorted(named)
        unknown = sorted(named - set(self.classes))
        if unknown:
            raise ValueError(f"{len(unknown)} labels are not in the official class list, such as {unknown[0]!r}")
        if len(self.classes) != self.expected_classes:
            logger.warning(
                "%d classes, but the whole data set has %d; right for a subset of it",
                len(self.classes),
                self.expected_classes,
            )

    def rows(self) -> list[LabelRow]:
        """All rows, of all files and of none."""
        return [row for rows in (*self.files.values(), self.unassigned) for row in rows]

    def write(self, folder: str | Path) -> list[Path]:
        """Writes the CSV files, and beside them the published training code's `<..>dictionary.json` of class numbers.

        Returns:
            The paths of the CSV files.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, rows in self.files.items():
            paths.append(folder / f"{name}.csv")
            write_label_csv(paths[-1], rows)
            prefix = re.sub(r"(train|val|test)$", "", name)
            dictionary = {label: number for number, label in enumerate(self.classes)}
            (folder / f"{prefix}dictionary.json").write_text(
                json.dumps(dictionary, ensure_ascii=False), encoding="utf-8"
            )
        return paths


def official_files(folder: Path, pattern: str) -> list[Path]:
    """Files of that name in the folder, else in its folders (archives unpack into one), sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(folder.glob(pattern)) or sorted(folder.glob(f"*/{pattern}"))
    if not found:
        raise FileNotFoundError(f"{folder}: {pattern} is not in it; give the folder of the official annotation")
    return found


def official_file(folder: Path, *names: str) -> Path:
    """The first of these official files that exists.

    Raises:
        FileNotFoundError: none does.
        ValueError: there are several of one name.
    """
    for name in names:
        try:
            found = official_files(folder, name)
        except FileNotFoundError:
            continue
        if len(found) > 1:
            raise ValueError(f"{folder}: both {found[0]} and {found[1]}; give the folder that holds one of them")
        return found[0]
    raise FileNotFoundError(f"{folder}: {' or '.join(names)} is not in it; give the folder of the official annotation")
