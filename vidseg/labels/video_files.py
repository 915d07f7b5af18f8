"""Data sets of video files without conversion, with the same columns as a catalog."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidseg.labels.catalog_videos import VideoRecord
from vidseg.labels.dataset import VideoDataset, VideoFile

__all__ = ["dataset_of_files"]

Integers = npt.NDArray[np.int64]


def dataset_of_files(
    root: Path, videos: Sequence[tuple[VideoRecord, VideoFile]], *, split: str | None = None
) -> VideoDataset:
    """Create the data set that `open_dataset` would return after conversion, with video files instead of databases.

    Args:
        root: folder of the files.
        videos: catalog row and source file of each video.
        split: name of the split to select; None: all videos.

    Raises:
        ValueError: the split is unknown, or there are no videos.
    """
    splits = sorted({record.split for record, _ in videos if record.split is not None})
    if split is not None and split not in splits:
        raise ValueError(
            f"{root}: unknown split {split!r}; the folder has {', '.join(splits) or 'none; use data.split'}"
        )
    classes = sorted({record.label for record, _ in videos if record.label is not None})
    chosen = sorted(
        ((record, file) for record, file in videos if split in (None, record.split)), key=lambda pair: pair[0].path
    )
    if not chosen:
        raise ValueError(f"{root}: no video in this folder can be read")
    numbers = {name: number for number, name in enumerate(classes)}
    columns: dict[str, npt.NDArray] = {
        "label": np.array([-1 if one.label is None else numbers[one.label] for one, _ in chosen], np.int64),
        "frames": np.array([one.frames for one, _ in chosen], np.int64),
        "height": np.array([one.height for one, _ in chosen], np.int32),
        "width": np.array([one.width for one, _ in chosen], np.int32),
        "fps": np.array([one.fps for one, _ in chosen], np.float64),
        "first_second": _optional([file.start for _, file in chosen]),
        "last_second": _optional([file.stop for _, file in chosen]),
        "chosen_fps": _optional([file.fps for _, file in chosen]),
    }
    texts = [one.path.encode() for one, _ in chosen] + [str(file.path).encode() for _, file in chosen]
    stops = np.cumsum([len(text) for text in texts], dtype=np.int64)
    starts = stops - np.array([len(text) for text in texts], np.int64)
    columns["path_start"], columns["file_start"] = np.split(starts, 2)
    columns["path_stop"], columns["file_stop"] = np.split(stops, 2)
    return VideoDataset(
        root,
        split_name=split,
        splits=splits,
        classes=classes,
        columns=columns,
        path_bytes=np.frombuffer(b"".join(texts), np.uint8),
    )


def _optional(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    """Convert None to NaN."""
    return np.array([np.nan if value is None else value for value in values], np.float64)
