"""Page of a recognition run: scores, curves, classes, confusions, and mistakes with pictures of their videos."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vidseg.frames import FrameDatabase, FrameDatabaseError
from vidseg.labels.counting import counted
from vidseg.metrics import confused_pairs
from vidseg.plots.curves import read_run
from vidseg.plots.page_parts import chart, heat_map, picture, row, table, tiles
from vidseg.plots.palette import BLUE, ORANGE

__all__ = ["recognition_parts"]

_MISTAKES = 24  # maximum number of mistakes on the page
_STRIP = 6  # frames of a mistake
_WIDTH = 144  # of each of them in pixels
_CLASSES = 40  # maximum number of classes in the confusion matrix
_PAIRS = 10


def recognition_parts(folder: Path, test: Mapping[str, Any]) -> list[str]:
    """Return the HTML of a test of a recognition run.

    Args:
        folder: folder of the run.
        test: content of the file of the test.
    """
    views = test["clips"] * test["crops"]
    epoch = "" if test["epoch"] is None else f"epoch {test['epoch']}; "
    facts = f"{epoch}{test['checkpoint']} on {test['split']}: {counted(test['videos'], 'video')}"
    facts += f", {counted(views, 'view')} each"
    if "confusion" not in test:  # videos with several classes, or with numbers
        return _other_targets(folder, test, facts)
    counts = np.array(test["confusion"], np.int64)
    scores = [("top-1", f"{test['top1']:.1%}"), ("top-5", f"{test['top5']:.1%}")]
    scores += [
        ("mean class accuracy", f"{test['mean_class_accuracy']:.1%}"),
        ("cross entropy", f"{test['loss']:.3f}"),
    ]
    warning = (
        '<p class="warning">This split also selected the checkpoint, so the scores are optimistic.</p>'
        if test["selected_on"]
        else ""
    )
    pairs = confused_pairs(torch.from_numpy(counts), _PAIRS)
    only = None
    if len(test["classes"]) > _CLASSES:  # the classes that are confused most
        involved = dict.fromkeys(
            number
            for true, predicted, _ in confused_pairs(torch.from_numpy(counts), 500)
            for number in (true, predicted)
        )
        only = list(involved)[:_CLASSES]
    names = [escape(name) for name in test["classes"]]
    return [
        f'<p class="muted">{escape(facts)}</p>',
        warning,
        tiles(scores),
        _curves(folder, test["epoch"]),
        "<h3>Classes, lowest recall first</h3>",
        row(
            _classes(counts, names),
            heat_map(counts, test["classes"], only=only),
        ),
        *(
            [
                "<h3>Most confused classes</h3>",
                table(
                    ["class", "predicted as", "videos", "share of the class"],
                    [
                        [names[true], names[predicted], str(count), f"{count / counts[true].sum():.0%}"]
                        for true, predicted, count in pairs
                    ],
                ),
            ]
            if pairs
            else []
        ),
        *_mistakes(test),
    ]


def _other_targets(folder: Path, test: Mapping[str, Any], facts: str) -> list[str]:
    """Return the HTML of a test whose videos have several classes or a number each: scores, curves, classes."""
    precisions = {name: value for name, value in test["average_precisions"].items() if value is not None}
    rows = [[escape(name), f"{value:.1%}"] for name, value in sorted(precisions.items(), key=lambda pair: pair[1])]
    return [
        f'<p class="muted">{escape(facts)}</p>',
        tiles([(escape(name), f"{value:.4g}") for name, value in test["scores"].items()]),
        _curves(folder, test["epoch"]),
        *(
            ["<h3>Classes, lowest average precision first</h3>", table(["class", "average precision"], rows)]
            * bool(rows)
        ),
    ]


def _curves(folder: Path, chosen: int | None) -> str:
    found: dict[str, dict[str, dict[int, float]]] = {}
    for kind, label in (("train", "training"), ("val", "held out")):
        header, rows = read_run(folder, kind)
        for place, name in enumerate(header[1:], start=1):
            found.setdefault(name, {})[label] = {int(line[0]): float(line[place]) for line in rows}
    charts = []
    score = next(iter(found), "Top1")  # the first column
    titles = {"Top1": "top-1 accuracy"}
    for name, title, top in (
        ("Loss", "loss", None),
        (score, titles.get(score, score), 1.0 if score == "Top1" else None),
    ):
        colors = {"training": BLUE, "held out": ORANGE}
        series = [(label, colors[label], values) for label, values in found.get(name, {}).items()]
        charts.append(chart(title, series, chosen=chosen, top=top))
    return row(*charts)


def _classes(counts: npt.NDArray[np.int64], names: list[str]) -> str:
    videos, predicted, right = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
    recall = np.where(videos > 0, right / np.maximum(1, videos), np.inf)
    rows = []
    for number in np.argsort(recall, kind="stable").tolist():
        if videos[number] or predicted[number]:
            precision = f"{right[number] / predicted[number]:.1%}" if predicted[number] else "-"
            share = f"{recall[number]:.1%}" if math.isfinite(recall[number]) else "-"
            rows.append([names[number], str(videos[number]), share, precision])
    return table(["class", "videos", "recall", "precision"], rows)


def _mistakes(test: Mapping[str, Any]) -> list[str]:
    """Return the wrong predictions of the highest probabilities, each with frames of its video."""
    mistakes = test["mistakes"]
    if not mistakes:
        return ["<h3>Mistakes</h3>", "<p>No video has a wrong prediction.</p>"]
    shown = mistakes[:_MISTAKES]
    which = f"the {len(shown)} of {len(mistakes)}" if len(shown) < len(mistakes) else counted(len(shown), "video")
    parts = [f"<h3>Mistakes, highest probability first: {which}</h3>"]
    for one in shown:
        strip = _strip(Path(test["dataset"]) / one["video"] / "frames.db")
        parts.append(
            f'<div class="video"><b>{escape(one["video"])}</b> <span class="muted">{escape(one["true"])} '
            f"({one['probability_true']:.1%}) predicted as {escape(one['predicted'])} "
            f"({one['probability_predicted']:.1%})</span>{strip}</div>"
        )
    return parts


def _strip(path: Path) -> str:
    """Return frames of a video side by side; "" if it has no readable frame database, such as a video file."""
    if not path.is_file():
        return ""
    try:
        with FrameDatabase(path) as database:
            height, width = database.frame_size
            size = (max(1, round(height * _WIDTH / width)), _WIDTH)
            numbers = np.linspace(0, len(database) - 1, min(_STRIP, len(database))).round().astype(np.int64)
            frames = database.decode(numbers, size=size).numpy()
    except FrameDatabaseError as error:
        return f"<p>{escape(str(error))}</p>"
    return picture(np.ascontiguousarray(np.concatenate(list(frames), axis=1)), text=path.parent.name)
