"""Methods of extraction: the frames of a video in, one field of flow for each frame out."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from vidseg.tasks.flow.extraction_options import NETWORKS, ExtractFlowOptions

__all__ = ["PairFlow", "check_method", "flow_of_frames", "pair_flow", "weights_file"]

PairFlow = Callable[[torch.Tensor], torch.Tensor]
"""Maps frames uint8 (T, H, W, 3) to the flow from each to the next, float32 (T - 1, 2, H, W), on the CPU."""


@functools.cache
def pair_flow(method: str, weights: str | None, device: str) -> PairFlow:
    """Return the function that computes the flow of neighboring frames.

    Args:
        method: name of the method, not one of the codec.
        weights: file of the network's weights, or None.
        device: device of the network.

    Raises:
        ValueError: the weights belong to another network, or fit it in part only.
        FileNotFoundError: there are no weights at that path.
        ImportError: the packages of a classical method are not installed.
    """
    if method in NETWORKS:
        assert weights is not None  # ExtractFlowOptions checks it
        return _network(method, weights, torch.device(device))
    return _classical(method)


def _network(method: str, weights: str, device: torch.device) -> PairFlow:
    from vidseg.engine.weight_source import find_weights
    from vidseg.models import create_model, load_weights
    from vidseg.tasks import load_trained

    found = find_weights(weights, network=method)
    if found.artifact is not None:
        model = load_trained(weights, device=device).model
    else:
        model = create_model(found.network, **found.network_options)
        load_weights(model, found.path, network=found.network)
    model = model.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def compute(frames: torch.Tensor) -> torch.Tensor:
        pictures = frames.to(device).permute(0, 3, 1, 2).float() / 255.0
        flow: torch.Tensor = model(pictures[:-1], pictures[1:]).flow
        return flow.float().cpu()

    return compute


def _classical(method: str) -> PairFlow:
    from vidseg.videos import classical_flow

    between = {"dis": classical_flow.dis_flow, "tvl1": classical_flow.tvl1_flow}[method]

    def compute(frames: torch.Tensor) -> torch.Tensor:
        pictures = frames.numpy()
        pairs = itertools.pairwise(pictures)
        return torch.stack([torch.from_numpy(between(first, second)) for first, second in pairs])

    return compute


def check_method(options: ExtractFlowOptions, device: str) -> None:
    """Refuse a method that cannot run here, before any worker starts: missing weights, packages or devices.

    Raises:
        ValueError, FileNotFoundError, ImportError: see `pair_flow`.
    """
    compute = pair_flow(options.method, options.weights, device)
    if options.method not in NETWORKS:
        compute(torch.zeros((2, 64, 64, 3), dtype=torch.uint8))  # OpenCV is imported by the first call


def weights_file(options: ExtractFlowOptions) -> Path | None:
    """Return the file of the network's weights; of a run, the checkpoint that it has selected."""
    if options.method not in NETWORKS or options.weights is None:
        return None
    from vidseg.engine.weight_source import find_weights  # with all networks

    return find_weights(options.weights, network=options.method).path


def flow_of_frames(frames: Iterator[torch.Tensor], compute: PairFlow, batch_size: int) -> Iterator[torch.Tensor]:
    """Yield a field for each frame: the flow to the next frame, of the last one the field before; zero for one frame.

    Args:
        frames: uint8 (H, W, 3), RGB, all of one size.
        compute: flow of neighboring frames.
        batch_size: number of pairs per call of `compute`.

    Yields:
        float32 (2, H, W) in pixels.
    """
    window: list[torch.Tensor] = []
    last: torch.Tensor | None = None
    for frame in frames:
        window.append(frame)
        if len(window) > batch_size:
            for last in compute(torch.stack(window)):
                yield last
            window = window[-1:]
    if len(window) > 1:
        for last in compute(torch.stack(window)):
            yield last
    if last is not None:
        yield last
    elif window:
        height, width, _ = window[0].shape
        yield torch.zeros((2, height, width))
