"""Input specs: values, checks, and the specs of the registered networks."""

import dataclasses
import inspect
import json
import subprocess
import sys

import pytest

from vidseg.loaders.output import MEAN, STD
from vidseg.models import (
    InputSpec,
    _registry,
    create_model,
    list_models,
    model_input_spec,
    model_options,
    model_task,
    register_model,
)
from vidseg.models._input_spec import GTEA_MEAN, GTEA_STD, IMAGENET_MEAN, KINETICS_MEAN, SRTG_MEAN, SRTG_STD
from vidseg.tasks.streaming.recipes import RECIPES


def test_json_round_trip():
    spec = InputSpec(frames=8, sampling="segments", size=224, resize=256, color="bgr", mean=IMAGENET_MEAN)
    assert InputSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec
    assert InputSpec.from_dict({"frames": 8}) == dataclasses.replace(InputSpec(), frames=8)
    assert hash(spec) != hash(InputSpec())


@pytest.mark.parametrize(
    "values, said",
    [
        ({"frames": 0}, "frames=0 must be at least 1"),
        ({"interval": -1}, "interval=-1"),
        ({"size": 224, "resize": 112}, "size=224 does not fit"),
        ({"resize": 128, "crop": "stretch"}, "resize=128 has no effect"),
        ({"sampling": "sparse"}, "'sparse' is not one of dense, segments"),
        ({"color": "gbr"}, "'gbr' is not one of rgb, bgr"),
        ({"stack": 5}, "stack=5 has no effect with modality='rgb'"),
        ({"modality": "audio"}, "'audio' is not one of rgb, flow, motion, residual"),
        ({"std": (1, 0, 1)}, "must be above 0"),
        ({"mean": (0.5, 0.5)}, "three finite numbers"),
        ({"mean": (0.5, 0.5, float("nan"))}, "three finite numbers"),
        ({"frame": 3}, "no field 'frame'; did you mean 'frames'"),
        ({"zebra": 3}, "the fields are frames, interval"),
    ],
)
def test_refuses_values_out_of_range(values, said):
    with pytest.raises(ValueError, match=said):
        InputSpec.from_dict(values)


@pytest.mark.parametrize("values", [{"frames": "16"}, {"size": True}, {"size": 1.5}, {"mean": "abc"}, {"std": 0.5}])
def test_refuses_other_types(values):
    with pytest.raises(TypeError, match="input spec: "):
        InputSpec.from_dict(values)


def test_needs_no_torch():
    command = "import sys; from vidseg.models import InputSpec; InputSpec(); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", command], text=True).strip() == "False"


def test_the_loader_has_the_same_constants():
    assert (MEAN, STD) == (SRTG_MEAN, SRTG_STD)


@pytest.mark.parametrize("name", list_models())
def test_every_network_has_a_spec(name):
    spec = model_input_spec(name)
    modality = "features" if model_task(name) in ("segmentation", "detection") else "rgb"
    assert spec.modality == {"i3d_flow": "flow", "two_stream": "rgb+flow"}.get(name, modality)
    assert spec.channels == {"rgb": 3, "flow": 2, "rgb+flow": 5, "features": 0}[spec.modality]
    if name.startswith(("srtg_", "mtnet_")):
        assert (spec.mean, spec.std, spec.color) == (SRTG_MEAN, SRTG_STD, "rgb")


def test_specs_of_published_networks():
    assert model_input_spec("i3d_rgb").mean == model_input_spec("i3d_flow").std == (0.5, 0.5, 0.5)
    tsn, tsm = model_input_spec("tsn_r50"), model_input_spec("tsm_r101")
    assert (tsn.frames, tsm.frames, tsn.sampling, tsm.sampling, tsm.size) == (3, 8, "segments", "segments", 224)
    assert tsn.mean == IMAGENET_MEAN and KINETICS_MEAN != IMAGENET_MEAN


@pytest.mark.parametrize("name", list_models(task="streaming"))
def test_specs_of_streaming_networks_are_their_recipes(name):
    options, spec = RECIPES["gtea"][name].options, model_input_spec(name)
    assert (spec.frames, spec.interval) == (options["frames"], options["interval"])
    assert (spec.mean, spec.std) == (options["mean"], options["std"]) == (GTEA_MEAN, GTEA_STD)


def test_options_replace_values_of_the_spec():
    assert model_input_spec("transeger", frames=16, layers=2).frames == 16
    with pytest.raises(TypeError, match="r3d_18 has no option 'frames'"):
        model_input_spec("r3d_18", frames=16)


def test_options_come_from_the_factory():
    expected = {"placement": "final", "gate": False, "pool": True, "blocks": None, "width": 1.0, "in_channels": 3}
    assert model_options("srtg_r3d_18") == expected
    assert model_options("mstcn")["in_features"] == 2048


def test_an_option_without_default_is_required(monkeypatch):
    def factory(*, num_classes: int, depth: int) -> None:
        raise AssertionError("not reached")

    monkeypatch.setattr(_registry, "_ENTRIES", dict(_registry._ENTRIES))
    register_model("deep", factory)
    assert model_options("deep") == {"depth": inspect.Parameter.empty}
    with pytest.raises(TypeError, match="deep needs the option 'depth'"):
        create_model("deep", num_classes=3)


def test_built_in_names_cannot_be_registered_again():
    command = "from vidseg.models import register_model; register_model('mstcn', print)"
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert "'mstcn' is already registered" in result.stderr
