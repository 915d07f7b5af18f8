"""Options of recognition runs; imports nothing heavy. The docstrings are the help texts of the commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vidseg.engine.options import NetworkOptions, TrainOptions, at_least

__all__ = ["InputOptions", "LossOptions", "MultigridOptions", "ProbeOptions", "RecognitionData", "RecognitionOptions"]

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class RecognitionData:
    """Videos, splits and decoding."""

    dataset: str = ""
    """Folder of the data set, with catalog.db and jpg/; with --backend video also a folder of video files."""
    train_split: str | None = None
    """Training split; default: train or split1/train, else all videos but the held-out ones."""
    val_split: str | None = None
    """Split that selects the best epoch; default: val, else test or split1/test, else a fifth of each class."""
    test_split: str | None = None
    """Split that `vidseg test` evaluates; default: test or split1/test, else the one that selects the epoch."""
    num_classes: int | None = None
    """Number of classes that the data set must have; default: not checked."""
    batch_size: int | None = None
    """Clips in a batch over all processes; with cycles the smallest batch. Default: the power of two up to 32 that
    gives an epoch at least ten batches."""
    augment: str | None = None
    """Colors, noise and warps of training clips: the preset of a data set (hacs, kinetics, moments, ucf101, hmdb51,
    diving48), or published, the list of the published README; default: none."""
    geometry: str | None = None
    """Crop of training clips: random_resized_crop (default), short_side, multi_scale, center, stretch, three_crops,
    five_crops, ten_crops, or a data set's (hacs, kinetics, moments, ucf101, hmdb51, diving48)."""
    val_geometry: str | None = None
    """Crop in evaluation: center, stretch, three_crops, five_crops, ten_crops, or a data set's (hacs, kinetics,
    moments, ucf101, hmdb51, diving48); default: the network's."""
    mirror: bool = True
    """Mirror half of the training clips; --no-mirror where classes distinguish left and right."""
    backend: Literal["native", "dali", "video"] = "native"
    """Decoder of frames: the compiled loader, NVIDIA DALI, or PyAV straight from the video files."""
    threads: int | None = None
    """Decoding threads; default: one for each core."""
    enlarge: float = 1.0
    """How much a stored smaller copy may be enlarged in training, from 1 (never) to 2; above 1 decoding is faster and
    frames are less sharp."""
    cache_bytes: int = 0
    """Memory for encoded frames that are kept between epochs, for small data sets."""
    on_error: Literal["raise", "replace"] = "raise"
    """With a damaged frame: end the run, or use the nearest readable frame and log it."""

    def __post_init__(self) -> None:
        at_least(self, 1, "batch_size", "threads", "num_classes")
        at_least(self, 0, "cache_bytes")


@dataclass(frozen=True)
class InputOptions:
    """The clips that the network sees; defaults come from the network or its published weights."""

    frames: int | None = None
    """Frames of a clip, or segments of a video. Also spelled --clip-length."""
    interval: int | None = None
    """Distance from one frame of a clip to the next in evaluation. Also spelled --val-frame-interval."""
    train_interval: tuple[int, ...] | None = None
    """The same in training; each clip draws one of several. Default: 1 to --interval. Also spelled
    --train-frame-interval and --train-frame-inteval."""
    stretch_intervals: bool = False
    """Let multigrid's shorter clips draw longer intervals, so that they cover the time of the full ones."""
    sampling: Literal["dense", "segments"] | None = None
    """dense: frames at an interval; segments: one frame from each of equal segments of the video."""
    size: int | None = None
    """Height and width of a clip in pixels. Also spelled --clip-size."""
    resize: int | None = None
    """Short side of a frame before the crop in evaluation; with --size alone it keeps the network's proportion."""
    mean: Triple | None = None
    """Mean of R, G and B in 0..1 that is subtracted from the frames."""
    std: Triple | None = None
    """Standard deviation of R, G and B by which they are divided."""
    color: Literal["rgb", "bgr"] | None = None
    """Order of the channels."""

    def __post_init__(self) -> None:
        at_least(self, 1, "frames", "interval", "size", "resize")
        if self.train_interval is not None and (not self.train_interval or min(self.train_interval) < 1):
            raise ValueError(f"train_interval={self.train_interval}: intervals are at least 1")


@dataclass(frozen=True)
class MultigridOptions:
    """Multigrid training: shapes of batches that change during the run."""

    long_cycles: bool = False
    """In each quarter of an epoch other shapes, from many short and small clips to the full shape."""
    short_cycles: bool = False
    """From one batch to the next twice and four times as many clips of a smaller size."""
    cycle_epochs: int | None = None
    """First epochs that have these cycles; later ones have clips of the full shape; default: all."""

    def __post_init__(self) -> None:
        at_least(self, 0, "cycle_epochs")
        if self.cycle_epochs is not None and not (self.long_cycles or self.short_cycles):
            raise ValueError(f"cycle_epochs={self.cycle_epochs} has no effect without long_cycles or short_cycles")


@dataclass(frozen=True)
class LossOptions:
    """Cross entropy and its targets."""

    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    mixup: float = 0.0
    """Alpha of mixup's Beta distribution; 0: no mixup."""

    def __post_init__(self) -> None:
        at_least(self, 0, "mixup")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must be in [0, 1)")


@dataclass(frozen=True)
class ProbeOptions:
    """A linear classifier on the features of a frozen network."""

    dataset: str = ""
    """Folder of the data set, with catalog.db and jpg/."""
    network: str = ""
    """Name of the network; `vidseg models --task recognition` shows all names."""
    network_option: tuple[str, ...] = ()
    """Options of the network as NAME=VALUE."""
    pretrained: str = ""
    """File of weights, or the name of published ones, such as kinetics400."""
    out: str = ""
    """Folder of the run; default: results/<data set>/NETWORK_probe."""
    clips: int = 3
    """Clips of each training video, spread over its length."""
    mirror: bool = True
    """Add the mirrored clips; --no-mirror where classes distinguish left and right."""
    size: int | None = None
    """Height and width of a clip in pixels; default: as the weights were trained."""
    frames: int | None = None
    """Frames of a clip; default: as the weights were trained."""
    interval: int | None = None
    """Distance from one frame of a clip to the next; default: as the weights were trained."""
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """L2 penalties of the classifier; the one with the highest validation accuracy is used."""
    batch_size: int = 8
    """Clips that the network sees at once."""
    seed: int = 1
    """Seed of the videos held out where the data set has no split for it."""
    device: str | None = None
    """Device such as cpu, cuda or cuda:1; default: the accelerator if there is one."""
    overwrite: bool = False
    """Replace the run in the folder."""

    def __post_init__(self) -> None:
        at_least(self, 1, "clips", "size", "frames", "interval", "batch_size")
        if not self.penalties or min(self.penalties) <= 0:
            raise ValueError(f"penalties={self.penalties} must be one or more numbers above 0")


@dataclass(frozen=True)
class RecognitionOptions(TrainOptions):
    """Everything about a recognition run."""

    data: RecognitionData = field(default_factory=RecognitionData)
    network: NetworkOptions = field(default_factory=lambda: NetworkOptions("srtg_r3d_18"))
    input: InputOptions = field(default_factory=InputOptions)
    multigrid: MultigridOptions = field(default_factory=MultigridOptions)
    loss: LossOptions = field(default_factory=LossOptions)
