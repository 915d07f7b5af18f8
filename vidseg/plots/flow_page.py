"""Page of an optical flow run: errors of the flow, curves, and pictures of tested pairs."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from vidseg.labels.counting import counted
from vidseg.plots.curves import read_run
from vidseg.plots.page_parts import chart, picture, row, tiles
from vidseg.plots.palette import BLUE, GREEN, ORANGE

__all__ = ["flow_parts"]

_NAMES = {
    "within_1px": "within 1 pixel",
    "within_3px": "within 3 pixels",
    "within_5px": "within 5 pixels",
    "f1_all": "outliers (F1-all)",
}


def flow_parts(folder: Path, test: Mapping[str, Any], *, suffix: str = "") -> list[str]:
    """Return the HTML of a test of an optical flow run.

    Args:
        folder: folder of the run.
        test: content of the file of the test.
        suffix: end of the name of the test's picture.
    """
    epoch = "" if test["epoch"] is None else f"epoch {test['epoch']}; "
    facts = f"{epoch}{test['checkpoint']} on {test['split']} pairs: {counted(test['pairs'], 'pair')}"
    scores = test["scores"]
    shown = [("end-point error", f"{scores['epe']:.3f} px")]
    shown += [(name, f"{scores[key]:.1%}") for key, name in _NAMES.items()]
    parts = [f'<p class="muted">{escape(facts)}</p>', tiles(shown), _curves(folder, test["epoch"])]
    file = folder / "pictures" / f"test{suffix}.png"
    if file.is_file():
        heading = "Tested pairs: true and predicted flow"
        parts += [f"<h3>{heading}</h3>", picture(file, text=heading)]
    return parts


def _curves(folder: Path, chosen: int | None) -> str:
    found: dict[tuple[str, str], dict[int, float]] = {}
    for kind in ("train", "val"):
        header, rows = read_run(folder, kind)
        for place, name in enumerate(header[1:], start=1):
            found[kind, name] = {int(line[0]): float(line[place]) for line in rows}
    losses = [
        (label, color, found[kind, "Loss"])
        for kind, label, color in (("train", "training", BLUE), ("val", "held out", ORANGE))
        if (kind, "Loss") in found
    ]
    shares = [
        (name, color, found["val", name])
        for name, color in (("1px", BLUE), ("3px", ORANGE), ("F1-all", GREEN))
        if ("val", name) in found
    ]
    return row(
        chart("loss", losses, chosen=chosen),
        chart("share of held-out pixels", shares, chosen=chosen, top=1.0),
    )
