"""Reading of files of `torch.save`: nothing but plain data, and only after the checksums of the file match.

`torch.save` writes a zip file with a CRC-32 of each record, which `torch.load` does not compare.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

__all__ = ["read_torch_file"]

_BLOCK = 1 << 20
# What torch.load raises for damaged files, beside its own errors.
_REFUSALS = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ImportError,
    ArithmeticError,
    MemoryError,
    struct.error,
)


def read_torch_file(path: str | Path) -> Any:
    """Read a file of `torch.save` to the CPU; it may hold tensors, numbers, strings and their containers.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is damaged, or holds something else; one sentence that names the file.
    """
    path = Path(path)
    with path.open("rb") as file:  # an error of the file system is not one of the content
        file.read(1)
    try:
        record = _damaged_record(path) if zipfile.is_zipfile(path) else None
    except (zipfile.BadZipFile, zlib.error, *_REFUSALS) as error:
        raise ValueError(f"{path}: the file is damaged: {_line(error)}; {_REMEDY}") from error
    if record is not None:
        raise ValueError(f"{path}: the file is damaged: the checksum of {record!r} does not match; {_REMEDY}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _REFUSALS as error:
        raise ValueError(
            f"{path}: torch.load refuses it; it is damaged, or holds more than tensors, numbers, strings and their "
            f"containers, and nothing else is read from weights, since it could run code: {_line(error)}"
        ) from error


_REMEDY = "copy it again, or use another checkpoint"


def _damaged_record(path: Path) -> str | None:
    """Return the name of the first record whose CRC-32 differs, or None.

    A program can switch off torch's checksums. Every record differs then, and the file counts as undamaged.
    """
    matches, damaged = 0, None
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            try:
                with archive.open(info) as record:
                    while record.read(_BLOCK):
                        pass
                matches += 1
            except zipfile.BadZipFile as error:
                if "Bad CRC-32" not in str(error):
                    raise
                damaged = damaged or info.filename
    return damaged if matches else None


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".")[:200] if text else type(error).__name__
