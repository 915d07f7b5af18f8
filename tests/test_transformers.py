"""Video transformers against the published ones: values, keys, other lengths and sizes, stochastic depth, memory."""

import re

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import made_input, made_weight, read_vector, relative_error
from torch import nn

from vidseg.models import create_model, list_models, load_weights, model_input_spec, prepare
from vidseg.models._identify import identify
from vidseg.models._transformer import Block, DropPath, cut_patches
from vidseg.models.timesformer import TimeSformer, TimeSformerDesign
from vidseg.models.videomae import VideoMae, VideoMaeDesign, sine_positions
from vidseg.models.vjepa2 import VJepa2, VJepa2Design, rotary_tables

NAMES = ("videomae_base", "vjepa2_large", "timesformer_base")
# Classes and parameters of the modules of transformers; those of V-JEPA 2 without the predictor.
SIZES = {
    "videomae_small": (400, 22_033_936),
    "videomae_base": (400, 86_534_800),
    "videomae_large": (400, 304_270_736),
    "vjepa2_large": (174, 353_399_982),
    "vjepa2_huge": (174, 708_942_254),
    "vjepa2_giant": (174, 1_105_668_142),
    "timesformer_base": (400, 121_566_352),
}
ORACLE = "transformers"


def small(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    grid = {} if name.startswith("vjepa2") else {"frames": 4, "size": 32}
    return create_model(name, num_classes=3, **({"width": 0.125, "layers": 2, **grid} | options))


def tiny(name: str) -> nn.Module:
    """The network of a golden vector."""
    if name == "videomae_base":
        return create_model(name, num_classes=400)
    if name == "vjepa2_tiny":
        return VJepa2(VJepa2Design(192, 4, 4), num_classes=20, probe_layers=2)
    return TimeSformer(TimeSformerDesign(192, 3, 4), num_classes=20, frames=4, size=64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["videomae_base", "vjepa2_tiny", "timesformer_tiny"])
def test_published_values(name):
    spec, expected = read_vector(name)
    model, found = tiny(name).eval(), []
    state = {key: made_weight(key, shape, dtype) for key, shape, dtype in spec["state"]}
    report = load_weights(model, state)
    predictor = sum(value.numel() for key, value in state.items() if ".predictor." in key)
    assert sum(value.numel() for value in model.parameters()) + predictor == spec["params"]
    assert report.filled == 1 and all(".predictor." in f".{key}" for key in report.left)
    model.blocks[-1].label_only = False  # for TimeSformer: the vector has all tokens
    model.blocks.register_forward_hook(lambda _, inputs, output: found.append(output))
    ((_, shape, kind, seed),) = spec["inputs"]
    with torch.no_grad():
        logits = model(made_input(shape, kind, seed).transpose(1, 2))
    last = found[0]
    if name == "vjepa2_tiny":
        last = last[0]
    elif name == "timesformer_tiny":
        last = torch.cat((last[0], last[1].flatten(1, 2)), dim=1)
    assert relative_error(last, expected[0]) < 1e-5
    assert relative_error(logits, expected[1]) < 1e-5
    model.blocks[-1].label_only = True
    with torch.no_grad():
        assert torch.allclose(model(made_input(shape, kind, seed).transpose(1, 2)), logits, rtol=1e-4)


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=SIZES[name][0])
    assert sum(value.numel() for value in model.parameters()) == SIZES[name][1]
    assert model.num_layers == len(model.blocks) + 1


# Keys of other publications


def authors_names(state: dict) -> dict:
    return {re.sub(r"\.qkv\.([qv]_bias)$", r".\1", key): value for key, value in state.items()}


def separate(state: dict, heads: dict[str, str]) -> dict:
    """The entries with three projections for queries, keys and values, as transformers has them."""
    found = {}
    for key, value in state.items():
        for pattern, replacement in heads.items():
            key = re.sub(pattern, replacement, key)
        if ".qkv." in key:
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[key.replace(".qkv.", f".{name}.")] = part
        else:
            found[key] = value
    return found


@pytest.mark.parametrize(
    "name, wrap",
    [
        ("videomae_base", lambda state: {"module": authors_names(state)}),
        ("videomae_base", lambda state: {f"model.{key}": value for key, value in authors_names(state).items()}),
        (
            "videomae_base",
            lambda state: separate(
                state,
                {
                    r"^blocks\.": "videomae.encoder.layer.",
                    r"\.qkv\.([qv])_bias": r".\1_bias",
                    r"\.attn\.proj": ".attention.output.dense",
                    r"\.attn\.": ".attention.attention.",
                    r"\.mlp\.fc1": ".intermediate.dense",
                    r"\.mlp\.fc2": ".output.dense",
                    r"\.norm1": ".layernorm_before",
                    r"\.norm2": ".layernorm_after",
                    r"^patch_embed\.proj": "videomae.embeddings.patch_embeddings.projection",
                    r"^head": "classifier",
                },
            ),
        ),
        ("vjepa2_large", lambda state: state | {"predictor.proj.weight": torch.zeros(2, 2)}),
        ("timesformer_base", lambda state: {"model_state": {f"model.{key}": value for key, value in state.items()}}),
    ],
)
def test_keys_of_publications(name, wrap):
    source, model = small(name), small(name)
    for value in model.parameters():
        nn.init.zeros_(value)
    report = load_weights(model, wrap(source.state_dict()))
    assert report.filled == 1 and report.missing == ()
    for key, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key


def test_encoder_and_probe_of_vjepa2_are_separate_files():
    source, model = small("vjepa2_large"), small("vjepa2_large", layers=2)
    for value in model.parameters():
        nn.init.zeros_(value)
    state = source.state_dict()
    probe = {key: value for key, value in state.items() if key.startswith(("pooler.", "linear."))}
    encoder = {f"module.backbone.{key}": value for key, value in state.items() if key not in probe}
    heads = load_weights(
        model, {"classifiers": [{f"module.{key}": value for key, value in probe.items()}]}, strict=False
    )
    trunk = load_weights(model, {"epoch": 1, "target_encoder": encoder}, strict=False)
    assert {*heads.taken, *trunk.taken} == set(state) and heads.left == trunk.left == ()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_pretraining_without_a_classifier_needs_strict_off():
    state = small("videomae_small").state_dict()
    encoder = {
        f"encoder.{key}": value for key, value in authors_names(state).items() if key.startswith(("blocks", "patch"))
    }
    encoder |= {
        "decoder.blocks.0.norm1.weight": torch.ones(3),
        "mask_token": torch.zeros(1),
        "encoder.norm.weight": torch.ones(48),
    }
    model = small("videomae_small")
    with pytest.raises(ValueError, match=r"not in the file: 4 \(fc_norm.weight, fc_norm.bias, head.weight"):
        load_weights(model, encoder)
    assert set(load_weights(model, encoder, strict=False).missing) == {
        key for key in state if "head" in key or "fc_" in key
    }


def test_published_networks_are_identified():
    with torch.device("meta"):
        shapes = {
            name: {key: tuple(value.shape) for key, value in create_model(name, num_classes=5).state_dict().items()}
            for name in ("videomae_small", "videomae_base", "videomae_large", *NAMES, "vjepa2_huge", "vjepa2_giant")
        }
    for name, found in shapes.items():
        assert identify(found) == ((name,), 1.0)
    spec, _ = read_vector("videomae_base")
    assert identify({key: tuple(shape) for key, shape, _ in spec["state"]}) == (("videomae_base",), 1.0)


def test_weights_of_another_network_are_named():
    spec, _ = read_vector("videomae_base")
    state = {key: torch.zeros(1).expand(shape) for key, shape, _ in spec["state"]}
    with pytest.raises(ValueError, match="the weights are those of videomae_base"):
        load_weights(create_model("r3d_18", num_classes=400), state)
    with torch.device("meta"):
        wrong = create_model("timesformer_base", num_classes=400, layers=12)
    with pytest.raises(ValueError, match="the weights are those of videomae_base, the model is timesformer_base"):
        load_weights(wrong, state)


# Inputs


@pytest.mark.parametrize("name", list_models("videomae_*") + list_models("vjepa2_*") + list_models("timesformer_*"))
def test_other_lengths_and_sizes(name):
    model = small(name).eval()
    with torch.no_grad():
        for frames, height, width in ((4, 32, 32), (2, 48, 16), (6, 16, 64)):
            assert model(torch.randn(2, 3, frames, height, width)).isfinite().all()
    spec = model_input_spec(name)
    assert (spec.size % 16, spec.frames % 2, spec.color) == (0, 0, "rgb")


@pytest.mark.parametrize(
    "name, shape, words",
    [
        ("videomae_small", (1, 3, 3, 32, 32), r"T=3 must be a multiple of 2 frames, at least 2"),
        ("videomae_small", (1, 3, 4, 8, 32), r"H=8 must be a multiple of 16 pixels, at least 16"),
        ("vjepa2_large", (1, 3, 1, 32, 32), r"T=1 must be a multiple of 2 frames, at least 2; choose another --frames"),
        ("timesformer_base", (1, 3, 4, 32, 40), r"W=40 must be a multiple of 16 pixels.*--size"),
        ("timesformer_base", (1, 2, 4, 32, 32), r"clips must be \(B, 3, T, H, W\)"),
    ],
)
def test_clips_that_cannot_be_divided(name, shape, words):
    with pytest.raises(ValueError, match=words):
        small(name)(torch.zeros(shape))


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("videomae_small", {"frames": 3}, "frames=3"),
        ("videomae_small", {"width": 0}, "width=0 must be positive"),
        ("videomae_small", {"layers": 0}, "layers=0"),
        ("timesformer_base", {"size": 40}, "size=40"),
        ("vjepa2_large", {"drop_path": 1.0}, r"drop_path=1.0 must be in \[0, 1\)"),
        ("vjepa2_large", {"probe_layers": -1}, "probe_layers=-1"),
    ],
)
def test_options_out_of_range(name, options, words):
    with pytest.raises(ValueError, match=words):
        small(name, **options)


def test_positions_of_videomae():
    model = small("videomae_small")
    table = model.positions
    assert torch.equal(table, sine_positions(8, 48)) and table[0, :4].tolist() == [0, 1, 0, 1]
    assert table[3, 0] == pytest.approx(0.14112, abs=1e-5) and "positions" not in model.state_dict()
    same = model._positions((2, 2, 2))
    assert torch.equal(same.flatten(0, 2), table)
    longer = model._positions((4, 2, 2))
    # The middle of twice as many steps lies between those of the table.
    assert torch.allclose(longer[1], 0.75 * same[0] + 0.25 * same[1], atol=1e-6)


def test_positions_of_timesformer_are_the_nearest():
    model = small("timesformer_base")
    nn.init.normal_(model.time_embed)
    assert torch.equal(model._times(8)[0, ::2], model.time_embed[0])
    assert torch.equal(model._positions(4, 2)[0, ::4], model.pos_embed[0, [1, 3]])


def test_rotary_positions_are_relative():
    """Moving all tokens by the same number of patches does not change the products of queries and keys along one axis
    whose frequencies of a pair agree; as published, they differ, so this holds for a part of two channels only."""
    cosines, sines = rotary_tables((5, 1, 1), 6, device=torch.device("cpu"), dtype=torch.float64)
    x = torch.randn(2, 6, dtype=torch.float64)

    def turned(vector, place):
        swapped = vector.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        return vector * cosines[place, 0, 0] + swapped * sines[place, 0, 0]

    products = [turned(x[0], place) @ turned(x[1], place + 2) for place in range(3)]
    assert torch.allclose(torch.stack(products), products[0].expand(3))
    assert not torch.allclose(turned(x[0], 1) @ turned(x[1], 2), products[0])
    part = rotary_tables((2, 2, 2), 64, device=torch.device("cpu"), dtype=torch.float32)
    assert part[0][:, 0, 0, 60:].eq(1).all() and part[1][:, 0, 0, 60:].eq(0).all()


def test_patches_are_those_of_the_convolution():
    clips = torch.randn(2, 3, 4, 32, 48)
    convolution = nn.Conv3d(3, 5, (2, 16, 16), (2, 16, 16))
    patches = cut_patches(clips, tubelet=2)
    found = patches @ convolution.weight.flatten(1).T + convolution.bias
    assert torch.allclose(found.permute(0, 4, 1, 2, 3), convolution(clips), atol=1e-4)


# Attention, stochastic depth, memory


@pytest.mark.parametrize("name, calls", [("videomae_base", 2), ("vjepa2_large", 2 + 3 + 1), ("timesformer_base", 4)])
def test_all_attention_is_scaled_dot_product_attention(name, calls, monkeypatch):
    count, real = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: count.append(1) or real(*a, **k))
    small(name)(torch.randn(1, 3, 4, 32, 32))
    assert len(count) == calls


def test_drop_path_omits_branches_of_samples():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    kept = drop(x)
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(kept[:, 0, 0], kept[:, 1, 2]) and kept.mean().item() == pytest.approx(1, abs=0.03)
    assert drop.eval()(x) is x


@pytest.mark.parametrize("name", NAMES)
def test_drop_path_rises_with_depth_and_follows_the_seed(name):
    model = small(name, layers=3, drop_path=0.8)
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx([0, 0.4, 0.8])
    if name == "timesformer_base":
        for block in model.blocks:
            nn.init.normal_(block.temporal_fc.weight, std=0.1)
    clips = torch.randn(4, 3, 4, 32, 32)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(clips))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    model.eval()
    assert torch.equal(model(clips), model(clips))


@pytest.mark.parametrize("name", NAMES)
def test_recomputation_gives_the_same_gradients(name):
    gradients = []
    for recompute in (False, True):
        model = prepare(small(name, drop_path=0.5, dropout=0.3), checkpointing=recompute)
        torch.manual_seed(7)
        model(torch.randn(2, 3, 4, 32, 32)).square().sum().backward()
        gradients.append([value.grad for value in model.parameters()])
    assert all(value is not None and torch.equal(value, other) for value, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_gradient(name):
    model = small(name)
    model(torch.randn(2, 3, 4, 32, 32)).square().sum().backward()
    without = [key for key, value in model.named_parameters() if value.grad is None]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_on_the_cpu(name):
    model, clips = small(name).eval(), torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(clips)
    with torch.no_grad():
        assert torch.allclose(low.float(), model(clips), atol=0.05)


def test_the_keys_of_videomae_have_no_bias():
    block = Block(16, 2, hidden=32, key_bias=False)
    assert {name for name, _ in block.attn.qkv.named_parameters()} == {"weight", "q_bias", "v_bias"}
    assert VideoMae(VideoMaeDesign(32, 1, 2), num_classes=2).blocks[0].attn.heads == 2


# The modules of transformers, where they are installed


def oracle(name: str):
    """A small network of transformers with random weights, the same network here, and its clips."""
    transformers = pytest.importorskip(ORACLE)
    torch.manual_seed(0)
    common = {"image_size": 32, "num_frames": 4, "num_labels": 3, "num_hidden_layers": 2}
    if name == "videomae_base":
        config = transformers.VideoMAEConfig(hidden_size=96, num_attention_heads=12, intermediate_size=384, **common)
        other = transformers.VideoMAEForVideoClassification(config)
    elif name == "vjepa2_large":
        config = transformers.VJEPA2Config(
            crop_size=32, frames_per_clip=4, hidden_size=128, num_hidden_layers=2, num_attention_heads=16, num_labels=3,
            pred_hidden_size=24, pred_num_attention_heads=3, pred_num_hidden_layers=1,
        )  # fmt: skip
        other = transformers.VJEPA2ForVideoClassification(config)
    else:
        config = transformers.TimesformerConfig(hidden_size=96, num_attention_heads=12, intermediate_size=384, **common)
        other = transformers.TimesformerForVideoClassification(config)
    for value in other.parameters():
        nn.init.normal_(value, std=0.2)
    return other, small(name), torch.randn(2, 4, 3, 32, 32)


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_of_transformers(name):
    other, model, clips = oracle(name)
    load_weights(model, other.state_dict())
    clips.requires_grad_(True)
    results = []
    for network, inputs in ((other, clips), (model, clips.transpose(1, 2))):
        output = network.eval()(inputs)
        logits = output if torch.is_tensor(output) else output.logits
        results.append((logits, *torch.autograd.grad(logits.square().sum(), clips)))
    for found, expected in zip(results[1], results[0], strict=True):
        assert (found - expected).norm() < 1e-5 * expected.norm()
