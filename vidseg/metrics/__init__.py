"""Evaluation metrics of classification, temporal segmentation, temporal action detection and optical flow."""

from vidseg.metrics.calibration import Reliability, apply_temperature, fit_temperature, log_loss, reliability
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
from vidseg.metrics.flow_errors import FlowScores, flow_error_sums, flow_scores
from vidseg.metrics.paired import mcnemar, paired_bootstrap, sign_flip_test
from vidseg.metrics.segmental import SegmentalMeter, boundary_scores, label_boundaries, segmental_scores

__all__ = [
    "PROTOCOLS",
    "DetectionProtocol",
    "DetectionScores",
    "Detections",
    "FalsePositiveProfile",
    "FlowScores",
    "ProposalRecall",
    "Reliability",
    "SegmentalMeter",
    "apply_temperature",
    "average_recall",
    "boundary_scores",
    "class_accuracies",
    "confused_pairs",
    "confusion_matrix",
    "detection_map",
    "detection_protocol",
    "false_positive_profile",
    "fit_temperature",
    "flow_error_sums",
    "flow_scores",
    "fuse_views",
    "label_boundaries",
    "log_loss",
    "mcnemar",
    "mean_class_accuracy",
    "paired_bootstrap",
    "precision_recall",
    "recall_at",
    "reliability",
    "segmental_scores",
    "sign_flip_test",
    "top_k_hits",
]
