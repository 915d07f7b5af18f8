"""Monitoring of a run: log lines in the published format, speeds, score tables."""

import csv
import logging
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "ScoreTable",
    "SpeedMonitor",
    "Speeds",
    "iteration_line",
    "paint_speeds",
    "progress_bar",
    "run_log",
    "scientific",
    "time_line",
    "timed_batches",
]

# clips per second below which a speed is shown red, yellow; green above (reading, forward, backward)
_LIMITS = {"r": (100, 3000), "f": (50, 300), "b": (20, 200)}
_RED, _YELLOW, _GREEN, _RESET = "\033[91m", "\033[93m", "\033[92m", "\033[0m"
_STARVED = 0.1
"""Share of an iteration spent waiting above which the loader is reported as the limit of the run."""


def scientific(value: float) -> str:
    """Format a number with two decimals and an exponent without leading zeros: 1.53e+5, 1.25e-2."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent):+d}"


@dataclass(frozen=True)
class Speeds:
    """Seconds of one batch: in the loader, waiting for it, forward, backward."""

    clips: int
    """Clips of the batch over all processes."""
    fill: float | None = None
    """Time of the loader's threads for the batch; None if the loader does not report it."""
    wait: float = 0.0
    """Time that the loop waited for the batch."""
    forward: float | None = None
    """Copy to the device, forward pass, loss; None until the device has finished a batch."""
    backward: float | None = None
    """Backward pass, exchange of gradients, optimizer step."""

    def text(self) -> str:
        """ "Speed (r=1.53e+5 f=9.84e+1 b=1.78e+1) clip/sec"; evaluation has no b."""
        # Without the loader's own time, the waiting time is a lower bound of its speed.
        seconds = {"r": self.wait if self.fill is None else self.fill, "f": self.forward, "b": self.backward}
        known = {part: value for part, value in seconds.items() if value is not None}
        speeds = " ".join(f"{part}={scientific(self.clips / max(value, 1e-9))}" for part, value in known.items())
        return f"Speed ({speeds}) clip/sec"

    def limit(self) -> str:
        """Return the slowest part, "reading", "forward" or "backward", and the share of waiting."""
        forward, backward = self.forward or 0.0, self.backward or 0.0
        share = self.wait / max(self.wait + forward + backward, 1e-9)
        name = "reading" if share > _STARVED else "forward" if forward > backward else "backward"
        return f"limit = {name} (waited {share:.0%})"


class SpeedMonitor:
    """Speeds of the iterations, measured without making the device wait.

    On an accelerator, events in its queue mark the start and the end of the passes; they are read when the device has
    passed them, so the numbers are those of the latest finished iteration. On the CPU the clock is read.

    Args:
        device: device of the model.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self._device = torch.device(device)
        self._timed = self._device.type == "cpu"
        self._marks: list[Any] = []
        self._open: deque[list[Any]] = deque()
        self._passes: tuple[float | None, float | None] = (None, None)

    def start(self) -> None:
        """Mark the start of the copy of a batch to the device."""
        self._marks = [self._mark()]

    def turn(self) -> None:
        """Mark the start of the backward pass."""
        self._marks.append(self._mark())

    def stop(self) -> None:
        """Mark the end of the step."""
        self._open.append([*self._marks, self._mark()])
        self._collect()

    def speeds(self, clips: int, *, wait: float, fill: float | None = None) -> Speeds:
        """Return the latest times, for a batch of `clips`."""
        self._collect()
        return Speeds(clips, fill, wait, *self._passes)

    def _mark(self) -> Any:
        if self._timed:
            return time.perf_counter()
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event

    def _collect(self) -> None:
        while self._open and (self._timed or self._open[0][-1].query()):
            marks = self._open.popleft()
            seconds = [
                after - before if self._timed else before.elapsed_time(after) / 1000
                for before, after in pairwise(marks)
            ]
            self._passes = (seconds[0], seconds[1] if len(seconds) > 1 else None)


def paint_speeds(line: str) -> str:
    """Color the speeds of a log line red, yellow or green, for terminals."""

    def paint(match: re.Match[str]) -> str:
        slow, fast = _LIMITS[match[1]]
        speed = float(match[2])
        color = _RED if speed < slow else _YELLOW if speed < fast else _GREEN
        return f"{match[1]}={color}{match[2]}{_RESET}"

    head, speed, rest = line.partition("Speed (")
    inside, close, tail = rest.partition(")")
    return head + speed + re.sub(r"\b([rfb])=(\S+)", paint, inside) + close + tail


def iteration_line(
    *, epoch: int, batch: int, speed: str, scores: str, shape: Sequence[int], lr: float, extra: Sequence[str] = ()
) -> str:
    """Format the log line of a training iteration.

    `shape` is (B, C, T, H, W); `extra` is appended to the published line.
    """
    clips, *rest = shape
    size = f"batch_size = ({clips:5d},{','.join(map(str, rest))}), lr = {scientific(lr)}"
    return f"Epoch {f'[{epoch}]':<5} Batch {f'[{batch}]':<6} {speed}  " + ", ".join([scores, size, *extra])


def timed_batches(loader: Any, first: int = 0) -> Iterator[tuple[int, Any, float]]:
    """Iterate over (number, batch, seconds waited for it) of an epoch's batches from `first` on.

    Args:
        loader: batches; one with `load_state_dict` has been set to `first`, another one is read up to it.
        first: number of the first batch.
    """
    iterator = iter(loader)
    skip = 0 if first == 0 or hasattr(loader, "load_state_dict") else first
    with closing(iterator) if hasattr(iterator, "close") else nullcontext():
        for index in range(first - skip, len(loader)):
            start = time.perf_counter()
            batch = next(iterator)
            wait = time.perf_counter() - start
            if index >= first:
                yield index, batch, wait


def time_line(epoch: int, seconds: float) -> str:
    """Format the log line with the training time of an epoch."""
    return f"Epoch [{epoch}]   time cost: {seconds:.2f} sec ({seconds / 3600:.2f} h)"


class ScoreTable:
    """A CSV file with one row for each epoch, from 1; scores have full precision.

    Args:
        path: of the file; an existing one is replaced.
        columns: column names after "Epoch", such as Top1, Top5, Loss.
    """

    def __init__(self, path: Path, columns: Sequence[str]):
        self.path = path
        self._write("w", ["Epoch", *columns])

    def append(self, epoch: int, scores: Sequence[float]) -> None:
        """Add the row of one epoch."""
        self._write("a", [epoch, *scores])

    def _write(self, mode: str, row: Sequence[object]) -> None:
        with self.path.open(mode, newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)


class _Painter(logging.Formatter):
    """Colors the speeds in the lines of another formatter."""

    def __init__(self, inner: logging.Formatter):
        super().__init__()
        self.inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return paint_speeds(self.inner.format(record))


@contextmanager
def progress_bar(total: int, title: str, *, shown: bool = True) -> Iterator[Any]:
    """Show a progress bar below the log lines, if stderr is a terminal."""
    import sys

    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    shown = shown and sys.stderr.isatty()
    with ExitStack() as stack:
        if shown:
            stack.enter_context(logging_redirect_tqdm())
        yield stack.enter_context(tqdm(total=total, desc=title, unit="batch", leave=False, disable=not shown))


def _is_terminal(stream: Any) -> bool:
    """Return whether a handler's stream is a terminal; a delayed file handler has no stream, and others no isatty."""
    return not getattr(stream, "closed", False) and bool(getattr(stream, "isatty", bool)())


@contextmanager
def run_log(path: Path, *, append: bool = False, debug: bool = False) -> Iterator[None]:
    """Also write vidseg's log to `path`, and color the speeds in handlers that write to a terminal."""
    package = logging.getLogger("vidseg")
    level = package.level
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, mode="a" if append else "w", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    terminals = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and _is_terminal(handler.stream)
    ]
    plain = [handler.formatter or logging.Formatter() for handler in terminals]
    for handler, formatter in zip(terminals, plain, strict=True):
        handler.setFormatter(_Painter(formatter))
    package.addHandler(file)
    lowest = logging.DEBUG if debug else logging.INFO
    if package.getEffectiveLevel() > lowest:
        package.setLevel(lowest)
    try:
        yield
    finally:
        package.setLevel(level)
        package.removeHandler(file)
        file.close()
        for handler, formatter in zip(terminals, plain, strict=True):
            handler.setFormatter(formatter)
