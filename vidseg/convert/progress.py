"""Progress of a run of many videos: a bar on a terminal, log lines elsewhere."""

import logging
import sys
import time

from tqdm import tqdm

from vidseg.convert.conversion import Outcome

__all__ = ["Progress"]

_log = logging.getLogger("vidseg.convert")
_LOG_EVERY = 10.0  # seconds between progress lines without a terminal


class Progress:
    """Progress display: a bar with videos, frames/s and remaining time on a terminal, log lines elsewhere."""

    def __init__(self, total: int, finished: int) -> None:
        self._bar = tqdm(total=total, initial=finished, unit=" video", disable=not sys.stderr.isatty())
        self._total, self._videos, self._failed = total, finished, 0
        self._frames, self._began, self._logged = 0, time.monotonic(), time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, result: Outcome | int) -> None:
        """Record an outcome, or the number of frames of the running jobs."""
        running = result if isinstance(result, int) else 0
        if isinstance(result, Outcome):
            self._videos += 1
            self._frames += result.frames
            self._failed += result.state == "failed"
            self._bar.update()
            if result.problem:
                _log.warning("%s: %s: %s", result.state, result.source, result.problem)
        now = time.monotonic()
        rate = (self._frames + running) / max(now - self._began, 1e-9)
        self._bar.set_postfix_str(f"{rate:.0f} frames/s, {self._failed} failed", refresh=False)
        if self._bar.disable and now - self._logged > _LOG_EVERY:
            self._logged = now
            _log.info("%d of %d videos, %.0f frames/s, %d failed", self._videos, self._total, rate, self._failed)
