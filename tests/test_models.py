"""SRTG networks against the published ones: names, sizes, values; the gate; the registry; loading of weights."""

import functools
import json
import math
import pickle
import re

import pytest
import torch
from golden_vectors import FOLDER, made_input, made_weight, read_vector, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vidseg.models import _registry, create_model, list_models, load_weights, model_task, register_model
from vidseg.models._identify import identify
from vidseg.models.srtg import PLACEMENTS, SqueezeRecursion, cycle_consistent

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
    assert "the weights are those of srtg_r3d_18" in str(load_weights(plain, model.state_dict()))
    clips = torch.randn(2, 3, 16, 64, 64)
    with torch.no_grad():
        maps = model.layer1(model.pool(model.stem(clips)))
        assert torch.equal(maps, plain.layer1(plain.pool(plain.stem(clips)))) == gate


def test_pool_is_an_option():
    """The code of May and June 2020 had none; the entries are the same."""
    model = create_model("srtg_r3d_18", num_classes=3, width=0.125, pool=False)
    assert model.pool(torch.zeros(1, 8, 4, 6, 6)).shape == (1, 8, 4, 6, 6)
    assert load_weights(model, small(3).state_dict()).missing == ()


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
    names = [name for name in list_models(task="recognition") if "r3d" in name or "r2plus1d" in name]
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


# Loading of weights


def small(num_classes: int = 4) -> nn.Module:
    return create_model("srtg_r3d_18", num_classes=num_classes, width=0.125)


@pytest.mark.parametrize("container", [None, "state_dict", "model_state", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_from_every_container(tmp_path, container, prefix):
    source, target = small(), small()
    state = {f"{prefix}{key}": value for key, value in source.state_dict().items()}
    torch.save(state if container is None else {"epoch": 3, container: state, "optimizer": {}}, tmp_path / "w.pth")
    report = load_weights(target, tmp_path / "w.pth")
    assert len(report.taken) == len(state) and report.left == report.missing == ()
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


def test_weights_from_safetensors(tmp_path):
    from safetensors.torch import save_file

    source, target = small(), small()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    assert load_weights(target, str(tmp_path / "w.safetensors")).missing == ()
    assert torch.equal(source.stem[0].weight, target.stem[0].weight)


def test_weights_that_fit_in_part():
    source, target = small(num_classes=9), small(num_classes=4)
    before = target.fc.weight.clone()
    state = source.state_dict() | {"extra.weight": torch.zeros(1)}
    del state["stem.0.weight"]
    report = load_weights(target, state)
    assert report.left == ("fc.weight", "fc.bias", "extra.weight")
    assert report.missing == ("stem.0.weight", "fc.weight", "fc.bias")
    assert report.reshaped == ("fc.weight", "fc.bias") and report.notes == ()
    assert torch.equal(target.fc.weight, before)
    assert torch.equal(target.layer4[1].sar.lstm.weight_hh_l1, source.layer4[1].sar.lstm.weight_hh_l1)
    assert "fc.weight" in str(report)


def test_weights_that_do_not_fit_at_all(tmp_path):
    with pytest.raises(ValueError, match="not one of its 1 entries"):
        load_weights(small(), {"encoder.weight": torch.zeros(3)})
    with pytest.raises(FileNotFoundError, match="absent"):
        load_weights(small(), tmp_path / "absent.pth")
    torch.save({"epoch": 1, "lr": 0.1}, tmp_path / "none.pth")
    with pytest.raises(ValueError, match="no state dict"):
        load_weights(small(), tmp_path / "none.pth")


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("code from a checkpoint was run",))


def test_weights_files_cannot_run_code(tmp_path):
    torch.save({"state_dict": {"fc.bias": torch.zeros(4)}, "trap": _Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match=r"trap.pth.*could run code") as caught:
        load_weights(small(), tmp_path / "trap.pth")
    assert isinstance(caught.value.__cause__, pickle.UnpicklingError)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"rubbish" * 100])
def test_damaged_weights_are_named(tmp_path, suffix, content):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_weights(small(), path)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list.pth: no state dict in it, but a list"):
        load_weights(small(), tmp_path / "list.pth")


@pytest.mark.parametrize("name", list_models("*r3d*", task="recognition") + list_models("*r2plus1d*"))
def test_every_network_is_identified_by_its_keys(name):
    """The published look-up gave a plain network for every srtg_ name."""
    shapes = shapes_of(name)
    identity = identify(shapes)
    assert name in identity.names and identity.width == 1
    assert all(shapes_of(other) == shapes for other in identity.names)


@pytest.mark.parametrize("name, width", [("srtg_r2plus1d_34", 0.25), ("mtnet_m", 0.5), ("mtnet_s_g8", 1.0)])
def test_narrow_networks_are_identified(name, width):
    assert identify(shapes_of(name, width=width)) == ((name,), width)


def test_other_networks_are_not_identified():
    assert identify({"conv1.weight": (64, 3, 7, 7)}) is None
    shapes = shapes_of("r3d_18")
    assert identify({key.replace("layer3", "layer5"): shape for key, shape in shapes.items()}) is None
    assert identify({key: shape for key, shape in shapes.items() if not key.startswith("layer2.1.")}) is None


def test_a_plain_network_under_an_srtg_name(tmp_path, caplog):
    """As the published look-up saved them."""
    plain = create_model("r3d_18", num_classes=4, width=0.125)
    torch.save({"state_dict": {f"module.{k}": v for k, v in plain.state_dict().items()}}, tmp_path / "srtg_r3d_18.pth")
    report = load_weights(small(), tmp_path / "srtg_r3d_18.pth")
    sentence = "the weights are those of r3d_18 of width 0.125, the model is srtg_r3d_18 of width 0.125"
    assert sentence in report.notes[0] and "create_model('r3d_18', width=0.125, ...)" in report.notes[0]
    assert sentence in str(report) and sentence in caplog.text and "srtg_r3d_18.pth" in caplog.text
    assert report.left == () and {key.split(".")[2] for key in report.missing} == {"sar"}


def test_a_small_mtnet_under_the_name_of_xs():
    model = create_model("mtnet_xs", num_classes=4, width=0.125)
    report = load_weights(model, create_model("mtnet_s", num_classes=4, width=0.125).state_dict())
    assert "the weights are those of mtnet_s of width 0.125, the model is mtnet_xs" in str(report)
    assert report.missing == () and all(key.startswith(("layer3", "layer4")) for key in report.left)
    assert load_weights(model, create_model("mtnet_xs", num_classes=9, width=0.125).state_dict()).notes == ()


def test_another_architecture_is_named_in_the_error():
    wide = create_model("mtnet_xs", num_classes=9, width=0.25).state_dict()
    narrow = create_model("r3d_18", num_classes=4, width=0.125)
    with pytest.raises(
        ValueError, match=r"the weights are those of mtnet_xs of width 0.25, the model is r3d_18 of width 0.125"
    ):
        load_weights(narrow, {key: value for key, value in wide.items() if value.dim()})


def test_weights_trained_on_bgr():
    source = create_model("mtnet_xs", num_classes=4, width=0.125).eval()
    target = create_model("mtnet_xs", num_classes=4, width=0.125).eval()
    report = load_weights(target, source.state_dict(), colors="bgr")
    assert "BGR" in str(report) and "(104, 117, 124)" in str(report)
    clips = torch.randn(1, 3, 4, 64, 64)
    with torch.no_grad():
        expected = source.stem(clips.flip(1))
        assert torch.allclose(target.stem(clips), expected, atol=1e-5)
        assert not torch.allclose(target.stem(clips.flip(1)), expected, atol=1e-2)
    with pytest.raises(ValueError, match="colors='grb'"):
        load_weights(target, source.state_dict(), colors="grb")
    with pytest.raises(ValueError, match="no convolution over colors"):
        load_weights(target, {"fc.bias": torch.zeros(4)}, colors="bgr")
    with pytest.raises(ValueError, match=r"takes 8 channels, not 3"):
        load_weights(target, {"a.weight": torch.zeros(4, 8, 1, 1), "fc.bias": torch.zeros(4)}, colors="bgr")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod."])
def test_weights_of_compiled_networks(prefix):
    source, target = small(), small()
    assert load_weights(target, {prefix + key: value for key, value in source.state_dict().items()}).missing == ()
    wrapped = nn.DataParallel(small())
    assert load_weights(wrapped, source.state_dict()).missing == ()
    assert torch.equal(wrapped.module.fc.weight, source.fc.weight)
