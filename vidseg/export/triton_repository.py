"""Model repositories of the Triton Inference Server.

A repository has the network as an ONNX model, and a Python model that takes the bytes of a video, JPEG frames or
features, prepares them as the library does, and returns the prediction as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vidseg.export import onnx_format
from vidseg.export.artifact import Artifact

__all__ = ["load", "model_file", "write"]

_BATCH = 16
_TYPES = {
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}
_SERVED = ("recognition", "segmentation", "streaming", "detection")

_MODEL = '''"""Model of Triton's Python backend; it needs vidseg in the Python of the server."""

from vidseg.serve.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''

_PREDICTION_CONFIG = """name: "{name}"
backend: "python"
max_batch_size: {batch}
input [
{inputs}
]
output [
  {{ name: "PREDICTION" data_type: TYPE_STRING dims: [ 1 ] }}
]
dynamic_batching {{ }}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
parameters {{ key: "model" value: {{ string_value: "{network}/1/model.onnx" }} }}
parameters {{ key: "vidseg" value: {{ string_value: {facts} }} }}
"""
_INPUT = '  {{ name: "{}" data_type: {} dims: [ {} ] allow_ragged_batch: true{} }}'


def model_name(artifact: Artifact) -> str:
    """Return the name of the ONNX model in the repository."""
    return re.sub(r"\W", "_", artifact.network)


def model_file(path: Path, artifact: Artifact) -> Path:
    """Return the ONNX file of a repository.

    Args:
        path: folder of the repository.
        artifact: description.
    """
    return path / model_name(artifact) / "1/model.onnx"


def write(program: ExportedProgram, artifact: Artifact, path: Path) -> None:
    """See `vidseg.export.formats.Format.write`; `path` is the folder of the repository."""
    file = model_file(path, artifact)
    file.parent.mkdir(parents=True)
    onnx_format.write(program, artifact, file)
    (file.parent.parent / "config.pbtxt").write_text(_config(program, artifact))
    if artifact.task in _SERVED and artifact.input.modality in ("rgb", "features"):
        takes = "features" if artifact.input.modality == "features" else "video"
        name = f"{model_name(artifact)}_{takes}"
        folder = path / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(_MODEL)
        (folder.parent / "config.pbtxt").write_text(_prediction_config(name, takes, artifact))


def load(path: Path, artifact: Artifact, device: torch.device) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """See `vidseg.export.formats.Format.load`; runs the ONNX model of the repository without a server."""
    return onnx_format.load(model_file(path, artifact) if path.is_dir() else path, artifact, device)


def _prediction_config(name: str, takes: str, artifact: Artifact) -> str:
    """The configuration of the Python model. Videos of a batch may have different sizes."""
    inputs = [("FEATURES", "TYPE_FP32", "-1, -1", "")]
    if takes == "video":
        optional = " optional: true"
        inputs = [("VIDEO", "TYPE_UINT8", "-1", optional), ("FRAMES", "TYPE_STRING", "-1", optional)]
    facts = {"task": artifact.task, "network": artifact.network, "classes": artifact.classes, "takes": takes,
             "streams": False, "window": None, "input": artifact.input.as_dict()}  # fmt: skip
    return _PREDICTION_CONFIG.format(
        name=name,
        batch=_BATCH,
        inputs=",\n".join(_INPUT.format(*one) for one in inputs),
        network=model_name(artifact),
        facts=json.dumps(json.dumps(facts, ensure_ascii=False), ensure_ascii=False),  # JSON in a quoted string
    )


def _config(program: ExportedProgram, artifact: Artifact) -> str:
    """The configuration of the ONNX model. Requests are batched where the videos are the first axis of every tensor."""
    inputs = [
        (spec.name, spec.dtype, [-1 if isinstance(one, str) else one for one in spec.shape]) for spec in artifact.inputs
    ]
    values = [node.meta["val"] for node in program.graph.find_nodes(op="output")[0].args[0]]
    first = _value(program).shape[0]
    outputs = [
        (
            name,
            str(value.dtype).removeprefix("torch."),
            [-1 if isinstance(one, torch.SymInt) else int(one) for one in value.shape],
        )
        for name, value in zip(artifact.outputs, values, strict=True)
    ]
    by_video = isinstance(first, torch.SymInt) and all(
        value.dim() > 0 and isinstance(value.shape[0], torch.SymInt) and str(value.shape[0]) == str(first)
        for value in values
    )
    by_video = by_video and all(isinstance(spec.shape[0], str) for spec in artifact.inputs)
    skip = 1 if by_video else 0
    lines = [
        f'name: "{model_name(artifact)}"',
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        f"max_batch_size: {_BATCH if by_video else 0}",
        *_tensors("input", inputs, skip),
        *_tensors("output", outputs, skip),
    ]
    if by_video:
        lines.append("dynamic_batching { max_queue_delay_microseconds: 2000 }")
    return "\n".join(lines) + "\n"


def _value(program: ExportedProgram) -> Any:
    """The first input of a graph."""
    name = program.graph_signature.user_inputs[0]
    return next(node.meta["val"] for node in program.graph.nodes if node.name == name)


def _tensors(kind: str, tensors: Sequence[tuple[str, str, list[int]]], skip: int) -> list[str]:
    """Lines of the configuration for inputs or outputs, without the first `skip` axes."""
    lines = []
    for name, dtype, shape in tensors:
        sizes = ", ".join(map(str, shape[skip:]))
        empty = "" if shape[skip:] else " reshape: { shape: [ ] }"
        lines.append(f'  {{ name: "{name}" data_type: {_TYPES[dtype]} dims: [ {sizes or 1} ]{empty} }}')
    return [f"{kind} [", ",\n".join(lines), "]"]
