"""The operators in CUDA graphs and compiled graphs, and without waiting for the device.

`tests/test_ops_emulation.py` and `tests/fuzz/operators.py` compare their values with the CPU.
"""

import pytest
import torch

from vidseg import ops

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def operator_calls() -> dict:
    """Calls of every operator that a CUDA graph can record, and their first inputs."""
    images = [torch.randn(2, 32, 40, 72, device="cuda") for _ in range(2)]
    halves = [image.half() for image in images]
    x, starts = torch.randn(2, 30, 17, device="cuda"), torch.tensor([[0, 5], [-2, 27]], device="cuda")
    frames = torch.randint(0, 256, (2, 6, 8, 10, 3), dtype=torch.uint8, device="cuda")
    sequences, rois = torch.randn(2, 5, 9, device="cuda"), torch.tensor([[0, 1.5, 4.0], [1, 2.0, 7.0]], device="cuda")
    grad = torch.randn(2, 81, 40, 72, device="cuda")
    return {
        "correlation": (images[0], lambda: ops.correlation(*images, 4)),
        "correlation of half types": (halves[0], lambda: ops.correlation(*halves, 4)),
        "correlation_backward": (
            grad,
            lambda: torch.ops.vidseg.correlation_backward(grad, images[1], 4, 4, 1, 1, 1, False),
        ),
        "window_gather": (x, lambda: ops.window_gather(x, starts, 8)),
        "window_gather of frames": (
            starts,
            lambda: ops.window_gather(frames, starts, 3, mean=(1, 2, 3), std=(4, 5, 6)),
        ),
        "window_scatter": (x, lambda: ops.window_scatter(x.view(2, 2, 15, 17), starts, 40)),
        "align1d": (sequences, lambda: ops.align1d(sequences, rois, 4)),
    }


@pytest.mark.parametrize("name", operator_calls() if torch.cuda.is_available() else [])
def test_a_cuda_graph_records_the_operator(name):
    source, call = operator_calls()[name]
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    source.copy_(torch.randn_like(source.float()) if source.is_floating_point() else source + 1)
    graph.replay()
    torch.testing.assert_close(result, call())


def test_align1d_in_a_compiled_graph():
    x, rois = torch.randn(2, 5, 9, device="cuda"), torch.tensor([[0, 1.5, 4.0]], device="cuda")
    compiled = torch.compile(lambda x, rois: ops.align1d(x, rois, 4).sin(), mode="reduce-overhead")
    for _ in range(4):
        got = compiled(x, rois).clone()
    torch.testing.assert_close(got, ops.align1d(x, rois, 4).sin())


def test_operators_do_not_wait_for_the_device():
    calls = operator_calls()
    for _, call in calls.values():
        call()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _, call in calls.values():
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
