"""The training loop of recognition: SGD, one learning rate schedule, an evaluation and a checkpoint each epoch."""

import logging
import math
import os
import time
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from vidseg.engine.evaluation import Evaluation, batch_scores, evaluate
from vidseg.engine.monitors import Scores, ScoreTable, SpeedMonitor, epoch_line, iteration_line, time_line
from vidseg.loaders import Batch, PlainLoader

__all__ = ["Trainer", "save_checkpoint"]

logger = logging.getLogger(__name__)


def save_checkpoint(path: Path, content: dict[str, object]) -> None:
    """Write a checkpoint that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Trainer:
    """Train a classifier with SGD (Nesterov momentum) and cross entropy.

    Args:
        model: clips (B, 3, T, H, W) -> logits (B, K); moved to `device`.
        loader: training batches.
        validation: held-out batches, or None.
        name: of the network, for the checkpoints.
        lr: highest learning rate.
        schedule: "cosine" falls from it to 0; "one-cycle" rises to it for 30 % of the run first.
        momentum: of SGD.
        weight_decay: L2 penalty.
        device: where to compute.
        log_every: iterations between log lines.
        test_every: epochs between evaluations.
        save_every: epochs between checkpoints.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: PlainLoader,
        *,
        validation: PlainLoader | None = None,
        name: str = "model",
        lr: float = 0.1,
        schedule: Literal["cosine", "one-cycle"] = "cosine",
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        device: torch.device | str = "cpu",
        log_every: int = 1,
        test_every: int = 1,
        save_every: int = 1,
    ):
        self.model = model.to(device)
        self.loader, self.validation, self.name = loader, validation, name
        self.lr, self.schedule = lr, schedule
        self.device = torch.device(device)
        self.log_every, self.test_every, self.save_every = log_every, test_every, save_every
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=lr, momentum=momentum, nesterov=momentum > 0, weight_decay=weight_decay
        )

    def fit(self, epochs: int, out: str | Path) -> Evaluation | None:
        """Train, and leave checkpoints `<name>_ep-%04d.pth` and score tables in the folder `out`.

        Returns:
            The evaluation after the last epoch, None without held-out batches.

        Raises:
            RuntimeError: the loss is not finite.
        """
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        scheduler = self._scheduler(epochs * len(self.loader))
        train_scores = ScoreTable(out / "train_results_s0000.csv")
        val_scores = ScoreTable(out / "val_results_s0000.csv") if self.validation is not None else None
        result = None
        for epoch in range(epochs):
            last = epoch == epochs - 1
            start = time.perf_counter()
            scores = self._train_epoch(epoch, scheduler)
            logger.info(time_line(epoch, time.perf_counter() - start))
            logger.info(epoch_line("train", epoch, scores))
            train_scores.append(epoch, scores)
            if self.validation is not None and val_scores is not None and (last or (epoch + 1) % self.test_every == 0):
                result = evaluate(self.model, self.validation, device=self.device, log=(epoch, self.log_every))
                logger.info(epoch_line("val", epoch, result.scores))
                val_scores.append(epoch, result.scores)
            if last or (epoch + 1) % self.save_every == 0:
                content = {
                    "epoch": epoch + 1,
                    "state_dict": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                }
                save_checkpoint(out / f"{self.name}_ep-{epoch + 1:04d}.pth", content)
        return result

    def _scheduler(self, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        if self.schedule == "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        # The momentum stays as it is: cycling it is a second experiment.
        return torch.optim.lr_scheduler.OneCycleLR(self.optimizer, self.lr, total_steps=steps, cycle_momentum=False)

    def _train_epoch(self, epoch: int, scheduler: torch.optim.lr_scheduler.LRScheduler) -> Scores:
        """One pass over the loader; averages over its clips."""
        self.model.train()
        self.loader.set_epoch(epoch)
        speed = SpeedMonitor(self.device)
        top1 = top5 = total = clips = 0.0
        batches = iter(self.loader)
        for index in range(len(self.loader)):
            with speed.measure("r"):
                batch = next(batches)
            lr = self.optimizer.param_groups[0]["lr"]
            scores = self._step(batch, speed)
            scheduler.step()
            if not math.isfinite(scores.loss):
                raise RuntimeError(
                    f"epoch {epoch}, batch {index}: the loss is {scores.loss}; a learning rate below {self.lr} may help"
                )
            if index % self.log_every == 0:
                shape, text = batch.frames.shape, speed.text(len(batch))
                logger.info(iteration_line(epoch=epoch, batch=index, speed=text, scores=scores, shape=shape, lr=lr))
            clips += len(batch)
            top1 += scores.top1 * len(batch)
            top5 += scores.top5 * len(batch)
            total += scores.loss * len(batch)
        return Scores(top1 / clips, top5 / clips, total / clips)

    def _step(self, batch: Batch, speed: SpeedMonitor) -> Scores:
        """One iteration; the scores of its batch."""
        with speed.measure("f"):
            batch = batch.to(self.device)
            logits = self.model(batch.frames)
            loss = F.cross_entropy(logits, batch.labels)
        with speed.measure("b"):
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return batch_scores(logits.detach(), batch.labels)
