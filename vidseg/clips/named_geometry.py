"""Named geometries: common ones, and those of published training programs."""

from __future__ import annotations

from vidseg.clips.crops import CenterCrop, FiveCrop, MultiScaleCrop, RandomCrop, RandomResizedCrop, ThreeCrop
from vidseg.clips.geometry import Geometry, Mirror, RandomShortSide, ResizeShort
from vidseg.clips.steps import Step

__all__ = ["GEOMETRIES", "named_geometry"]

_MARGIN = 8 / 7
"""Shorter side divided by crop side: 256 for 224."""

_TRAIN: dict[str, tuple[Step, ...]] = {
    "random_resized_crop": (RandomResizedCrop(scale=(0.25, 1)), Mirror()),
    "short_side": (RandomShortSide(), RandomCrop(), Mirror()),
    "multi_scale": (ResizeShort(ratio=_MARGIN), MultiScaleCrop(), Mirror()),
}
_BOTH: dict[str, tuple[Step, ...]] = {
    "center": (ResizeShort(ratio=_MARGIN), CenterCrop()),
    "stretch": (),
    "three_crops": (ResizeShort(), ThreeCrop()),
    "five_crops": (ResizeShort(ratio=_MARGIN), FiveCrop()),
    "ten_crops": (ResizeShort(ratio=_MARGIN), FiveCrop(mirrored=True)),
}
_LARGE = ("hacs", "kinetics", "moments")
_SMALL = ("ucf101", "hmdb51", "diving48")

GEOMETRIES = (*_TRAIN, *_BOTH, *_LARGE, *_SMALL)
"""Names of all geometries."""


def named_geometry(name: str | None, *, size: tuple[int, int], train: bool) -> Geometry:
    """Create the geometry of a name.

    Training only: "random_resized_crop" (25 to 100 % of the area, mirrored), "short_side" (shorter side of 8/7 to 10/7
    of the output's, random crop, mirrored; 256 to 320 for 224), "multi_scale" (TSN, mirrored).

    Training and testing: "center" (shorter side of 8/7 of the output's, center crop), "stretch" (the whole frame),
    "three_crops" (PySlowFast), "five_crops", "ten_crops".

    Different in training and testing, as used by Stergiou and Poppe (arXiv 2006.08247): "hacs", "kinetics", "moments",
    "ucf101", "hmdb51", "diving48".

    Args:
        name: one of these; None: "random_resized_crop" for training, else "center".
        size: height and width of the output in pixels; the largest if they change between batches.
        train: use random parameters.

    Raises:
        ValueError: the name is unknown, or for training only and `train` is False.
    """
    name = name or ("random_resized_crop" if train else "center")
    if name in _BOTH:
        return Geometry(_BOTH[name])
    if name in _TRAIN:
        if not train:
            raise ValueError(f"geometry {name!r} is for training only; for testing use one of {', '.join(_BOTH)}")
        return Geometry(_TRAIN[name])
    if name in _LARGE:
        if train:
            return Geometry((ResizeShort(384), CenterCrop(384), RandomCrop(size), Mirror()))
        middle = (ResizeShort(294), CenterCrop(294))
        return Geometry(middle if name == "moments" else (*middle, CenterCrop(256)))
    if name in _SMALL:
        return Geometry(
            (ResizeShort(294), RandomCrop(224), Mirror()) if train else (ResizeShort(294), CenterCrop(size))
        )
    raise ValueError(f"unknown geometry {name!r}; expected {', '.join(GEOMETRIES)}, or a Geometry object")
