"""Bar plots of frame labels: truth above prediction, for one or several videos.

The published tool draws one figure per video with the colors of PASCAL VOC and ticks at the window boundaries of the
model (SVTAS, convert_pred2img); both are available as options.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vidseg.labels.counting import counted
from vidseg.plots.canvas import INK, MUTED, SURFACE, new_figure, save_figure

__all__ = ["Palette", "SegmentedVideo", "class_colors", "plot_palette", "plot_segments"]

Palette = Literal["bright", "voc"]

_WIDTH = 11.0  # inches
_ROW = 0.62  # height of one video on a page of several, in inches
_TICKS = 24  # maximum number of labeled ticks
_WRONG = (25 / 255, 25 / 255, 64 / 255)  # nearly black, different from all class colors
_GAP = 0.14  # height of the error line between the bars, as a fraction of a bar
_PAGE = 200  # maximum number of videos per page


@dataclass(frozen=True)
class SegmentedVideo:
    """Frame labels of one video.

    Attributes:
        name: name shown beside the bars.
        truth: (L,) class numbers.
        prediction: (L,) class numbers, or None to draw the truth only.
    """

    name: str
    truth: npt.NDArray[np.int64]
    prediction: npt.NDArray[np.int64] | None = None


def class_colors(count: int, palette: Palette = "bright") -> npt.NDArray[np.float64]:
    """Return the RGB colors of the classes, (K, 3) in 0..1.

    Args:
        count: number of classes K.
        palette: "bright": consecutive classes differ strongly in hue and lightness. "voc": colors of PASCAL VOC, with
            black for class 0; the bits of the class number, three at a time from the lowest, are the high bits of red,
            green and blue.
    """
    if palette == "voc":
        colors = np.zeros((count, 3), np.uint8)
        for number in range(count):
            rest = number
            for bit in range(7, -1, -1):
                for channel in range(3):
                    colors[number, channel] |= (rest >> channel & 1) << bit
                rest >>= 3
        return colors / 255
    # Found by search: any two of 48 classes differ by at least 25 of 255 in RGB, consecutive ones by at least 160.
    hues = (0.58 + 0.5698403 * np.arange(count)) % 1
    lightness, saturation = (0.56, 0.72, 0.42), (0.75, 0.5)
    bright = [colorsys.hls_to_rgb(hue, lightness[k % 3], saturation[k % 2]) for k, hue in enumerate(hues.tolist())]
    return np.array(bright, np.float64).reshape(count, 3)


def plot_segments(
    videos: Sequence[SegmentedVideo],
    classes: Sequence[str],
    out: str | Path,
    *,
    window: int | None = None,
    palette: Palette = "bright",
    title: str = "",
) -> Path:
    """Plot the label bars of the videos with a legend of the classes that occur, and save the figure.

    Every video has the full width. A dark line between truth and prediction marks wrong frames.

    Args:
        videos: 1 to 200 videos.
        classes: class names by number.
        out: output file.
        window: window length of the model in frames; ticks are drawn at its multiples. None: ticks at round numbers.
        palette: see `class_colors`.
        title: heading; default: the name of a single video.

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
    colors = class_colors(len(classes), palette)
    used = sorted({int(number) for video in videos for number in np.unique(_both(video))})
    alone = len(videos) == 1
    columns = max(1, min(6, len(used), int(_WIDTH / (0.55 + 0.085 * max(len(classes[number]) for number in used)))))
    legend = 0.24 * -(-len(used) // columns) + 0.2
    row = 1.5 if alone else _ROW
    heading = title or (_heading(videos[0]) if alone else "")
    top = 0.34 if heading else 0.0
    figure = new_figure(_WIDTH, len(videos) * (row + 0.12) + legend + top, gap=0.05, top=top)
    if heading:
        height = figure.get_figheight()
        figure.text(0.008, 1 - top / 2 / height, heading, va="center", fontsize=11, color=INK, fontweight="bold")
    grid = figure.subplots(len(videos), 1, squeeze=False)
    for axes, video in zip(grid[:, 0], videos, strict=True):
        _bars(axes, video, colors, window)
        if not alone:
            axes.set_title(_heading(video), loc="left", fontsize=8, color=INK, pad=2)
            axes.set_yticks([])
    _legend(figure, [(classes[number], colors[number]) for number in used], columns)
    return save_figure(figure, out)


def plot_palette(classes: Sequence[str], out: str | Path, *, palette: Palette = "bright") -> Path:
    """Plot the color of every class with its number and name, and save the figure."""
    columns = max(1, min(4, int(_WIDTH / (0.9 + 0.085 * max(map(len, classes))))))
    rows = -(-len(classes) // columns)
    figure = new_figure(_WIDTH, 0.2 + 0.17 * rows)
    colors = class_colors(len(classes), palette)
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


def _heading(video: SegmentedVideo) -> str:
    if video.prediction is None:
        return f"{video.name}   {counted(len(video.truth), 'frame')}"
    return (
        f"{video.name}   {counted(len(video.truth), 'frame')}, accuracy {(video.truth == video.prediction).mean():.1%}"
    )


def _bars(axes: Axes, video: SegmentedVideo, colors: npt.NDArray[np.float64], window: int | None) -> None:
    length = len(video.truth)
    strips = [("truth", 0.0, 1.0, colors[video.truth])]
    if video.prediction is not None:
        wrong = np.where((video.truth != video.prediction)[:, None], np.array(_WRONG), np.array(to_rgb(SURFACE)))
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
        axes.tick_params(which="minor", length=3, color=MUTED)
        for border in borders[1:]:
            axes.axvline(border, color=SURFACE, linewidth=0.6, alpha=0.7)
    axes.tick_params(axis="x", colors=MUTED, labelsize=7, length=3)
    axes.tick_params(axis="y", colors=INK, labelsize=9, length=0)
    axes.set_facecolor(SURFACE)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _legend(figure: Figure, entries: list[tuple[str, npt.NDArray[np.float64]]], columns: int) -> None:
    figure.legend(
        handles=[Patch(facecolor=tuple(color), label=name) for name, color in entries],
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        handlelength=1.2,
        handleheight=1.0,
        columnspacing=1.4,
    )
