"""window_gather and window_scatter against loops, over dtypes, strides and positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidseg import ops
from vidseg.models._windows import sliding_windows

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
REDUCE = ["mean", "sum", "first", "last"]
ANY_DTYPE = [*FLOATS, torch.uint8, torch.bool, torch.int16, torch.int64, torch.complex64, torch.complex128]


@pytest.fixture(autouse=True)
def one_thread():
    """The loops of tiny operations here are slow when threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gather(x: Tensor, starts: Tensor, length: int, dilation: int = 1) -> Tensor:
    out = x.new_zeros(x.shape[0], starts.shape[1], length, *x.shape[2:])
    for b, n, k in torch.cartesian_prod(*map(torch.arange, out.shape[:3])).tolist() if out.numel() else []:
        t = int(starts[b, n]) + k * dilation
        if 0 <= t < x.shape[1]:
            out[b, n, k] = x[b, t]
    return out


def scatter(windows: Tensor, starts: Tensor, total: int, dilation: int = 1, reduce: str = "mean") -> Tensor:
    out = windows.new_zeros(windows.shape[0], total, *windows.shape[3:])
    for b in range(windows.shape[0]):
        found: dict[int, list[Tensor]] = {}
        for n in range(windows.shape[1]):
            for k in range(windows.shape[2]):
                found.setdefault(int(starts[b, n]) + k * dilation, []).append(windows[b, n, k])
        for t, elements in found.items():
            if not 0 <= t < total:
                continue
            if reduce in ("first", "last"):
                out[b, t] = elements[0 if reduce == "first" else -1]
            else:
                out[b, t] = sum(elements[1:], elements[0]) / (len(elements) if reduce == "mean" else 1)
    return out


def random_values(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randint(-100, 100, shape).to(dtype) if not dtype.is_floating_point else torch.randn(shape).to(dtype)


def with_strides(tensor: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout."""
    if layout == "reversed axes":
        axes = tuple(range(tensor.dim()))[::-1]
        return tensor.permute(axes).contiguous().permute(axes)
    if layout == "slices":
        wide = tensor.new_zeros([2 * size for size in tensor.shape])
        return wide[tuple(slice(0, None, 2) for _ in tensor.shape)].copy_(tensor)
    return tensor


SEQUENCES = {
    "batch": st.integers(0, 3),
    "total": st.integers(0, 9),
    "inner": st.lists(st.integers(0, 4), max_size=3),
    "count": st.integers(0, 4),
    "length": st.integers(1, 5),
    "dilation": st.integers(1, 4),
    "layout": st.sampled_from(["contiguous", "reversed axes", "slices"]),
    "seed": st.integers(0, 999),
}


@settings(max_examples=150, deadline=None)
@given(**SEQUENCES, dtype=st.sampled_from(ANY_DTYPE))
def test_gather(batch, total, inner, count, length, dilation, layout, seed, dtype):
    torch.manual_seed(seed)
    x = with_strides(random_values((batch, total, *inner), dtype), layout)
    starts = with_strides(torch.randint(-8, 14, (batch, count)), layout)
    got = ops.window_gather(x, starts, length, dilation=dilation)
    assert got.dtype == dtype
    assert torch.equal(got, gather(x, starts, length, dilation))


@settings(max_examples=200, deadline=None)
@given(**SEQUENCES, dtype=st.sampled_from(FLOATS), reduce=st.sampled_from(REDUCE))
def test_scatter(batch, total, inner, count, length, dilation, layout, seed, dtype, reduce):
    torch.manual_seed(seed)
    total += 1
    windows = with_strides(random_values((batch, count, length, *inner), dtype), layout)
    starts = with_strides(torch.randint(-8, 14, (batch, count)), layout)
    got = ops.window_scatter(windows, starts, total, dilation=dilation, reduce=reduce)
    want = scatter(windows.double(), starts, total, dilation, reduce)
    assert got.dtype == dtype
    torch.testing.assert_close(got, want.to(dtype))


@pytest.mark.parametrize("dtype", ANY_DTYPE, ids=str)
@pytest.mark.parametrize("reduce", ["first", "last"])
def test_scatter_of_any_dtype(dtype, reduce):
    torch.manual_seed(0)
    windows = random_values((2, 3, 4, 5), dtype)
    starts = torch.tensor([[0, 2, 5], [-1, 1, 1]])
    got = ops.window_scatter(windows, starts, 8, reduce=reduce)
    assert torch.equal(got, scatter(windows, starts, 8, reduce=reduce))


@pytest.mark.parametrize("dtype", [None, *FLOATS], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("layout", ["contiguous", "reversed axes", "slices", "planes"])
def test_frames_are_normalized_once(dtype, channels, layout):
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (2, 7, 5, 613, channels), dtype=torch.uint8)  # a row and a half of a stretch
    if layout == "planes":
        x = frames.permute(0, 1, 4, 2, 3).contiguous().permute(0, 1, 3, 4, 2)
    else:
        x = with_strides(frames, layout)
    starts = torch.tensor([[0, 2, -1], [5, -9, 3]])
    mean, std = [110.2, 100.6, 96.0, 0.0][:channels], [58.1, 56.5, 55.3, 255.0][:channels]
    got = ops.window_gather(x, starts, 3, dilation=2, mean=mean, std=std, dtype=dtype)
    # The same arithmetic in plain PyTorch, in the same type, must give the same bits.
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    clips = (gather(frames.to(wide), starts, 3, 2) - torch.tensor(mean, dtype=wide)) / torch.tensor(std, dtype=wide)
    inside = gather(torch.ones_like(frames, dtype=torch.bool), starts, 3, 2)
    assert got.dtype == (dtype or torch.float32)
    assert torch.equal(got, (clips * inside).to(got.dtype).permute(0, 1, 5, 2, 3, 4))


def test_frames_without_mean_or_std():
    x = torch.arange(2 * 3 * 4 * 3, dtype=torch.uint8).reshape(1, 2, 3, 4, 3)
    starts = torch.tensor([[0]])
    plain = x.permute(0, 4, 1, 2, 3)[:, None].float()
    assert torch.equal(ops.window_gather(x, starts, 2, dtype=torch.float32), plain)
    assert torch.equal(
        ops.window_gather(x, starts, 2, mean=(1, 2, 3)), plain - torch.tensor([1.0, 2, 3])[:, None, None, None]
    )
    assert torch.equal(
        ops.window_gather(x, starts, 2, std=(2, 4, 8)), plain / torch.tensor([2.0, 4, 8])[:, None, None, None]
    )


def test_starts_at_the_ends_of_64_bits():
    starts = torch.tensor([[-(2**63), 2**63 - 1, 2**62, -(2**62), 0]])
    x = torch.ones(1, 3, 2)
    got = ops.window_gather(x, starts, 4, dilation=2**30)
    assert got.sum() == 2 and got[0, 4, 0].all()
    assert ops.window_scatter(torch.ones(1, 5, 4, 2), starts, 3, dilation=2**30, reduce="sum").sum() == 2


def test_scatter_undoes_gather():
    torch.manual_seed(0)
    x = torch.randn(2, 11, 3)
    starts = torch.tensor([[0, 4, 7], [-2, 2, 6]])
    windows = ops.window_gather(x, starts, 4)
    for reduce in ("mean", "first", "last"):
        assert torch.equal(ops.window_scatter(windows, starts, 11, reduce=reduce)[0], x[0])
    covered = ops.window_scatter(torch.ones_like(windows), starts, 11, reduce="sum")
    torch.testing.assert_close(ops.window_scatter(windows, starts, 11, reduce="sum"), x * covered)


@pytest.mark.parametrize("reduce", REDUCE)
def test_gradients_of_first_and_second_order(reduce):
    torch.manual_seed(0)
    starts = torch.tensor([[0, 2, -1], [1, 1, 5]])
    x = torch.randn(2, 6, 2, dtype=torch.float64, requires_grad=True)
    windows = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)

    def cut(x):
        return ops.window_gather(x, starts, 3, dilation=2)

    def stitch(windows):
        return ops.window_scatter(windows, starts, 6, dilation=2, reduce=reduce)

    assert torch.autograd.gradcheck(cut, x) and torch.autograd.gradcheck(stitch, windows)
    assert torch.autograd.gradgradcheck(cut, x) and torch.autograd.gradgradcheck(stitch, windows)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradients_by_dtype(dtype):
    torch.manual_seed(0)
    starts = torch.tensor([[0, 2, 3]])
    x = torch.randn(1, 6, 33).to(dtype).requires_grad_()
    out = ops.window_gather(x, starts, 4)
    grad = torch.randn(1, 33, 4, 3).to(dtype).permute(0, 3, 2, 1)  # a gradient with strides
    out.backward(grad)
    torch.testing.assert_close(x.grad, scatter(grad.double(), starts, 6, reduce="sum").to(dtype))


def test_integer_windows_cannot_be_averaged():
    with pytest.raises(ValueError, match="windows is Long, must be float64"):
        ops.window_scatter(torch.zeros(1, 1, 2, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64), 2)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "reversed axes", "slices"])
def test_cuda_equals_cpu(dtype, layout):
    torch.manual_seed(0)
    starts = torch.tensor([[0, 2, -1], [5, 3, 3]])
    x = torch.randn(2, 9, 5, 3).to(dtype)
    frames = torch.randint(0, 256, (2, 9, 12, 33, 3), dtype=torch.uint8)
    windows = torch.randn(2, 3, 4, 5, 3).to(dtype)
    results = []
    for device in ("cpu", "cuda"):
        s = starts.to(device)
        a = with_strides(x.to(device), layout).requires_grad_()
        w = with_strides(windows.to(device), layout).requires_grad_()
        cut = ops.window_gather(a, s, 4, dilation=2)
        stitched = [ops.window_scatter(w, s, 9, dilation=2, reduce=reduce) for reduce in REDUCE]
        (cut.float().square().sum() + sum(t.float().square().sum() for t in stitched)).backward()
        clip = with_strides(frames.to(device), layout)
        clips = ops.window_gather(clip, s, 4, mean=(110, 100, 96), std=(58, 56, 55), dtype=dtype)
        results.append((cut, *stitched, clips, a.grad, w.grad))
    for cpu, cuda in zip(*results, strict=True):
        torch.testing.assert_close(cuda.cpu(), cpu)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize(("total", "channels"), [(23, 3), (5000, 16)], ids=["gradient of unfold", "window_scatter"])
@pytest.mark.parametrize(("length", "step"), [(1, 1), (7, 3), (40, 16)])
def test_sliding_windows_are_gathered_windows(dim, total, channels, length, step):
    x = torch.randn(2, total, channels, dtype=torch.float64, requires_grad=True)
    before, after = length // 2, length
    windows = sliding_windows(x.movedim(1, dim), length, step, before=before, after=after, dim=dim)
    starts = (torch.arange((total + before + after - length) // step + 1) * step - before).expand(2, -1)
    gathered = ops.window_gather(x, starts, length)
    assert torch.equal(windows.movedim(dim + 1, 2), gathered)
    for grad in (torch.randn_like(gathered), torch.randn_like(gathered.transpose(2, 3)).transpose(2, 3)):
        found, known = (
            torch.autograd.grad(y, x, grad, retain_graph=True)[0] for y in (gathered, windows.movedim(dim + 1, 2))
        )
        torch.testing.assert_close(found, known)


def test_the_gradient_of_sliding_windows(monkeypatch):
    monkeypatch.setattr("vidseg.models._windows._MANY", 0)
    for dim, shape in ((1, (2, 9, 2)), (2, (2, 2, 9)), (1, (2, 9)), (2, (1, 2, 9, 2))):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)

        def cut(x, dim=dim):
            return sliding_windows(x, 4, 3, before=2, after=-1, dim=dim)

        assert type(cut(x).grad_fn).__name__ == "_SlidingWindowsBackward"
        assert torch.autograd.gradcheck(cut, x)
        assert torch.autograd.gradgradcheck(cut, x)
    compiled = torch.compile(cut, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), cut(x))
    assert torch.equal(*(torch.autograd.grad(one(x).square().sum(), x)[0] for one in (cut, compiled)))


def test_sliding_windows_overlap_in_memory():
    x = torch.randn(1, 100, 8)
    windows = sliding_windows(x, 32, 4)
    assert windows.shape == (1, 18, 32, 8)
    assert windows.untyped_storage().nbytes() <= x.untyped_storage().nbytes()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_windows_along_time_have_the_sums_of_contiguous_windows(dtype, reduce):
    windows = torch.randn(3, 5, 7, 40).to(dtype).transpose(2, 3)  # (B, N, length, C), in memory (B, N, C, length)
    starts = torch.randint(-60, 90, (3, 5))
    starts[0, :2] = torch.tensor([2**62, -(2**62)])
    found = ops.window_scatter(windows, starts, 80, reduce=reduce)
    assert found.stride() == (7 * 80, 1, 80)  # the order in memory stays
    assert torch.equal(found, ops.window_scatter(windows.contiguous(), starts, 80, reduce=reduce))
