"""Pictures of a search: history, importance of options, parallel coordinates, Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from vidseg.plots.canvas import new_figure, quiet, save_figure
from vidseg.plots.palette import BLUE, ORANGE, theme
from vidseg.plots.search_charts import Axis, running_best

__all__ = ["plot_importance", "plot_parallel", "plot_pareto", "plot_search_history"]


def plot_search_history(
    name: str,
    values: Sequence[float | None],
    pruned: Sequence[bool],
    out: str | Path,
    *,
    sign: int = 1,
    title: str = "",
) -> Path:
    """Draw the objective of each trial in order and the best one so far, and save the figure.

    Args:
        name: of the objective.
        values: of the trials; None: failed.
        pruned: which trials were pruned.
        out: file to write.
        sign: 1 if higher values are better, -1 if lower ones are.
        title: heading.

    Returns:
        The path of the file.
    """
    figure = new_figure(8, 4, title=title)
    axes = figure.subplots()
    quiet(axes)
    for kind, label in ((False, "complete"), (True, "pruned")):
        found = [
            (number, value)
            for number, (value, cut) in enumerate(zip(values, pruned, strict=True))
            if value is not None and cut == kind
        ]
        if found:
            face = "none" if kind else BLUE
            places, heights = zip(*found, strict=True)
            axes.scatter(
                places, heights, s=28, facecolors=face, edgecolors=theme().muted if kind else BLUE, label=label
            )
    complete = [None if cut else value for value, cut in zip(values, pruned, strict=True)]
    best = [(number, value) for number, value in enumerate(running_best(complete, sign)) if value is not None]
    if best:
        axes.step(*zip(*best, strict=True), where="post", color=ORANGE, linewidth=2, label="best so far")
    failed = [number for number, value in enumerate(values) if value is None]
    if failed:
        low = axes.get_ylim()[0]
        axes.scatter(failed, [low] * len(failed), marker="x", s=28, color=theme().muted, label="failed")
    axes.set_xlabel("trial", color=theme().muted)
    axes.set_ylabel(name, color=theme().muted)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9, labelcolor=theme().ink)
    return save_figure(figure, out)


def plot_importance(rows: Sequence[tuple[str, float]], out: str | Path, *, title: str = "") -> Path:
    """Draw the importance of each option as a bar, and save the figure.

    Args:
        rows: name and share, 0..1, of each option, the largest first.
        out: file to write.
        title: heading.

    Returns:
        The path of the file.
    """
    figure = new_figure(7, 0.8 + 0.4 * len(rows), title=title)
    axes = figure.subplots()
    quiet(axes)
    axes.grid(visible=False)
    names, shares = [name for name, _ in rows][::-1], [share for _, share in rows][::-1]
    bars = axes.barh(names, shares, color=BLUE, height=0.65)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=4, color=theme().muted, fontsize=9)
    axes.tick_params(axis="y", labelcolor=theme().ink)
    axes.set_xlim(0, 1.12 * max(shares))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    return save_figure(figure, out)


def plot_parallel(axes: Sequence[Axis], ranks: Sequence[float | None], out: str | Path, *, title: str = "") -> Path:
    """Draw a line through the values of each trial, the best tenth emphasized, and save the figure.

    Args:
        axes: of the options, and of the objective as the last one.
        ranks: rank of each trial, 0 the worst and 1 the best; None: not drawn.
        out: file to write.
        title: heading.

    Returns:
        The path of the file.
    """
    figure = new_figure(max(6, 1.7 * len(axes)), 4.2, title=title)
    plot = figure.subplots()
    quiet(plot)
    plot.grid(visible=False)
    for place in range(len(axes)):
        plot.axvline(place, color=theme().grid, linewidth=1, zorder=1)
    drawn = [(rank, number) for number, rank in enumerate(ranks) if rank is not None]
    for rank, number in sorted(drawn):
        points = [(place, axis.places[number]) for place, axis in enumerate(axes) if axis.places[number] is not None]
        if len(points) > 1:
            best = rank >= 0.9
            plot.plot(
                *zip(*points, strict=True),
                color=ORANGE if best else BLUE,
                alpha=0.15 + 0.85 * rank,
                linewidth=2.5 if best else 1.2,
                zorder=2,
            )
    for place, axis in enumerate(axes):
        for value, text in axis.ticks:
            plot.annotate(
                text,
                (place, value),
                xytext=(5, 0),
                textcoords="offset points",
                fontsize=8,
                color=theme().ink,
                va="center",
                zorder=3,
                bbox={"facecolor": theme().surface, "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
    plot.set_xticks(range(len(axes)), [axis.name for axis in axes], color=theme().ink, fontsize=9)
    plot.set_yticks([])
    plot.set_xlim(-0.2, len(axes) - 0.4)
    plot.spines["bottom"].set_visible(False)
    return save_figure(figure, out)


def plot_pareto(
    points: Sequence[tuple[float, float]],
    front: Sequence[int],
    out: str | Path,
    *,
    names: tuple[str, str],
    labels: Sequence[str] = (),
    title: str = "",
) -> Path:
    """Draw two objectives of each trial and the Pareto front, and save the figure.

    Args:
        points: (x, y) of each trial.
        front: numbers of the points on the front, in order along it.
        out: file to write.
        names: of x and y.
        labels: of the points on the front, in the order of `front`.
        title: heading.

    Returns:
        The path of the file.
    """
    figure = new_figure(7, 4.5, title=title)
    axes = figure.subplots()
    quiet(axes)
    others = [point for number, point in enumerate(points) if number not in front]
    if others:
        places, heights = zip(*others, strict=True)
        axes.scatter(places, heights, s=28, color=BLUE, alpha=0.6, label="dominated")
    best = [points[number] for number in front]
    axes.plot(*zip(*best, strict=True), color=ORANGE, linewidth=1.5, marker="o", markersize=7, label="Pareto front")
    for label, point in zip(labels, best, strict=False):
        axes.annotate(label, point, xytext=(6, -12), textcoords="offset points", fontsize=8, color=theme().ink)
    axes.set_xlabel(names[0], color=theme().muted)
    axes.set_ylabel(names[1], color=theme().muted)
    axes.margins(0.12)
    axes.legend(frameon=False, fontsize=9, labelcolor=theme().ink)
    return save_figure(figure, out)
