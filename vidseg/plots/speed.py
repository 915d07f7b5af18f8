"""Plot of the speed of a run: loader, forward and backward pass by iteration, from its log."""

import re
from pathlib import Path

import numpy as np
from matplotlib.ticker import PercentFormatter

from vidseg.plots.canvas import BLUE, INK, MUTED, ORANGE, new_figure, quiet, save_figure

__all__ = ["plot_speeds", "read_speeds"]

_LINE = re.compile(r"Batch \[\d+\].*Speed \((?P<speeds>[^)]*)\).*batch_size = \(\s*\d+,.*\(waited (?P<waited>\d+)%\)")
_GREEN = "#3c8d5a"
_PARTS = (("r", "loader", BLUE), ("f", "forward", _GREEN), ("b", "backward", ORANGE))


def read_speeds(log: Path) -> np.ndarray:
    """Read the speeds in a run's log as float64 (N, 4): clips/s of loader, forward and backward pass, fraction of time
    waited.

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
            rows.append([float(speeds.get(part, "nan")) for part, *_ in _PARTS] + [int(match["waited"]) / 100])
    if not rows:
        raise ValueError(f"{log}: no iteration line found; pass the log of a run with at least one iteration")
    return np.array(rows)


def plot_speeds(run: str | Path, out: str | Path, *, title: str = "") -> Path:
    """Plot the speeds of a run's iterations, and save the figure.

    Args:
        run: folder with `train.log`, or `log.txt`.
        out: output file.
        title: heading, such as the name of the run.

    Returns:
        The path of the file.
    """
    logs = [Path(run) / name for name in ("train.log", "log.txt")]
    rows = read_speeds(next((log for log in logs if log.is_file()), logs[0]))
    places = np.arange(len(rows))
    figure = new_figure(10, 5)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK, fontweight="bold")
    speeds, waited = figure.subplots(2, 1, height_ratios=(2, 1), sharex=True)
    quiet(speeds)
    speeds.set_title("clips per second", loc="left", fontsize=10, color=MUTED)
    for column, (_, name, color) in enumerate(_PARTS):
        speeds.plot(places, rows[:, column], ".", color=color, markersize=4, label=name)
    speeds.set_yscale("log")
    speeds.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper right", ncols=3)
    quiet(waited)
    waited.set_title("fraction of time waiting for the loader", loc="left", fontsize=10, color=MUTED)
    waited.fill_between(places, rows[:, 3], step="mid", color=BLUE, alpha=0.5, linewidth=0)
    waited.set_ylim(0, 1)
    waited.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    waited.set_xlabel("line of the log", fontsize=9, color=MUTED)
    waited.set_xlim(-0.5, max(0.5, len(rows) - 0.5))
    return save_figure(figure, out)
