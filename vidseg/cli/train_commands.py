"""The command lines of `vidseg train`: one for each task, with the folder of the data set and a file of options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, arg

from vidseg.engine.options import TrainOptions
from vidseg.tasks.detection.options import DetectionOptions
from vidseg.tasks.detection.recipes import RECIPES as DETECTION_RECIPES
from vidseg.tasks.flow.options import FlowOptions
from vidseg.tasks.recognition.options import RecognitionOptions
from vidseg.tasks.recognition.recipes import RECIPES as RECOGNITION_RECIPES
from vidseg.tasks.segmentation.options import SegmentationOptions
from vidseg.tasks.segmentation.recipes import RECIPES as SEGMENTATION_RECIPES
from vidseg.tasks.streaming.options import StreamingOptions

__all__ = ["COMMANDS", "DEFAULTS", "NAMES", "KineticsCommand"]

NAMES = {
    **{re.sub(r"^kinetics\d+$", "kinetics", name): "recognition" for name in RECOGNITION_RECIPES},
    **dict.fromkeys(SEGMENTATION_RECIPES, "segmentation"),
    **dict.fromkeys(DETECTION_RECIPES, "detection"),
    **dict.fromkeys(("stream", "streaming"), "streaming"),
    "flow": "flow",
}
"""Names of recipes, and the task of each; the variants of Kinetics have one name."""

Folder = Annotated[Positional[str | None], arg(metavar="[FOLDER]")]


@dataclass(frozen=True)
class RecognitionCommand(RecognitionOptions):
    """Train a recognition network on videos that have one class each; prints the folder of the run.

    `vidseg train FOLDER` trains on any data set. `vidseg train NAME FOLDER` has the published settings of NAME as
    defaults: hacs, kinetics, moments, ucf101, hmdb51, diving48 or synth for recognition; gtea, 50salads or breakfast
    for segmentation of features, and segmentation for features of your own; stream for streaming networks; thumos14,
    activitynet or hacs_segments for detection, and detection for videos of your own; flow for optical flow. `vidseg
    train NAME --help` shows them.
    """

    task: ClassVar[str] = "recognition"

    folder: Folder = None
    """Folder of the data set, with catalog.db and jpg/; the same as --dataset."""
    config: str | None = None
    """YAML or JSON file of options by name, or the options.json of a run; flags take precedence."""
    json: bool = False
    """Print the folder of the run and its best validation scores as JSON."""


@dataclass(frozen=True)
class KineticsCommand(RecognitionCommand):
    """Train a recognition network on Kinetics with the published settings; prints the folder of the run."""

    variant: Literal[200, 400, 600, 700] = 700
    """Number of classes of the release."""


@dataclass(frozen=True)
class SegmentationCommand(SegmentationOptions):
    """Train a segmentation network on features and test it, split by split; prints the scores and the folder.

    Options that are not given are the published ones of the network for this data set. Each split has a folder of its
    own with checkpoints, score tables, pictures, predictions and test.json; results.json holds the scores of all.
    """

    task: ClassVar[str] = "segmentation"

    folder: Folder = None
    """Folder of the data set: catalog.db or groundTruth/ and splits/, and features/<video>.npy; the same as
    --dataset."""
    config: str | None = None
    """YAML or JSON file of options by name, or the options.json of a run; flags take precedence."""
    json: bool = False
    """Print the folder and the scores as JSON."""


@dataclass(frozen=True)
class StreamingCommand(StreamingOptions):
    """Train a streaming network end to end from pixels, window by window, on videos with frame labels.

    Options that are not given are the published ones of the network. The validation videos are labeled after each
    epoch, the test videos, if the data set has a test split, once at the end. Prints the folder of the run.
    """

    task: ClassVar[str] = "streaming"

    folder: Folder = None
    """Folder of the data set: frame databases, and a catalog with frame labels; the same as --dataset."""
    recipe: Literal["gtea", "50salads"] = "gtea"
    """Data set whose published settings are the defaults."""
    config: str | None = None
    """YAML or JSON file of options by name, or the options.json of a run; flags take precedence."""
    json: bool = False
    """Print the folder and the scores of the test as JSON."""


@dataclass(frozen=True)
class DetectionCommand(DetectionOptions):
    """Train a detection network on videos with segments, from features or from pixels (--encoder), and test it.

    Options that are not given are the published ones of the network for this data set. The validation videos are scored
    after each epoch, the test videos, if the data set has a test split, once at the end. Prints the folder of the run.
    """

    task: ClassVar[str] = "detection"

    folder: Folder = None
    """Folder of the data set: a catalog with segments, and features/<video>.npy or frame databases; the same as
    --dataset."""
    config: str | None = None
    """YAML or JSON file of options by name, or the options.json of a run; flags take precedence."""
    json: bool = False
    """Print the folder and the scores of the test as JSON."""


@dataclass(frozen=True)
class FlowCommand(FlowOptions):
    """Train an optical-flow network on picture pairs with true flow, and test it on held-out pairs.

    `vidseg train flow shapes` trains on generated pairs of moving shapes; a FOLDER has the layout of FlyingChairs,
    Sintel or KITTI. Options that are not given are those of the recipe for the network. Prints the folder of the run.
    """

    task: ClassVar[str] = "flow"

    folder: Annotated[Positional[str | None], arg(metavar="[shapes|FOLDER]")] = None
    """shapes, or the folder of the data set; the same as --dataset."""
    recipe: Literal["shapes", "chairs", "sintel", "kitti"] = "shapes"
    """Data set whose settings are the defaults."""
    config: str | None = None
    """YAML or JSON file of options by name, or the options.json of a run; flags take precedence."""
    json: bool = False
    """Print the folder and the scores of the test as JSON."""


COMMANDS: dict[str, Any] = {
    "recognition": RecognitionCommand,
    "segmentation": SegmentationCommand,
    "streaming": StreamingCommand,
    "detection": DetectionCommand,
    "flow": FlowCommand,
}
DEFAULTS: dict[str, TrainOptions] = {
    "recognition": RecognitionOptions(),
    "segmentation": SegmentationOptions(),
    "streaming": StreamingOptions(),
    "detection": DetectionOptions(),
    "flow": FlowOptions(),
}
