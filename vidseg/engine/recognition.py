"""A run of action recognition from its options alone: data, network, training, test, and the files they leave.

The folder of a run holds `options.json` (options, classes), `train.log`, the score tables, the checkpoints, and after
`test_run` also `test.json`.
"""

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vidseg
from vidseg.engine.evaluation import Evaluation, evaluate
from vidseg.engine.monitors import run_log
from vidseg.engine.options import TrainOptions
from vidseg.engine.trainer import Trainer
from vidseg.labels import VideoDataset, open_dataset
from vidseg.loaders import PlainLoader
from vidseg.metrics import confusion_matrix
from vidseg.models import create_model, load_weights

__all__ = ["TestReport", "test_run", "train_run"]

logger = logging.getLogger(__name__)

_HELD_OUT = 0.2


@dataclass(frozen=True)
class TestReport:
    """What a test found; `str()` is a table."""

    checkpoint: str
    videos: int
    top1: float
    top5: float
    loss: float
    classes: list[str]
    confusion: list[list[int]]
    """Rows are true classes, columns predicted ones."""
    mistakes: list[tuple[str, str, str]]
    """(video, true class, predicted class) of each wrong answer."""

    def __str__(self) -> str:
        width = max(map(len, (*self.classes, "class")))
        lines = [f"{'class':{width}}  videos  recall  precision  most often taken for"]
        for number, (name, row) in enumerate(zip(self.classes, self.confusion, strict=True)):
            videos, predicted = sum(row), sum(other[number] for other in self.confusion)
            recall = f"{row[number] / videos:.3f}" if videos else "-"
            precision = f"{row[number] / predicted:.3f}" if predicted else "-"
            wrong = {other: count for other, count in zip(self.classes, row, strict=True) if count and other != name}
            worst = max(wrong, key=lambda other: wrong[other], default="")
            taken = f"{worst} ({wrong[worst]})" if worst else ""
            lines.append(f"{name:{width}}  {videos:6d}  {recall:>6}  {precision:>9}  {taken}".rstrip())
        lines.append(f"top-1 {self.top1:.4f}   top-5 {self.top5:.4f}   loss {self.loss:.4f}   ({self.videos} videos)")
        return "\n".join(lines)


def train_run(options: TrainOptions) -> Path:
    """Train as the options say; returns the folder of the run.

    Raises:
        FileExistsError: the folder holds a run and `overwrite` is not set.
        ValueError: options that do not fit the network or the data set.
    """
    # Everything that wrong options break comes before the folder is touched.
    train, held_out = _splits(options)
    loader, validation = _loader(train, options, train=True), _loader(held_out, options, train=False)
    torch.manual_seed(options.seed)
    model = _network(options, train.num_classes)
    loaded = load_weights(model, options.weights) if options.weights is not None else None
    out = Path(options.out or Path("results") / Path(options.dataset).resolve().name / options.network)
    _clear(out, options)
    record = {
        "options": asdict(replace(options, dataset=str(Path(options.dataset).resolve()))),
        "classes": train.classes,
        "versions": {"vidseg": vidseg.__version__, "torch": torch.__version__},
    }
    (out / "options.json").write_text(json.dumps(record, indent=2) + "\n")
    with run_log(out / "train.log"):
        logger.info("%d training and %d held-out videos of %d classes", len(train), len(held_out), train.num_classes)
        values = sum(parameter.numel() for parameter in model.parameters())
        logger.info("%s: %d parameters, on %s", options.network, values, _device(options))
        if loaded is not None:
            logger.info("%s: %s", options.weights, loaded)
        trainer = Trainer(
            model,
            loader,
            validation=validation,
            name=options.network,
            lr=options.lr,
            schedule=options.schedule,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            device=_device(options),
            log_every=options.log_every,
            test_every=options.test_every,
            save_every=options.save_every,
        )
        trainer.fit(options.epochs, out)
    return out


def test_run(
    run: str | Path,
    *,
    checkpoint: str | Path | None = None,
    dataset: str | Path | None = None,
    split: str | None = None,
) -> TestReport:
    """Evaluate a run on its held-out videos and leave `test.json` in its folder.

    Args:
        run: folder of the run.
        checkpoint: weights to test; None takes the run's last ones.
        dataset: another data set than the run's, with the same classes.
        split: another split than the run's held-out videos.

    Raises:
        FileNotFoundError: the folder holds no run, or no checkpoint.
        ValueError: the data set has other classes.
    """
    run = Path(run)
    options, classes = _read_options(run)
    if checkpoint is None:
        found = sorted(run.glob(f"{options.network}_ep-*.pth"))
        if not found:
            raise FileNotFoundError(f"{run}: no checkpoint {options.network}_ep-*.pth in it")
        checkpoint = found[-1]
    if dataset is None and split is None:
        data = _splits(options)[1]
    else:
        data = _labelled(open_dataset(dataset or options.dataset, split))
    if data.classes != classes:
        raise ValueError(f"{data}: its classes {data.classes} are not those of the run, {classes}")
    model = _network(options, len(classes))
    report = load_weights(model, checkpoint)
    if report.missing:
        raise ValueError(f"{checkpoint} does not fill the network of {run}: {report}")
    device = _device(options)
    result = evaluate(model.to(device), _loader(data, options, train=False), device=device)
    found_report = _report(result, data, str(checkpoint))
    (run / "test.json").write_text(json.dumps(asdict(found_report), indent=1) + "\n")
    return found_report


def _report(result: Evaluation, data: VideoDataset, checkpoint: str) -> TestReport:
    wrong = (result.predictions != result.labels).nonzero().flatten().tolist()
    return TestReport(
        checkpoint=checkpoint,
        videos=len(result.labels),
        **asdict(result.scores),
        classes=data.classes,
        confusion=confusion_matrix(result.labels, result.predictions, data.num_classes).tolist(),
        mistakes=[
            (
                data.video_path(int(result.numbers[index])),
                data.classes[int(result.labels[index])],
                data.classes[int(result.predictions[index])],
            )
            for index in wrong
        ],
    )


def _read_options(run: Path) -> tuple[TrainOptions, list[str]]:
    path = run / "options.json"
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there, so {run} is not the folder of a run")
    record: dict[str, Any] = json.loads(path.read_text())
    return TrainOptions(**record["options"]), record["classes"]


def _clear(out: Path, options: TrainOptions) -> None:
    """Make the folder of the run; an earlier run in it is replaced only if that is wanted."""
    earlier = [
        path for name in ("options.json", "test.json", "*_results_s*.csv", "*_ep-*.pth") for path in out.glob(name)
    ]
    if earlier and not options.overwrite:
        raise FileExistsError(f"{out} holds a run ({earlier[0].name}); choose another folder, or overwrite it")
    for path in earlier:
        path.unlink()
    out.mkdir(parents=True, exist_ok=True)


def _splits(options: TrainOptions) -> tuple[VideoDataset, VideoDataset]:
    """Videos to learn from and held-out videos, the same ones each time."""
    known = open_dataset(options.dataset).splits
    train_name = options.train_split or ("train" if "train" in known else None)
    test_name = options.test_split or next((name for name in ("val", "test") if name in known), None)
    train = _labelled(open_dataset(options.dataset, train_name))
    if test_name is None:
        return train.split(1 - _HELD_OUT, seed=options.seed)
    held_out = _labelled(open_dataset(options.dataset, test_name))
    if train_name is not None:
        return train, held_out
    paths = {held_out.video_path(index) for index in range(len(held_out))}
    return train.subset([index for index in range(len(train)) if train.video_path(index) not in paths]), held_out


def _labelled(data: VideoDataset) -> VideoDataset:
    return data.subset(data.labels >= 0)


def _network(options: TrainOptions, num_classes: int) -> nn.Module:
    chosen: dict[str, Any] = {"width": options.width}
    if options.placement is not None:
        chosen["placement"] = options.placement
    if options.gate:
        chosen["gate"] = True
    return create_model(options.network, num_classes=num_classes, **chosen)


def _loader(data: VideoDataset, options: TrainOptions, *, train: bool) -> PlainLoader:
    return PlainLoader(
        data,
        frames=options.frames,
        interval=options.interval,
        size=options.size,
        batch_size=options.batch_size,
        train=train,
        flip=options.flip and train,
        seed=options.seed,
        threads=options.threads,
    )


def _device(options: TrainOptions) -> torch.device:
    if options.device is not None:
        return torch.device(options.device)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
