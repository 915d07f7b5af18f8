"""Ways to run a network faster or in less memory, without another result."""

from typing import TypeVar

import torch
from torch import nn

from vidseg.models._stage import Stage

__all__ = ["prepare"]

Model = TypeVar("Model", bound=nn.Module)


def prepare(
    model: Model, *, channels_last: bool = False, compile: bool | str = False, checkpointing: bool = False
) -> Model:
    """Change how `model` runs, in place; its results stay the same up to rounding, its state dict as it is.

    Args:
        model: any network; call this after `load_weights` and after moving it to its device.
        channels_last: lay the weights of convolutions out with channels innermost; convolutions then give their
            results so, whatever the layout of the input, where PyTorch has kernels for it. Made for GPUs with tensor
            cores, above all in half precision.
        compile: compile the network at its first call with each shape of input: True for PyTorch's own compiler, or the
            name of another of `torch.compiler.list_backends()`. Recurrent layers stay as they are, between compiled
            parts.
        checkpointing: keep only the input of each residual block for the backward pass and compute the rest again:
            a third more work, a fraction of the memory. False switches it off.

    Returns:
        `model` itself.

    Raises:
        ValueError: checkpointing of a network without stages of blocks, or together with compile, or an unknown
            compiler.
    """
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    if checkpointing and not stages:
        raise ValueError(f"checkpointing: {type(model).__name__} has no stages of blocks to compute again")
    if checkpointing and compile:
        # The second run of a block would need the very graph of the first one, which the compiler does not promise.
        raise ValueError("checkpointing and compile exclude each other: choose one")
    if isinstance(compile, str) and compile not in (known := torch.compiler.list_backends(exclude_tags=None)):
        raise ValueError(f"compile={compile!r} is no compiler; there are {', '.join(known)}")
    for stage in stages:
        stage.checkpointing = checkpointing
    if channels_last:
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        for parameter in model.parameters():
            if parameter.dim() in formats:
                parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
    if compile:
        model.compile(backend=compile if isinstance(compile, str) else "inductor")
    return model
