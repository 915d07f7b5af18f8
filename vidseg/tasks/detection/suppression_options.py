"""Options of the selection of detections; imports nothing heavy. The docstrings are the help texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["SuppressionOptions"]


@dataclass(frozen=True)
class SuppressionOptions:
    """Selection of detections among overlapping candidates."""

    nms: Literal["gaussian", "linear", "hard", "none"] = "gaussian"
    """Suppression: gaussian or linear lower the scores of candidates that overlap a better one, hard removes them."""
    nms_sigma: float = 0.5
    """Width of the gaussian decay exp(-IoU^2 / sigma)."""
    nms_iou: float = 0.0
    """IoU from which a candidate is suppressed; hard suppression needs a value above 0."""
    nms_slope: float = 0.0
    """Increase of --nms-iou per length of the better segment, as a share of the video (BMN: 0.4); not for hard."""
    nms_by_class: bool = True
    """Suppress only candidates of the same class."""
    voting: float = 0.0
    """Replace each selected segment by the mean of the candidates with at least this IoU, weighted by score; 0: off."""
    min_score: float = 0.001
    """Candidates with a score below this are removed, before and after suppression."""
    max_candidates: int = 2000
    """Candidates of a video that are considered, those with the highest scores."""
    max_detections: int = 200
    """Detections of a video that are kept."""
    max_length: float | None = None
    """Candidates of this length or longer are removed, in the unit of the segments; default: no limit."""
    boundary_filter: bool = False
    """Keep only proposals that begin at a probable start and end at a probable end, for networks that predict both."""
    nms_each_window: bool = False
    """Sliding windows: suppress within each window first, then among the results of all windows, as G-TAD does."""

    def __post_init__(self) -> None:
        if self.nms not in ("gaussian", "linear", "hard", "none"):
            raise ValueError(f"nms={self.nms!r} is not one of gaussian, linear, hard, none")
        for name in ("nms_iou", "voting", "min_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be from 0 to 1")
        if not self.nms_sigma > 0 or not self.nms_slope >= 0:
            raise ValueError(f"nms_sigma={self.nms_sigma} must be above 0 and nms_slope={self.nms_slope} at least 0")
        if self.nms == "hard" and (self.nms_iou == 0 or self.nms_slope):
            raise ValueError(f"nms=hard with nms_iou={self.nms_iou}, nms_slope={self.nms_slope}: set nms_iou alone")
        for name in ("max_candidates", "max_detections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.max_length is not None and not self.max_length > 0:
            raise ValueError(f"max_length={self.max_length} must be above 0")
