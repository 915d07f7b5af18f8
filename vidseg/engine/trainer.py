"""The training loop: batches in, steps out, an evaluation and checkpoints by epoch, and going on where a run stopped.

What is learned and scored is the task's business, the learning rate the schedule's, float16 the precision's. The loop
never waits for an accelerator: scores of a batch are read when the next one is on its way.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidseg.clips.draws import uniform
from vidseg.clips.multigrid import Multigrid
from vidseg.engine import distributed
from vidseg.engine.checkpoints import CheckpointFolder, read_checkpoint
from vidseg.engine.monitors import (
    ScoreTable,
    SpeedMonitor,
    iteration_line,
    progress_bar,
    time_line,
)
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
from vidseg.engine.schedules import Schedule
from vidseg.engine.task import Position, Result, Task, means
from vidseg.models import prepare
from vidseg.tasks.recognition.task import RecognitionTask

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


@dataclass
class _Progress:
    """Where a run stands."""

    epoch: int = 0
    batch: int = 0
    sums: Tensor | None = None
    best: float | None = None


@dataclass(frozen=True)
class _Iteration:
    """An iteration whose scores the device may still be computing."""

    batch: int
    values: Tensor
    """[number of samples, sums of scores, loss scale], on its way to the CPU."""
    arrived: torch.Event | None
    rate: float
    shape: tuple[int, ...]
    wait: float
    fill: float | None


class Trainer:
    """Train a model on a loader's batches.

    Args:
        model: what the task says; moved to `device` and cast as the opt level says, in place.
        loader: training batches with `set_epoch` and `len`; with `state_dict` and `load_state_dict` a run goes on in
            the middle of an epoch without reading what it has seen.
        task: "recognition", or an object with the methods of `vidseg.engine.Task`.
        opt_level: O0 (float32), O1, O2, O3 or bf16, see `vidseg.engine.precision`.
        multigrid: a `vidseg.clips.multigrid.Multigrid`, whose shapes the loader has; True makes it for a `ClipLoader`
            (long and short cycles).
        validation: held-out batches, or None.
        name: of the network, for the checkpoints.
        seed: of dropout; the loader has its own.
        device: where to compute; None takes the accelerator, or the CPU without one.
        optimizer: how a gradient becomes a step.
        schedule: the learning rate.
        devices: further options of the device; its `opt_level` and `gpus` do not count here.
        evaluation: when to evaluate, and precise batch norm.
        checkpoints: what is kept.
        monitors: what is told.
        fine_tune: see `NetworkOptions.fine_tune`.
        fresh: names of parameters that no checkpoint filled, for `fine_tune`.

    Raises:
        ValueError: options that contradict each other, or model and loader that do not fit.
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
        name: str = "model",
        seed: int = 0,
        device: torch.device | str | None = None,
        optimizer: OptimizerOptions | None = None,
        schedule: ScheduleOptions | None = None,
        devices: DeviceOptions | None = None,
        evaluation: EvaluationOptions | None = None,
        checkpoints: CheckpointOptions | None = None,
        monitors: MonitorOptions | None = None,
        fine_tune: bool = False,
        fresh: Collection[str] = (),
    ):
        self.optimizer_options, self.schedule = optimizer or OptimizerOptions(), schedule or ScheduleOptions()
        self.evaluation, self.monitors = evaluation or EvaluationOptions(), monitors or MonitorOptions()
        self.checkpoints, devices = checkpoints or CheckpointOptions(), devices or DeviceOptions()
        self.device = torch.device(device) if device is not None else distributed.join_group()
        self.task = _task(task, self.optimizer_options)
        self.task.check(model, loader)
        if len(loader) == 0:
            raise ValueError("the loader has no batch to learn from: is the split empty?")
        if validation is not None:
            self.task.check(model, validation)
        self.loader, self.validation, self.multigrid = loader, validation, multigrid or None
        if multigrid is True:
            base = loader.planner.base
            size = (base.height, base.width)
            self.multigrid = Multigrid(loader.planner.samples, base.clips, base.frames, size)
            loader.set_shapes(self.multigrid.shapes)
        self.name, self.seed = name, seed
        self.model = model.to(self.device)
        if devices.sync_bn:
            distributed.synchronize_norms(self.model)
        prepare(
            self.model,
            channels_last=devices.channels_last,
            compile=devices.compile,
            checkpointing=devices.recompute,
        )
        groups = parameter_groups(
            self.model,
            weight_decay=self.optimizer_options.weight_decay,
            decay_all=self.optimizer_options.decay_all,
            fine_tune=fine_tune,
            fresh=fresh,
        )
        self.precision = make_precision(opt_level, self.device, amp=devices.amp)
        groups = self.precision.prepare(self.model, groups)
        self.optimizer = make_optimizer(groups, self.optimizer_options, rate=self.schedule.lr_base)
        if isinstance(self.precision, ApexPrecision):
            self.precision.attach(self.model, self.optimizer)
        # Gradients are exchanged by the wrapped model; checkpoints and evaluation use the model itself.
        self._wrapped = distributed.wrap_model(self.model, self.device)
        self._speed = SpeedMonitor(self.device)
        for group in groups:
            values = sum(parameter.numel() for parameter in group["params"])
            logger.debug("group %s: %d values at %g of the rate", group["name"], values, group["lr_mult"])

    def fit(
        self,
        epochs: int,
        out: str | Path,
        *,
        resume: bool | str | Path = False,
        record: Mapping[str, Any] | None = None,
    ) -> Result | None:
        """Train, and leave checkpoints `<name>_ep-%04d.pth` and score tables in the folder `out`.

        Args:
            epochs: passes over the loader; with `resume`, those of the earlier run included.
            out: folder of the run.
            resume: go on from a checkpoint: True takes the folder's last one, or starts where there is none.
            record: plain data to keep in the checkpoints, such as options and class names.

        Returns:
            The evaluation after the last epoch, None without held-out batches.

        Raises:
            RuntimeError: the loss is not finite, or memory has run out; says in which batch.
            ValueError: the checkpoint is of another network, or further than `epochs`.
        """
        folder, schedule = CheckpointFolder(out, self.name, self.checkpoints), Schedule(self.schedule, epochs)
        progress = self._restore(folder, epochs, resume)
        content = {"random": {"seed": self.seed}, "record": dict(record or {})}
        content["schedule"] = {"epochs": epochs, **asdict(self.schedule), **asdict(self.optimizer_options)}
        folder.folder.mkdir(parents=True, exist_ok=True)
        tables = {}
        if distributed.is_first():
            folder.remove_leftovers()
            kinds = ("train",) if self.validation is None else ("train", "val")
            tables = {
                kind: ScoreTable(folder.folder / f"{kind}_results_s{progress.epoch:04d}.csv", self.task.columns)
                for kind in kinds
            }
        result = None
        with self._board(folder.folder) as board:
            while progress.epoch < epochs:
                epoch, start = progress.epoch, time.perf_counter()
                scores = self._train_epoch(progress, schedule, folder, content, board)
                self._say(time_line(epoch, time.perf_counter() - start))
                self._tell("train", epoch, scores, tables, board)
                last, better = epoch == epochs - 1, False
                if self.validation is not None and (last or (epoch + 1) % self.evaluation.test_every == 0):
                    result = self._evaluate(epoch)
                    self._tell("val", epoch, result.values, tables, board, result)
                    better = progress.best is None or result.quality > progress.best
                    progress.best = result.quality if better else progress.best
                progress.epoch, progress.batch, progress.sums = epoch + 1, 0, None
                numbered = last or (epoch + 1) % self.checkpoints.save_frequency == 0
                self._save(folder, progress, content, numbered=numbered, best=better)
        return result

    def _train_epoch(
        self,
        progress: _Progress,
        schedule: Schedule,
        folder: CheckpointFolder,
        content: Mapping[str, Any],
        board: Any,
    ) -> tuple[float, ...]:
        """The rest of an epoch; scores over all its clips."""
        self.model.train()
        if progress.batch == 0:  # else the loader has been put where the checkpoint was
            self.loader.set_epoch(progress.epoch)
        batches, unread = len(self.loader), deque[_Iteration]()
        lag = 0 if self.device.type == "cpu" else 1
        with progress_bar(batches, f"epoch {progress.epoch}", shown=distributed.is_first()) as bar:
            bar.update(progress.batch)
            for index, batch, wait in self._batches(progress.batch):
                rate = schedule.rate(progress.epoch + index / batches)
                if self.multigrid is not None:
                    rate *= self.multigrid.lr_factor(progress.epoch, index)
                if board is not None and index == 0:
                    board.clips(progress.epoch, batch)
                position = Position(self.seed, progress.epoch, index)
                values, stepped = self._step(batch, position, batches, rate)
                unread.append(self._unread(index, values, rate, batch, wait))
                while len(unread) > lag:
                    self._read(unread.popleft(), progress, batches, board)
                every = self.checkpoints.checkpoint_every
                if every and stepped and (index + 1) % every == 0 and index + 1 < batches:
                    while unread:
                        self._read(unread.popleft(), progress, batches, board)
                    self._save(folder, progress, content)
                bar.update()
            while unread:
                self._read(unread.popleft(), progress, batches, board)
        assert progress.sums is not None
        return means(progress.sums)

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

    def _step(self, batch: Any, position: Position, batches: int, rate: float) -> tuple[Tensor, bool]:
        """One iteration: [number of samples, sums, loss scale] over all processes, and whether the weights moved."""
        size = self.optimizer_options.accumulate
        first = position.batch - position.batch % size
        share = 1 / min(size, batches - first)
        final = position.batch + 1 == min(first + size, batches)
        set_rates(self.optimizer, rate)
        # Dropout is a function of the position, so a run that goes on needs no generator's state.
        number = position.batch * distributed.world_size() + distributed.rank()
        seed = int(uniform(position.seed, position.epoch, [number], purpose="dropout")[0, 0] * 2**53)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # manual_seed would look for other devices, at 0.5 ms a batch
        else:
            torch.manual_seed(seed)
        self._speed.start()
        with self._explained(position, batch):
            batch = batch.to(self.device, non_blocking=True)
            with nullcontext() if final else distributed.without_exchange(self._wrapped):
                with self.precision.forward():
                    loss, sums = self.task.step(self._wrapped, batch, position)
                self._speed.turn()
                self.precision.backward(loss * share)
            if final:
                norm = self.precision.step(self.model, self.optimizer, clip_norm=self.optimizer_options.clip_norm)
                if norm is not None:
                    logger.debug("epoch %d, batch %d: norm of the gradient %s", position.epoch, position.batch, norm)
        self._speed.stop()
        return torch.cat([distributed.sum_over_group(sums), self.precision.scale()]), final

    def _unread(self, index: int, values: Tensor, rate: float, batch: Any, wait: float) -> _Iteration:
        """Start to copy an iteration's values to the CPU."""
        event = None
        if self.device.type != "cpu":
            values = values.to("cpu", non_blocking=True)
            event = torch.Event(self.device)
            event.record()
        shape = (len(batch) * distributed.world_size(), *batch.frames.shape[1:])
        return _Iteration(index, values, event, rate, shape, wait, getattr(batch, "fill_seconds", None))

    def _read(self, iteration: _Iteration, progress: _Progress, batches: int, board: Any) -> None:
        """Take the scores of an iteration into account, and tell them."""
        if iteration.arrived is not None:
            iteration.arrived.synchronize()
        sums, scale = iteration.values[:-1].double(), float(iteration.values[-1])
        scores, epoch = means(sums), progress.epoch
        if not all(map(math.isfinite, scores)):
            raise RuntimeError(
                f"epoch {epoch}, batch {iteration.batch}: the loss is {scores[-1]}; a lower learning rate than "
                f"{iteration.rate:g}, --warmup-epochs or --clip-norm may help"
                + (", or --opt-level bf16" if self.precision.scaled else "")
            )
        self.precision.check_scale(scale)
        progress.batch = iteration.batch + 1
        progress.sums = sums if progress.sums is None else progress.sums + sums
        speeds = self._speed.speeds(iteration.shape[0], wait=iteration.wait, fill=iteration.fill)
        if iteration.batch % self.monitors.log_every == 0:
            extra = [speeds.limit()]
            if self.precision.scaled:
                extra.insert(0, f"scale = {scale:g}")
            line = iteration_line(
                epoch=epoch,
                batch=iteration.batch,
                speed=speeds.text(),
                scores=self.task.scores_text(scores),
                shape=iteration.shape,
                lr=iteration.rate,
                extra=extra,
            )
            self._say(line)
        if board is not None:
            board.iteration(epoch * batches + iteration.batch, self.task.columns, scores, iteration.rate, speeds)

    def _evaluate(self, epoch: int) -> Result:
        """Scores on the held-out batches."""
        if self.evaluation.precise_bn:
            self._renew_statistics(epoch, self.evaluation.precise_bn)
        total: list[Tensor] = []

        def tell(index: int, part: Any) -> None:
            values = torch.tensor([1.0, *part.values], dtype=torch.float64) * len(part.labels)
            total.append(values if not total else total.pop() + values)
            if (index + 1) % self.monitors.log_every == 0:
                self._say(self.task.epoch_text("val", epoch, means(total[0]), iteration=index))

        return self.task.evaluate(
            self.model, self.validation, device=self.device, context=self.precision.forward, progress=tell
        )

    def _renew_statistics(self, epoch: int, batches: int) -> None:
        """Precise batch norm, on clips of the shape that the evaluation has."""
        self.loader.set_epoch(epoch)
        if self.multigrid is not None:
            base = self.multigrid.base
            self.loader.set_shapes(lambda _: [base] * batches)
        try:
            seen = renew_statistics(
                self.model, self.loader, batches, device=self.device, context=self.precision.forward
            )
        finally:
            if self.multigrid is not None:
                self.loader.set_shapes(self.multigrid.shapes)
        self._say(f"Epoch [{epoch}]: batch norm statistics over {seen} batches")

    def _tell(
        self,
        kind: str,
        epoch: int,
        values: tuple[float, ...],
        tables: Mapping[str, ScoreTable],
        board: Any,
        result: Result | None = None,
    ) -> None:
        """Scores of an epoch: log, table, board."""
        self._say(self.task.epoch_text(kind, epoch, values))
        if kind in tables:
            tables[kind].append(epoch, values)
        if board is not None:
            board.epoch(kind, epoch, self.task.columns, values, result)

    def _say(self, line: str) -> None:
        if distributed.is_first():
            logger.info("%s", line)

    def _save(
        self,
        folder: CheckpointFolder,
        progress: _Progress,
        content: Mapping[str, Any],
        *,
        numbered: bool = False,
        best: bool = False,
    ) -> None:
        """Write the state of the run; the first process does, the others wait for it."""
        if distributed.is_first():
            state = {
                "epoch": progress.epoch,
                "batch": progress.batch,
                "state_dict": {key: value.cpu() for key, value in self.precision.weights(self.model).items()},
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.precision.state_dict(),
                "loader": self.loader.state_dict() if progress.batch and hasattr(self.loader, "state_dict") else None,
                "sums": progress.sums,
                "best": progress.best,
            }
            folder.save({**content, **state}, numbered=numbered, best=best)
        distributed.barrier()

    def _restore(self, folder: CheckpointFolder, epochs: int, resume: bool | str | Path) -> _Progress:
        """Take up the state of a checkpoint, or start."""
        path = Path(resume) if isinstance(resume, (str, Path)) else folder.newest() if resume else None
        if path is None:
            if resume:
                self._say(f"{folder.folder}: no checkpoint of {self.name} in it; the run starts")
            return _Progress()
        state = read_checkpoint(path)
        if state["epoch"] > epochs:
            raise ValueError(f"{path} is of epoch {state['epoch']}, past the {epochs} epochs wanted")
        try:
            self.precision.load_weights(self.model, state["state_dict"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is not of this network and optimizer: {error}") from error
        self.precision.load_state_dict(state.get("scaler", {}))
        progress = _Progress(state["epoch"], state.get("batch", 0), state.get("sums"), state.get("best"))
        self.loader.set_epoch(progress.epoch)
        if state.get("loader") is not None and hasattr(self.loader, "load_state_dict"):
            self.loader.load_state_dict(state["loader"])
        self._say(f"{path}: going on with epoch [{progress.epoch}], batch [{progress.batch}]")
        return progress

    @contextmanager
    def _board(self, out: Path) -> Iterator[Any]:
        """The TensorBoard of the run, or None."""
        if not self.monitors.tensorboard or not distributed.is_first():
            yield None
            return
        from vidseg.engine.tensorboard import Board

        with closing(Board(out / "tensorboard")) as board:
            yield board

    @contextmanager
    def _explained(self, position: Position, batch: Any) -> Iterator[None]:
        """Say which batch did not fit into memory, and what helps."""
        try:
            yield
        except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator has none of its own
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            raise RuntimeError(
                f"epoch {position.epoch}, batch {position.batch}: no memory for clips of "
                f"{tuple(batch.frames.shape)} on {self.device}; a smaller --batch-size with --accumulate, --recompute, "
                f"--opt-level bf16 or a smaller --clip-size may help ({str(error).splitlines()[0]})"
            ) from error


def _task(task: str | Task, options: OptimizerOptions) -> Task:
    if not isinstance(task, str):
        return task
    if task != "recognition":
        raise ValueError(f"task={task!r}: 'recognition', or an object with the methods of vidseg.engine.Task")
    return RecognitionTask(label_smoothing=options.label_smoothing, mixup=options.mixup)
