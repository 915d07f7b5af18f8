"""What evaluation reports."""

from vidseg.metrics.classification import confusion_matrix, top_k_hits

__all__ = ["confusion_matrix", "top_k_hits"]
