"""Trained models as files for other runtimes: ONNX, OpenVINO, AOTInductor, `torch.export`, TensorRT, Triton.

`export_model` writes a file and compares it with the network that it came from; `vidseg.load_trained` reads it.
"""

from vidseg.export.artifact import Artifact, TensorSpec, read_artifact
from vidseg.export.exported_network import find_exported, load_exported
from vidseg.export.exporting import FORMATS, PRECISIONS, ExportError, export_model
from vidseg.export.replay import Replay, replay

__all__ = [
    "FORMATS",
    "PRECISIONS",
    "Artifact",
    "ExportError",
    "Replay",
    "TensorSpec",
    "export_model",
    "find_exported",
    "load_exported",
    "read_artifact",
    "replay",
]
