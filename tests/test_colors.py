"""Color operations: what is drawn for which clip, published values, and the pixels that no imgaug defines."""

import colorsys
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vidseg.clips import ColorOperation
from vidseg.clips.augmentations import PRESETS, Warps, color_jitter, draw_warps, random_erasing
from vidseg.clips.color import draw_colors
from vidseg.clips.erasing import erasing_boxes
from vidseg.clips.mixing import draw_mixup, mix_clips, mix_targets, soft_targets
from vidseg.clips.operations import color_code, color_rules
from vidseg.frames.native import operators
from vidseg.loaders.adapters import ClipFunction, clip_seed
from vidseg.loaders.recolor import apply_colors

GOLDEN = json.loads((Path(__file__).parent / "golden/training_math.json").read_text())
EXAMPLES = {
    "gaussian_blur": (1.0,),
    "add": (5, -9, 3),
    "average_blur": (3,),
    "multiply": (0.9, 1.1, 1.2),
    "gamma": (0.9, 1.1, 1.2),
    "hue_saturation": (9, -20),
    "linear_contrast": (0.9, 1.1, 1.2),
    "gaussian_noise": (10.0, 7, 0),
    "enhance_color": (1.4,),
    "motion_blur": (5, 30, 0.5),
    "brightness": (1.3,),
    "contrast": (0.7,),
    "saturation": (1.5,),
    "hue": (0.2,),
    "random_erasing": (2, 3, 10, 12, 1, 2, 3),
    "grayscale": (),
}


def clip(frames=3, height=37, width=53, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def draw(preset, samples=range(4000), *, seed=0, epoch=0, height=112, width=96):
    return draw_colors(preset, seed, epoch, np.asarray(samples), height=height, width=width)


# ---- plans


@pytest.mark.parametrize("name", PRESETS)
def test_clips_are_drawn_alone(name):
    plan = draw(name, range(100))
    assert plan == draw(name, range(100))
    assert plan.take([7, 63]) == draw(name, [7, 63])
    assert plan != draw(name, range(100), epoch=1)
    assert plan != draw(name, range(100), seed=1)
    assert (np.diff(plan.offsets) >= 0).all() and plan.offsets[-1] == len(plan.codes) == len(plan.parameters)


@pytest.mark.parametrize(
    "name, clips, each, names",
    [
        ("hacs", 0.9, 0.4, "gaussian_blur add average_blur multiply gamma hue_saturation linear_contrast"),
        ("kinetics", 0.9, 0.4, "gaussian_blur add average_blur multiply gamma hue_saturation linear_contrast"),
        ("moments", 0.9, 0.4, "gaussian_blur add average_blur multiply gamma hue_saturation linear_contrast"),
        ("hmdb51", 0.8, 0.4, "gaussian_blur add hue_saturation linear_contrast"),
        ("diving48", 0.8, 0.4, "gaussian_blur add hue_saturation linear_contrast"),
        ("ucf101", 0.65, 0.3, "gaussian_blur add hue_saturation linear_contrast"),
        (
            "published",
            0.8,
            0.4,
            "gaussian_blur add gaussian_noise enhance_color motion_blur hue_saturation linear_contrast",
        ),
    ],
)
def test_published_probabilities(name, clips, each, names):
    plan = draw(name)
    warps = draw_warps(name, 0, 0, np.arange(4000))
    assert {color_rules()[code].name for code in plan.codes.tolist()} == set(names.split())
    for operation in names.split():
        share = (plan.codes == color_code(operation)).sum() / 4000
        assert share == pytest.approx(clips * each, abs=0.035), operation
    for kind in (Warps.PERSPECTIVE, Warps.ROTATION):
        assert (warps.kinds == kind).mean() == pytest.approx(clips * each / 2, abs=0.03)
    untouched = (np.diff(plan.offsets) == 0) & (warps.kinds == Warps.NONE)
    expected = 1 - clips + clips * (1 - each) ** (len(names.split()) + 1)
    assert untouched.mean() == pytest.approx(expected, abs=0.03)


def test_published_ranges():
    plan = draw("hacs")
    values = {rule.name: plan.parameters[plan.codes == color_code(rule.name)] for rule in color_rules()}
    assert set(np.unique(values["gaussian_blur"][:, 0])) == {0.1, 0.2, 0.3}
    assert set(np.unique(values["add"][:, :3])) == set(range(-5, 16))
    assert set(np.unique(values["average_blur"][:, 0])) == {1, 2}
    assert set(np.unique(values["hue_saturation"][:, :2])) == set(range(-16, 17))
    for name, low, high in (("multiply", 0.8, 1.2), ("gamma", 0.85, 1.15), ("linear_contrast", 0.85, 1.115)):
        column = values[name][:, 0]
        assert low <= column.min() < low + 0.01 and high - 0.01 < column.max() < high, name
    assert (values["multiply"][:, :1] == values["multiply"][:, :3]).all()
    assert (values["gamma"][:, 0] != values["gamma"][:, 1]).all()
    noise = draw("published")
    noise = noise.parameters[noise.codes == color_code("gaussian_noise")]
    assert (noise[:, 0] == 76.5).all() and len(np.unique(noise[:, 1])) == len(noise)


def test_warps():
    warps = draw_warps("hacs", 0, 0, np.arange(4000))
    bent, turned = warps.kinds == Warps.PERSPECTIVE, warps.kinds == Warps.ROTATION
    assert (warps.corners[~bent] == 0).all() and (warps.degrees[~turned] == 0).all()
    assert -10 <= warps.degrees.min() < -9.9 and 9.9 < warps.degrees.max() <= 10
    # |N(0, d)| with d uniform in [0.02, 0.05] has the mean 0.035 * sqrt(2 / pi)
    assert warps.corners[bent].mean() == pytest.approx(0.035 * np.sqrt(2 / np.pi), rel=0.03)
    part = draw_warps("hacs", 0, 0, [17, 5])
    assert (part.corners == warps.corners[[17, 5]]).all() and (part.degrees == warps.degrees[[17, 5]]).all()
    assert (draw_warps(None, 0, 0, [1, 2]).kinds == Warps.NONE).all()


def test_jitter_comes_in_random_order():
    plan = draw(color_jitter(brightness=0.4, contrast=0.3, saturation=2.0, hue=0.1))
    orders = plan.codes.reshape(-1, 4)
    assert len(np.unique(orders, axis=0)) == 24
    values = {name: plan.parameters[plan.codes == color_code(name), 0] for name in ("brightness", "saturation", "hue")}
    for name, low, high in (("brightness", 0.6, 1.4), ("saturation", 0.0, 3.0), ("hue", -0.1, 0.1)):
        assert low <= values[name].min() < low + 0.02 and high - 0.02 < values[name].max() <= high
    assert len(draw(color_jitter(hue=0.1), [1]).codes) == 1
    with pytest.raises(ValueError, match=r"hue is 0.6, must be 0 to 0.5"):
        color_jitter(hue=0.6)


def test_presets_follow_each_other():
    plan = draw((PRESETS["hacs"], random_erasing(1.0)), range(50))
    alone = draw("hacs", range(50))
    erased = color_code("random_erasing")
    assert (plan.codes[plan.offsets[1:] - 1] == erased).all()
    assert (plan.codes[plan.codes != erased] == alone.codes).all()
    assert len(draw(None, range(5)).codes) == 0 and len(draw(None, range(5))) == 5
    with pytest.raises(ValueError, match="preset 'hmdb' is unknown: choose from hacs, "):
        draw("hmdb")


# ---- random erasing, mixup


@pytest.mark.parametrize("case", [case for case in GOLDEN["random_erasing"] if case["box_top_left_height_width"]])
def test_published_boxes(case):
    _, low, high, aspect = case["params"]
    numbers = np.array([case["u_in_order_of_use"][1:]])
    boxes, found = erasing_boxes(numbers, height=case["height"], width=case["width"], area=(low, high), aspect=aspect)
    assert found.all() and boxes[0].tolist() == case["box_top_left_height_width"]


def test_the_first_box_that_fits_counts():
    tall = [0.99, 0.999]  # 40 % of the area, three times as high as wide: higher than the frame
    boxes, found = erasing_boxes(np.array([[*tall, 0.5, 0.2, 0.25, 0.75]]), height=100, width=100)
    again, _ = erasing_boxes(np.array([[0.5, 0.2, 0.25, 0.75]]), height=100, width=100)
    assert found.all() and (boxes == again).all()
    assert not erasing_boxes(np.array([[*tall, 0.5, 0.5]]), height=100, width=100)[1].any()


def test_boxes_are_found_for_every_clip():
    plan = draw(random_erasing(1.0, 0.02, 0.4, 0.1), range(3000), height=40, width=90)
    boxes = plan.parameters
    assert len(boxes) == 3000
    assert (boxes[:, 0] + boxes[:, 2] <= 40).all() and (boxes[:, 1] + boxes[:, 3] <= 90).all()
    share = boxes[:, 2] * boxes[:, 3] / 3600
    assert share.min() > 0.015 and share.max() < 0.42
    assert 0.48 < len(draw(random_erasing(0.5)).codes) / 4000 < 0.52
    with pytest.raises(ValueError, match="aspect_low is 0, must be above 0"):
        random_erasing(aspect_low=0)


@pytest.mark.parametrize("case", GOLDEN["mixup"])
def test_published_mixup(case):
    mixup = dataclasses.replace(
        draw_mixup(0, 0, 0, clips=4, alpha=1.0), share=case["lam"], partners=np.array(case["partner"])
    )
    mixed = mix_clips(torch.tensor(case["inputs"]), mixup)
    targets = mix_targets(torch.tensor(case["targets"]), mixup, case["num_classes"], smoothing=case["label_smooth"])
    torch.testing.assert_close(mixed, torch.tensor(case["mixed_inputs"]))
    torch.testing.assert_close(targets, torch.tensor(case["soft_targets"]))
    loss = torch.nn.functional.cross_entropy(torch.tensor(case["logits"]), targets)
    assert float(loss) == pytest.approx(case["loss_mean"], abs=1e-5)


@pytest.mark.parametrize("case", GOLDEN["label_smoothing"])
def test_published_label_smoothing(case):
    targets = soft_targets(torch.tensor(case["targets"]), case["num_classes"], smoothing=case["epsilon"])
    torch.testing.assert_close(targets, torch.tensor(case["soft_targets"]))
    losses = torch.nn.functional.cross_entropy(torch.tensor(case["logits"]), targets, reduction="none")
    torch.testing.assert_close(losses, torch.tensor(case["loss_per_sample"]))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_share_follows_beta(alpha):
    shares = np.array([draw_mixup(0, 0, batch, clips=2, alpha=alpha).share for batch in range(2000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_mixup_is_a_function_of_the_batch():
    one, same, other = (draw_mixup(3, 1, batch, clips=9, alpha=0.4) for batch in (5, 5, 6))
    rank = draw_mixup(3, 1, 5, clips=9, alpha=0.4, rank=1)
    assert one.share == same.share == rank.share != other.share
    assert (one.partners == same.partners).all() and (one.partners != rank.partners).any()
    assert sorted(one.partners) == list(range(9))
    assert draw_mixup(3, 1, 5, clips=9, alpha=0.0).share == 1.0
    with pytest.raises(TypeError, match=r"requires floating-point frames, not torch\.uint8; set dtype="):
        mix_clips(torch.zeros(9, 3, dtype=torch.uint8), one)
    with pytest.raises(ValueError, match="labels are 0 to 5, must be 0 to 4"):
        soft_targets(torch.tensor([0, 5]), 5)


# ---- pixels


@pytest.mark.parametrize("name", EXAMPLES)
def test_frames_of_a_clip_change_alike(name):
    frames = np.repeat(clip(1), 3, axis=0)
    changed = apply_colors(frames, [ColorOperation(name, EXAMPLES[name])])
    assert (changed == changed[:1]).all() and (changed != frames).any()
    assert (frames == clip(1)).all()


def test_operations_are_applied_in_order():
    operations = [ColorOperation(name, EXAMPLES[name]) for name in EXAMPLES]
    for some in (operations, operations[::-1], operations[:4] * 3):
        one_by_one = clip()
        for operation in some:
            one_by_one = apply_colors(one_by_one, [operation])
        assert (apply_colors(clip(), some) == one_by_one).all()


def test_noise():
    gray = np.full((2, 200, 201, 3), 128, np.uint8)
    first, second = (
        apply_colors(gray, [ColorOperation("gaussian_noise", (20.0, field, 1))]).astype(int) - 128 for field in (1, 2)
    )
    assert first[0].std() == pytest.approx(20, abs=0.2) and abs(first[0].mean()) < 0.3
    assert abs(np.corrcoef(first[0].ravel(), second[0].ravel())[0, 1]) < 0.02
    for shifted in (np.roll(first[0], 1, axis=1), np.roll(first[0], 1, axis=0), np.roll(first[0], 1, axis=2)):
        assert abs(np.corrcoef(first[0].ravel(), shifted.ravel())[0, 1]) < 0.02
    assert (np.abs(first[0]) > 60).mean() == pytest.approx(0.0027, abs=0.001)


def blend(frames, other, factor):
    return np.clip(np.float32(factor) * frames + np.float32(1 - factor) * other, 0, 255).astype(np.uint8)


def gray_of(frames):
    weighted = np.float32([0.2989, 0.587, 0.114]) * frames.astype(np.float32)
    return np.floor(weighted.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.7])
def test_jitter_as_torchvision(factor):
    frames = clip()
    expected = {
        "brightness": blend(frames, np.float32(0), factor),
        "contrast": blend(frames, gray_of(frames).mean(axis=(1, 2, 3), keepdims=True), factor),
        "saturation": blend(frames, gray_of(frames), factor),
    }
    for name, wanted in expected.items():
        got = apply_colors(frames, [ColorOperation(name, (factor,))])
        difference = np.abs(got.astype(int) - wanted)
        assert difference.max() <= 1 and difference.mean() < 0.005, name


@pytest.mark.parametrize("shift", [-0.5, -0.13, 0.0, 0.2, 0.5])
def test_hue_as_torchvision(shift):
    frames = clip(1, 12, 16)
    wanted = []
    for red, green, blue in frames.reshape(-1, 3) / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        wanted.append(np.array(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)) * 255.999)
    got = apply_colors(frames, [ColorOperation("hue", (shift,))]).reshape(-1, 3)
    difference = np.abs(got - np.floor(wanted))
    assert difference.max() <= 1 and difference.mean() < 0.02


def test_erasing():
    frames = clip()
    changed = apply_colors(frames, [ColorOperation("random_erasing", (2, 3, 10, 12, 9, 8, 7))])
    expected = frames.copy()
    expected[:, 2:12, 3:15] = (9, 8, 7)
    assert (changed == expected).all()
    assert (apply_colors(frames, [ColorOperation("random_erasing", (0, 0, 37, 53, 1, 1, 1))]) == 1).all()


@pytest.mark.parametrize(
    "name, parameters, message",
    [
        ("sharpen", (1,), "color operation 'sharpen' is unknown: choose from gaussian_blur"),
        ("add", (1,), "add has 3 parameters, got 1"),
        ("gaussian_blur", (31.0,), "gaussian_blur: sigma is 31, must be 0 to 30"),
        ("gaussian_blur", (float("nan"),), "gaussian_blur: sigma is nan, must be 0 to 30"),
        ("average_blur", (2.5,), "average_blur: k is 2.5, must be a whole number of 1 to 31"),
        ("motion_blur", (4, 0, 0), "motion_blur: k is 4, must be an odd number of 3 to 31"),
        ("hue", (0.6,), "hue: shift is 0.6, must be -0.5 to 0.5"),
        ("gaussian_noise", (1.0, -1, 0), "gaussian_noise: field is -1, must be a whole number"),
        ("random_erasing", (30, 0, 8, 1, 0, 0, 0), r"top 30 \+ height 8 is 38, must be at most the frame's height, 37"),
        ("random_erasing", (0, 0, 0, 1, 0, 0, 0), "random_erasing: height is 0"),
    ],
)
def test_wrong_operations(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        apply_colors(clip(), [ColorOperation(name, parameters)])


def test_wrong_frames():
    with pytest.raises(ValueError, match=r"frames are float64 \(2, 3\), must be uint8"):
        apply_colors(np.zeros((2, 3)), [])
    frames, none = torch.zeros(1, 4, 4, 3, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"parameters must have the shape \(0, 8\), has \(1, 8\)"):
        operators.apply_colors(frames, none, torch.zeros(1, 8, dtype=torch.float64))
    count = len(color_rules())
    with pytest.raises(ValueError, match=f"color operation {count} is unknown: codes are 0 to {count - 1}"):
        operators.apply_colors(frames, torch.tensor([count]), torch.zeros(1, 8, dtype=torch.float64))
    assert apply_colors(np.zeros((0, 4, 4, 3), np.uint8), [ColorOperation("hue", (0.1,))]).shape == (0, 4, 4, 3)


# ---- users' own functions


def test_functions_of_a_clip():
    frames = clip()
    assert (ClipFunction(lambda clip: 255 - clip)(frames, 1) == 255 - frames).all()

    def shuffle(clip, generator):
        return clip[generator.permutation(len(clip))]

    transform = ClipFunction(shuffle)
    seeds = [clip_seed(0, 0, sample) for sample in range(20)]
    assert len(set(seeds)) == 20
    assert len({transform(frames, seed).tobytes() for seed in seeds}) > 1
    assert (transform(frames, 5) == transform(frames, 5)).all()
