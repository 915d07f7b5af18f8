"""Segmentation as one process of a group, for tests that compare groups: what each case does, and what it leaves."""

import os
from pathlib import Path

import torch
from test_streaming_training import SHAPE, StreamPlan, Tiny, load, make_videos, objective

from vidseg.engine import distributed
from vidseg.loaders.stream_loader import StreamBatch
from vidseg.tasks.segmentation.cross_validation import cross_validate
from vidseg.tasks.segmentation.recipes import SegmentationOptions
from vidseg.tasks.segmentation.task import SegmentationTask
from vidseg.tasks.streaming.recipes import StreamOptions
from vidseg.tasks.streaming.runs import train_stream
from vidseg.tasks.streaming.task import StreamTrainer, published_objective

LENGTHS = [30, 13, 9, 17, 5]  # of the videos of streams; two make a group
OBJECTIVES = {
    "staged": objective,
    "etesvs": published_objective("etesvs"),
    "reward": published_objective("svtas_rl"),
}
CASES = [
    (name, weighting, update)
    for name in OBJECTIVES
    for weighting, update in (("video", "video"), ("group", "video"), ("video", "window"))
]


def stream_case(name: str, weighting: str, update: str) -> dict:
    """Two epochs of streams of unequal lengths; the network's state in the end, and what this process saw."""
    ranks, rank = distributed.world_size(), distributed.rank()
    torch.manual_seed(rank)  # the first process's weights count
    model = Tiny().double()
    distributed.synchronize_norms(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = StreamTrainer(model, OBJECTIVES[name], optimizer, weighting=weighting, update=update)
    seen, losses, cleared = [], [], []
    for epoch in range(2):
        plan = StreamPlan(LENGTHS, SHAPE, group=2 // ranks, shuffle=True, epoch=epoch, rank=rank, ranks=ranks)
        batches = [
            StreamBatch(batch.clips.double(), batch.labels, batch.mask, batch.item)
            for batch in load(plan, make_videos(LENGTHS))
        ]
        # A process whose videos have ended accompanies the others without a memory.
        cleared += [batch.item.starts or not batch.item.valid.any() for batch in batches]
        seen += [batch.item.videos.tolist() for batch in batches if batch.item.starts]
        report = trainer.train(batches)
        losses.append(report.loss / report.windows)
    assert model.fresh == cleared
    return {"state": model.state_dict(), "seen": seen, "losses": losses}


class _Spy(SegmentationTask):
    """Notes the videos of each batch."""

    seen: list[list[int]] = []  # noqa: RUF012

    def step(self, model, batch, position):
        _Spy.seen.append(batch.videos[batch.valid].tolist())
        return super().step(model, batch, position)


def feature_run(root: Path, out: Path, model: str, network: tuple[str, ...], batch: int) -> list[list[int]]:
    """A split of a cross-validation; returns the videos of each batch of this process."""
    from vidseg.tasks.segmentation import cross_validation

    cross_validation.SegmentationTask, _Spy.seen = _Spy, []
    options = SegmentationOptions(
        dataset=str(root), model=model, out=str(out), network_option=network, epochs=2, batch_size=batch, lr=0.01,
        validate_every=1, validation_share=0.25, pictures=False, device="cpu", splits=("split1",),
    )  # fmt: skip
    cross_validate("gtea", options)
    cross_validation.SegmentationTask = SegmentationTask
    return _Spy.seen


def stream_run(root: Path, out: Path, group: int) -> None:
    """A whole run of a streaming network with memory, on four videos that make one step."""
    options = StreamOptions(
        dataset=str(root), model="memory_tcn", out=str(out), epochs=1, lr=1e-3, stride=8, frames=4, interval=2, size=32,
        width=0.1, network_option=("channels=8",), group=group, sync_bn=True, validation_share=0.2, threads=1,
        device="cpu", pictures=False, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3),
    )  # fmt: skip
    train_stream(options)


def as_rank(rank: int, port: int, features: Path, videos: Path, out: Path) -> None:
    """One of two processes, as torchrun would start it; leaves what it saw in `rank<rank>.pt`."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    distributed.join_group()
    found = {"streams": [stream_case(*case) for case in CASES], "features": {}}
    for model, network in FEATURE_NETWORKS.items():
        found["features"][model] = feature_run(features, out / f"two_{model}", model, network, 1)
    stream_run(videos, out / "two_streams", 2)
    torch.save(found, out / f"rank{rank}.pt")
    distributed.leave_group()


FEATURE_NETWORKS = {
    "mstcn": ("layers=3", "maps=16", "stages=2", "dropout=0.0"),
    "asrf": ("layers=3", "maps=16", "stages=2", "boundary_stages=2", "dropout=0.0"),
}
