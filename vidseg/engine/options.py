"""What a user can choose about a run, one dataclass for each concern; imports nothing heavy.

The docstrings are the help texts of the commands.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

__all__ = [
    "CheckpointOptions",
    "DataOptions",
    "DeviceOptions",
    "EvaluationOptions",
    "MonitorOptions",
    "NetworkOptions",
    "OptimizerOptions",
    "RunOptions",
    "ScheduleOptions",
    "TrainOptions",
    "flat_options",
    "named_values",
    "options_from",
]

OptLevel = Literal["O0", "O1", "O2", "O3", "bf16"]


def _at_least(options: object, smallest: float, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and not value >= smallest:
            raise ValueError(f"{name}={value} must be at least {smallest:g}")


@dataclass(frozen=True)
class DataOptions:
    """Videos and clips."""

    dataset: str = ""
    """Folder of the data set, with catalog.db and jpg/."""
    train_split: str | None = None
    """Split to learn from; default: train or split1/train if there is one, else all videos but the held-out ones."""
    test_split: str | None = None
    """Split to evaluate on; default: val, test or split1/test if there is one, else a fifth of each class, held out."""
    num_classes: int | None = None
    """Number of classes that the data set must have; default: whatever it has."""
    clip_length: int = 16
    """Frames of a clip."""
    clip_size: int = 112
    """Height and width of a clip in pixels."""
    train_frame_interval: tuple[int, ...] = (1, 2)
    """Step from one frame of a clip to the next in training; one of these is drawn for each clip. Also spelled
    --train-frame-inteval."""
    stretch_intervals: bool = False
    """Let multigrid's shorter clips draw longer steps, so that they cover as long a time as the full ones."""
    val_frame_interval: tuple[int, ...] = (2,)
    """The same in evaluation, a single number."""
    batch_size: int = 32
    """Clips in a batch, over all processes; with cycles the smallest batch."""
    augment: str | None = None
    """Preset of colors, noise and warps for training clips: hacs, kinetics, moments, ucf101, hmdb51, diving48, ...;
    default: none."""
    geometry: str | None = None
    """Crop of training clips: random_resized_crop (the default), short_side, multi_scale, stretch, or a data set's."""
    val_geometry: str | None = None
    """Crop in evaluation: center (the default), stretch, or a data set's."""
    mirror: bool = True
    """Mirror half of the training clips; --no-mirror where classes tell left from right."""
    backend: Literal["native", "dali", "video"] = "native"
    """What decodes frames: the compiled loader, NVIDIA DALI, or PyAV straight from the video files."""
    threads: int | None = None
    """Decoding threads; default: one for each core."""
    enlarge: float = 1.0
    """How much a stored smaller copy may be enlarged: 1 never, up to 2; faster, and softer than the full frame.
    In training alone."""
    cache_bytes: int = 0
    """Memory for keeping encoded frames between epochs, for small data sets."""
    on_error: Literal["raise", "replace"] = "raise"
    """A damaged frame ends the run, or its nearest neighbor takes its place and the log says so."""
    color: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels; the published SRTG and MTNet weights were trained on bgr."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "clip_length", "clip_size", "batch_size", "threads", "num_classes")
        _at_least(self, 0, "cache_bytes")
        if len(self.val_frame_interval) != 1:
            raise ValueError(f"val_frame_interval={self.val_frame_interval}: evaluation takes one interval")
        if not self.train_frame_interval or min(*self.train_frame_interval, *self.val_frame_interval) < 1:
            raise ValueError(f"train_frame_interval={self.train_frame_interval}: intervals are at least 1")


@dataclass(frozen=True)
class NetworkOptions:
    """The network and what it starts from."""

    network: str = "srtg_r3d_18"
    """Name of the network; `vidseg list models` has them all."""
    width: float = 1.0
    """Multiplier of the network's widths, below 1 for small machines."""
    placement: str | None = None
    """Where Squeeze and Recursion stands in an SRTG block: start, top, mid, end, res or final; default: final."""
    gate: bool = False
    """Switch on the temporal gates of an SRTG network."""
    pretrained_3d: str | None = None
    """Checkpoint to start from; what fits by name and shape is taken."""
    fine_tune: bool = False
    """Convolutions learn at 0.6, recurrent layers at 0.5 of the rate; classifier and new layers at the whole rate."""


@dataclass(frozen=True)
class OptimizerOptions:
    """How a gradient becomes a step."""

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """SGD with Nesterov momentum, Adam with an L2 penalty, or Adam with decoupled weight decay."""
    implementation: Literal["auto", "torch", "fused", "apex"] = "auto"
    """Whose code: torch's plain one, torch's fused one, or NVIDIA apex's fused one; auto: fused on a GPU."""
    momentum: float = 0.9
    """Nesterov momentum of SGD, or the first beta of Adam."""
    weight_decay: float = 1e-4
    """L2 penalty."""
    decay_all: bool = True
    """Apply the penalty to biases and norms as well, as published; --no-decay-all leaves them out."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient; default: any."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    mixup: float = 0.0
    """Alpha of mixup's Beta distribution; 0: none."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "accumulate")
        _at_least(self, 0, "weight_decay", "mixup")
        if not 0 <= self.momentum < 1 or not 0 <= self.label_smoothing < 1:
            raise ValueError(f"momentum={self.momentum} and label_smoothing={self.label_smoothing} must be in [0, 1)")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm={self.clip_norm} must be above 0")


@dataclass(frozen=True)
class ScheduleOptions:
    """The learning rate, and the shapes of batches, over the run."""

    lr_base: float = 0.1
    """Highest learning rate; with long cycles that of the largest batches."""
    schedule: Literal["steps", "cosine"] = "steps"
    """Drop at --lr-steps, or fall along half a cosine."""
    lr_steps: tuple[float, ...] = ()
    """Epochs, from 0, from whose first batch on the rate is multiplied by --lr-factor once more."""
    lr_factor: float = 0.1
    """What each step multiplies the rate by; it never falls below 1e-6."""
    warmup_epochs: float = 0.0
    """Epochs over which the rate rises from --warmup-start in a straight line."""
    warmup_start: float = 0.0
    """Rate of the first batch where there is a warm-up."""
    lr_end: float = 0.0
    """Where the cosine ends."""
    cosine_after_warmup: bool = True
    """Begin the cosine after the warm-up; --no-cosine-after-warmup begins it with the run."""
    long_cycles: bool = False
    """Multigrid: in each quarter of an epoch other clips, from many short and small ones to the full shape."""
    short_cycles: bool = False
    """Multigrid: from one batch to the next twice and four times as many clips of a smaller size."""
    cycle_epochs: int | None = None
    """Epochs that have these cycles, the first ones; later ones have clips of the full shape alone; default: all."""

    def __post_init__(self) -> None:
        _at_least(self, 0, "warmup_epochs", "warmup_start", "lr_end", "cycle_epochs")
        if self.cycle_epochs is not None and not (self.long_cycles or self.short_cycles):
            raise ValueError(
                f"cycle_epochs={self.cycle_epochs}: there are no cycles without long_cycles or short_cycles"
            )
        if self.lr_base <= 0 or self.lr_factor <= 0:
            raise ValueError(f"lr_base={self.lr_base} and lr_factor={self.lr_factor} must be above 0")
        if list(self.lr_steps) != sorted(self.lr_steps):
            raise ValueError(f"lr_steps={self.lr_steps} must rise")
        if self.schedule not in ("steps", "cosine"):
            raise ValueError(f"schedule={self.schedule!r} is neither steps nor cosine")


@dataclass(frozen=True)
class DeviceOptions:
    """Where and in which precision to compute."""

    opt_level: OptLevel | None = None
    """O0: float32. O1: float16 where it is safe. O2: float16 weights, float32 norms and master weights. O3: float16.
    bf16: as O1 with bfloat16. Default: O1 on a GPU, O0 on the CPU."""
    amp: Literal["torch", "apex"] = "torch"
    """Whose mixed precision: torch's, or that of an old NVIDIA apex."""
    gpus: str | None = None
    """How many GPUs ("4"), or which ones ("0,1,2,3"; "2," for the one with number 2); "0": none; default: all."""
    sync_bn: bool = False
    """Batch statistics over all processes."""
    channels_last: bool = False
    """Memory format of clips and convolutions; faster on some devices, see `vidseg profile`."""
    compile: bool = False
    """Compile the network with torch.compile."""
    recompute: bool = False
    """Recompute activations in the backward pass: less memory, more time."""

    def __post_init__(self) -> None:
        if self.amp == "apex" and self.opt_level == "bf16":
            raise ValueError("amp='apex' knows O0, O1, O2 and O3; bf16 is torch's")


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured on held-out videos, and when."""

    test_every: int = 1
    """Epochs between evaluations; the last epoch always has one."""
    precise_bn: int = 0
    """Batches over which batch norm's statistics are averaged before each evaluation; 0: running averages."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "test_every")
        _at_least(self, 0, "precise_bn")


@dataclass(frozen=True)
class CheckpointOptions:
    """What is kept of a run."""

    save_frequency: int = 1
    """Epochs between the checkpoints that are kept; the last epoch always has one."""
    checkpoint_every: int = 0
    """Batches between renewals of <network>_last.pth within an epoch; 0: at the ends of epochs only."""
    keep: int | None = None
    """How many numbered checkpoints stay; default: all."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "save_frequency", "keep")
        _at_least(self, 0, "checkpoint_every")


@dataclass(frozen=True)
class MonitorOptions:
    """What a run tells while it runs."""

    log_every: int = 1
    """Iterations between lines of the log."""
    tensorboard: bool = False
    """Write RUN/tensorboard: scores, rates, speeds, sample clips, confusion matrix."""
    debug_mode: bool = False
    """Further lines: parameter groups, first batch, norm of the gradient, memory."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "log_every")


@dataclass(frozen=True)
class RunOptions:
    """The run: its length, its folder, going on with an earlier one."""

    end_epoch: int = 30
    """Passes over the training videos."""
    random_seed: int = 1
    """Seed of weights, order, clips, crops and dropout."""
    model_dir: str | None = None
    """The run's folder is MODEL_DIR/NETWORK; default: results/<data set>."""
    out: str | None = None
    """The run's folder itself."""
    task_name: str = ""
    """Added to the name of the run's folder, to keep several runs of a network apart."""
    log_file: str = ""
    """Another file for the log; default: train.log in the run's folder."""
    resume: bool = False
    """Go on from the last checkpoint in the run's folder, or start where there is none."""
    resume_epoch: int = -1
    """Go on with this epoch, counted from 1, from the checkpoint before it (21: ..._ep-0020.pth) or from
    --pretrained-3d."""
    overwrite: bool = False
    """Replace the run that is in the folder."""
    dry_run: bool = False
    """Print the schedule of batches and rates as a table, draw it, and stop."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "end_epoch")
        if self.resume_epoch == 0 or self.resume_epoch < -1:
            raise ValueError(f"resume_epoch={self.resume_epoch}: epochs count from 1; -1 is none")
        if sum((self.resume, self.resume_epoch > 0, self.overwrite)) > 1:
            raise ValueError("resume, resume_epoch and overwrite exclude each other")


@dataclass(frozen=True)
class TrainOptions:
    """Everything about a run; it is written beside the checkpoints."""

    data: DataOptions = field(default_factory=DataOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    devices: DeviceOptions = field(default_factory=DeviceOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    checkpoints: CheckpointOptions = field(default_factory=CheckpointOptions)
    monitors: MonitorOptions = field(default_factory=MonitorOptions)
    session: RunOptions = field(default_factory=RunOptions)


def flat_options(options: TrainOptions) -> dict[str, Any]:
    """All options by name, whatever group they are in."""
    return {name: value for group in asdict(options).values() for name, value in group.items()}


def options_from(values: Mapping[str, Any], *, defaults: TrainOptions | None = None) -> TrainOptions:
    """The reverse of `flat_options`; what is not given has its default.

    Raises:
        ValueError: a name that is no option.
    """
    defaults = defaults or TrainOptions()
    left, groups = dict(values), {}
    for group in fields(TrainOptions):
        part = getattr(defaults, group.name)
        own = {name.name: left.pop(name.name) for name in fields(part) if name.name in left}
        groups[group.name] = replace(
            part, **{name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
        )
    for name in left:
        close = difflib.get_close_matches(name, flat_options(defaults), n=1)
        raise ValueError(f"there is no option {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    return TrainOptions(**groups)


def named_values(words: Iterable[str]) -> dict[str, Any]:
    """`layers=8` as {"layers": 8}; what is no Python literal is text.

    Raises:
        ValueError: a word without a name or a value.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{word!r} is not of the form NAME=VALUE, such as layers=8")
        try:
            values[key.replace("-", "_")] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[key.replace("-", "_")] = text
    return values
