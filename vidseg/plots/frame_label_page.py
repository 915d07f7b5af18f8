"""Page of a segmentation or streaming run: scores, curves, classes, confusion matrix, and bars of every video."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_hex

from vidseg.labels.counting import counted
from vidseg.plots.page_parts import chart, heat_map, levels, row, table, tiles
from vidseg.plots.page_style import INK_COLOR
from vidseg.plots.palette import BLUE, GREEN, ORANGE, class_colors

__all__ = ["frame_label_parts"]

_SERIES = (("Acc", BLUE), ("Edit", ORANGE), ("F1@50", GREEN))


def frame_label_parts(folders: Sequence[Path], tests: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the HTML of the tests of one run, or of each split of a cross-validation.

    Args:
        folders: folder of each run.
        tests: content of their `test.json`.
    """
    parts = [_tested(tests[0])]
    mean = _mean([test["scores"] for test in tests])
    if len(tests) > 1:
        parts += [_tiles(mean), _splits(tests, mean)]
    for folder, test in zip(folders, tests, strict=True):
        parts += _section(folder, test)
    return parts


def _mean(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "acc": float(np.mean([one["acc"] for one in scores])),
        "edit": float(np.mean([one["edit"] for one in scores])),
        "f1": {overlap: float(np.mean([one["f1"][overlap] for one in scores])) for overlap in scores[0]["f1"]},
    }


def _named(scores: Mapping[str, Any]) -> list[tuple[str, float]]:
    f1 = [(f"F1@{100 * float(overlap):g}", value) for overlap, value in scores["f1"].items()]
    return [*f1, ("Edit", scores["edit"]), ("Acc", scores["acc"])]


def _tested(test: Mapping[str, Any]) -> str:
    style = "warning" if test["select"] == "test" else "muted"
    return f'<p class="{style}">Tested: {escape(test["tested"])}.</p>'


def _tiles(scores: Mapping[str, Any]) -> str:
    return tiles([(name, f"{value:.1f}") for name, value in _named(scores)])


def _splits(tests: Sequence[Mapping[str, Any]], mean: Mapping[str, Any]) -> str:
    rows = [
        [escape(test["division"]), str(test["epoch"]), str(len(test["videos"]))]
        + [f"{value:.2f}" for _, value in _named(test["scores"])]
        for test in tests
    ]
    total = sum(len(test["videos"]) for test in tests)
    rows.append(["mean", "", str(total), *(f"{value:.2f}" for _, value in _named(mean))])
    return table(["split", "epoch", "videos", *(name for name, _ in _named(mean))], rows, last_is_sum=True)


def _section(folder: Path, test: Mapping[str, Any]) -> list[str]:
    """Return the HTML of one split: curves, classes, confusion matrix and videos."""
    classes, colors = test["classes"], _colors(test)
    boundaries = test["boundaries"]
    held_out = test["validation_videos"]
    counts = _confusion(test["videos"], len(classes))
    videos = sorted(test["videos"], key=lambda video: video["acc"])
    facts = f"epoch {test['epoch']}; {counted(len(videos), 'video')}, {counted(test['scores']['frames'], 'frame')}"
    if held_out:
        more = ", ..." if len(held_out) > 8 else ""
        facts += (
            f"; epoch selected on {counted(len(held_out), 'held-out training video')}: {', '.join(held_out[:8])}{more}"
        )
    return [
        f"<h2>{escape(test['division'])}</h2>",
        f'<p class="muted">{escape(facts)}</p>',
        _tiles(test["scores"]),
        f'<p class="muted">boundaries within 5 frames: precision {boundaries["precision"]:.1f}, recall'
        f" {boundaries['recall']:.1f}, F1 {boundaries['f1']:.1f}</p>",
        _curves(folder, int(test["epoch"])),
        "<h3>Classes</h3>",
        row(_classes(test), heat_map(counts, classes, unit="frame")),
        "<h3>Videos from lowest to highest accuracy; a line marks wrong frames</h3>",
        _legend(videos, classes, colors),
        *(_video(video, classes, colors) for video in videos),
    ]


def _colors(test: Mapping[str, Any]) -> list[str]:
    """Return the color of each class; background classes are gray."""
    colors = class_colors(len(test["classes"]), background=test["background"])
    return [to_hex(color) for color in colors]


def _columns(paths: Sequence[Path]) -> dict[str, dict[int, float]]:
    """Read the columns of score tables as epoch to value; for epochs in several tables, the last table is used."""
    columns: dict[str, dict[int, float]] = {}
    for path in paths:
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                epoch = int(line.pop("Epoch"))
                for name, value in line.items():
                    columns.setdefault(name, {})[epoch] = float(value)
    return columns


def _curves(folder: Path, chosen: int) -> str:
    loss = _columns(sorted(folder.glob("train_results_s*.csv"))).get("Loss", {})
    scores = _columns([path for path in [folder / "validation.csv"] if path.is_file()])
    charts = []
    if loss:
        charts.append(chart("training loss", [("loss", BLUE, loss)], chosen=chosen))
    found = [(name, color, scores[name]) for name, color in _SERIES if name in scores]
    if found:
        charts.append(chart("scores at each validation", found, chosen=chosen, top=100))
    return row(*charts)


def _classes(test: Mapping[str, Any]) -> str:
    columns = test["class_scores"]
    strictest = max(columns["f1"], key=float)
    rows = [
        [escape(test["classes"][number]), str(columns["frames"][place])]
        + [f"{columns[column][place]:.1f}" for column in ("acc", "precision", "iou")]
        + ["-" if number in test["background"] else f"{columns['f1'][strictest][place]:.1f}"]
        for place, number in enumerate(columns["number"])
    ]
    return table(["class", "frames", "recall", "precision", "IoU", f"F1@{100 * float(strictest):g}"], rows)


def _frames(runs: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    pairs = np.array(runs, np.int64)
    return np.repeat(pairs[:, 0], pairs[:, 1])


def _confusion(videos: Sequence[Mapping[str, Any]], classes: int) -> npt.NDArray[np.int64]:
    """Return the frame confusion matrix (K, K); rows are true classes."""
    counts = np.zeros(classes * classes, np.int64)
    for video in videos:
        pairs = _frames(video["truth"]) * classes + _frames(video["prediction"])
        counts += np.bincount(pairs, minlength=classes * classes)
    return counts.reshape(classes, classes)


def _legend(videos: Sequence[Mapping[str, Any]], classes: Sequence[str], colors: Sequence[str]) -> str:
    used = sorted({number for video in videos for side in ("truth", "prediction") for number, _ in video[side]})
    items = "".join(
        f'<span class="item"><span class="swatch" style="background:{colors[number]}"></span>'
        f"{escape(classes[number])}</span> "
        for number in used
    )
    return f'<p class="legend">{items}</p>'


def _video(video: Mapping[str, Any], classes: Sequence[str], colors: Sequence[str]) -> str:
    truth, prediction = _frames(video["truth"]), _frames(video["prediction"])
    length = len(truth)
    parts = []
    for side, top, height in (("truth", 0, 20), ("prediction", 24, 20)):
        runs = video[side]
        starts = [0, *accumulate(count for _, count in runs)]
        for (number, count), start in zip(runs, starts, strict=False):
            parts.append(
                f'<rect x="{start}" y="{top}" width="{count}" height="{height}" fill="{colors[number]}">'
                f"<title>{side}: {escape(classes[number])}, frames {start} to {start + count - 1}</title></rect>"
            )
    wrong = np.flatnonzero(np.diff(np.concatenate([[0], (truth != prediction).astype(np.int8), [0]])))
    parts += [
        f'<rect x="{start}" y="21" width="{stop - start}" height="2" fill="{INK_COLOR}"/>'
        for start, stop in wrong.reshape(-1, 2).tolist()
    ]
    scores = ", ".join(f"{name} {value:.1f}" for name, value in _named(video))
    rate = video.get("fps")
    seconds = f", {length / rate:.1f} s" if rate else ""
    return (
        f'<div class="video"><b>{escape(video["name"])}</b> <span class="muted">'
        f"{counted(length, 'frame')}{seconds}; {scores}</span>"
        '<div class="bars"><div class="sides"><span>truth</span><span>prediction</span></div>'
        f'<svg viewBox="0 0 {length} 44" preserveAspectRatio="none" shape-rendering="crispEdges" role="img">'
        f"{''.join(parts)}</svg>{_ticks(length, rate)}</div></div>"
    )


def _ticks(length: int, rate: float | None) -> str:
    """Return the axis of a video: seconds, or frames where the rate is not known."""
    end = length / rate if rate else float(length)
    marks = [mark for mark in levels(end) if mark < 0.82 * end]
    spans = "".join(f'<span style="left:{100 * mark / end:.2f}%">{mark:g}</span>' for mark in marks)
    return f'<div class="ticks">{spans}<span class="unit">{"seconds" if rate else "frames"}</span></div>'
