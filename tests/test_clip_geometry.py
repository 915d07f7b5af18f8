"""Which part of the frame clips show: published tables, imgaug and OpenCV as oracles, properties of all frames."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidseg.clips import (
    CenterCrop,
    FiveCrop,
    Geometry,
    Mirror,
    MultiScaleCrop,
    Perspective,
    RandomCrop,
    RandomResizedCrop,
    RandomShortSide,
    ResizeExact,
    ResizeShort,
    Rotation,
    ThreeCrop,
)
from vidseg.clips.augmentations import Warps
from vidseg.clips.named_geometry import GEOMETRIES, named_geometry
from vidseg.clips.steps import Canvas
from vidseg.clips.warps import perspective_matrices, rotation_matrices
from vidseg.loaders.adapters import import_imgaug

TABLES = json.loads((Path(__file__).parent / "golden/training_math.json").read_text())


def matrices_of(geometry, heights, widths, *, output=(64, 64), views=None, samples=None, seed=0, epoch=0, warps=None):
    heights = np.atleast_1d(heights)
    return geometry.matrices(
        heights,
        np.atleast_1d(widths),
        output=output,
        views=np.zeros_like(heights) if views is None else np.asarray(views),
        seed=seed,
        epoch=epoch,
        samples=np.arange(len(heights)) if samples is None else np.asarray(samples),
        warps=warps,
    )


def boxes(matrices, output=(64, 64)):
    """Left, top, right, bottom (B, 4) in the frame of what fills the output."""
    ends = np.array([[0, 0, 1], [output[1], output[0], 1]]).T
    points = matrices @ ends
    return np.concatenate([points[:, :2, 0], points[:, :2, 1]], axis=1)


def canvas_of(height, width, *, output=(224, 224), views=1):
    heights = np.full(views, height)
    return Canvas(heights, np.full(views, width), output, np.arange(views), 0, 0, np.arange(views))


@pytest.mark.parametrize(
    "rule, column", [("pyslowfast", "pyslowfast_top_left"), ("tsm", "tsm_full_resolution_left_right_centre_top_left")]
)
@pytest.mark.parametrize("case", TABLES["three_crops"], ids=lambda case: f"{case['width']}x{case['height']}")
def test_published_three_crops(case, rule, column):
    matrices, heights, widths = ThreeCrop(case["size"], rule).apply(canvas_of(case["height"], case["width"], views=3))
    assert matrices[:, [1, 0], 2].tolist() == case[column]
    assert set(heights) == set(widths) == {case["size"]}


@pytest.mark.parametrize("case", TABLES["multi_scale_crop"], ids=lambda case: f"{case['width']}x{case['height']}")
def test_published_multi_scale_crops(case):
    crop = MultiScaleCrop(case["input_size"])
    heights, widths = crop.sizes(canvas_of(case["height"], case["width"]))
    assert np.stack([widths[0], heights[0]], axis=1).tolist() == case["crop_pairs_wh"]
    width, height = case["offsets_xy_for_middle_pair"]["pair_wh"]
    steps = (case["height"] - height) // 4, (case["width"] - width) // 4
    places = [[across * steps[1], down * steps[0]] for down, across in crop.PLACES]
    assert places == case["offsets_xy_for_middle_pair"]["offsets"]


def test_multi_scale_crops_are_of_these_sizes_and_places():
    crop, canvas = MultiScaleCrop(224), canvas_of(256, 340, views=5000)
    matrices, heights, widths = crop.apply(canvas)
    sizes = {(height, width) for height, width in zip(*(side[0].tolist() for side in crop.sizes(canvas)), strict=True)}
    assert set(zip(heights.tolist(), widths.tolist(), strict=True)) == sizes and len(sizes) == 10
    whole = (heights == 192) & (widths == 192)
    assert len(np.unique(matrices[whole][:, :2, 2], axis=0)) == 13
    assert (matrices[:, 0, 2] + widths <= 340).all() and (matrices[:, 1, 2] + heights <= 256).all()


def reference_box(height, width, draws, scale, ratio):
    """Torchvision's RandomResizedCrop with its random numbers given, one frame at a time."""
    for area, aspect in zip(draws[:10], draws[10:20], strict=True):
        target = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        shape = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * aspect)
        across, down = round(math.sqrt(target * shape)), round(math.sqrt(target / shape))
        if 0 < across <= width and 0 < down <= height:
            return int(draws[20] * (height - down + 1)), int(draws[21] * (width - across + 1)), down, across
    down, across = height, width
    if width / height < min(ratio):
        down = max(1, round(width / min(ratio)))
    elif width / height > max(ratio):
        across = max(1, round(height * max(ratio)))
    return (height - down) // 2, (width - across) // 2, down, across


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=1, max_size=20),
    scale=st.sampled_from([(0.08, 1.0), (0.25, 1.0), (0.9, 1.0), (1.0, 1.0)]),
    ratio=st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (2.0, 3.0)]),
    seed=st.integers(0, 1000),
)
def test_random_resized_crop_is_torchvisions(sizes, scale, ratio, seed):
    heights, widths = np.array(sizes).T
    draws = np.random.default_rng(seed).random((len(sizes), 22))
    mine = np.stack(RandomResizedCrop(scale, ratio).boxes(heights, widths, draws), axis=1)
    expected = [reference_box(*size, row, scale, ratio) for size, row in zip(sizes, draws.tolist(), strict=True)]
    assert mine.tolist() == [list(box) for box in expected]
    top, left, height, width = mine.T
    assert (mine >= [0, 0, 1, 1]).all() and (top + height <= heights).all() and (left + width <= widths).all()


def test_random_resized_crop_falls_back_to_the_middle():
    boxes = RandomResizedCrop((0.9, 1.0)).boxes(np.array([100, 1000]), np.array([1000, 100]), np.full((2, 22), 0.5))
    assert np.stack(boxes, axis=1).tolist() == [[0, 433, 100, 133], [433, 0, 133, 100]]


INSIDE = [
    Geometry(),
    Geometry((CenterCrop(100),)),
    Geometry((RandomCrop((30, 50)), Mirror(1))),
    Geometry((RandomResizedCrop(), Mirror())),
    Geometry((ResizeExact((40, 90)), RandomCrop(), Mirror())),
    *(named_geometry(name, size=(64, 64), train=True) for name in GEOMETRIES),
    *(named_geometry(name, size=(64, 64), train=False) for name in ("center", "kinetics", "moments", "ucf101")),
]


@pytest.mark.parametrize("geometry", INSIDE)
@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.tuples(st.integers(8, 700), st.integers(8, 700)), min_size=1, max_size=6),
    output=st.sampled_from([(64, 64), (40, 90)]),
    view=st.integers(0, 9),
    seed=st.integers(0, 100),
)
def test_crops_are_inside_the_frame(geometry, sizes, output, view, seed):
    heights, widths = np.array(sizes).T
    views = np.full(len(sizes), view % geometry.views)
    matrices = matrices_of(geometry, heights, widths, output=output, views=views, seed=seed)
    left, top, right, bottom = boxes(matrices, output).T
    left, right = np.minimum(left, right), np.maximum(left, right)
    assert (left > -1e-9).all() and (right < widths + 1e-9).all() and (right - left > 0).all()
    assert (top > -1e-9).all() and (bottom < heights + 1e-9).all() and (bottom - top > 0).all()
    # Each clip alone has the same matrix: nothing depends on the others of the batch.
    for clip, size in enumerate(sizes):
        alone = matrices_of(geometry, *size, output=output, views=views[:1], samples=[clip], seed=seed)
        assert (alone[0] == matrices[clip]).all()


@pytest.mark.parametrize(
    "steps",
    [
        (RandomCrop(),),
        (RandomCrop(), Mirror()),
        (CenterCrop(), Mirror()),
        (ResizeShort(120), CenterCrop(90), RandomCrop(), Mirror()),
        (ResizeShort(120), ThreeCrop()),
        (ResizeExact((120, 161)), FiveCrop(mirrored=True)),
    ],
)
def test_crops_without_resampling_are_integer_shifts(steps):
    """A frame of 161x120 that no step resizes: unit scale, whole shift, exactly."""
    geometry = Geometry(steps)
    count = 200
    views = np.arange(count) % geometry.views
    matrices = matrices_of(geometry, np.full(count, 120), np.full(count, 161), views=views)
    assert (np.abs(matrices[:, 0, 0]) == 1).all() and (matrices[:, 1, 1] == 1).all()
    assert (matrices[:, :2, 2] == np.rint(matrices[:, :2, 2])).all()
    assert (matrices[:, [0, 1, 2, 2], [1, 0, 0, 1]] == 0).all() and (matrices[:, 2, 2] == 1).all()


def test_resizing_is_exact():
    """A resized and cropped ramp, as OpenCV makes it step by step."""
    y, x = np.mgrid[0:240, 0:320].astype(np.float32) + 0.5
    resized = cv2.resize(np.stack([x, y], axis=-1), (171, 128), interpolation=cv2.INTER_LINEAR)
    expected = resized[8:120, 29:141][:, ::-1]
    matrix = matrices_of(Geometry((ResizeShort(128), CenterCrop(), Mirror(1))), 240, 320, output=(112, 112))[0]
    down, across = np.mgrid[0:112, 0:112] + 0.5
    points = np.stack([across, down, np.ones_like(down)], axis=-1) @ matrix.T
    assert np.abs(points[..., :2] - expected).max() < 1e-3


def test_five_and_ten_crops():
    def of(crop):
        views = np.arange(crop.views)
        return boxes(matrices_of(Geometry((crop,)), np.full(len(views), 100), np.full(len(views), 131), views=views))

    corners = [[0, 0, 64, 64], [67, 0, 131, 64], [0, 36, 64, 100], [67, 36, 131, 100], [33, 18, 97, 82]]
    assert of(FiveCrop()).tolist() == corners
    mirrored = [[right, top, left, bottom] for left, top, right, bottom in corners]
    assert of(FiveCrop(mirrored=True)).tolist() == corners + mirrored


def test_draws_are_uniform():
    many = np.full(4000, 120), np.full(4000, 160)
    mirrored = matrices_of(Geometry((Mirror(0.3),)), *many)[:, 0, 0] < 0
    assert mirrored.mean() == pytest.approx(0.3, abs=0.03)
    left, top, *_ = boxes(matrices_of(Geometry((RandomCrop(),)), *many)).T
    assert len(set(left)) == 97 and (left.min(), left.max()) == (0, 96)
    assert len(set(top)) == 57 and np.bincount(top.astype(int)).min() > 35
    assert abs(np.corrcoef(left, top)[0, 1]) < 0.05
    sides = 120 / matrices_of(Geometry((RandomShortSide(70, 79), CenterCrop())), *many)[:, 1, 1]
    assert set(np.rint(sides)) == set(range(70, 80))
    default = 120 / matrices_of(Geometry((RandomShortSide(), CenterCrop())), *many, output=(112, 112))[:, 1, 1]
    assert np.rint([default.min(), default.max()]).tolist() == [128, 160]
    turned = matrices_of(Geometry((Rotation((-20, 5)),)), np.full(4000, 64), np.full(4000, 64))
    degrees = np.rad2deg(np.arctan2(turned[:, 0, 1], turned[:, 0, 0]))
    assert (degrees.min(), degrees.max(), degrees.mean()) == pytest.approx((-20, 5, -7.5), abs=0.5)


def test_equal_steps_draw_independently():
    twice = Geometry((RandomCrop(100), RandomCrop()))
    once = Geometry((RandomCrop(100), CenterCrop()))
    many = np.full(300, 136), np.full(300, 136)
    second = (matrices_of(twice, *many) - matrices_of(once, *many))[:, :2, 2] + 18
    first = matrices_of(once, *many)[:, :2, 2] - 18
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.2


@pytest.mark.parametrize("train", [True, False])
def test_published_geometries(train):
    """What of a frame of 426x240 each of the published programs can show."""

    def widest(name, size, output):
        geometry = named_geometry(name, size=(size, size), train=train)
        many = np.full(2000, 240), np.full(2000, 426)
        left, _, right, bottom = boxes(matrices_of(geometry, *many, output=(output, output)), (output, output)).T
        return np.minimum(left, right).min(), np.maximum(left, right).max(), bottom.max(), np.abs(right - left)

    scale_large, scale_small = 240 / 384, 240 / 294
    if train:
        left, right, bottom, width = widest("hacs", 284, 158)
        assert width == pytest.approx(284 * scale_large, rel=2e-3)  # 426 * 384 / 240 is not a whole number
        assert (left, right) == pytest.approx((93, 333), abs=0.5) and bottom == pytest.approx(240)
        left, right, bottom, width = widest("hmdb51", 256, 256)
        assert width == pytest.approx(224 * scale_small, rel=2e-3)
        assert (left, right) == pytest.approx((0, 426), abs=0.5) and bottom == pytest.approx(240)
    else:
        for name, crop in (("kinetics", 256), ("moments", 294), ("ucf101", 224)):
            left, right, _, width = widest(name, 224, 256)
            assert width == pytest.approx(crop * scale_small, rel=2e-3)
            assert (left + right) / 2 == pytest.approx(213, abs=1)


class TestWarps:
    """imgaug resamples twice, and by area the second time, so that it may be a pixel off in some rows."""

    height, width = 120, 160
    corners = np.abs(np.random.RandomState(0).randn(6, 4, 2) * 0.04)

    def ramp(self):
        """Each pixel's own place (x, y)."""
        y, x = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32) + 0.5
        return np.stack([x, y], axis=-1)

    def compare(self, matrix, warped):
        """Distances (in pixels) between where the matrix and an oracle take the pixels inside the frame from."""
        ramp = self.ramp()
        points = np.concatenate([ramp, np.ones_like(ramp[..., :1])], axis=-1) @ matrix.T
        points = points[..., :2] / points[..., 2:]
        inside = ((points > 2) & (points < [self.width - 2, self.height - 2])).all(-1)
        inside[:2] = inside[-2:] = inside[:, :2] = inside[:, -2:] = False
        assert inside.mean() > 0.7
        return np.abs(points - warped)[inside]

    @pytest.mark.parametrize("degrees", [10.0, -7.3, 25.0])
    def test_rotation_is_imgaugs(self, degrees):
        matrix = rotation_matrices(np.array([degrees]), np.array([self.height]), np.array([self.width]))[0]
        warped = import_imgaug().augmenters.Affine(rotate=degrees).augment_image(self.ramp())
        assert self.compare(matrix, warped).max() < 0.05

    @pytest.mark.parametrize("corners", corners)
    def test_perspective_is_imgaugs(self, corners):
        matrix = perspective_matrices(corners[None], np.array([self.height]), np.array([self.width]))[0]
        imgaug = import_imgaug()

        class Given(imgaug.parameters.StochasticParameter):
            def _draw_samples(self, size, random_state):
                return np.broadcast_to(corners, size).copy()

        augmenter = imgaug.augmenters.PerspectiveTransform(scale=0.05, keep_size=True)
        augmenter.jitter = Given()
        distances = self.compare(matrix, augmenter.augment_image(self.ramp()))
        assert distances.mean() < 0.05 and np.quantile(distances, 0.95) < 0.1

    @pytest.mark.parametrize("corners", corners)
    def test_perspective_is_opencvs(self, corners):
        sides = np.array([self.width, self.height])
        points = (np.where([[0, 0], [1, 0], [1, 1], [0, 1]], 1 - corners, corners) * sides).astype(np.float32)
        edges = [math.dist(points[k], points[(k + 1) % 4]) for k in range(4)]
        across, down = int(max(edges[0], edges[2])), int(max(edges[1], edges[3]))
        target = np.array([[0, 0], [across, 0], [across, down], [0, down]], np.float32)
        warped = cv2.warpPerspective(self.ramp(), cv2.getPerspectiveTransform(points, target), (across, down))
        warped = cv2.resize(warped, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        matrix = perspective_matrices(corners[None], np.array([self.height]), np.array([self.width]))[0]
        assert self.compare(matrix, warped).max() < 0.05

    def test_drawn_warps_come_after_the_crop(self):
        warps = Warps(np.array([0, 1, 2]), np.zeros((3, 4, 2)), np.array([0, 0, 90.0]))
        warps.corners[1] = 0.1
        geometry = Geometry((CenterCrop(100),))
        matrices = matrices_of(geometry, [120] * 3, [160] * 3, output=(100, 100), warps=warps)
        plain = matrices_of(geometry, 120, 160, output=(100, 100))[0]
        assert (matrices[0] == plain).all()
        np.testing.assert_allclose(matrices[1] @ [50, 50, 1], [80, 60, 1], atol=0.02)
        np.testing.assert_allclose(matrices[1] @ [0, 0, 1], [40, 20, 1], atol=0.2)
        # Turned clockwise by a right angle: the output's top left shows what was bottom left.
        np.testing.assert_allclose(matrices[2] @ [0, 0, 1], [30, 110, 1], atol=1e-9)

    def test_identity(self):
        still = perspective_matrices(np.zeros((1, 4, 2)), np.array([120]), np.array([160]))
        np.testing.assert_allclose(still[0], np.eye(3), atol=1e-12)
        assert (rotation_matrices(np.zeros(1), np.array([120]), np.array([160])) == np.eye(3)).all()

    def test_perspective_zooms_in(self):
        matrices = matrices_of(Geometry((Perspective((0.05, 0.05)),)), np.full(500, 100), np.full(500, 100))
        for x, y in ((0, 0), (64, 0), (64, 64), (0, 64)):
            points = matrices @ [x, y, 1]
            points = points[:, :2] / points[:, 2:]
            moved = np.abs(points - np.array([x, y]) * 100 / 64)
            assert ((points > -0.5) & (points < 100.5)).all()
            assert moved.mean() == pytest.approx(5 * math.sqrt(2 / math.pi), rel=0.15)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CenterCrop(0),
        lambda: ResizeShort(0),
        lambda: ResizeShort(ratio=-1),
        lambda: RandomShortSide(300, 200),
        lambda: RandomResizedCrop((0, 1)),
        lambda: RandomResizedCrop(ratio=(2, 1)),
        lambda: MultiScaleCrop(scales=()),
        lambda: ThreeCrop(rule="both"),
        lambda: Mirror(2),
        lambda: Rotation((5, -5)),
        lambda: Perspective((0, 0.5)),
        lambda: Geometry((ThreeCrop(), FiveCrop())),
        lambda: named_geometry("middle", size=(9, 9), train=True),
        lambda: named_geometry("multi_scale", size=(9, 9), train=False),
    ],
)
def test_wrong_options_are_refused(make):
    with pytest.raises(ValueError):
        make()
