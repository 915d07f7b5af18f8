"""Parts of HTML pages: styles, tables, tiles, charts, confusion matrices and embedded pictures.

Every part is HTML without scripts and external resources. Figures are SVG, pictures are data URIs.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vidseg.labels.counting import counted
from vidseg.plots.page_style import GRID_COLOR, INK_COLOR, MUTED_COLOR, STYLE
from vidseg.plots.palette import BLUE, ORANGE

__all__ = ["chart", "command_list", "heat_map", "levels", "page", "picture", "row", "table", "tiles"]

_LETTER = 7.3  # mean width of a letter of a chart at the font size of narrow windows


def page(title: str, parts: Sequence[str], *, style: str = "") -> str:
    """Return a complete HTML page.

    Args:
        title: title of the page, as plain text.
        parts: HTML of the body.
        style: CSS behind that of every page.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{STYLE}{style}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def tiles(scores: Sequence[tuple[str, str]]) -> str:
    """Return large numbers with their names.

    Args:
        scores: (name, formatted value) pairs.
    """
    return '<div class="tiles">' + "".join(f"<div>{name}<b>{value}</b></div>" for name, value in scores) + "</div>"


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, last_is_sum: bool = False, last_is_text: bool = False
) -> str:
    """Return a table; cells are HTML.

    Args:
        head: names of the columns.
        rows: cells of each row.
        last_is_sum: emphasize the last row.
        last_is_text: give the cells of the last column the class "text".
    """
    heads = [f"<th>{cell}</th>" for cell in head]
    if last_is_text:
        heads[-1] = f'<th class="text">{head[-1]}</th>'
    lines = [f'<div class="wide"><table><tr>{"".join(heads)}</tr>']
    for place, cells in enumerate(rows):
        style = ' class="sum"' if last_is_sum and place == len(rows) - 1 else ""
        texts = [f"<td>{cell}</td>" for cell in cells]
        if last_is_text:
            texts[-1] = f'<td class="text">{cells[-1]}</td>'
        lines.append(f"<tr{style}>{''.join(texts)}</tr>")
    return "\n".join([*lines, "</table></div>"])


def row(*parts: str) -> str:
    """Return parts side by side; "" if all are empty."""
    return f'<div class="row">{"".join(parts)}</div>' if any(parts) else ""


def command_list(commands: Sequence[str]) -> str:
    """Return commands, one per line; "" without any."""
    return "<pre>" + "\n".join(map(escape, commands)) + "</pre>" if commands else ""


def picture(source: Path | npt.NDArray[np.uint8], *, text: str = "") -> str:
    """Return a picture embedded as a data URI.

    Args:
        source: a .png file, or pixels (H, W, 3), which are stored as JPEG.
        text: description for readers that do not show pictures.
    """
    if isinstance(source, Path):
        kind, content = "png", source.read_bytes()
    else:
        buffer = io.BytesIO()
        Image.fromarray(source).save(buffer, "JPEG", quality=80)
        kind, content = "jpeg", buffer.getvalue()
    code = base64.b64encode(content).decode("ascii")
    return f'<img class="figure" alt="{escape(text)}" src="data:image/{kind};base64,{code}">'


def levels(largest: float) -> list[float]:
    """Return three to six round numbers from 0 to the largest value or slightly above."""
    if not largest > 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(largest / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if 4 * power * factor >= largest * (1 - 1e-9))
    return [step * number for number in range(math.ceil(largest / step - 1e-9) + 1)]


def chart(
    title: str, series: Sequence[tuple[str, str, Mapping[int, float]]], *, chosen: int | None, top: float | None = None
) -> str:
    """Draw lines over the epochs, with a dashed line at the chosen epoch; "" without values.

    Args:
        title: heading.
        series: name, color, and values by epoch of each line; values that are not finite are left out.
        chosen: tested epoch; None: not known.
        top: largest value of the axis; None: of the data.
    """
    width, height, left, upper, lower = 520, 230, 44, 26, 30
    lines = [
        (name, color, {epoch: value for epoch, value in values.items() if math.isfinite(value)})
        for name, color, values in series
    ]
    lines = [line for line in lines if line[2]]
    if not lines:
        return ""
    names = [f"{name} {values[max(values)]:.3g}" for name, _, values in lines]
    right = max(86, 16 + math.ceil(_LETTER * max(map(len, names))))
    epochs = sorted({epoch for _, _, values in lines for epoch in values})
    first, last = epochs[0], max(epochs[-1], chosen or 0)
    marks = levels(top or max(value for _, _, values in lines for value in values.values()))
    largest = marks[-1]

    def x(epoch: float) -> float:
        return left + (width - left - right) * (epoch - first) / max(1, last - first)

    def y(value: float) -> float:
        return upper + (height - upper - lower) * (1 - value / largest)

    parts = [f'<text x="{left}" y="14" fill="{MUTED_COLOR}">{escape(title)}</text>']
    for value in marks:
        level = y(value)
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{level:.1f}" y2="{level:.1f}" stroke="{GRID_COLOR}"/>'
        )
        parts.append(
            f'<text x="{left - 6}" y="{level + 4:.1f}" text-anchor="end" fill="{MUTED_COLOR}">{value:.3g}</text>'
        )
    for epoch in sorted({first, epochs[len(epochs) // 2], last}):
        parts.append(
            f'<text x="{x(epoch):.1f}" y="{height - 10}" text-anchor="middle" fill="{MUTED_COLOR}">{epoch}</text>'
        )
    if chosen is not None:
        parts.append(
            f'<line x1="{x(chosen):.1f}" x2="{x(chosen):.1f}" y1="{upper}" y2="{height - lower}" stroke="{MUTED_COLOR}"'
            f' stroke-dasharray="3 3"><title>tested epoch: {chosen}</title></line>'
        )
    ends = []
    for name, (_, color, values) in zip(names, lines, strict=True):
        points = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in sorted(values.items()))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        epoch = max(values)
        parts.append(f'<circle cx="{x(epoch):.1f}" cy="{y(values[epoch]):.1f}" r="3" fill="{color}"/>')
        ends.append((y(values[epoch]), name, color))
    place = -np.inf
    for level, name, color in sorted(ends):  # labels at the ends of the lines, without overlap
        place = max(level + 4, place + 14)
        parts.append(f'<text x="{width - right + 8}" y="{place:.1f}" fill="{color}">{escape(name)}</text>')
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-size="11"'
        f' font-family="sans-serif" role="img">{"".join(parts)}</svg>'
    )


def heat_map(
    counts: npt.NDArray[np.int64], classes: Sequence[str], *, unit: str = "video", only: Sequence[int] | None = None
) -> str:
    """Draw a confusion matrix, normalized by row.

    Args:
        counts: (K, K); rows are true classes.
        classes: K names.
        unit: what is counted, in the singular.
        only: numbers of the classes to draw; None: those with a count.
    """
    used: list[int] = np.flatnonzero(counts.any(axis=0) | counts.any(axis=1)).tolist() if only is None else sorted(only)
    if not used:
        return ""
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    cell = 22 if len(used) <= 20 else 11
    margin = 8 + int(6.2 * max(len(classes[number]) for number in used))
    side = margin + cell * len(used)
    parts = []
    for line, true in enumerate(used):
        level = margin + (line + 0.5) * cell
        name = escape(classes[true])
        parts.append(f'<text x="{margin - 5}" y="{level + 4:.1f}" text-anchor="end" fill="{INK_COLOR}">{name}</text>')
        parts.append(
            f'<text transform="translate({level + 4:.1f} {margin - 5}) rotate(-90)" fill="{INK_COLOR}">{name}</text>'
        )
        for column, predicted in enumerate(used):
            share = shares[true, predicted]
            if share == 0:
                continue
            color = BLUE if true == predicted else ORANGE
            parts.append(
                f'<rect x="{margin + column * cell}" y="{margin + line * cell}" width="{cell - 1}" height="{cell - 1}"'
                f' fill="{color}" fill-opacity="{share:.3f}"><title>{name} predicted as {escape(classes[predicted])}:'
                f" {share:.1%}, {counted(int(counts[true, predicted]), unit)}</title></rect>"
            )
    return (
        f'<div class="wide"><svg viewBox="0 0 {side} {side}" width="{side}" height="{side}" font-size="{min(11, cell)}"'
        f' font-family="sans-serif" role="img">{"".join(parts)}</svg></div>'
    )
