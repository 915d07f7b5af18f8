"""Settings of flow networks on each data set; imports nothing heavy.

Sources: the training scripts of RAFT (Teed and Deng, ECCV 2020); for the pyramid networks the schedule S_long of
FlowNet 2.0 (Ilg et al., CVPR 2017), with which PWC-Net (Sun et al., CVPR 2018) and FastFlowNet (Kong et al., ICRA 2021)
were trained on FlyingChairs. LiteFlowNet 3 was trained module by module; here all of it is trained at once. The
settings for generated shapes are those of benchmarks/flow_learning.py.
"""

from __future__ import annotations

from typing import Any

from vidseg.engine.options import options_from
from vidseg.engine.published_recipe import Recipe, published_options
from vidseg.tasks.flow.options import FlowOptions

__all__ = ["RECIPES", "recipe_options"]

_WARMUP_SHARE = 20
"""RAFT's rate rises over a twentieth of the run, from a 25th of its peak."""
_FIRST, _LAST = 25, 250_000


def _raft(lr: float, **options: Any) -> Recipe:
    return Recipe(
        {"optimizer": "adamw", "lr": lr, "weight_decay": 1e-4, "clip_norm": 1.0, "schedule": "linear"} | options
    )


def _pyramid(lr: float, **options: Any) -> Recipe:
    return Recipe({"optimizer": "adam", "lr": lr, "weight_decay": 4e-4, "clip_norm": None} | options)


_S_LONG: dict[str, Any] = {
    "max_steps": 600_000,
    "schedule": "steps",
    "lr_steps": (300_000, 400_000, 500_000),
    "lr_factor": (0.5,),
    "warmup_steps": 0,
}
_CHAIRS_PYRAMID = _pyramid(1e-4, height=320, width=448, batch_size=8, scale=(-0.1, 1.0), **_S_LONG)
_SHAPES: dict[str, Any] = {"height": 64, "width": 96, "batch_size": 4, "max_steps": 3000}
_SHAPES_PYRAMID = _pyramid(1e-3, **_SHAPES | {"schedule": "linear", "weight_decay": 0.0})
_FINE: dict[str, Any] = {"batch_size": 6, "weight_decay": 1e-5, "frozen_norms": True, "loss_option": ("gamma=0.85",)}


RECIPES: dict[str, dict[str, Recipe]] = {
    "shapes": {
        **dict.fromkeys(("raft_basic", "raft_small"), _raft(6e-4, network_option=("iterations=4",), **_SHAPES)),
        **dict.fromkeys(("fastflownet", "liteflownet3"), _SHAPES_PYRAMID),
    },
    "chairs": {
        **dict.fromkeys(
            ("raft_basic", "raft_small"),
            _raft(4e-4, height=368, width=496, batch_size=10, scale=(-0.1, 1.0), max_steps=100_000),
        ),
        **dict.fromkeys(("fastflownet", "liteflownet3"), _CHAIRS_PYRAMID),
    },
    "sintel": dict.fromkeys(
        ("raft_basic", "raft_small"),
        _raft(1.25e-4, height=368, width=768, scale=(-0.2, 0.6), max_steps=100_000, **_FINE),
    ),
    "kitti": dict.fromkeys(
        ("raft_basic", "raft_small"),
        _raft(1e-4, height=288, width=960, scale=(-0.2, 0.4), flip=False, max_steps=50_000, **_FINE),
    ),
}
"""By data set and network."""


def recipe_options(name: str = "shapes", network: str = "raft_small", **changes: Any) -> FlowOptions:
    """Return the settings of a network on a data set, with changes.

    The warm-up takes a twentieth of the run, however long it is; with `epochs` in the changes and no `max_steps`, the
    length of the run is counted in epochs.

    Args:
        name: shapes, chairs, sintel or kitti.
        network: name of the network.
        **changes: options by their flat names, such as `dataset` and `max_steps`; the options in `network_option` and
            `loss_option` are added to those of the recipe.

    Raises:
        ValueError: there is no such data set, network or option, or a value is out of its range.
    """
    options = published_options(RECIPES, name, network, changes)
    if changes.get("epochs") is not None and changes.get("max_steps") is None:
        options["max_steps"] = None
        if options.get("schedule") == "steps" and "lr_steps" not in changes:
            raise ValueError(f"epochs={changes['epochs']}: the settings for {name} count steps; give max_steps")
        options.pop("warmup_steps", None)
    if options.get("schedule") == "linear" and not {"warmup_epochs", "warmup_steps"} & options.keys():
        steps = options.get("max_steps")
        if steps is None:
            options["warmup_epochs"] = options.get("epochs", FlowOptions().session.epochs) / _WARMUP_SHARE
        else:
            options["warmup_steps"] = steps // _WARMUP_SHARE
        options.setdefault("warmup_start", options["lr"] / _FIRST)
        options.setdefault("lr_end", options["lr"] / _LAST)
    return options_from(options, defaults=FlowOptions())
