"""Label files in any form that `export_labels` writes or `vidseg labels` reads, written to the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidseg.labels.apply import LabelReport, apply_labels
from vidseg.labels.catalog import read_catalog
from vidseg.labels.csv_labels import read_rows
from vidseg.labels.detection_labels import DetectionReport, apply_detection, read_detection_labels
from vidseg.labels.label_export import LabelForm
from vidseg.labels.label_files import read_label_files
from vidseg.labels.names import clean_name
from vidseg.labels.segmentation_labels import SegmentationReport, apply_segmentation, has_timelines, read_segmentation
from vidseg.labels.video_targets import apply_targets

__all__ = ["import_labels", "recognize_form"]


def recognize_form(paths: Sequence[Path]) -> LabelForm:
    """Return the form of label files by their names and headers.

    A folder with groundTruth/ has frame labels, a JSON file segments. CSV files differ by their columns: `labels`,
    `value`, or `start` and `end`. Other files are lists of videos.
    """
    if any((path / "groundTruth").is_dir() for path in paths):
        return "frames"
    if any(path.suffix.lower() == ".json" for path in paths) and len(paths) == 1:
        return "segments"
    for path in paths:
        if path.suffix.lower() in (".csv", ".tsv") and (rows := read_rows(path)):
            columns = {cell.strip().lower() for cell in rows[0][1]}
            if "labels" in columns:
                return "targets"
            if "value" in columns:
                return "values"
            if columns >= {"start", "end"}:
                return "segments"
    return "classes"


def import_labels(
    root: str | Path, paths: Sequence[Path], *, form: LabelForm | None = None
) -> LabelReport | DetectionReport | SegmentationReport:
    """Write label files to the catalog of a data set.

    Frame labels have no rate in their files. A video keeps the rate that it has; else it has one label for each frame,
    or as many as its duration shows.

    Args:
        root: folder of the data set.
        paths: files, or a folder with frame labels.
        form: their form; None: recognized.

    Raises:
        FileNotFoundError: a file or the catalog does not exist.
        ValueError: a file is malformed or contradicts the catalog, which is then unchanged.
    """
    form = form or recognize_form(paths)
    if form in ("classes", "lists"):
        found = read_label_files(paths)
        return apply_labels(root, found.rows, classes=found.classes)
    if form in ("targets", "values"):
        return apply_targets(root, paths)
    if form in ("segments", "activitynet"):
        return apply_detection(root, read_detection_labels(paths))
    if len(paths) != 1:
        raise ValueError("frame labels are one folder with mapping.txt, groundTruth/ and splits/")
    labels = read_segmentation(paths[0], rate=1.0)
    counts = {name: len(values) for name, values in labels.labels.items()}
    return apply_segmentation(root, labels, mapping=paths[0] / "mapping.txt", rates=_rates(root, counts))


def _rates(root: str | Path, counts: dict[str, int]) -> dict[str, float]:
    """Return the labels per second of each video, by its number of labels."""
    known: dict[str, tuple[int, float, float, int | None, float | None]] = {}
    with read_catalog(root) as connection:
        own = "t.labels, t.rate" if has_timelines(connection) else "NULL, NULL"
        join = "LEFT JOIN timelines t ON t.video_id = v.id" if has_timelines(connection) else ""
        for path, *row in connection.execute(f"SELECT v.path, v.frames, v.fps, v.seconds, {own} FROM videos v {join}"):
            known[clean_name(path.rpartition("/")[2])] = tuple(row)
    rates = {}
    for name, count in counts.items():
        frames, fps, seconds, labels, rate = known.get(clean_name(name), (0, 0.0, 0.0, None, None))
        if rate and labels == count:
            rates[name] = rate
        elif fps > 0 and frames == count:
            rates[name] = fps
        elif seconds > 0:
            rates[name] = count / seconds
        else:
            raise ValueError(
                f"{root}: video {name!r}: the rate of its frame labels is unknown, because the data set has no such"
                " video, or not its duration; import them with `vidseg labels gtea FOLDER --dataset DATA --rate RATE`"
            )
    return rates
