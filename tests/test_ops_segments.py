"""align1d, nms_1d and soft_nms_1d against loops in plain PyTorch and published vectors."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidseg import ops
from vidseg.ops import segments

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(autouse=True)
def one_thread():
    """The loops of tiny operations here are slow when threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def align1d(x: Tensor, rois: Tensor, output_size: int, sampling_ratio: int = 0) -> Tensor:
    """Sample by sample, differentiable in x."""
    total = x.shape[2]
    out = x.new_zeros(len(rois), x.shape[1], output_size) + 0 * x.sum()
    for r, (b, start, end) in enumerate(rois.tolist()):
        size = max(end - start, 1.0) / output_size
        samples = sampling_ratio or math.ceil(size)
        for p in range(output_size):
            for k in range(samples):
                t = start + p * size + (k + 0.5) * size / samples
                if total and -1 <= t <= total:
                    t = min(max(t, 0.0), total - 1.0)
                    low = int(t)
                    high = min(low + 1, total - 1)
                    value = x[int(b), :, low] * (1 - (t - low)) + x[int(b), :, high] * (t - low)
                    out[r, :, p] = out[r, :, p] + value / samples
    return out


def published_rois(u: Tensor, batch: int, total: int) -> Tensor:
    start = u[:, 1] * 1.5 * total - 0.25 * total
    return torch.stack([(u[:, 0] * batch).floor(), start, start + u[:, 2] * total - 0.1 * total], dim=1)


@pytest.mark.parametrize("name, sampling_ratio", [("align1d_adaptive", 0), ("align1d_ratio2", 2)])
def test_align1d_published_vectors(name, sampling_ratio):
    spec = json.loads((GOLDEN / f"{name}.json").read_text())
    draw = {"normal": "standard_normal", "uniform": "uniform"}
    inputs = {
        key: torch.from_numpy(getattr(np.random.RandomState(seed), draw[kind])(size=shape).astype(np.float32))
        for key, shape, kind, seed in spec["inputs"]
    }
    x, g = inputs["x"].requires_grad_(), inputs["g"]
    rois = published_rois(inputs["u"], x.shape[0], x.shape[2])
    out = ops.align1d(x, rois, g.shape[2], sampling_ratio=sampling_ratio)
    (out * g).sum().backward()
    with np.load(GOLDEN / f"{name}.npz") as expected:
        for index, got in enumerate((rois, out.detach(), x.grad)):
            flat = got.flatten().numpy()
            every = max(1, math.ceil(flat.size / 4096))
            np.testing.assert_allclose(flat[::every], expected[f"o{index}"], rtol=0, atol=1e-5)


@settings(max_examples=80, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 35),
    total=st.integers(1, 30),
    count=st.integers(0, 9),
    output_size=st.integers(1, 7),
    sampling_ratio=st.integers(0, 3),
    reach=st.sampled_from([0.5, 3.0, 40.0]),
    transposed=st.booleans(),
    seed=st.integers(0, 999),
)
def test_align1d(batch, channels, total, count, output_size, sampling_ratio, reach, transposed, seed):
    torch.manual_seed(seed)
    x = torch.randn(batch, channels, total, dtype=torch.float64)
    start = torch.rand(count, dtype=torch.float64) * 2 * total - total / 2
    end = start + (torch.rand(count, dtype=torch.float64) * 1.5 - 0.5) * reach
    rois = torch.stack([torch.randint(0, batch, (count,)).double(), start, end], dim=1)
    if transposed:
        x, rois = x.transpose(0, 2).contiguous().transpose(0, 2), rois.t().contiguous().t()
    x, same = x.requires_grad_(), x.detach().clone().requires_grad_()
    out, want = (
        ops.align1d(x, rois, output_size, sampling_ratio=sampling_ratio),
        align1d(same, rois, output_size, sampling_ratio),
    )
    torch.testing.assert_close(out, want)
    grad = torch.randn(output_size, channels, count, dtype=torch.float64).permute(2, 1, 0)
    out.backward(grad)
    want.backward(grad)
    torch.testing.assert_close(x.grad, same.grad)


@pytest.mark.parametrize("roi_dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_align1d_dtypes(dtype, roi_dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 20, 16).to(dtype).requires_grad_()
    rois = torch.tensor([[0, -2, 5], [1, 3.5, 12.25], [1, 8, 30], [0, 6, 2]]).to(roi_dtype)  # exact in all of them
    out = ops.align1d(x, rois, 4)
    same = x.detach().double().requires_grad_()
    want = align1d(same, rois.double(), 4)
    grad = torch.randn_like(out)
    out.backward(grad)
    want.backward(grad.double())
    assert out.dtype == dtype and x.grad.dtype == dtype
    # Positions are computed in float32 unless the rois are float64.
    tolerance = 4 * max(TOLERANCE[dtype], 0 if roi_dtype == torch.float64 else TOLERANCE[torch.float32])
    for got, expected in ((out, want), (x.grad, same.grad)):
        assert float((got.detach().double() - expected.detach()).abs().max()) < tolerance


def test_align1d_gradients_of_first_and_second_order():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1.3, 5.1], [1, -3.0, 2.2], [1, 4.0, 3.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ops.align1d(x, rois, 3), x)
    assert torch.autograd.gradgradcheck(lambda x: ops.align1d(x, rois, 3, sampling_ratio=2), x)


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 3, 0)], ids=str)
def test_align1d_of_nothing(shape):
    x = torch.ones(shape, requires_grad=True)
    rois = torch.zeros(2 if shape[0] else 0, 3)
    out = ops.align1d(x, rois, 4)
    assert out.shape == (len(rois), shape[1], 4) and not out.any()
    out.sum().backward()
    assert x.grad.shape == shape


def test_align1d_far_away():
    rois = torch.tensor([[0, 1e30, 1e30], [0, -1e30, -1e30], [0, -1e8, 1e8]])
    out = ops.align1d(torch.ones(1, 1, 10), rois, 3)
    assert not out[:2].any() and out[2, 0, 1] > 0


def overlap(a: Tensor, b: Tensor) -> float:
    shared = max(0.0, float(min(a[1], b[1]) - max(a[0], b[0])))
    joint = sum(max(0.0, float(s[1] - s[0])) for s in (a, b)) - shared
    return shared / joint if shared else 0.0


def suppress(segments, scores, *, decay, threshold, slope=0.0, min_score=0.0, most=None, labels=None):
    """Rows and scores, one choice and one pair at a time."""
    left = dict(enumerate(scores.tolist()))
    chosen = []
    while True:
        left = {row: score for row, score in left.items() if score is not None and score >= min_score}
        if not left or len(chosen) == most:
            return [row for row, _ in chosen], [score for _, score in chosen]
        row = max(left, key=lambda r: (left[r], -r))
        chosen.append((row, left.pop(row)))
        limit = threshold + slope * max(0.0, float(segments[row, 1] - segments[row, 0]))
        for other in left:
            iou = overlap(segments[row], segments[other])
            if iou > 0 and iou >= limit and (labels is None or labels[row] == labels[other]):
                left[other] = decay(left[other], iou)


def random_segments(count: int, seed: int, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    start = torch.rand(count, dtype=torch.float64)
    end = start + torch.rand(count, dtype=torch.float64) * 0.6 - 0.05  # some reversed
    return torch.stack([start, end], dim=1).to(dtype), torch.rand(count, dtype=torch.float64).to(dtype)


RULES = {
    "count": st.integers(0, 150),
    "threshold": st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    "min_score": st.sampled_from([0.0, 0.25]),
    "most": st.sampled_from([None, 1, 20]),
    "classes": st.sampled_from([0, 1, 3]),
    "seed": st.integers(0, 9999),
}


@settings(max_examples=60, deadline=None)
@given(
    **RULES,
    slope=st.sampled_from([0.0, 0.4]),
    sigma=st.sampled_from([0.1, 0.5]),
    method=st.sampled_from(["gaussian", "linear"]),
)
def test_soft_nms(count, threshold, min_score, most, classes, seed, slope, sigma, method):
    segments, scores = random_segments(count, seed)
    labels = torch.randint(0, classes, (count,)) if classes else None
    decay = (
        (lambda s, iou: s * math.exp(-iou * iou / sigma)) if method == "gaussian" else (lambda s, iou: s * (1 - iou))
    )
    rows, values = ops.soft_nms_1d(
        segments.t().contiguous().t(),
        scores,
        method=method,
        sigma=sigma,
        iou_threshold=threshold,
        threshold_slope=slope,
        labels=labels,
        min_score=min_score,
        max_segments=most,
    )
    want_rows, want_values = suppress(
        segments, scores, decay=decay, threshold=threshold, slope=slope, min_score=min_score, most=most, labels=labels
    )
    assert rows.tolist() == want_rows
    torch.testing.assert_close(values, torch.tensor(want_values, dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(**RULES)
def test_nms(count, threshold, min_score, most, classes, seed):
    segments, scores = random_segments(count, seed)
    scores = (scores * 8).round() / 8  # ties, also with min_score
    labels = torch.randint(0, classes, (count,)) if classes else None
    rows = ops.nms_1d(segments, scores, iou_threshold=threshold, labels=labels, min_score=min_score, max_segments=most)
    above = scores if min_score == 0.0 else torch.where(scores > min_score, scores, -1.0)
    want, _ = suppress(segments, above, decay=lambda s, iou: None, threshold=threshold, most=most, labels=labels)
    assert rows.tolist() == want


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("score_dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_scores_that_equal_min_score(dtype, score_dtype, device):
    """OpenTAD's hard suppression keeps scores above min_score, or all for 0; its decays drop scores below it."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    segments = torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7]], dtype=dtype, device=device)
    scores = torch.tensor([0.5, 0.25, 0.0, 0.2578125], dtype=score_dtype, device=device)  # exact in all dtypes
    assert ops.nms_1d(segments, scores, iou_threshold=0.5, min_score=0.25).tolist() == [0, 3]
    assert ops.nms_1d(segments, scores, iou_threshold=0.5, min_score=0.2499).tolist() == [0, 3, 1]
    assert ops.nms_1d(segments, scores, iou_threshold=0.5).tolist() == [0, 3, 1, 2]
    assert ops.soft_nms_1d(segments, scores, min_score=0.25)[0].tolist() == [0, 3, 1]
    assert ops.soft_nms_1d(segments, scores, min_score=0.2501)[0].tolist() == [0, 3]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_nms_dtypes(dtype):
    segments, scores = random_segments(500, 1, dtype)
    rows, values = ops.soft_nms_1d(segments, scores, sigma=0.4, max_segments=50)
    want_rows, want_values = ops.soft_nms_1d(segments.double(), scores.double(), sigma=0.4, max_segments=50)
    assert values.dtype == dtype
    torch.testing.assert_close(values.double(), want_values, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert set(rows.tolist()) == set(want_rows.tolist())
    kept = ops.nms_1d(segments, scores, iou_threshold=0.4)
    assert torch.equal(kept, ops.nms_1d(segments.double(), scores.double(), iou_threshold=0.4))


def test_nms_of_nothing():
    rows, values = ops.soft_nms_1d(torch.zeros(0, 2), torch.zeros(0))
    assert rows.shape == values.shape == (0,) and rows.dtype == torch.int64
    assert ops.nms_1d(torch.zeros(0, 2), torch.zeros(0), iou_threshold=0.5, labels=rows).shape == (0,)


def test_equal_segments_and_points():
    segments = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]])
    scores = torch.tensor([0.5, 0.5, 0.5, 0.5])
    assert ops.nms_1d(segments, scores, iou_threshold=1.0).tolist() == [0, 2, 3]  # points overlap nothing
    rows, values = ops.soft_nms_1d(segments, scores, method="linear")
    assert rows.tolist() == [0, 2, 3, 1] and values.tolist() == [0.5, 0.5, 0.5, 0.0]


def test_a_very_narrow_decay():
    segments = torch.tensor([[0.0, 1.0], [0.0, 0.9], [5.0, 6.0]])
    rows, values = ops.soft_nms_1d(segments, torch.tensor([0.9, 0.8, 0.7]), sigma=1e-300, min_score=0.1)
    assert rows.tolist() == [0, 2] and values.tolist() == pytest.approx([0.9, 0.7])


def test_suppression_has_no_gradient():
    segments, scores = random_segments(10, 0)
    rows, values = ops.soft_nms_1d(segments.requires_grad_(), scores.requires_grad_())
    assert not values.requires_grad and not rows.requires_grad


def test_suppression_of_gpu_tensors_runs_on_the_host():
    boxes, scores, labels = torch.rand(40, 2).sort(dim=1).values, torch.rand(40), torch.randint(0, 3, (40,))
    for name, options in (("nms_1d", (0.4, 0.0, None)), ("soft_nms_1d", (0, 0.5, 0.0, 0.0, 0.1, 10))):
        operator = getattr(torch.ops.vidseg, name).default
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"vidseg::{name}", "CUDA")
        assert torch.Tag.cudagraph_unsafe in operator.tags
        got, expected = (
            segments._suppress_on_host(name, boxes, scores, labels, *options),
            operator(boxes, scores, labels, *options),
        )
        for a, b in zip(*((t if isinstance(t, tuple) else (t,)) for t in (got, expected)), strict=True):
            assert torch.equal(a, b)
        with pytest.raises(ValueError, match=f"{name}: scores is on meta, must be on the device of segments, cpu"):
            segments._suppress_on_host(name, boxes, scores.to("meta"), labels, *options)
    assert torch.Tag.cudagraph_unsafe not in torch.ops.vidseg.align1d.default.tags


PUBLISHED = json.loads((GOLDEN / "detection_softnms.json").read_text())["cases"]


@pytest.mark.parametrize("case", PUBLISHED, ids=[f"{i}-{case['method']}" for i, case in enumerate(PUBLISHED)])
def test_published_suppression(case):
    params, family = case["params"], case["method"].split("_")[0]
    values = torch.tensor(case["proposals"], dtype=torch.float32 if family == "opentad" else torch.float64)
    segments, scores = values[:, :2], values[:, 2].clone()
    labels = torch.tensor(case["labels"]) if params.get("multiclass") else None
    limits = {"labels": labels, "min_score": params.get("min_score", 0.0)}
    limits["max_segments"] = params.get("max_num", params.get("max_seg_num", 100))
    if family == "etad":
        rows, kept = ops.soft_nms_1d(
            segments, scores, sigma=params["sigma"], iou_threshold=params["iou_threshold"], **limits
        )
    elif family == "bmn":
        slope = params["t2"] - params["t1"]
        rows, kept = ops.soft_nms_1d(
            segments, scores, sigma=params["alpha"], iou_threshold=params["t1"], threshold_slope=slope, **limits
        )
    elif family == "gtad":
        short = (segments[:, 1] - segments[:, 0] < 300).nonzero().flatten()
        rows, kept = ops.soft_nms_1d(segments[short], scores[short], sigma=params["sigma"], **limits)
        rows = short[rows]
    elif not params.get("use_soft_nms", True) or params["method"] == 0:
        rows = ops.nms_1d(segments, scores, iou_threshold=params["iou_threshold"], **limits)
        kept = scores[rows]
    else:
        method = "linear" if params["method"] == 1 else "gaussian"
        threshold, slope = params.get("t1", params.get("iou_threshold", 0.0)), params.get("t2", 0.0)
        rows, kept = ops.soft_nms_1d(
            segments,
            scores,
            method=method,
            sigma=params.get("sigma", 0.5),
            iou_threshold=threshold,
            threshold_slope=slope,
            **limits,
        )
    expected = torch.tensor(case["expected"], dtype=torch.float64)
    # The float64 families stop while one candidate is left; here the last one comes out too.
    if family != "opentad" and len(rows) == len(segments):
        rows, kept = rows[:-1], kept[:-1]
    assert len(rows) == len(expected)
    torch.testing.assert_close(kept.double(), expected[:, 2], rtol=0, atol=1e-5)
    if "voting_thresh" in params:  # voting moves the kept segments afterwards; it is not part of the operator
        weights = torch.tensor([[overlap(a, b) for b in segments] for a in segments[rows]], dtype=torch.float64)
        weights = (weights >= params["voting_thresh"]) * scores.double()
        moved = weights @ segments.double() / weights.sum(1, keepdim=True)
        torch.testing.assert_close(moved, expected[:, :2], rtol=0, atol=1e-4)
    else:
        torch.testing.assert_close(segments[rows].double(), expected[:, :2], rtol=0, atol=1e-5)
    if "expected_labels" in case:
        assert [case["labels"][row] for row in rows.tolist()] == case["expected_labels"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_cuda_equals_cpu(dtype):
    torch.manual_seed(0)
    x = torch.randn(3, 37, 50).to(dtype)
    rois = published_rois(torch.rand(90, 3), 3, 50)
    segments, scores = random_segments(700, 1, dtype)
    labels = torch.randint(0, 3, (700,))
    results = []
    for device in ("cpu", "cuda"):
        a = x.to(device).transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
        out = ops.align1d(a, rois.to(device), 9)
        out.float().square().sum().backward()
        boxes = (segments.to(device), scores.to(device))
        soft, values = ops.soft_nms_1d(*boxes, labels=labels.to(device), max_segments=100)
        linear, _ = ops.soft_nms_1d(*boxes, method="linear", iou_threshold=0.3, min_score=0.1)
        results.append((out, a.grad, values, soft, linear, ops.nms_1d(*boxes, iou_threshold=0.4)))
    for cpu, cuda in zip(*results, strict=True):
        exact = cpu.dtype == torch.int64
        torch.testing.assert_close(cuda.cpu(), cpu, atol=0 if exact else 4 * TOLERANCE[dtype], rtol=0)
