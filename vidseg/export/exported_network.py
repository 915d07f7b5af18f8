"""Exported models as networks, computed by a runtime, with the arguments and results of the network they came from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidseg.engine.weight_source import Source
from vidseg.export.artifact import Artifact, TensorSpec, read_artifact
from vidseg.export.signature import ATTRIBUTES, draw_noise, structured
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState

__all__ = ["ExportedNetwork", "ExportedStream", "find_exported", "load_exported"]

logger = logging.getLogger(__name__)

Run = Callable[[list[Tensor]], Sequence[Tensor]]


def find_exported(path: str | Path, *, network: str | None = None, classes: Sequence[str] | None = None) -> Source:
    """Return where an exported model comes from and what it is for; the model is not loaded.

    Args:
        path: file that `vidseg export` wrote.
        network: name of the network, which must be that of the file; None: any.
        classes: other names of the classes; None: those of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is not one that `vidseg export` wrote, or is of another network.
    """
    path = Path(path)
    artifact = read_artifact(path)
    if network not in (None, artifact.network):
        raise ValueError(f"{path}: is an exported {artifact.network}, not {network}")
    names = list(artifact.classes if classes is None else classes)
    if len(names) != len(artifact.classes):
        raise ValueError(f"{path}: has {len(artifact.classes)} classes, but {len(names)} names are given")
    return Source(
        path,
        artifact.network,
        artifact.network_options,
        artifact.task,
        names,
        artifact.epoch,
        artifact.score,
        record=artifact.record,
        artifact=artifact,
    )


def load_exported(artifact: Artifact, path: Path, *, device: torch.device | str = "cpu") -> nn.Module:
    """Load an exported model as a network.

    Args:
        artifact: its description.
        path: its file. A .pt2 or .engine file holds compiled code, which runs.
        device: device to compute on, where the runtime has it.

    Raises:
        ImportError: the package of the runtime is not installed; the message names it.
        ValueError: the file is damaged, or its runtime does not have this device.
    """
    from vidseg.export.formats import format_of

    run = format_of(artifact.format, path).load(path, artifact, torch.device(device))
    kind = ExportedStream if artifact.task == "streaming" else ExportedNetwork
    return kind(artifact, run).eval()


def _checked(values: Sequence[Tensor], specs: Sequence[TensorSpec], network: str) -> list[Tensor]:
    """Return the tensors in the types of an exported model.

    Raises:
        ValueError: a shape differs from that of the exported model.
    """
    found: list[Tensor] = []
    sizes: dict[str, int] = {}
    for value, spec in zip(values, specs, strict=True):
        fits = value.dim() == len(spec.shape) and all(
            size == sizes.setdefault(expected, size) if isinstance(expected, str) else size == expected
            for size, expected in zip(value.shape, spec.shape, strict=False)
        )
        if not fits:
            raise ValueError(
                f"{spec.name} has shape {tuple(value.shape)}; the exported {network} takes "
                f"({', '.join(map(str, spec.shape))}): change the input, or export again for this size"
            )
        if value.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"an exported model has no gradients; use the run that {network} was exported from")
        found.append(value.to(getattr(torch, spec.dtype)).contiguous())
    return found


def _take_attributes(model: nn.Module, artifact: Artifact) -> None:
    for name in ATTRIBUTES:
        if name in artifact.attributes:
            setattr(model, name, artifact.attributes[name])


class ExportedNetwork(nn.Module):
    """An exported network for recognition, segmentation, detection or optical flow.

    Args:
        artifact: description of the model.
        run: computes the outputs from the inputs, both in the order of the description.
    """

    exported = True
    """It has no inputs of training, from which some losses are computed."""

    def __init__(self, artifact: Artifact, run: Run) -> None:
        super().__init__()
        self.artifact, self.run = artifact, run
        self.reads_pixels = artifact.inputs[0].name == "snippets"
        _take_attributes(self, artifact)

    def forward(
        self, first: Tensor, second: Tensor | None = None, *, seeds: int | Sequence[int] = 0, **others: Any
    ) -> Any:
        """Compute the output of the network.

        Args:
            first: clips, snippets, features, or the first picture.
            second: mask of features or snippets, or the second picture; None: nothing is padded.
            seeds: seeds of a network that samples from noise.
            **others: refused; training inputs, such as the sampled proposals of a loss.

        Raises:
            ValueError: a shape that the model was not exported for, or an input of training.
        """
        artifact = self.artifact
        if others:
            raise ValueError(f"an exported {artifact.network} has no input {', '.join(others)}; use the run instead")
        values = [first]
        if artifact.task in ("segmentation", "detection"):
            if second is None:
                second = torch.ones(first.shape[0], first.shape[-1], dtype=torch.bool, device=first.device)
                if artifact.inputs[0].name == "snippets":
                    second = second.new_ones(first.shape[:2])
            values.append(second)
            if "noise" in (spec.name for spec in artifact.inputs):
                values.append(draw_noise(second, seeds, artifact.attributes))
        elif second is not None:
            values.append(second)
        found = self.run(_checked(values, artifact.inputs, artifact.network))
        named = {name: value.to(first.device) for name, value in zip(artifact.outputs, found, strict=True)}
        return structured(artifact.task, named)


class ExportedStream(StreamModel):
    """An exported streaming network: a function of a window and the memory, whose tensors are named inputs.

    Args:
        artifact: description of the model.
        run: computes the outputs from the inputs, both in the order of the description.
    """

    def __init__(self, artifact: Artifact, run: Run) -> None:
        super().__init__()
        self.artifact, self.run = artifact, run
        _take_attributes(self, artifact)

    def forward(
        self, clips: Tensor, state: StreamState | None = None, mask: Tensor | None = None
    ) -> tuple[StreamOutput, StreamState]:
        """See `StreamModel.forward`."""
        artifact, batch = self.artifact, clips.shape[0]
        mask = clips.new_ones(batch, clips.shape[2]) if mask is None else mask
        values = [clips, mask]
        for spec in artifact.inputs[2:]:
            name = spec.name.removeprefix("state_")
            if state is not None and name not in state:
                raise ValueError(f"the state has no {name!r}: it belongs to another network; start with None")
            shape = [batch if isinstance(size, str) else size for size in spec.shape]
            zeros = torch.zeros(shape, dtype=getattr(torch, spec.dtype), device=clips.device)
            values.append(zeros if state is None else state[name])
        found = self.run(_checked(values, artifact.inputs, artifact.network))
        named = {name: value.to(clips.device) for name, value in zip(artifact.outputs, found, strict=True)}
        output: tuple[StreamOutput, StreamState] = structured(artifact.task, named)
        return output
