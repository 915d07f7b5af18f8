"""The training loop of every task.

A task computes losses and scores (`vidseg.engine.Task`); the loop owns everything else, and each part has a file:
the step (`training_step`), precision (`precision`), learning rates (`schedules`), evaluation (`validation`), the state
for resuming (`run_state`), checkpoints (`checkpoints`), logs (`reports`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidseg.clips.multigrid import Multigrid
from vidseg.engine import distributed
from vidseg.engine.averaging import WeightAverage
from vidseg.engine.batch_scores import BatchScores
from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.engine.deepspeed import DeepSpeedPrecision
from vidseg.engine.learning_rates import LearningRates
from vidseg.engine.loggers import Logger, check_loggers, make_loggers
from vidseg.engine.monitors import progress_bar, time_line, timed_batches
from vidseg.engine.optimizers import OptimizerFactory, optimizer_of_run
from vidseg.engine.option_conflicts import check_options
from vidseg.engine.options import (
    CheckpointOptions,
    DeviceOptions,
    EvaluationOptions,
    MonitorOptions,
    OptimizerOptions,
    OptLevel,
    ScheduleOptions,
)
from vidseg.engine.precision import ApexPrecision, make_precision
from vidseg.engine.reports import RunReports, say
from vidseg.engine.run_state import Progress, RunState
from vidseg.engine.schedules import DEFAULT_LR, Schedule
from vidseg.engine.sharding import shard_model
from vidseg.engine.task import Position, Result, Task, make_task, means
from vidseg.engine.training_step import TrainingStep, set_training_mode
from vidseg.engine.validation import Validation
from vidseg.engine.zeros import keep_zeros as hold_zeros
from vidseg.loaders.transfer import copy_ahead
from vidseg.models import add_adapters, prepare
from vidseg.models import freeze_backbone as freeze_all_but_head
from vidseg.models._quantized import quantized_layers
from vidseg.models._registry import model_origin

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Fit:
    """A call of `Trainer.fit`.

    Attributes:
        epochs: passes over the loader.
        max_steps: optimizer steps after which the run ends, or None.
        schedule: learning rate, with the training losses of the finished epochs.
        folder: checkpoints of the run.
        content: entries that all checkpoints of the run share.
        reports: log, events and score tables.
    """

    epochs: int
    max_steps: int | None
    schedule: Schedule
    folder: CheckpointFolder
    content: Mapping[str, Any]
    reports: RunReports

    def ended(self, epoch: int, steps: int) -> bool:
        """Return whether the run ends after so many epochs and optimizer steps."""
        return epoch >= self.epochs or (self.max_steps is not None and steps >= self.max_steps)


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
        given = None if isinstance(optimizer, OptimizerOptions) else optimizer
        self.optimizer_options = optimizer if isinstance(optimizer, OptimizerOptions) else OptimizerOptions()
        self.evaluation, self.monitors = evaluation or EvaluationOptions(), monitors or MonitorOptions()
        self.checkpoints, devices = checkpoints or CheckpointOptions(), devices or DeviceOptions()
        self.task, self.loggers = make_task(task), tuple(loggers)
        check_loggers(self.monitors)
        quantized = list(quantized_layers(model).values())
        check_options(
            self.task,
            opt_level,
            devices,
            self.evaluation,
            self.optimizer_options,
            optimizer=given,
            quantized=quantized,
            freeze_backbone=freeze_backbone,
            adapter_rank=adapter_rank,
            keep_zeros=keep_zeros,
        )
        if schedule is not None and scheduler is not None:
            raise ValueError("schedule and scheduler both set the learning rate: give one of them")

        self.device = distributed.process_device(device)
        self._head = freeze_all_but_head(model) if freeze_backbone else ()
        if adapter_rank:
            add_adapters(model, adapter_rank, seed=seed)
        self._keeps_zeros = keep_zeros

        self.loader, self.validation, self.multigrid = loader, validation, multigrid or None
        for batches in (loader,) if validation is None else (loader, validation):
            self.task.check(model, batches)
            copy_ahead(batches, self.device)
        if len(loader) == 0:
            raise ValueError("the loader has no batch to train on: is the split empty?")
        if multigrid is True:
            base = loader.planner.base
            self.multigrid = Multigrid(loader.planner.samples, base.clips, base.frames, (base.height, base.width))
            loader.set_shapes(self.multigrid.shapes)

        self.origin = model_origin(model)
        self.name, self.seed = name or (self.origin.name if self.origin else "model"), seed
        self.model = model.to(self.device)
        distributed.share_weights(self.model)
        if devices.sync_bn:
            distributed.synchronize_norms(self.model, group_size=devices.bn_group_size)
        prepare(
            self.model, channels_last=devices.channels_last, compile=devices.compile, checkpointing=devices.recompute
        )
        sharded = devices.shard and distributed.world_size() > 1
        if sharded:
            shard_model(self.model, self.device)
        elif devices.shard:
            logger.info("shard has no effect on one process")

        self.precision = (
            DeepSpeedPrecision(opt_level, self.device)
            if devices.engine == "deepspeed"
            else make_precision(opt_level, self.device, amp=devices.amp)
        )
        scheduled = schedule is not None or given is None
        schedule = schedule or ScheduleOptions()
        rate = schedule.lr or DEFAULT_LR
        self.schedule = replace(schedule, lr=rate)
        self.optimizer = optimizer_of_run(
            self.model,
            given,
            self.optimizer_options,
            precision=self.precision,
            rate=rate,
            fine_tune=fine_tune,
            fresh=fresh,
        )
        if isinstance(self.precision, ApexPrecision):
            self.precision.attach(self.model, self.optimizer)
        self.scheduler = scheduler(self.optimizer) if callable(scheduler) else scheduler
        decay = self.optimizer_options.ema
        self.average = WeightAverage(self.model, decay) if decay else None
        self._rates = LearningRates(
            self.optimizer, scheduler=self.scheduler, scheduled=scheduled, multigrid=self.multigrid
        )
        self._state = RunState(
            self.model,
            self.optimizer,
            self.precision,
            self.task,
            loader=self.loader,
            average=self.average,
            scheduler=self.scheduler,
            sharded=sharded,
        )
        self._step = TrainingStep(
            self._state,
            self.optimizer_options,
            deepspeed_config=devices.deepspeed_config,
            quantized=quantized,
        )
        self._validation = Validation(self._state, validation, self.evaluation.precise_bn, self.multigrid)

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
        folder = CheckpointFolder(out, self.name, self.checkpoints)
        record = self.task.begin(self, Path(out)) if record is None else record
        lengths = {"epochs": epochs, "max_steps": max_steps}
        content = {
            "random": {"seed": self.seed},
            "record": dict(record),
            "schedule": {**lengths, **asdict(self.schedule), **asdict(self.optimizer_options)},
        }
        progress = self._state.restore(folder, schedule, resume=resume, epochs=epochs)
        if self._keeps_zeros:
            say(f"{self.name}: {hold_zeros(self.model)} weights stay zero")
        folder.folder.mkdir(parents=True, exist_ok=True)
        if distributed.is_first():
            if resume:
                folder.complete()
            folder.remove_leftovers()
        result = None
        with self._start_reports(folder, content, progress, resume=bool(resume)) as reports:
            fit = _Fit(epochs, max_steps, schedule, folder, content, reports)
            while not fit.ended(progress.epoch, progress.steps):
                epoch, start = progress.epoch, time.perf_counter()
                scores = self._train_epoch(progress, fit)
                seconds = time.perf_counter() - start
                say(time_line(epoch + 1, seconds))
                reports.epoch("train", epoch, scores, done=(epoch + 1, 0), seconds=seconds)
                schedule.losses.append(scores[-1])
                self._rates.end_epoch(scores[-1])
                last, better = fit.ended(epoch + 1, progress.steps), False
                due = (epoch + 1) % self.evaluation.test_every == 0 or self.evaluation.due_after(progress.steps)
                if self.validation is not None and (last or due):
                    result, better = self._validation.evaluate(progress, reports, done=(epoch + 1, 0))
                progress.start_epoch(epoch + 1)
                numbered = last or (epoch + 1) % self.checkpoints.numbered_every(epochs) == 0
                self._save(progress, fit, numbered=numbered, best=better)
        if progress.best_epoch:
            text = self.task.scores_text(progress.best_values)
            say(f"best epoch [{progress.best_epoch}]: {text}: {folder.best}")
        say(f"last epoch [{progress.epoch}]: {folder.last}")
        return result

    def _train_epoch(self, progress: Progress, fit: _Fit) -> tuple[float, ...]:
        """Train the rest of an epoch; returns the scores over all its samples."""
        self._set_training_mode()
        epoch = progress.epoch
        if progress.batch == 0:  # else the loader has been set to the position of the checkpoint
            self.loader.set_epoch(epoch)
        self.task.start_epoch(epoch)
        batches, total, saved = len(self.loader), self.task.steps(self.loader), progress.batch
        scores = BatchScores(self._state, progress, fit.reports, speed=self._step.speed)
        with progress_bar(batches, f"epoch {epoch + 1}", shown=distributed.is_first()) as bar:
            bar.update(progress.batch)
            for index, batch, wait in timed_batches(self.loader, progress.batch):
                done = progress.steps if fit.schedule.unit == "step" else epoch + index / batches
                rate = self._rates.start_batch(fit.schedule, done, epoch=epoch, batch=index)
                if index == 0:
                    fit.reports.inputs(epoch, batch)
                position = Position(self.seed, epoch, index)
                share = done / fit.schedule.total
                step = self._step(batch, position, complete=progress.complete, total=total, share=share)
                progress.complete += step.batch.complete
                scores.add(index, batch, step.values, rate=rate, wait=wait)
                bar.update()
                if not step.stepped:
                    continue
                progress.steps += 1
                ended = fit.ended(epoch, progress.steps)
                inside, better = index + 1 < batches and not ended, False
                if inside and self.validation is not None and self.evaluation.due_after(progress.steps):
                    scores.finish()
                    _, better = self._validation.evaluate(progress, fit.reports, done=(epoch, progress.batch))
                    self._set_training_mode()
                due = self.checkpoints.checkpoint_every and index + 1 - saved >= self.checkpoints.checkpoint_every
                if inside and step.batch.resumable and (due or better):
                    scores.finish()
                    self._save(progress, fit, best=better)
                    saved = index + 1
                if ended:
                    break
            scores.finish()
        assert progress.sums is not None
        return means(progress.sums)

    def _set_training_mode(self) -> None:
        set_training_mode(self.model, head=self._head, frozen_norms=self.optimizer_options.frozen_norms)

    def _save(self, progress: Progress, fit: _Fit, *, numbered: bool = False, best: bool = False) -> None:
        """Write a checkpoint; the first process does, the others wait for it."""
        state = self._state.state_dict(progress, fit.schedule)
        if distributed.is_first():
            fit.folder.save({**fit.content, **state}, numbered=numbered, best=best)
            fit.reports.checkpoint(fit.folder.last, (progress.epoch, progress.batch), best=best, numbered=numbered)
        distributed.barrier()

    def _start_reports(
        self, folder: CheckpointFolder, content: Mapping[str, Any], progress: Progress, *, resume: bool
    ) -> RunReports:
        events = "events" if folder.as_experiment else "tensorboard"
        facts = {
            "task": type(self.task).__name__,
            "seed": self.seed,
            "device": str(self.device),
            "processes": distributed.world_size(),
            "opt_level": self.precision.level,
            "schedule": content["schedule"],
            "record": content["record"],
        }
        return RunReports(
            self.task,
            self.monitors,
            loggers=[*make_loggers(self.monitors, tensorboard=events), *self.loggers] if distributed.is_first() else (),
            folder=folder.folder,
            name=self.name,
            done=(progress.epoch, progress.batch),
            batches=len(self.loader),
            resume=resume,
            splits=("train",) if self.validation is None else ("train", "val"),
            facts=facts,
        )
