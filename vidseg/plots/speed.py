"""Plot of the speed of a run: loader, forward and backward pass over its epochs, from its log."""

import re
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, PercentFormatter

from vidseg.plots.canvas import epoch_ticks, new_figure, quiet, save_figure
from vidseg.plots.palette import BLUE, GREEN, ORANGE, theme

__all__ = ["plot_speeds", "read_speeds"]

_LINE = re.compile(
    r"Epoch \[(?P<epoch>\d+)\].*Batch \[\d+\].*Speed \((?P<speeds>[^)]*)\).*batch_size = \(\s*\d+,.*"
    r"\(waited (?P<waited>\d+)%\)"
)
_PARTS = (("r", "loader", BLUE), ("f", "forward", GREEN), ("b", "backward", ORANGE))


def read_speeds(log: Path) -> np.ndarray:
    """Read the speeds in a run's log as float64 (N, 5): clips/s of loader, forward and backward pass, fraction of time
    waited, epoch from 1.

    Speeds missing in a line are NaN.

    Raises:
        FileNotFoundError: the log does not exist.
        ValueError: the log has no line of an iteration.
    """
    if not log.is_file():
        raise FileNotFoundError(f"{log}: log not found; pass the folder of a run")
    rows = []
    for line in log.read_text(encoding="utf-8").splitlines():
        if match := _LINE.search(line):
            speeds = dict(part.split("=") for part in match["speeds"].split())
            parts = [float(speeds.get(part, "nan")) for part, *_ in _PARTS]
            rows.append([*parts, int(match["waited"]) / 100, int(match["epoch"])])
    if not rows:
        raise ValueError(f"{log}: no iteration line found; pass the log of a run with at least one iteration")
    return np.array(rows)


def plot_speeds(run: str | Path, out: str | Path, *, title: str = "") -> Path:
    """Plot the speeds of a run over its epochs, and save the figure.

    Points are the iterations in the log, lines the medians of the epochs.

    Args:
        run: folder with `train.log`, or `log.txt`.
        out: output file.
        title: heading, such as the name of the run.

    Returns:
        The path of the file.
    """
    logs = [Path(run) / name for name in ("train.log", "log.txt")]
    rows = read_speeds(next((log for log in logs if log.is_file()), logs[0]))
    epochs = rows[:, 4]
    places = _places(epochs)
    medians = {}
    for column, (_, name, _) in enumerate(_PARTS):
        known = rows[np.isfinite(rows[:, column]), column]
        medians[name] = float(np.median(known)) if len(known) else float("nan")
    facts = ", ".join(f"{name} {_rate(value)}" for name, value in medians.items() if np.isfinite(value))
    waited_share = f"{np.median(rows[:, 3]):.0%}"
    figure = new_figure(
        10, 4.8, title=title, detail=f"medians of the run, clips per second: {facts}; time waiting {waited_share}"
    )
    speeds, waited = figure.subplots(2, 1, height_ratios=(2, 1), sharex=True)
    quiet(speeds)
    speeds.set_title("clips per second; lines: medians of the epochs", loc="left", fontsize=10, color=theme().muted)
    for column, (_, name, color) in enumerate(_PARTS):
        if np.isfinite(medians[name]):
            speeds.plot(places, rows[:, column], ".", color=color, markersize=3, alpha=0.35, linewidth=0)
            _plot_medians(speeds, epochs, rows[:, column], color, name)
    speeds.set_yscale("log")
    speeds.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _rate(value)))
    speeds.yaxis.set_minor_formatter(NullFormatter())
    legend = speeds.legend(
        frameon=False, fontsize=9, labelcolor=theme().ink, loc="lower right", ncols=3, borderaxespad=0,
        bbox_to_anchor=(1, 1.01),
    )  # fmt: skip
    legend.set_in_layout(False)
    quiet(waited)
    waited.set_title("fraction of time waiting for the loader", loc="left", fontsize=10, color=theme().muted)
    waited.plot(places, rows[:, 3], ".", color=BLUE, markersize=3, alpha=0.35, linewidth=0)
    _plot_medians(waited, epochs, rows[:, 3], BLUE, "median")
    waited.set_ylim(-0.02, 1.02)
    waited.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    waited.set_xlabel("epoch", fontsize=9, color=theme().muted)
    waited.xaxis.set_major_locator(FixedLocator(epoch_ticks(epochs.min(), epochs.max())))
    waited.set_xlim(epochs.min() - 0.55, epochs.max() + 0.55)
    return save_figure(figure, out)


def _rate(value: float) -> str:
    """Format a rate with at least three digits, without exponent."""
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


def _places(epochs: np.ndarray) -> np.ndarray:
    """Return where each iteration is on the axis: those of an epoch are spread around its number."""
    places = np.zeros(len(epochs))
    for epoch in np.unique(epochs):
        own = np.flatnonzero(epochs == epoch)
        places[own] = epoch + (np.arange(len(own)) + 0.5) / len(own) - 0.5
    return places


def _plot_medians(axes: Axes, epochs: np.ndarray, values: np.ndarray, color: str, label: str) -> None:
    """Draw a horizontal line at the median of each epoch."""
    for epoch in np.unique(epochs):
        own = values[(epochs == epoch) & np.isfinite(values)]
        if len(own):
            level = float(np.median(own))
            axes.plot([epoch - 0.42, epoch + 0.42], [level, level], color=color, linewidth=2.5, label=label)
            label = "_"  # the legend names a color once
