"""Facts of THUMOS-14 that its files share: classes, splits, and the text form of its temporal annotation."""

from __future__ import annotations

import re
from pathlib import Path

from vidseg.labels.names import clean_name, strip_extension
from vidseg.labels.official_lists import read_lines

__all__ = ["AMBIGUOUS", "THUMOS_CLASSES", "read_thumos_text", "thumos_split"]

AMBIGUOUS = "Ambiguous"
"""Class of the segments that the annotators could not classify; they belong to no class."""

THUMOS_CLASSES = {
    "BaseballPitch": 7,
    "BasketballDunk": 9,
    "Billiards": 12,
    "CleanAndJerk": 21,
    "CliffDiving": 22,
    "CricketBowling": 23,
    "CricketShot": 24,
    "Diving": 26,
    "FrisbeeCatch": 31,
    "GolfSwing": 33,
    "HammerThrow": 36,
    "HighJump": 40,
    "JavelinThrow": 45,
    "LongJump": 51,
    "PoleVault": 68,
    "Shotput": 79,
    "SoccerPenalty": 85,
    "TennisSwing": 92,
    "ThrowDiscus": 93,
    "VolleyballSpiking": 97,
}
"""Number of each of the 20 classes among the 101 of UCF-101, counted from 1."""

_VIDEO = re.compile(r"video_(validation|test)_\d{7}")


def thumos_split(video: str) -> str | None:
    """Return the split of a THUMOS-14 video by its name, or None for other names.

    The validation videos are the training data of temporal detection: the training videos of THUMOS-14 are trimmed.
    """
    match = _VIDEO.fullmatch(video)
    return match and {"validation": "train", "test": "test"}[match[1]]


def read_thumos_text(path: str | Path) -> list[tuple[int, str, float, float]]:
    """Read a file of one class, of THUMOS-14 or MultiTHUMOS: lines `video_test_0000006 1.3 8.5`, times in seconds.

    Returns:
        Line number, video, start and stop of each line.

    Raises:
        ValueError: a line has another form; the message names file and line.
    """
    rows = []
    for line, text in read_lines(path):
        try:
            name, start, stop = text.split()
            rows.append((line, strip_extension(clean_name(name)), float(start), float(stop)))
        except ValueError:
            raise ValueError(f"{path}:{line}: {text!r} is not of the form VIDEO START STOP, times in seconds") from None
    return rows
