"""Plot of true and detected segments over the time of each video."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from vidseg.labels.counting import counted
from vidseg.plots.canvas import new_figure, quiet, save_figure, shortened
from vidseg.plots.palette import class_colors, theme

__all__ = ["DetectedVideo", "plot_timelines"]

_WIDTH = 11.0  # inches
_LANE = 0.42  # height of one class of one video, in inches
_LETTERS = 28  # of a class name
_PAGE = 40  # maximum number of videos
_LANES = 12  # maximum number of classes shown for a video
_FAINTEST = 0.5  # opacity of the outline of a wrong detection
_WRONG_LANES = 3  # maximum number of them without an instance


def _nothing() -> npt.NDArray:
    return np.zeros(0)


@dataclass(frozen=True)
class DetectedVideo:
    """Truth and detections of one video.

    Attributes:
        name: name shown above the bars.
        seconds: duration; None: the end of the last segment.
        truth: (G, 2) start and stop of the instances in seconds.
        truth_labels: (G,) class numbers.
        segments: (N, 2) detections.
        labels: (N,) class numbers.
        scores: (N,) from 0 to 1, the strength of the color.
        correct: (N,) whether a detection is assigned to an instance; empty: not shown.
    """

    name: str
    seconds: float | None
    truth: npt.NDArray[np.float64]
    truth_labels: npt.NDArray[np.int64]
    segments: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    correct: npt.NDArray[np.bool_] = field(default_factory=_nothing)


def plot_timelines(
    videos: Sequence[DetectedVideo],
    classes: Sequence[str],
    out: str | Path,
    *,
    min_score: float = 0.0,
    title: str = "",
) -> Path:
    """Plot a lane for each class of each video, instances above detections, and save the figure.

    The color of a detection is stronger the higher its score. Detections that are assigned to no instance are outlined
    in gray. Of classes without an instance, the three with the highest scores are shown.

    Args:
        videos: 1 to 40 videos.
        classes: class names by number.
        out: output file.
        min_score: detections with a score below this are not shown.
        title: heading.

    Returns:
        The path of the file.

    Raises:
        ValueError: the number of videos is out of range, or a video has no duration and no segment.
    """
    if not 1 <= len(videos) <= _PAGE:
        raise ValueError(f"{counted(len(videos), 'video')}: expected 1 to {_PAGE}")
    lanes = [_lanes(video, min_score) for video in videos]
    heights = [max(1, len(lane)) * _LANE + 0.55 for lane in lanes]
    figure = new_figure(_WIDTH, sum(heights) + 0.15, gap=0.05, title=title)
    colors = class_colors(len(classes))
    grid = figure.subplots(len(videos), 1, squeeze=False, height_ratios=heights)
    for axes, video, lane in zip(grid[:, 0], videos, lanes, strict=True):
        _video(axes, video, lane, classes, colors, min_score)
    grid[-1, 0].set_xlabel("seconds", fontsize=9, color=theme().muted)
    return save_figure(figure, out)


def _lanes(video: DetectedVideo, min_score: float) -> list[int]:
    """Return the classes of a video: those with instances, then those with the best detections."""
    lanes = np.unique(video.truth_labels).tolist()[:_LANES]
    most = min(_LANES, len(lanes) + _WRONG_LANES)
    shown = video.scores >= min_score
    for label in video.labels[shown][np.argsort(-video.scores[shown], kind="stable")].tolist():
        if len(lanes) >= most:
            break
        if label not in lanes:
            lanes.append(label)
    return lanes


def _video(
    axes: Axes,
    video: DetectedVideo,
    lanes: list[int],
    classes: Sequence[str],
    colors: npt.NDArray[np.float64],
    min_score: float,
) -> None:
    ends = [video.truth[:, 1], video.segments[:, 1]]
    last = max((float(end.max()) for end in ends if len(end)), default=0.0)
    seconds = video.seconds or last
    if not seconds > 0:
        raise ValueError(f"video {video.name!r}: neither a duration nor a segment")
    quiet(axes)
    axes.grid(visible=False)
    for row, label in enumerate(lanes):
        color = tuple(colors[label])
        bars = [(start, stop - start) for start, stop in video.truth[video.truth_labels == label]]
        axes.broken_barh(bars, (row + 0.08, 0.36), color=color, linewidth=0)
        axes.axhspan(row + 0.08, row + 0.44, color=theme().muted, alpha=0.06, linewidth=0)
        chosen = np.flatnonzero((video.labels == label) & (video.scores >= min_score))
        for place in chosen[np.argsort(video.scores[chosen], kind="stable")]:  # the best one is drawn last
            start, stop = video.segments[place]
            strength = float(np.clip(video.scores[place], 0.06, 1))
            right = not len(video.correct) or bool(video.correct[place])
            axes.broken_barh(
                [(start, stop - start)],
                (row + 0.5, 0.36),
                facecolor=(*color, strength if right else 0.35 * strength),
                edgecolor=color if right else to_rgba(theme().muted, max(_FAINTEST, strength)),
                linewidth=1.0 if right else 0.6,
            )
    axes.set_xlim(0, seconds)
    axes.set_ylim(max(1, len(lanes)), 0)
    axes.set_yticks(
        [row + 0.5 for row in range(len(lanes))], [shortened(classes[label], _LETTERS) for label in lanes], fontsize=8
    )
    axes.tick_params(axis="y", colors=theme().ink, length=0)
    counts = counted(len(video.truth), "instance"), counted(int((video.scores >= min_score).sum()), "detection")
    facts = f"{seconds:.1f} s, {', '.join(counts)} (upper bars: truth, lower bars: detections)"
    heading = f"{shortened(video.name, 60)}   {facts}"
    axes.set_title(heading, loc="left", fontsize=8, color=theme().ink, pad=3)
