"""Builds the compiled libraries; pyproject.toml has the rest of the package's metadata.

    vidseg/frames/_frames.so    SQLite + libjpeg-turbo: read, decode, encode frames     (csrc/frames)
    vidseg/ops/_ops.so          tensor operators, CPU                                   (csrc/ops)
    vidseg/ops/_ops_cuda.so     tensor operators, CUDA; with nvcc and a CUDA torch      (csrc/ops/cuda)

csrc/common has headers for both libraries. All libraries use PyTorch's ABI-stable C++ interface (target version 2.10):
one binary works with every Python version and with torch >= 2.10. The build needs torch's headers and stub libraries,
not `import torch`, and takes them from the environment that pip runs in, also within pip's build isolation.

Environment variables:
    VIDSEG_CUDA=0|1        never / always build the CUDA library (default: if nvcc is found and torch has CUDA)
    VIDSEG_PARTS           libraries to build, default "frames ops"
    VIDSEG_CUDA_ARCHS      compute capabilities, default "80 90"
    VIDSEG_SANITIZE=1      build with AddressSanitizer and UndefinedBehaviorSanitizer, unoptimized
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
TORCH_TO_BUILD_WITH = "torch==2.13.0"
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000ULL"
SANITIZE = os.environ.get("VIDSEG_SANITIZE") == "1"


def find_torch() -> Path | None:
    """Find the folder of the installed torch without importing it: first in the build environment, then outside it."""
    paths = sysconfig.get_paths()
    candidates = [*sys.path, paths["purelib"], paths["platlib"]]
    folders = (Path(entry) / "torch" for entry in candidates if entry)
    return next((folder for folder in folders if (folder / "include/torch/csrc/stable/library.h").is_file()), None)


TORCH = find_torch()


def torch_has_cuda() -> bool:
    version = (TORCH / "version.py").read_text() if TORCH else ""
    return bool(re.search(r"^cuda[^=]*=\s*'", version, re.MULTILINE))


def find_nvcc() -> str | None:
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    return shutil.which("nvcc") or shutil.which("nvcc", path=str(home / "bin"))


def wants_cuda() -> bool:
    choice = os.environ.get("VIDSEG_CUDA", "auto")
    if choice not in {"0", "1", "auto"}:
        sys.exit(f"VIDSEG_CUDA={choice}: expected 0, 1 or auto")
    if choice == "1" and not find_nvcc():
        sys.exit("VIDSEG_CUDA=1 but nvcc was not found: put it on PATH or set CUDA_HOME")
    return choice == "1" or (choice == "auto" and find_nvcc() is not None and torch_has_cuda())


def sources(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


def extension(name: str, patterns: list[str], libraries: list[str]) -> Extension:
    compile_args = [
        "-std=c++17",
        "-O3",
        "-fno-trapping-math",  # lets GCC vectorize the selects in the suppression kernels
        "-fvisibility=hidden",
        "-g0",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        STABLE_ABI,
    ]
    link_args = ["-pthread"]
    if SANITIZE:
        flags = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
        compile_args += ["-O1", "-g", *flags]
        link_args += flags
    return Extension(
        name,
        sources=[source for pattern in patterns for source in sources(pattern)],
        depends=sources("csrc/**/*.h") + sources("csrc/**/*.cuh") + ["setup.py"],
        include_dirs=["csrc"],
        libraries=[*libraries, "torch_cpu", "c10"],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        language="c++",
    )


PARTS = os.environ.get("VIDSEG_PARTS", "frames ops").split()
EXTENSIONS = []
if "frames" in PARTS:
    EXTENSIONS.append(extension("vidseg.frames._frames", ["csrc/frames/*.cpp"], ["jpeg", "sqlite3"]))
if "ops" in PARTS:
    EXTENSIONS.append(extension("vidseg.ops._ops", ["csrc/ops/*.cpp"], []))
if "ops" in PARTS and wants_cuda():
    EXTENSIONS.append(extension("vidseg.ops._ops_cuda", ["csrc/ops/cuda/*.cu"], ["torch_cuda", "cudart"]))


class BuildNative(build_ext):
    """Checks for missing requirements of the build, and names the libraries without a Python tag."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"

    def build_extensions(self) -> None:
        if TORCH is None:
            sys.exit(
                f"vidseg: torch's headers were not found beside {sys.executable}.\n"
                f"To install: pip install {TORCH_TO_BUILD_WITH}"
            )
        for ext in self.extensions:
            ext.include_dirs += [str(TORCH / "include"), str(TORCH / "include/torch/csrc/api/include")]
            ext.library_dirs.append(str(TORCH / "lib"))
        self.check_system()
        self.compiler.src_extensions.append(".cu")
        self.compile_one = self.compiler._compile
        self.compiler._compile = self.compile_source
        super().build_extensions()

    def check_system(self) -> None:
        """Compile a test program for each required header and report all missing packages."""
        needs = {"a C++17 compiler": ("#include <string_view>", "build-essential")}
        if "frames" in PARTS:
            needs |= {
                "libjpeg-turbo's header jpeglib.h": (
                    "#include <cstdio>\n#include <jpeglib.h>\nstatic_assert(LIBJPEG_TURBO_VERSION_NUMBER > 0);",
                    "libjpeg-dev",
                ),
                "SQLite's header sqlite3.h": ("#include <sqlite3.h>", "libsqlite3-dev"),
            }
        missing = [(what, package) for what, (code, package) in needs.items() if not self.compiles(code)]
        if missing:
            lines = "\n".join(f"  {what} is missing: Debian/Ubuntu package {package}" for what, package in missing)
            packages = " ".join(package for _, package in missing)
            sys.exit(f"vidseg cannot be built here:\n{lines}\nTo install: sudo apt-get install {packages}")

    def compiles(self, code: str) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "check.cpp"
            source.write_text(code + "\nint main() { return 0; }\n")
            command = [*self.compiler.compiler_so, "-std=c++17", "-x", "c++", "-c", str(source), "-o", f"{source}.o"]
            try:
                return subprocess.run(command, capture_output=True, check=False).returncode == 0
            except FileNotFoundError:
                return False

    def compile_source(self, obj, src, ext, cc_args, extra_postargs, pp_opts) -> None:
        if ext != ".cu":
            return self.compile_one(obj, src, ext, cc_args, extra_postargs, pp_opts)
        archs = os.environ.get("VIDSEG_CUDA_ARCHS", "80 90").split()
        command = [
            find_nvcc(),
            "-std=c++17",
            "-O3",
            "-Xcompiler",
            "-fPIC,-fvisibility=hidden",
            STABLE_ABI,
            "-DUSE_CUDA",
        ]
        command += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
        return self.spawn([*command, *pp_opts, "-c", src, "-o", obj])


class PlainWheel(bdist_wheel):
    """Tags the wheel py3-none-<platform>, because the libraries do not depend on the Python version."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=EXTENSIONS,
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlainWheel},
    setup_requires=[] if TORCH else [TORCH_TO_BUILD_WITH],
)
