"""Catalog of a data set, and readers and writers of published label formats."""

from vidseg.labels.apply import LabelReport, apply_labels
from vidseg.labels.catalog_videos import VideoRecord, update_catalog
from vidseg.labels.csv_labels import LabelRow, read_label_csv, write_label_csv
from vidseg.labels.dataset import Segment, Video, VideoDataset, VideoFile, open_dataset
from vidseg.labels.detection_labels import DetectionLabels, DetectionReport, apply_detection, read_detection_labels
from vidseg.labels.flow_files import read_flow, write_flo
from vidseg.labels.flow_pairs import FlowFolder, FlowPair
from vidseg.labels.localization import clip_rows, frame_labels_of, read_localization_json, write_localization_json
from vidseg.labels.predictions import PairedLabels, read_predictions
from vidseg.labels.scan import ScanReport, scan_catalog
from vidseg.labels.segmentation_files import check_mapping, read_bundle, read_frame_labels, read_mapping
from vidseg.labels.segmentation_labels import (
    FrameLabels,
    SegmentationLabels,
    SegmentationReport,
    apply_segmentation,
    labels_from_segments,
    read_segmentation,
    segments_from_labels,
)
from vidseg.labels.statistics import label_statistics, pixel_statistics

__all__ = [
    "DetectionLabels",
    "DetectionReport",
    "FlowFolder",
    "FlowPair",
    "FrameLabels",
    "LabelReport",
    "LabelRow",
    "PairedLabels",
    "ScanReport",
    "Segment",
    "SegmentationLabels",
    "SegmentationReport",
    "Video",
    "VideoDataset",
    "VideoFile",
    "VideoRecord",
    "apply_detection",
    "apply_labels",
    "apply_segmentation",
    "check_mapping",
    "clip_rows",
    "frame_labels_of",
    "label_statistics",
    "labels_from_segments",
    "open_dataset",
    "pixel_statistics",
    "read_bundle",
    "read_detection_labels",
    "read_flow",
    "read_frame_labels",
    "read_label_csv",
    "read_localization_json",
    "read_mapping",
    "read_predictions",
    "read_segmentation",
    "scan_catalog",
    "segments_from_labels",
    "update_catalog",
    "write_flo",
    "write_label_csv",
    "write_localization_json",
]
