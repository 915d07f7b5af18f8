"""What holds for every operator: errors, opcheck, torch.compile, autocast, determinism, memory, instruction sets."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vidseg import ops

HERE = Path(__file__).parent

F1, F2 = torch.randn(1, 3, 6, 7), torch.randn(1, 3, 6, 7)
COORDS = torch.rand(1, 2, 6, 7) * 9 - 1
X, STARTS, WINDOWS = torch.randn(2, 6, 4), torch.tensor([[0, 3], [-1, 4]]), torch.randn(2, 2, 3, 4)
FRAMES = torch.randint(0, 256, (2, 6, 4, 5, 3), dtype=torch.uint8)
SEQUENCES, ROIS = torch.randn(2, 5, 9), torch.tensor([[0, 1.5, 4.0], [1, -2.0, 3.0], [1, 6.0, 20.0]])
SEGMENTS, SCORES = torch.tensor([[0.0, 4.0], [1.0, 5.0], [7.0, 9.0]]), torch.tensor([0.5, 0.9, 0.7])
LABELS = torch.tensor([0, 1, 0])


@pytest.fixture(autouse=True)
def one_thread():
    """The loops of tiny operations here are slow when threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CALLS = {
    "correlation": lambda f1=F1, f2=F2, m=2, **o: ops.correlation(f1, f2, m, **o),
    "spatial_correlation": lambda f1=F1, f2=F2, **o: ops.spatial_correlation(f1, f2, **{"patch_size": 3, **o}),
    "correlation_lookup": lambda f1=F1, f2=F2, c=COORDS, r=2: ops.correlation_lookup(f1, f2, c, r),
    "window_gather": lambda x=X, starts=STARTS, length=3, **o: ops.window_gather(x, starts, length, **o),
    "window_gather of frames": lambda x=FRAMES, starts=STARTS, **o: ops.window_gather(
        x, starts, 3, **{"mean": (1, 2, 3), "std": (4, 5, 6), **o}
    ),
    "window_scatter": lambda w=WINDOWS, starts=STARTS, total=6, **o: ops.window_scatter(w, starts, total, **o),
    "align1d": lambda x=SEQUENCES, rois=ROIS, size=4, **o: ops.align1d(x, rois, size, **o),
    "nms_1d": lambda s=SEGMENTS, v=SCORES, **o: ops.nms_1d(s, v, **{"iou_threshold": 0.5, **o}),
    "soft_nms_1d": lambda s=SEGMENTS, v=SCORES, **o: ops.soft_nms_1d(s, v, **o),
}
NAN, HUGE = float("nan"), 2**31

WRONG = [
    ("correlation", {"f1": F1[0]}, "f1 has shape (3, 6, 7), must have 4 dimensions (B, C, H, W)"),
    ("correlation", {"f2": F2[..., 1:]}, "f2 has shape (1, 3, 6, 6), must be that of f1, (1, 3, 6, 7)"),
    ("correlation", {"f1": F1.long()}, "f1 is Long, must be float64, float32, float16 or bfloat16"),
    ("correlation", {"f2": F2.double()}, "f2 is Double, must be Float like f1"),
    ("correlation", {"m": -1}, "max_displacement is -1, must be at least 0"),
    ("correlation", {"m": HUGE}, "max_displacement is 2147483648, must be at most 1073741824"),
    ("correlation", {"m": 2**30, "pad_size": 2**30}, "overflows a 64-bit number of bytes"),
    ("correlation", {"pad_size": -1}, "pad_size is -1, must be at least 0"),
    ("correlation", {"kernel_size": 2}, "kernel_size is 2, must be odd"),
    ("correlation", {"kernel_size": 0}, "kernel_size is 0, must be at least 1"),
    ("correlation", {"stride1": 0}, "stride1 is 0, must be at least 1"),
    ("correlation", {"stride2": -3}, "stride2 is -3, must be at least 1"),
    ("correlation", {"m": 4, "pad_size": 0}, "f1.size(2) is 6, 2 too small for this kernel, displacement and padding"),
    ("spatial_correlation", {"patch_size": 0}, "patch_size is 0, must be at least 1"),
    ("spatial_correlation", {"stride": 0}, "stride is 0, must be at least 1"),
    ("spatial_correlation", {"padding": -1}, "padding is -1, must be at least 0"),
    ("spatial_correlation", {"dilation": 0}, "dilation is 0, must be at least 1"),
    ("spatial_correlation", {"dilation_patch": 0}, "dilation_patch is 0, must be at least 1"),
    ("spatial_correlation", {"kernel_size": 3, "dilation": 4}, "f1.size(2) is 6, 2 too small"),
    ("correlation_lookup", {"f1": F1[0]}, "f1 has shape (3, 6, 7), must have 4 dimensions (B, C, H, W)"),
    ("correlation_lookup", {"f2": F2[:, 1:]}, "f2 has shape (1, 2, 6, 7), must have the B and C of f1, (1, 3, 6, 7)"),
    ("correlation_lookup", {"f2": F2.half()}, "f2 is Half, must be Float like f1"),
    ("correlation_lookup", {"c": COORDS[0]}, "coords has shape (2, 6, 7), must have 4 dimensions (B, 2, H, W)"),
    ("correlation_lookup", {"c": COORDS[..., 1:]}, "coords has shape (1, 2, 6, 6), must be (B, 2, H, W) with the B, H"),
    ("correlation_lookup", {"c": COORDS.long()}, "coords is Long, must be float64"),
    ("correlation_lookup", {"r": -1}, "radius is -1, must be at least 0"),
    ("correlation_lookup", {"r": 16}, "radius is 16, must be at most 15"),
    ("window_gather", {"x": X[0, 0]}, "x has shape (4), must have at least 2 dimensions (B, T, ...)"),
    ("window_gather", {"starts": STARTS[0]}, "starts has shape (2), must have 2 dimensions (B, N)"),
    ("window_gather", {"starts": STARTS.float()}, "starts is Float, must be Long (torch.int64)"),
    ("window_gather", {"starts": STARTS[:1]}, "starts has shape (1, 2), its first size must be that of x, (2, 6, 4)"),
    ("window_gather", {"length": 0}, "length is 0, must be at least 1"),
    ("window_gather", {"length": HUGE}, "length is 2147483648, must be at most"),
    ("window_gather", {"dilation": 0}, "dilation is 0, must be at least 1"),
    ("window_gather", {"mean": (1, 2, 3)}, "x is Float, must be Byte when mean, std or dtype is given"),
    ("window_gather of frames", {"x": FRAMES[0]}, "x has shape (6, 4, 5, 3), must have 5 dimensions (B, T, H, W, C)"),
    ("window_gather of frames", {"mean": (1, 2)}, "mean has 2 values, must have one for each of the 3 channels"),
    ("window_gather of frames", {"std": (1, 0, 1)}, "std[1] is 0, must be finite and greater than 0"),
    ("window_gather of frames", {"mean": (1, 2, NAN)}, "mean[2] is nan, must be finite"),
    ("window_gather of frames", {"dtype": torch.int32}, "dtype is Int, must be float64, float32, float16 or bfloat16"),
    ("window_scatter", {"w": WINDOWS[0, 0]}, "windows has shape (3, 4), must have at least 3 dimensions"),
    ("window_scatter", {"starts": STARTS[:, :1]}, "its second size must be that of windows, (2, 2, 3, 4)"),
    ("window_scatter", {"total": 0}, "total is 0, must be at least 1"),
    ("window_scatter", {"total": HUGE}, "total is 2147483648, must be at most 1073741824"),
    ("window_scatter", {"reduce": "max"}, "reduce is 'max', must be one of mean, sum, first, last"),
    ("align1d", {"x": SEQUENCES[0]}, "x has shape (5, 9), must have 3 dimensions (B, C, T)"),
    ("align1d", {"rois": ROIS[:, 1:]}, "rois has shape (3, 2), must be (R, 3): batch index, start, end"),
    ("align1d", {"rois": ROIS.long()}, "rois is Long, must be float64"),
    ("align1d", {"size": 0}, "output_size is 0, must be at least 1"),
    ("align1d", {"sampling_ratio": -1}, "sampling_ratio is -1, must be at least 0"),
    ("align1d", {"rois": torch.tensor([[0, 1, 2.0], [2, 1, 2]])}, "rois[1, 0], the batch index, is 2, must be a whole"),
    ("align1d", {"rois": torch.tensor([[-1, 1, 2.0]])}, "the batch index, is -1, must be a whole number below B = 2"),
    ("align1d", {"rois": torch.tensor([[0.5, 1, 2]])}, "the batch index, is 0.5, must be a whole number"),
    ("align1d", {"rois": torch.tensor([[0, NAN, 2]])}, "rois[0, 1], the start, is nan, must be finite"),
    ("align1d", {"rois": torch.tensor([[0, 1, -float("inf")]])}, "rois[0, 2], the end, is -inf, must be finite"),
    ("align1d", {"rois": torch.tensor([[0, -3e38, 3e38]])}, "its length must be at most 1073741824"),
    ("nms_1d", {"s": SEGMENTS.t()}, "segments has shape (2, 3), must be (N, 2): start, end"),
    ("nms_1d", {"v": SCORES[1:]}, "scores has shape (2), its size must be the first of segments, (3, 2)"),
    ("nms_1d", {"labels": LABELS[1:]}, "labels has shape (2), its size must be the first of segments"),
    ("nms_1d", {"labels": LABELS.int()}, "labels is Int, must be Long (torch.int64)"),
    ("nms_1d", {"iou_threshold": 1.5}, "iou_threshold is 1.5, must be from 0 to 1"),
    ("nms_1d", {"iou_threshold": NAN}, "iou_threshold is nan, must be from 0 to 1"),
    ("nms_1d", {"min_score": -1.0}, "min_score is -1, must be finite and at least 0"),
    ("nms_1d", {"max_segments": 0}, "max_segments is 0, must be at least 1"),
    ("nms_1d", {"v": torch.tensor([1.0, NAN, 0.5])}, "scores[1] is nan, must be finite"),
    (
        "soft_nms_1d",
        {"s": torch.tensor([[0, 1.0], [1, 2], [0, float("inf")]])},
        "segments[2, 1] is inf, must be finite",
    ),
    ("soft_nms_1d", {"sigma": 0.0}, "sigma is 0, must be finite and greater than 0"),
    ("soft_nms_1d", {"method": "soft"}, "method is 'soft', must be one of gaussian, linear"),
    ("soft_nms_1d", {"threshold_slope": NAN}, "threshold_slope is nan, must be finite"),
]


@pytest.mark.parametrize(
    "name, wrong, message", WRONG, ids=[f"{n} {next(iter(w))} {i}" for i, (n, w, _) in enumerate(WRONG)]
)
def test_errors_name_argument_value_and_rule(name, wrong, message):
    with pytest.raises(ValueError, match=f"^{name.split()[0]}: .*{re.escape(message)}"):
        CALLS[name](**wrong)


def test_calls_are_right_as_they_stand():
    for call in CALLS.values():
        call()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_devices_must_agree():
    with pytest.raises(ValueError, match="f2 is on cpu"):
        ops.correlation(F1.cuda(), F2, 2)
    with pytest.raises(ValueError, match="rois is on cpu"):
        ops.align1d(SEQUENCES.cuda(), ROIS, 4)
    with pytest.raises(ValueError, match="scores is on cpu"):
        ops.nms_1d(SEGMENTS.cuda(), SCORES, iou_threshold=0.5)


def raw_calls() -> list[tuple[str, tuple]]:
    """Every operator of the library, the backward ones too, with arguments."""
    f1, f2 = F1.clone().requires_grad_(), F2.clone().requires_grad_()
    geometry, patch = (2, 2, 1, 1, 1), (3, 1, 1, 0, 1, 1)
    volume, patches = ops.correlation(F1, F2, 2), ops.spatial_correlation(F1, F2, patch_size=3)
    samples = ops.correlation_lookup(F1, F2, COORDS, 2)
    x, windows = X.clone().requires_grad_(), WINDOWS.clone().requires_grad_()
    sequences, bins = SEQUENCES.clone().requires_grad_(), torch.randn(3, 5, 4, requires_grad=True)
    return [
        ("correlation", (f1, f2, *geometry)),
        ("correlation_backward", (volume.requires_grad_(), f2, *geometry, False)),
        ("correlation_backward", (volume.requires_grad_(), f1, *geometry, True)),
        ("spatial_correlation", (f1, f2, *patch)),
        ("spatial_correlation_backward", (patches.requires_grad_(), f2, *patch, False)),
        ("correlation_lookup", (f1, f2, COORDS, 2)),
        ("correlation_lookup_backward_f1", (samples.requires_grad_(), f2, COORDS, 2)),
        ("correlation_lookup_backward_f2", (samples.requires_grad_(), f1, COORDS, 2, 6, 7)),
        ("window_gather", (x, STARTS, 3, 2)),
        ("window_gather_frames", (FRAMES, STARTS, 3, 1, [1.0, 2.0, 3.0], [4.0, 5.0, 6.0], torch.float16)),
        ("window_scatter", (windows, STARTS, 6, 1, 0)),
        ("window_scatter", (windows, STARTS, 6, 1, 3)),
        ("window_scatter_backward", (x, STARTS, 3, 1, 0)),
        ("align1d", (sequences, ROIS, 4, 0)),
        ("align1d_backward", (bins, ROIS, 2, 9, 0)),
        ("nms_1d", (SEGMENTS, SCORES, LABELS, 0.5, 0.0, None)),
        ("soft_nms_1d", (SEGMENTS, SCORES, None, 0, 0.5, 0.0, 0.0, 0.1, 10)),
    ]


def test_the_list_of_operators_is_complete():
    schemas = (schema.name for schema in torch._C._jit_get_all_schemas())
    registered = {name.removeprefix("vidseg::") for name in schemas if name.startswith("vidseg::")}
    registered.discard("video_noise")  # of a network, vidseg/models/diffact.py, where that was imported
    assert registered == {name for name, _ in raw_calls()}


@pytest.mark.parametrize("index", range(len(raw_calls())), ids=[name for name, _ in raw_calls()])
def test_opcheck(index):
    name, arguments = raw_calls()[index]
    torch.library.opcheck(getattr(torch.ops.vidseg, name).default, arguments)


@pytest.mark.parametrize("name", CALLS)
@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_compiled_without_a_graph_break(name):
    torch._dynamo.reset()
    compiled = torch.compile(CALLS[name], fullgraph=True, backend="aot_eager")
    expected, got = CALLS[name](), compiled()
    for a, b in zip(*((t if isinstance(t, tuple) else (t,)) for t in (expected, got)), strict=True):
        assert torch.equal(a, b)


def test_compiled_gradients_and_sizes_that_change():
    def loss(f1, f2, x, starts, rois):
        cost = ops.correlation(f1, f2, 2).square().mean()
        places = torch.arange(f1.shape[2], dtype=f1.dtype)[:, None].expand(1, 2, f1.shape[2], f1.shape[3]) + 0.5
        cost = cost + ops.correlation_lookup(f1, f2, places, 2).square().mean()
        windows = ops.window_gather(x, starts, 3)
        whole = ops.window_scatter(windows, starts, x.shape[1])
        return cost + whole.square().mean() + ops.align1d(x.transpose(1, 2), rois, 4).square().mean()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (6, 7, 9):
        leaves = [torch.randn(1, 3, size, 7), torch.randn(1, 3, size, 7), torch.randn(2, size, 5)]
        results = []
        for function in (loss, compiled):
            f1, f2, x = (leaf.clone().requires_grad_() for leaf in leaves)
            value = function(f1, f2, x, STARTS, ROIS)
            value.backward()
            results.append((value, f1.grad, f2.grad, x.grad))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


def test_shape_errors_while_tracing():
    with torch._subclasses.FakeTensorMode() as mode:
        image, sequence = mode.from_tensor(F1), mode.from_tensor(X)
        with pytest.raises(ValueError, match="too small"):
            ops.correlation(image, image, 5, pad_size=0)
        with pytest.raises(ValueError, match="must be frames"):
            torch.ops.vidseg.window_gather_frames(sequence, mode.from_tensor(STARTS), 3, 1, [], [], torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    half = F1.to(dtype)
    with torch.autocast("cpu", dtype):
        # Sums run in float32, also of mixed inputs; copies keep their dtype.
        assert ops.correlation(half, F2, 2).dtype == torch.float32
        assert ops.spatial_correlation(half, half, patch_size=3).dtype == torch.float32
        assert ops.correlation_lookup(half, F2, COORDS, 2).dtype == torch.float32
        assert ops.align1d(SEQUENCES.to(dtype), ROIS, 4).dtype == torch.float32
        assert ops.soft_nms_1d(SEGMENTS.to(dtype), SCORES)[1].dtype == torch.float32
        assert ops.nms_1d(SEGMENTS, SCORES.to(dtype), iou_threshold=0.5).dtype == torch.int64
        assert ops.window_gather(X.to(dtype), STARTS, 3).dtype == dtype
        assert ops.window_scatter(WINDOWS.to(dtype), STARTS, 6).dtype == dtype
        a, b = half.clone().requires_grad_(), F2.clone().requires_grad_()
        loss = ops.correlation(a, b, 2).sum()
    loss.backward()
    assert a.grad.dtype == dtype and b.grad.dtype == torch.float32


def everything(scale: int) -> list[Tensor]:
    """Values and gradients of all operators on inputs large enough for several threads."""
    torch.manual_seed(0)
    f1, f2 = (torch.randn(2, 40, 9 * scale, 35, requires_grad=True) for _ in range(2))
    x = torch.randn(3, 50 * scale, 70, requires_grad=True)
    starts = torch.randint(-5, 50 * scale, (3, 40))
    rois = torch.cat([torch.randint(0, 3, (200, 1)), torch.rand(200, 2) * 90 - 10], dim=1)
    cost, patches = ops.correlation(f1, f2, 4), ops.spatial_correlation(f1, f2, patch_size=3, kernel_size=3)
    samples = ops.correlation_lookup(f1, f2, torch.rand(2, 2, 9 * scale, 35) * 40 - 3, 4)
    windows = ops.window_gather(x, starts, 16)
    stitched = [ops.window_scatter(windows, starts, 50 * scale, reduce=how) for how in ("mean", "sum", "first", "last")]
    bins = ops.align1d(x.transpose(1, 2), rois, 12)
    (sum(t.square().sum() for t in (cost, patches, samples, *stitched, bins))).backward()
    frames = torch.randint(0, 256, (3, 50, 30, 40, 3), dtype=torch.uint8)
    clips = ops.window_gather(frames, starts, 8, mean=(110, 100, 96), std=(58, 56, 55))
    segments = torch.rand(900, 2).sort(dim=1).values
    chosen = ops.soft_nms_1d(segments, torch.rand(900), labels=torch.randint(0, 9, (900,)))
    tensors = [cost, patches, samples, windows, *stitched, bins, f1.grad, f2.grad, x.grad, clips, *chosen]
    return [tensor.detach() for tensor in tensors]


def test_results_do_not_depend_on_the_threads():
    results = []
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        results.append(everything(3))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


SUMS = "import test_ops_rules as t; print([float(x.double().abs().sum()) for x in t.everything(1)])"


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_narrower_instruction_sets(level):
    expected = [float(tensor.double().abs().sum()) for tensor in everything(1)]
    environment = {**os.environ, "VIDSEG_SIMD": level, "PYTHONPATH": str(HERE)}
    run = subprocess.run([sys.executable, "-c", SUMS], env=environment, capture_output=True, text=True, check=False)
    if "supported by this processor" in run.stderr:
        pytest.skip(f"this processor has no {level}")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == pytest.approx(expected, rel=1e-4)


def test_an_unknown_instruction_set():
    environment = {**os.environ, "VIDSEG_SIMD": "mmx", "PYTHONPATH": str(HERE)}
    run = subprocess.run([sys.executable, "-c", SUMS], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "VIDSEG_SIMD is mmx, must be baseline, avx2 or avx512 and supported by this processor" in run.stderr


def peak_growth(call) -> int:
    """Bytes by which the process's peak grows during the call; blocks above 32 MiB always come from the system."""

    def status(field: str) -> int:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = status("VmRSS:")
    result = call()
    growth = status("VmHWM:") - before
    del result
    return growth


MIB = 2**20
# Inputs of 64 MiB or more with strides that a kernel wanting contiguous memory would copy; outputs of a few MiB.
MEMORY = {
    "correlation": (
        lambda: (torch.ones(1, 512, 512, 64).permute(0, 3, 1, 2), torch.ones(1, 512, 512, 64).permute(0, 3, 1, 2)),
        lambda f1, f2: ops.correlation(f1, f2, 1),
        9,
    ),
    "spatial_correlation": (
        lambda: (torch.ones(1, 64, 512, 512), torch.ones(1, 64, 512, 512)),
        lambda f1, f2: ops.spatial_correlation(f1, f2, patch_size=3),
        9,
    ),
    "correlation_lookup": (  # of images in torch.channels_last, as RAFT has them
        lambda: (
            *(torch.ones(1, 512, 512, 64).permute(0, 3, 1, 2) for _ in range(2)),
            torch.rand(1, 2, 512, 512) * 600 - 50,
        ),
        lambda f1, f2, coords: ops.correlation_lookup(f1, f2, coords, 1),
        9,
    ),
    "window_gather": (
        lambda: (torch.ones(64, 1024, 256).permute(2, 1, 0), torch.zeros(256, 1, dtype=torch.int64)),
        lambda x, starts: ops.window_gather(x, starts, 8),
        1,
    ),
    "window_gather of frames": (
        lambda: (torch.ones(3, 512, 512, 128, dtype=torch.uint8).permute(3, 1, 2, 0)[None], torch.tensor([[5]])),
        lambda x, starts: ops.window_gather(x, starts, 2, mean=(1, 2, 3)),
        6,
    ),
    "window_scatter": (
        lambda: (torch.ones(64, 8, 128, 256).permute(3, 2, 1, 0), torch.zeros(256, 128, dtype=torch.int64)),
        lambda w, starts: ops.window_scatter(w, starts, 8),
        1,
    ),
    "align1d": (
        lambda: (torch.ones(4096, 64, 64).permute(2, 1, 0), torch.tensor([[3, 100.0, 1000.0]])),
        lambda x, rois: ops.align1d(x, rois, 16),
        1,
    ),
}


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be measured here")
@pytest.mark.parametrize("name", MEMORY)
def test_no_copy_of_an_input(name):
    make, call, output = MEMORY[name]
    arguments = make()
    largest = max(argument.numel() * argument.element_size() for argument in arguments)
    assert largest >= 64 * MIB
    call(*arguments)  # the first call may load code and start threads
    assert peak_growth(lambda: call(*arguments)) < (output + 12) * MIB


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be measured here")
def test_the_gradient_of_a_correlation_needs_no_more_than_its_result():
    f1, f2 = (torch.ones(1, 64, 512, 512) for _ in range(2))
    grad = torch.ones(1, 9, 512, 512)
    growth = peak_growth(lambda: torch.ops.vidseg.correlation_backward(grad, f2, 1, 1, 1, 1, 1, False))
    assert growth < f1.numel() * 4 + 12 * MIB
