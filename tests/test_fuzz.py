"""A short run of the fuzzer of tests/fuzz, under the sanitizers: hostile bytes give pixels or an error, no more."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FUZZ = ROOT / "tests" / "fuzz"
INPUTS = 4000


def test_mutated_jpegs_and_databases_are_survived(tmp_path):
    subprocess.run([sys.executable, FUZZ / "make_corpus.py", tmp_path / "seeds"], check=True, cwd=ROOT)
    sources = [source for source in sorted((ROOT / "csrc/frames").glob("*.cpp")) if "library" not in source.name]
    program = tmp_path / "mutate"
    flags = ["-std=c++17", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    inputs = [FUZZ / "fill_fuzzer.cpp", FUZZ / "mutate.cpp", *sources]
    subprocess.run(
        [
            "g++",
            *flags,
            f"-I{ROOT / 'csrc'}",
            f"-I{ROOT / 'csrc/frames'}",
            *inputs,
            "-o",
            program,
            "-ljpeg",
            "-lsqlite3",
            "-lpthread",
        ],
        check=True,
    )
    seeds = sorted((tmp_path / "seeds").iterdir())
    result = subprocess.run(
        [program, str(INPUTS), *seeds],
        capture_output=True,
        text=True,
        env={"TMPDIR": str(tmp_path), "ASAN_OPTIONS": "detect_leaks=1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == f"{INPUTS + len(seeds)} inputs\n"
