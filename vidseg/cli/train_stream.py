"""`vidseg train stream`, and train/train_stream.py: a streaming network end to end from pixels."""

from __future__ import annotations

import json as json_format
import os
import sys
from dataclasses import dataclass, fields
from typing import Annotated

from tyro.conf import Positional, arg

from vidseg.tasks.streaming.recipes import StreamOptions

__all__ = ["Command", "stream_program"]


@dataclass(frozen=True)
class Command(StreamOptions):
    """Train a streaming network end to end from pixels, window by window, on videos with frame labels.

    What is not chosen is as published for the network. Scores of the validation videos come after each epoch; the test
    videos, where the data set has some, are labeled once, at the end. Leaves checkpoints, score tables, pictures and
    a log.
    """

    dataset: Annotated[Positional[str], arg(metavar="DATA")]
    """Folder of the data set: frame databases, and a catalog with frame labels."""
    gpus: str | None = None
    """How many GPUs, or which ones, such as 0,2: a process for each; default: all."""
    json: bool = False
    """Print the folder and the scores of the test as JSON."""

    def run(self) -> int:
        """Train, and print the folder of the run."""
        from vidseg.cli.train_segmentation import draw_evaluation
        from vidseg.engine.distributed import leave_group
        from vidseg.engine.launch import launch_processes
        from vidseg.tasks.streaming.runs import train_stream

        if self.device is None:
            status = launch_processes(self.gpus)
            if status is not None:
                return status
        options = StreamOptions(**{field.name: getattr(self, field.name) for field in fields(StreamOptions)})
        try:
            folder = train_stream(options, draw=draw_evaluation)
        finally:
            leave_group()
        if os.environ.get("RANK", "0") == "0":
            tested = folder / "test.json"
            scores = json_format.loads(tested.read_text())["scores"] if tested.is_file() else None
            print(json_format.dumps({"folder": str(folder), "scores": scores}) if self.json else folder)
        return 0


def stream_program() -> int:
    """Run train/train_stream.py, with the words of the command line."""
    from vidseg.cli.main import run_program

    return run_program(Command, sys.argv[1:])
