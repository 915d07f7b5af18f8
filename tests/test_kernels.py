"""No result depends on the processor: kernels give the recorded results with every set of vector instructions.

`.ci/aarch64` makes the same comparison on 64-bit ARM."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KERNELS = ROOT / "tests/kernels"
X86 = platform.machine() == "x86_64"
FLAGS = {  # of /proc/cpuinfo; see detect_simd in csrc/common/simd.h
    "baseline": "",
    "avx2": "avx2 fma bmi2 f16c",
    "avx512": "avx2 fma bmi2 f16c avx512f avx512bw avx512vl avx512dq",
}


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kernels")
    subprocess.run([KERNELS / "build", folder], check=True)
    return folder / "kernels"


def compare(command: list[str | Path], name: str = "") -> str:
    """Run the program, compare its lines with the recorded ones and return the instruction set that it names."""
    environment = {**os.environ, "VIDSEG_SIMD": name}
    result = subprocess.run([*command, KERNELS / "jpegs"], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    recorded, now = (KERNELS / "recorded.txt").read_text().splitlines(), result.stdout.splitlines()
    changed = [line for line in now if line not in set(recorded)]
    assert changed == [] and now == recorded, f"{len(changed)} of {len(now)} cases changed"
    return result.stderr.split(":")[1].strip()


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
def test_every_instruction_set(program, name):
    present = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    if missing := set(FLAGS[name].split()) - present:
        pytest.skip(f"this processor lacks {', '.join(sorted(missing))}")
    assert compare([program], name).split(" ")[0] == name


@pytest.mark.skipif(not X86, reason="the program is not one for x86-64")
def test_a_processor_without_avx(program):
    """VIDSEG_SIMD does not reach loops that the compiler vectorizes; there, the dynamic linker decides."""
    emulator = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("needs qemu-x86_64 (Debian package qemu-user-static)")
    assert compare([emulator, "-cpu", "Nehalem-v1", program]).split(" ")[0] == "baseline"


def test_pixels_do_not_depend_on_the_c_library():
    """Its elementary functions differ in the last bit between versions and processors; csrc/common/functions.h has
    others. Square roots, remainders and rounding are exact."""
    inexact = r"\b(exp2?|expm1|log(2|10|1p)?|pow|(sin|cos|tan|a(sin|cos|tan)2?)h?|hypot|cbrt|erfc?|[lt]gamma)f?\("
    found = [
        f"{path.name}: {match[0]}"
        for path in sorted((ROOT / "csrc/frames").glob("*.*"))
        for match in re.finditer(rf"std::{inexact}", path.read_text())
    ]
    assert found == []
