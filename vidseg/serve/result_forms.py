"""Results of predictions as tables and subtitles."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vidseg.serve.upload_checks import RequestError
from vidseg.tasks.detection.result_files import DetectionRow, write_subtitles

__all__ = ["MEDIA_TYPES", "Form", "render"]

Form = Literal["json", "csv", "srt", "vtt"]

MEDIA_TYPES = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
_MIN_SCORE = 0.3  # of detections in subtitles


def render(result: Mapping[str, Any], form: Form) -> str:
    """Return a result as text.

    Args:
        result: of a prediction.
        form: "csv": a row for each segment, detection or class; "srt" and "vtt": subtitles of segments, and of
            detections with a score of at least 0.3.

    Raises:
        RequestError: the result has no such form (409).
    """
    rows = result.get("segments") or result.get("detections")
    if form == "csv":
        return _table(rows if rows is not None else result.get("classes", []))
    if rows is None or result.get("unit") != "seconds":
        raise RequestError(
            409, "the result has no segments in seconds: ask for timeline=true, for features give fps, or take csv"
        )
    smallest = 0.0 if result.get("segments") else _MIN_SCORE
    found = [
        DetectionRow(row["label"], row["start"], row["stop"], row.get("score", row.get("probability", 1.0)))
        for row in rows
    ]
    with tempfile.TemporaryDirectory(prefix="vidseg-") as folder:
        return write_subtitles(Path(folder) / f"result.{form}", found, min_score=smallest).read_text(encoding="utf-8")


def _table(rows: list[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name for name in ("start", "stop", "label", "probability", "score") if rows and name in rows[0]]
    writer.writerow(names or ["label"])
    writer.writerows([row[name] for name in names] for row in rows)
    return text.getvalue()
