"""Worker process of a conversion: reads jobs as JSON lines on stdin and writes results to stdout.

Run as `python -m vidseg.convert.worker PARENT`, with the process id of the parent. A separate process isolates the run
from decoders that crash or hang. It is started by module name, not by fork, so user scripts need no
`if __name__ == "__main__"`.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vidseg.convert.conversion import Heartbeat, Outcome, convert_one
from vidseg.convert.convert_options import ConvertOptions
from vidseg.videos.listing import Job

__all__ = ["serve"]

Work = Callable[[Job, Path, dict[str, Any], Heartbeat], Outcome]

_HEARTBEAT_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def serve(work: Work) -> None:
    """Process jobs until stdin closes.

    Args:
        work: does one job, given the job, the data set's jpg/ folder, the fields of the options, and a function to call
            with the number of frames so far.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the parent stops its workers
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))  # the parent has blocked them
    _die_with_parent()
    results = os.fdopen(os.dup(1), "w")  # keep output of codecs out of the results
    os.dup2(2, 1)

    def send(kind: str, value: object) -> None:
        print(json.dumps({kind: value}), file=results, flush=True)

    send("ready", os.getpid())
    for line in sys.stdin:
        request = json.loads(line)
        job, options = Job(**request["job"]), request["options"]
        send("began", job.target)
        heartbeat = _Heartbeat(send, min(_HEARTBEAT_SECONDS, options["stall_limit"] / 4))
        send("done", work(job, Path(request["jpg_folder"]), options, heartbeat).as_dict())


def _convert(job: Job, jpg_folder: Path, options: dict[str, Any], heartbeat: Heartbeat) -> Outcome:
    return convert_one(job, jpg_folder, ConvertOptions(**options), heartbeat)


class _Heartbeat:
    """Sends the number of frames so far, at most once in `interval` seconds."""

    def __init__(self, send: Callable[[str, object], None], interval: float) -> None:
        self._send, self._interval = send, interval
        self._sent = time.monotonic()

    def __call__(self, frames: int) -> None:
        if time.monotonic() - self._sent > self._interval:
            self._sent = time.monotonic()
            self._send("frames", frames)


def _die_with_parent() -> None:
    """Have the kernel kill this process when the parent is killed, also in the middle of a video (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(sys.argv[1]):
            sys.exit("the parent process has ended")


if __name__ == "__main__":
    serve(_convert)
