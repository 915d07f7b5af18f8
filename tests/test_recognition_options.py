"""Options of recognition training, each by its result: augmentations, orders, mixing, weights, targets, views."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import nn
from torch.nn import functional as F

from vidseg.clips import ColorOperation
from vidseg.clips.augmentations import color_presets, draw_warps
from vidseg.clips.color import draw_colors
from vidseg.clips.mixing import CutMix, draw_cutmix, draw_mixing, mix_clips, mix_targets, mix_values
from vidseg.clips.operations import color_rules
from vidseg.clips.rand_augment import COLORS, GEOMETRY, AffineWarps, RandAugment
from vidseg.clips.sampler_order import sampled_videos
from vidseg.clips.video_order import VideoOrder
from vidseg.clips.warps import warp_matrices
from vidseg.engine import Position
from vidseg.engine.optimizers import make_optimizer
from vidseg.engine.options import OptimizerOptions
from vidseg.loaders.recolor import apply_colors
from vidseg.metrics.multi_label import label_average_precisions, r_squared
from vidseg.tasks.recognition.data import augmentation_presets
from vidseg.tasks.recognition.options import AugmentationOptions, LossOptions, RecognitionData
from vidseg.tasks.recognition.target_kinds import ClassesTarget, ClassTarget, ValueTarget, class_weights
from vidseg.tasks.recognition.task import RecognitionTask

# Colors of RandAugment


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 200, (40, 56, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "name, values, oracle",
    [
        *(("posterize", (bits,), lambda image, bits: ImageOps.posterize(image, bits)) for bits in (1, 4, 8)),
        *(("solarize", (level,), lambda image, level: ImageOps.solarize(image, level)) for level in (0, 100.5, 256)),
        *(
            ("autocontrast", (cutoff,), lambda image, cutoff: ImageOps.autocontrast(image, cutoff))
            for cutoff in (0, 10, 30.3)
        ),
        ("equalize", (), lambda image: ImageOps.equalize(image)),
        *(
            ("sharpness", (factor,), lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor))
            for factor in (0, 0.5, 1, 1.9)
        ),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_operations_equal_pillow(name, values, oracle, seed):
    pixels = picture(seed)
    got = apply_colors(pixels[None].copy(), [ColorOperation(name, values)])[0]
    assert (np.asarray(got) == np.asarray(oracle(Image.fromarray(pixels), *values))).all()


# RandAugment


def test_rand_augment_draws_all_operations_equally_often_once_for_a_clip():
    preset = RandAugment(3, 8.0, 0.5)
    colors = draw_colors(preset, 0, 0, range(3000), height=32, width=40)
    warps = draw_warps(preset, 0, 0, range(3000))
    assert isinstance(warps, AffineWarps) and warps.kinds.shape == (3000, 3)
    rules = color_rules()
    counts = [np.count_nonzero([rules[code].name == name for code in colors.codes]) for name in COLORS]
    counts += [int((warps.kinds == kind).sum()) for kind in range(len(GEOMETRY))]
    expected = 9000 / 14
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts)
    per_clip = np.diff(colors.offsets) + (warps.kinds >= 0).sum(axis=1)
    assert per_clip.max() == 3 and per_clip.min() >= 0  # a slot may leave the clip as it is
    for code, values in zip(colors.codes, colors.parameters, strict=True):
        rules[code].check(values[: len(rules[code].parameters)].tolist())


def test_rand_augment_is_a_function_of_seed_epoch_and_sample():
    preset = RandAugment(2, 9.0)
    whole = draw_colors(preset, 5, 2, range(20), height=32, width=32)
    assert draw_colors(preset, 5, 2, [7, 3], height=32, width=32) == whole.take([7, 3])
    other = draw_colors(preset, 5, 3, range(20), height=32, width=32)
    assert other != whole
    warps, part = draw_warps(preset, 5, 2, range(20)), draw_warps(preset, 5, 2, [7, 3])
    assert (warps.kinds[[7, 3]] == part.kinds).all() and (warps.amounts[[7, 3]] == part.amounts).all()
    calm = RandAugment(2, 0.0)
    assert not draw_warps(calm, 5, 2, range(20)).amounts.any()


def test_geometry_of_rand_augment_moves_points_as_its_operation_says():
    kinds = np.array([[0, -1], [1, -1], [2, -1], [3, -1], [4, -1], [2, 3]])
    warps = AffineWarps(kinds, np.array([[0.3, 0], [0.2, 0], [0.25, 0], [0.5, 0], [90.0, 0], [0.1, 0.2]]))
    matrices = warp_matrices(warps, np.full(6, 40), np.full(6, 80))

    def moved(clip, x, y):
        return (matrices[clip] @ [x, y, 1])[:2].round(9).tolist()

    assert moved(0, 40, 30) == [40 + 0.3 * 10, 30]  # the center stays, 10 pixels below it move by 3
    assert moved(1, 50, 20) == [50, 20 + 0.2 * 10]
    assert moved(2, 0, 0) == [20, 0] and moved(3, 0, 0) == [0, 20]
    assert moved(4, 40, 30) == [50, 20]  # a quarter turn
    assert moved(5, 0, 0) == [8, 8]


def test_presets_by_name_and_wrong_values():
    assert color_presets("rand_augment") == (RandAugment(2, 9.0),)
    assert color_presets("rand_augment_videomae") == (RandAugment(4, 7.0, 0.5),)
    for values, message in (
        ((0, 9.0), "operations is 0, must be a whole number of 1 to 8"),
        ((2, 11.0), "magnitude is 11, must be 0 to 10"),
        ((2, 9.0, -1.0), "deviation is -1, must be 0 to 10"),
    ):
        with pytest.raises(ValueError, match=message):
            RandAugment(*values)


def test_options_make_the_presets_in_the_order_of_application():
    assert augmentation_presets(AugmentationOptions()) is None
    options = AugmentationOptions(color_jitter=(0.2, 0, 0, 0.1), random_erasing=(0.5,), rand_augment=(2, 9))
    presets = augmentation_presets(options)
    assert presets[0] == RandAugment(2, 9.0)
    assert [one.name for one in presets[1].operations] == ["brightness", "hue"]
    assert presets[2].operations[0].area == (0.02, 0.4)
    with pytest.raises(ValueError, match="2 presets have a warp"):
        augmentation_presets(AugmentationOptions(augment="hacs", rand_augment=(2, 9)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rand_augment": (2.5, 9)}, "operations=2.5 must be whole"),
        ({"rand_augment": (2,)}, r"expected 2 to 3 values \(operations, magnitude, deviation\)"),
        ({"rand_augment": (2, 30)}, "magnitude=30 must be 0 to 10"),
        ({"color_jitter": (0.1, -0.1, 0, 0)}, "contrast=-0.1 must be 0 to 254"),
        ({"random_erasing": (0.5, 0.0)}, "smallest area=0 must be 1e-06 to 1"),
        ({"random_erasing": (0.5, 0.1, 0.2, 2.0)}, "smallest height / width=2 must be 0.001 to 1"),
    ],
)
def test_augmentation_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AugmentationOptions(**options)


# Order of videos


def test_repeats_are_next_to_each_other():
    order = VideoOrder(np.zeros(7, int), repeats=3, seed=4)
    videos = sampled_videos(order, count=7, seed=4, epoch=2).reshape(7, 3)
    assert len(order) == 21 and (videos == videos[:, :1]).all() and sorted(videos[:, 0]) == list(range(7))
    assert (videos == sampled_videos(order, count=7, seed=4, epoch=2).reshape(7, 3)).all()
    assert (videos != sampled_videos(order, count=7, seed=4, epoch=3).reshape(7, 3)).any()


def test_balanced_epochs_have_all_classes_equally_often():
    labels = np.repeat([0, 1, 2], [2, 6, 33])
    order = VideoOrder(labels, balanced=True, seed=1)
    for epoch in range(3):
        order.set_epoch(epoch)
        videos = np.array(list(order))
        assert len(videos) == 41
        counts = np.bincount(labels[videos])
        assert counts.min() >= 13 and counts.max() <= 14
        rare = np.bincount(videos, minlength=41)[:8]
        assert rare[:2].max() - rare[:2].min() <= 1 and rare[2:].max() - rare[2:].min() <= 1
    with pytest.raises(ValueError, match="1 videos have no class"):
        VideoOrder([0, -1], balanced=True)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"repeats": 0}, "repeats=0 must be 1 to 64"),
        ({"val_crops": 4}, "val_crops=4 is not one of 1, 3, 5, 10"),
        ({"batch_size": 4, "process_batch_size": 2}, "give one of them"),
        ({"val_lists": ("a",)}, "give train_lists as well"),
        ({"train_lists": ("a",), "train_split": "train"}, "leave train_split and val_split out"),
    ],
)
def test_options_of_data_that_contradict_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        RecognitionData(**options)


# Mixing


def test_cutmix_puts_the_partner_into_the_box_of_all_frames():
    frames = torch.randn(6, 3, 4, 20, 30)
    mixing = draw_cutmix(0, 1, 7, clips=6, alpha=1.0, height=20, width=30)
    top, left, height, width = mixing.box
    mixed = mix_clips(frames, mixing)
    inside = torch.zeros(20, 30, dtype=torch.bool)
    inside[top : top + height, left : left + width] = True
    partners = torch.from_numpy(mixing.partners)
    assert torch.equal(mixed[..., inside], frames[partners][..., inside])
    assert torch.equal(mixed[..., ~inside], frames[..., ~inside])
    assert mixing.share == pytest.approx(1 - height * width / 600)
    targets = mix_targets(torch.arange(6), mixing, 6)
    assert torch.allclose(targets.diagonal(), torch.where(partners == torch.arange(6), 1.0, mixing.share).float())


def test_cutmix_is_a_function_of_the_batch_and_its_share_of_the_frame_follows_beta():
    shares = []
    for batch in range(400):
        one = draw_cutmix(3, 0, batch, clips=2, alpha=1.0, height=64, width=64)
        top, left, height, width = one.box
        assert 0 <= top <= top + height <= 64 and 0 <= left <= left + width <= 64
        shares.append(one.share)
    again = draw_cutmix(3, 0, 0, clips=2, alpha=1.0, height=64, width=64, rank=1)
    assert again.share == shares[0]  # ranks have the same box
    # a box around a uniform center is cut at the borders: it covers less than half on average
    assert 0.55 < np.mean(shares) < 0.8
    assert draw_mixing(0, 0, 0, clips=2, mixup=0, cutmix=0, height=8, width=8) is None
    kinds = [
        isinstance(draw_mixing(0, 0, batch, clips=2, mixup=0.8, cutmix=1.0, height=8, width=8), CutMix)
        for batch in range(200)
    ]
    assert 70 < sum(kinds) < 130


class Mean(nn.Module):
    """Logits that are linear in the pixels."""

    def __init__(self, classes=3):
        super().__init__()
        self.weight = torch.randn(12, classes, generator=torch.Generator().manual_seed(2))

    def forward(self, frames):
        return frames.flatten(1) @ self.weight


class Clips:
    def __init__(self, labels=None, targets=None):
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(4, 3, 1, 2, 2, generator=generator)
        self.labels, self.targets = labels, targets


def loss_of(task, batch, number=3):
    found = []
    model = Mean(3)
    result = task.train_batch(model, batch, Position(1, 2, number), found.append)
    return float(found[0]), result.sums, model


def test_cutmix_of_a_batch_has_the_loss_of_the_mixed_targets():
    batch = Clips(labels=torch.tensor([0, 1, 2, 1]))
    loss, _, model = loss_of(RecognitionTask(cutmix=1.0), batch)
    mixing = draw_cutmix(1, 2, 3, clips=4, alpha=1.0, height=2, width=2)
    targets = mix_targets(batch.labels, mixing, 3)
    assert loss == pytest.approx(float(F.cross_entropy(model(mix_clips(batch.inputs, mixing)), targets)), rel=1e-6)


# Weights of classes


class Videos:
    """What weights are computed from."""

    def __init__(self, labels=None, sets=None, classes=3):
        self.labels = np.zeros(len(sets), int) if labels is None else np.array(labels)
        self.class_sets, self.classes = sets, [f"c{number}" for number in range(classes)]
        self.num_classes, self.root = classes, "data"

    def __len__(self):
        return len(self.labels)


@pytest.mark.parametrize("kind", ["inverse", "median"])
def test_class_weights_have_a_mean_of_1_over_the_videos(kind):
    data = Videos([0] * 8 + [1] * 3 + [2])
    weights = class_weights(data, LossOptions(class_weights=kind))
    assert weights.numpy()[data.labels].mean() == pytest.approx(1.0, rel=1e-6)
    assert weights[1] / weights[0] == pytest.approx(8 / 3) and weights[2] / weights[0] == pytest.approx(8)
    batch = Clips(labels=torch.tensor([0, 1, 2, 1]))
    loss, _, model = loss_of(RecognitionTask(target=ClassTarget(weights=weights)), batch)
    each = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
    assert loss == pytest.approx(float((each * weights[batch.labels]).mean()), rel=1e-6)


def test_a_class_without_a_training_video_has_no_weight():
    with pytest.raises(ValueError, match="there is no training video of c1"):
        class_weights(Videos([0, 0, 2]), LossOptions(class_weights="inverse"))
    assert class_weights(Videos([0, 0, 2]), LossOptions()) is None
    with pytest.raises(ValueError, match="target='value' has no classes"):
        LossOptions(target="value", label_smoothing=0.1)


# Several classes, numbers


def test_mean_average_precision_is_that_of_the_definition():
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.1], [0.7, 0.5], [0.1, 0.5]])
    targets = torch.tensor([[1.0, 0], [0, 0], [1, 1], [0, 0]])
    found = label_average_precisions(scores, targets)
    assert found[0] == pytest.approx((1 + 2 / 3) / 2) and found[1] == pytest.approx(1 / 2)  # a tie counts together
    assert label_average_precisions(scores, torch.zeros(4, 2)).isnan().all()
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 9, (40, 5), generator=generator).float()
    targets = (torch.rand(40, 5, generator=generator) < 0.3).float()
    for number, value in enumerate(label_average_precisions(scores, targets)):
        expected = metrics.average_precision_score(targets[:, number].numpy(), scores[:, number].numpy())
        assert float(value) == pytest.approx(expected)


def test_several_classes_are_learned_with_binary_cross_entropy():
    sets = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
    batch = Clips(targets=sets)
    loss, sums, model = loss_of(RecognitionTask(target=ClassesTarget()), batch)
    logits = model(batch.inputs)
    assert loss == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, sets)), rel=1e-6)
    assert float(sums[0, 0]) == float(sets[torch.arange(4), logits.argmax(1)].sum())
    weights = class_weights(Videos(sets=sets.bool().numpy()), LossOptions(target="classes", class_weights="inverse"))
    assert weights.tolist() == [1.0, 1.0, 1.0]
    mixed, _, _ = loss_of(RecognitionTask(target=ClassesTarget(smoothing=0.2), mixup=0.4), batch)
    mixing = draw_mixing(1, 2, 3, clips=4, mixup=0.4, cutmix=0.0, height=2, width=2)
    smooth = mix_values(sets * 0.8 + 0.1, mixing)
    expected = F.binary_cross_entropy_with_logits(model(mix_clips(batch.inputs, mixing)), smooth)
    assert mixed == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_numbers_are_learned_by_regression(kind):
    batch = Clips(targets=torch.tensor([0.5, -1.0, 2.0, 0.0]))
    loss, sums, model = loss_of(RecognitionTask(target=ValueTarget(kind=kind)), batch)
    error = model(batch.inputs)[:, 0] - batch.targets
    assert loss == pytest.approx(float((error.square() if kind == "mse" else error.abs()).mean()), rel=1e-6)
    assert float(sums[0, 0]) == pytest.approx(float(error.abs().sum()), rel=1e-6)


def test_results_of_views_are_fused_before_they_are_scored():
    logits = torch.tensor([[1.0, 0], [3, 0], [0, 2]])
    places, numbers = torch.tensor([0, 0, 1]), torch.tensor([4, 9])
    value = ValueTarget().result(logits[:, :1], torch.tensor([2.0, 1.0]), numbers, places, fuse="softmax")
    assert value.logits[:, 0].tolist() == [2.0, 0.0] and value.values[0] == 0.5 and value.quality == -0.5
    assert value.r2 == pytest.approx(1 - 1 / 0.5) == r_squared(torch.tensor([2.0, 0.0]), torch.tensor([2.0, 1.0]))
    sets = torch.tensor([[1.0, 0], [0, 1]])
    several = ClassesTarget().result(logits, sets, numbers, places, fuse="softmax")
    expected = (logits[0, 0].sigmoid() + logits[1, 0].sigmoid()) / 2
    assert float(several.logits[0, 0].sigmoid()) == pytest.approx(float(expected), rel=1e-5)
    assert several.values[:2] == (1.0, 1.0)


def test_nesterov_is_an_option():
    for nesterov in (True, False):
        weight = nn.Parameter(torch.tensor([1.0]))
        options = OptimizerOptions(nesterov=nesterov, weight_decay=0.0, implementation="torch")
        optimizer = make_optimizer([{"params": [weight]}], options, rate=0.1)
        weight.grad = torch.tensor([1.0])
        optimizer.step()
        assert weight.item() == pytest.approx(1 - 0.1 * (1.9 if nesterov else 1.0))
