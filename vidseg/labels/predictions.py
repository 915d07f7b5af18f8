"""Pairs of true and predicted frame labels, read from the files that evaluation writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidseg.labels.counting import counted
from vidseg.labels.segmentation_files import (
    paired_files,
    read_bundle,
    read_frame_labels,
    read_frame_names,
    read_mapping,
)

__all__ = ["PairedLabels", "read_predictions"]


@dataclass
class PairedLabels:
    """True and predicted frame labels of several videos.

    Attributes:
        classes: class names by number.
        names: video names, sorted.
        truth: (L,) class numbers of each video.
        prediction: (L,) class numbers of each video.
        cut: videos of unequal lengths, truncated to the shorter one.
        failed: `<video>: <reason>` of each skipped video.
    """

    classes: list[str]
    names: list[str] = field(default_factory=list)
    truth: list[npt.NDArray[np.int64]] = field(default_factory=list)
    prediction: list[npt.NDArray[np.int64]] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def read_predictions(
    truth: str | Path,
    predictions: str | Path | None = None,
    *,
    mapping: str | Path | None = None,
    bundle: str | Path | None = None,
    truncate: bool = False,
) -> PairedLabels:
    """Read pairs of label files (see `paired_files` for their names).

    Videos with only one file, with invalid labels, or of unequal lengths are skipped and listed in `failed`. With
    `bundle`, only the videos of the bundle are read, and those without a pair are listed.

    Args:
        truth: folder of `<video>.txt`, or of `<video>-gt.txt` and `<video>-pred.txt`.
        predictions: folder of `<video>.txt` or `<video>`.
        mapping: mapping.txt; None: the class names found, sorted.
        bundle: split file whose videos are read.
        truncate: truncate files of unequal lengths to the shorter one.

    Returns:
        The pairs, ordered by name.

    Raises:
        FileNotFoundError: a folder does not exist, or there is no pair.
        ValueError: no pair can be read, or the mapping or bundle is invalid.
    """
    pairs, alone = paired_files(truth, predictions)
    failed = [f"{name}: only one of truth and prediction exists" for name in alone]
    if bundle is not None:
        listed = read_bundle(bundle)
        missing = [name for name in listed if name not in pairs]
        failed = [
            f"{name}: {bundle}:{listed[name]} lists it, but its truth or prediction is missing" for name in missing
        ]
        pairs = {name: files for name, files in pairs.items() if name in listed}
    classes: Sequence[str]
    if mapping is not None:
        classes = read_mapping(mapping)
    else:
        classes = sorted({label for files in pairs.values() for path in files for label in read_frame_names(path)})
    numbers = {name: number for number, name in enumerate(classes)}
    result = PairedLabels(list(classes), failed=failed)
    for name, (true_path, our_path) in pairs.items():
        try:
            true, ours = read_frame_labels(true_path, numbers), read_frame_labels(our_path, numbers)
        except ValueError as error:
            result.failed.append(f"{name}: {error}")
            continue
        if len(true) != len(ours):
            if not truncate:
                result.failed.append(
                    f"{name}: {our_path}: {counted(len(ours), 'label')}, but {true_path} has {len(true)}"
                )
                continue
            result.cut.append(name)
            true, ours = true[: len(ours)], ours[: len(true)]
        result.names.append(name)
        result.truth.append(true)
        result.prediction.append(ours)
    if not result.names:
        raise ValueError(f"{predictions or truth}: no video can be scored; first error: {result.failed[0]}")
    return result
