"""LSTM and GRU layers that `torch.export` can trace with a variable number of steps.

`torch.export` unrolls PyTorch's recurrent layers, which fixes the number of steps. During export, the functions of this
module run the layers as a scan instead, with the same weights and the same results up to rounding.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["run_recurrent", "scan_steps"]

Step = Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]


def scan_steps(step: Step, start: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Apply `step` along the first axis of `inputs`; the exported graph accepts any number of steps.

    Args:
        step: function of the state and the inputs of one step that returns the next state and the outputs.
        start: tensors of the state before the first step.
        inputs: tensors (T, ...).

    Returns:
        Tensors of the last state, and outputs (T, ...).
    """
    from torch._higher_order_ops import scan

    # The scan is compiled. A graph of an earlier export has a fixed number of steps in its guards, and comparing a
    # variable number with it would fix that number as well.
    if not torch.compiler.is_dynamo_compiling():
        torch.compiler.reset()

    def separate(state: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> Any:
        # The scan operator does not accept results that share memory.
        following, outputs = step(state, values)
        return tuple(value.clone() for value in following), tuple(value.clone() for value in outputs)

    # The tensors of the start may share memory, too.
    last, outputs = scan(separate, tuple(value.clone() for value in start), tuple(inputs), dim=0)
    return list(last), list(outputs)


def _lstm_cell(gates: Tensor, hidden: Tensor, cell: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    enter, forget, candidate, leave = (gates + F.linear(hidden, weights[1], weights[3])).chunk(4, dim=1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def _gru_cell(gates: Tensor, hidden: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor]:
    reset, update, new = gates.chunk(3, dim=1)
    own_reset, own_update, own_new = F.linear(hidden, weights[1], weights[3]).chunk(3, dim=1)
    share = (update + own_update).sigmoid()
    candidate = (new + (reset + own_reset).sigmoid() * own_new).tanh()
    return ((1 - share) * candidate + share * hidden,)


def run_recurrent(
    layer: nn.LSTM | nn.GRU, x: Tensor, start: tuple[Tensor, ...] | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a unidirectional recurrent layer.

    Args:
        layer: LSTM or GRU with biases, without dropout and projection, and with batch_first=False.
        x: (T, B, C).
        start: (hidden,) for a GRU, (hidden, cell) for an LSTM, each (layers, B, C); None: zeros.

    Returns:
        Output (T, B, C), and the last state in the form of `start`.
    """
    if not torch.compiler.is_exporting():
        if start is None:
            out, last = layer(x)
        else:
            out, last = layer(x, start if isinstance(layer, nn.LSTM) else start[0])
        return out, last if isinstance(last, tuple) else (last,)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = [[getattr(layer, f"{name}_l{number}") for name in names] for number in range(layer.num_layers)]
    cell: Callable[..., tuple[Tensor, ...]] = _lstm_cell if isinstance(layer, nn.LSTM) else _gru_cell
    kinds = 2 if isinstance(layer, nn.LSTM) else 1
    zeros = x.new_zeros(layer.num_layers, x.shape[1], layer.hidden_size)
    states = start or (zeros,) * kinds

    def step(state: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        following: list[Tensor] = []
        gates = values[0]
        for number, own in enumerate(weights):
            if number:
                gates = F.linear(following[-kinds], own[0], own[2])
            following += cell(gates, *state[number * kinds : (number + 1) * kinds], own)
        return tuple(following), (following[-kinds],)

    first = F.linear(x, weights[0][0], weights[0][2])  # all steps at once
    flat = [states[kind][number] for number in range(layer.num_layers) for kind in range(kinds)]
    last, outputs = scan_steps(step, flat, [first])
    return outputs[0], tuple(torch.stack(last[kind::kinds]) for kind in range(kinds))
