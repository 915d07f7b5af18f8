"""Loading of weights: containers and keys of several publications, errors, input specs of files."""

import dataclasses
import pickle

import pytest
import torch
from torch import nn

from vidseg.loaders.output import OutputForm
from vidseg.models import InputSpec, create_model, load_weights, model_input_spec
from vidseg.models._input_spec import KINETICS_MEAN, SRTG_MEAN, SRTG_STD
from vidseg.tasks import load_trained


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
    report = load_weights(target, state, strict=False)
    assert report.left == ("fc.weight", "fc.bias", "extra.weight")
    assert report.missing == ("stem.0.weight", "fc.weight", "fc.bias")
    assert report.reshaped == ("fc.weight", "fc.bias") and report.notes == ()
    assert torch.equal(target.fc.weight, before)
    assert torch.equal(target.layer4[1].sar.lstm.weight_hh_l1, source.layer4[1].sar.lstm.weight_hh_l1)
    assert "fc.weight" in str(report)
    size = sum(value.numel() for key, value in target.state_dict().items() if not key.endswith("tracked"))
    absent = target.stem[0].weight.numel() + target.fc.weight.numel() + target.fc.bias.numel()
    assert report.filled == pytest.approx(1 - absent / size)


def test_weights_that_do_not_fit_at_all(tmp_path):
    with pytest.raises(ValueError, match="none of the 1 entries agrees"):
        load_weights(small(), {"encoder.weight": torch.zeros(3)})
    with pytest.raises(FileNotFoundError, match="absent"):
        load_weights(small(), tmp_path / "absent.pth")
    torch.save({"epoch": 1, "lr": 0.1}, tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"none\.pth: expected a state dict, found the top-level entries epoch, lr"):
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
    with pytest.raises(ValueError, match=rf"damaged{suffix}: .*damaged"):
        load_weights(small(), path)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list.pth: expected a state dict, found an object of type list"):
        load_weights(small(), tmp_path / "list.pth")


def test_a_plain_network_under_an_srtg_name(tmp_path, caplog):
    """As the published look-up saved them."""
    plain = create_model("r3d_18", num_classes=4, width=0.125)
    torch.save({"state_dict": {f"module.{k}": v for k, v in plain.state_dict().items()}}, tmp_path / "srtg_r3d_18.pth")
    report = load_weights(small(), tmp_path / "srtg_r3d_18.pth", strict=False)
    sentence = "the weights are those of r3d_18 of width 0.125, the model is srtg_r3d_18 of width 0.125"
    assert sentence in report.notes[0] and "create_model('r3d_18', width=0.125, ...)" in report.notes[0]
    assert sentence in str(report) and sentence in caplog.text and "srtg_r3d_18.pth" in caplog.text
    assert report.left == () and {key.split(".")[2] for key in report.missing} == {"sar"}


def test_a_small_mtnet_under_the_name_of_xs():
    model = create_model("mtnet_xs", num_classes=4, width=0.125)
    report = load_weights(model, create_model("mtnet_s", num_classes=4, width=0.125).state_dict(), strict=False)
    assert "the weights are those of mtnet_s of width 0.125, the model is mtnet_xs" in str(report)
    assert report.missing == () and all(key.startswith(("layer3", "layer4")) for key in report.left)
    assert (
        load_weights(model, create_model("mtnet_xs", num_classes=9, width=0.125).state_dict(), strict=False).notes == ()
    )


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
    with pytest.raises(ValueError, match="colors='grb' must be 'rgb' or 'bgr'"):
        load_weights(target, source.state_dict(), colors="grb")
    with pytest.raises(ValueError, match="the file has no convolution"):
        load_weights(target, {"fc.bias": torch.zeros(4)}, colors="bgr", strict=False)
    with pytest.raises(ValueError, match=r"has 8 input channels, not 3"):
        load_weights(
            target, {"a.weight": torch.zeros(4, 8, 1, 1), "fc.bias": torch.zeros(4)}, colors="bgr", strict=False
        )


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod."])
def test_weights_of_compiled_networks(prefix):
    source, target = small(), small()
    assert load_weights(target, {prefix + key: value for key, value in source.state_dict().items()}).missing == ()
    wrapped = nn.DataParallel(small())
    assert load_weights(wrapped, source.state_dict()).missing == ()
    assert torch.equal(wrapped.module.fc.weight, source.fc.weight)


# Errors


def refusal(model: nn.Module, source, **options) -> str:
    """Return the error message of `load_weights`, which must not change the model."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_weights(model, source, **options)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return str(caught.value)


def test_an_entry_that_stays_random_is_refused(tmp_path):
    state = small().state_dict()
    del state["layer2.0.conv1.0.0.weight"]
    torch.save(state, tmp_path / "w.pth")
    said = refusal(small(), tmp_path / "w.pth")
    assert "w.pth does not fit the SrtgResNet: not in the file: 1 (layer2.0.conv1.0.0.weight)" in said
    assert "strict=False copies the entries that fit" in said
    assert load_weights(small(), tmp_path / "w.pth", strict=False).filled < 1


def test_an_entry_that_is_not_used_is_refused():
    said = refusal(small(), small().state_dict() | {"extra.weight": torch.zeros(1)})
    assert "not in the network: 1 (extra.weight)" in said


def test_other_classes_are_refused():
    said = refusal(small(4), small(9).state_dict())
    assert "shapes differ: 2 (fc.weight (9, 64), network (4, 64), fc.bias (9,), network (4,))" in said
    report = load_weights(small(4), small(9).state_dict(), features_only=True)
    assert report.missing == ("fc.weight", "fc.bias")
    assert "stem.0.weight" in refusal(small(4), {"fc.bias": torch.zeros(4)}, features_only=True)


def test_another_network_is_refused_and_named():
    said = refusal(
        create_model("tsm_r50", num_classes=4, width=0.125),
        create_model("tsn_r50", num_classes=4, width=0.125).state_dict(),
    )
    assert "the weights are those of tsn_r50 of width 0.125, the model is tsm_r50" in said
    said = refusal(create_model("mstcn", num_classes=3), create_model("asformer", num_classes=3).state_dict())
    assert "the keys of the file are those of asformer" in said


def test_counters_may_be_missing():
    """Files from before PyTorch 0.4.1 have none."""
    source, target = small(), small()
    state = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    report = load_weights(target, state)
    assert report.missing == () and report.filled == 1


# Networks with the same entries


def r2plus1d(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=4, width=0.125).eval()


@pytest.mark.parametrize(
    "name, other", [("r2plus1d_18", "torchvision_r2plus1d_18"), ("torchvision_r2plus1d_18", "r2plus1d_18")]
)
def test_networks_with_the_same_entries_are_identified(tmp_path, name, other):
    source = r2plus1d(name)
    torch.save(source.state_dict(), tmp_path / "bare.pth")  # has the paths of the modules
    plain = dict(source.state_dict())
    torch.save({"state_dict": plain, "epoch": 1, "record": {"options": {"network": name}}}, tmp_path / "run.pth")
    for path in (tmp_path / "bare.pth", tmp_path / "run.pth"):
        assert load_weights(r2plus1d(name), path).missing == ()
        said = refusal(r2plus1d(other), path)
        assert f"the weights are those of {name} of width 0.125, the model is {other}" in said
        assert f"those of {name} " in str(load_weights(r2plus1d(other), path, strict=False))
    said = refusal(r2plus1d(name), plain)
    assert "fit r2plus1d_18 and torchvision_r2plus1d_18" in said and f"network='{name}'" in said
    assert load_weights(r2plus1d(name), plain, network=name).notes == ()
    assert f"those of {name} " in refusal(r2plus1d(other), plain, network=name)


def test_checkpoints_of_the_srtg_programs_are_identified(tmp_path):
    state = {f"module.{key}": value for key, value in r2plus1d("r2plus1d_18").state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, tmp_path / "w.pth")
    assert load_weights(r2plus1d("r2plus1d_18"), tmp_path / "w.pth").input_spec.color == "bgr"
    refusal(r2plus1d("torchvision_r2plus1d_18"), tmp_path / "w.pth")


def test_files_of_tsp(tmp_path):
    """A trunk with another prefix and two classifiers; and the encoder alone, as used by ETAD."""
    source = create_model("ig65m_r2plus1d_34", num_classes=4, width=0.125)
    trunk = {f"module.features.{key}": value for key, value in source.state_dict().items() if not key.startswith("fc.")}
    heads = {"module.fc1.weight": source.fc.weight.detach(), "module.fc1.bias": source.fc.bias.detach()}
    heads |= {"module.fc2.weight": torch.zeros(2, 128), "module.fc2.bias": torch.zeros(2)}
    torch.save({"model": trunk | heads, "epoch": 7, "args": None}, tmp_path / "tsp.pth")
    target = create_model("ig65m_r2plus1d_34", num_classes=4, width=0.125)
    report = load_weights(target, tmp_path / "tsp.pth")
    assert report.missing == () and report.left == ("fc2.weight", "fc2.bias")
    assert report.input_spec == model_input_spec("ig65m_r2plus1d_34") and report.input_spec.mean == KINETICS_MEAN
    assert torch.equal(target.fc.weight, source.fc.weight)
    other = create_model("ig65m_r2plus1d_34", num_classes=1, width=0.125)
    assert load_weights(other, trunk, features_only=True).missing == ("fc.weight", "fc.bias")
    assert "not in the file: 2 (fc.weight, fc.bias)" in refusal(other, trunk)
    plain = create_model("r2plus1d_34", num_classes=4, width=0.125)
    assert "the weights are those of ig65m_r2plus1d_34 of width 0.125" in refusal(plain, tmp_path / "tsp.pth")


# Input specs of files


def test_checkpoints_of_runs_have_an_input_spec(tmp_path):
    spec = InputSpec(frames=8, size=64, mean=(0.1, 0.2, 0.3))
    for place in ({"input_spec": spec.as_dict()}, {"record": {"input_spec": spec.as_dict()}}):
        torch.save({"state_dict": dict(small().state_dict()), "epoch": 1, **place}, tmp_path / "run.pth")
        assert load_weights(small(), tmp_path / "run.pth").input_spec == spec
    torch.save({"state_dict": dict(small().state_dict()), "epoch": 1, "input_spec": {"frame": 3}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: input spec: no field 'frame'"):
        load_weights(small(), tmp_path / "w.pth")


def test_recognized_weights_have_an_input_spec(tmp_path):
    i3d = create_model("i3d_rgb", num_classes=4, width=0.125)
    assert load_weights(i3d, i3d.state_dict()).input_spec == model_input_spec("i3d_rgb")
    torch.save({"state_dict": dict(i3d.state_dict()), "epoch": 1}, tmp_path / "run.pth")
    assert load_weights(i3d, tmp_path / "run.pth").input_spec is None  # of a run that does not record it
    assert load_weights(small(), small().state_dict()).input_spec is None


@pytest.mark.parametrize("colors", ["rgb", "bgr"])
def test_published_srtg_weights_get_the_input_of_their_training(tmp_path, colors):
    """The weights were trained on BGR frames, from which (124, 117, 104) were subtracted in this order."""
    source = create_model("srtg_r3d_18", num_classes=200, width=0.125).eval()
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    torch.save({"epoch": 60, "state_dict": state, "optimizer": {}}, tmp_path / "srtg_r3d_18_ep-0060.pth")
    model = create_model("srtg_r3d_18", num_classes=200, width=0.125).eval()
    spec = load_weights(model, tmp_path / "srtg_r3d_18_ep-0060.pth", colors=colors).input_spec
    assert spec == dataclasses.replace(
        InputSpec(),
        interval=2,
        size=256,
        resize=294,
        mean=(104 / 255, 117 / 255, 124 / 255),
        color="rgb" if colors == "bgr" else "bgr",
    )
    pixels = torch.randint(256, (1, 4, 32, 32, 3), dtype=torch.uint8)
    clips = OutputForm(color=spec.color, mean=spec.mean, std=spec.std).from_pixels(pixels)
    blue_first = pixels.flip(-1).double() / 255
    published = ((blue_first - torch.tensor(SRTG_MEAN)) / torch.tensor(SRTG_STD)).permute(0, 4, 1, 2, 3).float()
    with torch.no_grad():
        assert torch.allclose(model(clips), source(published), atol=1e-5)
        wrong = OutputForm(color=spec.color).from_pixels(pixels)  # the mean of the other end of the spectrum
        assert not torch.allclose(model.stem(wrong), source.stem(published), atol=1e-2)


def test_torchvision_weights_load_and_predict(tmp_path):
    """The file has the keys of torchvision and no metadata, as the published one."""
    source = create_model("torchvision_r3d_18", num_classes=400).eval()
    torch.save(dict(source.state_dict()), tmp_path / "r3d_18.pth")
    trained = load_trained(tmp_path / "r3d_18.pth", network="torchvision_r3d_18")
    assert trained.input_spec == model_input_spec("torchvision_r3d_18") and trained.input_spec.mean == KINETICS_MEAN
    assert len(trained.classes) == 400
    clips = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.allclose(trained.predict(clips), source(clips).softmax(dim=1), atol=1e-6)
