"""Published optical-flow networks for benchmarks/flow_speed.py, with a correlation composed of PyTorch operators.

The published LiteFlowNet 3 and FastFlowNet call a CUDA extension for their cost volumes, so they do not run on a CPU.
Here they get `composed_correlation` in its place. A network whose source tree is absent is that of vidseg with the same
composition, or RAFT with `grid_sample` on its volume, as published.
"""

import argparse
import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models import create_model, fastflownet, liteflownet3, load_weights, raft

__all__ = ["Peer", "build_peer"]

Peer = tuple[str, Callable[[Tensor, Tensor], Tensor]]
"""Source of a network, and its function from two pictures to the flow in pixels."""


def composed_correlation(f1: Tensor, f2: Tensor, max_displacement: int, *, stride2: int = 1) -> Tensor:
    """Correlate with shifted views of the padded second image, one displacement at a time."""
    height, width = f1.shape[2:]
    padded = F.pad(f2, [max_displacement] * 4)
    shifts = range(0, 2 * max_displacement + 1, stride2)
    views = (padded[:, :, j : j + height, i : i + width] for j in shifts for i in shifts)
    return torch.stack([(f1 * view).mean(dim=1) for view in views], dim=1)


class Correlation(nn.Module):
    """Stands in for the module of this name in the published trees."""

    def __init__(self, *, max_displacement: int, stride2: int, **_: int):
        super().__init__()
        self.options = {"max_displacement": max_displacement, "stride2": stride2}

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:
        return composed_correlation(f1, f2, **self.options)


@contextlib.contextmanager
def replaced_modules(package: str, folder: Path) -> Iterator[None]:
    """Let `package`.correlation be the stand-in, and modules of `folder` importable, while peers are imported."""
    modules = {package: ModuleType(package), f"{package}.correlation": ModuleType("correlation")}
    modules[f"{package}.correlation"].Correlation = Correlation  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        with mock.patch.object(sys, "path", [str(folder), *sys.path]):
            yield
    finally:
        for name in modules:
            del sys.modules[name]


def loaded_file(name: str, path: Path) -> ModuleType:
    """Import the file as the module `name`."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resized(call: Callable[[Tensor, Tensor], Tensor], unit: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Resize pictures to multiples of `unit`, and the flow back, as the published programs do."""

    def run(first: Tensor, second: Tensor) -> Tensor:
        size = tuple(first.shape[2:])
        padded = tuple(-(-side // unit) * unit for side in size)
        pair = (F.interpolate(each, padded, mode="bilinear", align_corners=False) for each in (first, second))
        flow = F.interpolate(call(*pair), size, mode="bilinear", align_corners=False)
        return flow * torch.tensor([size[1] / padded[1], size[0] / padded[0]]).view(1, 2, 1, 1)

    return run


def published_raft(folder: Path, name: str, state: dict[str, Tensor], iterations: int) -> Peer:
    with replaced_modules("absent", folder / "core"):
        network = importlib.import_module("raft").RAFT(
            argparse.Namespace(small=name == "raft_small", mixed_precision=False)
        )
        padder = importlib.import_module("utils.utils").InputPadder
    network.load_state_dict(state, strict=False)  # the file has some norms under two names
    network.eval()

    def run(first: Tensor, second: Tensor) -> Tensor:
        pad = padder(first.shape)
        pair = pad.pad(first * 255, second * 255)
        return pad.unpad(network(*pair, iters=iterations, test_mode=True)[1])

    return "princeton-vl/RAFT", run


def published_liteflownet3(folder: Path, state: dict[str, Tensor]) -> Peer:
    enabled = torch.is_grad_enabled()
    with replaced_modules("correlation_package", folder), mock.patch.object(sys, "argv", ["run.py"]):
        module = loaded_file("pytorch_liteflownet3", folder / "run.py")
    torch.set_grad_enabled(enabled)  # the module switches gradients off
    with (
        mock.patch.object(torch, "load", return_value={}),
        mock.patch.object(nn.Module, "load_state_dict", return_value=None),
    ):
        network = module.Network().eval()
    network.load_state_dict(state)

    def run(first: Tensor, second: Tensor) -> Tensor:
        with mock.patch.object(Tensor, "cuda", lambda tensor: tensor):  # grids that it makes for each new size
            return flow(first.flip(1), second.flip(1))

    flow = resized(network, 32)
    return "lhao0301/pytorch-liteflownet3", run


def published_fastflownet(folder: Path, state: dict[str, Tensor]) -> Peer:
    with replaced_modules("fastflownet_models.correlation_package", folder):
        sys.modules["fastflownet_models"] = ModuleType("fastflownet_models")
        network = loaded_file("fastflownet_models.FastFlowNet", folder / "models/FastFlowNet.py").FastFlowNet().eval()
    network.load_state_dict(state, strict=False)

    def levels(first: Tensor, second: Tensor) -> Tensor:
        flow = network(torch.cat([first, second], dim=1))
        return 20.0 * F.interpolate(flow, first.shape[2:], mode="bilinear", align_corners=False)

    flow = resized(levels, 64)

    def run(first: Tensor, second: Tensor) -> Tensor:
        first, second = first.flip(1), second.flip(1)
        mean = torch.cat([first, second], dim=2).mean(dim=(2, 3), keepdim=True)
        return flow(first - mean, second - mean)

    return "ltkong218/FastFlowNet", run


def sampled_look_up(pyramid: list[Tensor], positions: Tensor, radius: int) -> Tensor:
    """Sample the volume of all pairs with `grid_sample`, as the published RAFT does."""
    batch, _, height, width = positions.shape
    offsets = torch.linspace(-radius, radius, 2 * radius + 1)
    delta = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1)
    windows = []
    for level, volume in enumerate(pyramid):
        rows, columns = volume.shape[2:]
        place = positions.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2) / 2**level + delta
        place = 2 * place / torch.tensor([max(columns - 1, 1), max(rows - 1, 1)]) - 1
        sampled = F.grid_sample(volume.flatten(0, 1)[:, None], place, align_corners=True)
        windows.append(sampled.view(batch, height, width, -1))
    return torch.cat(windows, dim=-1).permute(0, 3, 1, 2).contiguous()


def composed_twin(name: str, state: dict[str, Tensor], options: dict[str, Any]) -> Peer:
    """The network of vidseg with a correlation of PyTorch operators."""
    network = create_model(name, **options).eval()
    load_weights(network, state)

    def patch() -> Any:
        if name == "liteflownet3":
            return mock.patch.object(liteflownet3, "correlation", composed_correlation)
        if name == "fastflownet":

            def spatial(f1: Tensor, f2: Tensor, *, patch_size: int) -> Tensor:
                costs = composed_correlation(f1, f2, patch_size // 2) * f1.shape[1]
                return costs.unflatten(1, (patch_size, patch_size))

            return mock.patch.object(fastflownet, "spatial_correlation", spatial)
        return mock.patch.object(raft, "look_up", sampled_look_up)

    def run(first: Tensor, second: Tensor) -> Tensor:
        with patch():
            return network(first, second).flow

    return "vidseg with a PyTorch correlation", run


def build_peer(name: str, state: dict[str, Tensor], peers: Path | None, options: dict[str, Any]) -> Peer:
    """Return the published network called `name`, or its twin of vidseg where its source tree is absent.

    Args:
        name: network of vidseg.
        state: weights of the network of vidseg, whose keys are the published ones.
        peers: folder with the source trees RAFT, FastFlowNet and pytorch-liteflownet3; None if there are none.
        options: options of the network of vidseg.
    """
    trees = {"liteflownet3": "pytorch-liteflownet3", "fastflownet": "FastFlowNet"}
    folder = None if peers is None else peers / trees.get(name, "RAFT")
    if folder is None or not folder.is_dir():
        return composed_twin(name, state, options)
    if name == "liteflownet3":
        return published_liteflownet3(folder, state)
    if name == "fastflownet":
        return published_fastflownet(folder, state)
    return published_raft(folder, name, state, options["iterations"])
