"""Plots of detection scores: precision-recall curves, average precision by class, and the false-positive profile."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from vidseg.metrics.detection_profile import ERRORS, FalsePositiveProfile
from vidseg.metrics.detection_scores import DetectionScores
from vidseg.plots.canvas import new_figure, quiet, save_figure, shortened
from vidseg.plots.palette import BLUE, CLASSES, GRAY, theme

__all__ = ["plot_false_positives", "plot_precision_recall"]

_CLASSES = 40  # maximum number of classes shown by name
_LETTERS = 32  # of a class name
_FIGURE_SPACE = "\u2007"
_KINDS = (*CLASSES[:5], GRAY)  # true positives, then `ERRORS`


def plot_precision_recall(
    recalls: npt.NDArray[np.float64],
    precisions: npt.NDArray[np.float64],
    scores: DetectionScores,
    classes: Sequence[str],
    out: str | Path,
    *,
    title: str = "",
) -> Path:
    """Plot the mean precision-recall curve at each IoU threshold, and the average precision of the classes.

    Args:
        recalls: (R,) from `precision_recall`.
        precisions: (K, T, R) from `precision_recall`.
        scores: average precisions of the same detections.
        classes: class names by number.
        out: output file.
        title: heading.

    Returns:
        The path of the file.

    Raises:
        ValueError: the shapes do not match.
    """
    if precisions.shape != (*scores.ap.shape, len(recalls)):
        raise ValueError(f"precisions {precisions.shape}, expected {(*scores.ap.shape, len(recalls))}")
    order = np.argsort(-scores.ap.mean(axis=1), kind="stable")
    half = _CLASSES // 2
    shown = order if len(order) <= _CLASSES else np.concatenate([order[:half], order[-half:]])
    figure = new_figure(11, max(4.2, 1.2 + 0.16 * len(shown)), title=title)
    curves, bars = figure.subplots(1, 2, width_ratios=(1.25, 1))
    quiet(curves)
    means = precisions.mean(axis=0)
    shades = colormaps["viridis"](np.linspace(*theme().shades, len(scores.thresholds)))
    for threshold, curve, value, color in zip(scores.thresholds, means, scores.map, shades, strict=True):
        curves.plot(recalls, curve, color=color, linewidth=1.8, label=_entry(f"{threshold:.2f}", f"{100 * value:.2f}"))
    curves.set_xlim(0, 1)
    curves.set_ylim(0, 1.02)
    for axis in (curves.xaxis, curves.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    curves.set_xlabel("recall", fontsize=9, color=theme().muted)
    curves.set_title("precision, mean of the classes", loc="left", fontsize=10, color=theme().muted)
    legend = curves.legend(
        frameon=False, fontsize=8, labelcolor=theme().ink, loc="upper left", bbox_to_anchor=(1.0, 1.02),
        alignment="right", title=_entry("IoU", "mAP %"),
    )  # fmt: skip
    legend.get_title().set(fontsize=8, color=theme().ink)
    _class_bars(bars, scores, [classes[scores.classes[row]] for row in shown], shown, len(order))
    return save_figure(figure, out)


def _entry(threshold: str, value: str) -> str:
    """Return a line of the legend; a figure space is as wide as a digit."""
    return f"{threshold}  {value.rjust(6, _FIGURE_SPACE)}"


def _class_bars(axes: Axes, scores: DetectionScores, names: list[str], rows: npt.NDArray, total: int) -> None:
    quiet(axes, grid="x")
    which = f"best and worst {len(rows) // 2} of {total} classes" if len(rows) < total else "by class"
    axes.set_title(f"average AP, {which}", loc="left", fontsize=10, color=theme().muted)
    axes.barh(range(len(rows)), scores.ap[rows].mean(axis=1), height=0.7, color=BLUE)
    axes.set_yticks(range(len(rows)), [shortened(name, _LETTERS) for name in names], fontsize=7, color=theme().ink)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def plot_false_positives(profile: FalsePositiveProfile, out: str | Path, *, title: str = "") -> Path:
    """Plot the kinds of detections by rank, and the mAP that each kind of error costs, as in DETAD.

    Args:
        profile: result of `false_positive_profile`.
        out: output file.
        title: heading.

    Returns:
        The path of the file.
    """
    figure = new_figure(11, 4.4, title=title)
    stack, cost = figure.subplots(1, 2, width_ratios=(1.5, 1))
    quiet(stack)
    places, bottom = np.arange(1, len(profile.shares) + 1), np.zeros(len(profile.shares))
    for kind, color in enumerate(_KINDS):
        label = ("true positive", *ERRORS)[kind]
        stack.bar(places, profile.shares[:, kind], bottom=bottom, width=0.85, color=color, label=label)
        bottom += profile.shares[:, kind]
    stack.set_xticks(places, [f"{place}G" for place in places])
    stack.set_ylim(0, 1)
    stack.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    stack.set_title(
        "detections by rank; G: number of instances of the class", loc="left", fontsize=10, color=theme().muted, pad=38
    )
    stack.legend(
        frameon=False, fontsize=8, labelcolor=theme().ink, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3,
        handlelength=1.0, columnspacing=1.2,
    )  # fmt: skip
    quiet(cost)
    cost.bar(range(len(ERRORS)), 100 * profile.gains, width=0.7, color=_KINDS[1:])
    near = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "fontsize": 9, "color": theme().ink}
    for place, gain in enumerate(100 * profile.gains):
        cost.annotate(f"{gain:.1f}", (place, gain), **near)
    cost.set_xticks(range(len(ERRORS)), [name.replace(" ", "\n") for name in ERRORS], fontsize=8)
    cost.set_ylim(0, max(1.0, 1.15 * 100 * float(profile.gains.max())))
    name = "normalized mAP" if profile.normalized else "mAP"
    heading = f"{name} gained without them, points (now {100 * profile.average:.1f})"
    cost.set_title(heading, loc="left", fontsize=10, color=theme().muted)
    return save_figure(figure, out)
