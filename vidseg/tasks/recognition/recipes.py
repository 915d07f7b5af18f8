"""Published settings of the six data sets of action recognition, the defaults of their training programs.

Source: the training scripts of Squeeze-and-Recursion-Temporal-Gates (Stergiou and Poppe), and the two papers that it
belongs to (arXiv 2006.08247, 2011.03949).
"""

from __future__ import annotations

from typing import Any

from vidseg.engine.option_words import merged_values
from vidseg.engine.options import options_from
from vidseg.engine.published_recipe import Recipe
from vidseg.tasks.recognition.options import RecognitionOptions

__all__ = ["RECIPES", "recipe_options"]


def _published(title: str, labels: str, augment: str, **options: Any) -> Recipe:
    common = {
        "num_classes": options.pop("classes"),
        "frames": 16,
        "interval": 2,
        "batch_size": 32,
        "lr": 0.1,
        "warmup_epochs": 0.0,
        "save_frequency": 1,
        "debug_mode": True,
        "augment": augment,
        "geometry": augment,
        "val_geometry": augment,
    }
    return Recipe(common | options, title=title, classes=common["num_classes"], labels=labels)


def _large(title: str, labels: str, augment: str, **options: Any) -> Recipe:
    """Trained from random weights, with multigrid."""
    common = {"size": 284, "network": "r3d_50", "long_cycles": True, "short_cycles": True}
    return _published(title, labels, augment, **common, **options)


def _small(title: str, labels: str, name: str, classes: int) -> Recipe:
    """Fine-tuned from weights of a larger data set."""
    return _published(
        title,
        labels,
        name,
        classes=classes,
        size=256,
        network="",
        train_interval=(2,),
        lr_steps=(15, 30, 40),
        epochs=100,
        model_dir="exps/models",
    )


RECIPES: dict[str, Recipe] = {
    "hacs": _large(
        "HACS",
        "HACS_clips_v1.1",
        "hacs",
        classes=200,
        train_interval=(1, 2),
        batch_size=48,
        lr_steps=(40, 60, 75, 90),
        epochs=120,
        model_dir="results/HACS",
    ),
    **{
        f"kinetics{variant}": _large(
            f"Kinetics-{variant}",
            f"kinetics-{variant}",
            "kinetics",
            classes=variant,
            train_interval=(4, 5, 6),
            interval=5,
            lr=0.05,
            lr_steps=(40, 70, 95),
            epochs=130,
            model_dir=f"results/KINETICS-{variant}",
        )
        for variant in (200, 400, 600, 700)
    },
    "moments": _large(
        "Moments in Time",
        "Moments_in_Time",
        "moments",
        classes=339,
        train_interval=(3, 4),
        interval=3,
        batch_size=48,
        lr_steps=(25, 50, 70),
        epochs=110,
        model_dir="exps/models",
    ),
    "ucf101": _small("UCF-101", "ucf101_split1", "ucf101", 101),
    "hmdb51": _small("HMDB-51", "hmdb_split1", "hmdb51", 51),
    "diving48": _small("Diving-48", "diving48", "diving48", 48),
    "synth": Recipe(
        {
            "network": "srtg_r3d_18",
            "network_option": ("width=0.25", "placement=mid"),
            "size": 64,
            "frames": 16,
            "interval": 2,
            "train_interval": (2,),
            "geometry": "stretch",
            "val_geometry": "stretch",
            "batch_size": 16,
            "lr": 0.1,
            "schedule": "cosine",
            "warmup_epochs": 9.0,
            "warmup_start": 0.004,
            "channels_last": True,  # a tenth less time on a CPU
        },
        title="moving shapes",
    ),
}
"""By name; Kinetics has one for each variant."""


def recipe_options(name: str, **changes: Any) -> RecognitionOptions:
    """Return the options of a recipe, with changes.

    Args:
        name: one of `RECIPES`.
        **changes: options by their flat names, such as `dataset` and `epochs`; the options in `network_option` are
            added to those of the recipe, which do not apply to another network.

    Raises:
        ValueError: there is no such recipe or option.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r} is not one of {', '.join(RECIPES)}")
    options = dict(RECIPES[name].options)
    if changes.get("network", options["network"]) != options["network"]:
        options.pop("network_option", None)
    changes["network_option"] = merged_values(options.get("network_option", ()), changes.get("network_option", ()))
    return options_from(options | changes, defaults=RecognitionOptions())
