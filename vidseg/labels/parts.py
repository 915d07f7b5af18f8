"""Training, validation and test videos of a data set with frame labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vidseg.labels import VideoDataset, open_dataset

__all__ = [
    "Parts",
    "check_disjoint",
    "choose_parts",
    "chosen_division",
    "class_numbers",
    "divisions_of",
    "part_name",
    "video_names",
]

Select = Literal["validation", "last", "test"]


@dataclass(frozen=True)
class Parts:
    """Videos of a run.

    Attributes:
        train: videos that the network is trained on.
        validation: videos that select the epoch; None: the last epoch is tested.
        test: videos of the test split; None: the data set has none.
        division: name of the division, such as split1; "" where the splits are plain `train` and `test`.
    """

    train: VideoDataset
    validation: VideoDataset | None
    test: VideoDataset | None
    division: str


def part_name(division: str, part: str) -> str:
    """Return the name of a split: split1/train, or train without a division."""
    return f"{division}/{part}" if division else part


def divisions_of(data: VideoDataset) -> list[str]:
    """Return the divisions that have a training split, in the catalog's order."""
    return [name.rpartition("/")[0] for name in data.splits if name.rpartition("/")[2] == "train"]


def chosen_division(root: str | Path, wanted: str) -> str:
    """Return a division by its name, for "" the first one; "" where the data set has none.

    Raises:
        ValueError: there is no such division; names those that there are.
    """
    divisions = divisions_of(open_dataset(root))
    if wanted and wanted not in divisions:
        raise ValueError(f"{root}: no split {wanted!r} with a part train; there are {', '.join(divisions) or 'none'}")
    return wanted or (divisions[0] if divisions else "")


def choose_parts(root: str | Path, division: str, *, select: Select, validation_share: float, seed: int) -> Parts:
    """Return the training, validation and test videos of a division.

    Without a training split all videos are trained on. The validation videos are the split `val` if there is one, else
    a share of the training videos, which are then not trained on.

    Args:
        root: folder of the data set.
        division: one of `divisions_of`, or "".
        select: how the tested epoch is selected: with "validation" by validation videos, with "test" by the test
            videos, with "last" not at all.
        validation_share: share of the training videos, between 0 and 1.
        seed: seed of the choice of validation videos.

    Raises:
        ValueError: a video is in the training and in the test split, or there are too few videos to divide.
    """
    whole = open_dataset(root)

    def part(name: str) -> VideoDataset | None:
        full = part_name(division, name)
        return open_dataset(root, full) if full in whole.splits else None

    train, validation, test = part("train") or whole, part("val"), part("test")
    if test is not None:
        check_disjoint(train, test, division)
    if select == "last":
        return Parts(train, None, test, division)
    if select == "test":
        return Parts(train, test, test, division)
    if validation is None:
        if len(train) < 2:
            raise ValueError(f"{train}: one video cannot be divided into training and validation; use --select last")
        train, validation = train.split(1 - validation_share, seed=seed)
    return Parts(train, validation, test, division)


def check_disjoint(train: VideoDataset, test: VideoDataset, division: str, *, name: str = "test") -> None:
    """Refuse a test or a validation on training videos.

    Args:
        train: training videos.
        test: the other videos.
        division: of both.
        name: of the other split.

    Raises:
        ValueError: a video is in both splits.
    """
    paths = [{data.video_path(row) for row in range(len(data))} for data in (train, test)]
    if both := paths[0] & paths[1]:
        raise ValueError(
            f"{train.root}: video {sorted(both)[0]} is in both the training and the {name} split of "
            f"{division or 'the data set'}; remove it from one of them"
        )


def video_names(data: VideoDataset | None) -> list[str]:
    """Return the names of the videos without their folders; none for None."""
    return [] if data is None else [data.video_path(row).rpartition("/")[2] for row in range(len(data))]


def class_numbers(classes: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the numbers of the classes that have one of these names."""
    return [number for number, name in enumerate(classes) if name in names]
