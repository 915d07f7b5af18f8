"""What evaluation reports."""

from vidseg.metrics.classification import confusion_matrix, top_k_hits
from vidseg.metrics.segmental import SegmentalMeter, boundary_scores, label_boundaries, segmental_scores

__all__ = [
    "SegmentalMeter",
    "boundary_scores",
    "confusion_matrix",
    "label_boundaries",
    "segmental_scores",
    "top_k_hits",
]
