"""Builds the compiled libraries; pyproject.toml has the rest of the package's metadata.

    vidseg/frames/_frames.so    SQLite + libjpeg-turbo: read, decode, encode frames     (csrc/frames)
    vidseg/frames/_encoder.so   libjpeg-turbo: encode frames of videos, without torch   (csrc/encoder)
    vidseg/ops/_ops.so          tensor operators, CPU                                   (csrc/ops)
    vidseg/ops/_ops_cuda.so     tensor operators, CUDA                                  (csrc/ops/cuda)

csrc/common has headers for all libraries. The encoder has a C interface, for workers that do not load torch. The other
libraries use PyTorch's ABI-stable C++ interface (target version 2.10): one binary works with every Python version and
with torch >= 2.10. The build needs torch's headers and stub libraries, not `import torch`, and takes them from the
environment that pip runs in, also within pip's build isolation.

The CUDA library is optional. It needs nvcc, a CUDA build of torch and the CUDA runtime (libcudart) of nvcc's version.
Its runtime is linked statically where possible, so that it does not depend on the CUDA version of torch. It contains
PTX of the newest capability, which the driver compiles for later devices.

Environment variables:
    VIDSEG_CUDA=0|1        never build the CUDA library / fail if it cannot be built
                           (default: build without it and print the reason)
    VIDSEG_PARTS           libraries to build, default "frames ops"
    VIDSEG_CUDA_ARCHS      compute capabilities, default "80 90"
    CUDA_HOME              CUDA toolkit, default: that of the nvcc on PATH, or /usr/local/cuda
    VIDSEG_JOBS            compilers at a time, default the number of processors
    VIDSEG_SANITIZE=1      build with AddressSanitizer and UndefinedBehaviorSanitizer, unoptimized
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError, ExecError, LinkError

ROOT = Path(__file__).parent
TORCH_TO_BUILD_WITH = "torch==2.13.0"
TORCH_LIBRARIES = ["torch_cpu", "c10"]
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000ULL"
SANITIZE = os.environ.get("VIDSEG_SANITIZE") == "1"


def jobs() -> int:
    """Return how many files are compiled at a time."""
    word = os.environ.get("VIDSEG_JOBS", str(len(os.sched_getaffinity(0))))
    if not re.fullmatch("[1-9][0-9]*", word):
        sys.exit(f"VIDSEG_JOBS={word}: expected a number of compilers at a time, such as 4")
    return int(word)


JOBS = jobs()


def find_torch() -> Path | None:
    """Find the folder of the installed torch without importing it: first in the build environment, then outside it."""
    paths = sysconfig.get_paths()
    candidates = [*sys.path, paths["purelib"], paths["platlib"]]
    folders = (Path(entry) / "torch" for entry in candidates if entry)
    return next((folder for folder in folders if (folder / "include/torch/csrc/stable/library.h").is_file()), None)


TORCH = find_torch()


class CudaUnavailableError(Exception):
    """The CUDA library cannot be built; the message is the reason, without a period."""


@dataclass(frozen=True)
class CudaTools:
    """How to compile and link the CUDA library."""

    nvcc: str
    architectures: tuple[str, ...]  # oldest first
    runtime: tuple[str, ...]  # the linker's arguments for the CUDA runtime

    def compile_command(self) -> list[str]:
        """Return the compiler and its flags, with machine code of every architecture and PTX of the newest."""
        command = [self.nvcc, "-std=c++17", "-O3", "--threads=0", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
        for arch in self.architectures:
            code = f"[sm_{arch},compute_{arch}]" if arch == self.architectures[-1] else f"sm_{arch}"
            command.append(f"-gencode=arch=compute_{arch},code={code}")
        return [*command, STABLE_ABI, "-DUSE_CUDA"]


def cuda_choice() -> str:
    choice = os.environ.get("VIDSEG_CUDA", "auto")
    if choice not in {"0", "1", "auto"}:
        sys.exit(f"VIDSEG_CUDA={choice}: expected 0, 1 or auto")
    return choice


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    if home:
        return shutil.which("nvcc", path=f"{home}/bin")
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def find_cuda_tools(torch: Path, compiler: str) -> CudaTools:
    """Find nvcc, the architectures and the CUDA runtime.

    Raises:
        CudaUnavailableError: something is missing.
    """
    words = os.environ.get("VIDSEG_CUDA_ARCHS", "80 90").split()
    if not words or not all(re.fullmatch("[0-9]{2,3}", word) for word in words):
        sys.exit(f"VIDSEG_CUDA_ARCHS={' '.join(words)}: expected compute capabilities without a dot, such as 80 90")
    nvcc = find_nvcc()
    if nvcc is None:
        home = os.environ.get("CUDA_HOME")
        place = f"in CUDA_HOME={home}" if home else "on PATH and in /usr/local/cuda"
        raise CudaUnavailableError(f"nvcc was not found {place}")
    if not (torch / "lib/libtorch_cuda.so").is_file():
        raise CudaUnavailableError(f"{torch} is a build of torch without CUDA")
    return CudaTools(nvcc, tuple(sorted(set(words), key=int)), tuple(find_cuda_runtime(nvcc, torch, compiler)))


def find_cuda_runtime(nvcc: str, torch: Path, compiler: str) -> list[str]:
    """Find libcudart: the static library of nvcc's toolkit, else a shared library of the same major version, from the
    packages that torch loads or from the toolkit. Return the linker's arguments.

    Raises:
        CudaUnavailableError: none was found, or nvcc does not run.
    """
    try:
        # nvcc may be a script or a link outside of its toolkit, and it knows its folder.
        plan = subprocess.run([nvcc, "--dryrun", "-c", "absent.cu"], capture_output=True, text=True, check=False)
        about = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise CudaUnavailableError(f"{nvcc} does not run: {error}") from error
    top = re.search(r"^#\$ TOP=(.+)$", plan.stdout + plan.stderr, re.MULTILINE)
    release = re.search(r"release (\d+)\.", about.stdout)
    if top is None or release is None:
        raise CudaUnavailableError(
            f"{nvcc} does not print its folder and version: {(about.stderr or plan.stderr).strip()}"
        )
    toolkit, major = Path(top[1]).resolve(), release[1]
    target = {"aarch64": "sbsa-linux"}.get(platform.machine(), f"{platform.machine()}-linux")
    toolkit_folders = [toolkit / "lib64", toolkit / "lib", toolkit / "targets" / target / "lib"]
    packages = torch.parent / "nvidia"  # CUDA 12: nvidia/cuda_runtime; CUDA 13 and later: nvidia/cu13

    static = [folder / "libcudart_static.a" for folder in (*toolkit_folders, packages / f"cu{major}/lib")]
    question = [compiler, "-print-file-name=libcudart_static.a"]  # prints the bare name if it finds no file
    static.append(Path(subprocess.run(question, capture_output=True, text=True, check=False).stdout.strip()))
    for library in static:
        if library.is_absolute() and library.is_file():
            return [str(library), "-ldl", "-lrt"]
    for folder in (packages / f"cu{major}/lib", packages / "cuda_runtime/lib"):
        if (folder / f"libcudart.so.{major}").is_file():  # torch has loaded it when vidseg is imported
            return [str(folder / f"libcudart.so.{major}")]
    for folder in toolkit_folders:
        if (folder / "libcudart.so").is_file():
            return [str(folder / "libcudart.so"), f"-Wl,-rpath,{folder}"]
    raise CudaUnavailableError(
        f"the CUDA runtime {major} (libcudart) was found neither in {toolkit}, the toolkit of {nvcc}, nor in {packages}"
    )


def sources(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


def extension(name: str, patterns: list[str], libraries: list[str], arguments: tuple[str, ...] = ()) -> Extension:
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
        *arguments,
    ]
    # With -z defs, a symbol that none of the libraries defines fails the build, not the import.
    link_args = ["-pthread"] if SANITIZE else ["-pthread", "-Wl,-z,defs"]
    if SANITIZE:
        flags = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
        compile_args += ["-O1", "-g", *flags]
        link_args += flags
    return Extension(
        name,
        sources=[source for pattern in patterns for source in sources(pattern)],
        depends=sources("csrc/**/*.h") + sources("csrc/**/*.cuh") + ["setup.py"],
        include_dirs=["csrc"],
        libraries=libraries,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        language="c++",
    )


PARTS = os.environ.get("VIDSEG_PARTS", "frames ops").split()
EXTENSIONS = []
CUDA_LIBRARY = "vidseg.ops._ops_cuda"
CUDA = cuda_choice()
if "frames" in PARTS:
    # A fused product and sum would give other pixels on processors that have it.
    exact = ("-ffp-contract=off",)
    encoder = ["csrc/encoder/*.cpp", "csrc/frames/jpeg_encoder.cpp", "csrc/frames/planes.cpp"]
    EXTENSIONS.append(extension("vidseg.frames._encoder", encoder, ["jpeg"], exact))
    frames = ["csrc/frames/*.cpp"]
    EXTENSIONS.append(extension("vidseg.frames._frames", frames, ["jpeg", "sqlite3", *TORCH_LIBRARIES], exact))
if "ops" in PARTS:
    EXTENSIONS.append(extension("vidseg.ops._ops", ["csrc/ops/*.cpp"], TORCH_LIBRARIES))
    EXTENSIONS.append(extension(CUDA_LIBRARY, ["csrc/ops/cuda/*.cu"], ["torch_cuda", *TORCH_LIBRARIES]))


class BuildNative(build_ext):
    """Checks for missing requirements of the build, and names the libraries without a Python tag."""

    cuda: CudaTools

    def run(self) -> None:
        super().run()
        if self.inplace and "ops" in PARTS and all(ext.name != CUDA_LIBRARY for ext in self.extensions):
            (ROOT / self.get_ext_filename(CUDA_LIBRARY)).unlink(missing_ok=True)

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
        self.prepare_cuda()
        self.compiler.src_extensions.append(".cu")
        self.compile_one = self.compiler._compile
        self.compiler._compile = self.compile_source
        self.compiler.compile = self.compile_sources
        super().build_extensions()

    def prepare_cuda(self) -> None:
        """Complete the CUDA library's arguments, or leave the library out."""
        for ext in [ext for ext in self.extensions if ext.name == CUDA_LIBRARY]:
            try:
                if CUDA == "0":
                    raise CudaUnavailableError("VIDSEG_CUDA=0")
                self.cuda = find_cuda_tools(TORCH, self.compiler.compiler_so[0])
                ext.extra_link_args += self.cuda.runtime
            except CudaUnavailableError as reason:
                self.leave_out(ext, str(reason))

    def build_extension(self, ext: Extension) -> None:
        if ext.name != CUDA_LIBRARY:
            return super().build_extension(ext)
        try:
            return super().build_extension(ext)
        except (CompileError, ExecError, LinkError) as error:
            print(error, file=sys.stderr)
            return self.leave_out(ext, "nvcc or the linker failed; its messages are above")

    def leave_out(self, ext: Extension, reason: str) -> None:
        """Continue without the CUDA library and delete an older build of it; stop if VIDSEG_CUDA=1 asks for it."""
        if CUDA == "1":
            sys.exit(f"VIDSEG_CUDA=1, but the CUDA operators cannot be built: {reason}.")
        if CUDA == "auto" and (find_nvcc() or (TORCH / "lib/libtorch_cuda.so").is_file()):
            print(f"vidseg is built without the CUDA operators: {reason}.", file=sys.stderr)
        self.extensions = [other for other in self.extensions if other is not ext]
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)

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

    def compile_sources(
        self,
        sources,
        output_dir=None,
        macros=None,
        include_dirs=None,
        debug=0,
        extra_preargs=None,
        extra_postargs=None,
        depends=None,
    ) -> list[str]:
        """Compile the sources of a library as setuptools' compilers do, VIDSEG_JOBS at a time."""
        macros, objects, extra_postargs, pp_opts, build = self.compiler._setup_compile(
            output_dir, macros, include_dirs, sources, depends, extra_postargs
        )
        cc_args = self.compiler._get_cc_args(pp_opts, debug, extra_preargs)
        # Longest first, so that no processor waits for a long file that was started last.
        waiting = sorted((obj for obj in objects if obj in build), key=lambda obj: -Path(build[obj][0]).stat().st_size)
        with ThreadPoolExecutor(JOBS) as pool:
            compiled = [
                pool.submit(self.compiler._compile, obj, *build[obj], cc_args, extra_postargs, pp_opts)
                for obj in waiting
            ]
            try:
                for result in compiled:
                    result.result()
            finally:
                pool.shutdown(cancel_futures=True)  # after an error, files that were not started are not compiled
        return objects

    def compile_source(self, obj, src, ext, cc_args, extra_postargs, pp_opts) -> None:
        if ext != ".cu":
            return self.compile_one(obj, src, ext, cc_args, extra_postargs, pp_opts)
        return self.spawn([*self.cuda.compile_command(), *pp_opts, "-c", src, "-o", obj])


class BuildPrograms(build_py):
    """Copies converters/ into the package, where `vidseg labels NAME` finds them without a checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # the checkout has them
        for source in sources("converters/*.py"):
            target = Path(self.build_lib) / "vidseg/cli" / source
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(ROOT / source), str(target))


class PlainWheel(bdist_wheel):
    """Tags the wheel py3-none-<platform>, because the libraries do not depend on the Python version."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def description() -> str:
    """Return the README for pages that do not have the repository's files.

    Links to files get the address of `Repository` in pyproject.toml; without one, their text remains.
    """
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)

    def outside(link: re.Match[str]) -> str:
        picture, text, target = link.groups()
        if re.match("[a-z]+:", target):
            return link[0]
        if found is None:
            return "" if picture else text
        return f"{picture}[{text}]({found[1].rstrip('/')}/{'raw' if picture else 'blob'}/main/{target})"

    return re.sub(r"(!?)\[([^][]*)\]\(([^)\s]+)\)", outside, readme)


setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    ext_modules=EXTENSIONS,
    cmdclass={"build_ext": BuildNative, "build_py": BuildPrograms, "bdist_wheel": PlainWheel},
    setup_requires=[] if TORCH else [TORCH_TO_BUILD_WITH],
)
