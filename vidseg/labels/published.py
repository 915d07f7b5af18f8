"""Conversion of official annotations to the published CSV files, shared by all converters."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from vidseg.frames.whole_file import write_text
from vidseg.labels.counting import counted
from vidseg.labels.csv_labels import LabelRow, write_label_csv

__all__ = ["PublishedLabels", "official_file", "official_files", "optional_file"]

logger = logging.getLogger(__name__)


@dataclass
class PublishedLabels:
    """Labels of one data set.

    Attributes:
        files: rows of each CSV file, by its published name without extension, such as `ucf101_split1_train`.
        expected_classes: number of classes of the whole data set.
        classes: class names in official order; empty: sorted names of all rows.
        unassigned: rows of labeled videos without a split, which are in no file.
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
            raise ValueError(
                f"{counted(len(unknown), 'label')} not in the class list, such as {unknown[0]!r}; check the class list"
            )
        if len(self.classes) != self.expected_classes:
            logger.warning(
                "classes found: %d; the whole data set has %d; ignore this warning for a subset",
                len(self.classes),
                self.expected_classes,
            )

    def rows(self) -> list[LabelRow]:
        """Return the rows of all files, followed by the unassigned rows."""
        return [row for rows in (*self.files.values(), self.unassigned) for row in rows]

    def write(self, folder: str | Path) -> list[Path]:
        """Write the CSV files and the `<..>dictionary.json` of class numbers of the published training code.

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
            write_text(folder / f"{prefix}dictionary.json", json.dumps(dictionary, ensure_ascii=False))
        return paths


def official_files(folder: Path, pattern: str) -> list[Path]:
    """Return the sorted files that match `pattern` in the folder, else in its subfolders.

    Raises:
        FileNotFoundError: no file matches.
    """
    found = sorted(folder.glob(pattern)) or sorted(folder.glob(f"*/{pattern}"))
    if not found:
        raise FileNotFoundError(f"{folder}: {pattern} not found; pass the folder of the official annotation files")
    return found


def official_file(folder: Path, *names: str) -> Path:
    """Return the first of the named official files that exists.

    Raises:
        FileNotFoundError: none of them exists.
        ValueError: the folder has several files of one name.
    """
    for name in names:
        try:
            found = official_files(folder, name)
        except FileNotFoundError:
            continue
        if len(found) > 1:
            raise ValueError(f"{folder}: found both {found[0]} and {found[1]}; pass the folder that contains only one")
        return found[0]
    raise FileNotFoundError(
        f"{folder}: {' or '.join(names)} not found; pass the folder of the official annotation files"
    )


def optional_file(folder: Path, *names: str) -> Path | None:
    """Return the first of the named files that exists, or None.

    Raises:
        ValueError: the folder has several files of one name.
    """
    try:
        return official_file(folder, *names)
    except FileNotFoundError:
        return None
