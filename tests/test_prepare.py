"""Options of running: channels last, compiled, checkpointed; the results are those of the plain network."""

import copy

import pytest
import torch
from torch import nn

from vidseg.models import create_model, model_options, prepare
from vidseg.models._stage import Stage

NETWORKS = ["srtg_r3d_18", "r2plus1d_50", "mtnet_xs", "slowfast_r50_8x8", "x3d_s", "tsm_mobilenet_v2"]


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    # Blocks that start as identities would have no gradients to compare.
    options = {"zero_init": False} if "zero_init" in model_options(name) else {}
    return create_model(name, num_classes=3, width=0.125, **options)


def trained(model: nn.Module, steps: int = 2) -> dict[str, torch.Tensor]:
    """Logits of each step, all gradients of the last one, and the buffers that are left."""
    found, dtype = {}, next(model.parameters()).dtype
    for step in range(steps):
        clips = torch.randn(2, 3, 8, 40, 48, generator=torch.Generator().manual_seed(step)).to(dtype)
        model.zero_grad()
        found[f"logits {step}"] = model(clips)
        found[f"logits {step}"].square().sum().backward()
        found[f"logits {step}"] = found[f"logits {step}"].detach()
    found |= {f"gradient of {key}": value.grad for key, value in model.named_parameters()}
    return found | {f"buffer {key}": value.clone() for key, value in model.named_buffers()}


def assert_same(found: dict, expected: dict, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        difference = (found[key] - value).double().norm()
        assert difference <= tolerance * max(1e-3, value.double().norm()), key


@pytest.mark.parametrize("name", NETWORKS)
def test_checkpointing_changes_nothing(name):
    expected, model = trained(small(name)), small(name)
    keys = list(model.state_dict())
    assert prepare(model, checkpointing=True) is model
    assert_same(trained(model), expected, 0.0)
    assert list(model.state_dict()) == keys
    prepare(model, checkpointing=False)
    assert not any(module.checkpointing for module in model.modules() if isinstance(module, Stage))


def test_checkpointing_keeps_only_the_inputs_of_blocks():
    def kept(checkpointing: bool) -> int:
        model = prepare(small("srtg_r3d_18"), checkpointing=checkpointing)
        sizes: dict[int, int] = {}

        def pack(value: torch.Tensor) -> torch.Tensor:
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            model.layer2(model.layer1(torch.randn(2, 8, 8, 24, 24, requires_grad=True)))
        return sum(sizes.values())

    assert kept(True) < 0.4 * kept(False)


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_last_changes_only_the_layout(name):
    expected, model = trained(small(name).double()), prepare(small(name).double(), channels_last=True)
    assert_same(trained(model), expected, 1e-8)
    model = prepare(small(name), channels_last=True)
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    clips = torch.randn(2, 3, 8, 40, 48)
    maps = first(clips if isinstance(first, nn.Conv3d) else clips[:, :, 0])
    layout = torch.channels_last_3d if maps.dim() == 5 else torch.channels_last
    assert maps.is_contiguous(memory_format=layout) and not maps.is_contiguous()


def test_channels_last_reaches_pictures_and_leaves_vectors():
    model = prepare(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv1d(4, 8, 3)), channels_last=True)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[1].weight.is_contiguous()


@pytest.mark.parametrize("part", ["layer2", "layer4"])
def test_compiled_parts_compute_the_same(part):
    torch.manual_seed(0)
    stage = getattr(create_model("srtg_r3d_18", num_classes=3, width=0.125).double(), part)[:1]
    x = torch.randn(2, stage[0].conv1[0][0].in_channels, 4, 6, 6, dtype=torch.float64)
    expected = copy.deepcopy(stage)(x)
    keys = list(stage.state_dict())
    compiled: list[torch.fx.GraphModule] = []

    def compiler(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    torch.compiler.reset()
    torch._dynamo.register_backend(compiler, name=f"counting_{part}")
    assert prepare(stage, compile=f"counting_{part}") is stage
    assert torch.allclose(stage(x), expected, rtol=1e-10, atol=1e-12)
    assert compiled and list(stage.state_dict()) == keys


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="Linear has no stages"):
        prepare(nn.Linear(2, 2), checkpointing=True)
    with pytest.raises(ValueError, match="compile='inductr'"):
        prepare(nn.Linear(2, 2), compile="inductr")
    with pytest.raises(ValueError, match="exclude each other"):
        prepare(small("r3d_18"), compile=True, checkpointing=True)
