"""`vidseg train`: train a network on a data set."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from vidseg.engine.options import TrainOptions

__all__ = ["Command"]


@dataclass(frozen=True)
class Command(TrainOptions):
    """Train a network on DATASET, evaluating it on held-out videos; leaves checkpoints, score tables and a log."""

    dataset: Annotated[Positional[str], arg(metavar="DATASET")]
    """Folder of the data set, as `vidseg convert` leaves it."""

    def run(self) -> int:
        """Train, and print the folder of the run."""
        from vidseg.engine import train_run

        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(TrainOptions)}
        print(train_run(TrainOptions(**values)))
        return 0
