"""Page of a detection run: scores by IoU threshold, curves, classes, false positives, and the pictures of the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vidseg.plots.curves import read_run
from vidseg.plots.page_parts import chart, picture, row, table, tiles
from vidseg.plots.palette import BLUE, GREEN, ORANGE

__all__ = ["detection_parts"]

_PICTURES = {
    "timelines": "Videos: instances and detections",
    "precision_recall": "Precision and recall",
    "false_positives": "False positives",
}
_COLORS = (BLUE, GREEN)


def detection_parts(folder: Path, test: Mapping[str, Any], *, suffix: str = "") -> list[str]:
    """Return the HTML of a test of a detection run.

    Args:
        folder: folder of the run.
        test: content of the file of the test.
        suffix: end of the names of the test's pictures.
    """
    scores = test["scores"]
    epoch = "" if test["epoch"] is None else f"epoch {test['epoch']}; "
    facts = f"{epoch}{test['checkpoint']} on {test['split']}, protocol {test['protocol']}"
    shown = []
    if "average" in scores:
        shown.append(("mean mAP", f"{scores['average']:.1%}"))
        shown += [(f"mAP@{float(key):g}", f"{value:.1%}") for key, value in scores["map"].items()]
    shown += [(f"AR@{number}", f"{value:.1%}") for number, value in scores.get("average_recall", {}).items()]
    parts = [f'<p class="muted">{escape(facts)}</p>', tiles(shown), _curves(folder, test["epoch"])]
    if scores.get("by_class"):
        parts += ["<h3>Classes, lowest average precision first</h3>", _classes(scores["by_class"])]
    gains = scores.get("false_positives", {}).get("gains")
    if gains:
        rows = [[escape(name), f"{100 * value:.2f}"] for name, value in gains.items()]
        parts += ["<h3>Errors</h3>", table(["error", "mAP points gained without it"], rows)]
    for name, heading in _PICTURES.items():
        file = folder / "pictures" / f"{name}{suffix}.png"
        if file.is_file():
            parts += [f"<h3>{heading}</h3>", picture(file, text=heading)]
    parts += ["<h3>All scores</h3>", f"<pre>{escape(chr(10).join(test['table']))}</pre>"]
    return parts


def _curves(folder: Path, chosen: int | None) -> str:
    found = {}
    for kind in ("train", "val"):
        header, rows = read_run(folder, kind)
        for place, name in enumerate(header[1:], start=1):
            found[kind, name] = {int(line[0]): float(line[place]) for line in rows}
    losses = [
        (label, color, found[kind, "Loss"])
        for kind, label, color in (("train", "training", BLUE), ("val", "held out", ORANGE))
        if (kind, "Loss") in found
    ]
    names = [name for kind, name in found if kind == "val" and name != "Loss"]
    series = [(name, color, found["val", name]) for name, color in zip(names, _COLORS, strict=False)]
    return row(chart("loss", losses, chosen=chosen), chart("scores at each validation", series, chosen=chosen, top=1.0))


def _classes(by_class: Sequence[Mapping[str, Any]]) -> str:
    thresholds = list(by_class[0]["ap"])
    rows = [
        [escape(str(one["class"])), str(one["instances"]), str(one["detections"]), f"{100 * one['average']:.1f}"]
        + [f"{100 * one['ap'][key]:.1f}" for key in thresholds]
        for one in sorted(by_class, key=lambda one: one["average"])
    ]
    return table(["class", "instances", "detections", "mean AP", *(f"AP@{float(key):g}" for key in thresholds)], rows)
