"""Bar plots of frame labels: truth above prediction, for one or several videos.

The published tool draws one figure per video with the colors of PASCAL VOC and ticks at the window boundaries of the
model (SVTAS, convert_pred2img); both are available as options.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from vidseg.labels.counting import counted
from vidseg.labels.parts import class_numbers
from vidseg.plots.canvas import new_figure, save_figure, shortened
from vidseg.plots.palette import Palette, class_colors, theme

__all__ = ["SegmentedVideo", "plot_palette", "plot_segments"]

BACKGROUND = ("background",)
"""Background classes where none are given."""

_WIDTH = 11.0  # inches
_ROW = 0.64  # height of one video on a page of several, in inches
_TICKS = 24  # maximum number of labeled ticks
_GAP = 0.14  # height of the error line between the bars, as a fraction of a bar
_LETTERS = 40  # of a class name in the legend
_PAGE = 200  # maximum number of videos per page


@dataclass(frozen=True)
class SegmentedVideo:
    """Frame labels of one video.

    Attributes:
        name: name shown beside the bars.
        truth: (L,) class numbers.
        prediction: (L,) class numbers, or None to draw the truth only.
        fps: frames per second, for an axis in seconds; None: an axis in frames.
    """

    name: str
    truth: npt.NDArray[np.int64]
    prediction: npt.NDArray[np.int64] | None = None
    fps: float | None = None


def plot_segments(
    videos: Sequence[SegmentedVideo],
    classes: Sequence[str],
    out: str | Path,
    *,
    window: int | None = None,
    palette: Palette = "bright",
    title: str = "",
    background: Sequence[str] = BACKGROUND,
) -> Path:
    """Plot the label bars of the videos with a legend of the classes that occur, and save the figure.

    Every video has the full width. A line between truth and prediction marks wrong frames.

    Args:
        videos: 1 to 200 videos.
        classes: class names by number.
        out: output file.
        window: window length of the model in frames; ticks are drawn at its multiples. None: ticks at round numbers.
        palette: see `class_colors`.
        title: heading; default: the name of a single video.
        background: background classes, which are gray in the palette "bright".

    Returns:
        The path of the file.

    Raises:
        ValueError: the number of videos is out of range, lengths differ, or a label is not a class number; the message
            names the video.
    """
    if not 1 <= len(videos) <= _PAGE or (window is not None and window < 1):
        raise ValueError(
            f"{counted(len(videos), 'video')} with window={window}: expected 1 to {_PAGE} and a window of at least 1"
        )
    for video in videos:
        _check(video, len(classes))
    colors = class_colors(len(classes), palette, background=class_numbers(classes, background))
    used = sorted({int(number) for video in videos for number in np.unique(_both(video))})
    names = [shortened(classes[number], _LETTERS) for number in used]
    alone = len(videos) == 1
    columns = max(1, min(6, len(used), int(_WIDTH / (0.55 + 0.085 * max(map(len, names))))))
    legend = 0.24 * -(-len(used) // columns) + 0.2
    row = 1.6 if alone else _ROW
    if alone:
        facts = _facts(videos[0])
        figure = new_figure(_WIDTH, row + legend + 0.2, gap=0.05, title=title or videos[0].name, detail=facts)
    else:
        figure = new_figure(_WIDTH, len(videos) * (row + 0.12) + legend + 0.2, gap=0.05, title=title)
    grid = figure.subplots(len(videos), 1, squeeze=False)
    for axes, video in zip(grid[:, 0], videos, strict=True):
        _bars(axes, video, colors, window)
        axes.tick_params(axis="y", labelsize=9 if alone else 7.5)
        if not alone:
            axes.set_title(
                f"{shortened(video.name, 90)}   {_facts(video)}", loc="left", fontsize=8, color=theme().ink, pad=4
            )
    last = videos[-1]
    if window is None and last.fps:
        unit = "seconds" if len({bool(video.fps) for video in videos}) == 1 else "seconds, or frames"
    else:
        unit = "frames"
    grid[-1, 0].set_xlabel(unit, fontsize=9, color=theme().muted)
    _legend(figure, [(name, colors[number]) for name, number in zip(names, used, strict=True)], columns)
    return save_figure(figure, out)


def plot_palette(
    classes: Sequence[str], out: str | Path, *, palette: Palette = "bright", background: Sequence[str] = BACKGROUND
) -> Path:
    """Plot the color of every class with its number and name, and save the figure."""
    columns = max(1, min(4, int(_WIDTH / (0.9 + 0.085 * max(map(len, classes))))))
    rows = -(-len(classes) // columns)
    figure = new_figure(_WIDTH, 0.2 + 0.17 * rows)
    colors = class_colors(len(classes), palette, background=class_numbers(classes, background))
    names = [(f"{number}  {name}", colors[number]) for number, name in enumerate(classes)]
    _legend(figure, names, columns)
    return save_figure(figure, out)


def _check(video: SegmentedVideo, classes: int) -> None:
    both = _both(video)
    if not len(video.truth) or (video.prediction is not None and len(video.prediction) != len(video.truth)):
        predicted = 0 if video.prediction is None else len(video.prediction)
        raise ValueError(f"video {video.name!r}: {len(video.truth)} true labels, but {predicted} predicted labels")
    if both.min() < 0 or both.max() >= classes:
        raise ValueError(f"video {video.name!r}: labels {both.min()} to {both.max()}, expected 0 to {classes - 1}")


def _both(video: SegmentedVideo) -> npt.NDArray[np.int64]:
    return video.truth if video.prediction is None else np.concatenate([video.truth, video.prediction])


def _facts(video: SegmentedVideo) -> str:
    facts = counted(len(video.truth), "frame")
    if video.fps:
        facts += f", {len(video.truth) / video.fps:.1f} s"
    if video.prediction is not None:
        facts += f", accuracy {(video.truth == video.prediction).mean():.1%}"
    return facts


def _bars(axes: Axes, video: SegmentedVideo, colors: npt.NDArray[np.float64], window: int | None) -> None:
    length = len(video.truth)
    strips = [("truth", 0.0, 1.0, colors[video.truth])]
    if video.prediction is not None:
        mark, surface = np.array(to_rgb(theme().mark)), np.array(to_rgb(theme().surface))
        wrong = np.where((video.truth != video.prediction)[:, None], mark, surface)
        strips += [("", 1.0, 1.0 + _GAP, wrong), ("prediction", 1.0 + _GAP, 2.0 + _GAP, colors[video.prediction])]
    for _, upper, lower, pixels in strips:
        axes.imshow(pixels[None], extent=(0, length, lower, upper), aspect="auto", interpolation="nearest")
    axes.set_xlim(0, length)
    axes.set_ylim(strips[-1][2], 0)
    named = [(name, (upper + lower) / 2) for name, upper, lower, _ in strips if name]
    axes.set_yticks([place for _, place in named], [name for name, _ in named])
    if window is not None:
        borders = np.arange(0, length + 1, window)
        shown = borders[:: -(-len(borders) // _TICKS)]
        axes.set_xticks(shown, [str(border) for border in shown])
        axes.set_xticks(borders, minor=True)
        axes.tick_params(which="minor", length=3, color=theme().muted)
        for border in borders[1:]:
            axes.axvline(border, color=theme().surface, linewidth=0.6, alpha=0.7)
    elif video.fps:
        marks: npt.NDArray[np.float64] = np.asarray(
            MaxNLocator(12, steps=[1, 2, 3, 5, 6, 10]).tick_values(0, length / video.fps)
        )
        marks = marks[marks <= length / video.fps]
        axes.set_xticks(marks * video.fps, [f"{mark:g}" for mark in marks])
    axes.tick_params(axis="x", colors=theme().muted, labelsize=7, length=3)
    axes.tick_params(axis="y", colors=theme().ink, length=0)
    axes.set_facecolor(theme().surface)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _legend(figure: Figure, entries: list[tuple[str, npt.NDArray[np.float64]]], columns: int) -> None:
    figure.legend(
        handles=[Patch(facecolor=tuple(color), label=name) for name, color in entries],
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=8,
        labelcolor=theme().ink,
        handlelength=1.2,
        handleheight=1.0,
        columnspacing=1.4,
    )
