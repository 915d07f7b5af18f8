"""HTML report of a search: history, importance, parallel coordinates, Pareto front, and all trials with their runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vidseg.frames.whole_file import write_text
from vidseg.labels.counting import counted
from vidseg.plots.page_parts import command_list, page, row, table, tiles
from vidseg.plots.search_charts import (
    SEARCH_STYLE,
    Axis,
    Mark,
    axis_of,
    bar_chart,
    history_chart,
    parallel_chart,
    scatter_chart,
)
from vidseg.plots.search_pictures import plot_importance, plot_parallel, plot_pareto, plot_search_history
from vidseg.search.program import shown_name
from vidseg.search.repeating import Repetition
from vidseg.search.results import SearchResults, TrialResult, value_text, values_text
from vidseg.search.trial import OPTIONS, trial_folder

__all__ = ["draw_search", "write_search_report"]

_PRUNED_TEXT = "Pruned trials are hollow, failed ones are crosses; every point links to its run."


def write_search_report(results: SearchResults, out: str | Path, *, repetition: Repetition | None = None) -> Path:
    """Write the HTML report of a search, and its pictures into the folder `pictures` of the search.

    Args:
        results: of the search.
        out: HTML file; links to runs are relative to the folder of the search.
        repetition: comparison over seeds; None: without.

    Returns:
        The path of the file.
    """
    out = Path(out)
    draw_search(results, results.folder / "pictures")
    found, best = results.description, results.best
    data = Path(found["dataset"]).name
    title = f"Search: {found['program'] or found['task']} on {data}"
    trained = sum(one.trained for one in results.trials)
    numbers = [("trials", str(trained))]
    if best is not None:
        numbers += [
            (f"best {one.name}", f"{value:.4g}")
            for one, value in zip(results.objectives, best.objectives, strict=True)
            if len(results.objectives) == 1
        ]
    hours = sum(one.seconds for one in results.trials) / 3600
    numbers.append(("training time", f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"))
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="muted">{escape(results.counts())}. {escape(_described(found))}</p>',
        tiles(numbers),
    ]
    parts += _best_parts(results)
    if repetition is not None:
        parts += _repetition_parts(repetition)
    if results.trials:
        parts += _chart_parts(results)
        parts += _trial_parts(results)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page(title, parts, style=SEARCH_STYLE))
    return out


def _described(found: Mapping[str, Any]) -> str:
    text = f"Method {found['method']}, pruner {found['pruner']}, seed {found['seed']}"
    if found["budget"]:
        text += ", budget " + ", ".join(f"{name} {value:.4g}" for name, value in found["budget"].items())
    return text + "."


def _link(results: SearchResults, one: TrialResult) -> str:
    """Address of the run of a trial; "" for one without a run, such as most networks of a one-shot search."""
    return f"trials/{one.number:04d}/" if trial_folder(results.folder, one.number).is_dir() else ""


def _linked(results: SearchResults, one: TrialResult, text: str) -> str:
    link = _link(results, one)
    return f'<a href="{link}">{text}</a>' if link else text


def _label(results: SearchResults, one: TrialResult) -> str:
    scores = ", ".join(
        f"{each.name} {value:.5g}" for each, value in zip(results.objectives, one.objectives, strict=False)
    )
    return f"trial {one.number:04d}, {scores or one.state}: {values_text(one.values)}"


def _score(one: TrialResult) -> float | None:
    """First objective of a trial; of a pruned one its last validation."""
    return one.objectives[0] if one.objectives else one.history[-1] if one.state == "pruned" and one.history else None


def _mark(results: SearchResults, one: TrialResult, front: Sequence[int] = ()) -> Mark:
    kinds = {"complete": "done", "pruned": "pruned", "running": "pruned"}
    kind = "front" if one.number in front else kinds.get(one.state, "failed")
    return Mark(_label(results, one), _link(results, one), kind)


def _drawn(results: SearchResults) -> list[TrialResult]:
    return [one for one in results.trials if one.trained]


def _axes(results: SearchResults, trials: Sequence[TrialResult]) -> list[Axis]:
    """Axes of the searched options that vary, and of the first objective."""
    found = []
    for name, description in results.description["space"].items():
        values = [one.values.get(name) for one in trials]
        shown = [value_text(value) if isinstance(value, (list, bool)) else value for value in values]
        if "choices" in description and not all(
            isinstance(value, (int, float)) for value in shown if value is not None
        ):
            shown = [None if value is None else str(value) for value in shown]
        found.append(axis_of(shown_name(name), shown, log=bool(description.get("log"))))
    return [*found, axis_of(results.objectives[0].name, [_score(one) for one in trials])]


def _ranks(results: SearchResults, trials: Sequence[TrialResult]) -> list[float | None]:
    """Rank of each complete trial by the first objective, 0 the worst and 1 the best."""
    order = sorted((one for one in trials if one.objectives), key=lambda one: results.sign(0) * one.objectives[0])
    places = {one.number: place / max(1, len(order) - 1) for place, one in enumerate(order)}
    return [places.get(one.number) for one in trials]


def _best_parts(results: SearchResults) -> list[str]:
    several = len(results.objectives) > 1
    best = results.best
    if best is None:
        return ['<p class="warning">No trial is complete yet.</p>']
    parts = [f"<h2>{'Best by the first objective' if several else 'Best trial'}</h2>"]
    rows = [[escape(shown_name(name)), escape(value_text(value))] for name, value in best.values.items()]
    scores = [[escape(name), f"{value:.5g}"] for name, value in {**best.scores, **best.costs}.items()]
    parts.append(
        row(f"<div>{table(['option', 'value'], rows)}</div>", f"<div>{table(['score', 'value'], scores)}</div>")
    )
    link = _linked(results, best, f"trials/{best.number:04d}")
    parts.append(f"<p>Run {link}, epoch {' '.join(map(str, best.epochs))}, {best.seconds:.0f} s.</p>")
    record = results.folder / "trials" / f"{best.number:04d}" / OPTIONS
    if record.is_file():
        folder = record.parent
        command = json.loads(record.read_text(encoding="utf-8"))["command"]
        parts.append(command_list([command, f"vidseg test {folder}", f"vidseg export {folder} --help"]))
    return parts


def _repetition_parts(found: Repetition) -> list[str]:
    head = ["setting", "seeds", f"validation {found.score}", f"test {found.score}"]
    lines = "".join(f"<p>{escape(line)}</p>" for line in found.lines())
    return [
        "<h2>Best values and baseline over several seeds</h2>",
        "<p>Mean ± standard deviation over seeds that the search did not use. The baseline has the options of the file "
        "without the searched ones.</p>",
        f'<div class="wide">{table(head, [[escape(cell) for cell in cells] for cells in found.rows()])}</div>',
        lines,
    ]


def _chart_parts(results: SearchResults) -> list[str]:
    trials = _drawn(results)
    if not trials:
        return []
    first = results.objectives[0]
    marks = [_mark(results, one) for one in trials]
    values = [_score(one) for one in trials]
    parts = [
        "<h2>History</h2>",
        f"<p>{escape(first.name)} of each trial; the line is the best one so far. {_PRUNED_TEXT}</p>",
        f'<div class="wide">{history_chart(first.name, values, marks, sign=results.sign(0))}</div>',
    ]
    if len(results.objectives) > 1:
        parts += _pareto_parts(results)
    if results.importance:
        rows = [(shown_name(name), share) for name, share in results.importance.items()]
        parts += [
            "<h2>Importance of the options</h2>",
            "<p>Share of each option in what separates the best 30 % of the trials from the others, by "
            f"{escape(first.name)} (PED-ANOVA).</p>",
            bar_chart(rows),
        ]
    if any(one.objectives for one in trials):
        axes = _axes(results, trials)
        parts += [
            "<h2>Values of the trials</h2>",
            f'<div class="wide">{parallel_chart(axes, marks, _ranks(results, trials))}</div>',
            row(*(f"<div>{scatter_chart(axis, axes[-1], marks)}</div>" for axis in axes[:-1])),
        ]
    return parts


def _pareto_parts(results: SearchResults) -> list[str]:
    complete = results.complete
    front = results.front
    numbers = [one.number for one in front]
    if not complete:
        return []
    charts = []
    marks = [_mark(results, one, numbers) for one in complete]
    y = axis_of(results.objectives[0].name, [one.objectives[0] for one in complete])
    for place, other in enumerate(results.objectives[1:], start=1):
        x = axis_of(other.name, [one.objectives[place] for one in complete], log=other.cost)
        line = [complete.index(one) for one in sorted(front, key=lambda one, place=place: one.objectives[place])]  # type: ignore[misc]
        charts.append(f"<div>{scatter_chart(x, y, marks, line=line if len(results.objectives) == 2 else ())}</div>")
    head = ["trial", *(one.name for one in results.objectives), "values"]
    rows = [
        [
            _linked(results, one, f"{one.number:04d}"),
            *(f"{value:.5g}" for value in one.objectives),
            escape(values_text(one.values)),
        ]
        for one in front
    ]
    return [
        "<h2>Pareto front</h2>",
        f"<p>{counted(len(front), 'trial')} that no other trial exceeds in all objectives.</p>",
        row(*charts),
        f'<div class="wide">{_left_table(head, rows)}</div>',
    ]


def _trial_parts(results: SearchResults) -> list[str]:
    head = ["trial", "state", *(one.name for one in results.objectives), "epoch", "seconds", "values, failure"]
    rows = []
    for one in results.trials:
        scores = [f"{value:.5g}" for value in one.objectives] or [""] * len(results.objectives)
        text = escape(values_text(one.values))
        if one.failure is not None:
            text += f"<br><b>{escape(one.failure.kind)}</b>: {escape(one.failure.message)}"
        if one.repeats is not None:
            text += f"<br>the values of trial {one.repeats:04d}"
        number = _linked(results, one, f"{one.number:04d}")
        rows.append([number, one.state, *scores, " ".join(map(str, one.epochs)), f"{one.seconds:.0f}", text])
    return ["<h2>Trials</h2>", f'<div class="wide">{_left_table(head, rows)}</div>']


def _left_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose last column is text."""
    return table([escape(cell) for cell in head], rows, last_is_text=True)


def draw_search(results: SearchResults, folder: Path) -> list[Path]:
    """Draw history, importance, values and Pareto front as .png files; returns their paths."""
    trials = _drawn(results)
    if not trials:
        return []
    first = results.objectives[0]
    found = results.description
    title = f"{found['program'] or found['task']} on {Path(found['dataset']).name}"
    values, pruned = [_score(one) for one in trials], [one.state == "pruned" for one in trials]
    files = [plot_search_history(first.name, values, pruned, folder / "history.png", sign=results.sign(0), title=title)]
    if results.importance:
        rows = [(shown_name(name), share) for name, share in results.importance.items()]
        files.append(plot_importance(rows, folder / "importance.png", title=f"importance for {first.name}"))
    if any(one.objectives for one in trials):
        axes = _axes(results, trials)
        files.append(plot_parallel(axes, _ranks(results, trials), folder / "values.png", title=title))
    if len(results.objectives) > 1 and results.front:
        complete, front = results.complete, results.front
        files.append(
            plot_pareto(
                [(one.objectives[-1], one.objectives[0]) for one in complete],
                [complete.index(one) for one in front],
                folder / "pareto.png",
                names=(results.objectives[-1].name, first.name),
                labels=[f"{one.number:04d}" for one in front],
                title=title,
            )
        )
    return files
