"""What `setup.py` builds and says where something is missing, and what the package says about its libraries."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A compiler that cannot find one header, and compiles nothing.
COMPILER = """#!/bin/sh
for word in "$@"; do
    case "$word" in *check.cpp) grep -q '{header}' "$word" && exit 1 ;; esac
done
exit 0
"""


@pytest.mark.parametrize(
    "header, message",
    [
        ("jpeglib.h", "libjpeg-turbo's header jpeglib.h is missing: Debian/Ubuntu package libjpeg-dev"),
        ("sqlite3.h", "SQLite's header sqlite3.h is missing: Debian/Ubuntu package libsqlite3-dev"),
        ("string_view", "a C++17 compiler is missing: Debian/Ubuntu package build-essential"),
    ],
)
def test_a_missing_package_is_one_clear_line(tmp_path, header, message):
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER.format(header=header))
    compiler.chmod(0o755)
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        "--build-lib",
        tmp_path / "lib",
        "--build-temp",
        tmp_path / "temp",
    ]
    environment = {**os.environ, "CC": str(compiler), "CXX": str(compiler), "VIDSEG_CUDA": "0"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("is missing") == 1
    assert "To install: sudo apt-get install" in result.stderr


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("VIDSEG_CUDA", "maybe", "VIDSEG_CUDA=maybe: expected 0, 1 or auto"),
        ("VIDSEG_JOBS", "0", "VIDSEG_JOBS=0: expected a number of compilers at a time, such as 4"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, name, value, message):
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-temp", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, name: value},
    )
    assert result.returncode == 1
    assert message in result.stderr


# One compiler that counts how many of it run: each waits for the others that the build promises to start.
COUNTING = """#!/bin/sh
case "$*" in *check.cpp*) exit 0 ;; esac
for word in "$@"; do [ "$before" = -o ] && object=$word; before=$word; done
case "$object" in *.so) touch "$object"; exit 0 ;; esac
mkdir -p {folder}
touch "{folder}/$$"
for i in $(seq 600); do
    [ "$(ls {folder} | wc -l)" -ge 3 ] && mkdir -p "$(dirname "$object")" && touch "$object" && exit 0
    sleep 0.1
done
exit 1
"""


def test_files_of_a_library_are_compiled_side_by_side(tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text(COUNTING.format(folder=tmp_path / "running"))
    compiler.chmod(0o755)
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", tmp_path / "a", "--build-temp", tmp_path / "b"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "CC": str(compiler), "CXX": str(compiler), "VIDSEG_CUDA": "0", "VIDSEG_JOBS": "3"},
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "a/vidseg/ops/_ops.so").exists()


@pytest.mark.parametrize("home", [None, "https://example.org/vidseg"])
def test_the_description_has_no_link_into_the_repository(tmp_path, home):
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    project = (ROOT / "pyproject.toml").read_text()
    if home is not None:
        project = re.sub(r"(?ms)^\[project.urls\]\n.*?(?=^\[)", "", project)
        project = project.replace("[project.scripts]", f'[project.urls]\nRepository = "{home}"\n\n[project.scripts]')
    (tmp_path / "pyproject.toml").write_text(project)
    (tmp_path / "vidseg").mkdir()
    (tmp_path / "vidseg/__init__.py").touch()
    subprocess.run([sys.executable, "setup.py", "-q", "egg_info"], cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / "vidseg.egg-info/PKG-INFO").read_text()
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert all(target.startswith(("https://", "http://")) for target in targets), targets
    assert "The shortest code" in text and "License-Expression: Apache-2.0" in text
    if home is not None:
        assert f"{home}/blob/main/docs/learn.md" in targets and f"{home}/raw/main/docs/loader_speed.png" in targets


def test_a_library_that_is_not_there_says_what_to_do():
    from vidseg.ops.library import NativeLibraryError, load_library

    with pytest.raises(NativeLibraryError, match=r"frames/_absent\.so does not exist.*make setup"):
        load_library("frames/_absent")


def test_an_encoder_that_is_not_there_says_what_to_do(tmp_path, monkeypatch):
    from vidseg.frames import plane_encoder
    from vidseg.ops.library import NativeLibraryError

    monkeypatch.setattr(plane_encoder, "__file__", str(tmp_path / "plane_encoder.py"))
    load = plane_encoder.encoder_library.__wrapped__
    with pytest.raises(NativeLibraryError, match=r"_encoder\.so does not exist.*make setup"):
        load()
    (tmp_path / "_encoder.so").write_bytes(b"no library")
    with pytest.raises(NativeLibraryError, match=r"_encoder\.so cannot be loaded.*libjpeg62-turbo"):
        load()


# A compiler and an nvcc that append their arguments to a log and make empty output files.
TOOL = """#!/bin/sh
case "$*" in
*--dryrun*) echo '#$ TOP={toolkit}/bin/..' >&2; exit 0 ;;
*--version*) echo 'Cuda compilation tools, release 13.0, V13.0.88'; exit 0 ;;
*-print-file-name=*) echo libcudart_static.a; exit 0 ;;
esac
echo "{name} $*" >>{log}
while [ $# -gt 1 ]; do
    [ "$1" = -o ] && : >"$2"
    shift
done
exit {status}
"""


class FakeMachine:
    """A machine with compilers of our own: a CUDA toolkit and a CUDA build of torch, both without a CUDA runtime."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.toolkit = folder / "toolkit"
        self.packages = folder / "site/nvidia"
        self.built = folder / "lib/vidseg/ops"
        for name in ("site/torch/include/torch/csrc/stable/library.h", "site/torch/lib/libtorch_cuda.so"):
            self.file(name)
        self.tool("g++")
        self.tool("bin/nvcc")  # not in the toolkit's folder, as a link or a script in /usr/local/bin

    def file(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        return path

    def tool(self, name: str, *, status: int = 0) -> None:
        path = self.file(name)
        log = self.folder / "log"
        path.write_text(TOOL.format(toolkit=self.toolkit, log=log, name=path.name, status=status))
        path.chmod(0o755)

    def build(self, **environment: str) -> subprocess.CompletedProcess:
        folders = ["--build-lib", self.folder / "lib", "--build-temp", self.folder / "temp"]
        settings = {"VIDSEG_PARTS": "ops", "CUDA_HOME": str(self.folder), "PYTHONPATH": str(self.folder / "site")}
        settings |= {name: str(self.folder / "g++") for name in ("CC", "CXX")}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("VIDSEG_")}
        command = [sys.executable, "setup.py", "-q", "build_ext", *folders]
        environment = {**inherited, **settings, **environment}
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)

    def log(self, tool: str) -> list[str]:
        lines = (self.folder / "log").read_text().splitlines() if (self.folder / "log").is_file() else []
        return [line for line in lines if line.startswith(tool)]

    def link(self) -> str:
        """The command that linked the CUDA library."""
        (line,) = [line for line in self.log("g++") if "-o " in line and "_ops_cuda.so" in line]
        return line


@pytest.fixture
def machine(tmp_path) -> FakeMachine:
    return FakeMachine(tmp_path)


STATIC, TORCH_OWN, SHARED = (
    "toolkit/lib/libcudart_static.a",
    "site/nvidia/{}/libcudart.so.13",
    "toolkit/lib/libcudart.so",
)


@pytest.mark.parametrize(
    "there, taken, more",
    [
        ([STATIC, SHARED, TORCH_OWN.format("cu13/lib")], STATIC, "-ldl -lrt"),
        (["toolkit/lib64/libcudart_static.a"], "toolkit/lib64/libcudart_static.a", "-ldl -lrt"),
        ([TORCH_OWN.format("cu13/lib"), SHARED], TORCH_OWN.format("cu13/lib"), ""),
        ([TORCH_OWN.format("cuda_runtime/lib")], TORCH_OWN.format("cuda_runtime/lib"), ""),
        ([SHARED], SHARED, "-Wl,-rpath,{}/toolkit/lib"),
    ],
    ids=["static", "lib64", "torch's package", "torch's package for CUDA 12", "shared"],
)
def test_the_cuda_runtime_is_found_without_the_linkers_path(machine, there, taken, more):
    for name in there:
        machine.file(name)
    result = machine.build()
    assert result.returncode == 0, result.stderr
    assert "without the CUDA operators" not in result.stderr
    words = machine.link().split()
    assert "-lcudart" not in words and "-ltorch_cuda" in words
    assert [word for word in words if "libcudart" in word] == [str(machine.folder / taken)]
    assert more.format(machine.folder) in machine.link()
    assert (machine.built / "_ops_cuda.so").is_file()


def no_runtime(machine: FakeMachine) -> str:
    machine.file("site/nvidia/cuda_runtime/lib/libcudart.so.12")  # of another version than nvcc
    return f"the CUDA runtime 13 (libcudart) was found neither in {machine.toolkit}, the toolkit of "


def no_cuda_in_torch(machine: FakeMachine) -> str:
    (machine.folder / "site/torch/lib/libtorch_cuda.so").unlink()
    return f"{machine.folder}/site/torch is a build of torch without CUDA"


def no_nvcc(machine: FakeMachine) -> str:
    (machine.folder / "bin/nvcc").unlink()
    return f"nvcc was not found in CUDA_HOME={machine.folder}"


def nvcc_that_fails(machine: FakeMachine) -> str:
    machine.file(STATIC)
    machine.tool("bin/nvcc", status=1)
    return "nvcc or the linker failed; its messages are above"


@pytest.mark.parametrize("fault", [no_runtime, no_cuda_in_torch, no_nvcc, nvcc_that_fails], ids=lambda f: f.__name__)
def test_without_cuda_the_rest_is_built_unless_cuda_was_asked_for(machine, fault):
    reason = fault(machine)
    outdated = machine.file("lib/vidseg/ops/_ops_cuda.so")
    os.utime(outdated, (0, 0))
    asked = machine.build(VIDSEG_CUDA="1")
    assert asked.returncode == 1
    assert f"VIDSEG_CUDA=1, but the CUDA operators cannot be built: {reason}" in asked.stderr
    result = machine.build()
    assert result.returncode == 0, result.stderr
    assert f"vidseg is built without the CUDA operators: {reason}" in result.stderr
    assert result.stderr.count("without the CUDA operators") == 1
    assert (machine.built / "_ops.so").is_file() and not outdated.exists()


def test_a_machine_without_cuda_has_nothing_to_read_about_it(machine):
    no_nvcc(machine)
    no_cuda_in_torch(machine)
    result = machine.build()
    assert (result.returncode, result.stderr) == (0, "")


def test_cuda_that_is_not_wanted_is_not_built(machine):
    machine.file(STATIC)
    result = machine.build(VIDSEG_CUDA="0")
    assert (result.returncode, result.stderr, machine.log("nvcc")) == (0, "", [])
    assert not (machine.built / "_ops_cuda.so").exists()


@pytest.mark.parametrize("words, last", [(None, "90"), ("120 80 90", "120"), ("80", "80")])
def test_ptx_of_the_newest_architecture_is_built(machine, words, last):
    machine.file(STATIC)
    assert machine.build(**({"VIDSEG_CUDA_ARCHS": words} if words else {})).returncode == 0
    commands = machine.log("nvcc")
    assert len(commands) == len(list((ROOT / "csrc/ops/cuda").glob("*.cu")))
    for command in commands:
        built = [word for word in command.split() if word.startswith("-gencode")]
        assert built[-1] == f"-gencode=arch=compute_{last},code=[sm_{last},compute_{last}]"
        assert built[:-1] == [f"-gencode=arch=compute_{n},code=sm_{n}" for n in ("80", "90") if int(n) < int(last)]


@pytest.mark.parametrize("words", ["9.0", "sm_90", " "])
def test_wrong_architectures_are_named(machine, words):
    machine.file(STATIC)
    result = machine.build(VIDSEG_CUDA_ARCHS=words)
    assert result.returncode == 1
    assert "expected compute capabilities without a dot, such as 80 90" in result.stderr


def test_a_symbol_that_no_library_defines_fails_the_build(machine):
    assert machine.build().returncode == 0
    (link,) = [line for line in machine.log("g++") if "_ops.so" in line]
    assert "-Wl,-z,defs" in link.split()


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """Stands for the folder of vidseg; torch has CUDA."""
    import vidseg.frames.native  # noqa: F401  # loads what it needs from the real folder
    from vidseg.ops import library

    monkeypatch.setattr(library, "_PACKAGE", tmp_path)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    forget = library.load_cuda_library.cache_clear
    forget()
    yield tmp_path
    forget()


def test_the_file_of_the_cuda_operators_lists_its_architectures(tmp_path):
    from vidseg.ops.library import CudaLibrary

    path = tmp_path / "_ops_cuda.so"
    assert CudaLibrary(path).architectures() == ()
    path.write_bytes(b"\x7fELF\0vidseg CUDA architectures: 800,900,1200\0code")
    assert CudaLibrary(path).architectures() == ("8.0", "9.0", "12.0")


def test_env_says_why_the_cuda_operators_are_not_loaded(package, monkeypatch):
    from vidseg.cli.env import _collect
    from vidseg.ops.library import CudaLibrary, load_cuda_library

    path = package / "ops/_ops_cuda.so"
    monkeypatch.setattr("vidseg.ops.library.load_library", lambda name: Path(name))
    facts, sound = _collect()
    assert sound
    assert facts["ops/_ops_cuda"].startswith(f"not loaded: {path} does not exist: vidseg was built without")
    assert "VIDSEG_CUDA=1" in facts["ops/_ops_cuda"] and "CUDA operators built for" not in facts

    path.parent.mkdir()
    path.write_bytes(b"vidseg CUDA architectures: 800,900\0")
    load_cuda_library.cache_clear()
    facts, sound = _collect()
    assert not sound
    assert facts["ops/_ops_cuda"].startswith(f"NOT LOADED: {path} cannot be loaded: ")
    assert facts["CUDA operators built for"] == "compute capability 8.0, 9.0; PTX 9.0 for later ones"

    monkeypatch.setattr("torch.version.cuda", None)
    load_cuda_library.cache_clear()
    facts, sound = _collect()
    assert sound and facts["ops/_ops_cuda"].endswith("is a build without CUDA.")

    monkeypatch.setattr("vidseg.ops.library.load_cuda_library", lambda: CudaLibrary(path))
    facts, sound = _collect()
    assert sound and facts["ops/_ops_cuda"] == f"loaded from {path}"


def test_an_operator_without_its_cuda_library_says_so(tmp_path):
    program = """
import torch
torch.version.cuda = "13.0"
torch.ops.load_library = lambda path, load=torch.ops.load_library: None if "cuda" in path else load(path)
import pathlib
there = pathlib.Path.is_file
pathlib.Path.is_file = lambda path: "cuda" not in path.name and there(path)
import vidseg.ops
cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
try:
    torch.ops.vidseg.window_gather.default.redispatch(cuda, torch.zeros(1, 4), torch.zeros(1, 1).long(), 2, 1)
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert "vidseg's operators cannot use CUDA tensors: " in result.stdout, result.stderr
    assert "_ops_cuda.so does not exist" in result.stdout
