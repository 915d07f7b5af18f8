"""Counts and times of a server in the text format of Prometheus."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["ServerMetrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64)
_COUNTERS = {
    "vidseg_requests_total": "HTTP requests by method, route and status",
    "vidseg_upload_bytes_total": "bytes of request bodies",
    "vidseg_jobs_ended_total": "ended jobs by state",
    "vidseg_stream_frames_total": "frames of streams",
    "vidseg_rejected_total": "requests and streams that were refused because the queue was full",
}
_HISTOGRAMS = {
    "vidseg_request_seconds": ("time of HTTP requests", _SECONDS),
    "vidseg_batch_rows": ("clips in a batch of the network", _ROWS),
    "vidseg_job_seconds": ("time of jobs", _SECONDS),
    "vidseg_window_seconds": ("time from the last frame of a stream's window to its labels", _SECONDS),
}


class ServerMetrics:
    """Counters, histograms and gauges; any thread may use it.

    Args:
        server: name of the server, which all values have as the label `server`; None: there is only one.
    """

    def __init__(self, server: str | None = None) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, str], float] = {}
        self._histograms: dict[tuple[str, str], list[float]] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._begin = time.time()

    def count(self, name: str, amount: float = 1.0, **labels: object) -> None:
        """Increase a counter."""
        assert name in _COUNTERS, name
        key = (name, _labels(labels))
        with self._lock:
            self._counters[key] = self._counters.get(key, 0.0) + amount

    def observe(self, name: str, value: float, **labels: object) -> None:
        """Add a value to a histogram."""
        bounds = _HISTOGRAMS[name][1]
        key = (name, _labels(labels))
        with self._lock:
            row = self._histograms.setdefault(key, [0.0] * (len(bounds) + 2))  # buckets, then the sum
            row[bisect_left(bounds, value)] += 1
            row[-1] += value

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is asked for at each scrape; `name` may have labels in braces."""
        self._gauges[name] = (text, value)

    def value(self, name: str, **labels: object) -> float:
        """Return the value of a counter."""
        with self._lock:
            return self._counters.get((name, _labels(labels)), 0.0)

    def text(self) -> str:
        """Return all values in the text format of Prometheus."""
        lines: list[str] = []
        with self._lock:
            for name, text in _COUNTERS.items():
                rows = [f"{name}{labels} {value:g}" for (key, labels), value in self._counters.items() if key == name]
                lines += _block(name, text, "counter", rows)
            for name, (text, bounds) in _HISTOGRAMS.items():
                rows = []
                for (key, labels), row in self._histograms.items():
                    if key == name:
                        rows += _buckets(name, labels, bounds, row)
                lines += _block(name, text, "histogram", rows)
        said: set[str] = set()
        for name, (text, value) in [*self._gauges.items(), *self._process().items()]:
            plain = name.partition("{")[0]
            head = [] if plain in said else _block(plain, text, "gauge", [])
            lines += [*head, f"{name} {value():g}"]
            said.add(plain)
        return "\n".join(map(self._labeled, lines)) + "\n"

    def _labeled(self, line: str) -> str:
        if self._server is None or line.startswith("#"):
            return line
        name, value = line.rsplit(" ", 1)
        inner = name.partition("{")[2]
        return f'{name.partition("{")[0]}{{server="{self._server}"{"," + inner if inner else "}"} {value}'

    def _process(self) -> dict[str, tuple[str, Callable[[], float]]]:
        return {
            "vidseg_process_cpu_seconds": ("processor time of the server", lambda: sum(os.times()[:2])),
            "vidseg_process_resident_bytes": ("memory of the server", _resident_bytes),
            "vidseg_process_start_seconds": ("start of the server, seconds since 1970", lambda: self._begin),
        }


def _resident_bytes() -> float:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no /proc on this system
        return 0.0


def _labels(labels: dict[str, object]) -> str:
    if not labels:
        return ""
    escaped = {
        key: str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for key, value in labels.items()
    }
    return "{" + ",".join(f'{key}="{value}"' for key, value in sorted(escaped.items())) + "}"


def _block(name: str, text: str, kind: str, rows: Sequence[str]) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *rows]


def _buckets(name: str, labels: str, bounds: Sequence[float], row: Sequence[float]) -> list[str]:
    inner = labels[1:-1] + "," if labels else ""
    lines, total = [], 0.0
    for bound, count in zip((*map(str, bounds), "+Inf"), row, strict=False):
        total += count
        lines.append(f'{name}_bucket{{{inner}le="{bound}"}} {total:g}')
    return [*lines, f"{name}_sum{labels} {row[-1]:g}", f"{name}_count{labels} {total:g}"]
