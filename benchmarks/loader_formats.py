"""Copies of the benchmark's frames for single peers, written when the first row needs them.

Small JPEG files, videos with a key frame every 12 frames, and shards of WebDataset, MosaicML streaming and LitData. All
are made from the stored frames or from the source videos, so that every row shows the same content.
"""

import io
import shutil
import tarfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
from loader_data import SEGMENT, Sources
from loader_job import load

__all__ = ["make_store"]

SMALL = 128  # short side of the small copies
GOP = 12
RECORDS_PER_SHARD = 16  # 12 MB


def make_store(sources: Sources, store: str) -> None:
    """Write a format of the data, unless it is there.

    Args:
        sources: folders of the data.
        store: name of a method or property of `Sources`; those that `make_data` writes need nothing.

    Raises:
        MissingError: the library that writes the format is not installed.
    """
    write = STORES.get(store)
    target = sources.folder / store
    if write is None or target.exists():
        return
    partial_target = target.with_name(f"{store}.partial")
    shutil.rmtree(partial_target, ignore_errors=True)
    partial_target.mkdir()
    write(sources, partial_target)
    partial_target.rename(target)


def _names(sources: Sources) -> list[str]:
    return sorted(path.name for path in (sources.folder / "files").iterdir())


def _jpegs(sources: Sources, name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(sources.files(name).iterdir())]


def _write_small(sources: Sources, target: Path) -> None:
    """Shrink with an averaging filter and encode at quality 90, as a user prepares files for training at 112 pixels."""
    for name in _names(sources):
        (target / name).mkdir()
        for number, jpeg in enumerate(_jpegs(sources, name), start=1):
            frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            factor = min(1.0, SMALL / min(frame.shape[:2]))
            size = round(frame.shape[1] * factor), round(frame.shape[0] * factor)
            small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
            (target / name / f"frame_{number:05d}.jpg").write_bytes(data.tobytes())


def _write_gop12(sources: Sources, target: Path) -> None:
    """Encode with x264 for fast decoding: no B frames, no deblocking, no CABAC; in the size of the stored frames."""
    for name in _names(sources):
        height, width = cv2.imdecode(np.frombuffer(_jpegs(sources, name)[0], np.uint8), cv2.IMREAD_COLOR).shape[:2]
        with av.open(str(sources.video(name))) as source, av.open(str(target / f"{name}.mp4"), "w") as copy:
            rate = source.streams.video[0].average_rate or Fraction(25)
            stream = copy.add_stream("libx264", rate=rate)
            stream.width, stream.height, stream.pix_fmt = width // 2 * 2, height // 2 * 2, "yuv420p"
            stream.codec_context.thread_count = 1
            stream.options = {"preset": "fast", "crf": "20", "tune": "fastdecode", "g": str(GOP), "bf": "0"}
            for number, frame in enumerate(source.decode(video=0)):
                frame = frame.reformat(stream.width, stream.height, "yuv420p")
                frame.pts, frame.time_base = number, 1 / rate
                copy.mux(stream.encode(frame))
            copy.mux(stream.encode(None))


def _records(sources: Sources) -> Iterator[dict[str, bytes]]:
    """Yield segments of all videos in random order; the last segment of a video ends with its last frame."""
    segments = []
    for name in _names(sources):
        jpegs = _jpegs(sources, name)
        starts = [*range(0, max(1, len(jpegs) - SEGMENT + 1), SEGMENT)]
        segments += [jpegs[start : start + SEGMENT] for start in starts if len(jpegs) >= SEGMENT]
    for place in np.random.default_rng(0).permutation(len(segments)).tolist():
        segment = segments[place]
        ends = np.cumsum([len(jpeg) for jpeg in segment], dtype=np.int64)
        yield {"jpegs": b"".join(segment), "ends": ends.tobytes()}


def _write_tar(sources: Sources, target: Path) -> None:
    records = list(_records(sources))
    for first in range(0, len(records), RECORDS_PER_SHARD):
        with tarfile.open(target / f"{first // RECORDS_PER_SHARD:05d}.tar", "w") as archive:
            for number, record in enumerate(records[first : first + RECORDS_PER_SHARD], start=first):
                for kind, data in record.items():
                    info = tarfile.TarInfo(f"{number:06d}.{kind}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))


def _write_mds(sources: Sources, target: Path) -> None:
    streaming = load("streaming")
    columns = {"jpegs": "bytes", "ends": "bytes"}
    with streaming.MDSWriter(out=str(target), columns=columns, size_limit=12 * 2**20) as writer:
        for record in _records(sources):
            writer.write(record)


def _write_litdata(sources: Sources, target: Path) -> None:
    litdata = load("litdata")
    records = list(_records(sources))
    litdata.optimize(
        fn=partial(_record_of, records),
        inputs=list(range(len(records))),
        output_dir=str(target),
        chunk_bytes="12MB",
        num_workers=1,
    )


def _record_of(records: list[dict[str, bytes]], number: int) -> dict[str, bytes]:
    return records[number]


STORES: dict[str, Callable[[Sources, Path], None]] = {
    "small": _write_small,
    "gop12": _write_gop12,
    "tar": _write_tar,
    "mds": _write_mds,
    "litdata": _write_litdata,
}
