"""Segmentation as one process of a group, for tests that compare groups: what each case does, and what it leaves."""

import os
from pathlib import Path

import torch
from streams import LENGTHS, Streams, Tiny, make_trainer, make_videos, objective

from vidseg.engine import DeviceOptions, ScheduleOptions, Trainer, distributed
from vidseg.labels import open_dataset
from vidseg.loaders import FeatureLoader
from vidseg.losses import create_stream_loss
from vidseg.models._segmentation import SegmentationOutput
from vidseg.tasks.segmentation.cross_validation import cross_validate
from vidseg.tasks.segmentation.recipes import recipe_options as segmentation_options
from vidseg.tasks.segmentation.task import SegmentationTask
from vidseg.tasks.streaming.recipes import recipe_options as streaming_options
from vidseg.tasks.streaming.runs import train_streaming

OBJECTIVES = {"staged": objective, "etesvs": create_stream_loss("etesvs"), "reward": create_stream_loss("svtas_rl")}
CASES = [
    (name, weighting, update)
    for name in OBJECTIVES
    for weighting, update in (("video", "video"), ("group", "video"), ("video", "window"))
]


class DoubleStreams(Streams):
    """Windows in float64: this process's share of the groups."""

    def __init__(self, group: int = 2, **plan):
        ranks = distributed.world_size()
        videos = [(frames.double(), labels) for frames, labels in make_videos(LENGTHS)]
        super().__init__(videos=videos, group=group // ranks, rank=distributed.rank(), ranks=ranks, **plan)


def stream_case(out: Path, name: str, weighting: str, update: str) -> dict:
    """Two epochs of streams of unequal lengths: the network's state at the end, and what this process has seen."""
    torch.manual_seed(distributed.rank())  # the first process's weights count
    model, loader = Tiny().double(), DoubleStreams()
    trainer = make_trainer(
        loader,
        model=model,
        loss=OBJECTIVES[name],
        task={"weighting": weighting, "update": update},
        devices=DeviceOptions(sync_bn=True),
    )
    trainer.fit(2, out)
    cleared = []
    for epoch in range(2):  # a process whose videos have ended accompanies the others without a memory
        cleared += [item.starts or not item.valid.any() for item in loader.plan(epoch)]
    assert model.fresh == cleared
    return {"state": trainer.model.state_dict(), "seen": loader.seen}


def own_norms_case(out: Path, ema: float = 0.0) -> dict:
    """Norms of each process: what is evaluated and saved has the mean of their statistics."""
    loader, seen, validation = DoubleStreams(), [], DoubleStreams(train=False)
    trainer = make_trainer(loader, model=Tiny().double(), validation=validation, options={"ema": ema})
    evaluate = trainer.task.evaluate

    def spy(model, *given, **named):
        seen.append(model.norm.running_mean.clone())
        return evaluate(model, *given, **named)

    trainer.task.evaluate = spy
    own = []
    trainer.model.norm.register_forward_hook(lambda norm, *_: own.append(norm.running_mean.clone()))
    trainer.fit(1, out)
    kept = trainer.average.weights()["norm.running_mean"] if ema else trainer.model.norm.running_mean
    return {"own": own[len(loader) - 1], "evaluated": seen[0], "kept": kept}


class _Columns(torch.nn.Module):
    """Labels columns of features behind a batch norm."""

    def __init__(self):
        super().__init__()
        self.norm, self.classifier = torch.nn.BatchNorm1d(8), torch.nn.Conv1d(8, 4, 1)

    def forward(self, features, mask=None):
        return SegmentationOutput(self.classifier(self.norm(features))[None])


def feature_norms_case(root: Path, out: Path) -> dict:
    """The same where the exchange of gradients overlaps with the backward pass."""
    ranks, seen, own = distributed.world_size(), [], []
    loaders = [
        FeatureLoader(
            open_dataset(root, f"split1/{part}"), batch_size=ranks, train=part == "train", rank=distributed.rank(),
            world_size=ranks,
        )
        for part in ("train", "test")
    ]  # fmt: skip
    model = _Columns()
    trainer = Trainer(
        model, loaders[0], task="segmentation", validation=loaders[1], device="cpu", schedule=ScheduleOptions(lr=0.1)
    )
    evaluate = trainer.task.evaluate

    def spy(evaluated, *given, **named):
        seen.append(evaluated.norm.running_mean.clone())
        return evaluate(evaluated, *given, **named)

    trainer.task.evaluate = spy
    model.norm.register_forward_hook(lambda norm, *_: own.append(norm.running_mean.clone()) if norm.training else None)
    trainer.fit(1, out)
    return {"own": own[-1], "evaluated": seen[0], "kept": model.norm.running_mean}


class _Spy(SegmentationTask):
    """Records the videos of each batch."""

    seen: list[list[int]] = []  # noqa: RUF012

    def train_batch(self, model, batch, position, backward):
        _Spy.seen.append(batch.videos[batch.valid].tolist())
        return super().train_batch(model, batch, position, backward)


def feature_run(root: Path, out: Path, network: str, options: tuple[str, ...], batch: int) -> list[list[int]]:
    """A split of a cross-validation; returns the videos of each batch of this process."""
    from vidseg.tasks.segmentation import cross_validation

    cross_validation.SegmentationTask, _Spy.seen = _Spy, []
    chosen = segmentation_options(
        "gtea", network, dataset=str(root), out=str(out), network_option=options, epochs=2, batch_size=batch, lr=0.01,
        test_every=1, validation_share=0.25, pictures=False, device="cpu", splits=("split1",),
    )  # fmt: skip
    cross_validate(chosen)
    cross_validation.SegmentationTask = SegmentationTask
    return _Spy.seen


def stream_run(root: Path, out: Path, group: int) -> None:
    """A whole run of a streaming network with memory, on four videos that make one step."""
    options = streaming_options(
        "gtea", "memory_tcn", dataset=str(root), out=str(out), epochs=1, lr=1e-3, stride=8, frames=4, interval=2,
        size=32, network_option=("width=0.1", "channels=8"), batch_size=group, sync_bn=True, validation_share=0.2,
        threads=1, device="cpu", pictures=False, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3),
    )  # fmt: skip
    train_streaming(options)


def as_rank(rank: int, port: int, features: Path, videos: Path, out: Path) -> None:
    """One of two processes, as torchrun would start it; leaves what it saw in `rank<rank>.pt`."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    distributed.join_group()
    cases = [stream_case(out / f"two_case{number}", *case) for number, case in enumerate(CASES)]
    found = {"streams": cases, "norms": own_norms_case(out / "two_norms"), "features": {}}
    found["averaged norms"] = own_norms_case(out / "two_averaged_norms", 0.5)
    found["feature norms"] = feature_norms_case(features, out / "two_feature_norms")
    for model, network in FEATURE_NETWORKS.items():
        found["features"][model] = feature_run(features, out / f"two_{model}", model, network, 1)
    stream_run(videos, out / "two_streams", 2)
    torch.save(found, out / f"rank{rank}.pt")
    distributed.leave_group()


FEATURE_NETWORKS = {
    "mstcn": ("layers=3", "maps=16", "stages=2", "dropout=0.0"),
    "asrf": ("layers=3", "maps=16", "stages=2", "boundary_stages=2", "dropout=0.0"),
}
