"""The training loop of every task.

A task computes losses and scores (`vidseg.engine.Task`); the loop owns everything else: precision, exchange of
gradients, accumulation, learning rates, moving average, evaluation, checkpoints and resuming, logs. It never waits for
an accelerator: scores of a batch are read when the next one has been started.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidseg.clips.draws import uniform
from vidseg.clips.multigrid import Multigrid
from vidseg.engine import distributed
from vidseg.engine.averaging import WeightAverage
from vidseg.engine.checkpoints import CheckpointFolder, find_non_finite, read_checkpoint
from vidseg.engine.deepspeed import DeepSpeedPrecision, read_settings
from vidseg.engine.loggers import Done, Logger, check_loggers, make_loggers
from vidseg.engine.monitors import SpeedMonitor, progress_bar, time_line
from vidseg.engine.optimizers import make_optimizer, parameter_groups, set_rates
from vidseg.engine.options import (
    CheckpointOptions,
    DeviceOptions,
    EvaluationOptions,
    MonitorOptions,
    OptimizerOptions,
    OptLevel,
    ScheduleOptions,
)
from vidseg.engine.precise_norm import renew_statistics
from vidseg.engine.precision import ApexPrecision, make_precision
from vidseg.engine.quantized_training import FREEZE_RANGES, check_quantized, freeze_ranges
from vidseg.engine.reports import RunReports, say
from vidseg.engine.schedules import Schedule
from vidseg.engine.sharding import as_stored, check_sharding, local_parts, shard_model, whole_values
from vidseg.engine.task import BatchResult, Position, Result, Task, make_task, means
from vidseg.engine.zeros import keep_zeros as hold_zeros
from vidseg.loaders.transfer import copy_ahead
from vidseg.models import add_adapters, prepare
from vidseg.models import freeze_backbone as freeze_all_but_head
from vidseg.models._quantized import quantized_layers, update_ranges
from vidseg.models._registry import model_origin

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

DEFAULT_LR = 0.1
_DIVERGING = 2.0
"""A validation loss this many times the lowest one before it is reported as diverging."""

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], Any]


@dataclass
class _Progress:
    """How far a run is.

    Attributes:
        epoch: finished epochs.
        batch: finished batches of the next epoch.
        steps: optimizer steps of the run.
        complete: complete gradients of the epoch so far (accumulated ones included).
        sums: (2, C) sums and weights of the scores of the epoch so far.
        best: best quality so far.
        best_epoch: finished epochs when it was reached.
        best_values: scores of that evaluation.
        lowest: lowest validation loss so far.
    """

    epoch: int = 0
    batch: int = 0
    steps: int = 0
    complete: int = 0
    sums: Tensor | None = None
    best: Any = None
    best_epoch: int = 0
    best_values: tuple[float, ...] = ()
    lowest: float = math.inf


@dataclass(frozen=True)
class _Iteration:
    """A batch whose scores the device may still be computing."""

    batch: int
    values: Tensor
    """Sums and weights of the scores, and the loss scale, being copied to the CPU."""
    arrived: torch.Event | None
    rate: float
    shape: tuple[int, ...]
    wait: float
    fill: float | None


class Trainer:
    """Train a model on a loader's batches.

    Args:
        model: a network of the task; moved to `device` and cast to the opt level, in place.
        loader: training batches, see `vidseg.loaders.Loader`. With `state_dict` and `load_state_dict` a run resumes
            inside an epoch without decoding what it has seen. A loader of this library without `device` gets the
            trainer's device.
        task: "recognition", "segmentation", "streaming", "detection", "flow", or an object derived from
            `vidseg.engine.Task`.
        opt_level: O0 (float32), O1, O2, O3 or bf16, see `vidseg.engine.precision`.
        multigrid: a `vidseg.clips.multigrid.Multigrid` whose shapes the loader has; True makes one for a `ClipLoader`
            (long and short cycles).
        validation: batches of the validation split, or None.
        name: name of the network, for the files of checkpoints; None: its name in `create_model`, else "model".
        seed: seed of dropout; the loader has its own.
        device: device to compute on; None takes the accelerator if there is one.
        optimizer: `OptimizerOptions`, a `torch.optim.Optimizer` over the model's parameters, or a function that makes
            one from parameter groups.
        scheduler: a scheduler of `torch.optim.lr_scheduler`, or a function that makes one from the optimizer; it steps
            once in each epoch and sets the learning rate instead of `schedule`.
        schedule: learning rate; None has the defaults of `ScheduleOptions` with a rate of 0.1, and leaves the rates of
            an optimizer that is given as an object or a function.
        devices: further options of the device; `opt_level`, `device` and `gpus` in it are ignored.
        evaluation: when to evaluate, and precise batch norm.
        checkpoints: which checkpoints are written.
        monitors: logging.
        loggers: further objects that receive scores and pictures, see `vidseg.engine.Logger`.
        fine_tune: see `NetworkOptions.fine_tune`.
        fresh: names of parameters that no checkpoint filled, for `fine_tune`.
        freeze_backbone: see `NetworkOptions.freeze_backbone`.
        adapter_rank: see `NetworkOptions.adapter_rank`; the adapters are added to `model` in place.
        keep_zeros: see `NetworkOptions.keep_zeros`.

    Raises:
        ValueError: options that contradict each other, a model and a loader that do not fit, or a model without the
            layers that an option needs.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Any,
        *,
        task: str | Task = "recognition",
        opt_level: OptLevel = "O0",
        multigrid: Any = False,
        validation: Any = None,
        name: str | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        optimizer: OptimizerOptions | torch.optim.Optimizer | OptimizerFactory | None = None,
        scheduler: Any = None,
        schedule: ScheduleOptions | None = None,
        devices: DeviceOptions | None = None,
        evaluation: EvaluationOptions | None = None,
        checkpoints: CheckpointOptions | None = None,
        monitors: MonitorOptions | None = None,
        loggers: Sequence[Logger] = (),
        fine_tune: bool = False,
        fresh: Collection[str] = (),
        freeze_backbone: bool = False,
        adapter_rank: int = 0,
        keep_zeros: bool = False,
    ):
        if freeze_backbone and adapter_rank:
            raise ValueError(
                f"freeze_backbone and adapter_rank={adapter_rank} exclude each other: adapters train the backbone"
            )
        given = None if isinstance(optimizer, OptimizerOptions) else optimizer
        self.optimizer_options = optimizer if isinstance(optimizer, OptimizerOptions) else OptimizerOptions()
        self.evaluation, self.monitors = evaluation or EvaluationOptions(), monitors or MonitorOptions()
        self.checkpoints, devices = checkpoints or CheckpointOptions(), devices or DeviceOptions()
        check_loggers(self.monitors)
        self.loggers = tuple(loggers)
        self.device = distributed.process_device(device)
        self.task = make_task(task)
        if opt_level not in self.task.opt_levels:
            raise ValueError(f"opt_level={opt_level!r}: this task supports {', '.join(self.task.opt_levels)}")
        if self.evaluation.precise_bn and self.evaluation.test_every_steps:
            raise ValueError(
                "precise_bn reads the training batches again, which test_every_steps interrupts: give one of them"
            )
        if freeze_backbone and self.evaluation.precise_bn:
            raise ValueError(
                "precise_bn changes the statistics of norms, which a frozen backbone keeps: give one of them"
            )
        self._head = freeze_all_but_head(model) if freeze_backbone else ()
        if adapter_rank:
            add_adapters(model, adapter_rank, seed=seed)
        self._quantized = list(quantized_layers(model).values())
        share = self.optimizer_options.freeze_ranges
        others = {"adapter_rank": adapter_rank, "freeze_backbone": freeze_backbone}
        check_quantized(self._quantized, share, opt_level, devices, **others)
        self._freeze_ranges = share or FREEZE_RANGES
        self.task.check(model, loader)
        if len(loader) == 0:
            raise ValueError("the loader has no batch to train on: is the split empty?")
        if validation is not None:
            self.task.check(model, validation)
        self.loader, self.validation, self.multigrid = loader, validation, multigrid or None
        for batches in (loader, validation):
            copy_ahead(batches, self.device)
        if multigrid is True:
            base = loader.planner.base
            self.multigrid = Multigrid(loader.planner.samples, base.clips, base.frames, (base.height, base.width))
            loader.set_shapes(self.multigrid.shapes)
        self.origin = model_origin(model)
        self.name, self.seed = name or (self.origin.name if self.origin else "model"), seed
        self.model = model.to(self.device)
        if devices.sync_bn:
            distributed.synchronize_norms(self.model, group_size=devices.bn_group_size)
        prepare(
            self.model, channels_last=devices.channels_last, compile=devices.compile, checkpointing=devices.recompute
        )
        self._keeps_zeros = keep_zeros
        if keep_zeros and (devices.shard or devices.engine == "deepspeed"):
            raise ValueError("keep_zeros does not work with sharded weights or DeepSpeed: leave them out")
        self._sharded = devices.shard and self._shard(devices, opt_level, given)
        if devices.engine == "deepspeed" and not self.task.one_backward:
            raise ValueError("engine='deepspeed': this task has several backward passes in a batch; use engine='torch'")
        self.precision = (
            DeepSpeedPrecision(opt_level, self.device)
            if devices.engine == "deepspeed"
            else make_precision(opt_level, self.device, amp=devices.amp)
        )
        self._set_rates = schedule is not None or given is None
        self.schedule = schedule or ScheduleOptions()
        if self.schedule.lr is None:
            self.schedule = replace(self.schedule, lr=DEFAULT_LR)
        self.optimizer = self._make_optimizer(given, fine_tune=fine_tune, fresh=fresh)
        if isinstance(self.precision, ApexPrecision):
            self.precision.attach(self.model, self.optimizer)
        self.scheduler = scheduler(self.optimizer) if callable(scheduler) else scheduler
        if self.scheduler is not None:
            if schedule is not None:
                raise ValueError("schedule and scheduler both set the learning rate: give one of them")
            self._set_rates = False
        # With one backward pass in a batch, gradients are exchanged while it runs; else once before each step.
        self._wrapped, self._exchanged = self.model, True
        if isinstance(self.precision, DeepSpeedPrecision):
            distributed.share_weights(self.model)
            self._wrapped = self.precision.attach(self.model, self.optimizer, self._deepspeed_settings(devices))
        elif not self._sharded:
            self._exchanged = self.task.one_backward and distributed.world_size() > 1
            if self._exchanged:
                self._wrapped = distributed.wrap_model(self.model, self.device)
            else:
                distributed.share_weights(self.model)
        decay = self.optimizer_options.ema
        self.average = WeightAverage(self.model, decay) if decay else None
        self._speed = SpeedMonitor(self.device)

    def _shard(self, devices: DeviceOptions, level: OptLevel, given: Any) -> bool:
        """Divide the model over the processes, and return whether there are several; refuse what excludes it."""
        implementation = self.optimizer_options.implementation
        check_sharding(devices, level, implementation=implementation, one_backward=self.task.one_backward)
        if isinstance(given, torch.optim.Optimizer):
            raise ValueError(
                "shard changes the parameters: give the optimizer as a function that makes it from parameter groups"
            )
        if distributed.world_size() == 1:
            logger.info("shard has no effect on one process")
            return False
        distributed.share_weights(self.model)
        shard_model(self.model, self.device)
        return True

    def _deepspeed_settings(self, devices: DeviceOptions) -> dict[str, Any]:
        return read_settings(
            devices.deepspeed_config or "",
            accumulate=self.optimizer_options.accumulate,
            world_size=distributed.world_size(),
            clip_norm=self.optimizer_options.clip_norm,
        )

    def _make_optimizer(self, given: Any, *, fine_tune: bool, fresh: Collection[str]) -> torch.optim.Optimizer:
        options = self.optimizer_options
        if isinstance(given, torch.optim.Optimizer):
            if self.precision.level in ("O2", "O3"):
                raise ValueError(
                    f"opt_level={self.precision.level!r} changes the parameters: give the optimizer as a function that "
                    "makes it from parameter groups"
                )
            self.precision.prepare(self.model, given.param_groups)
            return given
        groups = parameter_groups(
            self.model,
            weight_decay=options.weight_decay,
            decay_all=options.decay_all,
            fine_tune=fine_tune,
            fresh=fresh,
            backbone_lr=options.backbone_lr,
            layer_decay=options.layer_decay,
        )
        groups = self.precision.prepare(self.model, groups)
        for group in groups:
            values = sum(parameter.numel() for parameter in group["params"])
            logger.debug("group %s: %d values at %g of the rate", group["name"], values, group["lr_mult"])
        if given is not None:
            made: torch.optim.Optimizer = given([{"params": group["params"]} for group in groups])
            for group, own in zip(made.param_groups, groups, strict=False):
                group.setdefault("lr_mult", own["lr_mult"])
            return made
        return make_optimizer(groups, options, rate=self.schedule.lr or DEFAULT_LR)

    def fit(
        self,
        epochs: int | None = None,
        out: str | Path = ".",
        *,
        max_steps: int | None = None,
        resume: bool | str | Path = False,
        record: Mapping[str, Any] | None = None,
    ) -> Result | None:
        """Train, and leave checkpoints `<name>_ep-%04d.pth` and score tables in the folder `out`.

        Args:
            epochs: passes over the loader; with `resume`, those of the earlier run included. None with `max_steps`:
                as many as the steps need.
            out: folder of the run.
            max_steps: optimizer steps after which the run ends; the schedule then counts steps instead of epochs.
            resume: continue from a checkpoint: True takes the folder's last one, or starts if there is none.
            record: plain data to keep in the checkpoints, such as options and class names. None: as the task says. For
                recognition with a network of `create_model` and a `ClipLoader`, `options.json` is written too, so that
                `vidseg.load_trained(out)`, `vidseg test` and the other commands take the run.

        Returns:
            The last evaluation, None without a validation split.

        Raises:
            RuntimeError: the loss is not finite, or memory ran out; names the batch.
            ValueError: the checkpoint is of another network, or further than `epochs`, or neither `epochs` nor
                `max_steps` is given.
        """
        if epochs is None and max_steps is None:
            raise ValueError("epochs and max_steps are None: give the length of the run")
        if epochs is None:
            assert max_steps is not None
            epochs = -(-max_steps * self.optimizer_options.accumulate // max(1, self.task.steps(self.loader)))
        schedule = Schedule(self.schedule, *((epochs, "epoch") if max_steps is None else (max_steps, "step")))
        self._folder = CheckpointFolder(out, self.name, self.checkpoints)
        record = self.task.begin(self, Path(out)) if record is None else record
        self._content = {"random": {"seed": self.seed}, "record": dict(record)}
        self._content["schedule"] = {
            "epochs": epochs,
            "max_steps": max_steps,
            **asdict(self.schedule),
            **asdict(self.optimizer_options),
        }
        progress = self._restore(schedule, epochs, resume)
        if self._keeps_zeros:
            say(f"{self.name}: {hold_zeros(self.model)} weights stay zero")
        self._folder.folder.mkdir(parents=True, exist_ok=True)
        if distributed.is_first():
            if resume:
                self._folder.complete()
            self._folder.remove_leftovers()
        result = None
        with self._start_reports(progress, resume=bool(resume)) as self._reports:
            while progress.epoch < epochs and (max_steps is None or progress.steps < max_steps):
                epoch, start = progress.epoch, time.perf_counter()
                scores = self._train_epoch(progress, schedule, max_steps)
                seconds = time.perf_counter() - start
                say(time_line(epoch + 1, seconds))
                self._reports.epoch("train", epoch, scores, done=(epoch + 1, 0), seconds=seconds)
                schedule.losses.append(scores[-1])
                if self.scheduler is not None:
                    self._step_scheduler(scores[-1])
                last = epoch == epochs - 1 or (max_steps is not None and progress.steps >= max_steps)
                better = False
                every = self.evaluation.test_every_steps
                due = (epoch + 1) % self.evaluation.test_every == 0 or (every and progress.steps % every == 0)
                if self.validation is not None and (last or due):
                    result, better = self._evaluate(progress, (epoch + 1, 0))
                progress.epoch, progress.batch, progress.complete, progress.sums = epoch + 1, 0, 0, None
                numbered = last or (epoch + 1) % self.checkpoints.numbered_every(epochs) == 0
                self._save(progress, schedule, numbered=numbered, best=better)
        if progress.best_epoch:
            text = self.task.scores_text(progress.best_values)
            say(f"best epoch [{progress.best_epoch}]: {text}: {self._folder.best}")
        say(f"last epoch [{progress.epoch}]: {self._folder.last}")
        return result

    def _step_scheduler(self, loss: float) -> None:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(loss)
        else:
            self.scheduler.step()

    def _train_epoch(self, progress: _Progress, schedule: Schedule, max_steps: int | None) -> tuple[float, ...]:
        """Train the rest of an epoch; returns the scores over all its samples."""
        self._train_mode()
        epoch = progress.epoch
        if progress.batch == 0:  # else the loader has been set to the position of the checkpoint
            self.loader.set_epoch(epoch)
        self.task.start_epoch(epoch)
        batches, unread = len(self.loader), deque[_Iteration]()
        total, saved = self.task.steps(self.loader), progress.batch
        lag = 0 if self.device.type == "cpu" else 1
        with progress_bar(batches, f"epoch {epoch + 1}", shown=distributed.is_first()) as bar:
            bar.update(progress.batch)
            for index, batch, wait in self._batches(progress.batch):
                done = progress.steps if schedule.unit == "step" else epoch + index / batches
                rate = self._rate(schedule, done, epoch, index)
                freeze_ranges(self.model, self._quantized, done / schedule.total >= self._freeze_ranges)
                if index == 0:
                    self._reports.inputs(epoch, batch)
                position = Position(self.seed, epoch, index)
                result, values, stepped = self._step(batch, position, progress, total, rate)
                unread.append(self._unread(index, values, rate, batch, wait))
                while len(unread) > lag:
                    self._read(unread.popleft(), progress, batches)
                bar.update()
                if not stepped:
                    continue
                progress.steps += 1
                every = self.evaluation.test_every_steps
                ended = max_steps is not None and progress.steps >= max_steps
                inside = index + 1 < batches and not ended
                better = False
                if self.validation is not None and every and progress.steps % every == 0 and inside:
                    self._read_all(unread, progress, batches)
                    better = self._evaluate(progress, (epoch, progress.batch))[1]
                    self._train_mode()
                due = self.checkpoints.checkpoint_every and index + 1 - saved >= self.checkpoints.checkpoint_every
                if result.resumable and inside and (due or better):
                    self._read_all(unread, progress, batches)
                    self._save(progress, schedule, best=better)
                    saved = index + 1
                if ended:
                    break
            self._read_all(unread, progress, batches)
        assert progress.sums is not None
        return means(progress.sums)

    def _train_mode(self) -> None:
        self.model.train(not self._head)
        if self._head:
            parts = [self.model.get_submodule(name) for name in self._head]
            # Dropout in front of the classifier belongs to the head.
            for part in (*parts, *(child for child in self.model.children() if isinstance(child, nn.Dropout))):
                part.train()
        if self.optimizer_options.frozen_norms:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def _rate(self, schedule: Schedule, progress: float, epoch: int, index: int) -> float:
        """Set the learning rate of a batch and return it."""
        if not self._set_rates:
            return float(self.optimizer.param_groups[0]["lr"])
        rate = schedule.rate(progress)
        if self.multigrid is not None:
            rate *= self.multigrid.lr_factor(epoch, index)
        set_rates(self.optimizer, rate)
        return rate

    def _batches(self, first: int) -> Iterator[tuple[int, Any, float]]:
        """(number, batch, seconds waited for it) of the epoch's batches from `first` on."""
        iterator = iter(self.loader)
        skip = 0 if first == 0 or hasattr(self.loader, "load_state_dict") else first
        with closing(iterator) if hasattr(iterator, "close") else nullcontext():
            for index in range(first - skip, len(self.loader)):
                start = time.perf_counter()
                batch = next(iterator)
                wait = time.perf_counter() - start
                if index >= first:
                    yield index, batch, wait

    def _step(
        self, batch: Any, position: Position, progress: _Progress, total: int, rate: float
    ) -> tuple[BatchResult, Tensor, bool]:
        """One batch: its result, its sums over all processes and the loss scale, whether the weights moved."""
        size = self.optimizer_options.accumulate
        first = progress.complete - progress.complete % size
        count = min(size, total - first)
        final = progress.complete + 1 == first + count
        # Dropout is a function of the position, so a run that resumes needs no generator's state.
        number = position.batch * distributed.world_size() + distributed.rank()
        seed = int(uniform(position.seed, position.epoch, [number], purpose="dropout")[0, 0] * 2**53)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # manual_seed would look for other devices, at 0.5 ms a batch
        else:
            torch.manual_seed(seed)
        self._speed.start()
        turned = False

        def backward(loss: Tensor) -> None:
            nonlocal turned
            if not turned:
                self._speed.turn()
                turned = True
            with torch.autocast(self.device.type, enabled=False):
                self.precision.backward(loss if count == 1 else loss / count)

        self.precision.start_batch(final=final)
        with self._explained(position, batch):
            batch = batch.to(self.device, non_blocking=True)
            with nullcontext() if final else distributed.without_exchange(self._wrapped), self.precision.forward():
                result = self.task.train_batch(self._wrapped, batch, position, backward)
            progress.complete += result.complete
            stepped = result.complete and final
            if stepped:
                if not self._exchanged:
                    distributed.average_gradients(self.model)
                norm = self.precision.step(self.model, self.optimizer, clip_norm=self.optimizer_options.clip_norm)
                if norm is not None:
                    logger.debug("epoch %d, batch %d: gradient norm %s", position.epoch + 1, position.batch, norm)
                update_ranges(self._quantized, distributed.largest_over_group)
                if self.average is not None:
                    self.average.update()
        self._speed.stop()
        return result, torch.cat([distributed.sum_over_group(result.sums).flatten(), self.precision.scale()]), stepped

    def _unread(self, index: int, values: Tensor, rate: float, batch: Any, wait: float) -> _Iteration:
        """Start to copy a batch's values to the CPU."""
        event = None
        if self.device.type != "cpu":
            values = values.to("cpu", non_blocking=True)
            event = torch.Event(self.device)
            event.record()
        shape = (len(batch) * distributed.world_size(), *batch.inputs.shape[1:])
        return _Iteration(index, values, event, rate, shape, wait, getattr(batch, "fill_seconds", None))

    def _read_all(self, unread: deque[_Iteration], progress: _Progress, batches: int) -> None:
        """Read what is left, and check the weights: what is evaluated and saved next is finite."""
        while unread:
            self._read(unread.popleft(), progress, batches)
        name = find_non_finite(local_parts(self.precision.weights(self.model)))
        if name is not None:
            rate = float(self.optimizer.param_groups[0]["lr"])
            raise RuntimeError(
                f"epoch {progress.epoch + 1}, batch {progress.batch - 1}: {name} is not finite after the step; "
                f"{self._remedy(rate)}; checkpoints of this run are of earlier steps"
            )

    def _remedy(self, rate: float) -> str:
        text = f"try a lower learning rate than {rate:g}, --warmup-epochs or --clip-norm"
        return text + (", or --opt-level bf16" if self.precision.scaled else "")

    def _read(self, iteration: _Iteration, progress: _Progress, batches: int) -> None:
        """Add up the scores of a batch, and log them."""
        if iteration.arrived is not None:
            iteration.arrived.synchronize()
        sums, scale = iteration.values[:-1].double().view(2, -1), float(iteration.values[-1])
        scores, epoch = means(sums), progress.epoch
        if not bool(sums.isfinite().all()):
            raise RuntimeError(
                f"epoch {epoch + 1}, batch {iteration.batch}: the loss is {scores[-1]}; {self._remedy(iteration.rate)}"
            )
        self.precision.check_scale(scale)
        progress.batch = iteration.batch + 1
        progress.sums = sums if progress.sums is None else progress.sums + sums
        speeds = self._speed.speeds(iteration.shape[0], wait=iteration.wait, fill=iteration.fill)
        self._reports.iteration(
            epoch=epoch,
            batch=iteration.batch,
            scores=scores,
            speeds=speeds,
            shape=iteration.shape,
            rate=iteration.rate,
            scale=scale if self.precision.scaled else None,
        )

    def _evaluate(self, progress: _Progress, done: Done) -> tuple[Result, bool]:
        """Evaluate the validation split; returns the result and whether it is the best so far."""
        epoch, start = progress.epoch, time.perf_counter()
        self._share_statistics()
        total: list[Tensor] = []
        wrong: list[int] = []

        def log_part(index: int, part: Any) -> None:
            if not math.isfinite(part.values[-1]):
                wrong.append(index)
            values = torch.tensor([part.values, [1.0] * len(part.values)], dtype=torch.float64) * len(part.labels)
            total.append(values if not total else total.pop() + values)
            if (index + 1) % self._reports.log_every(len(self.validation)) == 0:
                say(self.task.epoch_text("val", epoch + 1, means(total[0]), iteration=index))

        with nullcontext() if self.average is None else self.average.applied():
            if self.evaluation.precise_bn:
                self._renew_statistics(epoch, self.evaluation.precise_bn)
                if self.average is not None:
                    self.average.take_buffers()
            result = self.task.evaluate(
                self.model, self.validation, device=self.device, context=self.precision.forward, progress=log_part
            )
        loss = result.values[-1]
        if not math.isfinite(loss):
            where = f", validation batch {wrong[0]}" if wrong else ""
            raise RuntimeError(
                f"epoch {epoch + 1}{where}: the validation loss is {loss}, and the weights are finite; "
                f"{self._remedy(float(self.optimizer.param_groups[0]['lr']))}, and check that batch's data"
            )
        better = progress.best is None or result.quality > progress.best
        seconds = time.perf_counter() - start
        self._reports.epoch("val", epoch, result.values, done=done, seconds=seconds, best=better, result=result)
        if distributed.is_first():
            self.task.evaluated(epoch, result)
        if better:
            progress.best, progress.best_epoch = result.quality, epoch + 1
            progress.best_values = tuple(result.values)
        if loss > _DIVERGING * progress.lowest:
            logger.warning(
                "epoch %d: the validation loss is %.4g, %.1f times the lowest one (%.4g): training diverges or "
                "overfits; try a lower --lr, a longer --warmup-epochs or more data",
                epoch + 1,
                loss,
                loss / progress.lowest,
                progress.lowest,
            )
        progress.lowest = min(progress.lowest, loss)
        return result, better

    def _share_statistics(self) -> None:
        """Make the statistics of norms the same in all processes: what is evaluated is what is saved."""
        distributed.share_statistics(self.model)
        if self.average is not None:
            self.average.share_statistics()

    def _renew_statistics(self, epoch: int, batches: int) -> None:
        """Precise batch norm, on clips of the shape that the evaluation has."""
        self.loader.set_epoch(epoch)
        if self.multigrid is not None:
            base = self.multigrid.base
            self.loader.set_shapes(lambda _: [base] * batches)
        try:
            seen = renew_statistics(
                self.model,
                self.loader,
                batches,
                device=self.device,
                context=self.precision.forward,
                forward=self.task.forward,
            )
        finally:
            if self.multigrid is not None:
                self.loader.set_shapes(self.multigrid.shapes)
        say(f"Epoch [{epoch + 1}]: batch norm statistics over {seen} batches")

    def _save(self, progress: _Progress, schedule: Schedule, *, numbered: bool = False, best: bool = False) -> None:
        """Write the state of the run; the first process does, the others wait for it."""
        self._share_statistics()
        # Slices are gathered by all processes, and kept by the first one.
        first = distributed.is_first()
        if first or self._sharded or isinstance(self.precision, DeepSpeedPrecision):
            own = whole_values(self.precision.weights(self.model), keep=first)
            state = {
                **{name: value for name, value in asdict(progress).items() if name != "sums"},
                "sums": progress.sums,
                "state_dict": own,
                "optimizer": self.precision.optimizer_state(self.optimizer, keep=first),
                "scaler": self.precision.state_dict(),
                "loader": self.loader.state_dict() if progress.batch and hasattr(self.loader, "state_dict") else None,
                "losses": list(schedule.losses),
                "task": self.task.state_dict(),
            }
            if self.average is not None:
                # The weights that are trained further; `state_dict` holds those that are evaluated.
                average = whole_values(self.average.state_dict(), keep=first)
                state |= {"trained": own, "state_dict": average.get("average"), "average": average}
            if self.scheduler is not None:
                state["scheduler"] = self.scheduler.state_dict()
        if first:
            self._folder.save({**self._content, **state}, numbered=numbered, best=best)
            self._reports.checkpoint(self._folder.last, (progress.epoch, progress.batch), best=best, numbered=numbered)
        distributed.barrier()

    def _restore(self, schedule: Schedule, epochs: int, resume: bool | str | Path) -> _Progress:
        """Take up the state of a checkpoint, or start."""
        path = Path(resume) if isinstance(resume, (str, Path)) else self._folder.newest() if resume else None
        if path is None:
            if resume:
                say(f"{self._folder.folder}: no checkpoint of {self.name} in it; the run starts")
            return _Progress()
        state = read_checkpoint(path)
        if state["epoch"] > epochs:
            raise ValueError(f"{path} is of epoch {state['epoch']}, past the end of this run of {epochs} epochs")
        try:
            self.precision.load_weights(self.model, state.get("trained", state["state_dict"]))
            self.precision.load_optimizer(self.optimizer, state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is not of this network and optimizer: {error}") from error
        self.precision.load_state_dict(state.get("scaler", {}))
        self.task.load_state_dict(state.get("task", {}))
        if self.average is not None and "average" in state:
            average = as_stored(state["average"]["average"], self.average.weights())
            self.average.load_state_dict({**state["average"], "average": average})
        if self.scheduler is not None and "scheduler" in state:
            self.scheduler.load_state_dict(state["scheduler"])
        schedule.losses[:] = state.get("losses", [])
        names = _Progress.__dataclass_fields__
        progress = _Progress(**{name: value for name, value in state.items() if name in names})
        self.loader.set_epoch(progress.epoch)
        if state.get("loader") is not None and hasattr(self.loader, "load_state_dict"):
            self.loader.load_state_dict(state["loader"])
        say(f"{path}: continuing with epoch [{progress.epoch + 1}], batch [{progress.batch}]")
        return progress

    def _start_reports(self, progress: _Progress, *, resume: bool) -> RunReports:
        events = "events" if self._folder.as_experiment else "tensorboard"
        facts = {
            "task": type(self.task).__name__,
            "seed": self.seed,
            "device": str(self.device),
            "processes": distributed.world_size(),
            "opt_level": self.precision.level,
            "schedule": self._content["schedule"],
            "record": self._content["record"],
        }
        return RunReports(
            self.task,
            self.monitors,
            loggers=[*make_loggers(self.monitors, tensorboard=events), *self.loggers] if distributed.is_first() else (),
            folder=self._folder.folder,
            name=self.name,
            done=(progress.epoch, progress.batch),
            batches=len(self.loader),
            resume=resume,
            splits=("train",) if self.validation is None else ("train", "val"),
            facts=facts,
        )

    @contextmanager
    def _explained(self, position: Position, batch: Any) -> Iterator[None]:
        """Name the batch that did not fit into memory, and remedies."""
        try:
            yield
        except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator has none of its own
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            raise RuntimeError(
                f"epoch {position.epoch + 1}, batch {position.batch}: out of memory for an input of "
                f"{tuple(batch.inputs.shape)} on {self.device}; try a smaller --batch-size with "
                f"--accumulate, --recompute, --opt-level bf16 or a smaller input ({str(error).splitlines()[0]})"
            ) from error
