"""What networks cost: the published tables, counted; latency and memory, measured in the right order of size."""

import json

import pytest
import torch
from torch import nn

from vidseg.cli.main import main
from vidseg.models import _registry, create_model, list_models, prepare, register_model
from vidseg.models._profile import count_cost, input_shape, measure, training_batch

# 10^9 multiply-adds of 16 frames of 224 x 224 and of 264 x 264 pixels (rounded to thousandths, then to hundredths),
# parameters of recurrent layers.
PUBLISHED = {
    "r3d_18": (25.31, 35.68, 0),
    "srtg_r3d_18": (25.32, 35.70, 11_171_840),
    "srtg_r2plus1d_18": (22.95, 32.42, 11_171_840),
    "mtnet_xs": (15.91, 22.34, None),
    "mtnet_xs_g8": (6.01, 8.36, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_multiply_adds(name):
    *expected, recurrent = PUBLISHED[name]
    found = [count_cost(name, input_shape(name, size=size), num_classes=400) for size in (224, 264)]
    assert [cost.macs / 1e9 for cost in found] == pytest.approx(expected, abs=0.0056)
    assert found[0].flops == 2 * found[0].macs and found[0].counted_on == "meta"
    if recurrent is not None:
        assert found[0].recurrent == recurrent


def test_without_pool_as_before_november_2020():
    cost = count_cost("srtg_r3d_50", (1, 3, 16, 224, 224), num_classes=400, pool=False)
    assert cost.macs / 1e9 == pytest.approx(172.1, abs=0.051)


def test_published_parameters_and_buffers():
    cost = count_cost("srtg_r3d_34", input_shape("srtg_r3d_34", size=64), num_classes=400)
    assert (cost.parameters, cost.recurrent, cost.entries) == (83_861_072, 20_179_968, 346)
    model = create_model("srtg_r3d_34", num_classes=2)
    assert cost.buffers == 2 * sum(norm.num_features for norm in model.modules() if isinstance(norm, nn.BatchNorm3d))


class _Tagger(nn.Module):
    """A network of features that reads a value of its input, as meta tensors have none."""

    def __init__(self, *, num_classes: int, in_features: int, reads: bool = False):
        super().__init__()
        self.gru = nn.GRU(in_features, 5, num_layers=2)
        self.linear = nn.Linear(5, num_classes)
        self.reads = reads

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.reads and bool(features.isnan().any()):
            raise ValueError("nan")
        return self.linear(self.gru(features.permute(2, 0, 1))[0]).permute(1, 2, 0)


@pytest.fixture
def tagger(monkeypatch) -> str:
    monkeypatch.setattr(_registry, "_ENTRIES", dict(_registry._ENTRIES))
    register_model("tagger", _Tagger, task="segmentation")
    return "tagger"


@pytest.mark.parametrize("reads", [False, True])
def test_recurrent_layers_are_counted(tagger, reads):
    shape = input_shape(tagger, frames=7, in_features=3, batch=4)
    assert shape == (4, 3, 7)
    cost = count_cost(tagger, shape, num_classes=2, in_features=3, reads=reads)
    gates, steps = 3 * 5, 7
    assert cost.macs == steps * (gates * (3 + 5) + gates * (5 + 5) + 5 * 2)
    assert cost.recurrent == gates * (3 + 5 + 2) + gates * (5 + 5 + 2)
    assert cost.counted_on == ("cpu" if reads else "meta")
    assert cost.input == (1, 3, 7)


def test_measured_sizes():
    model = create_model("r3d_18", num_classes=3, width=0.125).eval()
    x = torch.randn(2, 3, 16, 64, 64)
    plain = measure(model, x, rounds=1)
    assert min(plain.inference_ms, plain.forward_ms, plain.backward_ms) > 0
    assert plain.weights_bytes == sum(value.nbytes for value in model.state_dict().values())
    assert not model.training and all(value.grad is None for value in model.parameters())
    stem = 2 * 8 * 16 * 32 * 32 * 4  # bytes of the stem's maps, three of which training keeps
    assert stem < plain.inference_bytes < 3.5 * stem < plain.training_bytes < 12 * stem
    saving = measure(prepare(create_model("r3d_18", num_classes=3, width=0.125), checkpointing=True), x, rounds=1)
    assert saving.training_bytes < plain.training_bytes
    with pytest.raises(ValueError, match="rounds=0"):
        measure(model, x, rounds=0)


@pytest.mark.parametrize("wrong", ["batch", "frames", "size", "in_features"])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{wrong}=0"):
        input_shape("r3d_18", **{wrong: 0})


# The command


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["profile", *arguments])
    return (status, *capsys.readouterr())


def test_command_prints_both_conventions(capsys):
    status, text, _ = run(capsys, "srtg_r3d_18", "--count-only")
    assert status == 0
    for part in (
        "44,543,312",
        "11,171,840",
        "44,552,912",
        "186 entries",
        "25.321 (a multiply-add counts as 1)",
        "50.641",
    ):
        assert part in text


def test_command_prints_tables(capsys):
    status, text, _ = run(capsys, "r3d_[13][84]", "--count-only", "--num-classes", "101", "--size", "64")
    assert status == 0
    assert [line.split(" | ")[0] for line in text.splitlines()] == ["| network", "| ---", "| r3d_18", "| r3d_34"]
    assert "| 33,218,085 |" in text


def test_command_measures(capsys):
    arguments = [
        "r3d_18",
        "--size",
        "48",
        "--frames",
        "8",
        "--network-option",
        "width=0.125",
        "--rounds",
        "1",
        "--device",
        "cpu",
    ]
    status, text, _ = run(capsys, *arguments, "--batch-size", "2", "--recompute", "--channels-last", "--json")
    (row,) = json.loads(text)
    assert status == 0
    assert row["input"] == [1, 3, 8, 48, 48] and row["batch"] == 2
    assert row["flops"] == 2 * row["macs"] > 0 and row["backward_ms"] > 0 and row["training_bytes"] > 0
    status, text, _ = run(capsys, *arguments, "--batch-size", "2")
    assert status == 0 and "training memory" in text


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["srgt_r3d_18"], "did you mean srtg_r3d_18"),
        (["r3d_18", "--network-option", "width"], "not of the form NAME=VALUE"),
        (["r3d_18", "--network-option", "placement=mid"], "no option 'placement'"),
        (["mtnet_xs", "--size", "16"], "at least 3 frames of 33x33"),
    ],
)
def test_wrong_use(capsys, arguments, said):
    status, text, error = run(capsys, *arguments, "--count-only")
    assert status == 2 and text == "" and said in error


def test_list_by_task(capsys):
    assert main(["models", "m*", "--task", "recognition", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list_models("mtnet_*")
    assert main(["models", "--task", "cooking"]) == 2
    assert "unknown task='cooking'; expected one of detection, flow, recognition" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["models", "list"])
def test_models_have_task_parameters_and_input(capsys, command):
    assert main([command, "srtg_r3d_[13]*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["network", *list_models("srtg_r3d_[13]*")]
    assert lines[1].split()[:3] == ["srtg_r3d_18", "recognition", "44,543,312"]
    assert "16 frames 112x112 rgb, interval 2" in lines[1]
    assert main([command, "tsn_r50"]) == 0
    assert "3 segments 224x224 rgb" in capsys.readouterr().out
    assert main([command, "nothing*"]) == 1
    assert main([command, "one", "two"]) == 2


def test_models_without_pattern_has_all_networks(capsys):
    assert main(["models", "--task", "segmentation"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list_models(task="segmentation")
    assert all("  features" in line for line in lines)


def test_a_training_step_that_needs_two_samples(capsys):
    """One clip of 32x32 pixels has a single value per channel in the last stage."""
    arguments = [
        "r3d_18",
        "--size",
        "32",
        "--frames",
        "8",
        "--network-option",
        "width=0.125",
        "--rounds",
        "1",
        "--device",
        "cpu",
    ]
    status, text, _ = run(capsys, *arguments, "--json")
    (row,) = json.loads(text)
    assert status == 0 and (row["batch"], row["training_batch"]) == (1, 2) and row["backward_ms"] > 0
    model = create_model("r3d_18", num_classes=3, width=0.125)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(1, 3, 8, 64, 64)
    assert training_batch(model, x) is x and training_batch(model, x[..., :32, :32]).shape[0] == 2
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
