"""Post-training quantization to int8 with ONNX Runtime's tools: static, with ranges measured on videos, or dynamic."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidseg.engine.trained import TrainedModel
from vidseg.export import onnx_format, openvino_format
from vidseg.export.artifact import Artifact, write_artifact
from vidseg.export.exported_network import load_exported
from vidseg.export.exporting import INT8, Exported, ExportError, default_path, describe, publish, trace
from vidseg.export.formats import FORMATS, missing_package
from vidseg.export.onnx_format import has_large_weights
from vidseg.export.replay import replay
from vidseg.models._quantized import quantized_layers

__all__ = ["quantize_model"]

_FORMATS = ("onnx", "openvino")
_STATIC = ["Conv", "MatMul", "Gemm"]
_DYNAMIC = ["MatMul", "Gemm", "LSTM"]


def quantize_model(
    trained: TrainedModel,
    path: str | Path | None = None,
    *,
    to: str = "onnx",
    calibrate: str | Path | None = None,
    split: str | None = None,
    videos: int = 32,
    dynamic: bool = False,
    fixed_length: bool = False,
) -> Exported:
    """Write a trained model whose convolutions and linear layers compute with int8.

    Static: the ranges of activations are measured on videos, weights have a scale for each output channel. Dynamic:
    ranges of activations are measured in each call, convolutions stay float32; it fits transformers and recurrent
    networks. Like an export, the file is replayed against the network before it gets its name.

    Args:
        trained: network, see `vidseg.load_trained`.
        path: file to write; None: see `vidseg.export.exporting.default_path`.
        to: format: "onnx", or "openvino", which has int8 kernels for convolutions of volumes.
        calibrate: data set with videos for the ranges; None: that of the run.
        split: its split; None: the training split, so that the test data stay unseen, else the test split.
        videos: number of calibration videos, evenly spaced in the split.
        dynamic: measure ranges in each call instead.
        fixed_length: see `vidseg.export.export_model`.

    Raises:
        ImportError: onnxruntime, or openvino, is not installed.
        ValueError: there are no calibration data, the network has no ONNX form, or is trained for int8.
        ExportError: the quantized model decides differently from the network.
    """
    if trained.source.artifact is not None:
        raise ValueError(f"{trained.source.path}: is an exported model; quantize the run that it came from")
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise missing_package("onnxruntime", "onnx") from error
    if to not in _FORMATS or (dynamic and to != "onnx"):
        raise ValueError(f"to={to!r}: int8 is written as {' or '.join(_FORMATS)}, with dynamic ranges as onnx")
    if quantized_layers(trained.model):
        raise ValueError(f"{trained.source.path}: is trained for int8; write it with `vidseg export`")
    path = default_path(trained, to, INT8) if path is None else Path(path)
    if path.suffix != FORMATS[to].suffix:
        raise ValueError(f"{path}: the name of a quantized model for {to} must end in {FORMATS[to].suffix}")
    program, specs, flat = trace(trained, fixed_length=fixed_length)
    artifact = describe(trained, to, INT8, specs, flat)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=path.parent))
    work = Path(tempfile.mkdtemp(prefix=".quantize-", dir=path.parent))
    try:
        plain, prepared = work / "plain.onnx", work / "prepared.onnx"
        written = folder / path.name if to == "onnx" else work / "int8.onnx"
        onnx_format.write(program, artifact, plain)
        large = has_large_weights(program)
        with _quiet():
            quantization.quant_pre_process(
                str(plain), str(prepared), skip_symbolic_shape=True, save_as_external_data=large,
                all_tensors_to_one_file=large, external_data_location="prepared.onnx.data" if large else None,
            )  # fmt: skip
            if dynamic:
                quantization.quantize_dynamic(
                    str(prepared), str(written), op_types_to_quantize=_DYNAMIC, per_channel=True,
                    use_external_data_format=large,
                )  # fmt: skip
            else:
                feeds = _feeds(trained, artifact, plain, calibrate, split, videos)
                quantization.quantize_static(
                    str(prepared),
                    str(written),
                    _reader(feeds),
                    op_types_to_quantize=_STATIC,
                    per_channel=True,
                    activation_type=quantization.QuantType.QUInt8,
                    weight_type=quantization.QuantType.QInt8,
                    use_external_data_format=large,
                )
        if to == "openvino":
            openvino_format.convert(written, artifact, folder / path.name)
        exported = load_exported(artifact, folder / path.name, device=trained.device)
        result = replay(trained, exported, precision=INT8)
        if not result.ok:
            raise ExportError(
                f"{path}: not written, since its decisions differ too much; use more calibration videos, or train it"
                f" for int8 with --fine-tune; {result}"
            )
        artifact = replace(artifact, replay=result.as_dict())
        write_artifact(artifact, folder / path.name)
        files = publish(folder, path)
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(work)
    return Exported(path, artifact, result, files)


def _feeds(
    trained: TrainedModel, artifact: Artifact, plain: Path, data: str | Path | None, split: str | None, videos: int
) -> Iterator[dict[str, Any]]:
    """Yield the inputs of calls with calibration videos; a stream gets the memory that the float model computes."""
    exported: Any = load_exported(replace(artifact, format="onnx"), plain)
    run, names = exported.run, [spec.name for spec in artifact.inputs]
    calls: list[dict[str, Any]] = []

    def recorded(values: list[Tensor]) -> Any:
        calls.append({name: value.numpy() for name, value in zip(names, values, strict=True)})
        return run(values)

    exported.run = recorded
    for sequence in _sequences(trained, data, split, videos):
        state = None
        for call in sequence:
            given = [value.cpu() for value in call]
            with torch.no_grad():
                if trained.task == "streaming":
                    _, state = exported(given[0], state, given[1])
                else:
                    exported(*given)
        yield from calls
        calls.clear()


def _sequences(
    trained: TrainedModel, data: str | Path | None, split: str | None, videos: int
) -> Iterator[list[tuple[Tensor, ...]]]:
    if split is not None:
        yield from trained.network_inputs(videos=videos, dataset=data, split=split)
        return
    try:
        trained.test_data(data, "train")
    except ValueError:
        yield from trained.network_inputs(videos=videos, dataset=data)
    else:
        yield from trained.network_inputs(videos=videos, dataset=data, split="train")


def _reader(feeds: Iterator[dict[str, Any]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            return next(feeds, None)

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress ONNX Runtime's advice on steps that have been taken."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
