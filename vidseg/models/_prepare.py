"""Options that change the speed or the memory use of a network, but not its results."""

from typing import TypeVar

import torch
from torch import nn

from vidseg.models._stage import Stage

__all__ = ["prepare"]

Model = TypeVar("Model", bound=nn.Module)


def prepare(
    model: Model, *, channels_last: bool = False, compile: bool | str = False, checkpointing: bool = False
) -> Model:
    """Set the memory layout, compilation and activation checkpointing of `model` in place.

    Results are the same up to rounding, and the state dict does not change.

    Args:
        model: any network, on its device and with its weights loaded.
        channels_last: use the channels-last layout for the weights of convolutions; convolutions with a channels-last
            kernel then return channels-last outputs for any input layout. Intended for GPUs with tensor cores, in half
            precision above all.
        compile: compile the network at the first call with each input shape. True: the default backend of
            `torch.compile`; a name: one of `torch.compiler.list_backends()`. Recurrent layers are not compiled.
        checkpointing: store only the input of each residual block for the backward pass and recompute the block: about
            a third more computation for less memory. False: turn it off.

    Returns:
        `model` itself.

    Raises:
        ValueError: the network has no stages of residual blocks to checkpoint, checkpointing and compile are combined,
            or the backend is unknown.
    """
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    if checkpointing and not stages:
        raise ValueError(f"checkpointing: {type(model).__name__} has no stages of residual blocks to recompute")
    if checkpointing and compile:
        # Recomputation must repeat the operations of the first pass exactly, which torch.compile does not guarantee.
        raise ValueError("checkpointing and compile exclude each other; choose one")
    if isinstance(compile, str) and compile not in (known := torch.compiler.list_backends(exclude_tags=None)):
        raise ValueError(f"compile={compile!r} is not a backend of torch.compile; expected one of {', '.join(known)}")
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
