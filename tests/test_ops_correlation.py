"""correlation, spatial_correlation and correlation_lookup against plain PyTorch, published vectors and gradcheck."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidseg import ops

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(autouse=True)
def one_thread():
    """The loops of tiny operations here are slow when threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def read(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels at rows x columns, zero outside the image."""
    h, w = image.shape[2:]
    inside = ((rows >= 0) & (rows < h))[:, None] & ((columns >= 0) & (columns < w))
    return image[:, :, rows.clamp(0, h - 1)][..., columns.clamp(0, w - 1)] * inside


def products(f1: Tensor, f2: Tensor, rows: Tensor, columns: Tensor, taps: range, shifts: range) -> Tensor:
    """(B, P, P, OH, OW): sums over channels and taps, for every displacement."""
    total = f1.new_zeros(f1.shape[0], len(shifts), len(shifts), len(rows), len(columns))
    for p, dy in enumerate(shifts):
        for q, dx in enumerate(shifts):
            for j in taps:
                for i in taps:
                    total[:, p, q] += (read(f1, rows + j, columns + i) * read(f2, rows + j + dy, columns + i + dx)).sum(
                        1
                    )
    return total


def correlation(f1, f2, max_displacement, *, pad_size=None, kernel_size=1, stride1=1, stride2=1) -> Tensor:
    m, pad, radius = max_displacement, max_displacement if pad_size is None else pad_size, kernel_size // 2
    reach = m // stride2 * stride2
    h, w = (size + 2 * pad - 2 * (m + radius) for size in f1.shape[2:])
    rows, columns = torch.arange(0, h, stride1) + m - pad, torch.arange(0, w, stride1) + m - pad
    shifts = range(-reach, reach + 1, stride2)
    total = products(f1, f2, rows, columns, range(-radius, radius + 1), shifts)
    return total.flatten(1, 2) / (kernel_size**2 * f1.shape[1])


def spatial_correlation(
    f1, f2, *, patch_size, kernel_size=1, stride=1, padding=0, dilation=1, dilation_patch=1
) -> Tensor:
    h, w = (size + 2 * padding - (kernel_size - 1) * dilation for size in f1.shape[2:])
    rows, columns = torch.arange(0, h, stride) - padding, torch.arange(0, w, stride) - padding
    first = -((patch_size - 1) // 2) * dilation_patch
    shifts = range(first, first + patch_size * dilation_patch, dilation_patch)
    return products(f1, f2, rows, columns, range(0, kernel_size * dilation, dilation), shifts)


def correlation_lookup(f1: Tensor, f2: Tensor, coords: Tensor, radius: int) -> Tensor:
    """Interpolate the volume of all pairs at each position, one at a time."""
    channels, height, width = f1.shape[1:]
    rows, columns = f2.shape[2:]
    volume = torch.einsum("bcq,bcp->bqp", f1.flatten(2), f2.flatten(2)) / channels**0.5
    samples = []
    for dx in range(-radius, radius + 1):
        for dy in range(-radius, radius + 1):
            x, y = coords[:, 0].flatten(1) + dx, coords[:, 1].flatten(1) + dy
            total = torch.zeros_like(volume[:, :, 0])
            for column, row in ((0, 0), (0, 1), (1, 0), (1, 1)):
                i, j = x.floor() + column, y.floor() + row
                weight = (1 - (x - i).abs()) * (1 - (y - j).abs())
                inside = (i >= 0) & (i < columns) & (j >= 0) & (j < rows)
                place = (j.clamp(0, rows - 1) * columns + i.clamp(0, columns - 1)).long()
                total = total + volume.gather(2, place[:, :, None])[:, :, 0] * weight * inside
            samples.append(total.unflatten(1, (height, width)))
    return torch.stack(samples, dim=1)


ORACLE = {
    ops.correlation: correlation,
    ops.spatial_correlation: spatial_correlation,
    ops.correlation_lookup: correlation_lookup,
}


def with_strides(tensor: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout."""
    if layout == "channels last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "slices":
        wide = tensor.new_zeros([2 * size + 1 for size in tensor.shape])
        every_second = wide[tuple(slice(1, 2 * size + 1, 2) for size in tensor.shape)]
        return every_second.copy_(tensor)
    return tensor.transpose(0, 3).contiguous().transpose(0, 3)


def relative_error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1))


def check(operator, f1: Tensor, f2: Tensor, *args, **options) -> None:
    """Values and both gradients against the oracle in float64."""
    x, y = f1.detach().requires_grad_(), f2.detach().requires_grad_()
    out = operator(x, y, *args, **options)
    grad = torch.randn_like(out)
    out.backward(grad)
    x64, y64 = (t.detach().double().requires_grad_() for t in (f1, f2))
    doubles = [arg.double() if isinstance(arg, Tensor) else arg for arg in args]
    expected = ORACLE[operator](x64, y64, *doubles, **options)
    expected.backward(grad.double())
    assert out.dtype == f1.dtype
    for got, want in ((out, expected), (x.grad, x64.grad), (y.grad, y64.grad)):
        assert relative_error(got, want) < TOLERANCE[f1.dtype]


CASES = json.loads((GOLDEN / "correlation.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_published_vectors(case):
    def normal(shape, seed):
        return torch.from_numpy(np.random.RandomState(seed).standard_normal(size=shape).astype(np.float32))

    f1 = normal(case["shape"], case["seed_input1"]).requires_grad_()
    f2 = normal(case["shape"], case["seed_input2"]).requires_grad_()
    if case["kind"] == "flownet2":
        names = ("max_displacement", "pad_size", "kernel_size", "stride1", "stride2")
        out = ops.correlation(f1, f2, **{name: case[name] for name in names})
    else:
        names = ("patch_size", "kernel_size", "stride", "padding", "dilation", "dilation_patch")
        out = ops.spatial_correlation(f1, f2, **{name: case[name] for name in names})
    assert list(out.shape) == case["out_shape"]
    out.backward(normal(case["out_shape"], case["seed_grad_output"]))
    with np.load(GOLDEN / "correlation.npz") as expected:
        for name, got in (("out", out.detach()), ("grad1", f1.grad), ("grad2", f2.grad)):
            np.testing.assert_allclose(got.numpy(), expected[f"{case['id']}_{name}"], rtol=0, atol=1e-5)


IMAGES = st.tuples(st.integers(1, 2), st.integers(1, 19), st.integers(1, 9), st.integers(1, 22))
LAYOUTS = st.sampled_from(["channels last", "slices", "transposed"])


@settings(max_examples=60, deadline=None)
@given(
    shape=IMAGES,
    layouts=st.tuples(LAYOUTS, LAYOUTS),
    m=st.integers(0, 5),
    extra=st.integers(-2, 2),
    kernel_size=st.sampled_from([1, 1, 3]),
    stride1=st.integers(1, 3),
    stride2=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_correlation_of_any_shape_and_stride(shape, layouts, m, extra, kernel_size, stride1, stride2, seed):
    torch.manual_seed(seed)
    pad = max(0, m + extra)
    short = 2 * (m + kernel_size // 2) - 2 * pad + 1  # the smallest side that gives an output
    shape = (*shape[:2], max(shape[2], short), max(shape[3], short))
    f1, f2 = (with_strides(torch.randn(shape, dtype=torch.float64), layout) for layout in layouts)
    check(ops.correlation, f1, f2, m, pad_size=pad, kernel_size=kernel_size, stride1=stride1, stride2=stride2)


@settings(max_examples=60, deadline=None)
@given(
    shape=IMAGES,
    layouts=st.tuples(LAYOUTS, LAYOUTS),
    patch_size=st.integers(1, 6),
    kernel_size=st.sampled_from([1, 1, 3]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 2),
    dilation_patch=st.sampled_from([1, 2, 3, 40]),
    seed=st.integers(0, 99),
)
def test_spatial_correlation_of_any_shape_and_stride(
    shape, layouts, patch_size, kernel_size, stride, padding, dilation, dilation_patch, seed
):
    torch.manual_seed(seed)
    short = (kernel_size - 1) * dilation + 1 - 2 * padding
    shape = (*shape[:2], max(shape[2], short), max(shape[3], short))
    f1, f2 = (with_strides(torch.randn(shape, dtype=torch.float64), layout) for layout in layouts)
    sizes = {"patch_size": patch_size, "kernel_size": kernel_size, "stride": stride, "padding": padding}
    check(ops.spatial_correlation, f1, f2, **sizes, dilation=dilation, dilation_patch=dilation_patch)


def positions(batch: int, height: int, width: int, rows: int, columns: int) -> Tensor:
    """Positions in and around an image of rows x columns, some of them whole numbers."""
    place = torch.rand(batch, 2, height, width, dtype=torch.float64) * 2 - 0.5
    place *= torch.tensor([columns, rows]).view(1, 2, 1, 1)
    return torch.where(torch.rand_like(place) < 0.3, place.round(), place)


@settings(max_examples=60, deadline=None)
@given(
    shape=IMAGES,
    others=st.tuples(st.integers(1, 9), st.integers(1, 12)),
    layouts=st.tuples(LAYOUTS, LAYOUTS, LAYOUTS),
    radius=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_correlation_lookup_of_any_shape_and_stride(shape, others, layouts, radius, seed):
    torch.manual_seed(seed)
    f1, f2 = (torch.randn(*shape[:2], *size, dtype=torch.float64) for size in (shape[2:], others))
    coords = positions(shape[0], *shape[2:], *others)
    f1, f2, coords = (with_strides(tensor, layout) for tensor, layout in zip((f1, f2, coords), layouts, strict=True))
    check(ops.correlation_lookup, f1, f2, coords, radius)


def test_positions_without_a_value():
    """The outputs of a position that is not finite are NaN, also with no pixel near, and it has no gradient."""
    torch.manual_seed(0)
    f1, f2 = (torch.randn(1, 3, 4, 5, requires_grad=True) for _ in range(2))
    coords = positions(1, 4, 5, 4, 5).float()
    expected = ops.correlation_lookup(f1, f2, coords, 2)
    wrong = coords.clone()
    wrong[0, 0, 1, 2], wrong[0, 1, 3, 4], wrong[0, :, 0, 0] = float("nan"), -float("inf"), 1e30
    out = ops.correlation_lookup(f1, f2, wrong, 2)
    left = torch.ones(4, 5, dtype=torch.bool)
    left[[1, 3, 0], [2, 4, 0]] = False
    assert out[..., 1, 2].isnan().all() and out[..., 3, 4].isnan().all() and not out[..., 0, 0].any()
    assert torch.equal(out[..., left], expected[..., left])
    grad = torch.randn_like(out)
    for got, want in zip(
        torch.autograd.grad(out, (f1, f2), grad), torch.autograd.grad(expected, (f1, f2), grad * left), strict=True
    ):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", [5, 70, 150])  # narrower and wider than a tile
def test_dtypes(dtype, width):
    torch.manual_seed(0)
    f1, f2 = (torch.randn(2, 33, 7, width).to(dtype) for _ in range(2))
    check(ops.correlation, f1, f2, 4)
    check(ops.spatial_correlation, f1, f2, patch_size=5, kernel_size=3, padding=1, dilation_patch=2)
    check(ops.correlation_lookup, f1, f2[..., :40], positions(2, 7, width, 7, min(width, 40)).float(), 4)


def test_a_gradient_with_strides():
    torch.manual_seed(0)
    f1, f2 = (torch.randn(1, 3, 6, 7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    grad = torch.randn(7, 6, 9, 1, dtype=torch.float64).permute(3, 2, 1, 0)
    got = torch.autograd.grad(ops.correlation(f1, f2, 1), (f1, f2), grad)
    want = torch.autograd.grad(ops.correlation(f1, f2, 1), (f1, f2), grad.contiguous())
    summed = torch.autograd.grad(ops.correlation(f1, f2, 1).sum(), (f1, f2))  # a gradient without any memory
    ones = torch.autograd.grad(ops.correlation(f1, f2, 1), (f1, f2), torch.ones(1, 9, 6, 7, dtype=torch.float64))
    assert all(torch.equal(a, b) for a, b in zip((*got, *summed), (*want, *ones), strict=True))


@pytest.mark.parametrize("options", [{}, {"kernel_size": 3, "stride1": 2, "stride2": 2, "pad_size": 3}], ids=str)
def test_gradients_of_first_and_second_order(options):
    torch.manual_seed(0)
    f1, f2 = (torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: ops.correlation(a, b, 2, **options), (f1, f2))
    assert torch.autograd.gradgradcheck(lambda a, b: ops.correlation(a, b, 2, **options), (f1, f2))
    assert torch.autograd.gradgradcheck(lambda a, b: ops.spatial_correlation(a, b, patch_size=4, stride=2), (f1, f2))
    coords = positions(1, 5, 4, 5, 4)
    assert torch.autograd.gradcheck(lambda a, b: ops.correlation_lookup(a, b, coords, 1), (f1, f2))
    assert torch.autograd.gradgradcheck(lambda a, b: ops.correlation_lookup(a, b, coords, 1), (f1, f2))


def test_only_the_wanted_gradient_is_computed():
    f1, f2 = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4, requires_grad=True)
    ops.correlation(f1, f2, 1).sum().backward()
    assert f1.grad is None and f2.grad is not None


def test_both_operators_agree():
    torch.manual_seed(0)
    f1, f2 = torch.randn(1, 6, 9, 11), torch.randn(1, 6, 9, 11)
    for stride1, stride2 in ((1, 1), (1, 2), (2, 1)):
        a = ops.correlation(f1, f2, 4, stride1=stride1, stride2=stride2)
        b = ops.spatial_correlation(f1, f2, patch_size=2 * (4 // stride2) + 1, stride=stride1, dilation_patch=stride2)
        torch.testing.assert_close(a, b.flatten(1, 2) / 6)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)], ids=str)
def test_empty_images(shape):
    f1, f2 = (torch.zeros(shape, requires_grad=True) for _ in range(2))
    out = ops.correlation(f1, f2, 1)
    assert out.shape == (shape[0], 9, *shape[2:]) and not out.any()
    out.sum().backward()
    assert f1.grad.shape == f2.grad.shape == shape
    f1.grad = f2.grad = None
    coords = torch.zeros(shape[0], 2, *shape[2:])
    out = ops.correlation_lookup(f1, f2, coords, 2)
    assert out.shape == (shape[0], 25, *shape[2:]) and not out.any()
    out.sum().backward()
    assert f1.grad.shape == f2.grad.shape == shape


def test_an_image_of_exactly_the_border_gives_nothing():
    assert ops.correlation(torch.ones(1, 2, 6, 9), torch.ones(1, 2, 6, 9), 3, pad_size=0).shape == (1, 49, 0, 3)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("options", [{}, {"kernel_size": 3, "stride1": 2, "stride2": 2, "pad_size": 5}], ids=str)
def test_cuda_equals_cpu(dtype, options):
    torch.manual_seed(0)
    images = [torch.randn(2, 37, 19, 45).to(dtype) for _ in range(2)]
    coords = positions(2, 19, 45, 19, 45).float()
    results = []
    for device in ("cpu", "cuda"):
        f1, f2 = (with_strides(image.to(device), "channels last").requires_grad_() for image in images)
        out = ops.correlation(f1, f2, 4, **options)
        patches = ops.spatial_correlation(f1, f2, patch_size=5, kernel_size=3, dilation_patch=2)
        windows = ops.correlation_lookup(f1, f2, coords.to(device), 4)
        (out.float().square().sum() + patches.float().square().sum() + windows.float().square().sum()).backward()
        results.append((out, patches, windows, f1.grad, f2.grad))
    for cpu, cuda in zip(*results, strict=True):
        assert relative_error(cuda.cpu(), cpu) < 4 * TOLERANCE[dtype]
