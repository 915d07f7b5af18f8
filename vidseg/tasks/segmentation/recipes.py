"""How segmentation networks were trained and tested on each data set, and what a user can choose; nothing heavy.

Sources: the papers and published programs of MS-TCN (arXiv 1903.01945), MS-TCN++ (2006.09220), ASFormer (2110.08568),
ASRF (2007.06866), C2F-TCN (2105.10859) and DiffAct (2303.17959).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vidseg.engine.options import named_values

__all__ = ["BACKGROUND", "RATES", "RECIPES", "Recipe", "SegmentationOptions", "recipe_of"]


@dataclass(frozen=True)
class Recipe:
    """Training and testing of one network on one data set.

    Attributes:
        epochs: passes over the training videos.
        rate: learning rate of Adam.
        weight_decay: L2 penalty, added to the gradient.
        batch_size: videos of a batch.
        accumulate: batches whose gradients are averaged into one step.
        sample_rate: one in so many columns is used.
        plateau: halve the rate whenever the training loss has not fallen for more than three epochs.
        validate_every: epochs from one validation to the next.
        network: options of the network.
        loss: options of the loss.
        pooling: C2F-TCN: columns pooled into one, and the longest input after that.
        chunks: C2F-TCN: pooled columns in each run of a test.
        chunk_weights: of these runs; empty: all equal.
        random_offset: in training begin at a random column below `sample_rate`; in tests average over all of these.
        median: size of the median filter over the probabilities in tests; 0: none.
        purge: in tests segments of at most so many frames go to their neighbors.
    """

    epochs: int
    rate: float
    weight_decay: float = 0.0
    batch_size: int = 1
    accumulate: int = 1
    sample_rate: int = 1
    plateau: bool = False
    validate_every: int = 1
    network: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    pooling: tuple[int, int] | None = None
    chunks: tuple[int, ...] = ()
    chunk_weights: tuple[float, ...] = ()
    random_offset: bool = False
    median: int = 0
    purge: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "sample_rate", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.rate <= 0 or self.weight_decay < 0:
            raise ValueError(f"rate={self.rate} must be above 0, weight_decay={self.weight_decay} not below")
        if self.pooling is not None and self.sample_rate > 1:
            raise ValueError(f"sample_rate={self.sample_rate} with pooling: pooling takes all columns")


BACKGROUND = ("background",)
"""Classes whose frames are no segments, of the data sets that have them; 50Salads' and Breakfast's classes all count,
as in the tables of MS-TCN and its followers (docs/segmental_metrics.md)."""

_MSTCN = Recipe(epochs=50, rate=5e-4)
_MSTCN2 = Recipe(epochs=100, rate=5e-4)
_ASFORMER = Recipe(epochs=120, rate=5e-4, weight_decay=1e-5, plateau=True)
_ASRF = Recipe(epochs=50, rate=5e-4)
_SALADS_MODES = ("full", "zero", "boundary05-", "segment=2", "segment=2")

RECIPES: dict[str, dict[str, Recipe]] = {
    "gtea": {
        "mstcn": _MSTCN,
        "mstcn2": _MSTCN2,
        "asformer": replace(_ASFORMER, network={"channel_dropout": 0.5}),
        "asrf": _ASRF,
        "c2f_tcn": Recipe(
            epochs=500,
            rate=5e-4,
            weight_decay=3e-4,
            batch_size=11,
            validate_every=5,
            pooling=(4, 600),
            chunks=(3, 4, 5),
            chunk_weights=(1, 3, 1),
        ),
        "diffact": Recipe(epochs=10001, rate=5e-4, weight_decay=1e-6, accumulate=4, validate_every=100, purge=3),
    },
    "50salads": {
        "mstcn": replace(_MSTCN, sample_rate=2),
        "mstcn2": replace(_MSTCN2, sample_rate=2),
        "asformer": replace(_ASFORMER, sample_rate=2),
        "asrf": replace(_ASRF, sample_rate=2),
        "c2f_tcn": Recipe(
            epochs=500,
            rate=3e-4,
            weight_decay=1e-3,
            batch_size=20,
            validate_every=5,
            pooling=(20, 960),
            chunks=tuple(range(20, 40)),
        ),
        "diffact": Recipe(
            epochs=5001,
            rate=5e-4,
            accumulate=4,
            sample_rate=8,
            validate_every=100,
            network={"decoder_kernel": 7, "scale": 1.0, "modes": _SALADS_MODES},
            loss={"soft_label": None, "boundary_smooth": 20},
            random_offset=True,
            median=30,
        ),
    },
    "breakfast": {
        "mstcn": _MSTCN,
        "mstcn2": _MSTCN2,
        "asformer": replace(_ASFORMER, rate=1e-4),
        "asrf": _ASRF,
        "c2f_tcn": Recipe(
            epochs=500,
            rate=1e-4,
            weight_decay=3e-3,
            batch_size=100,
            validate_every=5,
            pooling=(10, 1200),
            chunks=tuple(range(7, 16)),
        ),
        "diffact": Recipe(
            epochs=1001,
            rate=1e-4,
            accumulate=4,
            validate_every=20,
            network={
                "encoder_layers": 12,
                "encoder_maps": 256,
                "channel_dropout": 0.1,
                "frame_dropout": 0.1,
                "condition_layers": (7, 8, 9),
                "decoder_maps": 128,
            },
            loss={"soft_label": 4, "boundary_smooth": 3, "smoothing": 0.025},
            median=15,
        ),
    },
}
"""By data set and network."""

RATES = {"gtea": 15.0, "50salads": 30.0, "breakfast": 15.0}
"""Labels a second of the published files."""


@dataclass(frozen=True)
class SegmentationOptions:
    """What a user can choose; what is None is the recipe's."""

    dataset: str
    """Folder of the data set: catalog.db, as its converter leaves it, and features/<video>.npy."""
    model: str = "mstcn"
    """mstcn, mstcn2, asformer, asrf, c2f_tcn or diffact."""
    splits: tuple[str, ...] = ()
    """Splits of the cross-validation, such as split1 split3; default: all that the data set has."""
    select: Literal["validation", "last", "test"] = "validation"
    """Which epoch is tested. validation: the best one on a part of the training videos, which are not learned from.
    last: the last one, as most published results. test: the best one on the test split itself, as some published
    results; such scores are too high, and the result says so."""
    validation_share: float = 0.1
    """Share of the training videos that --select validation holds out."""
    validate_every: int | None = None
    """Epochs from one validation to the next; the last epoch always has one."""
    epochs: int | None = None
    """Passes over the training videos."""
    lr: float | None = None
    """Learning rate of Adam."""
    weight_decay: float | None = None
    """L2 penalty."""
    batch_size: int | None = None
    """Videos of a batch, of each process."""
    sample_rate: int | None = None
    """Use one in so many columns of features; predictions are brought back to all frames."""
    network_option: tuple[str, ...] = ()
    """Options of the network, such as layers=8 window=published."""
    loss_option: tuple[str, ...] = ()
    """Options of the loss, such as smoothing=0.3."""
    background: tuple[str, ...] = BACKGROUND
    """Classes whose frames are no segments, in the scores; those that the data set does not have do not count."""
    features: str = "features"
    """Folder of <video>.npy, in the data set's folder or anywhere."""
    layout: Literal["DL", "LD"] = "DL"
    """DL: a column a frame; LD: a row a frame."""
    labels_per_column: int = 1
    """Frame labels for each column, where features were extracted with a stride."""
    length_tolerance: int = 0
    """Columns that a video may have more or fewer than labels; the longer side is cut."""
    seed: int = 1
    """Seed of weights, order, dropout and of the choice of validation videos."""
    out: str | None = None
    """Folder of the results; default: results/<data set>/<model>."""
    resume: bool = False
    """Go on in that folder: finished splits are kept, the others go on from their last checkpoint."""
    overwrite: bool = False
    """Replace the run that is in that folder."""
    device: str | None = None
    """Where to compute, such as cpu or cuda; default: the accelerator if there is one."""
    threads: int | None = None
    """Threads that load features."""
    pictures: bool = True
    """Draw the bars of the worst videos at each validation, and of all videos of the test."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share={self.validation_share} is not between 0 and 1")
        if self.labels_per_column < 1 or self.length_tolerance < 0:
            raise ValueError(
                f"labels_per_column={self.labels_per_column} must be at least 1, length_tolerance="
                f"{self.length_tolerance} at least 0"
            )
        if self.select not in ("validation", "last", "test"):
            raise ValueError(f"select={self.select!r} is neither validation, last nor test")
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other")


def recipe_of(name: str, options: SegmentationOptions) -> Recipe:
    """The published recipe of the data set called `name`, with what the options choose otherwise.

    Raises:
        ValueError: no such data set or network, or a value out of its range.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipes for a data set called {name!r}; there are {', '.join(RECIPES)}")
    recipes = RECIPES[name]
    if options.model not in recipes:
        close = difflib.get_close_matches(options.model, recipes, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(recipes)}"
        raise ValueError(f"no recipe for a network called {options.model!r}{hint}")
    recipe = recipes[options.model]
    chosen: dict[str, Any] = {
        "epochs": options.epochs,
        "rate": options.lr,
        "weight_decay": options.weight_decay,
        "batch_size": options.batch_size,
        "sample_rate": options.sample_rate,
        "validate_every": options.validate_every,
    }
    chosen = {key: value for key, value in chosen.items() if value is not None}
    network = {**recipe.network, **named_values(options.network_option)}
    if options.model == "mstcn" and chosen.get("batch_size", recipe.batch_size) > 1:
        network.setdefault("padding", "exact")  # the published one leaks from padding into a video's end
    loss = {**recipe.loss, **named_values(options.loss_option)}
    return replace(recipe, **chosen, network=network, loss=loss)
