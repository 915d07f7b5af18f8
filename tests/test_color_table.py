"""The table of color operations: its entries alone suffice to plan, fill and refuse every operation."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from clip_data import clip_dataset, crop, hand_plan

from vidseg.clips import ColorOperation
from vidseg.clips.augmentations import PRESETS, Choice, ColorPreset, Operation, Range, color_jitter, color_presets
from vidseg.clips.color import draw_colors
from vidseg.clips.operations import ColorRule, color_code, color_rule, color_rules, max_parameters
from vidseg.frames import FrameDatabaseError
from vidseg.frames.native import operators
from vidseg.loaders.dali_color import color_steps
from vidseg.loaders.native_backend import NativeFiller
from vidseg.loaders.output import OutputForm
from vidseg.loaders.recolor import apply_colors

RULES = pytest.mark.parametrize("rule", color_rules(), ids=lambda rule: rule.name)
SIZE = (40, 56)


def values_inside(rule: ColorRule, height: int, width: int) -> tuple[float, ...]:
    """Allowed parameters, away from the ends of their ranges."""
    axes = [parameter.axis for parameter in rule.parameters]
    values = []
    for parameter in rule.parameters:
        value = parameter.low + 0.6137 * (parameter.high - parameter.low)
        if parameter.axis:
            value = {"height": height, "width": width}[parameter.axis] // axes.count(parameter.axis)
        if parameter.kind != "real":
            value = np.floor(value)
        if parameter.kind == "odd" and value % 2 == 0:
            value -= 1
        values.append(float(value))
    return tuple(values)


def values_outside(rule: ColorRule, height: int, width: int) -> list[tuple[float, ...]]:
    """Parameters of which one breaks a rule."""
    good = values_inside(rule, height, width)
    wrong = []
    for index, parameter in enumerate(rule.parameters):
        below, above = np.nextafter(parameter.low, -np.inf), np.nextafter(parameter.high, np.inf)
        bad = [below, above, float("nan"), float("inf")]
        bad += {"real": [], "whole": [parameter.low + 0.5], "odd": [parameter.low + 0.5, parameter.low + 1]}[
            parameter.kind
        ]
        if parameter.axis:
            bad.append({"height": height, "width": width}[parameter.axis] + 1)
        wrong += [(*good[:index], value, *good[index + 1 :]) for value in bad]
    return wrong


def frames(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)


def row(values: tuple[float, ...]) -> torch.Tensor:
    parameters = torch.zeros(1, max_parameters(), dtype=torch.float64)
    parameters[0, : len(values)] = torch.tensor(values)
    return parameters


def always(name: str, values: tuple[float, ...]) -> ColorPreset:
    return ColorPreset((Operation(name, tuple(Choice((value,)) for value in values)),))


@pytest.fixture(scope="module")
def filler(tmp_path_factory):
    filler = NativeFiller(
        clip_dataset(tmp_path_factory.mktemp("table"), ["automatic"]),
        OutputForm(dtype=torch.uint8, layout="bthwc"),
        threads=1,
    )
    yield filler
    filler.close()


@RULES
def test_every_operation_is_planned_and_filled(rule, filler):
    values = values_inside(rule, *SIZE)
    colors = draw_colors(always(rule.name, values), 0, 0, [3], height=SIZE[0], width=SIZE[1])
    matrices = [crop(3, 2, 60, 50, size=SIZE)]
    plan = hand_plan(matrices, size=SIZE, frames=[0, 4], colors=colors)
    assert plan[0].colors == (ColorOperation(rule.name, values),)
    plain = filler.fill(hand_plan(matrices, size=SIZE, frames=[0, 4]))[0][0].numpy()
    got = filler.fill(plan)[0][0].numpy()
    assert (got == apply_colors(plain, plan[0].colors)).all() and (got != plain).any()


@RULES
def test_every_operation_takes_the_ends_of_its_ranges(rule):
    height, width = 24, 32
    for end in ("low", "high"):
        values = values_inside(rule, height, width)
        values = tuple(
            value if parameter.axis else getattr(parameter, end)
            for parameter, value in zip(rule.parameters, values, strict=True)
        )
        rule.check(values, height=height, width=width)
        assert apply_colors(frames(height, width), [ColorOperation(rule.name, values)]).shape == (1, height, width, 3)


@RULES
def test_every_operation_is_refused_out_of_its_range(rule, filler):
    code, matrices = color_code(rule.name), [crop(3, 2, 60, 50, size=SIZE)]
    shown = torch.from_numpy(frames(*SIZE))
    for values in values_outside(rule, *SIZE):
        with pytest.raises(ValueError, match=f"^color operation {rule.name}: .*, must be ") as python:
            rule.check(values, height=SIZE[0], width=SIZE[1])
        with pytest.raises(ValueError) as native:
            operators.apply_colors(shown, torch.tensor([code]), row(values))
        assert str(native.value) == str(python.value)
        colors = draw_colors(always(rule.name, values_inside(rule, *SIZE)), 0, 0, [3], height=SIZE[0], width=SIZE[1])
        colors.parameters[0, : len(values)] = values
        with pytest.raises(FrameDatabaseError, match=f"color operation {rule.name}: "):
            filler.fill(hand_plan(matrices, size=SIZE, colors=colors))
        if all(parameter.axis is None for parameter in rule.parameters):
            with pytest.raises(ValueError, match=f"^color operation {rule.name}: .* can be .*, must be "):
                draw_colors(always(rule.name, values), 0, 0, [3], height=SIZE[0], width=SIZE[1])
    with pytest.raises(ValueError, match=f"{rule.name} has {len(rule.parameters)} parameters, got "):
        rule.check((0.0,) * (len(rule.parameters) + 1))


@RULES
def test_every_operation_reads_what_its_entry_says(rule):
    wide, cut, far = frames(24, 240), 100, 180  # the reach of the largest blur is below 80 pixels
    values = values_inside(rule, 24, 240 - cut)
    of_whole = apply_colors(wide, [ColorOperation(rule.name, values)])
    of_part = apply_colors(wide[:, :, cut:], [ColorOperation(rule.name, values)])
    everywhere = (of_whole[:, :, cut:] == of_part).all()
    inside = (of_whole[:, :, far:] == of_part[:, :, far - cut :]).all()
    assert {(True, True): "pixel", (False, True): "neighbors", (False, False): "frame"}[
        everywhere, inside
    ] == rule.reads


def test_the_table():
    names = [rule.name for rule in color_rules()]
    assert len(set(names)) == len(names) and [color_code(name) for name in names] == list(range(len(names)))
    assert max(len(rule.parameters) for rule in color_rules()) <= max_parameters()
    blur = color_rule("average_blur").parameters[0]
    assert (blur.name, blur.low, blur.high, blur.kind, blur.axis) == ("k", 1, 31, "whole", None)
    assert color_rule("gaussian_noise").parameters[1].high == 2**53
    with pytest.raises(ValueError, match="color operation 'sharpen' is unknown: choose from gaussian_blur, add, "):
        color_rule("sharpen")


def test_the_presets_fit_the_table():
    for preset in PRESETS.values():
        assert color_presets([preset]) == (preset,)
    assert color_jitter(brightness=254.0, hue=0.5).operations[0].parameters == (Range(0.0, 255.0),)
    for strengths, message in (
        ({"contrast": 254.5}, "contrast is 254.5, must be 0 to 254"),
        ({"hue": 0.51}, "hue is 0.51, must be 0 to 0.5"),
        ({"saturation": -0.1}, "saturation is -0.1, must be 0 to 254"),
    ):
        with pytest.raises(ValueError, match=message):
            color_jitter(**strengths)


@pytest.mark.parametrize(
    "operation, message",
    [
        (Operation("sharpen", ()), "color operation 'sharpen' is unknown"),
        (Operation("hue", (Range(-0.6, 0.1),)), "hue: shift can be -0.6, must be -0.5 to 0.5"),
        (Operation("hue", (Range(0, 0.1), Range(0, 1))), "hue has 1 parameters, got 2"),
        (Operation("average_blur", (Range(1, 5),)), "average_blur: k must be whole: use Range"),
        (Operation("motion_blur", (Range(3, 7, whole=True),)), "motion_blur: k must be odd: use Choice"),
        (Operation("motion_blur", ()), "motion_blur: k is missing, must be an odd number of 3 to 31"),
        (Operation("add", (Range(0, 300),) * 3, alike=True), "add: red can be 300, must be -255 to 255"),
    ],
)
def test_a_preset_that_breaks_a_rule_is_refused(operation, message):
    with pytest.raises(ValueError, match=message):
        color_presets(ColorPreset((operation,)))


def test_dali_refuses_what_the_native_backend_refuses():
    colors = draw_colors(always("hue", (0.1,)), 0, 0, [3], height=8, width=8)
    with pytest.raises(NotImplementedError, match="DALI has no operation for 'hue'"):
        color_steps(colors)
    colors = draw_colors(always("average_blur", (3.0,)), 0, 0, [3], height=8, width=8)
    colors.parameters[0, 0] = 32
    with pytest.raises(ValueError, match="average_blur: k is 32, must be a whole number of 1 to 31"):
        color_steps(colors)


def test_the_table_is_loaded_at_its_first_use():
    code = "import sys, vidseg.clips.augmentations, vidseg.clips.planner; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False"]
