"""Options that every training run has, one dataclass for each concern; imports nothing heavy.

The docstrings are the help texts of the commands. Each task adds its own groups (`vidseg/tasks/*/options.py`); all of
them have flat names that are unique within a task, and one name for each concept in every task.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

from vidseg.engine.option_words import named_values

__all__ = [
    "CheckpointOptions",
    "DeviceOptions",
    "EvaluationOptions",
    "MonitorOptions",
    "NetworkOptions",
    "OptimizerOptions",
    "RunOptions",
    "ScheduleOptions",
    "TrainOptions",
    "flat_options",
    "options_from",
]

OptLevel = Literal["O0", "O1", "O2", "O3", "bf16"]
Options = TypeVar("Options", bound="TrainOptions")


def at_least(options: object, smallest: float, *names: str) -> None:
    """Refuse options below `smallest`; None passes.

    Raises:
        ValueError: names the option and its value.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not value >= smallest:
            raise ValueError(f"{name}={value} must be at least {smallest:g}")


@dataclass(frozen=True)
class NetworkOptions:
    """The network and its initial weights."""

    network: str = ""
    """Name of the network; `vidseg models` shows all names."""
    network_option: tuple[str, ...] = ()
    """Options of the network as NAME=VALUE, such as width=0.5; `vidseg models NAME` shows them."""
    pretrained: str | None = None
    """Checkpoint whose entries are taken where name and shape fit, or the name of published weights of the network,
    such as kinetics400, see `vidseg models NETWORK`. Also spelled --pretrained-3d."""
    cross_modality: bool = False
    """Fill the first convolution of a network for flow, motion vectors or a pair of modalities from --pretrained for
    RGB: its weights are averaged over R, G and B and repeated for each channel, as for TSN; default: random weights."""
    fine_tune: bool = False
    """Multiply the learning rate of convolutions by 0.6 and of recurrent layers by 0.5; the classifier and layers that
    the checkpoint did not fill keep the whole rate."""
    freeze_backbone: bool = False
    """Train only the classifier, or the probe of V-JEPA 2; the rest of the network is in evaluation mode and has no
    gradient."""
    adapter_rank: int = 0
    """Rank of trained adapters (LoRA) of the attention and MLP layers of a transformer, whose own weights are frozen;
    0: no adapters. The trained model has them merged."""
    keep_zeros: bool = False
    """Leave weights at zero that are zero at the start, such as those that `vidseg compress --unstructured` removed."""

    def __post_init__(self) -> None:
        at_least(self, 0, "adapter_rank")
        if self.cross_modality and self.pretrained is None:
            raise ValueError("cross_modality has no effect without pretrained")
        if self.freeze_backbone and self.adapter_rank:
            raise ValueError(
                f"freeze_backbone and adapter_rank={self.adapter_rank} exclude each other: adapters train the backbone"
            )

    def chosen_options(self) -> dict[str, Any]:
        """`network_option` as a dictionary.

        Raises:
            ValueError: an entry is not of the form NAME=VALUE.
        """
        return named_values(self.network_option)


@dataclass(frozen=True)
class OptimizerOptions:
    """The optimizer and what happens to a gradient before the step."""

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """SGD with momentum, Adam with an L2 penalty, or Adam with decoupled weight decay."""
    implementation: Literal["auto", "torch", "fused", "apex"] = "auto"
    """Optimizer implementation: torch's plain or fused one, or NVIDIA apex's; auto is fused on a GPU."""
    momentum: float = 0.9
    """Momentum of SGD, or the first beta of Adam."""
    nesterov: bool = True
    """Nesterov's form of SGD's momentum; --no-nesterov: the classical one."""
    weight_decay: float = 1e-4
    """L2 penalty, or decoupled weight decay with adamw."""
    decay_all: bool = True
    """Apply weight decay to biases and norms as well; --no-decay-all leaves them out."""
    backbone_lr: float = 1.0
    """Multiplier of the learning rate for parameters whose names begin with "backbone."."""
    layer_decay: float = 1.0
    """Multiplier of the learning rate from each block of a transformer to the one before it, such as 0.75; 1: none."""
    frozen_norms: bool = False
    """Keep the statistics of batch norm as they are, for networks with published weights."""
    freeze_ranges: float | None = None
    """Share of the run after which a network with the option quantized keeps the ranges of its activations and the
    statistics of batch norm; default: 0.5."""
    clip_norm: float | None = None
    """Largest norm of the gradient of a step; default: no clipping."""
    accumulate: int = 1
    """Batches (for streams: groups of videos) whose gradients are averaged into one step."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then evaluated and saved; 0: no average."""

    def __post_init__(self) -> None:
        at_least(self, 1, "accumulate")
        at_least(self, 0, "weight_decay", "backbone_lr")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay={self.layer_decay} must be in (0, 1]")
        if self.freeze_ranges is not None and not 0 < self.freeze_ranges <= 1:
            raise ValueError(f"freeze_ranges={self.freeze_ranges} must be above 0 and at most 1")
        if not 0 <= self.momentum < 1 or not 0 <= self.ema < 1:
            raise ValueError(f"momentum={self.momentum} and ema={self.ema} must be in [0, 1)")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm={self.clip_norm} must be above 0")


@dataclass(frozen=True)
class ScheduleOptions:
    """The learning rate over the run. Lengths are epochs; with --max-steps they are optimizer steps."""

    lr: float | None = None
    """Highest learning rate; with long cycles that of the largest batches. Default: 0.1 for 32 samples in a batch, in
    proportion for other batches. Also spelled --lr-base."""
    schedule: Literal["steps", "cosine", "linear", "plateau"] = "steps"
    """Drop at --lr-steps, follow half a cosine or a straight line, or drop when the training loss stops falling."""
    lr_steps: tuple[float, ...] = ()
    """Where the rate is multiplied by --lr-factor, counted from 0."""
    lr_factor: tuple[float, ...] = (0.1,)
    """Multiplier of the rate at each of --lr-steps: one number, or one for each. The rate never falls below 1e-6."""
    patience: int = 3
    """Schedule "plateau": epochs without improvement before the rate is multiplied by --lr-factor."""
    warmup_epochs: float | None = None
    """Epochs over which the rate rises from --warmup-start in a straight line. Default: a tenth of the run, at most 500
    batches; none in the published settings of a data set."""
    warmup_steps: int | None = None
    """The same in optimizer steps, for runs with --max-steps."""
    warmup_start: float = 0.0
    """Learning rate at the start of the warm-up."""
    lr_end: float = 0.0
    """Learning rate at the end of the cosine or of the line."""
    cosine_after_warmup: bool = True
    """Start the cosine at the end of the warm-up; --no-cosine-after-warmup starts it with the run."""

    def __post_init__(self) -> None:
        at_least(self, 0, "warmup_epochs", "warmup_steps", "warmup_start", "lr_end", "patience")
        if self.lr is not None and self.lr <= 0:
            raise ValueError(f"lr={self.lr} must be above 0")
        if not self.lr_factor or min(self.lr_factor) <= 0:
            raise ValueError(f"lr_factor={self.lr_factor} must be one or more numbers above 0")
        if len(self.lr_factor) > 1 and len(self.lr_factor) != len(self.lr_steps):
            raise ValueError(f"lr_factor={self.lr_factor}: one number, or one for each of lr_steps={self.lr_steps}")
        if list(self.lr_steps) != sorted(self.lr_steps):
            raise ValueError(f"lr_steps={self.lr_steps} must be in rising order")
        if self.schedule not in ("steps", "cosine", "linear", "plateau"):
            raise ValueError(f"schedule={self.schedule!r} is not one of steps, cosine, linear, plateau")
        if self.warmup_epochs and self.warmup_steps:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} and warmup_steps={self.warmup_steps}: give one")


@dataclass(frozen=True)
class DeviceOptions:
    """Device and precision."""

    device: str | None = None
    """Device such as cpu, cuda or cuda:1; default: the accelerator if there is one."""
    gpus: str | None = None
    """Number of GPUs ("4"), or their numbers ("0,1,2,3"; "2," for number 2 alone), one process for each; "0": none;
    default: all."""
    opt_level: OptLevel | None = None
    """O0: float32. O1: float16 where it is safe. O2: float16 weights, float32 norms and master weights. O3: float16.
    bf16: as O1 with bfloat16. Default: O1 on a GPU, O0 on the CPU."""
    amp: Literal["torch", "apex"] = "torch"
    """Mixed precision of torch, or of an old NVIDIA apex."""
    sync_bn: bool = False
    """Compute the statistics of batch norm over all processes."""
    bn_group_size: int | None = None
    """With --sync-bn: number of consecutive processes whose batch norms share statistics; default: all."""
    channels_last: bool = False
    """Memory format of clips and convolutions; faster on some devices, see `vidseg profile`."""
    compile: bool = False
    """Compile the network with torch.compile."""
    recompute: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    shard: bool = False
    """Divide weights, gradients and optimizer state over the processes (FSDP2), for networks that do not fit into the
    memory of one device; no effect on one process."""
    engine: Literal["torch", "deepspeed"] = "torch"
    """What exchanges gradients: torch, or DeepSpeed with --deepspeed-config."""
    deepspeed_config: str | None = None
    """JSON file of DeepSpeed: ZeRO stage 0, 1 or 2, and how gradients are exchanged."""

    def __post_init__(self) -> None:
        if self.amp == "apex" and self.opt_level == "bf16":
            raise ValueError("amp='apex' has O0, O1, O2 and O3; bf16 needs amp='torch'")
        if (self.engine == "deepspeed") != (self.deepspeed_config is not None):
            raise ValueError(
                f"engine={self.engine!r} and deepspeed_config={self.deepspeed_config!r}: engine='deepspeed' needs its "
                "JSON file, and only it reads one"
            )
        if self.engine == "deepspeed" and (self.shard or self.compile or self.amp == "apex"):
            raise ValueError("engine='deepspeed' excludes shard, compile and amp='apex'")
        at_least(self, 1, "bn_group_size")
        if self.bn_group_size is not None and not self.sync_bn:
            raise ValueError(f"bn_group_size={self.bn_group_size} has no effect without sync_bn")
        if self.device is not None and self.gpus is not None:
            raise ValueError(f"device={self.device!r} and gpus={self.gpus!r}: give one of them")


@dataclass(frozen=True)
class EvaluationOptions:
    """When the validation split is evaluated."""

    test_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    test_every_steps: int | None = None
    """Optimizer steps between further evaluations within an epoch. Also spelled --val-freq."""
    precise_bn: int = 0
    """Batches over which the statistics of batch norm are averaged before each evaluation; 0: running averages."""

    def __post_init__(self) -> None:
        at_least(self, 1, "test_every", "test_every_steps")
        at_least(self, 0, "precise_bn")

    def due_after(self, steps: int) -> bool:
        """Return whether `test_every_steps` asks for an evaluation after so many optimizer steps."""
        return self.test_every_steps is not None and steps % self.test_every_steps == 0


@dataclass(frozen=True)
class CheckpointOptions:
    """Which checkpoints are written. The last and the best one always are."""

    save_frequency: int | None = None
    """Epochs between numbered checkpoints; default: a tenth of the run."""
    checkpoint_every: int | None = None
    """Batches between renewals of <network>_last.pth within an epoch, at the next step; default: at ends of epochs."""
    keep: int | None = None
    """Numbered checkpoints to keep; default: all."""
    run_files: Literal["vidseg", "experiment"] = "vidseg"
    """Names of a run's files. experiment: ckpt.pth.tar (the last checkpoint), ckpt_best.pth.tar, log.txt, which is
    appended to, and events/, without numbered checkpoints; config.yaml files of the `common:` format choose it."""

    def __post_init__(self) -> None:
        at_least(self, 1, "save_frequency", "checkpoint_every", "keep")

    def numbered_every(self, epochs: int) -> int:
        """Epochs between numbered checkpoints in a run of `epochs`."""
        return self.save_frequency or max(1, math.ceil(epochs / 10))


@dataclass(frozen=True)
class MonitorOptions:
    """Logging."""

    log_every: int | None = None
    """Batches between lines of the log; default: a tenth of an epoch."""
    tensorboard: bool = False
    """Write RUN/tensorboard: scores, learning rate, speeds, sample clips, pictures of the validation."""
    wandb: bool = False
    """Send the same to Weights & Biases; its environment variables (WANDB_PROJECT, WANDB_MODE) apply."""
    mlflow: bool = False
    """Send the same to MLflow; its environment variables (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME) apply."""
    pictures: bool = True
    """Draw what the validation and the test found, where the task has pictures of it, also for the three above."""
    debug_mode: bool = False
    """Log parameter groups and the norm of the gradient as well."""

    def __post_init__(self) -> None:
        at_least(self, 1, "log_every")


@dataclass(frozen=True)
class RunOptions:
    """Length and folder of the run, and how it starts."""

    epochs: int = 30
    """Passes over the training data. Also spelled --end-epoch."""
    max_steps: int | None = None
    """Optimizer steps after which the run ends, whatever --epochs is. Also spelled --max-iter."""
    seed: int = 1
    """Seed of weights, order of samples, crops, augmentation and dropout. Also spelled --random-seed."""
    out: str | None = None
    """Folder of the run; default: MODEL_DIR/NETWORK."""
    model_dir: str | None = None
    """Folder that holds runs; default: results/<data set>."""
    task_name: str = ""
    """Suffix of the run's folder, which keeps several runs of a network apart."""
    log_file: str = ""
    """Another file for the log; default: train.log in the run's folder."""
    resume: bool = False
    """Continue the run in the folder from its last checkpoint, with its options; start it if there is none."""
    resume_epoch: int = -1
    """Continue with this epoch, counted from 1, from the checkpoint before it (21: ..._ep-0020.pth) or from
    --pretrained."""
    overwrite: bool = False
    """Replace the run in the folder."""
    dry_run: bool = False
    """Print the schedule of batches and learning rates, draw it, and stop."""

    def __post_init__(self) -> None:
        at_least(self, 1, "epochs", "max_steps")
        if self.resume_epoch == 0 or self.resume_epoch < -1:
            raise ValueError(f"resume_epoch={self.resume_epoch}: epochs count from 1; -1 is none")
        if sum((self.resume, self.resume_epoch > 0, self.overwrite)) > 1:
            raise ValueError("resume, resume_epoch and overwrite exclude each other")


ONE_START = frozenset({"resume", "resume_epoch", "overwrite", "dry_run"})
"""Options that concern one start of a run; they are never stored."""


@dataclass(frozen=True)
class TrainOptions:
    """The groups that every task has."""

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


def options_from(values: Mapping[str, Any], *, defaults: Options) -> Options:
    """The reverse of `flat_options`; options that are not given keep the value of `defaults`.

    Raises:
        ValueError: there is no option of a given name, or a value is out of its range.
    """
    left, groups = dict(values), {}
    for group in fields(defaults):
        part = getattr(defaults, group.name)
        own = {name.name: left.pop(name.name) for name in fields(part) if name.name in left}
        groups[group.name] = replace(part, **{name: _as_tuple(value) for name, value in own.items()})
    for name in left:
        close = difflib.get_close_matches(name, flat_options(defaults), n=1)
        raise ValueError(f"there is no option {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    return type(defaults)(**groups)


def _as_tuple(value: Any) -> Any:
    """Lists, as JSON and YAML have them, as tuples."""
    return tuple(_as_tuple(each) for each in value) if isinstance(value, (list, tuple)) else value
