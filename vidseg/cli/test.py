"""`vidseg test`: evaluate a trained network."""

import dataclasses
import json as json_format
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Evaluate the run in the folder RUN on its held-out videos: scores by class, confusions, mistakes.

    Leaves test.json and mistakes.csv in the folder.
    """

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder that `vidseg train` left."""
    checkpoint: str | None = None
    """Weights to test; default: the best ones of the run, else its last ones."""
    dataset: str | None = None
    """Another data set than the run's, with the same classes."""
    split: str | None = None
    """Another split than the run's held-out videos."""
    json: bool = False
    """Print one JSON object instead of the table; RUN/test.json holds the same."""

    def run(self) -> int:
        """Evaluate and print."""
        from vidseg.engine import test_run

        report = test_run(self.run_folder, checkpoint=self.checkpoint, dataset=self.dataset, split=self.split)
        print(json_format.dumps(dataclasses.asdict(report)) if self.json else report)
        return 0
