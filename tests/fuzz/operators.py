"""Random cases of all operators, of another device or of an emulated one, compared with the CPU operators.

    python tests/fuzz/operators.py [--cases 300] [--seed 0] [--device cuda]
    python tests/fuzz/operators.py --library emulated.so

A case draws an operator's sizes (often at the borders of the kernels' blocks), options, dtype and strides. Values must
agree within the rounding of the dtype, copies exactly. Each group of operators prints one line; the exit status is 1 if
a case differs. `tests/test_ops_emulation.py` builds a library for `--library`; `--only` and `--seed` repeat a case.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import vidseg.ops  # noqa: F401 - registers torch.ops.vidseg

ROUNDING = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
ANY_DTYPE = (*ROUNDING, torch.uint8, torch.int16, torch.int64, torch.complex64, torch.complex128, torch.bool)


class DifferenceError(Exception):
    """The two implementations disagree."""


class Case:
    """One case: a source of random numbers, and the implementation under test."""

    def __init__(self, seed: int, device: str, library: Any) -> None:
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.device, self.library = device, library
        self.dtype = self.random.choice(list(ROUNDING))

    def strided(self, tensor: Tensor) -> Tensor:
        """Return the same values in a random memory layout, sometimes at an odd address."""
        kind = self.random.randrange(6)
        if kind == 0 or tensor.dim() == 0:
            return tensor
        if kind == 1:
            axes = self.random.sample(range(tensor.dim()), tensor.dim())
            return tensor.permute(axes).contiguous().permute([axes.index(d) for d in range(tensor.dim())])
        if kind == 2:
            wide = tensor.new_zeros([2 * size + 1 for size in tensor.shape])
            return wide[tuple(slice(1, 2 * size + 1, 2) for size in tensor.shape)].copy_(tensor)
        if kind == 3:
            return tensor.transpose(0, -1).contiguous().transpose(0, -1)
        if kind == 4:  # a part of a larger tensor, as a crop is
            wide = tensor.new_zeros([size + 2 for size in tensor.shape])
            return wide[tuple(slice(1, size + 1) for size in tensor.shape)].copy_(tensor)
        offset = self.random.randrange(1, 9)
        return tensor.new_zeros(tensor.numel() + offset)[offset:].view(tensor.shape).copy_(tensor)

    def normal(self, *shape: int) -> Tensor:
        return self.strided(torch.randn(shape).to(self.dtype))

    def placed(self, argument: Any) -> Any:
        """Return the argument on the device, with the strides and the offset it has here."""
        if not isinstance(argument, Tensor) or self.device == "cpu":
            return argument
        reach = 1 + sum((size - 1) * stride for size, stride in zip(argument.shape, argument.stride(), strict=True))
        if argument.numel() == 0:
            return argument.to(self.device)
        offset = argument.storage_offset() % 16
        memory = torch.as_strided(argument, (reach,), (1,), argument.storage_offset())
        there = torch.zeros(reach + offset, dtype=argument.dtype, device=self.device)
        there[offset:] = memory.to(self.device)
        return there.as_strided(argument.shape, argument.stride(), offset)

    def tested(self, name: str, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """Run the implementation under test."""
        result = getattr(self.library, name)(*(self.placed(argument) for argument in arguments))
        results = result if isinstance(result, tuple) else (result,)
        return tuple(tensor.cpu() for tensor in results)

    def compare(self, name: str, arguments: tuple[Any, ...], tolerance: float = 0.0) -> Tensor:
        """Compare both implementations and return the first result of the CPU."""
        expected = getattr(torch.ops.vidseg, name)(*arguments)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for ours, theirs in zip(expected, self.tested(name, arguments), strict=True):
            self.agree(name, arguments, theirs, ours, tolerance)
        return expected[0]

    def agree(self, name: str, arguments: tuple[Any, ...], got: Tensor, expected: Tensor, tolerance: float) -> None:
        shapes = [(tuple(a.shape), a.stride(), a.dtype) if isinstance(a, Tensor) else a for a in arguments]
        same = (got.shape, got.dtype) == (expected.shape, expected.dtype)
        if not same or (got.numel() and got.stride() != expected.stride()):
            raise DifferenceError(
                f"{name}: {got.shape} {got.dtype}, expected {expected.shape} {expected.dtype}: {shapes}"
            )
        if tolerance == 0.0 or not got.is_floating_point():
            if not torch.equal(got, expected):
                raise DifferenceError(f"{name}: values differ: {shapes}")
            return
        if got.numel():
            got, expected = got.double(), expected.double()
            error = float((got - expected).abs().max() / expected.abs().max().clamp(min=1))
            if not error <= tolerance:  # NaN too
                raise DifferenceError(f"{name}: error {error:.3g}, allowed {tolerance:.3g}: {shapes}")


def windows(case: Case) -> None:
    draw, r = case.random.randrange, case.random
    dtype = r.choice(ANY_DTYPE)
    batch, total, count, length, dilation = draw(4), draw(9), draw(5), draw(1, 6), draw(1, 5)
    inner = r.choice([[], [r.choice([4, 8, 16, 32])], [33], [draw(9) for _ in range(draw(1, 4))], [5, draw(1, 40)]])

    def values(*shape: int) -> Tensor:
        exact = not (dtype.is_floating_point or dtype.is_complex)
        return case.strided((torch.randint(-100, 100, shape) if exact else torch.randn(shape)).to(dtype))

    x, w = values(batch, total, *inner), values(batch, count, length, *inner)
    starts = case.strided(torch.randint(-8, 14, (batch, count)))
    case.compare("window_gather", (x, starts, length, dilation))
    for reduce in (2, 3):
        case.compare("window_scatter", (w, starts, total + 1, dilation, reduce))
    if dtype in ROUNDING:
        for reduce in (0, 1):
            case.compare("window_scatter", (w, starts, total + 1, dilation, reduce), ROUNDING[dtype])
        for reduce in range(4):
            case.compare("window_scatter_backward", (x, starts, length, dilation, reduce), ROUNDING[dtype])


def frames(case: Case) -> None:
    draw, r = case.random.randrange, case.random
    batch, total, count, length, dilation = draw(4), draw(9), draw(4), draw(1, 6), draw(1, 5)
    channels, (height, width) = r.choice([1, 3, 3, 3, 4, 17, 33]), r.choice([(2, 2), (3, 5), (4, 33), (5, 8), (0, 4)])
    x = torch.randint(0, 256, (batch, total, height, width, channels), dtype=torch.uint8)
    x = case.strided(x) if r.random() < 0.5 else x
    x = x[:, 1:] if r.random() < 0.3 and total > 1 else x
    starts = case.strided(torch.randint(-8, 14, (batch, count)))
    mean, std = ([r.uniform(low, 200.0) for _ in range(channels)] for low in (-50.0, 0.5))
    case.compare("window_gather_frames", (x, starts, length, dilation, mean, std, case.dtype))


def align(case: Case) -> None:
    draw, r = case.random.randrange, case.random
    position = r.choice(list(ROUNDING))
    batch, channels, total = draw(1, 4), r.choice([0, 1, 3, 35]), draw(31)
    count, bins, ratio = draw(12), draw(1, 8), draw(4)
    start = torch.rand(count) * 2 * total - total / 2
    end = start + (torch.rand(count) * 1.5 - 0.5) * r.choice([0.5, 3.0, 40.0])
    rois = torch.stack([torch.randint(0, batch, (count,)).float(), start, end], 1)
    rois = rois.round() if r.random() < 0.5 else rois
    rois = case.strided(rois.to(position))
    rounding = max(ROUNDING[case.dtype], 1e-5 if position != torch.float64 else 0.0)
    x = case.normal(batch, channels, total)
    out = case.compare("align1d", (x, rois, bins, ratio), 4 * rounding)
    grad = case.normal(*out.shape)
    case.compare("align1d_backward", (grad, rois, batch, total, ratio), 8 * rounding)
    if count and channels:
        wrong_rois(case, x, rois, grad, ratio, rounding)


def wrong_rois(case: Case, x: Tensor, rois: Tensor, grad: Tensor, ratio: int, rounding: float) -> None:
    """The CPU operator raises; elsewhere the bins of a wrong roi are NaN and it adds nothing to the gradient."""
    draw, r = case.random.randrange, case.random
    (batch, _, total), (count, _, bins) = x.shape, grad.shape
    bad, rois = draw(count), rois.clone()
    nan, inf = float("nan"), float("inf")
    column, value = r.choice([(0, -1.0), (0, float(batch)), (0, 0.5), (0, nan), (1, inf), (2, -inf)])
    rois[bad, column] = value
    left = torch.arange(count) != bad
    (out,) = case.tested("align1d", (x, rois, bins, ratio))
    if not out[bad].isnan().all():
        raise DifferenceError(f"align1d: the bins of a roi with {value} in column {column} are not NaN")
    expected = torch.ops.vidseg.align1d(x, rois[left], bins, ratio)
    case.agree("align1d", (x, rois), out[left], expected, 4 * rounding)
    (out,) = case.tested("align1d_backward", (grad, rois, batch, total, ratio))
    expected = torch.ops.vidseg.align1d_backward(grad[left], rois[left], batch, total, ratio)
    case.agree("align1d_backward", (grad, rois), out, expected, 8 * rounding)


def suppression(case: Case) -> None:
    r = case.random
    count = r.choice([0, 1, 2, 50, 511, 512, 513, 1100])
    start, scores = torch.rand(count), torch.rand(count)
    scores = (scores * 8).round() / 8 if r.random() < 0.4 else scores
    segments = case.strided(torch.stack([start, start + torch.rand(count) * 0.6 - 0.05], 1).to(case.dtype))
    scores = scores.to(r.choice(list(ROUNDING)))
    labels = case.strided(torch.randint(0, 3, (count,))) if r.random() < 0.5 else None
    most, threshold, least = r.choice([None, 1, 20]), r.choice([0.0, 0.3, 0.7, 1.0]), r.choice([0.0, 0.2])
    case.compare("nms_1d", (segments, scores, labels, threshold, least, most))
    method = r.randrange(2)
    case.compare("soft_nms_1d", (segments, scores, labels, method, 0.5, threshold, 0.1, least, most))


def cost_volumes(case: Case, name: str, geometry: tuple[int, ...], short: int) -> None:
    """Run the operator and both gradients on random images; `short` is the smallest side that has an output."""
    r = case.random
    channels = r.choice([0, 1, 3, 4, 5, 9, 16, 17, 33])
    sides = (max(r.choice([0, 1, 3, 4, 8, 9]), short), max(r.choice([0, 1, 5, 8, 12, 16, 31, 32, 36, 64, 65]), short))
    shape = (r.randrange(3), channels, *sides)
    products(case, name, geometry, case.normal(*shape), case.normal(*shape))


def products(case: Case, name: str, geometry: tuple[int, ...], f1: Tensor, f2: Tensor) -> None:
    rounding = ROUNDING[case.dtype]
    out = case.compare(name, (f1, f2, *geometry), rounding)
    grad = case.normal(*out.shape)
    for second in (False, True):
        case.compare(f"{name}_backward", (grad, f1, *geometry, second), 4 * rounding)


def aligned_correlation(case: Case) -> None:
    """Contiguous images and displacements in multiples of four, for which there are faster kernels."""
    r = case.random
    case.dtype = r.choice([torch.float32, torch.float16, torch.bfloat16])
    reach, step = r.choice([(0, 1), (4, 1), (4, 1), (4, 1), (4, 2), (8, 2)])
    pad = r.choice([reach, reach, reach + 4])
    channels, height = r.choice([1, 4, 7, 8, 9, 16, 17, 33]), r.choice([1, 4, 5, 7, 8, 15])
    width = r.choice([4, 8, 12, 16, 20, 32, 36, 64])
    f1, f2 = (torch.randn(2, channels, height, width).to(case.dtype) for _ in range(2))
    products(case, "correlation", (reach, pad, 1, 1, step), f1, f2)


def correlation(case: Case) -> None:
    draw, r = case.random.randrange, case.random
    reach, kernel = r.choice([0, 1, 2, 3, 4, 4, 4, 4, 6, 10]), r.choice([1, 1, 1, 3])
    pad = reach if r.random() < 0.5 else max(0, reach + draw(-2, 3))
    short = 2 * (reach + kernel // 2) - 2 * pad + 1
    geometry = (reach, pad, kernel, r.choice([1, 1, 1, 2, 3]), r.choice([1, 1, 2, 3]))
    cost_volumes(case, "correlation", geometry, short)


def spatial_correlation(case: Case) -> None:
    draw, r = case.random.randrange, case.random
    kernel, padding, dilation = r.choice([1, 1, 1, 3]), draw(4), r.choice([1, 2])
    patch_step = r.choice([1, 1, 2, 2, 3, 40])
    short = (kernel - 1) * dilation + 1 - 2 * padding
    geometry = (draw(1, 12), kernel, r.choice([1, 1, 1, 2, 3]), padding, dilation, patch_step)
    cost_volumes(case, "spatial_correlation", geometry, short)


def lookup(case: Case) -> None:
    """Positions around and far outside the second image, some not finite, and both gradients."""
    draw, r = case.random.randrange, case.random
    batch, channels, radius = draw(1, 3), r.choice([0, 1, 3, 16, 33, 130]), r.choice([0, 1, 2, 3, 3, 4, 4, 5, 7])
    (height, width), (rows, columns) = ((draw(1, 6), draw(1, 19)) for _ in range(2))
    rows = 0 if r.random() < 0.05 else rows
    f1, f2 = case.normal(batch, channels, height, width), case.normal(batch, channels, rows, columns)
    place = torch.rand(batch, 2, height, width) * torch.tensor([columns, rows]).view(1, 2, 1, 1) * 1.6
    place = place - 0.3 * torch.tensor([columns, rows]).view(1, 2, 1, 1)
    place = place.round() if r.random() < 0.2 else place
    wrong = torch.rand(place.shape) < r.choice([0.0, 0.0, 0.05])
    place[wrong] = r.choice([float("nan"), float("inf"), -1e30, 1e9])
    coords = case.strided(place.to(r.choice(list(ROUNDING))))
    rounding = 2 * ROUNDING[case.dtype]
    out = torch.ops.vidseg.correlation_lookup(f1, f2, coords, radius)
    (got,) = case.tested("correlation_lookup", (f1, f2, coords, radius))
    case.agree("correlation_lookup", (f1, f2, coords), got.isnan(), out.isnan(), 0.0)
    case.agree("correlation_lookup", (f1, f2, coords), got.nan_to_num(), out.nan_to_num(), rounding)
    grad = case.normal(*out.shape)
    case.compare("correlation_lookup_backward_f1", (grad, f2, coords, radius), 4 * rounding)
    case.compare("correlation_lookup_backward_f2", (grad, f1, coords, radius, rows, columns), 4 * rounding)


# Each group and the number of its cases for one of `--cases`.
GROUPS: dict[str, tuple[Callable[[Case], None], int]] = {
    "windows": (windows, 3),
    "frames": (frames, 3),
    "align": (align, 3),
    "suppression": (suppression, 1),
    "aligned_correlation": (aligned_correlation, 1),
    "correlation": (correlation, 1),
    "spatial_correlation": (spatial_correlation, 1),
    "lookup": (lookup, 1),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases", type=int, default=300, help="number of cases; the cheaper groups run three times as many"
    )
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", choices=GROUPS, help="run one group")
    parser.add_argument("--device", default="cuda", help="device of the operators under test")
    parser.add_argument("--library", help="file that registers the operators of torch.ops.vidseg_emulated for the CPU")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device, library = options.device, torch.ops.vidseg
    if options.library:
        torch.ops.load_library(options.library)
        device, library = "cpu", torch.ops.vidseg_emulated
    failures = 0
    for name, (run, weight) in GROUPS.items():
        if options.only not in (None, name) or (options.library and name == "suppression"):
            continue
        began, differ = time.perf_counter(), 0
        cases = range(options.seed, options.seed + options.cases * weight)
        for seed in cases:
            try:
                run(Case(seed, device, library))
            except (DifferenceError, RuntimeError, ValueError) as error:
                differ += 1
                if differ <= 3:
                    print(f"{name}, case {seed}: {type(error).__name__}: {str(error)[:500]}")
        print(f"{name}: {len(cases)} cases, {differ} differ, {time.perf_counter() - began:.1f} s", flush=True)
        failures += differ
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
