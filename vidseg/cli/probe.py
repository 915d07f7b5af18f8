"""`vidseg probe`: a linear classifier on the features of a frozen recognition network."""

from __future__ import annotations

import dataclasses
import json as json_format
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from vidseg.tasks.recognition.options import ProbeOptions

__all__ = ["Command"]


@dataclass(frozen=True)
class Command(ProbeOptions):
    """Fit a linear classifier to the features of a frozen recognition network; prints the folder of the run.

    The network sees every clip once, so this takes minutes where training takes hours. `vidseg test`, `predict` and
    `train --pretrained` take the run like any other.
    """

    folder: Annotated[Positional[str], arg(metavar="FOLDER")] = ""
    """Folder of the data set, with catalog.db and jpg/; the same as --dataset."""
    json: bool = False
    """Print the folder and the validation scores as JSON."""

    def run(self) -> int:
        """Fit, and print."""
        from vidseg.plots.curves import best_scores
        from vidseg.tasks.recognition.probe import train_probe

        if not (self.folder or self.dataset):
            raise ValueError("dataset: name the folder of the data set, as in `vidseg probe FOLDER`")
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(ProbeOptions)}
        folder = train_probe(ProbeOptions(**values | {"dataset": self.folder or self.dataset}))
        print(json_format.dumps({"folder": str(folder), "scores": best_scores(folder)}) if self.json else folder)
        return 0
