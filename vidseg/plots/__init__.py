"""Plots of data sets, training runs and predictions.

All figures use matplotlib's Agg canvas without pyplot, so no window is opened and no global state changes.

Names are loaded on first use, so that a plot imports neither torch nor the metrics unless it needs them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidseg.plots.class_gains import plot_class_gains
    from vidseg.plots.confusion import plot_confusion
    from vidseg.plots.contact import contact_sheet
    from vidseg.plots.curves import plot_curves
    from vidseg.plots.detection_curves import plot_false_positives, plot_precision_recall
    from vidseg.plots.detection_timeline import DetectedVideo, plot_timelines
    from vidseg.plots.feature_scatter import plot_feature_map
    from vidseg.plots.flow_coding import FlowPicture, flow_colors, flow_wheel, plot_flow, residual_colors
    from vidseg.plots.heat import overlay_heat, plot_heat
    from vidseg.plots.label_counts import plot_label_counts
    from vidseg.plots.loss_surface import plot_landscape
    from vidseg.plots.palette import class_colors, use_theme
    from vidseg.plots.rates import plot_rates
    from vidseg.plots.reliability_diagram import plot_reliability
    from vidseg.plots.schedule import plot_schedule
    from vidseg.plots.segment_bars import SegmentedVideo, plot_palette, plot_segments
    from vidseg.plots.segment_errors import plot_segment_errors
    from vidseg.plots.speed import plot_speeds

__all__ = [
    "DetectedVideo",
    "FlowPicture",
    "SegmentedVideo",
    "class_colors",
    "contact_sheet",
    "flow_colors",
    "flow_wheel",
    "overlay_heat",
    "plot_class_gains",
    "plot_confusion",
    "plot_curves",
    "plot_false_positives",
    "plot_feature_map",
    "plot_flow",
    "plot_heat",
    "plot_label_counts",
    "plot_landscape",
    "plot_palette",
    "plot_precision_recall",
    "plot_rates",
    "plot_reliability",
    "plot_schedule",
    "plot_segment_errors",
    "plot_segments",
    "plot_speeds",
    "plot_timelines",
    "residual_colors",
    "use_theme",
]

_HOME = {
    "DetectedVideo": "detection_timeline",
    "FlowPicture": "flow_coding",
    "SegmentedVideo": "segment_bars",
    "class_colors": "palette",
    "contact_sheet": "contact",
    "flow_colors": "flow_coding",
    "flow_wheel": "flow_coding",
    "overlay_heat": "heat",
    "plot_class_gains": "class_gains",
    "plot_confusion": "confusion",
    "plot_curves": "curves",
    "plot_false_positives": "detection_curves",
    "plot_feature_map": "feature_scatter",
    "plot_flow": "flow_coding",
    "plot_heat": "heat",
    "plot_label_counts": "label_counts",
    "plot_landscape": "loss_surface",
    "plot_palette": "segment_bars",
    "plot_precision_recall": "detection_curves",
    "plot_rates": "rates",
    "plot_reliability": "reliability_diagram",
    "plot_schedule": "schedule",
    "plot_segment_errors": "segment_errors",
    "plot_segments": "segment_bars",
    "plot_speeds": "speed",
    "plot_timelines": "detection_timeline",
    "residual_colors": "flow_coding",
    "use_theme": "palette",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"vidseg.plots.{_HOME[name]}"), name)
    raise AttributeError(f"module 'vidseg.plots' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
