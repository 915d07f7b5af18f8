"""What a run tells while it runs: log lines in the published format, speeds, score tables."""

import csv
import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = [
    "ScoreTable",
    "Scores",
    "SpeedMonitor",
    "epoch_line",
    "iteration_line",
    "paint_speeds",
    "run_log",
    "scientific",
    "time_line",
]

# clips per second below which a speed is shown red, yellow; green above (reading, forward, backward)
_LIMITS = {"r": (100, 3000), "f": (50, 300), "b": (20, 200)}
_RED, _YELLOW, _GREEN, _RESET = "\033[91m", "\033[93m", "\033[92m", "\033[0m"


@dataclass(frozen=True)
class Scores:
    """Scores of one batch or of many: fractions of hits, and the loss."""

    top1: float
    top5: float
    loss: float


def scientific(value: float) -> str:
    """Two decimals and an exponent without leading zeros: 1.53e+5, 1.25e-2."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent):+d}"


class SpeedMonitor:
    """Clips per second of the three parts of the last iteration.

    r: batch size over the time that the loop waited for the loader (a loader that is ahead shows a large number);
    f: over copy to the device, forward pass and loss; b: over backward pass and optimiser step. On an accelerator each
    part ends with a synchronisation, so that none is charged for another's work.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self._device = torch.device(device)
        self.seconds = {"r": 0.0, "f": 0.0, "b": 0.0}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Time one part: "r", "f" or "b"."""
        start = time.perf_counter()
        yield
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        self.seconds[part] = time.perf_counter() - start

    def text(self, clips: int, parts: str = "rfb") -> str:
        """ "Speed (r=1.53e+5 f=9.84e+1 b=1.78e+1) clip/sec" for a batch of `clips`."""
        speeds = " ".join(f"{part}={scientific(clips / max(self.seconds[part], 1e-9))}" for part in parts)
        return f"Speed ({speeds}) clip/sec"


def paint_speeds(line: str) -> str:
    """The line with its speeds in red, yellow or green, for terminals."""

    def paint(match: re.Match[str]) -> str:
        slow, fast = _LIMITS[match[1]]
        speed = float(match[2])
        colour = _RED if speed < slow else _YELLOW if speed < fast else _GREEN
        return f"{match[1]}={colour}{match[2]}{_RESET}"

    head, speed, rest = line.partition("Speed (")
    inside, close, tail = rest.partition(")")
    return head + speed + re.sub(r"\b([rfb])=(\S+)", paint, inside) + close + tail


def iteration_line(*, epoch: int, batch: int, speed: str, scores: Scores, shape: Sequence[int], lr: float) -> str:
    """One training iteration; `shape` is (B, C, T, H, W)."""
    clips, *rest = shape
    return (
        f"Epoch {f'[{epoch}]':<5} Batch {f'[{batch}]':<6} {speed}  "
        f"loss-ce = {scores.loss:.5f}, top1 = {scores.top1:.5f}, top5 = {scores.top5:.5f}, "
        f"batch_size = ({clips:5d},{','.join(map(str, rest))}), lr = {scientific(lr)}"
    )


def time_line(epoch: int, seconds: float) -> str:
    """How long the training part of an epoch took."""
    return f"Epoch [{epoch}]   time cost: {seconds:.2f} sec ({seconds / 3600:.2f} h)"


def epoch_line(kind: str, epoch: int, scores: Scores, *, iteration: int | None = None) -> str:
    """Averages over an epoch; kind: "train" or "val". With `iteration`, over the evaluation so far."""
    if kind == "train":
        head, equals = f"Epoch [{epoch}]  (train)", ": "
    else:
        part = "" if iteration is None else f" Iteration [{iteration}]:"
        head, equals = f"Epoch [{epoch}]:{part}  (val)", " "
    return (
        f"{head}  average top-1 acc: {scores.top1:.5f}   average top-5 acc: {scores.top5:.5f}   "
        f"average loss{equals}{scores.loss:.5f}"
    )


class ScoreTable:
    """A CSV file Epoch,Top1,Top5,Loss: one row for each epoch (from 0), scores as fractions in full precision."""

    def __init__(self, path: Path):
        self.path = path
        self._write("w", ["Epoch", "Top1", "Top5", "Loss"])

    def append(self, epoch: int, scores: Scores) -> None:
        """Add the row of one epoch."""
        self._write("a", [epoch, scores.top1, scores.top5, scores.loss])

    def _write(self, mode: str, row: Sequence[object]) -> None:
        with self.path.open(mode, newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)


class _Painter(logging.Formatter):
    """Another formatter's lines, with colours on their speeds."""

    def __init__(self, inner: logging.Formatter):
        super().__init__()
        self.inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return paint_speeds(self.inner.format(record))


@contextmanager
def run_log(path: Path) -> Iterator[None]:
    """Write vidseg's log to `path` as well, and colour the speeds on handlers that write to a terminal."""
    package = logging.getLogger("vidseg")
    level = package.level
    file = logging.FileHandler(path, mode="w", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    terminals = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream.isatty()
    ]
    plain = [handler.formatter or logging.Formatter() for handler in terminals]
    for handler, formatter in zip(terminals, plain, strict=True):
        handler.setFormatter(_Painter(formatter))
    package.addHandler(file)
    if package.getEffectiveLevel() > logging.INFO:
        package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.setLevel(level)
        package.removeHandler(file)
        file.close()
        for handler, formatter in zip(terminals, plain, strict=True):
            handler.setFormatter(formatter)
