"""`torch.export` of registered networks: variable batch and length or height, with and without mask, equal outputs."""

import inspect
from dataclasses import replace
from functools import partial

import pytest
import torch
from test_detection_models import SMALL as PROPOSALS
from test_detection_points import SMALL as POINTS
from test_segmentation_models import SMALL as SEGMENTATION
from test_streaming_models import SMALL as STREAMING
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from vidseg.models import _registry, create_model, list_models, model_input_spec, model_options, model_task
from vidseg.models._detection import DetectionOutput
from vidseg.models._flow import FlowOutput
from vidseg.models._recurrent import run_recurrent
from vidseg.models._registry import has_classes
from vidseg.models._segmentation import SegmentationOutput
from vidseg.models._streaming import StreamOutput, StreamState

FEATURES, CLASSES = 8, 5
FEATURE_TASKS = ("segmentation", "detection")
DETECTION = PROPOSALS | POINTS
# Networks to export where one factory builds several: one of each kind of block. Otherwise the first one is exported.
CHOSEN = {
    "r2plus1d_18",
    "r3d_50",
    "srtg_r3d_18",
    "mtnet_xs",
    "torchvision_mc3_18",
    "torchvision_r2plus1d_18",
    "tsm_r50",
    "tsn_r18",
    "i3d_r50",
    "slowfast_r50_8x8",
    "x3d_s",
    "raft_basic",
    "raft_small",
    "videomae_base",
    "vjepa2_large",
}
# Number of blocks of each stage: the registered networks repeat the same blocks, and tracing time grows with them.
BLOCKS = (1, 1, 1, 1)
# Options that reduce the tracing time further than those of the other tests.
OPTIONS = {
    "actionformer": {"levels": 2, "window": (5, 0), "stem": 1, "position_encoding": True, "max_seq_len": 50},
    "asformer": {"decoders": 1, "layers": 3},
    "block_recurrent": {"layers": 1},
    "etad": {"stages": 1},
    "ltcontext": {"stages": 2, "layers": 1},
    "memory_tcn": {"layers": 1},
    "raft_basic": {"iterations": 1},
    "raft_small": {"iterations": 2},
    "svtas_rl": {"depths": (2,), "heads": (2,), "layers": 1},
    "timesformer_base": {"width": 0.125, "layers": 1},
    "tridet": {"levels": 2, "window": 3, "stem": 1},
    "videomae_base": {"width": 0.125, "layers": 1},
    "vjepa2_large": {"width": 0.125, "layers": 1, "probe_layers": 1},
}
# A graph fixes axes of size 1, and clips without them make the test slow. vidseg.export traces longer clips.
FIXED_LENGTH = {"mtnet_xs"}
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
    # Graphs keep the remainders of the lengths before temporal strides and pooling.
    FIXED_LENGTH |= {"c2f_tcn", "r2plus1d_18", "r3d_50", "srtg_r3d_18"}
# Frames of the exported clip and of another clip.
FRAMES = {
    "transeger": (4, 4),
    "svtas_rl": (8, 12),
    "c2f_tcn": (400, 451),
    "videomae_base": (12, 8),
    "vjepa2_large": (12, 8),
}


def representatives() -> list[str]:
    """Return at least one network of every registered factory, including factories added later."""
    found: dict[object, list[str]] = {}
    for name in list_models():
        factory = _registry._ENTRIES[name].factory
        found.setdefault(factory.func if isinstance(factory, partial) else factory, []).append(name)
    return [name for names in found.values() for name in ([one for one in names if one in CHOSEN] or names[:1])]


def shallow(factory):
    """Return a factory of a recognition network with one block in each stage instead of the registered number."""
    design = factory.args[0]
    return partial(
        factory.func, BLOCKS if isinstance(design, tuple) else replace(design, blocks=BLOCKS), *factory.args[1:]
    )


@pytest.fixture
def shallow_networks(monkeypatch):
    """Registry whose residual recognition networks have one block in each stage."""
    entries = {
        name: entry._replace(factory=shallow(entry.factory))
        if isinstance(entry.factory, partial)
        and name not in ("i3d_rgb", "i3d_flow")
        and not name.startswith(("timesformer", "videomae", "vjepa2", "raft"))
        else entry
        for name, entry in _registry._ENTRIES.items()
    }
    monkeypatch.setattr(_registry, "_ENTRIES", entries)


def small_width(name: str) -> float:
    """Return the multiplier of widths of a small network.

    The temporal pooling of MTNet compares directions of feature vectors, so that no stream may have a single channel.
    """
    return 0.5 if name.startswith("mtnet") else 0.125


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = (SEGMENTATION.get(name) or DETECTION.get(name) or STREAMING.get(name) or {}) | OPTIONS.get(name, {})
    options |= {"width": small_width(name)} if "width" in model_options(name) and not options else {}
    options |= {"in_features": FEATURES} if model_task(name) in FEATURE_TASKS else {}
    options |= {"num_classes": CLASSES} if has_classes(name) else {}
    model = create_model(name, **options).eval()
    for module in model.modules():
        if isinstance(module, nn.LSTM | nn.GRU):  # larger weights, so that their outputs exceed rounding errors
            for value in module.parameters():
                nn.init.normal_(value, std=0.5)
    return model


def inputs(name: str, batch: int, frames: int, *, masked: bool, model: nn.Module):
    """Return the arguments of a call; with a mask, those of the second window of streams. `frames` of optical-flow
    networks is the height of the pictures."""
    if model_task(name) in FEATURE_TASKS:
        lengths = torch.tensor([frames] + [frames - 3] * (batch - 1))
        mask = torch.arange(frames) < lengths[:, None]
        return (torch.randn(batch, FEATURES, frames), mask) if masked else (torch.randn(batch, FEATURES, frames),)
    if model_task(name) == "flow":
        return torch.rand(batch, 3, frames, 128), torch.rand(batch, 3, frames, 128)
    channels = model_input_spec(name).channels
    size = 48 if name.startswith("mtnet") else 32
    clips = torch.randn(batch, channels, frames, size, size)
    if not masked:
        return (clips,)
    mask = torch.ones(batch, frames)
    mask[-1, 2:] = 0
    with torch.no_grad():
        return clips, model(torch.randn_like(clips))[1], mask


def with_variable_sizes(name, arguments):
    """Return dynamic shapes: the batch, and the number of frames except in tensors of a state and for FIXED_LENGTH."""
    if name in FIXED_LENGTH:
        return tuple({0: Dim.AUTO} for _ in arguments)
    shapes = [{0: Dim.AUTO, (2 if value.dim() > 2 else 1): Dim.AUTO} for value in arguments if torch.is_tensor(value)]
    if len(arguments) == 3:
        shapes.insert(1, [{0: Dim.AUTO} for _ in arguments[1]])
    return tuple(shapes)


def difference(found, expected) -> float:
    """Return the largest relative difference of the tensors of two outputs with the same structure."""
    (found, form), (expected, other) = pytree.tree_flatten(found), pytree.tree_flatten(expected)
    assert form == other and len(found) > 0
    return max(
        float((a.double() - b.double()).norm() / (b.double().norm() + 1e-12))
        for a, b in zip(found, expected, strict=True)
    )


CASES = [(name, False) for name in representatives() if model_task(name) != "streaming"]
CASES += [(name, True) for name in representatives() if model_task(name) in (*FEATURE_TASKS, "streaming")]
CASES += [("memory_tcn", False)]  # the first window, without a state


@pytest.mark.slow
@pytest.mark.parametrize("name, masked", CASES)
def test_exported_with_variable_batch_and_length(name, masked, shallow_networks):
    model = small(name)
    (first, second) = FRAMES.get(name, (6, 5) if model_task(name) == "streaming" else (12, 9))
    if model_task(name) in FEATURE_TASKS:
        first, second = FRAMES.get(name, (40, 57))
    if model_task(name) == "flow":
        first, second = 136, 160  # a graph of pictures below 128 pixels fixes the single row of the coarsest scale
    second = first if name in FIXED_LENGTH else second
    arguments = inputs(name, 2, first, masked=masked, model=model)
    program = torch.export.export(model, arguments, dynamic_shapes=with_variable_sizes(name, arguments)).module()
    for batch, frames in ((2, first), (3, second)):
        arguments = inputs(name, batch, frames, masked=masked, model=model)
        with torch.no_grad():
            assert difference(program(*arguments), model(*arguments)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind, layers", [(nn.LSTM, 1), (nn.LSTM, 2), (nn.GRU, 2)])
def test_recurrent_layers_have_equal_outputs_in_a_graph(kind, layers):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = kind(3, 3, num_layers=layers)

        def forward(self, x, start=None):
            return run_recurrent(self.layer, x, start)

    torch.manual_seed(0)
    model, shapes = Network(), {0: Dim.AUTO, 1: Dim.AUTO}
    start = tuple(torch.randn(layers, 2, 3) for _ in range(2 if kind is nn.LSTM else 1))
    alone = torch.export.export(model, (torch.randn(4, 2, 3),), dynamic_shapes=(shapes,)).module()
    continued = torch.export.export(
        model, (torch.randn(4, 2, 3), start), dynamic_shapes=(shapes, tuple({1: Dim.AUTO} for _ in start))
    ).module()
    x = torch.randn(7, 5, 3)
    assert difference(alone(x), model(x)) < 1e-6
    start = tuple(torch.randn(layers, 5, 3) for _ in start)
    assert difference(continued(x, start), model(x, start)) < 1e-6
    reference = model.layer(x, start if kind is nn.LSTM else start[0])
    assert torch.equal(model(x, start)[0], reference[0])


@pytest.mark.parametrize(
    "output",
    [
        SegmentationOutput(torch.ones(1), None),
        DetectionOutput(torch.ones(1), torch.ones(1), torch.ones(1), {"starts": torch.ones(1)}),
        StreamOutput(torch.ones(1), None, torch.zeros(2), None),
        StreamState({"a": torch.ones(2, 1), "b": torch.zeros(2)}),
        StreamState({}),
        FlowOutput(torch.ones(1), (torch.ones(2), torch.ones(3))),
    ],
)
def test_outputs_are_pytrees(output):
    twice = pytree.tree_map_only(torch.Tensor, lambda value: value + 1, output)
    assert type(twice) is type(output)
    values, form = pytree.tree_flatten(output)
    again = pytree.tree_unflatten(values, form)
    if isinstance(output, StreamState):
        assert list(again) == list(output) and all(torch.equal(again[name], output[name]) for name in output)
        assert all(torch.equal(twice[name], output[name] + 1) for name in output)
    elif isinstance(output, FlowOutput):
        assert twice.flow == 2 and [level.tolist() for level in twice.levels] == [[2, 2], [2, 2, 2]]
    elif isinstance(output, DetectionOutput):
        assert twice.scores == 2 and twice.predictions == {"starts": 2} and again.segments is output.segments
    else:
        assert torch.equal(twice.logits, output.logits + 1) and again.boundaries is output.boundaries is None


def test_every_output_class_is_a_pytree():
    classes = set()
    for name in representatives():
        annotation = inspect.signature(type(small(name)).forward).return_annotation
        classes |= {part for part in (annotation, *getattr(annotation, "__args__", ())) if inspect.isclass(part)}
    own = {part for part in classes if part.__module__.startswith("vidseg.")}
    assert own == {DetectionOutput, FlowOutput, SegmentationOutput, StreamOutput, StreamState}
    assert own <= set(pytree.SUPPORTED_NODES)
