"""MTNet against the published networks: names, sizes, values; cosine pooling; limits."""

import functools
import itertools
import json

import pytest
import torch
from golden_vectors import FOLDER, made_input, made_weight, read_vector, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vidseg.models import create_model, list_models
from vidseg.models._identify import identify
from vidseg.models.mtnet import MtConv, cosine_pool, frames_kept

# Published sizes with 400 classes: parameters, entries of the state dict.
SIZES = {
    "mtnet_xs": (21_835_664, 588),
    "mtnet_s": (39_981_968, 860),
    "mtnet_m": (44_038_288, 1132),
    "mtnet_l": (88_132_752, 2288),
    "mtnet_xl": (124_450_960, 3444),
    "mtnet_xxl": (134_846_608, 4532),
    "mtnet_xs_g8": (7_433_500, 492),
    "mtnet_s_g8": (12_204_988, 716),
    "mtnet_m_g8": (13_274_842, 940),
    "mtnet_l_g8": (24_883_258, 1892),
}


@functools.cache
def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes=400)


@pytest.mark.parametrize("name", SIZES)
def test_published_size(name):
    model = on_meta(name)
    assert (sum(value.numel() for value in model.parameters()), len(model.state_dict())) == SIZES[name]


@pytest.mark.parametrize("name", list_models("mtnet_*"))
def test_every_network_is_identified_by_its_keys(name):
    """The published look-up gave S for the name of XS, and L for XL."""
    assert identify({key: tuple(value.shape) for key, value in on_meta(name).state_dict().items()}) == ((name,), 1.0)


@pytest.mark.parametrize("name", ["mtnet_xs", "mtnet_s"])
def test_published_values(name):
    spec, expected = read_vector(name)
    model = create_model(name, num_classes=200).eval()
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == [
        [key, shape] for key, shape, _ in spec["state"]
    ]
    model.load_state_dict({key: made_weight(key, shape, dtype) for key, shape, dtype in spec["state"]})
    ((_, shape, kind, seed),) = spec["inputs"]
    clips = made_input(shape, kind, seed)
    with torch.no_grad():
        outputs = [model.stem(clips)]
        outputs.append(model.pool(outputs[0]))
        pair = model.split(outputs[1])
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            pair = stage(pair)
            outputs += pair
        outputs.append(torch.cat([maps.mean(dim=(2, 3, 4)) for maps in pair], dim=1))
        outputs.append(model(clips))
    assert [list(output.shape) for output in outputs] == [shape for _, shape, _ in spec["outputs"]]
    errors = [relative_error(output, value) for output, value in zip(outputs, expected, strict=True)]
    assert max(errors) < 1e-5, errors


def pool_cases() -> list[dict]:
    return json.loads((FOLDER / "srtg_gate.json").read_text())["cosine_pool"]


@pytest.mark.parametrize("case", pool_cases(), ids=lambda case: str(case["input"]["shape"]))
def test_published_choice_of_frames(case):
    x = made_input(case["input"]["shape"], "normal", case["input"]["seed"]) + 0.5
    assert frames_kept(x).tolist() == case["frames_kept"]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(2, 5), st.integers(3, 12), st.integers(0, 1000))
def test_frames_kept_by_definition(batch, channels, frames, seed):
    x = torch.randn(batch, channels, frames, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    kept = frames_kept(x)
    for clip, numbers in zip(x, kept.tolist(), strict=True):
        means = clip.mean(dim=(2, 3)).T
        likeness = [float((a @ b) / a.norm() / b.norm()) ** 2 for a, b in itertools.pairwise(means)]
        order = sorted(range(1, frames - 1), key=lambda t: -(likeness[t - 1] + likeness[t]))
        assert numbers == sorted(order[: frames // 2])
    assert torch.equal(cosine_pool(x)[0, 0], x[0, 0, kept[0]])


def test_cosine_pool_keeps_still_frames_and_passes_gradients():
    x = torch.randn(1, 4, 8, 2, 2)
    x[:, :, 2:7] = x[:, :, 2:3]  # five equal frames: 3, 4 and 5 have two equal neighbors
    x.requires_grad_()
    assert {3, 4, 5} <= set(frames_kept(x)[0].tolist()) <= {2, 3, 4, 5, 6}
    pooled = cosine_pool(x)
    assert pooled.shape == (1, 4, 4, 2, 2)
    pooled.sum().backward()
    assert x.grad.sum(dim=(0, 1, 3, 4)).tolist() == [16.0 if t in frames_kept(x)[0].tolist() else 0.0 for t in range(8)]


def test_half_precision_chooses_by_float32():
    x = torch.randn(2, 16, 12, 4, 4).to(torch.bfloat16)
    assert torch.equal(frames_kept(x), frames_kept(x.mean(dim=(3, 4), keepdim=True).float()))
    assert cosine_pool(x).dtype == torch.bfloat16


# The network


@pytest.mark.parametrize(
    "name, width, shape",
    [
        ("mtnet_xs", 0.125, (1, 3, 16, 70, 49)),
        ("mtnet_xs", 0.125, (2, 3, 3, 33, 33)),
        ("mtnet_s", 0.25, (2, 3, 8, 64, 64)),
        ("mtnet_xs_g8", 1.0, (2, 3, 5, 33, 90)),
    ],
)
def test_every_weight_learns_at_every_size(name, width, shape):
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, width=width)
    logits = model(torch.randn(shape))
    assert logits.shape == (shape[0], 3)
    logits.square().sum().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []
    assert all(value.grad.isfinite().all() for value in model.parameters())


def test_no_weight_is_idle():
    torch.manual_seed(0)
    model = create_model("mtnet_xs", num_classes=3, width=0.25)
    model(torch.randn(1, 3, 64, 64, 64)).square().sum().backward()
    assert [key for key, value in model.named_parameters() if not value.grad.any()] == []


@pytest.mark.parametrize("shape", [(1, 3, 2, 64, 64), (1, 3, 16, 32, 64), (1, 3, 16, 64, 32)])
def test_clips_that_are_too_small_are_refused(shape):
    with pytest.raises(ValueError, match="at least 3 frames of 33x33"):
        create_model("mtnet_xs", num_classes=3, width=0.125)(torch.zeros(shape))


def test_shapes_of_streams():
    model = create_model("mtnet_xs", num_classes=3, width=0.125).eval()
    with torch.no_grad():
        assert model.pool(model.stem(torch.zeros(1, 3, 4, 66, 64))).shape == (1, 8, 4, 17, 17)
        pair = model.split(torch.randn(1, 8, 16, 16, 16))
        shapes = [[list(maps.shape[1:]) for maps in pair]]
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            pair = stage(pair)
            shapes.append([list(maps.shape[1:]) for maps in pair])
    assert shapes == [
        [[7, 8, 16, 16], [1, 4, 8, 8]],
        [[7, 8, 16, 16], [1, 4, 8, 8]],
        [[14, 4, 8, 8], [2, 2, 4, 4]],
        [[28, 2, 4, 4], [4, 1, 2, 2]],
        [[56, 1, 2, 2], [8, 1, 1, 1]],
    ]


def test_the_long_norm_sees_both_inputs():
    """In training it takes statistics of the long stream's own result first, then of what is sent into it."""
    torch.manual_seed(0)
    conv = MtConv(16, 16)
    short, long = torch.randn(2, 14, 4, 4, 4), torch.randn(2, 2, 2, 2, 2)
    own = conv.conv_long(long)
    sent = conv.conv_short2long(cosine_pool(nn.functional.avg_pool3d(conv.conv_short(short), (1, 2, 2))))
    conv((short, long))
    mean = 0.9 * 0.1 * own.mean(dim=(0, 2, 3, 4)) + 0.1 * sent.mean(dim=(0, 2, 3, 4))
    assert torch.allclose(conv.norm_long.running_mean, mean, atol=1e-6)
    assert (int(conv.norm_long.num_batches_tracked), int(conv.norm_short.num_batches_tracked)) == (2, 1)


def test_sub_streams_are_grouped():
    conv = MtConv(64, 8, kernel=3, padding=1, groups=8)
    assert conv.conv_short.weight.shape == (7, 8, 3, 3, 3) and conv.conv_short.groups == 7
    assert conv.conv_long.weight.shape == (1, 8, 3, 3, 3) and conv.conv_long.groups == 1
    assert isinstance(conv.norm_short, nn.GroupNorm) and conv.norm_short.num_groups == 7
    assert isinstance(MtConv(64, 8).norm_short, nn.BatchNorm3d)


def test_names():
    sizes = ["l", "m", "s", "xl", "xs", "xxl"]
    assert sorted(list_models("mtnet_*")) == sorted(f"mtnet_{size}{tail}" for size in sizes for tail in ("", "_g8"))
    assert set(list_models("mtnet_*")) <= set(list_models(task="recognition"))
    with pytest.raises(ValueError, match="width=0"):
        create_model("mtnet_xs", num_classes=2, width=0.0)
