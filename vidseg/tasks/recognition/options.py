"""Options of recognition runs; imports nothing heavy. The docstrings are the help texts of the commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vidseg.engine.options import NetworkOptions, TrainOptions, at_least

__all__ = [
    "AugmentationOptions",
    "InputOptions",
    "LossOptions",
    "MultigridOptions",
    "ProbeOptions",
    "RecognitionData",
    "RecognitionOptions",
]

Triple = tuple[float, float, float]
Modality = Literal["rgb", "flow", "motion", "residual", "rgb+flow", "rgb+motion", "rgb+residual"]
MOST_REPEATS = 64


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
    train_lists: tuple[str, ...] = ()
    """List files of the training videos, lines `path num_frames label` or `path label` with labels from 0, which
    replace --train-split; the data set has these videos converted."""
    val_lists: tuple[str, ...] = ()
    """List files of the validation videos, which replace --val-split."""
    train_root: str = ""
    """Folder of the paths in --train-lists, for messages."""
    val_root: str = ""
    """Folder of the paths in --val-lists, for messages."""
    batch_size: int | None = None
    """Clips in a batch over all processes; with cycles the smallest batch. Default: the power of two up to 32 that
    gives an epoch at least ten batches."""
    process_batch_size: int | None = None
    """Clips in a batch of each process, instead of --batch-size."""
    balance: bool = False
    """Draw the training videos of all classes equally often; an epoch has as many clips as without."""
    repeats: int = 1
    """Clips of each video in a batch, with other frames, crops and colors; an epoch has that many times the clips."""
    geometry: str | None = None
    """Crop of training clips: random_resized_crop (default), short_side, multi_scale, center, stretch, three_crops,
    five_crops, ten_crops, or a data set's (hacs, kinetics, moments, ucf101, hmdb51, diving48)."""
    val_geometry: str | None = None
    """Crop in evaluation: center, stretch, three_crops, five_crops, ten_crops, or a data set's (hacs, kinetics,
    moments, ucf101, hmdb51, diving48); default: the network's."""
    mirror: bool = True
    """Mirror half of the training clips; --no-mirror where classes distinguish left and right."""
    val_frames: int | None = None
    """Frames of a clip in validation, such as 25 segments for TSN; default: --frames."""
    val_clips: int = 1
    """Clips of each video in validation, spread over its length, whose scores are averaged; 1: the middle."""
    val_crops: int = 1
    """Crops of each clip in validation: 1, 3, 5 or 10."""
    clip_positions: Literal["mmaction2", "pyslowfast"] = "mmaction2"
    """Positions of several clips: mmaction2 puts the last one at the end of the video, pyslowfast one step before."""
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
        at_least(self, 1, "batch_size", "process_batch_size", "threads", "num_classes", "val_frames", "val_clips")
        at_least(self, 0, "cache_bytes")
        if self.batch_size is not None and self.process_batch_size is not None:
            raise ValueError(
                f"batch_size={self.batch_size} and process_batch_size={self.process_batch_size}: give one of them"
            )
        if not 1 <= self.repeats <= MOST_REPEATS:
            raise ValueError(f"repeats={self.repeats} must be 1 to {MOST_REPEATS}")
        if self.val_crops not in (1, 3, 5, 10):
            raise ValueError(f"val_crops={self.val_crops} is not one of 1, 3, 5, 10")
        if self.val_lists and not self.train_lists:
            raise ValueError(f"val_lists={self.val_lists}: give train_lists as well")
        if self.train_lists and (self.train_split or self.val_split):
            raise ValueError(f"train_lists={self.train_lists} replaces splits: leave train_split and val_split out")


@dataclass(frozen=True)
class InputOptions:
    """The clips that the network sees; defaults come from the network or its published weights."""

    modality: Modality | None = None
    """rgb: frames; flow, motion (motion vectors of the codec) and residual: what `vidseg extract-flow` stored beside
    them; two of them are one behind the other in the channels. Default: the network's."""
    stack: int | None = None
    """Number of consecutive flows or motion vectors for each frame, in the channels; TSN: 5."""
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
    """Mean of R, G and B in 0..1 that is subtracted from the frames; of flow, scaled to 0..1: 0.5."""
    std: Triple | None = None
    """Standard deviation of R, G and B by which they are divided; of flow: 0.5, so that it is in -1..1."""
    color: Literal["rgb", "bgr"] | None = None
    """Order of the channels."""

    def __post_init__(self) -> None:
        at_least(self, 1, "stack", "frames", "interval", "size", "resize")
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
    cutmix: float = 0.0
    """Alpha of CutMix's Beta distribution; 0: no CutMix. With --mixup each batch has one of them, with equal
    probability."""
    target: Literal["class", "classes", "value"] = "class"
    """What is learned of a video: its class, its set of classes (binary cross entropy, mAP), or its number
    (regression); see `vidseg labels targets`."""
    class_weights: Literal["none", "inverse", "median"] = "none"
    """Weights of the classes in the loss: inverse to their number of training videos, or the median of these numbers
    divided by it, scaled to a mean of 1 over the training videos; with --target classes: of the positive labels."""
    value_loss: Literal["mse", "l1"] = "mse"
    """Loss with --target value: squared or absolute error."""

    def __post_init__(self) -> None:
        at_least(self, 0, "mixup", "cutmix")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must be in [0, 1)")
        if self.target == "value" and (self.label_smoothing or self.class_weights != "none"):
            raise ValueError(
                f"target='value' has no classes: label_smoothing={self.label_smoothing} and "
                f"class_weights={self.class_weights!r} have no effect"
            )


@dataclass(frozen=True)
class AugmentationOptions:
    """Colors, noise and warps of training clips; one draw for all frames of a clip."""

    augment: str | None = None
    """The preset of a data set (hacs, kinetics, moments, ucf101, hmdb51, diving48), published, the list of the
    published README, rand_augment, or rand_augment_videomae; default: none."""
    color_jitter: tuple[float, ...] = ()
    """Strengths of brightness, contrast, saturation and hue, in random order, such as 0.4 0.4 0.4 0.1."""
    rand_augment: tuple[float, ...] = ()
    """RandAugment: number of operations (1 to 8), magnitude (0 to 10), and standard deviation of the magnitude (0),
    such as 2 9."""
    random_erasing: tuple[float, ...] = ()
    """A box that is erased: probability, smallest and largest share of the area (0.02, 0.4), and smallest height /
    width (0.3), such as 0.5 0.02 0.4 0.3."""

    def __post_init__(self) -> None:
        _within(self, "color_jitter", (("brightness", 0, 254), ("contrast", 0, 254), ("saturation", 0, 254),
                                       ("hue", 0, 0.5)), least=4)  # fmt: skip
        _within(self, "rand_augment", (("operations", 1, 8), ("magnitude", 0, 10), ("deviation", 0, 10)), least=2)
        _within(self, "random_erasing", (("probability", 0, 1), ("smallest area", 1e-6, 1), ("largest area", 1e-6, 1),
                                         ("smallest height / width", 1e-3, 1)), least=1)  # fmt: skip
        if self.rand_augment and self.rand_augment[0] != int(self.rand_augment[0]):
            raise ValueError(f"rand_augment={self.rand_augment}: operations={self.rand_augment[0]} must be whole")
        if len(self.random_erasing) > 2 and self.random_erasing[1] > self.random_erasing[2]:
            raise ValueError(f"random_erasing={self.random_erasing}: the smallest area is above the largest")


def _within(options: object, name: str, limits: tuple[tuple[str, float, float], ...], *, least: int) -> None:
    """Refuse lists with another number of values, or with a value out of its range; an empty list passes."""
    values = getattr(options, name)
    if values and not least <= len(values) <= len(limits):
        counts = f"{least} to {len(limits)}" if least < len(limits) else f"{least}"
        names = ", ".join(part for part, *_ in limits)
        raise ValueError(f"{name}={values}: expected {counts} values ({names})")
    for value, (part, low, high) in zip(values, limits, strict=False):
        if not low <= value <= high:
            raise ValueError(f"{name}={values}: {part}={value:g} must be {low:g} to {high:g}")


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
    modality: Modality | None = None
    """rgb, or what `vidseg extract-flow` stored beside the frames; default: as the weights were trained."""
    stack: int | None = None
    """Number of consecutive flows or motion vectors for each frame, in the channels."""
    cross_modality: bool = False
    """Fill the first convolution of a network for another modality from weights for RGB, see `vidseg train`."""
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
        at_least(self, 1, "clips", "size", "stack", "frames", "interval", "batch_size")
        if not self.penalties or min(self.penalties) <= 0:
            raise ValueError(f"penalties={self.penalties} must be one or more numbers above 0")


@dataclass(frozen=True)
class RecognitionOptions(TrainOptions):
    """Everything about a recognition run."""

    data: RecognitionData = field(default_factory=RecognitionData)
    network: NetworkOptions = field(default_factory=lambda: NetworkOptions("srtg_r3d_18"))
    input: InputOptions = field(default_factory=InputOptions)
    multigrid: MultigridOptions = field(default_factory=MultigridOptions)
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    loss: LossOptions = field(default_factory=LossOptions)
