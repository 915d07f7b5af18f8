"""Every color operation against imgaug 0.4.0 at the same parameters, and users' own pipelines."""

import sys

import numpy as np
import pytest

from vidseg.clips import ColorOperation
from vidseg.loaders.adapters import ClipFunction, ImgaugTransform, clip_seed, import_imgaug
from vidseg.loaders.recolor import apply_colors

cv2 = pytest.importorskip("cv2", reason="imgaug needs OpenCV")
try:
    import_imgaug()
except ImportError as missing:
    pytest.skip(str(missing), allow_module_level=True)
import imgaug.augmenters as iaa  # noqa: E402


def pictures():
    """Noise, and a smooth picture with all hues; sides that divide by nothing."""
    rows, columns = np.mgrid[:61, :83]
    smooth = [np.sin(columns / 9 + rows / 17), np.cos(columns / 13), np.sin(rows / 7 - columns / 23)]
    smooth = (128 + 126 * np.stack(smooth, axis=-1)).astype(np.uint8)
    return {"noise": np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8), "smooth": smooth}


def per_channel(augmenter, values):
    """The same augmenter for each color, each with its own value."""
    return lambda picture: np.stack(
        [augmenter(value).augment_image(picture[..., i : i + 1].copy())[..., 0] for i, value in enumerate(values)], -1
    )


EXACT, ROUNDING = (0, 0.0), (1, 0.1)  # largest difference in gray levels, and their mean
# imgaug rotates the filter of a motion blur with OpenCV, which before version 5 has positions in steps of 1/32 pixel
ROTATION = ROUNDING if int(cv2.__version__.split(".")[0]) >= 5 else (2, 0.5)

CASES = [
    *[("gaussian_blur", (s,), iaa.GaussianBlur(sigma=s), EXACT) for s in (0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 4.0, 8.0)],
    *[("average_blur", (k,), iaa.AverageBlur(k=k), ROUNDING) for k in (1, 2, 3, 4, 7)],
    *[("multiply", (m,) * 3, iaa.Multiply(m), EXACT) for m in (0.8, 1.13, 1.2)],
    *[("enhance_color", (f,), iaa.pillike.EnhanceColor(f), EXACT) for f in (0.0, 0.3, 1.2, 1.6)],
    *[("linear_contrast", (a,) * 3, iaa.LinearContrast(a), EXACT) for a in (0.85, 1.0, 1.115)],
    *[
        ("hue_saturation", (h, s), iaa.AddToHueAndSaturation(value_hue=h, value_saturation=s), ROUNDING)
        for h, s in ((-16, 16), (16, -16), (0, 0), (7, -200), (-255, 100), (255, 255))
    ],
    *[
        ("motion_blur", (k, angle, direction), iaa.MotionBlur(k=k, angle=angle, direction=direction), ROTATION)
        for k, angle, direction in ((3, 0, 0), (5, 30, 0.4), (7, 45, -1), (5, 90, 1), (7, 200, 0.3), (15, 123, 0.2))
    ],
    ("add", (-5, 15, 3), per_channel(iaa.Add, (-5, 15, 3)), EXACT),
    ("add", (200, -200, 2.6), per_channel(iaa.Add, (200, -200, 2.6)), EXACT),
    ("multiply", (0.8, 1.1, 1.2), per_channel(iaa.Multiply, (0.8, 1.1, 1.2)), EXACT),
    # one unit in the last place of pow() can cost a level
    ("gamma", (0.85, 1.07, 1.15), per_channel(iaa.GammaContrast, (0.85, 1.07, 1.15)), (1, 0.01)),
    ("linear_contrast", (0.85, 1.0, 1.115), per_channel(iaa.LinearContrast, (0.85, 1.0, 1.115)), EXACT),
    ("grayscale", (), iaa.Grayscale(1.0), EXACT),
]


@pytest.mark.parametrize("picture", ["noise", "smooth"])
@pytest.mark.parametrize("name, parameters, augmenter, tolerance", CASES)
def test_operations_agree(name, parameters, augmenter, tolerance, picture):
    frame = pictures()[picture]
    got = apply_colors(frame[None], [ColorOperation(name, parameters)])[0]
    expected = augmenter.augment_image(frame.copy()) if hasattr(augmenter, "augment_image") else augmenter(frame)
    difference = np.abs(got.astype(int) - expected)
    assert difference.max() <= tolerance[0]
    assert difference.mean() <= tolerance[1]


@pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (7, 1), (2, 3)])
@pytest.mark.parametrize(
    "name, parameters, augmenter",
    [
        ("gaussian_blur", (1.5,), iaa.GaussianBlur(sigma=1.5)),
        ("average_blur", (5,), iaa.AverageBlur(k=5)),
        ("motion_blur", (7, 30, 0.5), iaa.MotionBlur(k=7, angle=30, direction=0.5)),
    ],
)
def test_frames_smaller_than_the_filter(name, parameters, augmenter, height, width):
    frame = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    got = apply_colors(frame[None], [ColorOperation(name, parameters)])[0]
    assert np.abs(got.astype(int) - augmenter.augment_image(frame.copy())).max() <= 1


@pytest.mark.parametrize("apart", [0, 1])
def test_noise_is_added_as_imgaug_adds_it(apart):
    frame = pictures()["noise"]
    operation = [ColorOperation("gaussian_noise", (20.0, 12345, apart))]
    field = apply_colors(np.full((1, 61, 83, 3), 128, np.uint8), operation)[0].astype(int) - 128
    assert (field[..., 0] == field[..., 1]).all() == (not apart)
    expected = iaa.arithmetic.add_elementwise(frame.copy(), field)
    assert (apply_colors(frame[None], operation)[0] == expected).all()
    gray = np.full((200, 200, 3), 128, np.uint8)
    theirs = iaa.AdditiveGaussianNoise(scale=20, per_channel=True, seed=1).augment_image(gray)
    ours = apply_colors(gray[None], [ColorOperation("gaussian_noise", (20.0, 5, 1))])[0]
    for quantile in (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
        assert np.quantile(ours, quantile) == pytest.approx(np.quantile(theirs, quantile), abs=1)


def test_the_adapter_changes_all_frames_alike():
    augmenter = iaa.Sequential(
        [iaa.Add((-40, 40)), iaa.Affine(rotate=(-20, 20)), iaa.AdditiveGaussianNoise(scale=20), iaa.Fliplr(0.5)]
    )
    transform = ImgaugTransform(augmenter)
    clip = np.repeat(pictures()["smooth"][None], 5, axis=0)
    results = [transform(clip, clip_seed(0, epoch, sample)) for epoch in (0, 1) for sample in (3, 4)]
    assert all((result == result[:1]).all() and result.shape == clip.shape for result in results)
    assert len({result.tobytes() for result in results}) == 4
    assert (transform(clip, clip_seed(0, 1, 3)) == results[2]).all()


def test_numpy_is_as_before_after_importing_imgaug():
    assert "imgaug" in sys.modules
    assert hasattr(np, "sctypes") == (np.lib.NumpyVersion(np.__version__) < "2.0.0")


def test_adapters_refuse_what_they_cannot_use():
    clip = np.zeros((2, 8, 9, 3), np.uint8)
    with pytest.raises(TypeError, match="function is not an imgaug augmenter"):
        ImgaugTransform(lambda frames: frames)
    with pytest.raises(ValueError, match=r"the clip is float32 \(2, 8, 9, 3\), must be uint8"):
        ImgaugTransform(iaa.Identity())(clip.astype(np.float32), 0)
    with pytest.raises(TypeError, match="takes 3 arguments"):
        ClipFunction(lambda a, b, c: a)
    with pytest.raises(ValueError, match=r"result of .* is int64"):
        ClipFunction(lambda frames: frames.astype(np.int64))(clip, 0)
