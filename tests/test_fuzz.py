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
COMPILED = {"fill": 4000, "baseline": 3000, "table": 20_000}  # numbers of mutated inputs
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


@pytest.mark.parametrize("target", COMPILED)
def test_mutated_bytes_are_survived(tmp_path, seeds, objects, target):
    program = tmp_path / "mutate"
    fuzzer = FUZZ / f"{target}_fuzzer.cpp"
    libraries = ["-ljpeg", "-lsqlite3", "-lpthread"]
    subprocess.run(["g++", *FLAGS, *INCLUDES, fuzzer, *objects, "-o", program, *libraries], check=True)
    with zipfile.ZipFile(CORPUS / f"{target}.zip") as archive:
        archive.extractall(tmp_path / "corpus")
    inputs = [*sorted((seeds / target).iterdir()), *sorted((tmp_path / "corpus").iterdir())]
    result = subprocess.run(
        [program, str(COMPILED[target]), *inputs],
        capture_output=True,
        text=True,
        env={"TMPDIR": str(tmp_path), "ASAN_OPTIONS": "detect_leaks=1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == f"{COMPILED[target] + len(inputs)} inputs\n"


def fuzz(*arguments):
    command = [sys.executable, "-W", "ignore", FUZZ / "inputs.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("target", PYTHON)
def test_hostile_inputs_give_a_result_or_a_sentence(tmp_path, target):
    """New inputs of a fixed seed, and the kept ones of earlier runs."""
    count = PYTHON[target]
    result = fuzz(target, "--count", count, "--seed", 1, "--corpus", tmp_path)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert f"{target}: {count} inputs in" in result.stdout and "0 with findings" in result.stdout
    result = fuzz(target, "--replay", CORPUS / f"{target}.zip")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def test_the_same_seed_gives_the_same_inputs(tmp_path):
    for folder in ("first", "second"):
        assert fuzz("planner", "--count", 30, "--seed", 3, "--corpus", tmp_path / folder).returncode == 0
    contents = []
    for folder in ("first", "second"):
        with zipfile.ZipFile(tmp_path / folder / "planner/corpus.zip") as archive:
            contents.append({name: archive.read(name) for name in archive.namelist()})
    assert contents[0] == contents[1] and len(contents[0]) > 3


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        ("return int('x')", "ValueError at test.py"),
        ("raise KeyError('x')", "KeyError at test.py"),
        ("return [].pop()", "IndexError at test.py"),
        ("import os; os.kill(os.getpid(), 11)", "the process ended with signal 11"),
        ("return bytearray(1 << 33)", "MemoryError at test.py"),
        ("import time; time.sleep(60)", "more than 1 seconds"),
    ],
)
def test_findings_are_kept(tmp_path, body, finding):
    """Wrong exceptions, crashes, memory and time: the input lies in `findings`, and the status is 1."""
    program = f"""
import sys
sys.path.insert(0, {str(FUZZ)!r})
import inputs
inputs.LIMIT_SECONDS = 1
def use():
    {body}
def calls(path):
    yield inputs.Call("use", use, (ValueError, IndexError))
target = inputs.Target(lambda draw, folder: ("input.txt", b"content"), calls)
inputs.targets = lambda: {{"mine": target}}
sys.argv = ["inputs.py", "mine", "--count", "1", "--corpus", {str(tmp_path)!r}]
sys.exit(inputs.main())
"""
    (tmp_path / "test.py").write_text(program)
    result = subprocess.run([sys.executable, tmp_path / "test.py"], capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    (folder,) = (tmp_path / "mine" / "findings").iterdir()
    assert (folder / "input.txt").read_bytes() == b"content"
    assert finding in (folder / "findings.txt").read_text()
