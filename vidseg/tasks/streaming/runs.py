"""Runs of streaming networks: trained end to end from pixels, validated after each epoch, tested once at the end.

The folder of a run holds

    options.json              options, recipe, classes, videos of the validation part, versions
    train.log, train_results_s*.csv, <network>_*.pth
    validation.csv            segmental scores of each validation
    test.json, predictions/   scores of the test part, where the data set has one, as other segmentation runs leave them
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidseg.clips.draws import uniform
from vidseg.clips.windows import WindowShape
from vidseg.engine import distributed
from vidseg.engine.checkpoints import CheckpointFolder, read_checkpoint
from vidseg.engine.monitors import ScoreTable, progress_bar, run_log
from vidseg.engine.options import CheckpointOptions
from vidseg.labels import VideoDataset, open_dataset
from vidseg.loaders.stream_loader import StreamBatch, StreamLoader
from vidseg.models import create_model, list_models, load_weights, model_task
from vidseg.models._streaming import StreamModel
from vidseg.tasks.segmentation.folder import (
    Draw,
    check_disjoint,
    class_numbers,
    leave_test,
    prepare_run,
    run_record,
)
from vidseg.tasks.segmentation.report import append_scores, scores_text
from vidseg.tasks.segmentation.task import LabeledVideo, SegmentationEvaluation, score_videos
from vidseg.tasks.streaming.recipes import StreamOptions, StreamRecipe, stream_recipe
from vidseg.tasks.streaming.task import StreamReport, StreamTrainer, label_streams, published_objective

__all__ = ["create_stream_model", "evaluate_streams", "stream_results_folder", "train_stream"]

logger = logging.getLogger(__name__)

_TASK = "stream_segmentation"
_MAY_CHANGE = {
    "resume", "overwrite", "out", "device", "threads", "pictures", "dataset", "checkpoint_every", "keep", "log_every",
    "cache_bytes", "pretrained", "epochs",
}  # fmt: skip


def create_stream_model(
    name: str, recipe: StreamRecipe, classes: list[str], *, width: float | None = None
) -> StreamModel:
    """The streaming network called `name`, for the windows of a recipe.

    Args:
        name: one of `list_models(task="stream_segmentation")`.
        recipe: of its options and windows.
        classes: their names.
        width: of the backbone; None: the recipe's.

    Raises:
        ValueError: the name is not a streaming network's.
    """
    if model_task(name) != _TASK:
        raise ValueError(f"{name} is no streaming network; these are {', '.join(list_models(task=_TASK))}")
    options = dict(recipe.network) | ({} if width is None else {"width": width})
    if name == "transeger":
        options = {"frames": recipe.frames, "class_names": classes} | options
    model = create_model(name, num_classes=len(classes), **options)
    assert isinstance(model, StreamModel)
    return model


def evaluate_streams(
    model: StreamModel, loader: StreamLoader, *, device: torch.device | str = "cpu", background: tuple[str, ...] = ()
) -> SegmentationEvaluation:
    """Label every video of a loader with `train=False` window by window, and score them; in all processes alike.

    Args:
        model: on `device`; its mode is restored afterwards.
        loader: of the videos.
        device: where the model is.
        background: classes whose frames are no segments, as far as the data set has them.
    """
    training = model.training
    try:
        predictions = label_streams(model, loader, loader.shape, device=device)
        found = [LabeledVideo(each.video, each.truth, each.labels, each.cross_entropy) for each in predictions]
    finally:
        model.train(training)
    return score_videos(found, loader.data, class_numbers(loader.data.classes, background))


def stream_results_folder(options: StreamOptions) -> Path:
    """Folder of the run of these options."""
    if options.out is not None:
        return Path(options.out)
    return Path("results") / Path(options.dataset).resolve().name / options.model


def train_stream(options: StreamOptions, *, draw: Draw | None = None) -> Path:
    """Train a streaming network on the training part of a data set, and test it once on the test part.

    Args:
        options: what is chosen.
        draw: called with each validation and with the test.

    Returns:
        The folder of the run.

    Raises:
        FileNotFoundError: no catalog, or no checkpoint to go on from.
        FileExistsError: the folder holds a run, and neither resume nor overwrite is given.
        ValueError: a network, split or option that does not exist, wrong data, or a loss that is not finite.
    """
    recipe = stream_recipe(options)
    out, parts = stream_results_folder(options), _parts(options)
    device = distributed.process_device(options.device)
    classes = parts.learn.classes
    torch.manual_seed(options.seed)
    model = create_stream_model(options.model, recipe, classes)
    report = None if options.pretrained is None else load_weights(model, options.pretrained)
    if options.sync_bn:
        distributed.synchronize_norms(model)
    folder = CheckpointFolder(out, options.model, CheckpointOptions(save_frequency=recipe.epochs, keep=options.keep))
    record = run_record(_TASK, options, recipe, division=parts.division, classes=classes, validation=parts.validation)
    fixed = {"epochs"} if recipe.final_rate is not None else set()  # along a cosine, the rates depend on them
    with ExitStack() as stack:
        loader = stack.enter_context(_loader(parts.learn, options, recipe, train=True))
        held_out = [
            None if data is None else stack.enter_context(_loader(data, options, recipe, train=False))
            for data in (parts.validation, parts.test)
        ]
        if distributed.is_first():
            prepare_run(out, folder, record, options, recipe, _MAY_CHANGE - fixed)
            folder.remove_leftovers()
            stack.enter_context(run_log(out / "train.log", append=options.resume))
        distributed.barrier()
        counts = [0 if data is None else len(data) for data in (parts.learn, parts.validation, parts.test)]
        _say("%d training, %d validation and %d test videos, %d classes", *counts, len(classes))
        values = sum(value.numel() for value in model.parameters())
        _say("%s: %d parameters, on %s; %s", options.model, values, device, loader.shape)
        if report is not None:
            _say("%s: %s", options.pretrained, report)
        run = _Run(_channels_last(model).to(device), loader, held_out[0], options, recipe, folder, record, device, draw)
        run.train()
        if held_out[1] is not None:
            _test(run, held_out[1], parts)
    return out


@dataclass(frozen=True)
class _Parts:
    """Videos of a run, and the division that they are of."""

    learn: VideoDataset
    validation: VideoDataset | None
    test: VideoDataset | None
    division: str


def _parts(options: StreamOptions) -> _Parts:
    root = Path(options.dataset)
    whole = open_dataset(root)
    divisions = [name.rpartition("/")[0] for name in whole.splits if name.rpartition("/")[2] == "train"]
    if options.split and options.split not in divisions:
        raise ValueError(f"{root}: no split {options.split!r} with a part train; there are {', '.join(divisions)}")
    division = options.split or (divisions[0] if divisions else "")

    def part(name: str) -> VideoDataset | None:
        full = f"{division}/{name}" if division else name
        return open_dataset(root, full) if full in whole.splits else None

    learn, validation, test = part("train") or whole, part("val"), part("test")
    if test is not None:
        check_disjoint(learn, test, division)
    if options.select == "last":
        return _Parts(learn, validation, test, division)
    if validation is None:
        if len(learn) < 2:
            raise ValueError(f"{learn}: one video cannot be divided into learning and validation; use --select last")
        learn, validation = learn.split(1 - options.validation_share, seed=options.seed)
    return _Parts(learn, validation, test, division)


def _loader(data: VideoDataset, options: StreamOptions, recipe: StreamRecipe, *, train: bool) -> StreamLoader:
    return StreamLoader(
        data,
        WindowShape(recipe.stride, recipe.frames, recipe.interval),
        group=recipe.group,
        size=recipe.size,
        train=train,
        flip=options.flip,
        seed=options.seed,
        mean=recipe.mean,
        std=recipe.std,
        threads=options.threads,
        cache_bytes=options.cache_bytes if train else 0,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def _say(line: str, *values: object) -> None:
    if distributed.is_first():
        logger.info(line, *values)


class _Run:
    """The loop over epochs: where it stands, and what it leaves."""

    def __init__(
        self,
        model: StreamModel,
        loader: StreamLoader,
        validation: StreamLoader | None,
        options: StreamOptions,
        recipe: StreamRecipe,
        folder: CheckpointFolder,
        record: Mapping[str, Any],
        device: torch.device,
        draw: Draw | None,
    ) -> None:
        self.model, self.loader, self.validation = model, loader, validation
        self.options, self.recipe, self.folder = options, recipe, folder
        self.record, self.device, self.draw = record, device, draw if options.pictures else None
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(_groups(model, recipe), lr=recipe.rate, weight_decay=recipe.weight_decay)
        self.trainer = StreamTrainer(
            model,
            published_objective(options.model, update=recipe.update),
            self.optimizer,
            update=recipe.update,
            weighting=recipe.weighting,
            frozen_norms=recipe.frozen_norms,
            clip_norm=recipe.clip_norm,
            opt_level=options.opt_level or ("O0" if device.type == "cpu" else "O1"),
            device=device,
        )
        self.epoch = self.window = self._saved = 0
        self.best: list[float] | None = None
        self._report = StreamReport(parts={})
        self._before = StreamReport(parts={})  # of the windows before the run went on

    def train(self) -> None:
        """The epochs that are left."""
        if self.options.resume:
            self._restore()
        table = None
        if distributed.is_first() and self.epoch < self.recipe.epochs:
            table = ScoreTable(self.folder.folder / f"train_results_s{self.epoch:04d}.csv", ("Acc", "Loss"))
        while self.epoch < self.recipe.epochs:
            start, rate = time.perf_counter(), self.recipe.rate_at(self.epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["lr_mult"]
            if self.window == 0:
                self.loader.set_epoch(self.epoch)
            self._report, self._saved = StreamReport(parts={}), self.window
            with progress_bar(len(self.loader), f"epoch {self.epoch}", shown=distributed.is_first()) as bar:
                bar.update(self.window)
                self.trainer.train(self._windows(bar, rate), report=self._report)
            _share_statistics(self.model)
            total = self._total()
            seconds = time.perf_counter() - start
            _say(
                "Epoch [%d]  (train)  frames right: %.5f   average loss: %.5f   steps: %d   time cost: %.2f sec",
                self.epoch, total.accuracy, total.mean_loss, total.steps, seconds,
            )  # fmt: skip
            if table is not None:
                table.append(self.epoch, (total.accuracy, total.mean_loss))
            better = self._validate()
            self.epoch, self.window = self.epoch + 1, 0
            self._before = StreamReport(parts={})
            self._save(numbered=self.epoch == self.recipe.epochs, best=better)

    def _windows(self, bar: Any, rate: float) -> Iterator[StreamBatch]:
        """The windows of the epoch that are left; what stands after `yield` happens when a window has been trained."""
        clock, windows = time.perf_counter(), 0
        for batch in self.loader:
            # Dropout is a function of the position, so a run that goes on needs no generator's state.
            number = batch.item.index * distributed.world_size() + distributed.rank()
            torch.manual_seed(int(uniform(self.options.seed, self.epoch, [number], purpose="dropout")[0, 0] * 2**53))
            yield batch
            windows, self.window = windows + 1, batch.item.index + 1
            bar.update()
            if self.window % self.options.log_every == 0:
                now = time.perf_counter()
                speed = windows * len(batch.labels) * self.loader.shape.stride * distributed.world_size()
                _say(
                    "Epoch [%d] Window [%d/%d] Group [%d]  %.1f frames/s, loss = %.5f, acc = %.5f, lr = %.3g",
                    self.epoch, self.window, len(self.loader), batch.item.group, speed / (now - clock),
                    self._report.mean_loss, self._report.accuracy, rate,
                )  # fmt: skip
                clock, windows = now, 0
            every = self.options.checkpoint_every
            # Between groups no process has a memory or gradients, so that the first one's checkpoint is everybody's.
            if every and batch.item.last and self.window - self._saved >= every and self.window < len(self.loader):
                self._save()
                self._saved = self.window

    def _total(self) -> StreamReport:
        """Of this epoch, over all processes and from its beginning."""
        mine = self._report
        sums = torch.tensor([mine.loss, mine.windows, mine.frames, mine.correct], dtype=torch.float64)
        loss, windows, frames, correct = distributed.sum_over_group(sums.to(_summing(self.device))).tolist()
        return StreamReport(
            windows=self._before.windows + int(windows),
            steps=self._before.steps + mine.steps,
            loss=self._before.loss + loss,
            frames=self._before.frames + int(frames),
            correct=self._before.correct + int(correct),
        )

    def _validate(self) -> bool:
        """Score the validation videos; whether this epoch is the best so far."""
        if self.validation is None:
            return False
        background = self.options.background
        result = evaluate_streams(self.model, self.validation, device=self.device, background=background)
        _say(
            "Epoch [%d]  (val)  %s   average cross entropy: %.5f", self.epoch, scores_text(result), result.cross_entropy
        )
        if distributed.is_first():
            append_scores(self.folder.folder / "validation.csv", self.epoch, result)
            if self.draw is not None:
                title = f"{self.options.model} after {self.epoch + 1} epochs: {scores_text(result)}"
                path = self.folder.folder / "pictures" / f"epoch_{self.epoch + 1:04d}"
                self.draw(path, self.loader.data.classes, result, title)
        quality = [result.scores["f1"][0.5], result.scores["acc"]]
        better = self.best is None or quality > self.best
        self.best = quality if better else self.best
        return better

    def _save(self, *, numbered: bool = False, best: bool = False) -> None:
        total = self._total()  # in every process, before the first one writes
        if distributed.is_first():
            state = self.trainer.state_dict()
            content = {
                "epoch": self.epoch,
                "batch": self.window,
                "state_dict": {name: value.cpu() for name, value in state["model"].items()},
                "optimizer": state["optimizer"],
                "scaler": state["precision"],
                "memory": state["memory"],
                "gradients": state["gradients"],
                "loader": self.loader.state_dict() if self.window else None,
                "sums": asdict(total) if self.window else None,
                "best": self.best,
                "random": {"seed": self.options.seed},
                "record": self.record,
            }
            self.folder.save(content, numbered=numbered, best=best)
        distributed.barrier()

    def _restore(self) -> None:
        path = self.folder.newest()
        if path is None:
            _say("%s: no checkpoint of %s in it; the run starts", self.folder.folder, self.options.model)
            return
        saved = read_checkpoint(path)
        if saved["epoch"] > self.recipe.epochs:
            raise ValueError(f"{path} is of epoch {saved['epoch']}, past the {self.recipe.epochs} epochs wanted")
        names = {"model": "state_dict", "optimizer": "optimizer", "precision": "scaler"}
        state = {name: saved[names.get(name, name)] for name in (*names, "memory", "gradients")}
        self.trainer.load_state_dict(state)
        self.epoch, self.window, self.best = saved["epoch"], saved["batch"], saved["best"]
        if self.window:
            self.loader.load_state_dict(saved["loader"])
            self._before = StreamReport(**saved["sums"])
        _say("%s: going on with epoch [%d], window [%d]", path, self.epoch, self.window)


def _channels_last(model: StreamModel) -> StreamModel:
    """Two-dimensional convolutions with their channels side by side: half the time, on CPUs and GPUs."""
    for value in model.parameters():
        if value.dim() == 4:
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    return model


def _groups(model: nn.Module, recipe: StreamRecipe) -> list[dict[str, Any]]:
    """The parameters that learn at the whole rate, and those of the backbone that learn at a share of it."""
    slow: list[Tensor] = []
    fast: list[Tensor] = []
    for name, value in model.named_parameters():
        if value.requires_grad:
            part = slow if recipe.backbone_rate != 1 and name.startswith("backbone.") else fast
            part.append(value)
    groups = [{"params": fast, "lr_mult": 1.0}, {"params": slow, "lr_mult": recipe.backbone_rate}]
    return [group for group in groups if group["params"]]


def _share_statistics(model: nn.Module) -> None:
    """Means over the processes of what BatchNorm has seen, so that all of them evaluate one network."""
    distributed.mean_over_group([value for value in model.buffers() if value.is_floating_point()])


def _summing(device: torch.device) -> torch.device:
    """Where processes can add up: NCCL knows only the GPU, and one process needs nothing."""
    return device if distributed.world_size() > 1 else torch.device("cpu")


def _test(run: _Run, loader: StreamLoader, parts: _Parts) -> None:
    """Label the test part with the chosen epoch's weights; leaves test.json and predictions/."""
    path = run.folder.last if run.options.select == "last" else run.folder.best
    loaded = load_weights(run.model, path)
    if loaded.missing:
        raise ValueError(f"{path} does not fill the network: {loaded}")
    epoch = int(read_checkpoint(path)["epoch"])
    options, folder = run.options, run.folder.folder
    result = evaluate_streams(run.model, loader, device=run.device, background=options.background)
    leave_test(folder, result, run.record, dataset=options.dataset, epoch=epoch, draw=run.draw)
    _say("test of epoch %d: %s", epoch, scores_text(result))
