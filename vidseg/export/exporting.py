"""Export of trained models: trace, write, replay against the network, then give the file its name."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

import vidseg
from vidseg.engine.trained import TrainedModel
from vidseg.export.artifact import Artifact, TensorSpec, write_artifact
from vidseg.export.exported_network import load_exported
from vidseg.export.formats import FORMATS, PRECISIONS, format_of
from vidseg.export.replay import TRAINED_INT8, Replay, replay
from vidseg.export.signature import ATTRIBUTES, FlatNetwork, example_inputs, flat_network
from vidseg.models._quantized import quantized_layers

__all__ = ["ExportError", "Exported", "default_path", "describe", "export_model", "publish", "trace"]

logger = logging.getLogger(__name__)

INT8 = "int8"
_INT8_FORMATS = ("onnx", "openvino", "triton")
_AXES = {
    "clips": ("batch", None, "frames", None, None),
    "snippets": ("batch", "length", None, None, None, None),
    "features": ("batch", None, "length"),
    "noise": (None, "batch", None, "length"),
    "first": ("batch", None, "height", "width"),
    "second": ("batch", None, "height", "width"),
}
"""Names of the axes that may be variable."""


class ExportError(RuntimeError):
    """An exported model does not compute what its network computes; no file is left."""


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        path: its file or folder.
        artifact: its description.
        replay: its comparison with the network.
        files: all files.
    """

    path: Path
    artifact: Artifact
    replay: Replay
    files: tuple[Path, ...]


def default_path(trained: TrainedModel, form: str, precision: str) -> Path:
    """Return the file of an exported model where none is given: RUN/export/<network>.onnx, or beside the weights.

    Args:
        trained: network.
        form: name of the format.
        precision: name of the precision; others than fp32 are part of the name.
    """
    source = trained.source
    folder = source.path.parent if source.run is None else source.run / "export"
    stem = source.path.stem if source.run is None else trained.network
    kind = "_aoti" if form == "aoti" else ""
    half = "" if precision == "fp32" else f"_{precision}"
    return folder / f"{stem}{kind}{half}{FORMATS[form].suffix or '_triton'}"


def trace(
    trained: TrainedModel,
    *_: Any,
    precision: str = "fp32",
    fixed_length: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[ExportedProgram, tuple[TensorSpec, ...], FlatNetwork]:
    """Trace a network with variable sizes.

    Args:
        trained: network.
        precision: name of the type in which it computes.
        fixed_length: keep the number of frames or columns, and the size of pictures, as the network was trained.
        device: device of the graph.

    Returns:
        The graph, its inputs, and the network with tensors as arguments.

    Raises:
        ValueError: the network cannot be traced.
    """
    columns = None if fixed_length else getattr(trained.model, "trace_frames", None)
    example = example_inputs(trained, columns=columns)
    flat, inputs = flat_network(trained, example, dtype=PRECISIONS[precision], device=torch.device(device))
    shapes = tuple(_variable(name, value, fixed_length) for name, value in inputs.items())
    with torch.no_grad():
        try:
            program = torch.export.export(flat, tuple(inputs.values()), dynamic_shapes={"tensors": shapes})
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{trained.network} cannot be traced by torch.export: {reason}") from error
    specs = _specs(program, inputs)
    fixed = [f"{spec.name} {spec.shape}" for spec in specs if not any(isinstance(size, str) for size in spec.shape)]
    if fixed:
        logger.warning("%s: no size of %s is variable", trained.network, ", ".join(fixed))
    return program, specs, flat


def _axes(name: str, dims: int) -> tuple[str | None, ...]:
    if name == "mask":
        return ("batch", "length")
    return _AXES.get(name, ("batch", *[None] * (dims - 1)))


def _variable(name: str, value: Tensor, fixed_length: bool) -> dict[int, Any]:
    return {
        axis: Dim.AUTO
        for axis, variable in enumerate(_axes(name, value.dim()))
        if variable == "batch" or (variable is not None and not fixed_length)
    }


def _specs(program: ExportedProgram, inputs: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = []
    for name, node, value in zip(inputs, program.graph_signature.user_inputs, inputs.values(), strict=True):
        sizes = nodes[node].meta["val"].shape
        axes = _axes(name, value.dim())
        if name == "mask" and "clips" in inputs:
            axes = ("batch", "frames")
        shape = tuple(
            axes[axis] or f"{name}_{axis}" if isinstance(size, torch.SymInt) else int(size)
            for axis, size in enumerate(sizes)
        )
        specs.append(TensorSpec(name, str(value.dtype).removeprefix("torch."), shape))
    return tuple(specs)


def export_model(
    trained: TrainedModel,
    path: str | Path | None = None,
    *,
    to: str = "onnx",
    precision: str = "fp32",
    fixed_length: bool = False,
    videos: int = 8,
) -> Exported:
    """Write a trained model for another runtime.

    The model is written under a temporary name and replayed against the network. The file gets its name only if both
    compute the same within the limits of the precision, see `vidseg.export.replay.LIMITS`.

    Args:
        trained: network, see `vidseg.load_trained`.
        path: file to write, or folder of a model repository; None: see `default_path`.
        to: format: "onnx", "openvino", "aoti", "torch", "tensorrt" or "triton".
        precision: type in which the model computes: "fp32", "fp16" or "bf16", as the format allows. Its inputs and
            outputs are float32 for each of them. A network with `quantized="int8"` computes with int8.
        fixed_length: keep the number of frames or columns, and the size of pictures, as the network was trained.
        videos: videos of the run's test data to replay.

    Raises:
        ImportError: the package of the format is not installed.
        ValueError: the format does not have this precision, or cannot express the network.
        ExportError: the exported model computes something else than the network.
    """
    if to not in FORMATS:
        raise ValueError(f"to={to!r} is not one of {', '.join(FORMATS)}")
    if precision not in FORMATS[to].precisions:
        having = [name for name, entry in FORMATS.items() if precision in entry.precisions]
        raise ValueError(
            f"precision={precision!r}: {to} has {' and '.join(FORMATS[to].precisions)}"
            + (f"; {', '.join(having)} has {precision}" if having else "")
        )
    if trained.source.artifact is not None:
        raise ValueError(f"{trained.source.path}: is an exported model; export the run that it came from")
    kind = _kind(trained, to, precision)
    path = default_path(trained, to, kind) if path is None else Path(path)
    suffix = FORMATS[to].suffix
    if suffix and path.suffix != suffix:
        raise ValueError(f"{path}: the name of a model for {to} must end in {suffix}")
    if path.is_dir() and (suffix or (any(path.iterdir()) and not list(path.glob("*/1/model.onnx")))):
        raise FileExistsError(f"{path}: is a folder with other files, which is not replaced; choose another --out")
    form = format_of(to, path)
    device = trained.device if to in ("aoti", "torch") else torch.device("cpu")
    program, specs, flat = trace(trained, precision=precision, fixed_length=fixed_length, device=device)
    artifact = describe(trained, to, kind, specs, flat)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=path.parent))
    try:
        temporary = folder / path.name
        form.write(program, artifact, temporary)
        exported = load_exported(artifact, temporary, device=trained.device)
        result = replay(trained, exported, precision=TRAINED_INT8 if kind == INT8 else kind, videos=videos)
        if not result.ok:
            raise ExportError(f"{path}: not written, since it does not compute what the network computes; {result}")
        artifact = replace(artifact, replay=result.as_dict())
        write_artifact(artifact, temporary)
        files = publish(folder, path)
    finally:
        shutil.rmtree(folder)
    return Exported(path, artifact, result, files)


def _kind(trained: TrainedModel, to: str, precision: str) -> str:
    """Return the precision of an exported model: int8 for a network that was trained with rounded values."""
    if not quantized_layers(trained.model):
        return precision
    if precision != "fp32":
        raise ValueError(f"{trained.source.path}: is trained for int8 and has no {precision} form; leave precision out")
    if to not in _INT8_FORMATS:
        raise ValueError(
            f"{trained.source.path}: is trained for int8, which {', '.join(_INT8_FORMATS)} express, not {to}"
        )
    return INT8


def describe(
    trained: TrainedModel, form: str, precision: str, specs: tuple[TensorSpec, ...], flat: FlatNetwork
) -> Artifact:
    """Return the description of a traced network, without the result of a replay."""
    model, source = trained.model, trained.source
    stride = getattr(getattr(trained, "shape", None), "stride", None)
    record = source.record
    if record:
        record = record | {"input": trained.input_spec.as_dict()} | ({} if stride is None else {"stride": stride})
    attributes = {name: value for name in ATTRIBUTES if (value := getattr(model, name, None)) is not None}
    return Artifact(
        format=form,
        precision=precision,
        task=trained.task,
        network=trained.network,
        network_options=dict(source.network_options),
        classes=list(trained.classes),
        input=trained.input_spec,
        stride=stride,
        inputs=specs,
        outputs=flat.outputs,
        attributes=attributes,
        parameters=sum(value.numel() for value in model.parameters()),
        epoch=source.epoch,
        score=source.score,
        record=dict(record),
        versions={"vidseg": vidseg.__version__, "torch": str(torch.__version__)},
    )


def publish(folder: Path, path: Path) -> tuple[Path, ...]:
    """Move the written files to their place, the file of the model last."""
    names = sorted((one.name for one in folder.iterdir()), key=lambda name: name == path.name)
    for name in names:
        target = path.parent / name
        if target.is_dir():
            shutil.rmtree(target)
        (folder / name).replace(target)
    return tuple(path.parent / name for name in reversed(names))
