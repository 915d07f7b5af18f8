"""The programs train/train_gtea.py, train_50salads.py and train_breakfast.py: cross-validation of a network."""

from __future__ import annotations

import json as json_format
import os
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional, arg

from vidseg.tasks.segmentation.recipes import SegmentationOptions

if TYPE_CHECKING:
    from vidseg.tasks.segmentation.task import SegmentationEvaluation

__all__ = ["Command", "segmentation_command", "segmentation_program"]

_ROWS = 12  # videos on a picture: the worst ones


@dataclass(frozen=True)
class Command(SegmentationOptions):
    """Train a segmentation network on features and test it, split by split; prints the averaged table.

    What is not chosen is as published for the network on this data set. Leaves results.json, and for each split
    checkpoints, score tables, pictures, predictions and test.json.
    """

    dataset: Annotated[Positional[str], arg(metavar="DATA")]
    """Folder of the data set: catalog.db, as its converter leaves it, and features/<video>.npy."""
    json: bool = False
    """Print the result as JSON."""
    recipes: tyro.conf.Suppress[str] = "gtea"

    def run(self) -> int:
        """Train, test, print."""
        from vidseg.engine.distributed import leave_group
        from vidseg.tasks.segmentation.cross_validation import cross_validate

        options = SegmentationOptions(
            **{field.name: getattr(self, field.name) for field in fields(SegmentationOptions)}
        )
        try:
            table = cross_validate(self.recipes, options, draw=draw_evaluation)
        finally:
            leave_group()
        if os.environ.get("RANK", "0") == "0":
            print(json_format.dumps(asdict(table) | {"mean": table.mean}) if self.json else table)
        return 0


def draw_evaluation(path: Path, classes: list[str], result: SegmentationEvaluation, title: str) -> None:
    """Draw the bars of the worst videos into `<path>.png`."""
    from vidseg.plots import SegmentedVideo, plot_segments

    videos = [
        SegmentedVideo(name, video.truth, video.prediction)
        for name, video in zip(result.names, result.videos, strict=True)
    ]
    videos.sort(key=lambda video: (video.truth == video.prediction).mean())
    left_out = f" (the worst {_ROWS} of {len(videos)} videos)" if len(videos) > _ROWS else ""
    plot_segments(videos[:_ROWS], classes, path.with_suffix(".png"), title=title + left_out)


def segmentation_command(name: str) -> type[Command]:
    """The command of one data set: its name in the help, its recipes the defaults."""

    @dataclass(frozen=True)
    class Named(Command):
        recipes: tyro.conf.Suppress[str] = name

    Named.__doc__ = Command.__doc__
    return Named


def segmentation_program(name: str) -> int:
    """Run a program of train/, with the words of the command line."""
    from vidseg.cli.main import run_program

    return run_program(segmentation_command(name), sys.argv[1:])
