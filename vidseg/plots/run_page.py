"""HTML report of a segmentation or streaming run: scores, curves, class scores, confusion matrix, bars of every video.

The page is a single file without scripts and external resources; styles and figures (SVG) are embedded. It is built
from `test.json` and the score tables of a run, or of each split of a cross-validation.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_hex

from vidseg.frames.whole_file import write_text
from vidseg.labels.counting import counted
from vidseg.plots.canvas import BLUE, GRID, INK, MUTED, ORANGE, SURFACE
from vidseg.plots.segment_bars import class_colors

__all__ = ["write_report"]

_GREEN = "#3b9b5f"
_SERIES = (("Acc", BLUE), ("Edit", ORANGE), ("F1@50", _GREEN))
_STYLE = f"""
body {{ font: 14px/1.45 system-ui, sans-serif; color: {INK}; background: {SURFACE}; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin: 0; }} h2 {{ font-size: 1.2rem; border-top: 2px solid {INK}; padding-top: .6rem;
  margin-top: 2.2rem; }} h3 {{ font-size: 1rem; margin: 1.4rem 0 .4rem; }}
p {{ margin: .3rem 0; }} .muted {{ color: {MUTED}; }} .warning {{ background: #fbe3d8; padding: .5rem .8rem; }}
.tiles {{ display: flex; flex-wrap: wrap; gap: 1.6rem; margin: 1rem 0; }}
.tiles b {{ display: block; font-size: 1.7rem; font-weight: 600; line-height: 1.2; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .15rem .7rem; text-align: right; font-weight: normal;
  font-variant-numeric: tabular-nums; }} th {{ color: {MUTED}; }} td:first-child, th:first-child {{ text-align: left;
  padding-left: 0; }} tr.sum td {{ border-top: 1px solid {INK}; font-weight: 600; }}
.row {{ display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }}
.video {{ margin: .7rem 0; }} .video svg {{ display: block; width: 100%; height: 44px; }}
.swatch {{ display: inline-block; width: .9em; height: .9em; margin-right: .35em; vertical-align: -1px; }}
.legend span.item {{ margin-right: 1.1rem; white-space: nowrap; }}
"""


def write_report(run: str | Path, out: str | Path) -> Path:
    """Write the HTML report of a run.

    Args:
        run: folder of a cross-validation, or of a run with `test.json`.
        out: HTML file; an existing file is replaced atomically.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: the run has not been tested.
        ValueError: a test is not one of frame labels; the message names the file.
    """
    run, out = Path(run), Path(out)
    folders = [run] if (run / "test.json").is_file() else sorted(path.parent for path in run.glob("*/test.json"))
    if not folders:
        raise FileNotFoundError(f"{run}: neither test.json nor <split>/test.json found; train and test the model first")
    tests = [_read(folder / "test.json") for folder in folders]
    first = tests[0]
    title = f"{first['network']} on {first['dataset']}"
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="muted">{escape(str(run.resolve()))}</p>', _tested(first)]
    mean = _mean([test["scores"] for test in tests])
    if len(tests) > 1:
        parts += [_tiles(mean), _splits(tests, mean)]
    for folder, test in zip(folders, tests, strict=True):
        parts += _section(folder, test)
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    return out


def _read(path: Path) -> dict[str, Any]:
    try:
        test = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(test, dict) or test.get("task") not in ("segmentation", "streaming"):
        raise ValueError(
            f"{path}: not a test of frame labels; for recognition runs use `vidseg plot curves` and"
            " `vidseg plot confusion`"
        )
    return test


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
    tiles = "".join(f"<div>{name}<b>{value:.1f}</b></div>" for name, value in _named(scores))
    return f'<div class="tiles">{tiles}</div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, last_is_sum: bool = False) -> str:
    lines = ["<table><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    for place, row in enumerate(rows):
        style = ' class="sum"' if last_is_sum and place == len(rows) - 1 else ""
        lines.append(f"<tr{style}>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _splits(tests: Sequence[Mapping[str, Any]], mean: Mapping[str, Any]) -> str:
    rows = [
        [escape(test["division"]), str(test["epoch"]), str(len(test["videos"]))]
        + [f"{value:.2f}" for _, value in _named(test["scores"])]
        for test in tests
    ]
    total = sum(len(test["videos"]) for test in tests)
    rows.append(["mean", "", str(total), *(f"{value:.2f}" for _, value in _named(mean))])
    return _table(["split", "epoch", "videos", *(name for name, _ in _named(mean))], rows, last_is_sum=True)


def _section(folder: Path, test: Mapping[str, Any]) -> list[str]:
    """Return the HTML of one split: curves, classes, confusion matrix and videos."""
    classes, colors = test["classes"], [to_hex(color) for color in class_colors(len(test["classes"]))]
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
        '<div class="row">' + _classes(test) + _heat_map(counts, classes) + "</div>",
        "<h3>Videos from lowest to highest accuracy: truth (top), errors (dark line), prediction (bottom)</h3>",
        _legend(videos, classes, colors),
        *(_video(video, classes, colors) for video in videos),
    ]


def _columns(paths: Sequence[Path]) -> dict[str, dict[int, float]]:
    """Read the columns of score tables as epoch to value; for epochs in several tables, the last table is used."""
    columns: dict[str, dict[int, float]] = {}
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                epoch = int(row.pop("Epoch"))
                for name, value in row.items():
                    columns.setdefault(name, {})[epoch] = float(value)
    return columns


def _curves(folder: Path, chosen: int) -> str:
    loss = _columns(sorted(folder.glob("train_results_s*.csv"))).get("Loss", {})
    scores = _columns([path for path in [folder / "validation.csv"] if path.is_file()])
    charts = []
    if loss:
        charts.append(_chart("training loss", [("loss", BLUE, loss)], chosen=chosen))
    found = [(name, color, scores[name]) for name, color in _SERIES if name in scores]
    if found:
        charts.append(_chart("scores at each validation", found, chosen=chosen, top=100))
    return f'<div class="row">{"".join(charts)}</div>'


def _levels(largest: float) -> list[float]:
    """Return three to six round numbers from 0 to the largest value or slightly above."""
    if largest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(largest / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if 4 * power * factor >= largest * (1 - 1e-9))
    return [step * number for number in range(math.ceil(largest / step - 1e-9) + 1)]


def _chart(
    title: str, series: Sequence[tuple[str, str, Mapping[int, float]]], *, chosen: int, top: float | None = None
) -> str:
    """Draw lines over the epochs, with a dashed line at the chosen epoch."""
    width, height, left, right, upper, lower = 520, 230, 44, 86, 26, 30
    epochs = sorted({epoch for _, _, values in series for epoch in values})
    first, last = epochs[0], max(epochs[-1], chosen)
    levels = _levels(top or max(value for _, _, values in series for value in values.values()))
    largest = levels[-1]

    def x(epoch: float) -> float:
        return left + (width - left - right) * (epoch - first) / max(1, last - first)

    def y(value: float) -> float:
        return upper + (height - upper - lower) * (1 - value / largest)

    parts = [f'<text x="{left}" y="14" fill="{MUTED}">{escape(title)}</text>']
    for value in levels:
        level = y(value)
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{level:.1f}" y2="{level:.1f}" stroke="{GRID}"/>')
        parts.append(f'<text x="{left - 6}" y="{level + 4:.1f}" text-anchor="end" fill="{MUTED}">{value:.3g}</text>')
    for epoch in sorted({first, epochs[len(epochs) // 2], last}):
        parts.append(f'<text x="{x(epoch):.1f}" y="{height - 10}" text-anchor="middle" fill="{MUTED}">{epoch}</text>')
    parts.append(
        f'<line x1="{x(chosen):.1f}" x2="{x(chosen):.1f}" y1="{upper}" y2="{height - lower}" stroke="{MUTED}"'
        f' stroke-dasharray="3 3"><title>tested epoch: {chosen}</title></line>'
    )
    ends = []
    for name, color, values in series:
        points = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in sorted(values.items()))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        epoch = max(values)
        parts.append(f'<circle cx="{x(epoch):.1f}" cy="{y(values[epoch]):.1f}" r="3" fill="{color}"/>')
        ends.append((y(values[epoch]), name, color, values[epoch]))
    place = -np.inf
    for level, name, color, value in sorted(ends):  # labels at the ends of the lines, without overlap
        place = max(level + 4, place + 14)
        parts.append(f'<text x="{width - right + 8}" y="{place:.1f}" fill="{color}">{escape(name)} {value:.3g}</text>')
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-size="11"'
        f' font-family="sans-serif" role="img">{"".join(parts)}</svg>'
    )


def _classes(test: Mapping[str, Any]) -> str:
    table = test["class_scores"]
    strictest = max(table["f1"], key=float)
    rows = [
        [escape(test["classes"][number]), str(table["frames"][place])]
        + [f"{table[column][place]:.1f}" for column in ("acc", "precision", "iou")]
        + ["-" if number in test["background"] else f"{table['f1'][strictest][place]:.1f}"]
        for place, number in enumerate(table["number"])
    ]
    return _table(["class", "frames", "recall", "precision", "IoU", f"F1@{100 * float(strictest):g}"], rows)


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


def _heat_map(counts: npt.NDArray[np.int64], classes: Sequence[str]) -> str:
    """Draw the confusion matrix, normalized by row."""
    used: list[int] = np.flatnonzero(counts.any(axis=0) | counts.any(axis=1)).tolist()
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    cell = 22 if len(used) <= 20 else 11
    margin = 8 + int(6.2 * max(len(classes[number]) for number in used))
    side = margin + cell * len(used)
    parts = []
    for row, true in enumerate(used):
        level = margin + (row + 0.5) * cell
        name = escape(classes[true])
        parts.append(f'<text x="{margin - 5}" y="{level + 4:.1f}" text-anchor="end" fill="{INK}">{name}</text>')
        parts.append(
            f'<text transform="translate({level + 4:.1f} {margin - 5}) rotate(-90)" fill="{INK}">{name}</text>'
        )
        for column, predicted in enumerate(used):
            share = shares[true, predicted]
            if share == 0:
                continue
            color = BLUE if true == predicted else ORANGE
            parts.append(
                f'<rect x="{margin + column * cell}" y="{margin + row * cell}" width="{cell - 1}" height="{cell - 1}"'
                f' fill="{color}" fill-opacity="{share:.3f}"><title>{name} predicted as {escape(classes[predicted])}:'
                f" {share:.1%}, {counted(int(counts[true, predicted]), 'frame')}</title></rect>"
            )
    return (
        f'<svg viewBox="0 0 {side} {side}" width="{side}" height="{side}" font-size="{min(11, cell)}"'
        f' font-family="sans-serif" role="img">{"".join(parts)}</svg>'
    )


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
        f'<rect x="{start}" y="21" width="{stop - start}" height="2" fill="{INK}"/>'
        for start, stop in wrong.reshape(-1, 2).tolist()
    ]
    scores = ", ".join(f"{name} {value:.1f}" for name, value in _named(video))
    return (
        f'<div class="video"><b>{escape(video["name"])}</b> <span class="muted">'
        f"{counted(length, 'frame')}; {scores}</span>"
        f'<svg viewBox="0 0 {length} 44" preserveAspectRatio="none" shape-rendering="crispEdges" role="img">'
        f"{''.join(parts)}</svg></div>"
    )
