"""Charts of a search for HTML pages: history, parallel coordinates, scatter with a Pareto front, bars.

Every chart is SVG whose colors are the variables of `SEARCH_STYLE`, so that a page follows the reader's light or dark
scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = [
    "SEARCH_STYLE",
    "Axis",
    "Mark",
    "axis_of",
    "bar_chart",
    "history_chart",
    "parallel_chart",
    "running_best",
    "scatter_chart",
]

SEARCH_STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1b; --muted: #6f6e69; --grid: #e4e3df; --surface: #fcfcfb; --box: #f1f0ec;
  --blue: #2a78d6; --orange: #d9622b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9e8e4; --muted: #a09f99; --grid: #3a3a37; --surface: #1b1b1a;
  --box: #292927; --blue: #6aa9ee; --orange: #ee8d5e; } }
body { color: var(--ink); background: var(--surface); } h2 { border-color: var(--ink); } a { color: var(--blue); }
.muted, th { color: var(--muted); } pre { background: var(--box); } tr.sum td { border-color: var(--ink); }
.wide { overflow-x: auto; } .wide svg { min-width: 34rem; } svg.chart { width: 100%; height: auto; display: block;
  max-width: 48rem; } svg.bars { max-width: 34rem; }
.row > div { flex: 1 1 16rem; max-width: 26rem; min-width: 0; } svg a:focus-visible { outline: 2px solid var(--ink); }
svg text { fill: var(--muted); font: 11px system-ui, sans-serif; } svg text.ink { fill: var(--ink); }
svg .axis { stroke: var(--grid); } svg .done { fill: var(--blue); stroke: none; }
svg .pruned { fill: none; stroke: var(--muted); } svg .front { fill: var(--orange); stroke: none; }
svg .line { fill: none; stroke: var(--orange); stroke-width: 2; } svg .path { fill: none; stroke: var(--blue); }
svg .path.best { stroke: var(--orange); stroke-width: 2.5; } svg .bar { fill: var(--blue); }
td.text, th.text { text-align: left; overflow-wrap: anywhere; min-width: 12rem; } pre { white-space: pre-wrap; }
pre { overflow-wrap: anywhere; }
@media (max-width: 480px) { body { margin: 1rem auto; padding: 0 .7rem; } .tiles { gap: 1rem; }
  .tiles b { font-size: 1.3rem; } }
@media print { :root { --ink: #000; --muted: #444; --grid: #ccc; --surface: #fff; --box: #fff; --blue: #1f5fae;
  --orange: #b8481a; } .wide { overflow: visible; } .wide svg { min-width: 0; } h2, h3 { break-after: avoid; }
  svg.chart, tr { break-inside: avoid; } a { color: inherit; text-decoration: none; } table { font-size: 9px; } }
"""
"""Style of a page with these charts, behind that of `vidseg.plots.page_parts.page`."""


@dataclass(frozen=True)
class Mark:
    """One trial in a chart.

    Attributes:
        label: text that a pointer shows.
        link: address of the run; "" without one.
        kind: "done", "pruned", "front" or "failed".
    """

    label: str
    link: str = ""
    kind: str = "done"

    def linked(self, shape: str) -> str:
        """Return an SVG shape with the label and the link of the trial."""
        shape = shape.replace("/>", f"><title>{escape(self.label)}</title></{shape[1 : shape.index(' ')]}>")
        return f'<a href="{escape(self.link, quote=True)}">{shape}</a>' if self.link else shape


@dataclass(frozen=True)
class Axis:
    """Values of one quantity and their places.

    Attributes:
        name: of the quantity.
        places: place of each value on the axis, 0..1; None: no value.
        ticks: (place, text) of the marks.
    """

    name: str
    places: list[float | None]
    ticks: list[tuple[float, str]]


def axis_of(name: str, values: Sequence[Any], *, log: bool = False) -> Axis:
    """Return the axis of numbers, or of other values in the order of their first occurrence.

    Args:
        name: of the quantity.
        values: None: no value.
        log: use a logarithmic scale, where all numbers are above 0.
    """
    given = [value for value in values if value is not None]
    numeric = bool(given) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given)
    if not numeric:
        names = list(dict.fromkeys(str(value) for value in given))
        spread = max(1, len(names) - 1)
        place = {text: (number / spread if len(names) > 1 else 0.5) for number, text in enumerate(names)}
        ticks = [(at, text) for text, at in place.items()]
        return Axis(name, [None if value is None else place[str(value)] for value in values], ticks)
    log = log and min(given) > 0
    low, high = min(given), max(given)
    if low == high:
        return Axis(name, [None if value is None else 0.5 for value in values], [(0.5, f"{low:.3g}")])

    def scaled(value: float) -> float:
        if log:
            return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
        return (value - low) / (high - low)

    middle = math.sqrt(low * high) if log else (low + high) / 2
    ticks = [(0.0, f"{low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{high:.3g}")]
    return Axis(name, [None if value is None else scaled(value) for value in values], ticks)


def running_best(values: Sequence[float | None], sign: int) -> list[float | None]:
    """Return the best value up to each place, None before the first one.

    Args:
        values: None: no value.
        sign: 1 if higher values are better, -1 if lower ones are.
    """
    found: list[float | None] = []
    best: float | None = None
    for value in values:
        if value is not None and (best is None or sign * value > sign * best):
            best = value
        found.append(best)
    return found


def _svg(width: int, height: int, parts: Sequence[str], title: str, *, kind: str = "chart") -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )


def _frame(x: Axis, y: Axis, box: tuple[float, float, float, float]) -> list[str]:
    """Grid lines and texts of two axes around (left, upper, right, lower)."""
    left, upper, right, lower = box
    parts = [f'<text class="ink" x="{left}" y="{upper - 10}">{escape(y.name)}</text>']
    for place, text in y.ticks:
        level = lower - place * (lower - upper)
        parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{level + 4:.1f}" text-anchor="end">{escape(_short(text))}</text>')
    for place, text in x.ticks:
        at = left + place * (right - left)
        anchor = "start" if place == 0 else "end" if place == 1 else "middle"
        parts.append(f'<text x="{at:.1f}" y="{lower + 17}" text-anchor="{anchor}">{escape(_short(text))}</text>')
    parts.append(f'<text class="ink" x="{right}" y="{lower + 33}" text-anchor="end">{escape(x.name)}</text>')
    return parts


def _short(text: str, most: int = 14) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _shape(mark: Mark, x: float, y: float) -> str:
    if mark.kind == "failed":
        return mark.linked(f'<path class="pruned" d="M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6" stroke-width="1.5"/>')
    return mark.linked(
        f'<circle class="{mark.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{4.5 if mark.kind == "front" else 3.5}"/>'
    )


def scatter_chart(
    x: Axis, y: Axis, marks: Sequence[Mark], *, line: Sequence[int] = (), width: int = 360, height: int = 250
) -> str:
    """Draw one point for each trial that has both values.

    Args:
        x: horizontal axis.
        y: vertical axis.
        marks: of the trials.
        line: numbers of trials that a line connects, such as a Pareto front.
        width: of the coordinate system.
        height: of the coordinate system.
    """
    box = (64.0, 30.0, width - 12.0, height - 42.0)
    left, upper, right, lower = box

    def at(number: int) -> tuple[float, float] | None:
        one, other = x.places[number], y.places[number]
        if one is None or other is None:
            return None
        return left + one * (right - left), lower - other * (lower - upper)

    parts = _frame(x, y, box)
    points = [found for number in line if (found := at(number)) is not None]
    if len(points) > 1:
        parts.append(f'<polyline class="line" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>')
    for number, mark in enumerate(marks):
        found = at(number)
        if found is not None:
            parts.append(_shape(mark, *found))
    return _svg(width, height, parts, f"{y.name} against {x.name}")


def history_chart(name: str, values: Sequence[float | None], marks: Sequence[Mark], *, sign: int) -> str:
    """Draw the objective of each trial in order, and the best one so far as a line.

    Args:
        name: of the objective.
        values: None: failed.
        marks: of the trials.
        sign: 1 if higher values are better, -1 if lower ones are.
    """
    best = running_best(
        [value if mark.kind != "pruned" else None for value, mark in zip(values, marks, strict=True)], sign
    )
    y = axis_of(name, [*values, *best])
    count = len(values)
    width, height = 640, 260
    left, upper, right, lower = box = (64.0, 30.0, width - 12.0, height - 42.0)
    last = max(1, count - 1)
    x = Axis("trial", [number / last for number in range(count)], [(0.0, "0"), (1.0, str(count - 1))][: min(2, count)])
    parts = _frame(x, y, box)

    def at(number: int, place: float | None) -> tuple[float, float]:
        return left + number / last * (right - left), lower - (place or 0.0) * (lower - upper)

    line = ""
    for number, place in enumerate(y.places[count:]):
        if place is not None:
            a, b = at(number, place)
            line += f"{'H' if line else 'M'}{a:.1f}{f'V{b:.1f}' if line else f' {b:.1f}'}"
    if line:
        parts.append(f'<path class="line" d="{line}"/>')
    for number, mark in enumerate(marks):
        parts.append(_shape(mark, *at(number, y.places[number])))
    return _svg(width, height, parts, f"{name} of each trial")


def parallel_chart(axes: Sequence[Axis], marks: Sequence[Mark], ranks: Sequence[float | None]) -> str:
    """Draw a line through the values of each trial; the best tenth is emphasized.

    Args:
        axes: of the options, and of the objective as the last one.
        marks: of the trials.
        ranks: rank of each trial, 0 the worst and 1 the best; None: not drawn.
    """
    width, height, upper, lower = max(560, 120 * len(axes)), 290, 40, 250
    left, right = 50.0, width - 60.0
    step = (right - left) / max(1, len(axes) - 1)
    parts = []
    for place, axis in enumerate(axes):
        x = left + place * step
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{upper}" y2="{lower}"/>')
        parts.append(
            f'<text class="ink" x="{x:.1f}" y="{upper - 18}" text-anchor="middle">'
            f"{escape(_short(axis.name, 18))}</text>"
        )
    order = sorted(range(len(marks)), key=lambda number: -1.0 if ranks[number] is None else float(ranks[number] or 0))
    for number in order:
        rank = ranks[number]
        if rank is None:
            continue
        points = [
            (left + place * step, lower - value * (lower - upper))
            for place, axis in enumerate(axes)
            if (value := axis.places[number]) is not None
        ]
        if len(points) < 2:
            continue
        style = "path best" if rank >= 0.9 else "path"
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        shape = f'<polyline class="{style}" opacity="{0.15 + 0.85 * rank:.2f}" points="{line}"/>'
        parts.append(marks[number].linked(shape))
    for place, axis in enumerate(axes):  # above the lines
        x = left + place * step
        for value, text in axis.ticks:
            parts.append(
                f'<text x="{x + 4:.1f}" y="{lower - value * (lower - upper) + 4:.1f}">{escape(_short(text))}</text>'
            )
    return _svg(width, height, parts, "values and objective of each trial")


def bar_chart(rows: Sequence[tuple[str, float]]) -> str:
    """Draw horizontal bars.

    Args:
        rows: name and share, 0..1, of each bar.
    """
    width, height, left = 480, 26 * len(rows) + 8, 180
    largest = max((share for _, share in rows), default=0.0) or 1.0
    parts = []
    for place, (name, share) in enumerate(rows):
        y = 26 * place + 6
        length = (width - left - 60) * share / largest
        parts.append(
            f'<text class="ink" x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(_short(name, 26))}</text>'
        )
        parts.append(f'<rect class="bar" x="{left}" y="{y}" width="{length:.1f}" height="18"/>')
        parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 13}">{share:.0%}</text>')
    return _svg(width, height, parts, "importance of the options", kind="chart bars")
