"""Evaluation metrics of classification and temporal segmentation."""

from vidseg.metrics.classification import (
    class_accuracies,
    confusion_matrix,
    fuse_views,
    mean_class_accuracy,
    top_k_hits,
)
from vidseg.metrics.segmental import SegmentalMeter, boundary_scores, label_boundaries, segmental_scores

__all__ = [
    "SegmentalMeter",
    "boundary_scores",
    "class_accuracies",
    "confusion_matrix",
    "fuse_views",
    "label_boundaries",
    "mean_class_accuracy",
    "segmental_scores",
    "top_k_hits",
]
