"""How streaming networks were trained end to end from pixels, and what a user can choose; nothing heavy.

Sources: the code base and table of ETESVS; "Streaming Video Temporal Action Segmentation In Real Time" (memory TCN and
Transeger), arXiv 2209.13808; SVTAS-RL, arXiv 2309.15683.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vidseg.engine.options import named_values

__all__ = ["RECIPES", "StreamOptions", "StreamRecipe", "stream_recipe"]

Optimizer = Literal["adam", "adamw"]
Update = Literal["video", "window"]
Weighting = Literal["video", "group"]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class StreamRecipe:
    """Training of one network on the windows of one data set's videos.

    Attributes:
        epochs: passes over the training videos.
        stride: W, frames from the start of a window to the start of the next.
        frames: T, frames that the network sees of a window.
        interval: R, frames from one of these to the next.
        mean: of R, G and B in 0..1.
        std: of R, G and B.
        rate: learning rate.
        weight_decay: L2 penalty; decoupled with adamw.
        optimizer: adam or adamw.
        steps: epochs after which the rate is multiplied by `decay`.
        decay: see `steps`.
        final_rate: the rate falls to this along a cosine, instead of in steps; None: it does not.
        backbone_rate: share of the rate that the backbone learns at.
        group: videos of a process that travel together and make one step.
        update: step when the videos of a group end, or after every window.
        weighting: divide a video's loss by its own number of windows or by its group's; see `StreamTrainer`.
        size: height and width that the network sees, in pixels.
        frozen_norms: leave BatchNorm as it is.
        clip_norm: largest norm of a step's gradient; None: any.
        network: options of the network.
    """

    epochs: int
    stride: int
    frames: int
    interval: int
    mean: Triple
    std: Triple
    rate: float = 5e-4
    weight_decay: float = 1e-4
    optimizer: Optimizer = "adam"
    steps: tuple[int, ...] = ()
    decay: float = 0.1
    final_rate: float | None = None
    backbone_rate: float = 1.0
    group: int = 1
    update: Update = "video"
    weighting: Weighting = "video"
    size: int = 224
    frozen_norms: bool = False
    clip_norm: float | None = None
    network: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "stride", "frames", "interval", "group", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.rate <= 0 or self.weight_decay < 0 or not 0 < self.decay <= 1:
            raise ValueError(
                f"rate={self.rate} must be above 0, weight_decay={self.weight_decay} not below, decay={self.decay} "
                "in 0..1"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std={self.std} must be above 0")

    def rate_at(self, epoch: int) -> float:
        """Learning rate of an epoch, from 0."""
        if self.final_rate is not None:
            share = (1 + math.cos(math.pi * epoch / self.epochs)) / 2
            return self.final_rate + (self.rate - self.final_rate) * share
        return self.rate * self.decay ** sum(epoch >= step for step in self.steps)


_GTEA: dict[str, Any] = {"mean": (0.551, 0.424, 0.179), "std": (0.133, 0.141, 0.124)}
_SALADS: dict[str, Any] = {"mean": (0.514, 0.512, 0.480), "std": (0.236, 0.234, 0.238)}


def _recipes(first: StreamRecipe, later: StreamRecipe, reward: StreamRecipe) -> dict[str, StreamRecipe]:
    """By network, from ETESVS's first shape of windows, its last one, and SVTAS-RL's."""
    plain = replace(later, weighting="video")
    return {
        "mobilenet_v2_tsm_frames": replace(first, weighting="video"),
        "etesvs": first,
        "etesvs_convlstm": later,
        "memory_tcn": plain,
        "transeger": replace(plain, optimizer="adamw", epochs=50, steps=()),
        "block_recurrent": replace(plain, optimizer="adamw", epochs=50, steps=()),
        "svtas_rl": reward,
    }


_SVTAS: dict[str, Any] = {"epochs": 80, "optimizer": "adamw", "final_rate": 1e-5, "backbone_rate": 0.02}

RECIPES: dict[str, dict[str, StreamRecipe]] = {
    "gtea": _recipes(
        StreamRecipe(50, 120, 30, 4, **_GTEA, steps=(20, 40), weighting="group"),
        StreamRecipe(50, 128, 32, 4, **_GTEA, steps=(20, 40), weighting="group"),
        StreamRecipe(stride=128, frames=64, interval=2, **_GTEA, **_SVTAS),
    ),
    "50salads": _recipes(
        StreamRecipe(70, 600, 30, 20, **_SALADS, steps=(50,), decay=0.5, weighting="group"),
        StreamRecipe(70, 640, 32, 20, **_SALADS, steps=(50,), decay=0.5, weighting="group"),
        StreamRecipe(stride=640, frames=32, interval=20, **_SALADS, **_SVTAS),
    ),
}
"""By data set and network."""


@dataclass(frozen=True)
class StreamOptions:
    """What a user can choose; what is None is the recipe's."""

    dataset: str
    """Folder of the data set: frame databases, and a catalog with frame labels."""
    model: str = "etesvs"
    """etesvs, etesvs_convlstm, memory_tcn, transeger, block_recurrent, svtas_rl or mobilenet_v2_tsm_frames."""
    recipe: Literal["gtea", "50salads"] = "gtea"
    """Data set whose published settings are the defaults."""
    split: str = ""
    """Division to learn from, such as split1 with its parts split1/train and split1/test; default: the first one, or
    all videos where there is none."""
    select: Literal["validation", "last"] = "validation"
    """Which epoch is tested: the one with the best F1@50 on the validation videos, or the last one."""
    validation_share: float = 0.1
    """Share of the training videos that is held out for validation, where the split has no part `val`; with --select
    last nothing is."""
    epochs: int | None = None
    """Passes over the training videos."""
    lr: float | None = None
    """Learning rate."""
    lr_steps: tuple[int, ...] | None = None
    """Epochs after which the rate falls; none for a constant rate."""
    weight_decay: float | None = None
    """L2 penalty."""
    stride: int | None = None
    """Frames from the start of a window to the start of the next."""
    frames: int | None = None
    """Frames that the network sees of a window."""
    interval: int | None = None
    """Frames from one of these to the next."""
    size: int | None = None
    """Height and width that the network sees, in pixels."""
    group: int | None = None
    """Videos of a process that travel together and make one step."""
    update: Update | None = None
    """Step when the videos of a group end (video), or after every window (window)."""
    clip_norm: float | None = None
    """Largest norm of a step's gradient."""
    frozen_norms: bool = False
    """Leave BatchNorm as it is, for networks that come with weights."""
    sync_bn: bool = False
    """Batch statistics over the videos of all processes."""
    mean: Triple | None = None
    """Of R, G and B in 0..1, as `vidseg stats` prints it."""
    std: Triple | None = None
    """Of R, G and B."""
    width: float = 1.0
    """Multiplier of the backbone's widths, below 1 for small machines."""
    network_option: tuple[str, ...] = ()
    """Options of the network, such as layers=5 frame_scores=corrected."""
    pretrained: str | None = None
    """Weights to start from; what fits by name and shape is taken."""
    flip: bool = False
    """Mirror half of the training videos."""
    background: tuple[str, ...] = ("background",)
    """Classes whose frames are no segments, in the scores; those that the data set does not have do not count."""
    opt_level: Literal["O0", "O1", "bf16"] | None = None
    """Numbers: O0 float32, O1 float16 where it is safe, bf16; default: O1 on a GPU, O0 elsewhere."""
    seed: int = 1
    """Seed of weights, order, crops, dropout and of the choice of validation videos."""
    out: str | None = None
    """Folder of the run; default: results/<data set>/<model>."""
    resume: bool = False
    """Go on in that folder from its last checkpoint."""
    overwrite: bool = False
    """Replace the run that is in that folder."""
    checkpoint_every: int | None = None
    """Save in the middle of an epoch as well, when a group of videos ends so many windows after the last time."""
    keep: int = 1
    """Numbered checkpoints that are kept."""
    log_every: int = 50
    """Windows from one line of the log to the next."""
    device: str | None = None
    """Where to compute, such as cpu or cuda; default: the accelerator if there is one."""
    threads: int | None = None
    """Decoding threads; default: one for each core."""
    cache_bytes: int = 0
    """Memory for keeping encoded frames between epochs."""
    pictures: bool = True
    """Draw the bars of the worst videos at each validation and at the test."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share={self.validation_share} is not between 0 and 1")
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other")
        for name in ("log_every", "keep", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")


def stream_recipe(options: StreamOptions) -> StreamRecipe:
    """The published recipe of the options' network, with what the options choose otherwise.

    Raises:
        ValueError: no recipe of that name or for that network, or a value out of its range.
    """
    if options.recipe not in RECIPES:
        raise ValueError(f"recipe={options.recipe!r} is not one of {', '.join(RECIPES)}")
    recipes = RECIPES[options.recipe]
    if options.model not in recipes:
        close = difflib.get_close_matches(options.model, recipes, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(recipes)}"
        raise ValueError(f"no recipe for a streaming network called {options.model!r}; {hint}")
    chosen: dict[str, Any] = {
        "epochs": options.epochs,
        "rate": options.lr,
        "steps": options.lr_steps,
        "weight_decay": options.weight_decay,
        "stride": options.stride,
        "frames": options.frames,
        "interval": options.interval,
        "size": options.size,
        "group": options.group,
        "update": options.update,
        "clip_norm": options.clip_norm,
        "mean": options.mean,
        "std": options.std,
    }
    chosen = {key: value for key, value in chosen.items() if value is not None}
    recipe = recipes[options.model]
    network = {**recipe.network, **named_values(options.network_option)}
    if options.width != 1.0:
        network["width"] = options.width
    frozen = recipe.frozen_norms or options.frozen_norms
    if options.lr_steps is not None:
        chosen["final_rate"] = None
    return replace(recipe, **chosen, network=network, frozen_norms=frozen)
