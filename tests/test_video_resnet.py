"""Video ResNets of torchvision and IG-65M against the published ones: sizes and values."""

import pytest
import torch
from golden_vectors import made_input, made_weight, read_vector, relative_error

from vidseg.models import create_model, load_weights, model_input_spec, prepare
from vidseg.models._input_spec import KINETICS_MEAN, KINETICS_STD
from vidseg.models.video_resnet import NETWORKS

# Parameters with 400 classes.
SIZES = {
    "torchvision_r3d_18": 33_371_472,
    "torchvision_mc3_18": 11_695_440,
    "torchvision_r2plus1d_18": 31_505_325,
    "ig65m_r2plus1d_34": 63_697_175,
}


def published(vector: str) -> dict[str, torch.Tensor]:
    return {key: made_weight(key, shape, dtype) for key, shape, dtype in read_vector(vector)[0]["state"]}


@pytest.mark.parametrize("name", NETWORKS)
def test_published_size(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=400)
    assert sum(value.numel() for value in model.parameters()) == SIZES[name]


@pytest.mark.parametrize(
    "vector, name", [("torchvision_r3d_18", "torchvision_r3d_18"), ("r2plus1d_34_tsp", "ig65m_r2plus1d_34")]
)
def test_published_values(vector, name):
    spec, expected = read_vector(vector)
    model = create_model(name, num_classes=400).eval()
    assert list(model.state_dict()) == [key for key, *_ in spec["state"]]
    report = load_weights(model, published(vector))
    assert report.missing == report.left == report.notes == () and report.filled == 1
    assert report.input_spec == model_input_spec(name)
    _, shape, kind, seed = spec["inputs"][0]
    clips = made_input(shape, kind, seed)
    with torch.no_grad():
        maps = model.forward_features(clips)
        found = [maps, maps.mean(dim=(2, 3, 4)), model(clips)]
    assert max(relative_error(one, value) for one, value in zip(found, expected, strict=True)) < 1e-5


def test_published_values_of_the_encoder():
    """Of ETAD: frames in 0..1 to maps, with the normalization of the input spec."""
    spec, expected = read_vector("etad_encoder_r2plus1d34")
    model = create_model("ig65m_r2plus1d_34", num_classes=1).eval()
    report = load_weights(model, published("etad_encoder_r2plus1d34"), features_only=True)
    assert report.missing == ("fc.weight", "fc.bias")
    assert (report.input_spec.mean, report.input_spec.std) == (KINETICS_MEAN, KINETICS_STD)
    _, shape, kind, seed = spec["inputs"][0]
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (KINETICS_MEAN, KINETICS_STD))
    with torch.no_grad():
        maps = model.forward_features(((made_input(shape, kind, seed) - mean) / std).flatten(0, 1))
    found = [maps, maps.mean(dim=(2, 3, 4)).unflatten(0, (1, -1)).transpose(1, 2)]
    assert max(relative_error(one, value) for one, value in zip(found, expected, strict=True)) < 1e-5


def test_inner_widths_of_the_34_layers():
    """Those of IG-65M follow from each convolution, those of the plain network from the block."""
    shapes = {}
    for name in ("ig65m_r2plus1d_34", "r2plus1d_34"):
        with torch.device("meta"):
            model = create_model(name, num_classes=2)
        shapes[name] = [model.get_submodule(f"layer2.0.conv{number}")[0][0].out_channels for number in (1, 2)]
    assert shapes == {"ig65m_r2plus1d_34": [230, 288], "r2plus1d_34": [230, 230]}


def test_the_plain_network_without_pooling_has_the_values_of_torchvision():
    """The r2plus1d_18 of SRTG's code base differs by its pooling alone."""
    torch.manual_seed(0)
    ours = create_model("r2plus1d_18", num_classes=3, width=0.125, pool=False).eval()
    theirs = create_model("torchvision_r2plus1d_18", num_classes=3, width=0.125).eval()
    load_weights(theirs, dict(ours.state_dict()), network="torchvision_r2plus1d_18")
    clips = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours(clips), theirs(clips), atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_learns(name):
    torch.manual_seed(0)
    model = prepare(create_model(name, num_classes=3, width=0.125), checkpointing=True)
    clips = torch.randn(2, 3, 9, 33, 40)
    assert model.forward_features(clips).shape == (2, 64, 9 if "mc3" in name else 2, 3, 3)
    model(clips).square().sum().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []
    with pytest.raises(ValueError, match="width=0"):
        create_model(name, num_classes=3, width=0)
