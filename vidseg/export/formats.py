"""The formats of exported models: how each is written and loaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vidseg.export.artifact import Artifact

__all__ = ["FORMATS", "PRECISIONS", "Format", "format_of", "missing_package"]

PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Name of a precision -> type in which the network computes."""


class _Entry(NamedTuple):
    module: str
    suffix: str
    precisions: tuple[str, ...]


FORMATS = {
    "onnx": _Entry("onnx_format", ".onnx", ("fp32", "fp16")),
    "openvino": _Entry("openvino_format", ".xml", ("fp32", "fp16")),
    "aoti": _Entry("aoti_format", ".pt2", ("fp32", "fp16", "bf16")),
    "torch": _Entry("torch_format", ".pt2", ("fp32", "fp16", "bf16")),
    "tensorrt": _Entry("tensorrt_format", ".engine", ("fp32", "fp16")),
    "triton": _Entry("triton_repository", "", ("fp32", "fp16")),
}
"""Format -> module, suffix of its files, and precisions."""


class Format(Protocol):
    """A module of this package that writes and loads one format."""

    def write(self, program: ExportedProgram, artifact: Artifact, path: Path) -> None:
        """Write the model of a graph.

        Args:
            program: graph whose arguments and results are those of the description.
            artifact: description.
            path: file to write; further files have the same stem.

        Raises:
            ImportError: a package is not installed.
            ValueError: the graph has something that the format cannot express.
        """

    def load(self, path: Path, artifact: Artifact, device: torch.device) -> Callable[[list[Tensor]], Sequence[Tensor]]:
        """Return a function that computes the outputs from the inputs.

        Args:
            path: file of the model.
            artifact: description.
            device: device to compute on.

        Raises:
            ImportError: a package is not installed.
            ValueError: the file is damaged.
        """


def format_of(name: str, place: str | Path) -> Format:
    """Return the module of a format.

    Args:
        name: name of the format.
        place: file, for the message.

    Raises:
        ValueError: there is no such format.
    """
    if name not in FORMATS:
        raise ValueError(f"{place}: format {name!r:.80} is unknown; expected one of {', '.join(FORMATS)}")
    module: Format = importlib.import_module(f"vidseg.export.{FORMATS[name].module}")
    return module


def missing_package(package: str, extra: str) -> ImportError:
    """Return the error for a package that is not installed.

    Args:
        package: name of the package.
        extra: extra of vidseg that contains it.
    """
    return ImportError(f"{package} is not installed; pip install 'vidseg[{extra}]'")
