"""Limit of the memory that this process may allocate."""

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["limited_memory"]


@contextlib.contextmanager
def limited_memory(gibibytes: float | None) -> Iterator[None]:
    """Let the process allocate at most this much more memory (Linux); allocations beyond the limit fail.

    The memory in use beforehand, such as that of torch, is not counted.

    Args:
        gibibytes: limit in GiB; None: no limit.
    """
    if gibibytes is None or sys.platform != "linux":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + int(gibibytes * 2**30)
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """Return the size of the writable private memory of this process, which RLIMIT_DATA limits."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no line VmData")
