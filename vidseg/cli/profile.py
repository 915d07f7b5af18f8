"""`vidseg profile`: parameters, multiply-adds, latency and memory of networks."""

import json as json_format
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from vidseg.models._profile import Cost, Timing

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Count parameters and multiply-adds of networks, and measure latency and memory.

    `vidseg profile srtg_r3d_34`; for a table, `vidseg profile "mtnet_*" --count-only`.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """Name of a network, or a shell pattern of names; `vidseg models` shows them."""
    num_classes: int = 400
    """Number of classes; no effect on optical-flow networks."""
    frames: int | None = None
    """Number of frames; default: 1000 for segmentation, 128 for detection, 32 for streaming, 16
    otherwise. No effect on optical-flow networks, which have a pair of pictures."""
    size: int = 224
    """Height and width in pixels; no effect on segmentation and detection networks."""
    in_features: int = 2048
    """Feature width of segmentation and detection networks."""
    network_option: tuple[str, ...] = ()
    """Options of the network as NAME=VALUE, such as placement=mid width=0.5; `vidseg models NAME` shows them."""
    count_only: bool = False
    """Do not measure latency and memory."""
    batch_size: int = 1
    """Batch size for latency and memory; counts are for one sample."""
    rounds: int = 5
    """Number of measurements; the median is printed."""
    device: str | None = None
    """Device such as cpu, cuda or cuda:1; default: the accelerator if there is one."""
    channels_last: bool = False
    """Memory format with the channels last."""
    compile: bool = False
    """Compile the network with torch.compile."""
    recompute: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    json: bool = False
    """Print one JSON list."""

    def run(self) -> int:
        """Print counts and measurements."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # suppresses messages of PyTorch's profiler
        from vidseg.engine.option_words import named_values
        from vidseg.models import list_models
        from vidseg.models._profile import count_cost, input_shape

        names = list_models(self.model) or [self.model]  # an unknown name raises an error below
        options = named_values(self.network_option)
        found: list[tuple[Cost, Timing | None]] = []
        for name in names:
            shape = input_shape(
                name,
                batch=self.batch_size,
                frames=self.frames,
                size=self.size,
                in_features=self.in_features,
                in_channels=options.get("in_channels"),
            )
            own = options | self._features(name)
            cost = count_cost(name, shape, num_classes=self.num_classes, **own)
            found.append((cost, None if self.count_only else self._measure(name, shape, own)))
        if self.json:
            rows = [
                asdict(cost) | {"flops": cost.flops} | ({} if timing is None else asdict(timing))
                for cost, timing in found
            ]
            print(json_format.dumps(rows, indent=1))
        elif len(found) == 1:
            print(_words(*found[0]))
        else:
            print("\n".join(_table(found)))
        return 0

    def _features(self, name: str) -> dict[str, Any]:
        from vidseg.models import model_task

        return {"in_features": self.in_features} if model_task(name) in ("segmentation", "detection") else {}

    def _measure(self, name: str, shape: tuple[int, ...], options: dict[str, Any]) -> "Timing":
        import torch

        from vidseg.engine.distributed import process_device
        from vidseg.models import create_model, prepare
        from vidseg.models._profile import measure, network_inputs
        from vidseg.models._registry import has_classes

        device = process_device(self.device)
        model = create_model(name, num_classes=self.num_classes if has_classes(name) else None, **options).to(device)
        prepare(model, channels_last=self.channels_last, compile=self.compile, checkpointing=self.recompute)
        return measure(model, network_inputs(name, torch.randn(shape, device=device)), rounds=self.rounds)


def _words(cost: "Cost", timing: "Timing | None") -> str:
    facts = {
        "network": f"{cost.name} ({cost.task})",
        "input": " x ".join(map(str, cost.input)),
        "parameters": f"{cost.parameters:,}",
        "of which recurrent": f"{cost.recurrent:,}",
        "with buffers": f"{cost.parameters + cost.buffers:,}",
        "state dict": f"{cost.entries} entries",
        "GMAC": f"{cost.macs / 1e9:.3f} (a multiply-add counts as 1)",
        "GFLOPs": f"{cost.flops / 1e9:.3f} (a multiply-add counts as 2)",
    }
    if timing is not None:
        facts |= {
            "measured on": f"{timing.device}, batch of {timing.batch}, "
            f"{timing.threads} thread{'' if timing.threads == 1 else 's'}",
            "inference": f"{timing.inference_ms:.1f} ms, {timing.inference_bytes / 1e6:.1f} MB beyond the weights",
            "training batch": f"{timing.training_batch}",
            "training forward": f"{timing.forward_ms:.1f} ms",
            "training backward": f"{timing.backward_ms:.1f} ms",
            "training memory": f"{timing.training_bytes / 1e6:.1f} MB beyond the weights",
            "weights": f"{timing.weights_bytes / 1e6:.1f} MB",
        }
    return "\n".join(f"{name:18}  {value}" for name, value in facts.items())


def _table(found: "list[tuple[Cost, Timing | None]]") -> list[str]:
    heads = ["network", "parameters", "with buffers", "GMAC", "GFLOPs"]
    measured = any(timing is not None for _, timing in found)
    heads += ["inference ms", "forward ms", "backward ms", "training MB"] if measured else []
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for cost, timing in found:
        cells = [cost.name, f"{cost.parameters:,}", f"{cost.parameters + cost.buffers:,}"]
        cells += [f"{cost.macs / 1e9:.2f}", f"{cost.flops / 1e9:.2f}"]
        if timing is not None:
            cells += [f"{timing.inference_ms:.1f}", f"{timing.forward_ms:.1f}", f"{timing.backward_ms:.1f}"]
            cells += [f"{timing.training_bytes / 1e6:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
