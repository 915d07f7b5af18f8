"""TensorRT: an engine built from ONNX for the GPU of this machine.

TensorRT runs on NVIDIA GPUs only, and its wheels are not on PyPI for every platform. `check_operators` needs neither.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vidseg.export import onnx_format
from vidseg.export.artifact import Artifact, TensorSpec

__all__ = ["LACKING", "check_operators", "load", "write"]

# onnx-tensorrt, docs/operators.md, without those that TensorRT 10 added.
LACKING = frozenset(
    """Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow CenterCropPad Col2Im Compress
    ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear HammingWindow HannWindow Hardmax MatMulInteger
    MaxRoiPool MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement
    OptionalHasElement QLinearConv QLinearMatMul STFT SequenceAt SequenceConstruct SequenceEmpty SequenceErase
    SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringNormalizer TfIdfVectorizer
    Unique""".split()
)
"""ONNX operators that TensorRT cannot parse."""
_WORKSPACE = 4 << 30
_LARGEST = 4
"""Largest size of a variable axis, as a multiple of the one that the engine is tuned for."""


def check_operators(model: Any) -> list[str]:
    """Return what TensorRT cannot parse in an ONNX graph, in words; empty if it can.

    Args:
        model: `onnx_ir.Model`.
    """
    found = []
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            found.append(f"{node.domain}::{node.op_type}")
        elif node.op_type in LACKING:
            found.append(node.op_type)
        elif node.op_type == "GridSample" and node.inputs[0].shape is not None and len(node.inputs[0].shape) != 4:
            found.append("GridSample of volumes")
    return sorted(set(found))


def _package() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise ImportError(
            "tensorrt is not installed; on a machine with an NVIDIA GPU: pip install tensorrt. Or write --to onnx here "
            "and build the engine there: trtexec --onnx=model.onnx --saveEngine=model.engine"
        ) from error
    return tensorrt


def write(program: ExportedProgram, artifact: Artifact, path: Path) -> None:
    """See `vidseg.export.formats.Format.write`; the graph is checked also where TensorRT is not installed."""
    made = onnx_format.make_program(program, artifact)
    lacking = check_operators(made.model)
    if lacking:
        raise ValueError(f"{artifact.network}: TensorRT has no {', '.join(lacking)}; use --to onnx or --to aoti")
    package = _package()
    with tempfile.TemporaryDirectory(dir=path.parent.parent, prefix=".export-") as folder:
        graph = Path(folder) / "model.onnx"
        made.save(str(graph), external_data=onnx_format.has_large_weights(program))
        path.write_bytes(_build(package, graph, artifact, program))


def _build(package: Any, graph: Path, artifact: Artifact, program: ExportedProgram) -> bytes:
    """Build an engine whose types are those of the graph."""
    log = package.Logger(package.Logger.WARNING)
    builder = package.Builder(log)
    network = builder.create_network(1 << int(package.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = package.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        reasons = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise ValueError(f"{artifact.network}: TensorRT cannot parse it: {reasons}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(package.MemoryPoolType.WORKSPACE, _WORKSPACE)
    profile = builder.create_optimization_profile()
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for spec, name in zip(artifact.inputs, program.graph_signature.user_inputs, strict=True):
        tuned = [_hint(size) for size in nodes[name].meta["val"].shape]
        profile.set_shape(spec.name, *_profile(spec, tuned))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ValueError(f"{artifact.network}: TensorRT could not build the engine; its log names the reason")
    return bytes(engine)


def _hint(size: Any) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def _profile(spec: TensorSpec, tuned: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the smallest, the usual and the largest shape of an input."""
    pairs = list(zip(spec.shape, tuned, strict=True))
    return (
        tuple(1 if isinstance(size, str) else usual for size, usual in pairs),
        tuple(tuned),
        tuple(_LARGEST * usual if isinstance(size, str) else usual for size, usual in pairs),
    )


def load(path: Path, artifact: Artifact, device: torch.device) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """See `vidseg.export.formats.Format.load`; needs the GPU model and the TensorRT version that built the engine."""
    package = _package()
    if not torch.cuda.is_available():
        raise ValueError(f"{path}: a TensorRT engine needs an NVIDIA GPU and a torch with CUDA")
    place = device if device.type == "cuda" else torch.device("cuda")
    engine = package.Runtime(package.Logger(package.Logger.WARNING)).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise ValueError(f"{path}: this TensorRT ({package.__version__}) cannot load the engine; build it again")
    context = engine.create_execution_context()
    dtypes = {name: _torch_type(package, engine.get_tensor_dtype(name)) for name in artifact.outputs}

    def run(values: list[Tensor]) -> list[Tensor]:
        values = [value.to(place) for value in values]
        for spec, value in zip(artifact.inputs, values, strict=True):
            context.set_input_shape(spec.name, tuple(value.shape))
            context.set_tensor_address(spec.name, value.data_ptr())
        found = []
        for name in artifact.outputs:
            result = torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtypes[name], device=place)
            context.set_tensor_address(name, result.data_ptr())
            found.append(result)
        stream = torch.cuda.current_stream(place)
        if not context.execute_async_v3(stream.cuda_stream):
            raise ValueError(f"{path}: TensorRT failed; a size may be beyond the engine's range")
        stream.synchronize()
        return found

    return run


def _torch_type(package: Any, kind: Any) -> torch.dtype:
    known = {"FLOAT": torch.float32, "HALF": torch.float16, "INT32": torch.int32, "INT64": torch.int64}
    known |= {"BOOL": torch.bool, "UINT8": torch.uint8, "BF16": torch.bfloat16}
    return {getattr(package.DataType, name): dtype for name, dtype in known.items() if hasattr(package.DataType, name)}[
        kind
    ]
