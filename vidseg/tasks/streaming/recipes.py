"""Published settings of streaming networks that are trained end to end from pixels; imports nothing heavy.

Sources: the code base and table of ETESVS; "Streaming Video Temporal Action Segmentation In Real Time" (memory TCN and
Transeger), arXiv 2209.13808; SVTAS-RL, arXiv 2309.15683.
"""

from __future__ import annotations

from typing import Any

from vidseg.engine.options import options_from
from vidseg.engine.published_recipe import Recipe, published_options
from vidseg.tasks.streaming.options import StreamingOptions

__all__ = ["RECIPES", "recipe_options"]

_COMMON: dict[str, Any] = {"lr": 5e-4, "warmup_epochs": 0.0, "weight_decay": 1e-4, "optimizer": "adam", "size": 224}
_GTEA: dict[str, Any] = {"mean": (0.551, 0.424, 0.179), "std": (0.133, 0.141, 0.124)}
_SALADS: dict[str, Any] = {"mean": (0.514, 0.512, 0.480), "std": (0.236, 0.234, 0.238)}


def _recipes(
    data: dict[str, Any],
    schedule: dict[str, Any],
    first: tuple[int, int],
    later: tuple[int, int],
    reward: tuple[int, int],
) -> dict[str, Recipe]:
    """By network: the windows (frames, interval) of ETESVS's first publication, of its last one, and of SVTAS-RL."""

    def recipe(windows: tuple[int, int], **options: Any) -> Recipe:
        frames, interval = windows
        shape = {"frames": frames, "interval": interval, "stride": frames * interval}
        return Recipe(_COMMON | data | schedule | shape | options)

    transformer = {"optimizer": "adamw", "epochs": 50, "lr_steps": (), "lr_factor": (0.1,)}
    return {
        "mobilenet_v2_tsm_frames": recipe(first),
        "etesvs": recipe(first, weighting="group"),
        "etesvs_convlstm": recipe(later, weighting="group"),
        "memory_tcn": recipe(later),
        "transeger": recipe(later, **transformer),
        "block_recurrent": recipe(later, **transformer),
        "svtas_rl": recipe(
            reward,
            optimizer="adamw",
            epochs=80,
            schedule="cosine",
            lr_steps=(),
            lr_factor=(0.1,),
            lr_end=1e-5,
            backbone_lr=0.02,
        ),
    }


RECIPES: dict[str, dict[str, Recipe]] = {
    "gtea": _recipes(_GTEA, {"epochs": 50, "lr_steps": (20, 40)}, (30, 4), (32, 4), (64, 2)),
    "50salads": _recipes(_SALADS, {"epochs": 70, "lr_steps": (50,), "lr_factor": (0.5,)}, (30, 20), (32, 20), (32, 20)),
}
"""By data set and network."""


def recipe_options(name: str = "gtea", network: str = "etesvs", **changes: Any) -> StreamingOptions:
    """Return the published options of a network on a data set, with changes.

    Args:
        name: gtea or 50salads.
        network: name of the network.
        **changes: options by their flat names, such as `dataset` and `epochs`; the options in `network_option` and
            `loss_option` are added to the published ones.

    Raises:
        ValueError: there is no such data set, network or option, or a value is out of its range.
    """
    options = published_options(RECIPES, name, network, changes)
    if "lr_steps" in changes:
        options["schedule"] = changes.get("schedule", "steps")
    if changes.keys() & {"frames", "interval"} and "stride" not in changes:
        options.pop("stride")
    return options_from(options, defaults=StreamingOptions())
