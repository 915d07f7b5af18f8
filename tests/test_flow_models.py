"""Optical-flow networks against the published ones; sizes, batches, windows, training, precision; classical flow."""

import json
import re
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_vectors import made_input, made_weight, read_vector, relative_error

from vidseg.cli.main import main
from vidseg.models import create_model, list_models, load_weights, model_input_spec, named_for, window_flow
from vidseg.models._counts import COUNTS, cost_of
from vidseg.models._flow import FlowOutput, flow_to_size, pad_pictures, sample, warp
from vidseg.models._identify import identify
from vidseg.models._profile import count_cost
from vidseg.models._published import find_published, networks_of
from vidseg.models.raft import NETWORKS, all_pairs, look_up, own_key
from vidseg.videos.classical_flow import dis_flow, tvl1_flow

# Networks with few iterations.
SMALL = {
    "raft_basic": {"iterations": 2},
    "raft_small": {"iterations": 3},
    "liteflownet3": {},
    "fastflownet": {},
}
GOLDEN = {
    "raft_basic": {"iterations": 4},
    "raft_small": {"iterations": 3},
    "liteflownet3": {},
    "fastflownet": {"variant": "svtas"},
}


def small(name: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(name, **(SMALL[name] | options)).eval()


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures from 0 to 1, (..., 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(*shape[:-2], shape[-2] // 6 + 2, shape[-1] // 6 + 2, generator=generator)
    flat = F.interpolate(coarse.flatten(0, -4), size=shape[-2:], mode="bilinear")
    return flat.unflatten(0, shape[:-3])


def published_state(name: str) -> dict[str, torch.Tensor]:
    return {key: made_weight(key, shape, dtype) for key, shape, dtype in read_vector(name)[0]["state"]}


def test_the_networks_are_registered():
    assert list_models(task="flow") == sorted(SMALL)
    for name in SMALL:
        spec = model_input_spec(name)
        assert (spec.modality, spec.color, spec.mean, spec.std) == ("rgb", "rgb", (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("name", GOLDEN)
def test_published_values(name):
    spec, expected = read_vector(name)
    model = create_model(name, **GOLDEN[name]).eval()
    state = published_state(name)
    assert load_weights(model, {f"module.{key}": value for key, value in state.items()}).filled == 1
    assert set(model.state_dict()) == set(named_for(model, state))
    assert sum(value.numel() for value in model.parameters()) == spec["params"]
    first, second = (made_input(*row[1:]) for row in spec["inputs"])
    with torch.no_grad():
        if name.startswith("raft"):
            found = [model.refine(2 * first - 1, 2 * second - 1)[0][-1], model(first, second).flow]
        else:
            found = [model.raw_flows(first, second)[-1]]
        if name == "liteflownet3":  # the vector's network reads the channels as they are, ours RGB as BGR
            found.append(model(first.flip(1), second.flip(1)).flow)
    assert [list(value.shape) for value in found] == [row[1] for row in spec["outputs"]]
    assert max(relative_error(*pair) for pair in zip(found, expected, strict=True)) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_correlations_on_demand_give_the_same_flow_and_gradients(name):
    pair, gradients, flows = (pictures(1, 3, 61, 90), pictures(1, 3, 61, 90, seed=1)), [], []
    for way in ("all_pairs", "on_demand"):
        model = small(name, correlation=way)
        flows.append(model(*pair).flow)
        flows[-1].square().mean().backward()
        gradients.append(model.fnet.conv2.weight.grad)
    assert torch.allclose(*flows, atol=1e-4 * float(flows[0].abs().max()))
    assert torch.allclose(*gradients, atol=1e-3 * float(gradients[0].abs().max())) and gradients[0].abs().max() > 0


# Published files


@pytest.mark.parametrize("name", GOLDEN)
def test_published_files_are_identified(name, tmp_path):
    state = published_state(name)
    assert identify({key: tuple(value.shape) for key, value in state.items()}) == ((name,), 1.0)
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "weights.pth")
    assert networks_of(tmp_path / "weights.pth") == [name]
    assert load_weights(small(name), tmp_path / "weights.pth").input_spec == model_input_spec(name)
    other = "raft_small" if name == "raft_basic" else "raft_basic"
    with pytest.raises(ValueError, match=f"those of {name}, the model is {other}"):
        load_weights(small(other), state)


def torchvision_key(key: str) -> str:
    """The key of torchvision for a key of princeton-vl/RAFT."""
    for ours, theirs in (
        (r"^fnet\.", "feature_encoder."),
        (r"^cnet\.", "context_encoder."),
        (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
        (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
        (r"^update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
        (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
        (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
        (r"^update_block\.gru\.(conv.)(\d)\.", r"update_block.recurrent_block.convgru\2.\1."),
        (r"^update_block\.gru\.(conv.)\.", r"update_block.recurrent_block.convgru1.\1."),
        (r"^(\w+_encoder)\.conv1\.", r"\1.convnormrelu.0."),
        (r"^(\w+_encoder)\.norm1\.", r"\1.convnormrelu.1."),
        (r"^(\w+_encoder)\.conv2\.", r"\1.conv."),
        (r"(layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
        (r"(layer\d\.\d)\.norm(\d)\.", r"\1.convnormrelu\2.1."),
    ):
        key = re.sub(ours, theirs, key)
    return key


@pytest.mark.parametrize("name", NETWORKS)
def test_files_of_torchvision_are_read(name):
    model = small(name)
    state = {torchvision_key(key): value + 1 for key, value in model.state_dict().items()}
    assert len(state) == len(model.state_dict()) and not any(key.startswith(("fnet", "cnet")) for key in state)
    assert {own_key(key, small=name == "raft_small") for key in state} == set(model.state_dict())
    assert identify({key: tuple(value.shape) for key, value in state.items()}) == ((name,), 1.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert load_weights(model, state).filled == 1
    assert all(torch.equal(value, before[key] + 1) for key, value in model.state_dict().items())


def test_published_weights_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDSEG_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"raft_large_C_T_V1-22a6c225\.pth is not on this machine"):
        find_published("things", "raft_basic")
    assert networks_of("ft_mix") == ["fastflownet"] and networks_of("kitti") == ["raft_basic"]


# The registry


def test_networks_without_classes():
    with pytest.raises(ValueError, match="num_classes=5: raft_small is a network for flow and has no classes"):
        create_model("raft_small", num_classes=5)
    with pytest.raises(TypeError, match="r3d_18 needs num_classes"):
        create_model("r3d_18")
    with pytest.raises(TypeError, match="no option 'width'; its options are iterations, padding, correlation"):
        create_model("raft_small", width=2)


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("raft_small", {"iterations": 0}, "iterations=0 must be at least 1"),
        ("raft_basic", {"padding": "top"}, "padding='top' must be 'sintel' or 'kitti'"),
        ("raft_small", {"correlation": "some"}, "correlation='some' must be 'all_pairs' or 'on_demand'"),
        ("fastflownet", {"variant": "v3"}, "variant='v3' must be 'authors' or 'svtas'"),
    ],
)
def test_wrong_options_are_refused(name, options, said):
    with pytest.raises(ValueError, match=said):
        create_model(name, **options)


def test_costs_do_not_depend_on_the_number_of_classes(capsys):
    assert {*SMALL} <= COUNTS.keys()
    assert cost_of("fastflownet", num_classes=3) == COUNTS["fastflownet"]
    assert COUNTS["fastflownet"] == (
        1366114,
        round(count_cost("fastflownet", (1, 3, 256, 256), num_classes=2).macs / 1e6),
    )
    assert main(["models", "--task", "flow", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == sorted(SMALL)
    arguments = ["fastflownet", "--size", "64", "--rounds", "1", "--device", "cpu", "--json"]
    assert main(["profile", *arguments]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["input"] == [1, 3, 64, 64] and row["backward_ms"] > 0


def test_correlations_are_counted():
    """On the coarsest level, 81 dot products of 64 channels for each of 4 positions."""
    with torch.device("meta"):
        parts = create_model("fastflownet")
    convolutions = 0

    def count(module, inputs, output):
        nonlocal convolutions
        weight = module.weight[0] if isinstance(module, torch.nn.Conv2d) else module.weight[:, :1]
        places = output if isinstance(module, torch.nn.Conv2d) else inputs[0]
        factor = places.numel() if isinstance(module, torch.nn.Conv2d) else places[:, :1].numel() * module.out_channels
        convolutions += weight.numel() * factor

    for module in parts.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.register_forward_hook(count)
    x = torch.empty(1, 3, 64, 128, device="meta")
    parts.eval()(x, x)
    products = sum(
        81 * channels * (64 >> level) * (128 >> level)
        for level, channels in ((2, 32), (3, 64), (4, 64), (5, 64), (6, 64))
    )
    assert count_cost("fastflownet", (1, 3, 64, 128), num_classes=1).macs == convolutions + products


def test_fresh_liteflownet3_starts_with_means_and_bilinear_upsampling():
    model = create_model("liteflownet3")
    flow = torch.full((1, 2, 6, 8), 3.0)
    up = model.netMatching[0].netUpflow(flow)
    assert up.shape == (1, 2, 12, 16) and torch.allclose(up[:, :, 1:-1, 1:-1], torch.tensor(3.0))
    first, second, features = torch.rand(1, 3, 12, 16), torch.rand(1, 3, 12, 16), torch.rand(1, 64, 12, 16)
    smooth, confidence = model.netRegularization[0](first, second, features, up)
    assert torch.allclose(smooth[:, :, 3:-3, 3:-3], torch.tensor(3.0), atol=1e-4) and confidence is None


# Sizes and batches


@pytest.mark.parametrize("size", [(9, 5), (37, 53), (64, 128)])
@pytest.mark.parametrize("name", SMALL)
def test_pictures_of_any_size(name, size):
    model = small(name)
    with torch.no_grad():
        output = model(pictures(1, 3, *size), pictures(1, 3, *size, seed=1))
    assert output.flow.shape == (1, 2, *size) and output.flow.dtype == torch.float32
    assert output.flow.isfinite().all() and output.flow.std() > 0 and output.levels == ()


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_equals_its_pairs(name):
    model = small(name)
    first, second = pictures(3, 3, 70, 90), pictures(3, 3, 70, 90, seed=1)
    with torch.no_grad():
        together = model(first, second).flow
        alone = torch.cat([model(*pair).flow for pair in zip(first.split(1), second.split(1), strict=True)])
    assert torch.allclose(together, alone, atol=1e-4 * float(together.abs().max()))
    assert float((together[0] - together[1]).abs().max()) > 0.01 * float(together.abs().max())


@pytest.mark.parametrize("padding, top", [("sintel", 1), ("kitti", 0)])
def test_raft_pads_as_published(padding, top):
    model = small("raft_small", padding=padding)
    pair = [pictures(1, 3, 69, 93, seed=seed) for seed in (0, 1)]
    padded = [F.pad(picture, (1, 2, top, 3 - top), mode="replicate") for picture in pair]
    with torch.no_grad():
        found, expected = model(*pair).flow, model(*padded).flow[:, :, top : top + 69, 1:94]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["liteflownet3", "fastflownet"])
def test_pictures_are_resized_as_published(name):
    """Pictures become multiples of the unit, and the vectors are scaled back to the size of the pictures."""
    model, unit = small(name), {"liteflownet3": 32, "fastflownet": 64}[name]
    pair = torch.cat([pictures(1, 3, 70, 90, seed=seed) for seed in (0, 1)])
    bgr = pair.flip(1)
    if name == "fastflownet":  # without the mean over both pictures; LiteFlowNet 3 subtracts it after the resizing
        bgr = bgr - bgr.mean(dim=(0, 2, 3), keepdim=True)
    size = [-(-length // unit) * unit for length in (70, 90)]
    with torch.no_grad():
        found = model(*pair.split(1)).flow
        raw = model.raw_flows(*F.interpolate(bgr, size=size, mode="bilinear").split(1))[-1]
    expected = 20 * F.interpolate(raw, size=(70, 90), mode="bilinear")
    expected *= torch.tensor([90 / size[1], 70 / size[0]])[:, None, None]
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["liteflownet3", "fastflownet"])
def test_brightness_is_subtracted(name):
    model = small(name)
    first, second = pictures(2, 3, 64, 64), pictures(2, 3, 64, 64, seed=1)
    offset = torch.rand(2, 3, 1, 1)
    with torch.no_grad():
        plain, brighter = model(first, second).flow, model(first + offset, second + offset).flow
    assert torch.allclose(plain, brighter, atol=1e-3 * float(plain.abs().max()))


@pytest.mark.parametrize(
    "first, second, said",
    [
        (torch.zeros(1, 3, 8), torch.zeros(1, 3, 8), r"first must be \(B, 3, H, W\)"),
        (torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8), r"first must be \(B, 3, H, W\).*\(1, 2, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9), "the same shape"),
        (torch.zeros(1, 3, 8, 8).byte(), torch.zeros(1, 3, 8, 8).byte(), r"torch.uint8; divide uint8 by 255"),
    ],
)
@pytest.mark.parametrize("name", SMALL)
def test_wrong_pictures_are_refused(name, first, second, said):
    with pytest.raises(ValueError, match=said):
        small(name)(first, second)


# Parts


def test_padding_repeats_the_border():
    x = torch.rand(2, 3, 11, 14)
    padded, (rows, columns) = pad_pictures(x, 8)
    assert torch.equal(padded, F.pad(x, (1, 1, 2, 3), mode="replicate"))
    assert torch.equal(padded[:, :, rows][:, :, :, columns], x)
    assert torch.equal(pad_pictures(x, 8, bottom=True)[0], F.pad(x, (1, 1, 0, 5), mode="replicate"))


def test_warping_by_whole_pixels_moves_the_maps():
    x = torch.rand(2, 4, 9, 12)
    flow = torch.tensor([3.0, -2.0])[:, None, None].expand(2, 2, 9, 12)
    moved = warp(x, flow)
    assert torch.allclose(moved[:, :, 2:, :-3], x[:, :, :-2, 3:], atol=1e-5)
    assert moved[:, :, :2].abs().max() < 1e-5 and moved[:, :, :, -3:].abs().max() < 1e-5


def test_samples_are_those_of_the_published_grid():
    """Corners at -1 and 1; positions stay exact for half precision."""
    x, positions = torch.rand(2, 3, 7, 10), torch.rand(2, 2, 5, 4) * 14 - 2
    scale = torch.tensor([9.0, 6.0])[:, None, None]
    grid = (2 * positions / scale - 1).permute(0, 2, 3, 1)
    assert torch.allclose(sample(x, positions), F.grid_sample(x, grid, align_corners=True), atol=1e-5)
    wide = torch.arange(4096.0)[None, None, None].half()
    place = torch.tensor([3001.0, 0.0])[None, :, None, None]
    assert sample(wide, place).item() == wide[..., 3001].item()


def test_flow_is_scaled_with_its_size():
    flow = flow_to_size(torch.ones(1, 2, 4, 4), (6, 10), unit=(12, 40))
    assert flow.shape == (1, 2, 6, 10)
    assert torch.allclose(flow[:, 0], torch.tensor(0.25)) and torch.allclose(flow[:, 1], torch.tensor(0.5))


@pytest.mark.parametrize("radius", [3, 4])
def test_look_up_interpolates_windows(radius):
    """The published look-up: grid_sample on each scale of the correlations."""
    torch.manual_seed(0)
    first, second = torch.randn(2, 5, 17, 22, requires_grad=True), torch.randn(2, 5, 17, 22, requires_grad=True)
    positions = torch.rand(2, 2, 17, 22) * 40 - 10
    positions[0, :, 0, 0], positions[0, :, 0, 1], positions[0, :, 0, 2] = 1e9, -1e9, 3.0
    found = look_up(all_pairs(first, second), positions, radius)
    volume = torch.einsum("bcij,bckl->bijkl", first, second).flatten(0, 2)[:, None] / 5**0.5
    places = positions.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    steps = torch.arange(-radius, radius + 1.0)
    window = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)  # the first axis moves x
    expected = []
    for level in range(4):
        size = torch.tensor([volume.shape[3] - 1.0, volume.shape[2] - 1.0])
        grid = 2 * (places / 2**level + window) / size - 1
        expected.append(F.grid_sample(volume, grid, align_corners=True).view(2, 17, 22, -1))
        volume = F.avg_pool2d(volume, 2)
    expected = torch.cat(expected, dim=3).permute(0, 3, 1, 2)
    assert torch.allclose(found, expected, atol=1e-4)
    weights = torch.randn_like(expected)
    for gradients in zip(*(torch.autograd.grad(x, (first, second), weights) for x in (found, expected)), strict=True):
        assert torch.allclose(*gradients, atol=1e-3)


def test_look_up_on_an_empty_scale_is_zero():
    x = torch.randn(1, 4, 3, 9)
    pyramid = all_pairs(x, x)
    assert [tuple(level.shape[2:]) for level in pyramid] == [(3, 9), (1, 4), (0, 2), (0, 1)]
    found = look_up(pyramid, torch.zeros(1, 2, 3, 9), 3).unflatten(1, (4, 49))
    assert found[:, :2].abs().sum() > 0 and found[:, 2:].abs().sum() == 0


# Windows


@pytest.mark.parametrize("name", SMALL)
def test_windows_of_a_stream_equal_one_window(name):
    model = small(name)
    frames = pictures(2, 5, 3, 40, 72)
    with torch.no_grad():
        whole, last = window_flow(model, frames)
        begun, state = window_flow(model, frames[:, :2])
        middle, state = window_flow(model, frames[:, 2:3], state)
        rest, end = window_flow(model, frames[:, 3:], state)
        pair = model(frames[:, 2], frames[:, 3]).flow
    assert [part.shape[1] for part in (whole, begun, middle, rest)] == [4, 1, 1, 2]
    tolerance = 1e-3 * float(whole.abs().max())
    assert torch.allclose(torch.cat([begun, middle, rest], dim=1), whole, atol=tolerance)
    assert torch.allclose(whole[:, 2], pair, atol=tolerance)
    assert torch.equal(last, frames[:, -1]) and torch.equal(end, last)


def test_a_window_of_one_frame_has_no_flow():
    frames = pictures(2, 1, 3, 40, 72)
    flows, last = window_flow(small("fastflownet"), frames)
    assert flows.shape == (2, 0, 2, 40, 72) and flows.dtype == torch.float32 and torch.equal(last, frames[:, 0])


@pytest.mark.parametrize(
    "frames, previous, said",
    [
        (torch.zeros(2, 3, 8, 8), None, r"frames must be \(B, T, 3, H, W\)"),
        (torch.zeros(2, 0, 3, 8, 8), None, "T of at least 1"),
        (torch.zeros(2, 2, 3, 8, 8), torch.zeros(2, 3, 8, 9), r"previous must be \(2, 3, 8, 8\)"),
    ],
)
def test_wrong_windows_are_refused(frames, previous, said):
    with pytest.raises(ValueError, match=said):
        window_flow(small("raft_small"), frames, previous)


# Training, precision, graphs


@pytest.mark.parametrize("name", SMALL)
def test_training_has_levels_and_gradients(name):
    model = small(name).train()
    output = model(pictures(2, 3, 64, 136), pictures(2, 3, 64, 136, seed=1))
    if name.startswith("raft"):
        assert len(output.levels) == SMALL[name]["iterations"] and output.levels[-1] is output.flow
        assert all(level.shape == (2, 2, 64, 136) for level in output.levels)
    else:
        coarsest, count = {"liteflownet3": ((2, 5), 4), "fastflownet": ((1, 3), 5)}[name]
        sizes = [(coarsest[0] << level, coarsest[1] << level) for level in range(count)]
        assert [tuple(level.shape) for level in output.levels] == [(2, 2, *size) for size in sizes]
    sum(level.square().mean() for level in output.levels).backward()
    for key, value in model.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all() and value.grad.abs().sum() > 0, key


def test_default_iterations():
    model, calls = create_model("raft_small"), []
    model.update_block.gru.register_forward_hook(lambda *_: calls.append(1))
    x = pictures(2, 3, 16, 16)
    for training, expected in ((True, 12), (False, 20)):
        calls.clear()
        with torch.no_grad():
            model.train(training)(x, x)
        assert len(calls) == expected


@pytest.mark.parametrize("name", SMALL)
def test_half_precision(name):
    model = small(name)
    pair = pictures(1, 3, 64, 128), pictures(1, 3, 64, 128, seed=1)
    with torch.no_grad():
        exact = model(*pair).flow
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(*pair).flow
        half = model.bfloat16()(*(picture.bfloat16() for picture in pair)).flow
    assert mixed.dtype == half.dtype == torch.float32
    for found in (mixed, half):
        assert (found - exact).norm() < 0.1 * exact.norm() and not torch.equal(found, exact)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_one_graph(name):
    model = small(name, **({"iterations": 1} if name.startswith("raft") else {}))
    pair = pictures(1, 3, 40, 72), pictures(1, 3, 40, 72, seed=1)
    with torch.no_grad():
        expected = model(*pair).flow
        found = torch.compile(model, backend="eager", fullgraph=True)(*pair)
    assert isinstance(found, FlowOutput) and torch.allclose(found.flow, expected, atol=1e-5)


# Classical flow


def moved(size: tuple[int, int], x: int, y: int) -> tuple[np.ndarray, np.ndarray]:
    """A textured picture, and the same one with its content moved to the right and down, uint8 (H, W, 3)."""
    large = pictures(1, 3, size[0] + 16, size[1] + 16)[0].permute(1, 2, 0).mul(255).round().byte().numpy()
    height, width = size
    return large[8 : 8 + height, 8 : 8 + width], large[8 - y : 8 - y + height, 8 - x : 8 - x + width]


@pytest.mark.parametrize("size", [(120, 160), (40, 150), (9, 21)])
def test_dis_follows_a_moving_picture(size):
    pytest.importorskip("cv2")
    flow = dis_flow(*moved(size, x=3, y=-2))
    assert flow.shape == (2, *size) and flow.dtype == np.float32 and np.isfinite(flow).all()
    if min(size) > 16:
        inner = flow[:, 10:-10, 10:-10]
        assert np.median(inner, axis=(1, 2)) == pytest.approx([3, -2], abs=0.1)
    assert np.array_equal(flow, dis_flow(*moved(size, x=3, y=-2)))
    assert np.array_equal(dis_flow(*moved(size, x=0, y=0)), np.zeros_like(flow))


def test_dis_presets():
    pytest.importorskip("cv2")
    pair = moved((120, 160), x=2, y=1)
    flows = [dis_flow(*pair, preset=preset) for preset in ("ultrafast", "fast", "medium")]
    assert len({flow.tobytes() for flow in flows}) == 3
    with pytest.raises(ValueError, match="preset='slow' must be one of ultrafast, fast, medium"):
        dis_flow(*pair, preset="slow")


@pytest.mark.parametrize("method", [dis_flow, tvl1_flow])
def test_without_opencv_the_remedy_is_named(method, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r'pip install "vidseg\[flow\]"'):
        method(*moved((40, 40), x=0, y=0))


def test_tvl1_without_contrib_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(__version__="5.0.0"))
    with pytest.raises(
        ImportError, match=r"module optflow, which OpenCV 5\.0\.0.*opencv-contrib-python-headless, or use DIS"
    ):
        tvl1_flow(*moved((40, 40), x=0, y=0))


def test_tvl1_is_that_of_optflow(monkeypatch):
    cv2 = pytest.importorskip("cv2")

    class Method:
        def calc(self, first, second, flow):
            assert first.ndim == second.ndim == 2 and flow is None
            return np.stack([first, second], axis=2).astype(np.float32)

    monkeypatch.setattr(cv2, "optflow", types.SimpleNamespace(DualTVL1OpticalFlow_create=Method), raising=False)
    first, second = moved((20, 30), x=1, y=0)
    assert np.array_equal(tvl1_flow(first, second)[1], cv2.cvtColor(second, cv2.COLOR_RGB2GRAY))


@pytest.mark.parametrize(
    "first, second, said",
    [
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), r"first must be uint8 \(H, W, 3\)"),
        (np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 3), np.float32), "is float32"),
        (np.zeros((0, 8, 3), np.uint8), np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8), "the same shape"),
    ],
)
def test_wrong_arrays_are_refused(first, second, said):
    pytest.importorskip("cv2")
    with pytest.raises(ValueError, match=said):
        dis_flow(first, second)
