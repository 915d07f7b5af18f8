"""Training on a CPU keeps the memory that a batch has freed."""

import subprocess
import sys

import pytest
import torch

from vidseg.engine import runs
from vidseg.engine.options import DeviceOptions
from vidseg.tasks.recognition.options import RecognitionOptions

# Page faults of the second of two equal rounds: more memory is freed at once than glibc keeps by default.
FAULTS = """
import ctypes, resource, sys
from vidseg.engine.freed_memory import keep_freed_memory

library, size = ctypes.CDLL(None), 24 << 20
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def used():
    blocks = [library.malloc(size) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks:
        library.free(block)

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("another allocator")
used()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
used()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True)
    if "another allocator" in done.stderr:
        pytest.skip("this C library is not glibc")
    return int(done.stdout)


def test_memory_that_is_used_again_is_not_taken_from_the_kernel_again():
    assert page_faults("keep") < 16 < page_faults("default")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_runs_on_a_cpu_keep_it(device, monkeypatch):
    calls = []
    monkeypatch.setattr(runs, "keep_freed_memory", lambda: calls.append(1))
    monkeypatch.setattr(runs, "choose_device", lambda devices: torch.device(devices.device))
    runs.start_run(RecognitionOptions(devices=DeviceOptions(device=device)))
    assert bool(calls) == (device == "cpu")
