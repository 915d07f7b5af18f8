"""Times of the CUDA kernels and lower bounds for them; part of benchmarks/ops_speed.py.

A CUDA graph of many calls is timed, so that the time of Python and of launches is left out. The calls take turns on
several sets of inputs, which together exceed the cache of a GPU. The lower bounds are the time to copy the same number
of bytes and the time of the same number of multiply-adds in a matrix product, both measured on the same GPU.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vidseg import ops

__all__ = ["cuda_rows", "cuda_table"]

Row = dict[str, Any]
Call = Callable[[], object]
CACHE = 256 * 2**20  # bytes that the inputs of one graph have at least
MOST_SETS = 64
DISPLACEMENT = 4
MEAN, STD = (110.2, 100.6, 96.0), (58.1, 56.5, 55.3)
DEVICE = "cuda"


def graph_seconds(calls: list[Call], rounds: int) -> float:
    """Return the median time of one call over `rounds` replays of a graph with all calls.

    Args:
        calls: the same computation on several inputs.
        rounds: number of replays.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:  # loads code and fills the allocator before the capture
            call()
    torch.cuda.current_stream().wait_stream(side)
    repeats = max(1, 16 // len(calls))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            for call in calls:
                call()
    times = []
    for _ in range(rounds + 2):
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended) / 1e3 / (repeats * len(calls)))
    return statistics.median(times[2:])


def rates(rounds: int) -> tuple[float, dict[torch.dtype, float]]:
    """Return the bytes per second of a copy, read and written, and the multiply-adds per second for each dtype."""
    source = torch.empty(2**29, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / graph_seconds([lambda: target.copy_(source)], rounds)
    torch.backends.cuda.matmul.allow_tf32 = False
    products = {}
    for dtype in (torch.float32, torch.float16):
        a = torch.randn(8192, 8192, device=DEVICE, dtype=dtype)
        products[dtype] = a.shape[0] ** 3 / graph_seconds([lambda a=a: a @ a], min(rounds, 5))
    name = torch.cuda.get_device_name()
    print(f"{name}: copies {bandwidth / 1e9:.0f} GB/s", end="")
    for dtype, rate in products.items():
        print(f", {dtype} {rate / 1e12:.1f} T multiply-adds/s", end="")
    print()
    return bandwidth, products


def sets(moved: int, make: Callable[[], Call]) -> list[Call]:
    """Return calls on as many inputs as exceed the cache."""
    return [make() for _ in range(min(MOST_SETS, math.ceil(CACHE / moved)))]


def window_calls() -> list[tuple[str, int, Callable[[], Call]]]:
    """Return (what, bytes moved, maker of a call) of the windows: frames, and features at several alignments."""
    found = []
    for dtype in (torch.float32, torch.float16):

        def frames(dtype: torch.dtype = dtype) -> Call:
            x = torch.randint(0, 256, (2, 128, 224, 224, 3), dtype=torch.uint8, device=DEVICE)
            starts = (torch.arange(4, device=DEVICE) * 32).repeat(2, 1)
            return lambda: ops.window_gather(x, starts, 32, mean=MEAN, std=STD, dtype=dtype)

        count = 2 * 128 * 224 * 224 * 3
        found.append((f"window_gather of 2 x 4 x 32 frames 224 x 224 to {dtype}", count * (1 + dtype.itemsize), frames))
    for dtype, width, skipped in (
        (torch.float32, 2048, 0),
        (torch.float32, 2047, 1),
        (torch.float16, 2047, 1),
        (torch.uint8, 150527, 1),
    ):

        def elements(dtype: torch.dtype = dtype, width: int = width, skipped: int = skipped) -> Call:
            total = 2 * CACHE // 8 // (width * dtype.itemsize)
            wide = torch.zeros(1, total, width + skipped, device=DEVICE).to(dtype)
            starts = (torch.arange(8, device=DEVICE) * (total // 8))[None]
            return lambda: ops.window_gather(wide[..., skipped:], starts, total // 8)

        total = 2 * CACHE // 8 // (width * dtype.itemsize)
        moved = 2 * (total // 8 * 8) * width * dtype.itemsize
        where = "aligned" if skipped == 0 else f"from element {skipped} of {width + skipped}"
        found.append((f"window_gather of {dtype} elements of {width} values, {where}", moved, elements))
    return found


def correlation_calls(
    pyramid: list[tuple[int, int, int]],
) -> list[tuple[str, int, int, torch.dtype, Callable[[], Call]]]:
    """Return (what, bytes moved, multiply-adds, dtype, maker of a call) of the correlation, forward and backward."""
    found = []
    for channels, height, width in pyramid:
        for dtype in (torch.float32, torch.float16):
            pixels = 8 * height * width
            what = f"C {channels}, {height} x {width}, {dtype}"

            def images(
                dtype: torch.dtype = dtype, shape: tuple[int, ...] = (8, channels, height, width)
            ) -> list[Tensor]:
                return [torch.randn(shape, device=DEVICE).to(dtype) for _ in range(2)]

            def forward(images: Callable[[], list[Tensor]] = images) -> Call:
                f1, f2 = images()
                return lambda: ops.correlation(f1, f2, DISPLACEMENT)

            def backward(images: Callable[[], list[Tensor]] = images) -> Call:
                f1, f2 = images()
                grad = torch.randn_like(ops.correlation(f1, f2, DISPLACEMENT))
                geometry = (DISPLACEMENT, DISPLACEMENT, 1, 1, 1)
                return lambda: torch.ops.vidseg.correlation_backward(grad, f2, *geometry, False)

            moved = pixels * (2 * channels + 81) * dtype.itemsize
            products = pixels * 81 * channels
            found.append((f"correlation, {what}", moved, products, dtype, forward))
            # Sums of the gradient of half types are multiplied in float32.
            found.append((f"correlation, gradient of f1, {what}", moved, products, torch.float32, backward))
    return found


def cuda_rows(pyramid: list[tuple[int, int, int]], rounds: int) -> list[Row]:
    """Time the kernels beside the two lower bounds.

    Args:
        pyramid: channels, height and width of the images of the correlations, of a batch of 8.
        rounds: number of replays of each graph.
    """
    bandwidth, rate = rates(rounds)
    rows = []

    def add(what: str, moved: int, products: int, dtype: torch.dtype, make: Callable[[], Call]) -> None:
        took = graph_seconds(sets(moved, make), rounds)
        copy, multiply = moved / bandwidth, products / rate[dtype]
        rows.append({"what": what, "ms": took * 1e3, "copy_ms": copy * 1e3, "copy_share": copy / took})
        rows[-1] |= {"multiply_ms": multiply * 1e3, "multiply_share": multiply / took}
        torch.cuda.empty_cache()

    for what, moved, make in window_calls():
        add(what, moved, 0, torch.float32, make)
    for what, moved, products, dtype, make in correlation_calls(pyramid):
        add(what, moved, products, dtype, make)
    return rows


def cuda_table(rows: list[Row]) -> str:
    """Return the rows as a table: time, and the share of it that each lower bound takes."""
    lines = [
        f"| {'CUDA operation':72} | {'ms':>8} | {'copy ms':>8} | {'share':>6} | {'multiply ms':>11} | {'share':>6} |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    form = (
        "| {what:72} | {ms:8.3f} | {copy_ms:8.3f} | {copy_share:6.0%} | {multiply_ms:11.3f} | {multiply_share:6.0%} |"
    )
    return "\n".join([*lines, *(form.format(**row) for row in rows)])
