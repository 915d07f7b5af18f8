"""Speed and memory of the compiled operators compared with PyTorch, NumPy and other implementations.

    python benchmarks/ops_speed.py [--rounds 7] [--threads N] [--only NAME] [--cuda-only] [--json FILE]

Each row alternates two implementations of the same computation; the ratio is the median over rounds of their quotient,
so that load on the machine affects both. If the package spatial-correlation-sampler can be imported, it is a further
baseline (docs/operators.md describes its installation without CUDA). With a GPU, a second table compares the CUDA
kernels with lower bounds from the measured copy bandwidth and the measured rate of multiply-adds (see ops_cuda.py);
`--cuda-only` prints no other.
"""

import argparse
import ctypes
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import hardware
from ops_cuda import cuda_rows, cuda_table
from torch import Tensor

from vidseg import ops

Row = dict[str, Any]
DISPLACEMENT = 4
# Feature maps of LiteFlowNet 3 for a 1024 x 448 picture: channels, height, width; finest last.
PYRAMID = [(192, 14, 32), (128, 28, 64), (96, 56, 128), (64, 112, 256), (32, 224, 512)]
MEAN, STD = (110.2, 100.6, 96.0), (58.1, 56.5, 55.3)


def seconds(call: Callable[[], object]) -> float:
    """Return the processor time with one thread, which other processes change little, else the time that passes."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    call()
    return clock() - began


def compare(
    what: str, ours: Callable[[], object], name: str, theirs: Callable[[], object], rounds: int, target: float
) -> Row:
    """Warm up both implementations, then measure them alternately."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    ratio = statistics.median(b / a for a, b in pairs)
    mine, other = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
    return {"what": what, "ms": mine, "baseline": name, "baseline_ms": other, "ratio": ratio, "target": target}


def peak_growth(call: Callable[[], object]) -> int:
    """Return the maximum growth of the process in bytes during the call (Linux), without reuse of freed memory."""

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS:")
    result = call()
    growth = status("VmHWM:") - before
    del result
    return growth


def composed_correlation(f1: Tensor, f2: Tensor) -> Tensor:
    d, (h, w) = DISPLACEMENT, f1.shape[2:]
    padded = F.pad(f2, [d] * 4)
    shifts = [(j, i) for j in range(2 * d + 1) for i in range(2 * d + 1)]
    return torch.stack([(f1 * padded[:, :, j : j + h, i : i + w]).mean(1) for j, i in shifts], dim=1)


def correlation_rows(rounds: int) -> list[Row]:
    rows = []
    sampler = None
    if importlib.util.find_spec("spatial_correlation_sampler"):
        from spatial_correlation_sampler import spatial_correlation_sample as sampler
    else:
        print("spatial-correlation-sampler is not installed; skipping this baseline")
    for channels, height, width in PYRAMID:
        f1, f2 = (torch.randn(1, channels, height, width, requires_grad=True) for _ in range(2))
        grad = torch.randn(1, 81, height, width)

        def both(operator: Callable[[Tensor, Tensor], Tensor], f1=f1, f2=f2, grad=grad) -> Callable[[], object]:
            return lambda: torch.autograd.grad(operator(f1, f2).view_as(grad), (f1, f2), grad)

        ours = both(lambda a, b: ops.correlation(a, b, DISPLACEMENT))
        what = f"correlation, forward + backward, C {channels}, {height} x {width}"
        rows.append(compare(what, ours, "PyTorch operators", both(composed_correlation), min(rounds, 3), 5.0))
        if sampler:
            sampled = both(lambda a, b: sampler(a, b, kernel_size=1, patch_size=9) / a.shape[1])
            rows.append(compare(what, ours, "spatial-correlation-sampler", sampled, min(rounds, 3), 1.5))
    return rows


def composed_lookup(f1: Tensor, f2: Tensor, coords: Tensor, radius: int) -> Tensor:
    """Sample the volume of all pairs with `grid_sample`, as the published RAFT does."""
    (batch, channels, height, width), (rows, columns) = f1.shape, f2.shape[2:]
    volume = f1.flatten(2).transpose(1, 2) @ f2.flatten(2) / channels**0.5
    offsets = torch.linspace(-radius, radius, 2 * radius + 1)
    delta = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1)
    place = coords.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2) + delta
    place = 2 * place / torch.tensor([columns - 1, rows - 1]) - 1
    samples = F.grid_sample(volume.view(-1, 1, rows, columns), place, align_corners=True)
    return samples.view(batch, height, width, -1).permute(0, 3, 1, 2)


def lookup_rows(rounds: int) -> list[Row]:
    """RAFT's look-up at the finest level of pictures of 256 x 344, 448 x 1024."""
    rows = []
    for channels, radius, height, width in ((128, 3, 32, 43), (256, 4, 32, 43), (256, 4, 56, 128)):
        f1, f2 = (
            torch.randn(1, channels, height, width).contiguous(memory_format=torch.channels_last).requires_grad_()
            for _ in range(2)
        )
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        coords = torch.stack([x, y])[None] + 4 * torch.randn(1, 2, height, width)
        grad = torch.randn(1, (2 * radius + 1) ** 2, height, width)

        def both(operator: Callable[..., Tensor], f1=f1, f2=f2, coords=coords, radius=radius, grad=grad) -> Any:
            return lambda: torch.autograd.grad(operator(f1, f2, coords, radius), (f1, f2), grad)

        what = f"correlation_lookup, forward + backward, C {channels}, {height} x {width}, radius {radius}"
        ours, theirs = both(ops.correlation_lookup), both(composed_lookup)
        rows.append(compare(what, ours, "matmul and grid_sample", theirs, min(rounds, 3), 2.0))
    return rows


def correlation_memory() -> list[str]:
    """Return the memory of forward and backward pass beyond inputs and results."""
    lines = []
    for channels, height, width in PYRAMID[2:]:
        f1, f2 = (torch.randn(1, channels, height, width) for _ in range(2))
        grad = torch.randn(1, 81, height, width)

        def both(f1=f1, f2=f2, grad=grad) -> list[Tensor]:
            out = ops.correlation(f1, f2, DISPLACEMENT)
            geometry = (DISPLACEMENT, DISPLACEMENT, 1, 1, 1)
            backward = torch.ops.vidseg.correlation_backward
            return [out, backward(grad, f2, *geometry, False), backward(grad, f1, *geometry, True)]

        both()
        results = (f1.numel() + f2.numel() + grad.numel()) * 4
        extra = peak_growth(both) - results
        lines.append(
            f"correlation C {channels}, {height} x {width}: results {results / 1e6:.1f} MB, "
            f"peak beyond inputs and results {max(0, extra) / 1e6:.1f} MB"
        )
    return lines


def window_rows(rounds: int) -> list[Row]:
    rows = []
    for length, size in ((16, 112), (32, 112), (32, 224)):
        count, total = 4, 128
        x = torch.randint(0, 256, (1, total, size, size, 3), dtype=torch.uint8)
        starts = torch.arange(count)[None] * length
        frames = (starts[0, :, None] + torch.arange(length)).flatten()
        mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))

        def ours(x=x, starts=starts, length=length) -> Tensor:
            return ops.window_gather(x, starts, length, mean=MEAN, std=STD)

        def composed(x=x, frames=frames, mean=mean, std=std, shape=(count, length, size, size, 3)) -> Tensor:
            picked = x[0].index_select(0, frames).view(shape).permute(0, 4, 1, 2, 3)
            return picked.to(torch.float32).sub(mean).div(std).contiguous()

        out = ours()
        assert torch.equal(out[0], composed())
        place = torch.empty_like(out)
        what = f"window_gather of {count} x {length} frames {size} x {size}, {out.numel() * 4 / 1e6:.0f} MB"
        rows.append(compare(what, ours, "memcpy to new memory", out.clone, 3 * rounds, 0.8))
        rows.append(
            compare(what, ours, "memcpy to allocated memory", lambda p=place, o=out: p.copy_(o), 3 * rounds, 0.8)
        )
        rows.append(compare(what, ours, "index_select, to, sub, div", composed, rounds, 3.0))
    return rows


def overlap_rows(rounds: int) -> list[Row]:
    """Windows that share frames, as for features of every N-th frame; the baseline normalizes each frame once."""
    rows = []
    for size, step in ((112, 1), (112, 8), (224, 4)):
        count, length = 16, 16
        x = torch.randint(0, 256, (1, (count - 1) * step + length, size, size, 3), dtype=torch.uint8)
        starts = torch.arange(count)[None] * step
        frames = starts[0, :, None] + torch.arange(length)
        mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))

        def ours(x=x, starts=starts, length=length) -> Tensor:
            return ops.window_gather(x, starts, length, mean=MEAN, std=STD)

        def indexed(x=x, frames=frames, mean=mean, std=std) -> Tensor:
            normal = (
                x[0].permute(3, 0, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).sub(mean).div(std)
            )
            return normal[:, frames].transpose(0, 1)

        assert torch.equal(ours()[0], indexed())
        what = f"window_gather of {count} x {length} frames {size} x {size}, step {step}"
        rows.append(compare(what, ours, "to, sub, div, index", indexed, rounds, 1.0))
    return rows


def attention_rows(rounds: int) -> list[Row]:
    """Local attention, forward and backward: the gradient of its windows by window_scatter and by unfold."""
    from functools import partial

    from vidseg.models import _windows
    from vidseg.models.actionformer import local_attention
    from vidseg.models.asformer import window_attention
    from vidseg.models.ltcontext import windowed_attention

    rows, smallest = [], _windows._MANY
    cases: list[tuple[str, Callable[..., Tensor], tuple[int, ...], Tensor]] = []
    for total in (1000, 6000):
        for window in (2, 8, 32, 128, 512):
            call: Callable[..., Tensor] = partial(window_attention, window=window, banded=True)
            cases.append((f"ASFormer, window {window}, L {total}", call, (1, 32, total), torch.ones(1, 1, total)))
        seen = torch.ones(1, total, dtype=torch.bool)
        call = partial(windowed_attention, window=64)
        cases.append((f"LTContext, window 64, L {total}", call, (1, total, 32), seen))
    for total in (288, 2304):
        outside = torch.zeros(1, total, 1, dtype=torch.bool)
        call = partial(local_attention, heads=4, window=19)
        cases.append((f"ActionFormer, window 19, L {total}", call, (1, total, 512), outside))
    for what, call, shape, mask in cases:
        inputs = [torch.randn(shape, requires_grad=True) for _ in range(3)]
        grad = torch.randn(shape)

        def both(least: int, call=call, inputs=inputs, mask=mask, grad=grad) -> list[Tensor]:
            _windows._MANY = least
            return list(torch.autograd.grad(call(*inputs, mask), inputs, grad))

        for a, b in zip(both(0), both(2**62), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        rows.append(compare(what, partial(both, 0), "gradient of unfold", partial(both, 2**62), 3 * rounds, 1.0))
    _windows._MANY = smallest
    return rows


def composed_align1d(x: Tensor, rois: Tensor, output_size: int) -> Tensor:
    """Gather all samples of all bins at once; bins of shorter rois are padded with samples of weight 0."""
    total, start = x.shape[2], rois[:, 1]
    size = (rois[:, 2] - start).clamp(min=1) / output_size
    samples = size.ceil()
    k = torch.arange(int(samples.max()))
    t = (start[:, None] + torch.arange(output_size) * size[:, None])[..., None] + (k + 0.5) * (size / samples)[
        :, None, None
    ]
    counts = (t >= -1) & (t <= total) & (k < samples[:, None, None])
    t = t.clamp(0, total - 1)
    low = t.long()
    sequences = x[rois[:, 0].long()]

    def at(index: Tensor) -> Tensor:
        flat = index.flatten(1)[:, None].expand(-1, x.shape[1], -1)
        return sequences.gather(2, flat).view(len(rois), x.shape[1], *index.shape[1:])

    weight = (t - low)[:, None]
    values = at(low) * (1 - weight) + at((low + 1).clamp(max=total - 1)) * weight
    return (values * counts[:, None]).sum(-1) / samples[:, None, None]


def align_rows(rounds: int) -> list[Row]:
    rows = []
    for batch, channels, total, count, bins in ((4, 128, 128, 1980, 24), (2, 400, 100, 1000, 16)):
        x = torch.randn(batch, channels, total, requires_grad=True)
        start = torch.rand(count) * 1.2 * total - 0.1 * total
        rois = torch.stack(
            [torch.randint(0, batch, (count,)).float(), start, start + torch.rand(count) * total * 0.6], 1
        )
        grad = torch.randn(count, channels, bins)

        def both(operator: Callable[..., Tensor], x=x, rois=rois, bins=bins, grad=grad) -> Callable[[], object]:
            return lambda: torch.autograd.grad(operator(x, rois, bins), x, grad)

        torch.testing.assert_close(ops.align1d(x, rois, bins), composed_align1d(x, rois, bins))
        what = f"align1d, forward + backward, {count} rois of ({batch}, {channels}, {total}), {bins} bins"
        rows.append(compare(what, both(ops.align1d), "PyTorch operators", both(composed_align1d), min(rounds, 3), 5.0))
    return rows


def vector_soft_nms(segments: np.ndarray, scores: np.ndarray, sigma: float, most: int) -> np.ndarray:
    """Soft-NMS with a loop over selected segments and one NumPy expression for the others."""
    start, end, left, rows = segments[:, 0], segments[:, 1], scores.copy(), np.arange(len(scores))
    chosen: list[int] = []
    while len(left) and len(chosen) < most:
        k = int(np.argmax(left))
        chosen.append(rows[k])
        first, last = start[k], end[k]
        start, end, left, rows = (np.delete(a, k) for a in (start, end, left, rows))
        shared = np.maximum(0, np.minimum(end, last) - np.maximum(start, first))
        iou = shared / (end - start + last - first - shared)
        left = np.where(iou > 0, left * np.exp(-(iou**2) / sigma), left)
    return np.array(chosen)


def scalar_soft_nms(segments: np.ndarray, scores: np.ndarray, sigma: float, most: int) -> np.ndarray:
    """Soft-NMS as published: IoUs in one NumPy expression, then a loop over the others with NumPy scalars."""
    start, end, left, rows = (list(a) for a in (segments[:, 0], segments[:, 1], scores, range(len(scores))))
    chosen: list[int] = []
    while left and len(chosen) < most:
        k = int(np.argmax(left))
        first, last = start[k], end[k]
        shared = np.maximum(0, np.minimum(end, last) - np.maximum(start, first))
        iou = shared / (np.array(end) - np.array(start) + last - first - shared)
        for i in range(len(left)):
            if i != k and iou[i] > 0:
                left[i] = left[i] * np.exp(-np.square(iou[i]) / sigma)
        chosen.append(rows[k])
        for values in (start, end, left, rows):
            values.pop(k)
    return np.array(chosen)


def nms_rows(rounds: int) -> list[Row]:
    rows = []
    for count, most in ((1000, 1000), (8256, 100)):
        start = torch.rand(count)
        segments = torch.stack([start, start + 0.5 * torch.rand(count)], dim=1)
        scores = torch.rand(count) ** 3  # few high scores, as from detectors
        a, b = segments.numpy(), scores.numpy()

        def ours(segments=segments, scores=scores, most=most) -> Tensor:
            return ops.soft_nms_1d(segments, scores, sigma=0.35, max_segments=most)[0]

        assert (ours()[:50].numpy() == vector_soft_nms(a, b, 0.35, 50)).all()
        what = f"soft_nms_1d of {count}, keeping {most}"
        vector = lambda a=a, b=b, most=most: vector_soft_nms(a, b, 0.35, most)  # noqa: E731
        scalar = lambda a=a, b=b, most=most: scalar_soft_nms(a, b, 0.35, most)  # noqa: E731
        rows.append(compare(what, ours, "NumPy loop, as published", scalar, 1, 50.0))
        rows.append(compare(what, ours, "NumPy loop, vectors", vector, 3 * rounds, 50.0))
    return rows


SECTIONS = {
    "correlation": correlation_rows,
    "lookup": lookup_rows,
    "windows": window_rows,
    "overlap": overlap_rows,
    "attention": attention_rows,
    "align1d": align_rows,
    "nms": nms_rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="number of repetitions (slow baselines: at most 3)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="number of threads of PyTorch and of the operators"
    )
    parser.add_argument("--only", choices=SECTIONS, help="time this group of operators alone")
    parser.add_argument("--cuda-only", action="store_true", help="time the CUDA kernels alone")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    machine = {"machine": hardware(), "torch": torch.__version__, "threads": options.threads}
    print(", ".join(f"{key} {value}" for key, value in machine.items()))

    record: dict[str, Any] = dict(machine)
    if not options.cuda_only:
        sections = [SECTIONS[options.only]] if options.only else SECTIONS.values()
        rows = record["speed"] = [row for section in sections for row in section(options.rounds)]
        print(f"\n| {'operation':66} | {'ms':>8} | {'baseline':28} | {'ms':>9} | {'ratio':>7} | {'target':>6} |")
        print("| --- | ---: | --- | ---: | ---: | ---: |")
        for row in rows:
            line = "| {what:66} | {ms:8.2f} | {baseline:28} | {baseline_ms:9.2f} | {ratio:7.2f} | {target:6.1f} |"
            print(line.format(**row))
        if options.only in (None, "correlation"):
            memory = record["memory"] = correlation_memory()
            print("", *memory, sep="\n")
    if torch.cuda.is_available():
        record["cuda"] = cuda_rows(PYRAMID, 3 * options.rounds)
        print("", cuda_table(record["cuda"]), sep="\n")
    else:
        print("no GPU found; skipping the CUDA kernels")
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
