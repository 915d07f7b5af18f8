"""`vidseg extract-features`: features of long videos, from a trained recognition network."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from vidseg.cli.model_options import InputChanges, ModelOptions, load_model

if TYPE_CHECKING:
    from vidseg.tasks.recognition.trained import RecognitionModel

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Extract features of the videos of a data set: OUT/<video>.npy, a column for every N-th frame.

    A column is computed from the window around its frame. An interrupted extraction is continued by the same command.
    """

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder of a data set with frame databases."""
    weights: tuple[Path, ...]
    """Folder of a recognition run, one of its checkpoints, or a file of weights; of several, such as a run on RGB and
    one on flow, the features are concatenated."""
    out: Path | None = None
    """Folder of the files; default: DATA/features, where the segmentation programs read them."""
    split: str | None = None
    """Extract the videos of this split only."""
    stride: int = 1
    """Video frames from one column to the next; with frame labels the --labels-per-column of `vidseg train`."""
    position: Literal["center", "start"] = "center"
    """The frame of a column is in the center of its window, or its start; with start, only whole windows have a
    column."""
    geometry: str | None = None
    """Part of the frames, such as center or stretch; default: as in the run's validation, else the network's."""
    output: Literal["features", "logits", "probabilities"] = "features"
    """The input of the classifier, its logits, or their softmax."""
    batch_size: int = 16
    """Windows that the network sees at once."""
    threads: int | None = None
    """Decoding threads; default: one for each core."""
    overwrite: bool = False
    """Write all files again."""
    json: bool = False
    """Print the result as JSON."""
    model: ModelOptions = field(default_factory=ModelOptions)
    input: InputChanges = field(default_factory=InputChanges)

    def run(self) -> int:
        """Extract and print the counts; exit status 1 if a video could not be read."""
        from vidseg.labels import open_dataset

        data = open_dataset(self.data, self.split)
        if len(self.weights) > 1 and (self.model.network or self.model.network_option):
            raise ValueError(
                f"network={self.model.network!r} is for one file of weights; of {len(self.weights)} files the network "
                "is recognized from the file"
            )
        trained = [self._load(path) for path in self.weights]
        from vidseg.tasks.recognition.feature_extraction import extract_features

        report = extract_features(
            data,
            trained,
            self.out if self.out is not None else self.data / "features",
            stride=self.stride,
            position=self.position,
            output=self.output,
            geometry=self.geometry,
            batch_size=self.batch_size,
            threads=self.threads,
            overwrite=self.overwrite,
        )
        print(json_format.dumps(asdict(report)) if self.json else report)
        for failed in report.failed:
            print(f"vidseg extract-features: {failed}", file=sys.stderr)
        return 1 if report.failed else 0

    def _load(self, path: Path) -> RecognitionModel:
        """Load one of the networks."""
        from vidseg.tasks.recognition.trained import RecognitionModel

        trained = load_model(path, self.model, self.input)
        if not isinstance(trained, RecognitionModel):
            raise ValueError(
                f"{trained.network} is a network for {trained.task}; features come from recognition networks"
            )
        return trained
