"""`vidseg extract-features`: features of long videos, from a trained recognition network."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Extract features of the videos of a data set: OUT/<video>.npy, a column for every so manieth frame.

    A column is what the network sees in a window around its frame. Run again, it goes on where it was stopped.
    """

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder of a data set with frame databases."""
    weights: Path
    """Folder that `vidseg train` left, whose best checkpoint is taken; or a file of weights, with --network."""
    out: Path | None = None
    """Folder of the files; default: DATA/features, where the segmentation programs look for them."""
    network: str | None = None
    """Name of the network, where WEIGHTS is a file."""
    split: str | None = None
    """Extract the videos of this split only."""
    frames: int | None = None
    """Frames of a window; default: those of the run, else 16."""
    interval: int | None = None
    """Frames from one of these to the next; default: the run's, else 1."""
    size: int | None = None
    """Height and width that the network sees, in pixels; default: the run's, else 112."""
    stride: int = 1
    """Video frames from one column to the next; with frame labels, `labels_per_column` of the feature loader."""
    geometry: str | None = None
    """Which part of the frames is seen, such as center or stretch; default: the run's, else center."""
    color: Literal["rgb", "bgr"] | None = None
    """Order of the channels; default: the run's, else rgb."""
    mean: tuple[float, float, float] | None = None
    """Of R, G and B in 0..1, subtracted from the frames; default: as the run was trained, or for a file of weights as
    the network was published."""
    std: tuple[float, float, float] | None = None
    """Of R, G and B, by which they are divided then."""
    output: Literal["features", "logits", "probabilities"] = "features"
    """What the classifier is given, or what it answers."""
    batch_size: int = 16
    """Windows that the network sees at once."""
    threads: int | None = None
    """Decoding threads; default: one for each core."""
    device: str | None = None
    """Where to compute; default: the accelerator if there is one."""
    overwrite: bool = False
    """Write all files again."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> int:
        """Extract, and say how many."""
        import torch

        from vidseg.labels import open_dataset
        from vidseg.tasks.recognition.feature_extraction import Extraction, extract_features, load_recognition

        data = open_dataset(self.data, self.split)
        model, seen, record = load_recognition(self.weights, network=self.network)
        chosen: dict[str, Any] = {
            name: getattr(self, name) for name in ("frames", "interval", "size", "geometry", "color", "mean", "std")
        }
        seen |= {name: value for name, value in chosen.items() if value is not None}
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        report = extract_features(
            data,
            model,
            self.out if self.out is not None else self.data / "features",
            extraction=Extraction(stride=self.stride, output=self.output, **seen),
            batch_size=self.batch_size,
            threads=self.threads,
            device=self.device or accelerator or "cpu",
            record=record,
            overwrite=self.overwrite,
        )
        print(json_format.dumps(asdict(report)) if self.json else report)
        for failed in report.failed:
            print(f"vidseg extract-features: {failed}", file=sys.stderr)
        return 1 if report.failed else 0
