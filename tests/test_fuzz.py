"""Short runs of the fuzzers of tests/fuzz: hostile inputs give a result or an error of the library, no more."""

import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FUZZ = ROOT / "tests" / "fuzz"
CORPUS = FUZZ / "corpus"
FLAGS = ["-std=c++17", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
INCLUDES = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/frames'}"]
# Numbers of mutated inputs for each target, and for it without AVX2.
COMPILED = {
    ("fill", ""): 4000,
    ("fill", "baseline"): 1000,
    ("baseline", ""): 3000,
    ("baseline", "baseline"): 3000,
    ("table", ""): 20_000,
}
PYTHON = {"catalog": 25, "labels": 200, "checkpoints": 40, "database": 60, "planner": 200}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    subprocess.run([sys.executable, FUZZ / "make_corpus.py", folder], check=True, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """The compiled sources, with sanitizers."""
    folder = tmp_path_factory.mktemp("objects")
    sources = [source for source in sorted((ROOT / "csrc/frames").glob("*.cpp")) if "library" not in source.name]

    def build(source):
        made = folder / f"{source.stem}.o"
        subprocess.run(["g++", *FLAGS, *INCLUDES, "-c", source, "-o", made], check=True)
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(build, [*sources, FUZZ / "mutate.cpp"]))


@pytest.mark.slow
@pytest.mark.parametrize(("target", "simd"), COMPILED)
def test_mutated_bytes_are_survived(tmp_path, seeds, objects, target, simd):
    program = tmp_path / "mutate"
    fuzzer = FUZZ / f"{target}_fuzzer.cpp"
    libraries = ["-ljpeg", "-lsqlite3", "-lpthread"]
    subprocess.run(["g++", *FLAGS, *INCLUDES, fuzzer, *objects, "-o", program, *libraries], check=True)
    with zipfile.ZipFile(CORPUS / f"{target}.zip") as archive:
        archive.extractall(tmp_path / "corpus")
    inputs = [*sorted((seeds / target).iterdir()), *sorted((tmp_path / "corpus").iterdir())]
    result = subprocess.run(
        [program, str(COMPILED[target, simd]), *inputs],
        capture_output=True,
        text=True,
        env={"TMPDIR": str(tmp_path), "ASAN_OPTIONS": "detect_leaks=1", "VIDSEG_SIMD": simd},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == f"{COMPILED[target, simd] + len(inputs)} inputs\n"


def run(program, *arguments):
    command = [sys.executable, "-W", "ignore", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("target", PYTHON)
def test_hostile_inputs_give_a_result_or_a_sentence(tmp_path, target):
    """The kept inputs of earlier runs, and new ones of a fixed seed."""
    count = PYTHON[target]
    arguments = ("--replay", CORPUS / f"{target}.zip", "--count", count, "--seed", 1, "--corpus", tmp_path)
    result = run(FUZZ / "inputs.py", target, *arguments)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert f"{target}: {count} inputs in" in result.stdout and "0 with findings" in result.stdout


# Input k is used by line k.
PROGRAM = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import inputs
folder = Path(sys.argv[2])
inputs.LIMIT_SECONDS = 1
USES = (
    lambda: int("x"),
    lambda: {}["x"],
    lambda: [].pop(),
    lambda: os.kill(os.getpid(), 11),
    lambda: bytearray(1 << 33),
    lambda: next(x for x in iter(int, 1) if x),
    lambda: None,
)
def make(draw, work):
    return "input.txt", str(draw.random()).encode()
def calls(path):
    number = int((path.parent.parent / "progress").read_text().split()[0])
    yield inputs.Call("use", USES[number], (ValueError, IndexError))
target = inputs.Target(make, calls)
print(inputs.fuzz("mine", target, seconds=60, count=len(USES), seed=0, folder=folder / "mine"))
planner = inputs.targets()["planner"]
for name in ("first", "second"):
    inputs.fuzz("planner", planner, seconds=60, count=30, seed=3, folder=folder / name)
"""


def test_findings_are_kept(tmp_path):
    """Wrong exceptions, crashes, memory and time are found; the same seed gives the same inputs."""
    (tmp_path / "program.py").write_text(PROGRAM)
    result = run(tmp_path / "program.py", FUZZ, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip().endswith("(7, 6)"), result.stdout
    expected = (
        "ValueError at",
        "KeyError at",
        "IndexError at",
        "ended with signal 11",
        "MemoryError",
        "than 1 seconds",
    )
    for number, text in enumerate(expected):
        folder = tmp_path / "mine" / "findings" / f"mine-0-{number}"
        assert (folder / "input.txt").read_bytes()
        assert text in (folder / "findings.txt").read_text()
    contents = []
    for name in ("first", "second"):
        with zipfile.ZipFile(tmp_path / name / "corpus.zip") as archive:
            contents.append({member: archive.read(member) for member in archive.namelist()})
    assert contents[0] == contents[1] and len(contents[0]) > 3
