"""SRTG networks against the published ones: names, sizes, values; the gate; the registry; loading of weights."""

import functools
import json
import math
import re

import pytest
import torch
from golden_vectors import FOLDER, made_input, made_weight, read_vector, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vidseg.models import _registry, create_model, list_models, load_weights, model_task, register_model
from vidseg.models._identify import identify
from vidseg.models.srtg import DESIGNS, PLACEMENTS, SqueezeRecursion, cycle_consistent

BUFFER = re.compile("running_|num_batches")

# Published sizes with 400 classes: parameters, those of LSTMs, entries of the state dict.
SIZES = {
    "r3d_18": (33_371_472, 0, 122),
    "r3d_34": (63_681_104, 0, 218),
    "r3d_50": (36_724_688, 0, 314),
    "r3d_101": (69_060_048, 0, 620),
    "r2plus1d_34": (61_831_661, 0, 416),
    "r2plus1d_50": (34_863_287, 0, 416),
    "r2plus1d_101": (67_218_231, 0, 824),
    "srtg_r3d_18": (44_543_312, 11_171_840, 186),
    "srtg_r3d_34": (83_861_072, 20_179_968, 346),
    "srtg_r3d_50": (56_904_656, 20_179_968, 442),
    "srtg_r3d_101": (107_135_440, 38_075_392, 884),
    "srtg_r3d_152": (148_507_600, 52_816_896, 1326),
    "srtg_r3d_200": (160_349_136, 57_043_968, 1742),
    "srtg_r2plus1d_18": (42_677_165, 11_171_840, 288),
    "srtg_r2plus1d_34": (82_011_629, 20_179_968, 544),
    "srtg_r2plus1d_50": (55_043_255, 20_179_968, 544),
    "srtg_r2plus1d_101": (105_293_623, 38_075_392, 1088),
    "srtg_r3dxt50_32x4d": (161_117_904, 20_179_968, 442),
    "srtg_wide_r3d50_2": (161_117_904, 20_179_968, 442),
    "srtg_r3dxt101_32x8d": (1_081_437_904, 38_075_392, 884),
    "srtg_wide_r3d101_2": (303_837_392, 38_075_392, 884),
    "srtg_r2plus1dxt50_32x4d": (153_272_961, 20_179_968, 544),
    "srtg_wide_r2plus1d50_2": (153_678_573, 20_179_968, 544),
}


@functools.cache
def shapes_of(name: str, width: float = 1.0) -> dict[str, tuple[int, ...]]:
    """Entries of the network's state dict with 400 classes."""
    with torch.device("meta"):
        model = create_model(name, num_classes=400, width=width)
    return {
        key: tuple(value.shape) for values in (model.named_parameters(), model.named_buffers()) for key, value in values
    }


@pytest.mark.parametrize("name", SIZES)
def test_published_size(name):
    sizes = {key: math.prod(shape) for key, shape in shapes_of(name).items()}
    parameters = {key: size for key, size in sizes.items() if not BUFFER.search(key)}
    recurrent = sum(size for key, size in parameters.items() if ".lstm." in key)
    assert (sum(parameters.values()), recurrent, len(sizes)) == SIZES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["srtg_r3d_18", "srtg_r3d_34", "srtg_r3d_50", "srtg_r2plus1d_34", "srtg_r2plus1d_50"])
def test_published_values(name):
    spec, expected = read_vector(name)
    model = create_model(name, num_classes=200).eval()
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == [
        [key, shape] for key, shape, _ in spec["state"]
    ]
    model.load_state_dict({key: made_weight(key, shape, dtype) for key, shape, dtype in spec["state"]})
    ((_, shape, kind, seed),) = spec["inputs"]
    x = clips = made_input(shape, kind, seed)
    outputs = []
    with torch.no_grad():
        for part in ("stem", "pool", "layer1", "layer2", "layer3", "layer4", "avgpool"):
            x = getattr(model, part)(x)
            outputs.append(x)
        outputs.append(model(clips))
    assert [label for label, *_ in spec["outputs"]][-1] == "logits"
    assert max(relative_error(output, value) for output, value in zip(outputs, expected, strict=True)) < 1e-5


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", ["srtg_r3d_18", "srtg_r2plus1d_18", "srtg_wide_r2plus1d50_2"])
def test_every_placement_trains(name, placement):
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, width=0.125, placement=placement)
    clips = torch.randn(2, 3, 32, 32, 48)
    logits = model(clips)
    assert logits.shape == (2, 3)
    assert model.forward_features(clips).shape == (2, model.num_features, 2, 1, 2)
    logits.square().sum().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_placements_are_different_networks():
    """Each of them computes something else from the same weights, but mid and end of a block of two convolutions."""
    clips = torch.randn(1, 3, 8, 32, 32)
    results = {}
    for placement in PLACEMENTS:
        torch.manual_seed(0)
        model = create_model("srtg_r3d_18", num_classes=3, width=0.125, placement=placement)
        model.load_state_dict({key: made_weight(key, list(value.shape)) for key, value in model.state_dict().items()})
        with torch.no_grad():
            results[placement] = model.eval()(clips)
    assert torch.equal(results.pop("mid"), results["end"])
    values = torch.cat(list(results.values()))
    distance = torch.cdist(values, values) + torch.eye(len(values))
    assert distance.min() > 1e-3


def test_width_scales_every_layer():
    model = create_model("srtg_r2plus1d_18", num_classes=5, width=0.25)
    assert [model.stem[0].out_channels, model.stem[3].out_channels, model.num_features] == [8, 16, 128]
    assert model.fc.weight.shape == (5, 128)
    names = create_model("srtg_r2plus1d_18", num_classes=5).state_dict()
    assert list(model.state_dict()) == list(names)


@pytest.mark.parametrize("options", [{"placement": "bottom"}, {"width": 0.0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=str(next(iter(options)))):
        create_model("srtg_r3d_18", num_classes=2, **options)


# Squeeze and Recursion, and its gate


def gate_file() -> dict:
    return json.loads((FOLDER / "srtg_gate.json").read_text())


@pytest.mark.parametrize("case", gate_file()["forward"], ids=lambda case: case["case"])
def test_squeeze_and_recursion_values(case):
    module = SqueezeRecursion(4)
    module.load_state_dict({key: made_weight(key, list(value.shape)) for key, value in module.state_dict().items()})
    x = made_input(case["input"]["shape"], "normal", case["input"]["seed"]).clamp(min=0)
    with torch.no_grad():
        output = module(x)
    assert torch.allclose(output, torch.tensor(case["output"]), atol=1e-6)
    assert torch.equal(x, made_input(case["input"]["shape"], "normal", case["input"]["seed"]).clamp(min=0))


@pytest.mark.parametrize("case", gate_file()["one_way_cases"], ids=lambda case: case["case"])
def test_gate_agrees_with_the_published_check(case):
    a, b = torch.tensor(case["embeddings1"]), torch.tensor(case["embeddings2"])
    both = torch.tensor(case["1_to_2_consistent"]) & torch.tensor(case["2_to_1_consistent"])
    assert cycle_consistent(a, b).tolist() == both.tolist()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(2, 9), st.integers(0, 1000))
def test_gate_by_definition(batch, channels, frames, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, channels, frames, generator=generator)
    b = a + torch.randn(batch, channels, frames, generator=generator) * torch.rand(1, generator=generator)
    expected = []
    for one, other in zip(a, b, strict=True):
        nearest = lambda p, q: [int((q - p[:, t : t + 1]).square().sum(0).argmin()) for t in range(frames)]  # noqa: E731
        expected.append(nearest(one, other) == nearest(other, one) == list(range(frames)))
    assert cycle_consistent(a, b).tolist() == expected
    assert cycle_consistent(a, a).all()
    assert not cycle_consistent(a, a.flip(2)).any()


@pytest.mark.parametrize("gate", [False, True])
def test_gate_passes_clips_that_do_not_agree(gate):
    """With random weights hardly a clip agrees frame by frame, and every block passes its input."""
    torch.manual_seed(0)
    model = create_model("srtg_r3d_18", num_classes=3, width=0.125, gate=gate).eval()
    plain = create_model("r3d_18", num_classes=3, width=0.125).eval()
    assert "the weights are those of srtg_r3d_18" in str(load_weights(plain, model.state_dict(), strict=False))
    clips = torch.randn(2, 3, 16, 64, 64)
    with torch.no_grad():
        maps = model.layer1(model.pool(model.stem(clips)))
        assert torch.equal(maps, plain.layer1(plain.pool(plain.stem(clips)))) == gate


def test_pool_is_an_option():
    """The code of May and June 2020 had none; the entries are the same."""
    model = create_model("srtg_r3d_18", num_classes=3, width=0.125, pool=False)
    assert model.pool(torch.zeros(1, 8, 4, 6, 6)).shape == (1, 8, 4, 6, 6)
    assert load_weights(model, create_model("srtg_r3d_18", num_classes=3, width=0.125).state_dict()).missing == ()


def test_gate_opens_for_repeated_frames():
    still = torch.ones(1, 3, 5)
    assert cycle_consistent(still, still).tolist() == [True]
    assert cycle_consistent(still[..., :1], still[..., :1] + 7).tolist() == [True]


class _Stub(nn.Module):
    """Returns the first sample's sequence as it came and the second one's reversed."""

    def forward(self, sequence):
        return torch.stack([sequence[:, 0], sequence[:, 1].flip(0)], dim=1), None


def test_gate_decides_for_each_sample():
    x = torch.rand(2, 4, 6, 3, 3, requires_grad=True)
    module = SqueezeRecursion(4, gate=True)
    module.lstm = _Stub()
    before = x.detach().clone()
    output = module(x)
    means = x.mean(dim=(3, 4), keepdim=True)
    assert torch.allclose(output[0], (x * means)[0])
    assert torch.equal(output[1], x[1])
    assert torch.equal(x, before)
    assert not cycle_consistent(x.mean(dim=(3, 4)), x.mean(dim=(3, 4))).requires_grad


# The registry


def test_all_names():
    names = list(DESIGNS) + [f"srtg_{name}" for name in DESIGNS]
    assert set(names) <= set(list_models(task="recognition"))
    assert len(names) == 40 and len(set(names)) == 40
    assert list_models("srtg_r3d_*") == [f"srtg_r3d_{depth}" for depth in (18, 34, 50, 101, 152, 200)]
    assert list_models("nothing*") == []


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match=r"'srgt_r3d_34'.*srtg_r3d_34"):
        create_model("srgt_r3d_34", num_classes=2)
    with pytest.raises(TypeError, match=r"'placment'.*placement, gate, pool, width"):
        create_model("srtg_r3d_18", num_classes=2, placment="final")
    with pytest.raises(TypeError, match="r3d_18 has no option 'gate'"):
        create_model("r3d_18", num_classes=2, gate=True)
    with pytest.raises(ValueError, match="num_classes=0"):
        create_model("r3d_18", num_classes=0)
    with pytest.raises(ValueError, match="'r3d_18' is already registered"):
        register_model("r3d_18", nn.Identity)


def test_tasks_are_kept_apart(monkeypatch):
    monkeypatch.setattr(_registry, "_ENTRIES", dict(_registry._ENTRIES))
    register_model("r3d_of_features", nn.Identity, task="segmentation-test")
    assert list_models(task="segmentation-test") == ["r3d_of_features"]
    assert "r3d_of_features" in list_models("r3d*")
    assert "r3d_of_features" not in list_models("r3d*", task="recognition")
    assert (model_task("r3d_of_features"), model_task("r3d_18")) == ("segmentation-test", "recognition")
    with pytest.raises(ValueError, match=r"'recogniton'.*recognition"):
        list_models(task="recogniton")
    with pytest.raises(ValueError, match=r"'r3d_19'.*r3d_18"):
        model_task("r3d_19")


def test_options_without_default_are_asked_for(monkeypatch):
    def factory(*, num_classes: int, in_features: int) -> nn.Module:
        return nn.Linear(in_features, num_classes)

    monkeypatch.setattr(_registry, "_ENTRIES", dict(_registry._ENTRIES))
    register_model("linear", factory, task="segmentation-test")
    assert create_model("linear", num_classes=3, in_features=2).weight.shape == (3, 2)
    with pytest.raises(TypeError, match="linear needs the option 'in_features'"):
        create_model("linear", num_classes=3)


@pytest.mark.parametrize(
    "name", [name for name in list_models(task="recognition") if "r3d" in name or "r2plus1d" in name or "mc3" in name]
)
def test_every_network_is_identified_by_its_keys(name):
    """The published look-up gave a plain network for every srtg_ name."""
    shapes = shapes_of(name)
    identity = identify(shapes)
    assert name in identity.names and identity.width == 1
    assert all(shapes_of(other) == shapes for other in identity.names)
    assert identity.ambiguous == (name in ("r2plus1d_18", "torchvision_r2plus1d_18"))


@pytest.mark.parametrize(
    "name, width",
    [
        ("srtg_r2plus1d_34", 0.25),
        ("mtnet_m", 0.5),
        ("mtnet_s_g8", 1.0),
        ("torchvision_mc3_18", 0.25),
        ("ig65m_r2plus1d_34", 0.125),
    ],
)
def test_narrow_networks_are_identified(name, width):
    assert identify(shapes_of(name, width=width)) == ((name,), width)


def test_other_networks_are_not_identified():
    assert identify({"conv1.weight": (64, 3, 7, 7)}) is None
    shapes = shapes_of("r3d_18")
    assert identify({key.replace("layer3", "layer5"): shape for key, shape in shapes.items()}) is None
    assert identify({key: shape for key, shape in shapes.items() if not key.startswith("layer2.1.")}) is None
