"""Published settings of detection networks on each data set; imports nothing heavy.

Sources: the papers and published programs of ETAD (arXiv 2205.07134), BMN (1907.09702), ActionFormer (2202.07925) and
TriDet (2303.07347); OpenTAD for ETAD and BMN on THUMOS-14 and for ActionFormer on HACS. Networks with
`class_agnostic=True` take the classes of a video from `--class-scores`.
"""

from __future__ import annotations

from typing import Any

from vidseg.engine.options import options_from
from vidseg.engine.published_recipe import Recipe, published_options
from vidseg.tasks.detection.options import DetectionOptions

__all__ = ["RECIPES", "recipe_options"]

_POINTS: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 1e-4,
    "weight_decay": 0.05,
    "decay_all": False,
    "clip_norm": 1.0,
    "ema": 0.999,
    "schedule": "cosine",
    "warmup_epochs": 5.0,
    "batch_size": 2,
    "select": "last",
}
_PROPOSALS: dict[str, Any] = {
    "nms": "gaussian",
    "nms_by_class": False,
    "min_score": 0.0,
    "max_candidates": 100_000,
    "max_detections": 100,
}
_THUMOS: dict[str, Any] = {"protocol": "thumos14", "feature_stride": 4.0, "feature_clip": 16.0, "layout": "LD"}
_ACTIVITYNET: dict[str, Any] = {"protocol": "activitynet", "layout": "LD"}
_HACS: dict[str, Any] = {
    "protocol": "hacs",
    "layout": "LD",
    "feature_stride": 8.0,
    "feature_clip": 32.0,
    "feature_fps": 15.0,
    "lr": 1e-3,
    "batch_size": 16,
    "fit": "whole",
    "length": 960,
    "crop": 0.9,
    "nms_sigma": 0.75,
}


def _etad(**options: Any) -> Recipe:
    return Recipe(
        {
            "optimizer": "adamw",
            "weight_decay": 1e-4,
            "decay_all": True,
            "clip_norm": None,
            "schedule": "steps",
            "warmup_epochs": 0.0,
            "select": "last",
            "boundary_filter": True,
            "nms_sigma": 0.35,
            **_PROPOSALS,
            **options,
        }
    )


def _bmn(**options: Any) -> Recipe:
    return Recipe(
        {
            "optimizer": "adam",
            "lr": 1e-3,
            "weight_decay": 1e-4,
            "decay_all": True,
            "clip_norm": None,
            "batch_size": 16,
            "schedule": "steps",
            "warmup_epochs": 0.0,
            "select": "last",
            "nms_sigma": 0.4,
            "nms_iou": 0.5,
            "nms_slope": 0.4,
            **_PROPOSALS,
            **options,
        }
    )


def _points(**options: Any) -> Recipe:
    return Recipe(_POINTS | options)


_END_TO_END: dict[str, Any] = {
    "encoder": "ig65m_r2plus1d_34",
    "encoder_frozen": ("stem", "layer1", "layer2"),
    "snippets": 128,
    "snippet_places": "ends",
    "gradients": "sampled",
    "snippet_ratio": 0.3,
    "fit": "whole",
}

RECIPES: dict[str, dict[str, Recipe]] = {
    "thumos14": {
        "actionformer": _points(
            **_THUMOS, epochs=35, fit="whole", length=2304, crop=0.9, nms_sigma=0.5, voting=0.7, max_detections=2000
        ),
        "tridet": _points(
            **_THUMOS,
            epochs=40,
            warmup_epochs=20.0,
            weight_decay=0.025,
            fit="whole",
            length=2304,
            crop=0.9,
            nms_sigma=0.5,
            voting=0.7,
            max_detections=2000,
        ),
        "etad": _etad(
            **_THUMOS,
            optimizer="adam",
            lr=1e-4,
            epochs=8,
            lr_steps=(5.0,),
            batch_size=16,
            clip_norm=1.0,
            fit="window",
            length=128,
            min_inside=0.9,
            nms_sigma=0.3,
            max_detections=200,
            network_option=("roi_size=16", "hidden=256", "max_duration=64"),
            loss_option=("ratio=0.1",),
        ),
        "bmn": _bmn(**_THUMOS, epochs=10, fit="window", length=128, min_inside=0.9, nms_sigma=0.3, max_detections=200),
    },
    "activitynet": {
        "actionformer": _points(
            **_ACTIVITYNET,
            epochs=15,
            lr=1e-3,
            batch_size=16,
            fit="interpolate",
            length=192,
            nms_sigma=0.75,
            nms_by_class=False,
            voting=0.9,
            max_detections=100,
            network_option=(
                "class_agnostic=True",
                "maps=256",
                "window=(7, 7, 7, 7, 7, 0)",
                "position_encoding=True",
                "max_seq_len=192",
            ),
            loss_option=("initial_positives=12.5", "label_smoothing=0.1", "regression=2.0"),
        ),
        "tridet": _points(
            **_ACTIVITYNET,
            feature_stride=16.0,
            feature_clip=16.0,
            feature_fps=15.0,
            epochs=15,
            warmup_epochs=10.0,
            lr=1e-3,
            lr_end=5e-5,
            weight_decay=0.04,
            clip_norm=0.4,
            batch_size=16,
            fit="whole",
            length=768,
            crop=0.9,
            nms_sigma=0.7,
            nms_by_class=False,
            voting=0.95,
            max_detections=200,
            network_option=(
                "class_agnostic=True",
                "maps=256",
                "head_maps=512",
                "hidden=2048",
                "window=15",
                "ratio=1.3",
                "bins=12",
                "position_encoding=True",
                "max_seq_len=768",
                "input_noise=0.5",
                "deviation=0.2",
            ),
            loss_option=("initial_positives=25", "label_smoothing=0.1", "iou_power=1.0"),
        ),
        "etad": _etad(**_ACTIVITYNET, lr=1e-3, epochs=6, lr_steps=(5.0,), batch_size=16, fit="resize", length=128),
        "bmn": _bmn(**_ACTIVITYNET, epochs=9, lr_steps=(7.0,), fit="resize", length=100),
    },
    "activitynet_pixels": {
        "etad": _etad(
            protocol="activitynet",
            lr=5e-4,
            backbone_lr=1e-3,
            epochs=6,
            lr_steps=(5.0,),
            batch_size=4,
            **_END_TO_END,
        ),
    },
    "hacs_segments": {
        "actionformer": _points(
            **_HACS,
            epochs=15,
            weight_decay=0.03,
            voting=0.7,
            max_detections=100,
            class_top=3,
            network_option=(
                "class_agnostic=True",
                "maps=256",
                "window=(13, 13, 13, 13, 13, 0)",
                "position_encoding=True",
                "max_seq_len=960",
            ),
            loss_option=("initial_positives=25", "label_smoothing=0.1"),
        ),
        "tridet": _points(
            **_HACS,
            epochs=11,
            warmup_epochs=7.0,
            lr_end=5e-4,
            weight_decay=0.03,
            clip_norm=0.5,
            voting=0.95,
            max_detections=250,
            network_option=(
                "maps=1024",
                "hidden=1024",
                "window=3",
                "ratio=1.2",
                "bins=14",
                "head_kernel=5",
                "boundary_kernel=1",
                "position_encoding=True",
                "max_seq_len=960",
                "input_noise=0.2",
            ),
            loss_option=("initial_positives=25", "label_smoothing=0.1", "iou_power=1.0"),
        ),
    },
    "detection": {
        "actionformer": _points(epochs=30, warmup_epochs=None, length=2304, crop=0.9, select="validation", ema=0.0),
        "tridet": _points(epochs=30, warmup_epochs=None, length=2304, crop=0.9, select="validation", ema=0.0),
        "etad": _etad(
            lr=5e-4,
            epochs=20,
            schedule="cosine",
            batch_size=4,
            fit="resize",
            length=128,
            select="validation",
            network_option=("class_agnostic=False",),
            max_detections=200,
        ),
        "bmn": _bmn(
            epochs=20,
            schedule="cosine",
            batch_size=4,
            fit="resize",
            length=100,
            select="validation",
            network_option=("class_agnostic=False",),
            max_detections=200,
        ),
    },
}
"""By data set and network; "detection" is for data sets of your own, with settings for a few hundred videos."""


def recipe_options(name: str, network: str | None = None, **changes: Any) -> DetectionOptions:
    """Return the published options of a network on a data set, with changes.

    Args:
        name: thumos14, activitynet, activitynet_pixels, hacs_segments, or detection for a data set of your own.
        network: name of the network; None: the first one of the data set.
        **changes: options by their flat names, such as `dataset` and `epochs`; the options in `network_option` and
            `loss_option` are added to the published ones.

    Raises:
        ValueError: there is no such data set, network or option, or a value is out of its range.
    """
    chosen = network or next(iter(RECIPES.get(name, ())), "")
    return options_from(published_options(RECIPES, name, chosen, changes), defaults=DetectionOptions())
