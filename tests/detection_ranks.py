"""Detection as one process of a group, for tests that compare groups."""

import json
import os
from pathlib import Path

import torch

from vidseg.engine import distributed
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.tasks.detection.recipes import recipe_options
from vidseg.tasks.detection.runs import train_detection

_SGD = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.0, "warmup_epochs": 0.0, "clip_norm": None, "weight_decay": 0.0}
_POINTS = ("maps=32", "heads=2", "levels=3", "window=5", "dropout=0.0", "drop_path=0.0")
_PROPOSALS = ("maps=64", "hidden=32", "roi_size=8", "class_agnostic=True")  # the classifier drops values at random
_PIXELS = {
    "encoder": "r3d_18", "encoder_option": ("width=0.125",), "snippet_frames": 4, "snippet_size": 32,
    "snippet_stride": 8, "min_inside": 0.2, "network_option": _POINTS,
}  # fmt: skip
CASES = {
    "features": ("actionformer", {"network_option": _POINTS}),
    "proposals": ("etad", {"network_option": _PROPOSALS, "length": 32, "lr": 1e-3}),
    "sampled": ("actionformer", {**_PIXELS, "gradients": "sampled"}),
    "frozen": ("actionformer", {**_PIXELS, "gradients": "none"}),
}


def run_case(name: str, features: Path, pixels: Path, out: Path, batch_size: int) -> dict:
    """Train a case; returns the weights at the end and the scores of the test."""
    network, chosen = CASES[name]
    values = {
        "dataset": str(features if "encoder" not in chosen else pixels), "out": str(out), "epochs": 1,
        "batch_size": batch_size, "pictures": False, "device": "cpu", "select": "last", **_SGD, **chosen,
    }  # fmt: skip
    run = train_detection(recipe_options("detection", network, **values))
    distributed.barrier()  # the first process writes the test
    (path,) = run.glob("*_last.pth")
    return {
        "state": read_checkpoint(path)["state_dict"],
        "scores": json.dumps(json.loads((run / "test.json").read_text())["scores"]),
    }


def as_rank(rank: int, port: int, features: Path, pixels: Path, out: Path) -> None:
    """One of two processes, as torchrun would start it; leaves what it found in `rank<rank>.pt`."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    distributed.join_group()
    found = {name: run_case(name, features, pixels, out / f"two_{name}", 1) for name in CASES}
    torch.save(found, out / f"rank{rank}.pt")
    distributed.leave_group()
