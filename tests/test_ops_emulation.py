"""The CUDA kernels, built for the host and run by an emulator, against the CPU operators (see docs/gpu.md)."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
EMULATION, KERNELS = ROOT / "tests/emulation", ROOT / "csrc/ops/cuda"
TORCH = Path(torch.__file__).parent
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
FLAGS = ["-std=c++17", "-O1", "-g1", "-fPIC", *SANITIZERS, "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-Wno-unknown-pragmas", "-Wno-unused-parameter", "-Wno-attributes"]
INCLUDES = [f"-I{EMULATION}", f"-I{ROOT / 'csrc'}", "-isystem", TORCH / "include"]
INCLUDES += ["-isystem", TORCH / "include/torch/csrc/api/include"]
CASES = 40  # of the expensive groups, three times as many of the others
CASES_IN_ALL = 13 * CASES

SOURCES = [ROOT / "csrc/ops/library.cpp", *sorted(KERNELS.glob("*.cu"))]
SOURCES += [EMULATION / "emulator.cpp", EMULATION / "torch_cuda.cpp"]


def compile_source(source: Path, target: Path) -> None:
    defines = ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000ULL"]
    command = ["g++", *FLAGS, *defines, *INCLUDES, "-x", "c++", "-c", source, "-o", target]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[:4000]


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("emulation")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda source: compile_source(source, folder / f"{source.name}.o"), SOURCES))
    return folder


@pytest.fixture(scope="module")
def library(objects) -> Path:
    target = objects / "emulated.so"
    # -Bsymbolic-functions: the operators call the functions of torch_cuda.cpp, not those of torch.
    command = ["g++", "-shared", "-Wl,-Bsymbolic-functions", *SANITIZERS, "-o", target, *objects.glob("*.o")]
    subprocess.run([*command, f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10"], check=True)
    return target


def sanitizer_library(name: str) -> str:
    return subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.slow
def test_every_kernel_equals_the_cpu_operator(library, tmp_path):
    environment = {
        **os.environ,
        "LD_PRELOAD": f"{sanitizer_library('libasan.so')}:{sanitizer_library('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "EMULATION_KERNELS": str(tmp_path / "kernels"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, ROOT / "tests/fuzz/operators.py", "--library", library, "--cases", str(CASES)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr[-4000:]}"
    groups = re.findall(r"^\w+: (\d+) cases, 0 differ", result.stdout, re.MULTILINE)
    assert sum(map(int, groups)) == CASES_IN_ALL

    sources = "".join(path.read_text() for path in KERNELS.glob("*.cuh"))
    kernels = set(re.findall(r"__global__ void\s+(?:__launch_bounds__\(.*\)\s+)?(\w+)\(", sources))
    launched = set(re.findall(r"^\d+ void vidseg::(\w+)<", (tmp_path / "kernels").read_text(), re.MULTILINE))
    assert len(kernels) >= 17 and kernels <= launched


@pytest.fixture(scope="module")
def faults(objects) -> Path:
    target = objects / "faults"
    sources = [EMULATION / "faults.cpp", EMULATION / "emulator.cpp"]
    subprocess.run(["g++", *FLAGS, *INCLUDES, *sources, "-o", target], check=True)
    return target


@pytest.mark.parametrize(
    "kind, status, message",
    [
        ("none", 0, "right"),
        ("division", 0, "right"),
        ("barrier", 0, "wrong"),
        ("second_barrier", 0, "wrong"),
        ("wait", 0, "wrong"),
        ("warp", 0, "wrong"),
        ("divergence", 1, "threads of a block wait at a barrier that others do not reach"),
        ("bound", 1, "AddressSanitizer: heap-buffer-overflow"),
        ("alignment", -6, "the addresses of an asynchronous copy are aligned to its size"),
    ],
)
def test_the_emulator_finds_faults(faults, kind, status, message):
    result = subprocess.run([faults, kind], capture_output=True, text=True)
    assert result.returncode == status
    assert message in result.stdout + result.stderr
