"""Several classes, and numbers, of the videos of a catalog as columns; `vidseg.labels.video_targets` writes them."""

from __future__ import annotations

import sqlite3
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["target_columns"]


def target_columns(
    connection: sqlite3.Connection,
    columns: dict[str, npt.NDArray[Any]],
    path_bytes: npt.NDArray[np.uint8],
    *,
    classes: int,
) -> dict[str, npt.NDArray[Any]]:
    """The sets of classes as packed bits, and the numbers, of the videos; empty without such labels.

    Args:
        connection: the catalog.
        columns: `path_start` and `path_stop` of the videos.
        path_bytes: texts of the paths.
        classes: number of classes.

    Returns:
        `value`, float64 (N,), NaN for none; `class_bits`, uint8 (N, ceil(classes / 8)); `several`, bool (N,), whether a
        video has a set of classes.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"video_values", "video_classes"} <= tables:
        return {}
    text = path_bytes.tobytes()
    places = zip(columns["path_start"].tolist(), columns["path_stop"].tolist(), strict=True)
    rows = {text[start:stop].decode(): row for row, (start, stop) in enumerate(places)}
    values, several = np.full(len(rows), np.nan), np.zeros(len(rows), bool)
    for path, value, whole in connection.execute(
        "SELECT v.path, t.value, t.several FROM video_values t JOIN videos v ON v.id = t.video_id"
    ):
        if (row := rows.get(path)) is not None:
            values[row], several[row] = np.nan if value is None else value, whole
    found: dict[str, npt.NDArray[Any]] = {}
    if not np.isnan(values).all():
        found["value"] = values
    if several.any():
        sets = np.zeros((len(rows), classes), bool)
        for path, number in connection.execute(
            "SELECT v.path, c.number FROM video_classes t JOIN videos v ON v.id = t.video_id"
            " JOIN classes c ON c.id = t.class_id"
        ):
            if (row := rows.get(path)) is not None:
                sets[row, number] = True
        found |= {"class_bits": np.packbits(sets, axis=1), "several": several}
    return found
