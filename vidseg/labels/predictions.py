"""Frame labels of truth and prediction side by side, from the files that evaluation leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

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
    """Truth and prediction of some videos.

    Attributes:
        classes: names by number.
        names: of the videos, sorted.
        truth: (L,) class numbers of each video.
        prediction: (L,) class numbers of each video.
        cut: videos of unequal lengths that were cut to the shorter side.
        failed: `<video>: <reason>` of each video that is not among them.
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
    """Reads label files that belong together (see `paired_files` for their names).

    A video with only a prediction is left out and named, as is one whose labels are wrong or whose two sides differ in
    length. Truth without a prediction is named too, unless a bundle says which videos there are to be.

    Args:
        truth: folder of `<video>.txt`, or of `<video>-gt.txt` and `<video>-pred.txt` alone.
        predictions: folder of `<video>.txt` or `<video>`.
        mapping: mapping.txt; None: the classes are the names found, sorted.
        bundle: split whose videos are wanted; those of its videos that have no pair are named.
        truncate: cut two sides of unequal lengths to the shorter one.

    Raises:
        FileNotFoundError: no such folder, or no pair.
        ValueError: no pair that can be read, or a wrong mapping or bundle.
    """
    pairs, alone = paired_files(truth, predictions)
    failed = [f"{name}: only one of truth and prediction is there" for name in alone]
    if bundle is not None:
        wanted = read_bundle(bundle)
        missing = [name for name in wanted if name not in pairs]
        failed = [f"{name}: {bundle}:{wanted[name]} names it, but truth or prediction is not there" for name in missing]
        pairs = {name: files for name, files in pairs.items() if name in wanted}
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
                result.failed.append(f"{name}: {our_path}: {len(ours)} labels, but {true_path} has {len(true)}")
                continue
            result.cut.append(name)
            true, ours = true[: len(ours)], ours[: len(true)]
        result.names.append(name)
        result.truth.append(true)
        result.prediction.append(ours)
    if not result.names:
        raise ValueError(f"{predictions or truth}: no video can be scored; the first: {result.failed[0]}")
    return result
