"""Linear layers over many rows, such as the tokens of a transformer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["RowLinear", "linear_rows"]

_FEWEST_ROWS = 64
"""Below this number a pointwise convolution has no advantage."""


def linear_rows(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `torch.nn.functional.linear`; on the CPU as a pointwise convolution.

    For float32 a linear layer runs MKL's matrix product and a convolution runs oneDNN's, which takes half the time on
    AMD processors. Torch selects oneDNN only for several threads; with one thread both are alike.

    Args:
        x: (..., C).
        weight: (D, C).
        bias: (D,); None: no bias.

    Returns:
        (..., D).
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():  # the number of rows may be unknown
        return F.linear(x, weight, bias)
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() < _FEWEST_ROWS * weight.shape[1]:
        return F.linear(x, weight, bias)
    rows = x.reshape(1, -1, x.shape[-1]).transpose(1, 2)[:, :, None]
    return F.conv2d(rows, weight[:, :, None, None], bias)[0, :, 0].t().view(*x.shape[:-1], -1)


class RowLinear(nn.Linear):
    """Linear layer that runs `linear_rows`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear_rows(input, self.weight, self.bias)
