"""Published settings of segmentation networks on each data set; imports nothing heavy.

Sources: the papers and published programs of MS-TCN (arXiv 1903.01945), MS-TCN++ (2006.09220), ASFormer (2110.08568),
ASRF (2007.06866), C2F-TCN (2105.10859), DiffAct (2303.17959) and LTContext (2308.11358).
"""

from __future__ import annotations

from typing import Any

from vidseg.engine.options import options_from
from vidseg.engine.published_recipe import Recipe, published_options
from vidseg.tasks.segmentation.options import SegmentationOptions

__all__ = ["RATES", "RECIPES", "recipe_options"]

_COMMON = {"lr": 5e-4, "warmup_epochs": 0.0, "optimizer": "adam"}


def _recipe(**options: Any) -> Recipe:
    return Recipe(_COMMON | options)


def _asformer(**options: Any) -> Recipe:
    plateau = {"schedule": "plateau", "lr_factor": (0.5,), "patience": 3}
    return _recipe(epochs=120, weight_decay=1e-5, **plateau, **options)


RECIPES: dict[str, dict[str, Recipe]] = {
    "gtea": {
        "mstcn": _recipe(epochs=50),
        "mstcn2": _recipe(epochs=100),
        "asformer": _asformer(network_option=("channel_dropout=0.5",)),
        "asrf": _recipe(epochs=50),
        "c2f_tcn": _recipe(
            epochs=500,
            weight_decay=3e-4,
            batch_size=11,
            test_every=5,
            pooling=(4, 600),
            chunks=(3, 4, 5),
            chunk_weights=(1, 3, 1),
        ),
        "diffact": _recipe(epochs=10001, weight_decay=1e-6, accumulate=4, test_every=100, purge=3),
    },
    "50salads": {
        "mstcn": _recipe(epochs=50, sample_rate=2),
        "mstcn2": _recipe(epochs=100, sample_rate=2),
        "asformer": _asformer(sample_rate=2),
        "asrf": _recipe(epochs=50, sample_rate=2),
        "c2f_tcn": _recipe(
            epochs=500,
            lr=3e-4,
            weight_decay=1e-3,
            batch_size=20,
            test_every=5,
            pooling=(20, 960),
            chunks=tuple(range(20, 40)),
        ),
        "diffact": _recipe(
            epochs=5001,
            accumulate=4,
            sample_rate=8,
            test_every=100,
            network_option=(
                "decoder_kernel=7",
                "scale=1.0",
                "modes=('full', 'zero', 'boundary05-', 'segment=2', 'segment=2')",
            ),
            loss_option=("soft_label=None", "boundary_smooth=20"),
            random_offset=True,
            median=30,
        ),
    },
    "breakfast": {
        "mstcn": _recipe(epochs=50),
        "mstcn2": _recipe(epochs=100),
        "asformer": _asformer(lr=1e-4),
        "asrf": _recipe(epochs=50),
        "c2f_tcn": _recipe(
            epochs=500,
            lr=1e-4,
            weight_decay=3e-3,
            batch_size=100,
            test_every=5,
            pooling=(10, 1200),
            chunks=tuple(range(7, 16)),
        ),
        "diffact": _recipe(
            epochs=1001,
            lr=1e-4,
            accumulate=4,
            test_every=20,
            network_option=(
                "encoder_layers=12",
                "encoder_maps=256",
                "channel_dropout=0.1",
                "frame_dropout=0.1",
                "condition_layers=(7, 8, 9)",
                "decoder_maps=128",
            ),
            loss_option=("soft_label=4", "boundary_smooth=3", "smoothing=0.025"),
            median=15,
        ),
        # The published rate is constant for 15 epochs and then follows a cosine that would end at epoch 180, after the
        # end of the run at epoch 150, where the cosine of this run ends.
        "ltcontext": _recipe(
            epochs=150,
            lr=2.5e-4,
            weight_decay=1e-3,
            schedule="cosine",
            warmup_epochs=15.0,
            warmup_start=2.5e-4,
            lr_end=5e-5,
            loss_option=("smoothing=0.17",),
        ),
    },
}
RECIPES["segmentation"] = {**RECIPES["gtea"], "ltcontext": RECIPES["breakfast"]["ltcontext"]}
"""By data set and network; "segmentation" is for data sets of your own, with the settings for GTEA. LTContext has none
for GTEA, but those for Breakfast."""

RATES = {"gtea": 15.0, "50salads": 30.0, "breakfast": 15.0, "segmentation": 15.0}
"""Labels a second of the published files; a catalog has its own."""


def recipe_options(name: str, network: str = "mstcn", **changes: Any) -> SegmentationOptions:
    """Return the published options of a network on a data set, with changes.

    Args:
        name: gtea, 50salads, breakfast, or segmentation for a data set of your own.
        network: name of the network.
        **changes: options by their flat names, such as `dataset` and `epochs`; the options in `network_option` and
            `loss_option` are added to the published ones.

    Raises:
        ValueError: there is no such data set, network or option, or a value is out of its range.
    """
    return options_from(published_options(RECIPES, name, network, changes), defaults=SegmentationOptions())
