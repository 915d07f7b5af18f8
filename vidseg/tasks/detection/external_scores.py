"""Class scores of whole videos from a recognition network, which give proposals their classes.

Four forms are read: the JSON file of the CUHK classifier (`{"class": [names], "results": {video: [scores]}}`, 2017,
used by every published result on ActivityNet), UntrimmedNet's array of THUMOS-14 (.npy, (1574, 101), Wang et al. 2017),
and the .npz and .csv files of `vidseg predict --dump`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidseg.labels.json_files import read_json
from vidseg.labels.names import clean_name, find_name, strip_extension
from vidseg.labels.thumos import THUMOS_CLASSES

__all__ = ["ExternalScores", "read_external_scores"]

_UNTRIMMED_NET = (1574, 101)  # test videos and classes of THUMOS-14


@dataclass(frozen=True)
class ExternalScores:
    """Class scores of videos.

    Attributes:
        path: file that they were read from, for messages.
        classes: class names of the data set.
        scores: float32 (K,) by video name.
    """

    path: Path
    classes: tuple[str, ...]
    scores: Mapping[str, npt.NDArray[np.float32]]

    def of(self, video: str) -> npt.NDArray[np.float32]:
        """Return the scores (K,) of a video, whose name may have the prefix `v_` on one side only.

        Raises:
            ValueError: the file does not have the video.
        """
        name = find_name(video, self.scores)
        if name is None:
            raise ValueError(f"{self.path}: has no scores of the video {video!r}")
        return self.scores[name]


def read_external_scores(path: str | Path, classes: Sequence[str]) -> ExternalScores:
    """Read class scores of videos, in the order of the classes of the data set.

    Args:
        path: .json (CUHK), .npy (UntrimmedNet on THUMOS-14), .npz or .csv (`vidseg predict --dump`).
        classes: class names of the data set by number; underscores and letter case are ignored in the comparison.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has another form, or lacks one of the classes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: file of class scores not found")
    if path.suffix == ".json":
        names, rows = _cuhk(path)
    elif path.suffix == ".npy":
        names, rows = _untrimmed_net(path)
    else:
        from vidseg.metrics.video_scores import read_scores

        found = read_scores(path)
        names = list(found.classes)
        rows = {
            strip_extension(clean_name(video.rpartition("/")[2])): row
            for video, row in zip(found.videos, found.scores, strict=True)
        }
    places = {_letters(name): place for place, name in enumerate(names)}
    missing = [name for name in classes if _letters(name) not in places]
    if missing:
        raise ValueError(
            f"{path}: has no scores of the class {missing[0]!r}; its classes are {', '.join(names[:5])}, ..."
        )
    columns = [places[_letters(name)] for name in classes]
    return ExternalScores(path, tuple(classes), {video: row[columns] for video, row in rows.items()})


def _letters(name: str) -> str:
    return clean_name(name).replace("_", " ").casefold()


def _cuhk(path: Path) -> tuple[list[str], dict[str, npt.NDArray[np.float32]]]:
    content = read_json(path)
    names = content.get("class", content.get("classes")) if isinstance(content, dict) else None
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(names, list) or not isinstance(results, dict):
        raise ValueError(f"{path}: expected an object with the entries 'class' (names) and 'results' (scores by video)")
    rows = {}
    for video, values in results.items():
        try:
            row = np.asarray(values, np.float32).reshape(-1)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: video {video!r}: the scores are not numbers ({error})") from error
        if len(row) != len(names) or not np.isfinite(row).all():
            raise ValueError(f"{path}: video {video!r}: {len(row)} scores, expected {len(names)} finite numbers")
        rows[clean_name(video)] = row
    return [str(name) for name in names], rows


def _untrimmed_net(path: Path) -> tuple[list[str], dict[str, npt.NDArray[np.float32]]]:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not an array of numbers ({error})") from error
    if array.ndim != 2 or array.shape[1] != _UNTRIMMED_NET[1] or not np.isfinite(array).all():
        raise ValueError(f"{path}: array {array.shape}, expected {_UNTRIMMED_NET} scores of UntrimmedNet on THUMOS-14")
    # Row and column are the numbers of the video and of the UCF-101 class, counted from 1.
    columns = [number - 1 for number in THUMOS_CLASSES.values()]
    rows = {f"video_test_{row + 1:07d}": values for row, values in enumerate(array[:, columns].astype(np.float32))}
    return list(THUMOS_CLASSES), rows
