"""Loading of the compiled libraries, with one error message for all causes of failure."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

__all__ = ["CudaLibrary", "NativeLibraryError", "load_cuda_library", "load_error", "load_library"]

_PACKAGE = Path(__file__).resolve().parent.parent


class NativeLibraryError(ImportError):
    """A compiled library of vidseg is missing or does not load on this machine; the message gives the remedy."""


@functools.cache
def load_library(name: str) -> Path:
    """Load `vidseg/<name>.so` once and return its path.

    Args:
        name: path below the package without suffix, such as "frames/_frames" or "ops/_ops".

    Raises:
        NativeLibraryError: the file does not exist, or the dynamic linker or torch cannot load it.
    """
    path = _PACKAGE / f"{name}.so"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise load_error(path, error) from error
    return path


def load_error(path: Path, error: OSError) -> NativeLibraryError:
    """Return the error of a library that cannot be loaded.

    Args:
        path: file of the library.
        error: error of the dynamic linker.
    """
    if not path.is_file():
        return NativeLibraryError(
            f"{path} does not exist: vidseg's compiled part was not built. "
            "In a checkout run `make setup`; elsewhere `pip install --force-reinstall vidseg`."
        )
    return NativeLibraryError(
        f"{path} cannot be loaded: {error}. It needs torch >= 2.10 (found {torch.__version__}), libjpeg-turbo and "
        "SQLite (Debian/Ubuntu: libjpeg62-turbo or libjpeg-turbo8, libsqlite3-0)."
    )


@dataclass(frozen=True)
class CudaLibrary:
    """The library of CUDA operators, which is optional.

    Attributes:
        path: its file, which may not exist.
        problem: why the library is not loaded and what to do; None if it is loaded.
        damaged: whether the file exists and torch has CUDA, but the library does not load.
    """

    path: Path
    problem: str | None = None
    damaged: bool = False

    def architectures(self) -> tuple[str, ...]:
        """Read from the file for which compute capabilities it was compiled, oldest first, such as ("8.0", "9.0").

        The file also has PTX of the newest one, which the driver compiles for later devices.
        """
        if not self.path.is_file():
            return ()
        found = re.search(rb"vidseg CUDA architectures: ([0-9,]+)", self.path.read_bytes())
        numbers = found[1].decode().split(",") if found else []
        return tuple(f"{number[:-2]}.{number[-2]}" for number in numbers)  # nvcc writes 9.0 as 900

    def refuse(self, *arguments: object) -> NoReturn:
        """Raise the error of an operator that is called with CUDA tensors while the library is not loaded.

        Raises:
            NativeLibraryError: always; the message contains `problem`.
        """
        raise NativeLibraryError(f"vidseg's operators cannot use CUDA tensors: {self.problem}")


@functools.cache
def load_cuda_library() -> CudaLibrary:
    """Load `vidseg/ops/_ops_cuda.so` once, if it exists and torch has CUDA."""
    path = _PACKAGE / "ops/_ops_cuda.so"
    if not torch.version.cuda:
        return CudaLibrary(path, f"torch {torch.__version__} is a build without CUDA.")
    if not path.is_file():
        return CudaLibrary(
            path,
            f"{path} does not exist: vidseg was built without its CUDA operators. Build vidseg again with "
            "VIDSEG_CUDA=1, which prints what is missing.",
        )
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        problem = (
            f"{path} cannot be loaded: {error}. It needs torch >= 2.10 (found {torch.__version__}). Build vidseg again "
            "with VIDSEG_CUDA=1 and the torch that is installed."
        )
        return CudaLibrary(path, problem, damaged=True)
    return CudaLibrary(path)
