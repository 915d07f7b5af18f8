"""Hardware and vector instructions, for the output of all benchmarks."""

import os
import platform
from pathlib import Path

from vidseg.frames.native import simd


def hardware() -> str:
    """Return the processor, the cores that this process may use, the vector instructions that run, and the system."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {simd()}, {platform.platform()}"
