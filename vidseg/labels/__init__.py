"""The catalogue of a data set, and the label files of the field."""

from vidseg.labels.apply import LabelReport, apply_labels
from vidseg.labels.catalog import VideoRecord, update_catalog
from vidseg.labels.csv_labels import LabelRow, read_label_csv, write_label_csv
from vidseg.labels.dataset import Segment, Video, VideoDataset, open_dataset
from vidseg.labels.scan import ScanReport, scan_catalog

__all__ = [
    "LabelReport",
    "LabelRow",
    "ScanReport",
    "Segment",
    "Video",
    "VideoDataset",
    "VideoRecord",
    "apply_labels",
    "open_dataset",
    "read_label_csv",
    "scan_catalog",
    "update_catalog",
    "write_label_csv",
]
