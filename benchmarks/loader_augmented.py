"""Peers that apply the warps and color operations of the plans: imgaug as the published program uses it, and DALI.

`PEERS` of this module are rows of `loader_speed.py --augment PRESET`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from loader_clips import in_processes
from loader_job import Job, Peer, load
from loader_jpegs import read_published
from torch import Tensor

from vidseg.clips import ColorOperation
from vidseg.loaders.adapters import import_imgaug

__all__ = ["AUGMENTED_PEERS", "all_dali_operations"]

_AUGMENTERS: dict[str, Any] = {}


def _imgaug() -> Any:
    """Import imgaug's augmenters, once in each process."""
    if not _AUGMENTERS:
        import_imgaug()
        _AUGMENTERS["iaa"], _AUGMENTERS["iap"] = load("imgaug.augmenters"), load("imgaug.parameters")
    return _AUGMENTERS["iaa"], _AUGMENTERS["iap"]


def augmenter(operation: ColorOperation, seed: int) -> Any:
    """Return imgaug's augmenter of one operation of a plan, for BGR frames."""
    iaa, iap = _imgaug()
    values = operation.parameters
    each = iap.DeterministicList(list(values[2::-1]))  # blue, green, red
    match operation.name:
        case "gaussian_blur":
            return iaa.GaussianBlur(sigma=values[0])
        case "average_blur":
            return iaa.AverageBlur(k=int(values[0]))
        case "add":
            return iaa.Add(iap.DeterministicList([round(value) for value in values[2::-1]]), per_channel=True)
        case "multiply":
            return iaa.Multiply(values[0])  # the presets draw one factor for all channels
        case "linear_contrast":
            return iaa.LinearContrast(values[0])
        case "gamma":
            return iaa.GammaContrast(each, per_channel=True)
        case "hue_saturation":
            return iaa.AddToHueAndSaturation(
                value_hue=int(values[0]), value_saturation=int(values[1]), from_colorspace="BGR"
            )
        case "gaussian_noise":
            return iaa.AdditiveGaussianNoise(scale=values[0], per_channel=bool(values[2]), seed=seed)
        case "enhance_color":
            return iaa.pillike.EnhanceColor(values[0])
        case "motion_blur":
            return iaa.MotionBlur(k=int(values[0]), angle=values[1], direction=values[2])
    raise NotImplementedError(f"no augmenter for {operation.name!r}")


def with_imgaug(job: Job, batch: int, clip: int, pixels: np.ndarray) -> np.ndarray:
    """Apply the operations of a plan to the resized frames, one frame after the other, as the published program does.

    The warp comes first, by OpenCV, which does the work of imgaug's `PerspectiveTransform` and `Rotate`.
    """
    cv2 = load("cv2")
    plan, crop = job.plans[batch], job.crops[batch].matrices[clip]
    # warped output point -> point of the frame -> point of the crop, in pixel centers
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    warp = np.linalg.inv(half) @ np.linalg.inv(crop) @ plan.matrices[clip] @ half
    if crop[0, 0] < 0:  # `pixels` are mirrored after this function
        mirror = np.array([[-1, 0, plan.width - 1.0], [0, 1, 0], [0, 0, 1]])
        warp = mirror @ warp @ mirror
    colors = plan[clip].colors
    if colors:
        iaa, _ = _imgaug()
        sequence = iaa.Sequential([augmenter(one, seed=clip) for one in colors]).to_deterministic()
    bent, size = not np.allclose(warp, np.eye(3), atol=1e-6), (plan.width, plan.height)
    for frame in pixels:
        changed = frame
        if bent:
            changed = cv2.warpPerspective(changed, warp, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        if colors:
            changed = sequence.augment_image(changed)
        frame[:] = changed
    return pixels


def _published(job: Job) -> Iterator[Tensor]:
    _imgaug()
    return in_processes(job, read=read_published, bgr=True, change=with_imgaug)


HUE, NOISE = 100, 101  # kinds of steps beside those of vidseg.loaders.dali_color


def all_dali_operations() -> None:
    """Give vidseg's DALI backend, in this process, an operation of DALI for each one that it refuses.

    DALI's `hsv` and `noise.gaussian` differ in detail from the operations of the plans: hue rotates in YIQ, saturation
    is a factor, and each frame of a clip has its own noise.
    """
    from vidseg.loaders import dali_color, dali_pipeline

    original = dali_color.apply_step

    def apply(fn: Any, types: Any, frames: Any, kind: Any, numbers: Any, kernel: Any, *, cuda: bool) -> Any:
        frames = original(fn, types, frames, kind, numbers, kernel, cuda=cuda)
        if kind == HUE:
            frames = fn.hsv(frames, hue=numbers[0], saturation=numbers[1])
        elif kind == NOISE:
            frames = fn.noise.gaussian(frames, stddev=numbers[0])
        return frames

    dali_pipeline.apply_step = apply
    unit = np.ones((1, 1), np.float32)
    dali_color._STEPS.update(
        hue_saturation=lambda p: (HUE, np.array([p[0] * 360 / 255, 1 + p[1] / 255]), unit),
        gaussian_noise=lambda p: (NOISE, p[:1], unit),
        motion_blur=lambda p: dali_color._filter(_motion(int(p[0]), p[1], p[2])),
    )


def _motion(side: int, degrees: float, direction: float) -> np.ndarray:
    """Return the kernel of a motion blur: a line of falling weights, rotated about its center."""
    cv2 = load("cv2")
    kernel = np.zeros((side, side), np.float32)
    kernel[:, side // 2] = np.linspace(0.5 + direction / 2, 0.5 - direction / 2, side)
    turn = cv2.getRotationMatrix2D((side // 2, side // 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(kernel, turn, (side, side)), np.float64)


AUGMENTED_PEERS = {
    "imgaug": Peer(
        "published reader with imgaug, DataLoader",
        ("cv2",),
        _published,
        "published",
        augments=True,
        batches_per_worker=2,
    ),
}
