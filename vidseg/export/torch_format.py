"""`torch.export`: the graph as PyTorch stores it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vidseg.export.artifact import Artifact

__all__ = ["load", "write"]


def write(program: ExportedProgram, artifact: Artifact, path: Path) -> None:
    """See `vidseg.export.formats.Format.write`."""
    torch.export.save(program, path)


def load(path: Path, artifact: Artifact, device: torch.device) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """See `vidseg.export.formats.Format.load`."""
    try:
        program = torch.export.load(path)
    except Exception as error:  # a damaged archive raises errors of zip, JSON, pickle and the reader of graphs
        raise ValueError(f"{path}: not a graph of torch.export, or damaged: {str(error).splitlines()[0]}") from error
    module = program.module().to(device)

    def run(values: list[Tensor]) -> Sequence[Tensor]:
        try:
            found: Sequence[Tensor] = module(*(value.to(device) for value in values))
        except AssertionError as error:  # a condition of the trace on a size
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{path}: the graph does not take {tuple(values[0].shape)}: {reason}; export with --fixed-length for "
                "one size, or --to onnx"
            ) from error
        return found

    return run
