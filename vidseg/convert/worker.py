"""The worker process: reads jobs as JSON lines on stdin, answers on stdout. Run as `python -m vidseg.convert.worker`.

A process of its own, started by name and not by fork, keeps a decoder that crashes or hangs away from everything
else, and needs no `if __name__ == "__main__"` in a user's script.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from vidseg.convert.conversion import convert_one
from vidseg.convert.options import ConvertOptions
from vidseg.videos.listing import Job

__all__ = ["main"]

_HEARTBEAT_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve jobs until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers itself
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "w")  # what a codec prints to stdout must not mix with the answers
    os.dup2(2, 1)

    def answer(kind: str, value: object) -> None:
        print(json.dumps({kind: value}), file=answers, flush=True)

    answer("ready", os.getpid())
    for line in sys.stdin:
        request = json.loads(line)
        said = time.monotonic()

        def heartbeat(frames: int) -> None:
            nonlocal said
            if time.monotonic() - said > _HEARTBEAT_SECONDS:
                said = time.monotonic()
                answer("frames", frames)

        job, options = Job(**request["job"]), ConvertOptions(**request["options"])
        answer("done", convert_one(job, Path(request["jpg_folder"]), options, heartbeat).as_dict())


def _die_with_parent() -> None:
    """Have the kernel end this process when the parent is killed, also in the middle of a video (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
