"""ONNX: written by PyTorch's exporter, run by ONNX Runtime."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vidseg.export.artifact import Artifact
from vidseg.export.formats import missing_package
from vidseg.export.onnx_operators import without_own_operators
from vidseg.export.onnx_quantized import store_int8

__all__ = ["has_large_weights", "load", "make_program", "write"]

logger = logging.getLogger(__name__)

_OPSET = 18
_FOLDED = 1 << 16
"""Largest constant that is computed at export."""
_INLINE_BYTES = 1_500_000_000
"""Size of the weights up to which they are in the file of the graph; a protobuf message has at most 2 GB."""


def make_program(program: ExportedProgram, artifact: Artifact) -> Any:
    """Convert a graph to `torch.onnx.ONNXProgram` with the names of the description.

    Args:
        program: graph.
        artifact: description.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        ValueError: an operator of the graph has no ONNX form.
    """
    try:
        import onnx_ir
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_package("onnxscript", "onnx") from error
    names = [spec.name for spec in artifact.inputs]
    with _quiet():
        try:
            found = torch.onnx.export(
                without_own_operators(program),
                (),
                dynamo=True,
                verbose=False,
                optimize=False,
                opset_version=_OPSET,
                input_names=names,
                output_names=list(artifact.outputs),
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ValueError(f"{artifact.network}: {_reason(error)}") from error
    assert found is not None
    _optimize(found.model)
    for value, spec in zip(found.model.graph.inputs, artifact.inputs, strict=True):
        value.shape = onnx_ir.Shape(spec.shape)
    return found


def _optimize(model: Any) -> None:
    """Remove what a runtime would remove at each start: constants that can be computed, and what nothing uses."""
    import onnxscript.optimizer
    from onnx_ir.passes import PassError, common

    # Without the exporter's rules of rewriting: they take minutes in large graphs, and runtimes have their own.
    with _quiet():
        try:
            onnxscript.optimizer.fold_constants(model, input_size_limit=1024, output_size_limit=_FOLDED)
        except (PassError, RuntimeError) as error:  # the graph is valid, and larger
            logger.warning("constants of the ONNX graph are not folded: %s", error)
        for node in model.graph.all_nodes():
            # The exporter gives convolutions of volumes without a bias one of zeros, whose shape is wrong.
            if node.op_type == "Conv" and len(node.inputs) == 3 and node.inputs[2] is not None:
                bias = node.inputs[2].const_value
                if bias is not None and not bias.numpy().any():
                    node.resize_inputs(2)
        store_int8(model)
        common.RemoveUnusedNodesPass()(model)
    for node in model.graph.all_nodes():  # where the exporter made it, which is most of the file of a small network
        node.metadata_props.clear()


def _reason(error: BaseException) -> str:
    """The cause of an error of the exporter in one line."""
    inner: BaseException | None = error
    while inner is not None and inner.__cause__ is not None:
        inner = inner.__cause__
    lines = [line for line in str(inner).splitlines() if line.strip()]
    return f"has no ONNX form: {lines[0] if lines else type(inner).__name__}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's remarks about its own progress."""
    names = ("onnxscript", "onnx_ir", "torch.onnx")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def write(program: ExportedProgram, artifact: Artifact, path: Path) -> None:
    """See `vidseg.export.formats.Format.write`; large weights are in <name>.onnx.data beside the file."""
    made = make_program(program, artifact)
    made.save(str(path), external_data=has_large_weights(program))


def has_large_weights(program: ExportedProgram) -> bool:
    """Return whether the weights of a graph need a file beside that of the graph.

    Args:
        program: graph.
    """
    values = (*program.state_dict.values(), *program.constants.values())
    size = sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))
    return size > _INLINE_BYTES


def load(path: Path, artifact: Artifact, device: torch.device) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """See `vidseg.export.formats.Format.load`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", "onnx") from error
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        else:
            logger.warning("%s runs on the CPU: this onnxruntime has no CUDA; onnxruntime-gpu has", path.name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no public base class
        raise ValueError(f"{path}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from error
    names, outputs = [spec.name for spec in artifact.inputs], list(artifact.outputs)
    known = {value.name for value in session.get_inputs()}
    if not known <= set(names) or not set(outputs) <= {value.name for value in session.get_outputs()}:
        raise ValueError(f"{path}: its inputs or outputs are not those of its description; export it again")

    def run(values: list[Tensor]) -> list[Tensor]:
        feed = {name: value.cpu().numpy() for name, value in zip(names, values, strict=True) if name in known}
        try:
            found = session.run(outputs, feed)
        except Exception as error:  # onnxruntime's errors have no public base class
            raise RuntimeError(f"{path}: ONNX Runtime failed: {str(error).splitlines()[0]}") from error
        return [torch.from_numpy(value) for value in found]

    return run
