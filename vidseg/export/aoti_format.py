"""AOTInductor: the graph compiled to a library for this kind of processor, which runs without tracing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vidseg.export.artifact import Artifact
from vidseg.export.onnx_operators import without_own_operators

__all__ = ["load", "write"]


def write(program: ExportedProgram, artifact: Artifact, path: Path) -> None:
    """See `vidseg.export.formats.Format.write`."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ValueError(
            f"AOTInductor needs a C++ compiler, but there is no {compiler}; install g++ (Debian/Ubuntu: apt install "
            "g++), or set CXX"
        )
    from torch._inductor import aoti_compile_and_package

    try:
        aoti_compile_and_package(without_own_operators(program, only="vidseg."), package_path=str(path))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{artifact.network}: AOTInductor cannot compile it: {reason}; use --to torch or --to onnx"
        ) from error


def load(path: Path, artifact: Artifact, device: torch.device) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """See `vidseg.export.formats.Format.load`; the library computes on the device that it was compiled for."""
    from torch._inductor import aoti_load_package

    try:
        compiled = aoti_load_package(str(path))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path}: cannot be loaded by this torch: {str(error).splitlines()[0]}") from error

    def run(values: list[Tensor]) -> Sequence[Tensor]:
        found: Sequence[Tensor] = compiled(*(value.to(device) for value in values))
        return found

    return run
