"""Bar chart of a benchmark: rates of several implementations in several settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vidseg.plots.canvas import new_figure, save_figure
from vidseg.plots.palette import BLUE, ORANGE, theme

__all__ = ["plot_rates"]


def plot_rates(
    rates: Mapping[str, Mapping[str, float]],
    out: str | Path,
    *,
    title: str = "",
    unit: str = "",
    ours: Sequence[str] = (),
    limits: Sequence[str] = (),
) -> Path:
    """Plot one panel of horizontal bars per setting, with rows in the same order in all panels, and save the figure.

    Each panel has its own scale from 0; the rate is written at the end of each bar.

    Args:
        rates: setting -> row name -> rate; rows missing in a setting stay empty.
        out: output file.
        title: heading.
        unit: unit of the rates.
        ours: rows drawn in the accent color.
        limits: rows drawn in gray.

    Returns:
        The path of the file.

    Raises:
        ValueError: there is no setting, or a setting has no rows.
    """
    if not rates or not all(rates.values()):
        raise ValueError("rates is empty or has a setting without rows; pass at least one row per setting")
    names = list(dict.fromkeys(name for rows in rates.values() for name in rows))
    places = {name: len(names) - 1 - position for position, name in enumerate(names)}
    figure = new_figure(3.4 + 2.1 * len(rates), 0.9 + 0.27 * len(names), title=title)
    panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for axes, (setting, rows) in zip(panels, rates.items(), strict=True):
        colors = [ORANGE if name in ours else theme().muted if name in limits else BLUE for name in rows]
        axes.barh([places[name] for name in rows], list(rows.values()), height=0.66, color=colors)
        for name, rate in rows.items():
            axes.annotate(
                _short(rate), (rate, places[name]), xytext=(3, 0), textcoords="offset points", va="center",
                fontsize=8, color=theme().ink,
            )  # fmt: skip
        axes.set_facecolor(theme().surface)
        axes.set_xlim(0, 1.3 * max(rows.values()))
        axes.set_title(setting, loc="left", fontsize=10, color=theme().ink)
        axes.set_xlabel(unit, fontsize=9, color=theme().muted)
        axes.set_xticks([])
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    panels[0].set_yticks(list(places.values()), list(places), fontsize=9, color=theme().ink)
    return save_figure(figure, out)


def _short(rate: float) -> str:
    """Format a rate with three significant digits, without exponent."""
    digits = max(0, 2 - len(str(int(rate))) + 1) if rate >= 1 else 2
    return f"{rate:,.{digits}f}".replace(",", " ")
