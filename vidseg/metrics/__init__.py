"""Evaluation metrics of classification, temporal segmentation and temporal action detection."""

from vidseg.metrics.classification import (
    class_accuracies,
    confused_pairs,
    confusion_matrix,
    fuse_views,
    mean_class_accuracy,
    top_k_hits,
)
from vidseg.metrics.detection_profile import FalsePositiveProfile, false_positive_profile
from vidseg.metrics.detection_recall import ProposalRecall, average_recall, recall_at
from vidseg.metrics.detection_scores import DetectionScores, detection_map, precision_recall
from vidseg.metrics.detections import PROTOCOLS, DetectionProtocol, Detections, detection_protocol
from vidseg.metrics.segmental import SegmentalMeter, boundary_scores, label_boundaries, segmental_scores

__all__ = [
    "PROTOCOLS",
    "DetectionProtocol",
    "DetectionScores",
    "Detections",
    "FalsePositiveProfile",
    "ProposalRecall",
    "SegmentalMeter",
    "average_recall",
    "boundary_scores",
    "class_accuracies",
    "confused_pairs",
    "confusion_matrix",
    "detection_map",
    "detection_protocol",
    "false_positive_profile",
    "fuse_views",
    "label_boundaries",
    "mean_class_accuracy",
    "precision_recall",
    "recall_at",
    "segmental_scores",
    "top_k_hits",
]
