"""ONNX graphs of quantization-aware training: weights stored as int8, batch norms folded into their scales.

The graph has QuantizeLinear and DequantizeLinear with the scales of training. Runtimes compute the layers between them
with int8 where they have kernels for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["store_int8"]


def store_int8(model: Any) -> int:
    """Compute the rounded weights of a graph and fold batch norms, in place.

    Args:
        model: `onnx_ir.Model`, whose constants are folded.

    Returns:
        Number of weights that are int8 now.
    """
    graph, count = model.graph, 0
    for node in list(graph):
        if node.op_type == "QuantizeLinear" and _constant(node.inputs[0]) is not None:
            _store(graph, node)
            count += 1
    for node in list(graph):
        if node.op_type == "BatchNormalization":
            _fold(graph, node)
    return count


def _constant(value: Any) -> np.ndarray | None:
    """The value of an initializer or of a node Constant, else None."""
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    producer = value.producer()
    if producer is None or producer.op_type != "Constant" or "value" not in producer.attributes:
        return None
    return np.asarray(producer.attributes["value"].value.numpy())


def _initializer(graph: Any, name: str, content: np.ndarray) -> Any:
    import onnx_ir

    tensor = onnx_ir.tensor(content, name=name)
    value = onnx_ir.Value(
        name=name, shape=onnx_ir.Shape(content.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _store(graph: Any, node: Any) -> None:
    """Replace the rounding of a weight by the rounded weight."""
    weight, scale = _constant(node.inputs[0]), _constant(node.inputs[1])
    if weight is None or scale is None:
        raise ValueError(f"{node.name}: the scale of a weight is not constant")
    # As torch rounds: the product with the reciprocal, half to even.
    steps = np.float32(1) / scale.reshape(-1, *[1] * (weight.ndim - 1))
    levels = np.clip(np.rint(weight * steps), -128, 127).astype(np.int8)
    stored = _initializer(graph, f"{node.inputs[0].name}_int8", levels)
    node.outputs[0].replace_all_uses_with(stored)
    graph.remove(node, safe=True)


def _fold(graph: Any, node: Any) -> None:
    """Fold a batch norm into the scales and the bias of the convolution in front of it, if only it reads this one."""
    layer = node.inputs[0].producer()
    if layer is None or layer.op_type != "Conv" or len(node.inputs[0].uses()) != 1 or node.inputs[0].is_graph_output():
        return
    widened = layer.inputs[1].producer()
    values = [_constant(value) for value in node.inputs[1:5]]
    if widened is None or widened.op_type != "DequantizeLinear" or len(layer.inputs[1].uses()) != 1:
        return
    levels, scale = _constant(widened.inputs[0]), _constant(widened.inputs[1])
    if levels is None or scale is None or any(value is None for value in values):
        return
    gain, shift, mean, variance = (value.astype(np.float64) for value in values if value is not None)
    factor = gain / np.sqrt(variance + node.attributes["epsilon"].value)
    bias = _constant(layer.inputs[2]) if len(layer.inputs) > 2 else None
    moved = ((0.0 if bias is None else bias) - mean) * factor + shift
    # Scales are positive: the sign of a factor goes into the levels, which are symmetric.
    signs = np.sign(factor).astype(np.int8).reshape(-1, *[1] * (levels.ndim - 1))
    scales = np.where(factor == 0, 1.0, scale * np.abs(factor)).astype(np.float32)
    name = layer.outputs[0].name
    widened.replace_input_with(0, _initializer(graph, f"{name}_levels", levels * signs))
    widened.replace_input_with(1, _initializer(graph, f"{name}_scales", scales))
    layer.resize_inputs(3)
    layer.replace_input_with(2, _initializer(graph, f"{name}_bias", moved.astype(np.float32)))
    node.outputs[0].replace_all_uses_with(layer.outputs[0])
    graph.remove(node, safe=True)
