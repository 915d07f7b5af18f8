"""SlowFast, Slow, C2D and I3D with a ResNet, X3D, TSN and TSM of every trunk, against the published networks."""

import functools
import re
from dataclasses import replace

import pytest
import torch
from golden_vectors import made_input, made_weight, read_vector, relative_error
from torch import nn

from vidseg.models import create_model, load_weights, model_input_spec, prepare
from vidseg.models._identify import identify
from vidseg.models._input_spec import IMAGENET_MEAN, IMAGENET_STD
from vidseg.models._profile import count_cost, input_shape
from vidseg.models.mobilenet_tsm import own_key as mobilenet_key
from vidseg.models.slowfast import slow_frames

# Published sizes with 400 classes: parameters; frames, side and 10^9 multiply-adds of a clip.
COSTS = {
    "slow_r50_4x16": (32_454_096, 4, 256, 27.55),
    "slow_r50_8x8": (32_454_096, 8, 256, 54.52),
    "c2d_r50": (24_327_632, 8, 256, 25.89),
    "i3d_r50": (28_043_472, 8, 256, 37.53),
    "slowfast_r50_4x16": (34_480_216, 32, 256, 36.69),
    "slowfast_r50_8x8": (34_566_488, 32, 256, 65.71),
    "slowfast_r101_8x8": (62_826_968, 32, 256, 127.20),
    "slowfast_r101_16x8": (53_774_808, 64, 256, 215.61),
    "x3d_xs": (3_794_274, 4, 160, 0.60),
    "x3d_s": (3_794_274, 13, 160, 1.96),
    "x3d_m": (3_794_274, 16, 224, 4.73),
    "x3d_l": (6_153_384, 16, 312, 18.37),
    "tsn_mobilenet_v2": (2_736_272, 8, 224, 2.4),
    "tsm_mobilenet_v2": (2_736_272, 8, 224, 2.4),
}
# Networks of the same entries: their names differ in the input alone.
ALIKE = [{"slow_r50_4x16", "slow_r50_8x8"}, {"x3d_xs", "x3d_s", "x3d_m"}]
NAMES = [*COSTS, "tsn_r18", "tsm_r18", "tsn_r34", "tsm_r34"]
SMALLEST = {"slowfast_r50_4x16": 8, "slowfast_r50_8x8": 4, "slowfast_r101_8x8": 4, "c2d_r50": 2, "i3d_r50": 2}


@functools.cache
def shapes_of(name: str, width: float = 1.0, **options) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = create_model(name, num_classes=400, width=width, **options)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def small(name: str, num_classes: int = 4, width: float = 0.125, **options) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=num_classes, width=width, **options)


@pytest.mark.parametrize("name", COSTS)
def test_published_cost(name):
    parameters, frames, size, multiply_adds = COSTS[name]
    cost = count_cost(name, input_shape(name, frames=frames, size=size), num_classes=400)
    assert (cost.parameters, cost.counted_on) == (parameters, "meta")
    # Published numbers count norms or whole frames differently; a wrong layer changes more.
    assert cost.macs / 1e9 == pytest.approx(multiply_adds, rel=0.035)


@pytest.mark.parametrize(
    "vector, name, options",
    [
        ("slow_r50", "slow_r50_8x8", {"stem_kernel": 3}),
        ("slowfast_r50_4x16", "slowfast_r50_4x16", {}),
        ("x3d_s", "x3d_s", {}),
    ],
)
def test_published_values(vector, name, options):
    spec, expected = read_vector(vector)
    model = create_model(name, num_classes=400, **options).eval()
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == [
        [key, shape] for key, shape, _ in spec["state"]
    ]
    assert sum(value.numel() for value in model.parameters()) == spec["params"]
    report = load_weights(model, {key: made_weight(key, shape, dtype) for key, shape, dtype in spec["state"]})
    assert report.missing == report.left == report.notes == ()
    inputs = [made_input(shape, kind, seed) for _, shape, kind, seed in spec["inputs"]]
    with torch.no_grad():
        if len(inputs) == 1:
            found = [model.forward_features(*inputs), model(*inputs)]
        else:  # independent noise for the two pathways
            found = [*model.forward_pathways(*inputs)]
            model.pathways = lambda clips: inputs
            found.append(model(inputs[1]))
    assert max(relative_error(one, value) for one, value in zip(found, expected, strict=True)) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_learns(name):
    """Also with recomputed blocks, from clips whose sides and frames no stride divides."""
    options = {} if name.startswith("ts") else {"zero_init": False}
    if name.startswith("slowfast"):  # a fast pathway of one channel has norms of one weight, which does not learn
        options |= {"width": 0.25}
    if "r101" in name or name == "x3d_l":
        pytest.skip("the blocks are those of the smaller network")
    model = prepare(small(name, **options), checkpointing=True)
    model(torch.randn(2, 3, 9, 40, 33)).square().sum().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []
    maps = model.eval().forward_features(torch.zeros(1, 3, 9, 40, 33))
    frames = {"c2d_r50": 4, "i3d_r50": 4, "slowfast_r50_4x16": 2, "slowfast_r50_8x8": 3}.get(name, 9)
    assert maps.shape == (1, model.num_features if not name.startswith("x3d") else 24, frames, 2, 2)


@pytest.mark.parametrize("name", ["slow_r50_8x8", "slowfast_r50_4x16", "x3d_s"])
def test_blocks_start_as_identities(name):
    model = small(name)
    norms = [module for key, module in model.named_modules() if key.endswith("norm_c")]
    assert norms and not any(norm.weight.any() for norm in norms)
    assert all(norm.weight.all() for key, norm in small(name, zero_init=False).named_modules() if "norm_c" in key)


@pytest.mark.parametrize("name", ["slow_r50_8x8", "c2d_r50", "slowfast_r50_4x16", "x3d_s"])
def test_clips_that_are_too_short_or_small_are_refused(name):
    model, frames = small(name), SMALLEST.get(name, 1)
    plural = "frame" if frames == 1 else "frames"
    wrong = [(3, frames, 31, 40), (3, frames, 40, 31)] + ([(3, frames - 1, 40, 40)] if frames > 1 else [])
    for shape in wrong:
        said = rf"clips of {shape[1]} frames, {shape[2]}x{shape[3]}: \w+ needs at least {frames} {plural} of 32x32"
        with pytest.raises(ValueError, match=said):
            model(torch.zeros(1, *shape))
    assert model.eval()(torch.zeros(1, 3, frames, 32, 32)).shape == (1, 4)


@pytest.mark.parametrize(
    "name, options",
    [
        ("slowfast_r50_4x16", {"port": "caffe2"}),
        ("slow_r50_8x8", {"stem_kernel": 2}),
        ("x3d_s", {"width": 0}),
        ("tsm_mobilenet_v2", {"shift_division": 1}),
    ],
)
def test_wrong_options_are_refused(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        create_model(name, num_classes=2, **options)


# The slow pathway


@pytest.mark.parametrize(
    "frames, alpha, expected", [(32, 8, [0, 10, 20, 31]), (7, 8, [0]), (9, 4, [0, 4, 8]), (32, 4, None), (64, 4, None)]
)
def test_frames_of_the_slow_pathway(frames, alpha, expected):
    """Those of the published pipelines, for their lengths."""
    expected = expected or torch.linspace(0, frames - 1, frames // alpha).long().tolist()
    assert slow_frames(frames, alpha, torch.device("cpu")).tolist() == expected


@pytest.mark.parametrize("port", ["pytorchvideo", "mmaction2"])
def test_the_network_takes_the_frames_of_the_slow_pathway(port):
    model = small("slowfast_r50_4x16", port=port)
    clips = torch.arange(32.0).view(1, 1, 32, 1, 1)
    slow, fast = model.pathways(clips)
    assert slow.flatten().tolist() == ([0, 10, 20, 31] if port == "pytorchvideo" else [0, 8, 16, 24])
    assert torch.equal(fast, clips)


def test_larger_clips_have_several_windows():
    """As the published average pooling of 7x7 positions with a stride of 1."""
    model = small("slow_r50_8x8").eval()
    maps = torch.rand(1, model.num_features, 3, 8, 9)
    model.forward_features = lambda clips: maps
    pooled = nn.functional.avg_pool3d(maps, (3, 7, 7), stride=1)
    with torch.no_grad():
        scores = model.blocks[-1].proj(pooled.permute(0, 2, 3, 4, 1)).mean(dim=(1, 2, 3))
        assert torch.allclose(model(torch.zeros(1)), scores, atol=1e-6)


# Weights of other publications

PYSF_BLOCK = [
    (r"branch1_conv", "branch1"),
    (r"branch1_norm", "branch1_bn"),
    (r"branch2\.conv_([abc])", r"branch2.\2"),
    (r"branch2\.norm_b\.0", r"branch2.b_bn"),
    (r"branch2\.norm_b\.1\.block\.0", r"branch2.se.fc1"),
    (r"branch2\.norm_b\.1\.block\.2", r"branch2.se.fc2"),
    (r"branch2\.norm_([abc])", r"branch2.\2_bn"),
]
MM_BLOCK = [
    (r"branch1_conv", "downsample.conv"),
    (r"branch1_norm", "downsample.bn"),
    *[(rf"branch2\.conv_{layer}", f"conv{number}.conv") for number, layer in enumerate("abc", 1)],
    *[(rf"branch2\.norm_{layer}", f"conv{number}.bn") for number, layer in enumerate("abc", 1)],
]


def renamed(state: dict[str, torch.Tensor], rules: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    found = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(rf"(^|\.){pattern}(?=\.)", rf"\g<1>{replacement}", key, count=1)
        found[key] = value
    return found


def stages(pooled: bool) -> dict[int, int]:
    return dict(zip((1, 3, 4, 5) if pooled else (1, 2, 3, 4), (2, 3, 4, 5), strict=True))


def in_pyslowfasts_names(name: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As PySlowFast's networks have them, for example s2.pathway0_res1.branch2.a_bn.weight."""
    numbers = stages(name in ("c2d_r50", "i3d_r50"))
    found = {}
    for key, value in renamed(state, PYSF_BLOCK).items():
        for number, stage in numbers.items():
            key = re.sub(
                rf"^blocks\.{number}\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)", rf"s{stage}.pathway\1_res\2", key
            )
            key = re.sub(rf"^blocks\.{number}\.res_blocks\.(\d+)", rf"s{stage}.pathway0_res\1", key)
        key = re.sub(r"^blocks\.0\.multipathway_blocks\.(\d)\.conv", r"s1.pathway\1_stem.conv", key)
        key = re.sub(r"^blocks\.0\.multipathway_blocks\.(\d)\.norm", r"s1.pathway\1_stem.bn", key)
        key = re.sub(
            r"^blocks\.(\d)\.multipathway_fusion\.", lambda number: f"s{int(number[1]) + 1}_fuse.", key
        ).replace("_fuse.conv_fast_to_slow", "_fuse.conv_f2s")
        key = key.replace("_fuse.norm", "_fuse.bn")
        key = key.replace("blocks.0.conv.conv_t", "s1.pathway0_stem.conv_xy")
        key = key.replace("blocks.0.conv.conv_xy", "s1.pathway0_stem.conv")
        key = re.sub(r"^blocks\.0\.conv\.", "s1.pathway0_stem.conv.", key)
        key = re.sub(r"^blocks\.0\.norm\.", "s1.pathway0_stem.bn.", key)
        for ours, theirs in (("pre_conv", "conv_5"), ("pre_norm", "conv_5_bn"), ("post_conv", "lin_5")):
            key = key.replace(f"blocks.5.pool.{ours}", f"head.{theirs}")
        found[re.sub(r"^blocks\.\d\.proj\.", "head.projection.", key)] = value
    return found


def in_mmactions_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As mmaction2's ResNet3dSlowFast and ResNet3dSlowOnly have them."""
    found = {}
    for key, value in renamed(state, MM_BLOCK).items():
        path = "backbone."
        if inside := re.match(r"blocks\.(\d)\.multipathway_blocks\.(\d)\.", key):
            path = f"backbone.{('slow', 'fast')[int(inside[2])]}_path."
            key = f"blocks.{inside[1]}.{key.removeprefix(inside[0])}"
        key = re.sub(
            r"^blocks\.0\.multipathway_fusion\.conv_fast_to_slow", "backbone.slow_path.conv1_lateral.conv", key
        )
        key = re.sub(
            r"^blocks\.(\d)\.multipathway_fusion\.conv_fast_to_slow", r"backbone.slow_path.layer\1_lateral.conv", key
        )
        key = re.sub(r"^blocks\.0\.conv\.", f"{path}conv1.conv.", key)
        key = re.sub(r"^blocks\.0\.norm\.", f"{path}conv1.bn.", key)
        key = re.sub(r"^blocks\.(\d)\.res_blocks\.", rf"{path}layer\1.", key)
        found[re.sub(r"^blocks\.\d\.proj\.", "cls_head.fc_cls.", key)] = value
    return found


@pytest.mark.parametrize("name", ["slow_r50_8x8", "c2d_r50", "i3d_r50", "slowfast_r50_4x16", "x3d_s"])
def test_files_of_pyslowfast(name):
    source, target = small(name, zero_init=False), small(name)
    state = in_pyslowfasts_names(name, source.state_dict())
    assert all(key.startswith(("s1", "s2", "s3", "s4", "s5", "head.")) for key in state)
    report = load_weights(target, {"model_state": state, "epoch": 3})
    assert report.missing == report.left == report.notes == ()
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())
    found = identify({key: tuple(value.shape) for key, value in state.items()})
    assert name in found.names and found.width == 0.125


@pytest.mark.parametrize("name, options", [("slow_r50_8x8", {}), ("slowfast_r50_4x16", {"port": "mmaction2"})])
def test_files_of_mmaction2(name, options):
    source, target = small(name, zero_init=False, **options), small(name, **options)
    state = in_mmactions_names(source.state_dict())
    assert all(key.startswith(("backbone.", "cls_head.fc_cls.")) for key in state)
    report = load_weights(target, {"state_dict": state, "meta": {}}, network=name)
    assert report.missing == report.left == report.notes == ()
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())
    assert report.input_spec == replace(model_input_spec(name), mean=IMAGENET_MEAN, std=IMAGENET_STD)


def test_the_two_ports_of_slowfast_are_told_apart():
    """928 parameters of norms are missing in mmaction2's network; its 8x8 has the same lateral kernel."""
    sizes = [
        sum(value.numel() for value in create_model("slowfast_r50_4x16", num_classes=400, port=port).parameters())
        for port in ("pytorchvideo", "mmaction2")
    ]
    assert sizes == [34_480_216, 34_479_288]
    ours, theirs = small("slowfast_r50_8x8"), small("slowfast_r50_8x8", port="mmaction2")
    with pytest.raises(ValueError, match="the weights are those of the network with port='mmaction2'"):
        load_weights(ours, in_mmactions_names(theirs.state_dict()))
    with pytest.raises(ValueError, match="the weights are those of the network with port='pytorchvideo'"):
        load_weights(theirs, ours.state_dict())
    assert identify(shapes_of("slowfast_r50_8x8", port="mmaction2")) == (("slowfast_r50_8x8",), 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_networks_are_identified_by_their_keys(name):
    expected = next((names for names in ALIKE if name in names), {name})
    for width in (1.0, 0.25):
        found = identify(shapes_of(name, width))
        assert set(found.names) == expected and found.width == width


@pytest.mark.parametrize(
    "wrong, right, said",
    [
        ("slowfast_r50_8x8", "slowfast_r50_4x16", "those of slowfast_r50_8x8 of width 0.125, the model is slowfast_"),
        ("slow_r50_8x8", "i3d_r50", "those of slow_r50_4x16 or slow_r50_8x8 of width 0.125, the model is i3d_r50"),
        ("x3d_s", "x3d_l", "those of x3d_xs or x3d_s or x3d_m of width 0.125, the model is x3d_l"),
        ("tsm_mobilenet_v2", "tsm_r18", "those of tsm_mobilenet_v2 of width 0.125, the model is tsm_r18"),
        ("c2d_r50", "x3d_s", "those of c2d_r50 of width 0.125, the model is x3d_xs or x3d_s or x3d_m"),
    ],
)
def test_weights_of_another_network_are_named(wrong, right, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        load_weights(small(right), small(wrong).state_dict())


def test_networks_of_the_same_entries_have_the_input_of_their_name():
    """Without a name the input is not known, and the caller takes that of the model."""
    state = small("slow_r50_8x8").state_dict()
    assert load_weights(small("slow_r50_4x16"), state).input_spec is None
    spec = load_weights(small("slow_r50_4x16"), state, network="slow_r50_4x16").input_spec
    assert spec == model_input_spec("slow_r50_4x16") and (spec.frames, spec.interval) == (4, 16)


# Trunks of images


def torchvisions_resnet(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    named = {}
    for key, value in state.items():
        if key.startswith("backbone."):
            name = key.removeprefix("backbone.").replace(".net.", ".")
            name = name.replace("downsample.conv", "downsample.0").replace("downsample.bn", "downsample.1")
            named[re.sub(r"conv(\d)\.(conv|bn)\.", lambda found: f"{found[2]}{found[1]}.", name)] = value
    return named | {"fc.weight": torch.zeros(1000, 8), "fc.bias": torch.zeros(1000)}


# MobileNetV2: number of the block in torchvision, stage and block here, layers of the block.
MOBILE_BLOCKS = {1: (1, 0, 2), 2: (2, 0, 3), 3: (2, 1, 3), 6: (3, 2, 3), 7: (4, 0, 3), 14: (6, 0, 3), 17: (7, 0, 3)}


@pytest.mark.parametrize("number", MOBILE_BLOCKS)
def test_keys_of_mobilenet(number):
    stage, block, layers = MOBILE_BLOCKS[number]
    for layer in range(layers):
        for part, kind in enumerate(("conv", "bn")):
            ours = f"layer{stage}.{block}.conv.{layer}.{kind}.weight"
            place = f"{layer}.{part}" if layer < layers - 1 else str(layer + part)
            assert mobilenet_key(f"features.{number}.conv.{place}.weight") == ours
            assert mobilenet_key(f"features.{number}.conv.{3 * layer + part}.weight", flat=True) == ours
    for number, ours in ((0, "conv1"), (18, "conv2")):
        assert mobilenet_key(f"features.{number}.1.running_mean") == f"{ours}.bn.running_mean"


@pytest.mark.parametrize("name", ["tsn_r18", "tsm_r34", "tsm_r50"])
def test_resnets_of_torchvision_fill_the_trunk(name):
    source, target = small(name), small(name, num_classes=7)
    report = load_weights(target, torchvisions_resnet(source.state_dict()), features_only=True)
    assert report.missing == ("cls_head.fc_cls.weight", "cls_head.fc_cls.bias") and report.notes == ()
    assert all(
        torch.equal(value, target.backbone.state_dict()[key]) for key, value in source.backbone.state_dict().items()
    )


@pytest.mark.parametrize("flat", [False, True])
def test_mobilenets_of_torchvision_and_of_the_authors_of_tsm(flat):
    source, target = small("tsm_mobilenet_v2"), small("tsm_mobilenet_v2", num_classes=7)
    named = mobilenet_state(source, flat=flat)
    report = load_weights(target, named, features_only=True)
    assert report.missing == ("cls_head.fc_cls.weight", "cls_head.fc_cls.bias")
    state = target.backbone.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in source.backbone.state_dict().items())
    shapes = {key: tuple(value.shape) for key, value in named.items()}
    assert identify(shapes) == ((("tsm_mobilenet_v2",), 0.125) if flat else None)


def mobilenet_state(model: nn.Module, *, flat: bool) -> dict[str, torch.Tensor]:
    """The trunk under the keys of the authors of TSM or of torchvision."""
    named, first = {}, {1: 1, 2: 2, 3: 4, 4: 7, 5: 11, 6: 14, 7: 17}
    for key, value in model.backbone.state_dict().items():
        shift = ".net" if ".net." in key else ""
        parts = key.replace(".net.", ".").split(".")
        place = ("conv", "bn").index(parts[-2])
        if len(parts) == 3:
            name = f"features.{0 if parts[0] == 'conv1' else 18}.{place}.{parts[-1]}"
        else:
            number, layer = first[int(parts[0][-1])] + int(parts[1]), int(parts[3])
            last = layer == (1 if number == 1 else 2)
            inside = str(3 * layer + place) if flat else str(layer + place) if last else f"{layer}.{place}"
            shift = shift if flat and place == 0 else ""
            name = f"features.{number}.conv.{inside}{shift}.{parts[-1]}"
        named[f"base_model.{name}" if flat else name] = value
    head = "new_fc" if flat else "classifier.1"
    return named | {f"{head}.weight": torch.zeros(1000, 160), f"{head}.bias": torch.zeros(1000)}


def test_shift_of_mobilenet():
    """10 of 17 blocks have an expansion and a shortcut; TSN has no shift, and the order of frames does not matter."""
    keys = {name: [key for key in shapes_of(name) if ".net.conv.weight" in key] for name in NAMES if "mobile" in name}
    assert {name: len(found) for name, found in keys.items()} == {"tsn_mobilenet_v2": 0, "tsm_mobilenet_v2": 10}
    clips = torch.randn(1, 3, 5, 32, 32)
    for name, same in (("tsn_mobilenet_v2", True), ("tsm_mobilenet_v2", False)):
        model = small(name).eval()
        with torch.no_grad():
            logits, reversed_logits = model(clips), model(clips.flip(2))
        assert (float((logits - reversed_logits).norm() / logits.norm()) < 1e-4) == same
