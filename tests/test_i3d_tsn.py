"""I3D, TSN and TSM against the published networks: sizes, values, names of several publications, padding, the shift."""

import functools
import importlib.util
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from golden_vectors import made_input, made_weight, read_vector, relative_error
from torch import nn
from torch.nn import functional as F

from vidseg.engine.optimizers import classifier_names
from vidseg.engine.options import NetworkOptions
from vidseg.models import create_model, list_models, load_weights
from vidseg.models._identify import identify
from vidseg.models._profile import count_cost, input_shape
from vidseg.tasks import load_trained
from vidseg.tasks.recognition.feature_extraction import clip_outputs
from vidseg.tasks.recognition.runs import build_network

BUFFER = re.compile("running_|num_batches")

# Published sizes with 400 classes: parameters; 10^9 multiply-adds of so many frames of 224 x 224.
COSTS = {
    "i3d_rgb": (12_697_264, 64, 111.15),
    "i3d_flow": (12_675_312, 64, 102.34),
    "tsn_r50": (24_327_632, 1, 4.088),
    "tsm_r50": (24_327_632, 8, 32.7),
}
VECTORS = {
    "i3d_rgb": ("i3d_rgb", {}),
    "i3d_rgb_svtas": ("i3d_rgb", {"port": "kinetics_i3d_pytorch"}),
    "tsn_r50": ("tsn_r50", {}),
    "tsm_r50": ("tsm_r50", {}),
    "tsm_r50_mit": ("tsm_r50", {}),
}
SMALL = {"i3d_rgb": 3, "i3d_flow": 2, "tsn_r50": 3, "tsm_r50": 3}


@functools.cache
def on_meta(name: str, width: float = 1.0) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes=400, width=width)


def made_state(name: str) -> dict[str, torch.Tensor]:
    return {key: made_weight(key, shape, dtype) for key, shape, dtype in read_vector(name)[0]["state"]}


def small(name: str, num_classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=num_classes, width=0.125)


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def in_torchvisions_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The trunk of a TSN as a ResNet of torchvision, whose classifier has 1000 classes."""
    named = {}
    for key, value in state.items():
        name = key.removeprefix("backbone.").replace(".net.", ".")
        name = name.replace("downsample.conv", "downsample.0").replace("downsample.bn", "downsample.1")
        name = re.sub(r"conv(\d)\.(conv|bn)\.", lambda found: f"{found[2]}{found[1]}.", name)
        named[name] = value
    width = named.pop("cls_head.fc_cls.weight").shape[1]
    del named["cls_head.fc_cls.bias"]
    return named | {"fc.weight": torch.zeros(1000, width), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize("name", COSTS)
def test_published_cost(name):
    parameters, frames, multiply_adds = COSTS[name]
    cost = count_cost(name, input_shape(name, frames=frames), num_classes=400)
    assert (cost.parameters, cost.counted_on) == (parameters, "meta")
    assert cost.macs / 1e9 == pytest.approx(multiply_adds, rel=2e-3)


def test_parts_of_the_published_sizes():
    trunks = [
        sum(value.numel() for key, value in on_meta(name).named_parameters() if not key.startswith("logits"))
        for name in ("i3d_rgb", "i3d_flow")
    ]
    assert trunks == [12_287_264, 12_265_312]
    statistics = [value for value in on_meta("tsm_r50").buffers() if value.is_floating_point()]
    assert sum(value.numel() for value in statistics) == 53_120
    assert sum(value.numel() for value in on_meta("tsn_r101").parameters()) == pytest.approx(43.32e6, abs=5e3)


def test_rows_of_the_etesvs_table():
    """Parameters, and the operations of I3D, to the unit; those of both streams in all digits that are printed."""
    path = Path(__file__).parent.parent / "benchmarks/stream_models.py"
    spec = importlib.util.spec_from_file_location("stream_models", path)
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules["stream_models"] = benchmark  # where its dataclasses look for their annotations
    spec.loader.exec_module(benchmark)
    rows = {row.row: benchmark.measure(row) for row in benchmark.ROWS if "i3d" in row.network or "tsm_r" in row.network}
    assert {name: row["wrong"] for name, row in rows.items()} == {
        name: [] for name in ("ssd", "bmn", "two_stream-i3d", "i3d+mstcn", "i3d+asformer", "tsm")
    }
    assert round(rows["two_stream-i3d"]["counted_operations"] / 1e9, 5) == 261.01912
    # Both published rows with an MS-TCN, 28.6235698 G and 0.791359944 G, have 56 less: not by any rule known here.
    assert rows["bmn"]["counted_operations"] == 27_832_209_856 + 791_360_000


@pytest.mark.parametrize("vector", VECTORS)
def test_published_values(vector):
    spec, expected = read_vector(vector)
    name, options = VECTORS[vector]
    torch.manual_seed(0)
    model = create_model(name, num_classes=400, **options).eval()
    if vector in COSTS:
        assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == [
            [key, shape] for key, shape, _ in spec["state"]
        ]
    report = load_weights(model, made_state(vector), features_only=True)
    assert report.left == report.notes == ()
    assert set(report.missing) == ({"logits.conv3d.weight", "logits.conv3d.bias"} if "svtas" in vector else set())
    _, shape, kind, seed = spec["inputs"][0]
    clips = made_input(shape, kind, seed)
    with torch.no_grad():
        if name == "i3d_rgb":
            maps = model.forward_features(clips)
            found = {"mixed_5c": maps, "pooled": model.pooled(maps), "logits": model(clips)}
        else:
            clips = clips.transpose(1, 2)
            frames = model.forward_features(clips).transpose(1, 2).flatten(0, 1)
            found = {"frame_features": frames, "logits": model(clips)}
    errors = [relative_error(found[label], value) for (label, *_), value in zip(spec["outputs"], expected, strict=True)]
    assert max(errors) < 1e-5, errors


def test_files_of_several_publications(tmp_path):
    """As the authors of TSM, torchvision and a DataParallel leave them."""
    state = made_state("tsm_r50_mit")
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pth")
    model = create_model("tsm_r50", num_classes=400)
    assert load_weights(nn.DataParallel(model), tmp_path / "w.pth").missing == ()
    source, target = small("tsn_r50"), small("tsm_r50", num_classes=7)
    report = load_weights(target, in_torchvisions_names(source.state_dict()), strict=False)
    assert report.missing == report.left == report.reshaped == ("cls_head.fc_cls.weight", "cls_head.fc_cls.bias")
    assert report.notes == ()
    assert torch.equal(
        target.backbone.layer3[2].conv1.conv.net.weight, source.state_dict()["backbone.layer3.2.conv1.conv.weight"]
    )


def test_tsn_and_tsm_fill_each_other_and_say_so():
    for source, target in (("tsn_r50", "tsm_r50"), ("tsm_r50", "tsn_r50")):
        report = load_weights(small(target), small(source).state_dict(), strict=False)
        assert report.missing == report.left == ()
        assert f"the weights are those of {source} of width 0.125, the model is {target}" in str(report)


@pytest.mark.parametrize("name", [*list_models("ts[nm]_*"), "i3d_rgb", "i3d_flow"])
def test_networks_are_identified_by_their_keys(name):
    assert identify(shapes_of(on_meta(name).state_dict())) == ((name,), 1.0)
    assert identify(shapes_of(on_meta(name, 0.25).state_dict())) == ((name,), 0.25)


def test_networks_are_identified_by_keys_of_other_publications():
    assert identify(shapes_of(made_state("i3d_rgb_svtas"))) == (("i3d_rgb",), 1.0)
    assert identify(shapes_of(made_state("tsm_r50_mit"))) == (("tsm_r50",), 1.0)
    assert identify(shapes_of(in_torchvisions_names(on_meta("tsn_r50").state_dict()))) is None
    with pytest.raises(ValueError, match=r"the weights are those of i3d_flow of width 0\.125, the model is tsn_r50"):
        load_weights(small("tsn_r50"), small("i3d_flow").state_dict())


def test_weights_trained_on_bgr():
    """The first entry of an I3D is its classifier, not its first convolution."""
    source, target = small("i3d_rgb").eval(), small("i3d_rgb").eval()
    load_weights(target, source.state_dict(), colors="bgr")
    clips = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        assert torch.allclose(target(clips), source(clips.flip(1)), atol=1e-5)
        assert not torch.allclose(target(clips), source(clips), atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(9, 40, 64), (1, 33, 50)])
def test_every_weight_learns(name, shape):
    model = small(name)
    clips = torch.randn(2, SMALL[name], *shape)
    maps = model.forward_features(clips)
    frames = shape[0] if name.startswith("ts") else math.ceil(shape[0] / 8)
    assert maps.shape == (2, model.num_features, frames, math.ceil(shape[1] / 32), math.ceil(shape[2] / 32))
    logits = model(clips)
    assert logits.shape == (2, 4)
    logits.square().sum().backward()
    idle = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert idle == []


# What is particular to each


@pytest.mark.parametrize("port", ["pytorch_i3d", "kinetics_i3d_pytorch"])
@pytest.mark.parametrize("size", [(16, 64, 64), (15, 37, 22)])
def test_padding_of_the_two_ports(port, size):
    """TensorFlow pads by what is missing of the last window; the other port by kernel minus stride, always."""
    model = create_model("i3d_rgb", num_classes=2, width=0.125, port=port).eval()
    clips = torch.randn(1, 3, *size)
    pads = []
    for length in reversed(size):
        total = 7 - (length % 2 or 2) if port == "pytorch_i3d" else 7 - 2
        pads += [total // 2, total - total // 2]
    unit = model.Conv3d_1a_7x7
    expected = F.conv3d(F.pad(clips, pads), unit.conv3d.weight, stride=2)
    expected = expected / math.sqrt(1 + (1e-3 if port == "pytorch_i3d" else 1e-5))  # fresh norms do nothing else
    with torch.no_grad():
        assert torch.allclose(unit(clips), expected.relu(), atol=1e-4)


def trained(name: str, folder: Path):
    """Return a small network with random weights as a trained model."""
    torch.save(small(name).state_dict(), folder / f"{name}.pth")
    return load_trained(folder / f"{name}.pth", network=name, network_options={"width": 0.125})


def test_classifier_of_i3d_takes_means_over_two_steps(tmp_path):
    loaded = trained("i3d_rgb", tmp_path)
    model = loaded.model
    clips = torch.randn(2, 3, 24, 32, 64)
    with torch.no_grad(), clip_outputs(loaded.model, loaded.features()) as features_of:
        maps = model.forward_features(clips)
        steps = maps.mean(dim=(3, 4))
        pairs = torch.stack([(steps[..., 0] + steps[..., 1]) / 2, (steps[..., 1] + steps[..., 2]) / 2], dim=2)
        assert torch.allclose(model.pooled(maps)[..., 0, 0], pairs, atol=1e-5)
        logits = F.linear(pairs.mean(dim=2), model.logits["conv3d"].weight.flatten(1), model.logits["conv3d"].bias)
        assert torch.allclose(model(clips), logits, atol=1e-5)
        assert torch.allclose(features_of(clips), pairs.mean(dim=2), atol=1e-5)


def test_only_tsm_depends_on_the_order_of_frames(tmp_path):
    clips = torch.randn(1, 3, 6, 32, 32)
    for name, same in (("tsn_r50", True), ("tsm_r50", False)):
        loaded = trained(name, tmp_path)
        with torch.no_grad(), clip_outputs(loaded.model, loaded.features()) as features_of:
            features = features_of(clips)
            assert torch.allclose(features, loaded.model.forward_features(clips).mean(dim=(2, 3, 4)), atol=1e-5)
            difference = (features - features_of(clips.flip(2))).norm() / features.norm()
        assert (float(difference) < 1e-5) == same


def test_position_of_the_shift():
    """Every block of depth 50 has a shift, every second block of deeper networks."""
    shifted = {
        name: {key for key in on_meta(name).state_dict() if ".net." in key}
        for name in ("tsn_r50", "tsm_r50", "tsm_r101")
    }
    assert {name: len(keys) for name, keys in shifted.items()} == {"tsn_r50": 0, "tsm_r50": 16, "tsm_r101": 18}
    assert {key.split(".")[2] for key in shifted["tsm_r101"] if "layer2" in key} == {"0", "2"}
    model = small("tsm_r50")
    block = model.backbone.layer1[1].eval()
    x = torch.randn(1, 3, 32, 4, 4)
    seen = []
    block.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].unflatten(0, (1, 3))))
    with torch.no_grad():
        block(x)
    expected = x.clone()
    expected[:, :2, :4], expected[:, 2, :4] = x[:, 1:, :4], 0
    expected[:, 1:, 4:8], expected[:, 0, 4:8] = x[:, :2, 4:8], 0
    assert torch.equal(seen[0], expected)


@pytest.mark.parametrize(
    "name, options", [("i3d_rgb", {"port": "caffe"}), ("i3d_flow", {"width": 0}), ("tsm_r50", {"shift_division": 1})]
)
def test_wrong_options_are_refused(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        create_model(name, num_classes=2, **options)


# In the programs


def test_parameters_of_the_classifiers():
    assert classifier_names(small("i3d_rgb")) == {"logits.conv3d.weight", "logits.conv3d.bias"}
    assert classifier_names(small("tsm_r50")) == {"cls_head.fc_cls.weight", "cls_head.fc_cls.bias"}


def test_weights_files_for_features(tmp_path):
    torch.save(made_state("tsm_r50_mit"), tmp_path / "w.pth")
    loaded = load_trained(tmp_path / "w.pth", network="tsm_r50")
    assert len(loaded.classes) == 400 and loaded.network == "tsm_r50"
    assert loaded.input_spec.mean == pytest.approx((0.485, 0.456, 0.406), abs=1e-3)
    torch.save(small("i3d_flow").state_dict(), tmp_path / "flow.pth")
    loaded = load_trained(tmp_path / "flow.pth", network="i3d_flow", network_options={"width": 0.125})
    assert loaded.input_spec.modality == "flow" and loaded.task == "recognition"
    with pytest.raises(ValueError, match="mstcn is a network for segmentation"):
        build_network(NetworkOptions(network="mstcn"), 2)
