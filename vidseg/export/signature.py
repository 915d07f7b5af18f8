"""Networks with tensors as arguments and results: what every format can express, and the way back.

An exported graph has named tensors. `FlatNetwork` maps them to the arguments of a network and its output to a list;
`structured` makes the output of the task from them again.

Shapes: B videos, C channels, T frames, H, W, D feature width, K classes, L columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vidseg.engine.trained import TrainedModel
from vidseg.models._detection import DetectionOutput
from vidseg.models._flow import FlowOutput
from vidseg.models._quantized import fixed_ranges
from vidseg.models._segmentation import SegmentationOutput
from vidseg.models._snippets import SnippetDetector
from vidseg.models._streaming import StreamOutput, StreamState
from vidseg.models.diffact import video_noise

__all__ = ["ATTRIBUTES", "FlatNetwork", "draw_noise", "example_inputs", "flat_network", "flat_output", "structured"]

ATTRIBUTES = ("in_features", "num_classes", "class_agnostic", "seeded", "sampling_steps")
"""Attributes of networks that tests and predictions read."""
_BEFORE, _AFTER = "state_", "next_"
_PREDICTION = "predictions_"
_COLUMNS = 128
_SNIPPETS = 16
_PICTURE = (136, 160)


def flat_output(output: Any) -> dict[str, Tensor]:
    """Return the tensors of a network's output by name.

    Args:
        output: output of a network of any task.
    """
    if isinstance(output, Tensor):
        return {"logits": output}
    if isinstance(output, FlowOutput):
        return {"flow": output.flow}
    if isinstance(output, DetectionOutput):
        named = {"segments": output.segments, "scores": output.scores, "valid": output.valid}
        return named | {f"{_PREDICTION}{name}": value for name, value in output.predictions.items()}
    state: Mapping[str, Tensor] = {}
    if isinstance(output, tuple):
        output, state = output
    names = ("logits", "boundaries", "backbone_logits", "neck_logits")
    named = {name: value for name in names if (value := getattr(output, name, None)) is not None}
    return named | {f"{_AFTER}{name}": value for name, value in state.items()}


def structured(task: str, values: Mapping[str, Tensor]) -> Any:
    """Return the output of a network of a task, the inverse of `flat_output`.

    Args:
        task: name of the task.
        values: tensors by name.
    """
    if task == "recognition":
        return values["logits"]
    if task == "flow":
        return FlowOutput(values["flow"])
    if task == "detection":
        predictions = {
            name.removeprefix(_PREDICTION): value for name, value in values.items() if name.startswith(_PREDICTION)
        }
        return DetectionOutput(values["segments"], values["scores"], values["valid"], predictions)
    if task == "segmentation":
        return SegmentationOutput(values["logits"], values.get("boundaries"))
    names = ("boundaries", "backbone_logits", "neck_logits")
    output = StreamOutput(values["logits"], **{name: values[name] for name in names if name in values})
    state = {name.removeprefix(_AFTER): value for name, value in values.items() if name.startswith(_AFTER)}
    return output, StreamState(state)


def draw_noise(mask: Tensor, seeds: int | Sequence[int], attributes: Mapping[str, Any]) -> Tensor:
    """Return the noise that a network with seeds samples from.

    Args:
        mask: bool (B, L), True on valid columns.
        seeds: seed of each video, or one seed for all videos.
        attributes: of the network, see `ATTRIBUTES`.
    """
    each = [seeds] if isinstance(seeds, int) else list(seeds)
    steps, classes = int(attributes["sampling_steps"]), int(attributes["num_classes"])
    noise: Tensor = video_noise(mask.sum(dim=1).cpu(), each, steps, classes, mask.shape[1])
    return noise.to(mask.device)


class FlatNetwork(nn.Module):
    """A network whose arguments and results are tensors in a fixed order.

    Args:
        model: network.
        task: its task.
        inputs: names of the arguments: those of the task, then the state of a stream.
        outputs: names of the results.
        dtype: type in which the network computes; inputs and outputs are float32.
    """

    def __init__(
        self, model: nn.Module, task: str, *, inputs: Sequence[str], outputs: Sequence[str], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.model, self.task, self.dtype = model, task, dtype
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Compute the results, in the order of `outputs`."""
        named = {
            name: value.to(self.dtype) if value.dtype == torch.float32 and name != "noise" else value
            for name, value in zip(self.inputs, tensors, strict=True)
        }
        found = flat_output(self._call(named))
        if tuple(found) != self.outputs:
            raise ValueError(f"the network returned {', '.join(found)}, expected {', '.join(self.outputs)}")
        return tuple(value.float() if value.is_floating_point() else value for value in found.values())

    def _call(self, named: Mapping[str, Tensor]) -> Any:
        if self.task == "recognition":
            return self.model(named["clips"])
        if self.task == "flow":
            return self.model(named["first"], named["second"])
        if self.task == "streaming":
            state = {name.removeprefix(_BEFORE): value for name, value in named.items() if name.startswith(_BEFORE)}
            return self.model(named["clips"], StreamState(state), named["mask"])
        more = {"noise": named["noise"]} if "noise" in named else {}
        if isinstance(self.model, SnippetDetector):
            # Every snippet is encoded, since a graph cannot choose those that are not padding.
            snippets, mask = named["snippets"], named["mask"]
            encoded = self.model.backbone(snippets.flatten(0, 1)).unflatten(0, snippets.shape[:2])
            return self.model.detector((encoded * mask[..., None]).transpose(1, 2), mask)
        return self.model(named["features"], named["mask"], **more)


def example_inputs(trained: TrainedModel, *, batch: int = 2, columns: int | None = None) -> dict[str, Tensor]:
    """Return random inputs of a network in its value range, without the memory of a stream.

    Args:
        trained: network.
        batch: B, number of videos.
        columns: L of features or T of clips; for pictures their height; None: as the network was trained.

    Raises:
        ValueError: the network has no known input.
    """
    spec, task = trained.input_spec, trained.task
    draw = torch.Generator().manual_seed(0)
    if task == "flow":
        height, width = (columns or _PICTURE[0]), _PICTURE[1]
        return {name: torch.rand(batch, 3, height, width, generator=draw) for name in ("first", "second")}
    snippet = _snippet(trained)
    if snippet is not None:
        count = columns or getattr(trained, "example_columns", None) or _SNIPPETS
        shape: tuple[int, ...] = (batch, count, *snippet)
        snippets = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
        return {"snippets": snippets, "mask": _mask(batch, count)}
    if task in ("segmentation", "detection"):
        depth = getattr(trained.model, "in_features", None) or trained.source.record.get("feature_size")
        if not depth:
            raise ValueError(f"{trained.network}: the width of its features is not known")
        length = columns or getattr(trained, "example_columns", None) or _COLUMNS
        found = {"features": torch.randn(batch, int(depth), length, generator=draw), "mask": _mask(batch, length)}
        if getattr(trained.model, "seeded", False):
            attributes = {name: getattr(trained.model, name, None) for name in ATTRIBUTES}
            found["noise"] = draw_noise(found["mask"], 0, attributes)
        return found
    frames = columns or spec.frames
    pixels = torch.rand(batch, spec.channels, frames, spec.size, spec.size, generator=draw)
    values = (pixels - 0.45) / 0.25 if spec.channels != 3 else _normalized(pixels, spec)
    return {"clips": values} if task == "recognition" else {"clips": values, "mask": torch.ones(batch, frames)}


def _snippet(trained: TrainedModel) -> tuple[int, ...] | None:
    """Shape of a snippet of a detector from pixels; None for other networks."""
    artifact = trained.source.artifact
    if artifact is not None:
        first = artifact.inputs[0]
        return tuple(int(size) for size in first.shape[2:]) if first.name == "snippets" else None
    if not isinstance(trained.model, SnippetDetector):
        return None
    clips: Any = trained.model.backbone.spec
    return (3, clips.frames, clips.size, clips.size)


def _normalized(pixels: Tensor, spec: Any) -> Tensor:
    mean, std = (torch.tensor(value).view(3, 1, 1, 1) for value in (spec.mean, spec.std))
    return (pixels - mean) / std


def _mask(batch: int, length: int) -> Tensor:
    """Mask bool (B, L) whose last video is shorter."""
    mask = torch.ones(batch, length, dtype=torch.bool)
    if batch > 1 and length > 3:
        mask[-1, -(length // 4) :] = False
    return mask


def flat_network(
    trained: TrainedModel, inputs: Mapping[str, Tensor], *, dtype: torch.dtype, device: torch.device
) -> tuple[FlatNetwork, dict[str, Tensor]]:
    """Return a copy of the network with tensors as arguments, and all its inputs, the state of a stream included.

    Args:
        trained: network.
        inputs: of `example_inputs`.
        dtype: type in which the network computes.
        device: device of the copy.
    """
    # Without gradients: the exporter would store what the backward pass of a scan needs, which no runtime can express.
    model = fixed_ranges(trained.model).to(device).eval().requires_grad_(False)
    inputs = {name: value.to(device) for name, value in inputs.items()}
    with torch.no_grad():
        if trained.task == "streaming":
            output = model(inputs["clips"], None, inputs["mask"])
            inputs |= {f"{_BEFORE}{name}": value.contiguous() for name, value in output[1].items()}
            names = list(flat_output(output))
        else:
            flat = FlatNetwork(model, trained.task, inputs=list(inputs), outputs=(), dtype=torch.float32)
            names = list(flat_output(flat._call(inputs)))
    if dtype != torch.float32:
        model = model.to(dtype)
    return FlatNetwork(model, trained.task, inputs=list(inputs), outputs=names, dtype=dtype), inputs
