"""Loading of the compiled libraries, with one error message for all causes of failure."""

import functools
from pathlib import Path

import torch

__all__ = ["NativeLibraryError", "load_library"]

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
    if not path.is_file():
        raise NativeLibraryError(
            f"{path} does not exist: vidseg's compiled part was not built. "
            "In a checkout run `make setup`; elsewhere `pip install --force-reinstall vidseg`."
        )
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise NativeLibraryError(
            f"{path} cannot be loaded: {error}. It needs torch >= 2.10 (found {torch.__version__}), libjpeg-turbo and "
            "SQLite (Debian/Ubuntu: libjpeg62-turbo or libjpeg-turbo8, libsqlite3-0)."
        ) from error
    return path
