"""Cost of a network: number of parameters and multiply-adds, measured latency and memory use."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidseg.models._detection import DetectionOutput
from vidseg.models._flow import FlowOutput
from vidseg.models._registry import create_model, has_classes, input_spec, model_task

__all__ = [
    "Cost",
    "Timing",
    "count_cost",
    "count_parameters",
    "input_shape",
    "measure",
    "network_inputs",
    "training_batch",
]

_FRAMES = {"segmentation": 1000, "streaming": 32, "detection": 128}

Inputs = Tensor | tuple[Tensor, ...]
"""Input of a network, or its inputs in order."""


@dataclass(frozen=True)
class Cost:
    """Counts of a network, which do not depend on the machine."""

    name: str
    task: str
    input: tuple[int, ...]
    """Shape of the input of one sample, B = 1; of one of the two pictures of an optical-flow network."""
    parameters: int
    recurrent: int
    """Parameters of LSTM and GRU layers, included in `parameters`."""
    buffers: int
    """Floating-point values in buffers, such as running means and variances. Some published counts include them."""
    entries: int
    """Entries of the state dict."""
    macs: int
    """Multiply-adds of convolutions, linear layers, recurrent layers, matrix products and correlations; without biases,
    norms, activations and pooling."""
    counted_on: str
    """"meta": counted from shapes. "cpu": the network reads values of its input, so it was run on zeros."""

    @property
    def flops(self) -> int:
        """Floating-point operations, counting a multiply-add as two."""
        return 2 * self.macs


@dataclass(frozen=True)
class Timing:
    """Measured latency and memory use; times are medians over the rounds."""

    device: str
    threads: int
    """CPU threads of PyTorch."""
    batch: int
    """Batch size of inference."""
    training_batch: int
    """Batch size of a training step: 2 if `batch` is 1 and the network cannot be trained on one sample."""
    inference_ms: float
    """Time of the forward pass in evaluation mode, without gradients."""
    forward_ms: float
    """Time of the forward pass in training mode."""
    backward_ms: float
    """Time of the backward pass."""
    weights_bytes: int
    """Memory of parameters and buffers."""
    inference_bytes: int
    """Peak memory of the forward pass in evaluation mode, without weights and input."""
    training_bytes: int
    """Peak memory of forward and backward pass, without weights and input."""


def input_shape(
    name: str,
    *,
    batch: int = 1,
    frames: int | None = None,
    size: int = 224,
    in_features: int = 2048,
    in_channels: int | None = None,
) -> tuple[int, ...]:
    """Return an input shape for the network called `name`.

    Args:
        name: registered name.
        batch: B.
        frames: T or L; None: 1000 for segmentation, 128 for detection, 32 for streaming, 16 otherwise. No effect on
            optical-flow networks.
        size: H and W in pixels; no effect on segmentation and detection networks.
        in_features: D of segmentation and detection networks; no effect on others.
        in_channels: channels of clips; None: those of the input spec.

    Returns:
        (B, D, L) for segmentation and detection, (B, 3, H, W) of each picture for optical-flow networks,
        (B, C, T, H, W) otherwise, with the channels of the input spec.

    Raises:
        ValueError: no network has this name, or a number is below 1.
    """
    task = model_task(name)
    frames = _FRAMES.get(task, 16) if frames is None else frames
    for label, value in (("batch", batch), ("frames", frames), ("size", size), ("in_features", in_features)):
        if value < 1:
            raise ValueError(f"{label}={value} must be at least 1")
    if task in ("segmentation", "detection"):
        return (batch, in_features, frames)
    if task == "flow":
        return (batch, 3, size, size)
    return (batch, in_channels or input_spec(name).channels, frames, size, size)


def network_inputs(name: str, x: Tensor) -> Inputs:
    """Return the inputs of the network called `name` for a tensor of its input shape: for optical flow, `x` twice."""
    return (x, x) if model_task(name) == "flow" else x


def count_parameters(name: str, *, num_classes: int, **options: Any) -> int:
    """Count the parameters of the network called `name` without allocating them.

    Args:
        name: registered name.
        num_classes: K; no effect on networks without classes.
        **options: as for `create_model`.

    Raises:
        ValueError, TypeError: as from `create_model`.
    """
    with torch.device("meta"):
        return sum(value.numel() for value in _create(name, num_classes, options).parameters())


def training_batch(model: nn.Module, x: Inputs) -> Inputs:
    """Return the input of a training step: `x`, or `x` concatenated with itself if the network needs two samples.

    In training, batch normalization needs more than one value per channel; small clips may leave only one.

    Args:
        model: network on its device; its mode and its buffers are restored.
        x: input or inputs on the same device.

    Returns:
        `x` if it has several samples or the network can be trained on one, else two samples.
    """
    inputs = _several(x)
    if len(inputs[0]) > 1:
        return x
    mode, kept = model.training, {name: value.clone() for name, value in model.named_buffers()}
    try:
        model.train()
        with torch.no_grad():
            model(*inputs)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        twice = tuple(torch.cat([value, value]) for value in inputs)
        return twice[0] if isinstance(x, Tensor) else twice
    finally:
        model.train(mode)
        for name, value in model.named_buffers():
            value.copy_(kept[name])
    return x


def count_cost(name: str, shape: tuple[int, ...], *, num_classes: int, **options: Any) -> Cost:
    """Count parameters and multiply-adds of the network called `name` for one sample.

    Args:
        name: registered name.
        shape: shape of the input, see `input_shape`; the batch size is replaced by 1.
        num_classes: K; no effect on networks without classes.
        **options: as for `create_model`.

    Raises:
        ValueError, TypeError: as from `create_model`, or the network does not accept the shape.
    """
    shape = (1, *shape[1:])
    with torch.device("meta"):
        model = _create(name, num_classes, options).eval()
    counted_on = "meta"
    try:
        macs = _count(model, network_inputs(name, torch.empty(shape, device="meta")))
    except (RuntimeError, NotImplementedError):  # the network reads values, which meta tensors do not have
        counted_on = "cpu"
        model, inputs = _create(name, num_classes, options).eval(), network_inputs(name, torch.zeros(shape))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            with torch.backends.mkldnn.flags(enabled=False):  # the counter does not see the operators inside oneDNN's
                macs = _count(model, inputs)
        else:
            macs = _count(model, inputs)
    recurrent = {
        id(value): value.numel()
        for module in model.modules()
        if isinstance(module, nn.RNNBase)
        for value in module.parameters()
    }
    return Cost(
        name=name,
        task=model_task(name),
        input=shape,
        parameters=sum(value.numel() for value in model.parameters()),
        recurrent=sum(recurrent.values()),
        buffers=sum(value.numel() for value in model.buffers() if value.is_floating_point()),
        entries=len(model.state_dict()),
        macs=macs,
        counted_on=counted_on,
    )


def _create(name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    return create_model(name, num_classes=num_classes if has_classes(name) else None, **options)


def _several(x: Inputs) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else x


def _count(model: nn.Module, x: Inputs) -> int:
    model.requires_grad_(False)  # the counter cannot follow a view of a parameter that is made without gradients
    formulas = {
        torch.ops.vidseg.correlation: _correlation_flops,
        torch.ops.vidseg.spatial_correlation: _spatial_correlation_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter, torch.no_grad():
        model(*_several(x))
    return counter.get_total_flops() // 2


def _correlation_flops(
    f1: torch.Size, f2: torch.Size, displacement: int, pad: int, kernel: int, *_: int, out_shape: torch.Size
) -> int:
    return 2 * f1[1] * kernel**2 * math.prod(out_shape)


def _spatial_correlation_flops(
    f1: torch.Size, f2: torch.Size, patch: int, kernel: int, *_: int, out_shape: torch.Size
) -> int:
    return 2 * f1[1] * kernel**2 * math.prod(out_shape)


def measure(model: nn.Module, x: Inputs, *, rounds: int = 5) -> Timing:
    """Measure latency and memory use of `model` on `x` in evaluation and in training mode.

    The mode of the network is restored and its gradients are cleared. Training steps change the running statistics of
    norms. If the network cannot be trained on one sample, training steps use `x` twice, see `training_batch`.

    Args:
        model: network on its device.
        x: input or inputs on the same device.
        rounds: number of measured repetitions, after a warm-up.

    Returns:
        Medians over the rounds, and peak memory.

    Raises:
        ValueError: rounds < 1, or the device is neither CPU nor CUDA.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1")
    inputs = _several(x)
    device = inputs[0].device
    mode = model.training
    samples = _several(training_batch(model, x))

    def inference() -> None:
        with torch.inference_mode():
            model(*inputs)

    def step() -> tuple[float, float]:
        model.zero_grad(set_to_none=True)
        began = _now(device)
        score = _scores(model(*samples)).float().square().mean()
        middle = _now(device)
        score.backward()
        ended = _now(device)
        return middle - began, ended - middle

    try:
        model.eval()
        inference()
        inference_bytes = _peak_bytes(inference, device)
        inference_seconds = [_seconds(inference, device) for _ in range(rounds)]
        model.train()
        step()
        model.zero_grad(set_to_none=True)
        training_bytes = _peak_bytes(step, device)
        steps = [step() for _ in range(rounds)]
    finally:
        model.train(mode)
        model.zero_grad(set_to_none=True)
    forward, backward = (statistics.median(part) * 1e3 for part in zip(*steps, strict=True))
    return Timing(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        threads=torch.get_num_threads(),
        batch=len(inputs[0]),
        training_batch=len(samples[0]),
        inference_ms=statistics.median(inference_seconds) * 1e3,
        forward_ms=forward,
        backward_ms=backward,
        weights_bytes=sum(value.nbytes for value in (*model.parameters(), *model.buffers())),
        inference_bytes=inference_bytes,
        training_bytes=training_bytes,
    )


def _scores(output: Any) -> Tensor:
    """Return the logits of a network's output: a tensor, an output with stages, a pair of output and state, or the
    predictions of a detector or of an optical-flow network as one vector."""
    if isinstance(output, tuple):
        output = output[0]
    if isinstance(output, FlowOutput):
        return torch.cat([value.flatten() for value in (output.flow, *output.levels)])
    if isinstance(output, DetectionOutput):
        floating = (value for value in output.predictions.values() if value.requires_grad)
        return torch.cat([value.flatten() for value in floating])
    return output if isinstance(output, Tensor) else output.logits


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    began = _now(device)
    call()
    return _now(device) - began


def _peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Return the peak memory that PyTorch allocates during the call, without memory allocated before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        raise ValueError(f"cannot measure memory on {device.type!r}; expected cpu or cuda")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    results = record.profiler.kineto_results if record.profiler is not None else None
    if results is None:
        raise RuntimeError("PyTorch's profiler returned no events")
    changes = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    current = peak = 0
    for _, size in sorted(changes, key=lambda change: change[0]):
        current += size
        peak = max(peak, current)
    return peak
