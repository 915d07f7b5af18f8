"""The default number of decoding threads."""

import os

__all__ = ["default_threads"]


def default_threads() -> int:
    """Return the cores that this process may use, divided among the processes of a torchrun on this machine."""
    processes = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return max(1, len(os.sched_getaffinity(0)) // processes)
