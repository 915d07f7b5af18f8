"""Readers of official annotation files in other CSV formats: HACS and Moments in Time."""

from __future__ import annotations

from pathlib import Path

from vidseg.labels.counting import counted
from vidseg.labels.csv_labels import LabelRow, check_row, read_rows
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.names import clean_name, split_name, strip_extension, video_name

__all__ = ["read_hacs_csv", "read_moments_csv"]

_HACS_COLUMNS = ["classname", "youtube_id", "subset", "start", "end", "label"]


def read_hacs_csv(path: str | Path, *, faults: SegmentFaults | None = None) -> tuple[list[LabelRow], int]:
    """Read HACS clips (`HACS_clips_v1.1.csv`).

    Lines have the form `Archery,a2X2hz1G6i8,training,15.5,17.5,1`; label -1 marks a clip without the action, which is
    skipped. Clips of the test set may have no class.

    Args:
        path: the file.
        faults: check of the times; default: a clip without length is an error.

    Returns:
        The rows, and the number of negative samples skipped.

    Raises:
        ValueError: the header differs, or a line cannot be parsed.
    """
    faults = faults or SegmentFaults()
    lines = read_rows(path)
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    if header != _HACS_COLUMNS:
        raise ValueError(f"{path}:1: header {','.join(header)!r:.200}, expected {','.join(_HACS_COLUMNS)}")
    rows, negatives = [], 0
    for number, cells in lines[1:]:
        if len(cells) != len(_HACS_COLUMNS):
            raise ValueError(f"{path}:{number}: {counted(len(cells), 'cell')}, expected {len(_HACS_COLUMNS)}")
        name, video, subset, start, end, sign = (cell.strip() for cell in cells)
        if sign == "-1":
            negatives += 1
            continue
        if sign != "1" and subset != "testing":
            raise ValueError(f"{path}:{number}: column 'label': {sign!r} is neither 1 nor -1")
        try:
            times = float(start), float(end)
        except ValueError:
            raise ValueError(f"{path}:{number}: times {start!r} and {end!r} are not numbers of seconds") from None
        clip = faults.check(*times, place=f"{path}:{number}", label=name)
        if clip is not None:
            rows.append(LabelRow(name, strip_extension(clean_name(video)), *clip, split=split_name(subset)))
            check_row(rows[-1], f"{path}:{number}")
    return rows, negatives


def read_moments_csv(path: str | Path, *, split: str) -> list[LabelRow]:
    """Read Moments in Time (`trainingSet.csv`): lines `clapping/yt-x_12.mp4,clapping,3,0`, without a header.

    The two numbers are the counts of annotators for and against the label.

    Args:
        path: the file.
        split: split of all rows.

    Raises:
        ValueError: a line has fewer than two cells.
    """
    rows = []
    for position, (number, cells) in enumerate(read_rows(path)):
        if len(cells) < 2 or not cells[0].strip() or not cells[1].strip():
            raise ValueError(f"{path}:{number}: expected a file and a label, such as clapping/yt-x_12.mp4,clapping,3,0")
        if position == 0 and "." not in cells[0]:
            continue  # some copies have a header line
        rows.append(LabelRow(cells[1], video_name(cells[0]), split=split))
        check_row(rows[-1], f"{path}:{number}")
    return rows
