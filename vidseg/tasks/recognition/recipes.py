"""The published settings of the six data sets of action recognition, as defaults of their training programs.

Source: the training scripts of Squeeze-and-Recursion-Temporal-Gates (Stergiou and Poppe), and the two papers that it
belongs to (arXiv 2006.08247, 2011.03949).
"""

from __future__ import annotations

from dataclasses import dataclass

from vidseg.engine.options import TrainOptions, options_from

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """What is particular to a data set."""

    title: str
    """The data set's own name."""
    classes: int | None
    """Number of classes; None: as many as there are."""
    labels: str
    """Beginning of its published label files, which end in _train.csv and _val.csv; "" without any."""
    options: dict[str, object]
    """Options that differ from the general defaults."""

    def defaults(self) -> TrainOptions:
        """Options of a run on this data set."""
        return options_from({"num_classes": self.classes, "debug_mode": True, **self.options})


_MULTIGRID = {"clip_size": 284, "network": "r3d_50", "long_cycles": True, "short_cycles": True}
_SMALL: dict[str, object] = {
    "clip_size": 256,
    "network": "",
    "train_frame_interval": (2,),
    "lr_steps": (15, 30, 40),
    "end_epoch": 100,
    "model_dir": "exps/models",
}

PRESETS = {
    "hacs": Preset(
        "HACS",
        200,
        "HACS_clips_v1.1",
        {
            **_MULTIGRID,
            "train_frame_interval": (1, 2),
            "batch_size": 48,
            "lr_steps": (40, 60, 75, 90),
            "end_epoch": 120,
            "model_dir": "results/HACS",
            "augment": "hacs",
            "geometry": "hacs",
            "val_geometry": "hacs",
        },
    ),
    **{
        f"kinetics{variant}": Preset(
            f"Kinetics-{variant}",
            variant,
            f"kinetics-{variant}",
            {
                **_MULTIGRID,
                "train_frame_interval": (4, 5, 6),
                "val_frame_interval": (5,),
                "batch_size": 32,
                "lr_base": 0.05,
                "lr_steps": (40, 70, 95),
                "end_epoch": 130,
                "model_dir": f"results/KINETICS-{variant}",
                "augment": "kinetics",
                "geometry": "kinetics",
                "val_geometry": "kinetics",
            },
        )
        for variant in (200, 400, 600, 700)
    },
    "moments": Preset(
        "Moments in Time",
        339,
        "Moments_in_Time",
        {
            **_MULTIGRID,
            "train_frame_interval": (3, 4),
            "val_frame_interval": (3,),
            "batch_size": 48,
            "lr_steps": (25, 50, 70),
            "end_epoch": 110,
            "model_dir": "exps/models",
            "augment": "moments",
            "geometry": "moments",
            "val_geometry": "moments",
        },
    ),
    "ucf101": Preset(
        "UCF-101", 101, "ucf101_split1", {**_SMALL, "augment": "ucf101", "geometry": "ucf101", "val_geometry": "ucf101"}
    ),
    "hmdb51": Preset(
        "HMDB-51", 51, "hmdb_split1", {**_SMALL, "augment": "hmdb51", "geometry": "hmdb51", "val_geometry": "hmdb51"}
    ),
    "diving48": Preset(
        "Diving-48",
        48,
        "diving48",
        {**_SMALL, "augment": "diving48", "geometry": "diving48", "val_geometry": "diving48"},
    ),
    "synth": Preset(
        "moving shapes",
        None,
        "",
        {
            "network": "srtg_r3d_18",
            "width": 0.25,
            "placement": "mid",
            "clip_size": 64,
            "geometry": "stretch",
            "val_geometry": "stretch",
            "train_frame_interval": (2,),
            "batch_size": 16,
            "schedule": "cosine",
            "warmup_epochs": 9,
            "warmup_start": 0.004,
            "log_every": 11,
            "save_frequency": 10,
            "debug_mode": False,
        },
    ),
}
"""By name; Kinetics has one for each variant, and `kinetics --variant` chooses."""
