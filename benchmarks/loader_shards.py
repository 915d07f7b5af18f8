"""Peers that read shards in sequence: WebDataset, MosaicML streaming and LitData.

They cannot fill a given plan, because a random frame of a random video would be a random access. A record is a segment
of 32 consecutive frames, which holds any clip of 16 frames at intervals of 1 or 2. Records come in the shuffled order
of each library. A clip takes the intervals and the crop of the plan's clip at its place, and begins at the first frame
of the record. The clips are thus as many, as large and as expensive to decode as those of the other rows, but they are
of other frames, and the next clips come from nearby places in the shards.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from loader_clips import Clips, Frames, one_thread
from loader_data import SEGMENT
from loader_job import Job, Peer, load
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

__all__ = ["SHARD_PEERS"]


BUFFER = 64  # records that WebDataset shuffles, 47 MB
Record = tuple[bytes, bytes]
"""JPEGs, one behind the other, and the end of each, int64."""


def _no_frames(*_: Any) -> Frames:
    raise NotImplementedError("the frames come from the records")


class ShardClips(IterableDataset[Tensor]):
    """Clips of the batches of one DataLoader worker; worker w makes the batches w, w + workers, ..."""

    def __init__(self, job: Job, records: Any) -> None:
        self.job, self.records = job, records
        self.passes = iter(job.passes)  # each worker has its copy

    def __iter__(self) -> Iterator[Tensor]:
        one_thread()
        clips, records = Clips(self.job, _no_frames, bgr=True), self.records()
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for batch in range(first, len(next(self.passes)), step):
            for clip in range(len(self.job.plans[batch])):
                yield clips.clip(batch, clip, self._decode(batch, clip, *next(records)))

    def _decode(self, batch: int, clip: int, jpegs: bytes, ends: bytes) -> Frames:
        cv2 = load("cv2")
        data, stops = np.frombuffer(jpegs, np.uint8), [0, *np.frombuffer(ends, np.int64).tolist()]
        numbers = self.job.plans[batch].frames[clip]
        places = np.minimum(np.abs(numbers - numbers[0]), SEGMENT - 1)  # a looped clip continues at frame 0
        return [cv2.imdecode(data[stops[i] : stops[i + 1]], cv2.IMREAD_COLOR) for i in places.tolist()]


def _batches(job: Job, records: Any) -> Iterator[Tensor]:
    loader = DataLoader(
        ShardClips(job, records), batch_size=len(job.plans[0]), num_workers=job.workers, persistent_workers=True
    )
    for _ in job.passes:
        yield from loader


def _tar_records(folder: Path) -> Iterator[Record]:
    """Yield the records of tar shards without an end, in random order."""
    wds = load("webdataset")
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    data = wds.WebDataset(shards, resampled=True, nodesplitter=None, shardshuffle=False).shuffle(BUFFER)
    for sample in data:
        yield sample["jpegs"], sample["ends"]


def _webdataset(job: Job) -> Iterator[Tensor]:
    return _batches(job, partial(_tar_records, job.sources.tar))


def _endless(data: Any) -> Iterator[Record]:
    """Yield the records of a data set that shards itself among the workers, epoch after epoch."""
    while True:
        for sample in data:
            yield sample["jpegs"], sample["ends"]


def _streaming(job: Job) -> Iterator[Tensor]:
    data = load("streaming").StreamingDataset(local=str(job.sources.mds), shuffle=True, batch_size=len(job.plans[0]))
    return _batches(job, partial(_endless, data))


def _litdata(job: Job) -> Iterator[Tensor]:
    data = load("litdata").StreamingDataset(str(job.sources.litdata), shuffle=True)
    return _batches(job, partial(_endless, data))


def _peer(name: str, module: str, batches: Any, store: str) -> Peer:
    return Peer(f"{name}, segments in shards, OpenCV", ("cv2", module), batches, store, from_jpegs=False)


SHARD_PEERS = {
    "webdataset": _peer("WebDataset", "webdataset", _webdataset, "tar"),
    "streaming": _peer("MosaicML streaming", "streaming", _streaming, "mds"),
    "litdata": _peer("LitData", "litdata", _litdata, "litdata"),
}
