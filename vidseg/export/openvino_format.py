"""OpenVINO: converted from ONNX."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vidseg.export import onnx_format
from vidseg.export.artifact import Artifact
from vidseg.export.formats import missing_package

__all__ = ["convert", "load", "write"]


def _package() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise missing_package("openvino", "openvino") from error
    return openvino


def write(program: ExportedProgram, artifact: Artifact, path: Path) -> None:
    """See `vidseg.export.formats.Format.write`; the weights are in <name>.bin beside the file."""
    _package()
    with tempfile.TemporaryDirectory(dir=path.parent.parent, prefix=".export-") as folder:
        graph = Path(folder) / "model.onnx"
        onnx_format.write(program, artifact, graph)
        convert(graph, artifact, path)


def convert(graph: Path, artifact: Artifact, path: Path) -> None:
    """Convert an ONNX file.

    Args:
        graph: ONNX file.
        artifact: description.
        path: file to write, .xml.

    Raises:
        ImportError: openvino is not installed.
        ValueError: OpenVINO cannot express the graph.
    """
    openvino = _package()
    try:
        model = openvino.convert_model(graph)
    except Exception as error:  # OpenVINO's errors have no public base class
        raise ValueError(f"{artifact.network}: OpenVINO cannot convert it: {_first_line(error)}") from error
    for value, name in zip(model.outputs, artifact.outputs, strict=True):
        value.get_tensor().set_names({name})
    openvino.save_model(model, path, compress_to_fp16=False)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    lines = [line.lstrip("- ") for line in lines if line.startswith("-- Conversion is failed for")] or lines
    return lines[0].strip() if lines else type(error).__name__


def load(path: Path, artifact: Artifact, device: torch.device) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """See `vidseg.export.formats.Format.load`; computes on the CPU, in the precision of the file."""
    openvino = _package()
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "EXECUTION_MODE_HINT": "ACCURACY"}
    try:
        compiled = core.compile_model(core.read_model(path), "CPU", settings)
    except Exception as error:  # OpenVINO's errors have no public base class
        raise ValueError(f"{path}: OpenVINO cannot load it: {_first_line(error)}") from error
    names = [spec.name for spec in artifact.inputs]
    # An input has several names where its conversion to half precision was merged into it.
    known = [next((name for name in names if name in one.get_names()), one.get_any_name()) for one in compiled.inputs]
    if not set(known) <= set(names) or len(compiled.outputs) != len(artifact.outputs):
        raise ValueError(f"{path}: its inputs are {', '.join(known)}, but its description has {', '.join(names)}")

    def run(values: list[Tensor]) -> list[Tensor]:
        feed = {name: value.cpu().numpy() for name, value in zip(names, values, strict=True) if name in known}
        found = compiled(feed)
        return [torch.from_numpy(found[place].copy()) for place in range(len(artifact.outputs))]

    return run
