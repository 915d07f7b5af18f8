"""Frames that are stored already: folders of JPEG files, and databases to convert again."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidseg.convert.convert_options import ConvertOptions
from vidseg.convert.encoding import EncodedFrames, FrameStore
from vidseg.frames import FrameDatabase, FrameDatabaseError, decode_jpeg
from vidseg.frames.jpeg import resize_frame
from vidseg.frames.stored_stream import StoredStream
from vidseg.labels.counting import counted
from vidseg.videos.frame_size import target_size
from vidseg.videos.listing import Job, numbered_jpegs
from vidseg.videos.opening import VideoError
from vidseg.videos.orientation import UPRIGHT, jpeg_orientation, jpeg_size

__all__ = ["stored_frames"]


def stored_frames(job: Job, options: ConvertOptions, store: FrameStore) -> EncodedFrames:
    """Return the frames of a folder of JPEGs or of a database, for a job of the kind "jpegs" or "database".

    Raises:
        VideoError: the source cannot be read.
    """
    return _jpeg_frames(job, options, store) if job.kind == "jpegs" else _database_frames(job, options, store)


def _jpeg_frames(job: Job, options: ConvertOptions, store: FrameStore) -> EncodedFrames:
    numbered = numbered_jpegs(Path(job.source))
    frames = EncodedFrames(iter(()), {"codec": "mjpeg", "container": "folder of JPEG files"})
    first, last = numbered[0][0], numbered[-1][0]
    missing = sorted(set(range(first, last + 1)) - {number for number, _ in numbered})
    if missing:
        frames.damage.append(f"{counted(len(missing), 'frame')} missing, first missing number {missing[0]}")
    blobs = ((path.read_bytes, path.name) for _, path in numbered)
    times = (index / options.fps for index in range(len(numbered))) if options.fps else None
    frames.properties["fps"] = options.fps
    frames.stream = _restored(blobs, times, options, store, frames)
    return frames


def _database_frames(job: Job, options: ConvertOptions, store: FrameStore) -> EncodedFrames:
    try:
        database = FrameDatabase(job.source)
    except (FrameDatabaseError, OSError) as error:
        raise VideoError(str(error)) from error
    if options.fps is not None:
        raise VideoError("--fps cannot resample a frame database; convert the original video with --fps")
    kept = ("fps", "codec", "container", "pixel_format", "source_width", "source_height", "source_sha256")
    frames = EncodedFrames(iter(()), {key: database.meta[key] for key in kept if key in database.meta})
    frames.damage += json.loads(database.meta["damage"]) if "damage" in database.meta else []
    times = None if database.timestamps is None else iter(database.timestamps.tolist())
    if database.coded is not None:
        frames.stream = _decoded(database.coded, times or itertools.repeat(None), options, store, frames)
        return frames
    blobs = ((lambda index=index: database.read([index])[0], f"frame {index}") for index in range(len(database)))
    frames.stream = _restored(blobs, times, options, store, frames)
    return frames


def _decoded(
    coded: StoredStream,
    times: Iterator[float | None],
    options: ConvertOptions,
    store: FrameStore,
    frames: EncodedFrames,
) -> Iterator[tuple[Any, int, float | None]]:
    """Convert the frames of a video stream to the size of the options."""
    size = target_size(options.size, coded.width, coded.height)
    kept = size == (coded.width, coded.height) and options.chroma == coded.chroma
    shown: list[float | None] = []
    for first in range(0, coded.count, coded.gop):
        numbers = range(first, min(first + coded.gop, coded.count))
        moments = list(itertools.islice(times, len(numbers)))
        try:
            pictures = [planes for _, planes in coded.frames(numbers)]
        except FrameDatabaseError as error:
            frames.damage.append(str(error).removeprefix(f"{coded.path}: "))
            continue
        shown += moments
        for planes, moment in zip(pictures, moments, strict=True):
            yield store.of_planes(planes) if kept else store.of_rgb(planes.rgb(size[::-1])), size[0], moment
    if not shown:
        raise VideoError(f"no frame could be decoded: {frames.damage[0]}")
    _describe_restored(frames, size, shown, store)


def _restored(
    blobs: Iterator[tuple[Callable[[], bytes], str]],
    times: Iterator[float] | None,
    options: ConvertOptions,
    store: FrameStore,
    frames: EncodedFrames,
) -> Iterator[tuple[Any, int, float | None]]:
    """Convert JPEGs of any encoder to the size of the options and the form of the store, upright by their EXIF tags.

    If JPEGs are stored and neither size, quality nor orientation changes, the pixels stay bit-equal.
    """
    size: tuple[int, int] | None = None
    shown: list[float | None] = []
    for read, name in blobs:
        try:
            jpeg = read()
            stored = jpeg_size(jpeg)
            if stored is not None and stored[0] * stored[1] > options.max_pixels:
                raise ValueError(
                    f"{stored[0]}x{stored[1]} pixels, more than the limit of {options.max_pixels} (max_pixels)"
                )
            image, orientation = decode_jpeg(jpeg), jpeg_orientation(jpeg)
            if orientation != UPRIGHT:
                image = torch.from_numpy(np.ascontiguousarray(orientation.apply(image.numpy())))
            height, width = image.shape[:2]
            size = size or target_size(options.size, width, height)
            keep = not options.reencode and orientation == UPRIGHT and size == (width, height)
            image = image if (width, height) == size else resize_frame(image, size[::-1])
            frame = store.of_rgb(image, jpeg=jpeg if keep else None)
        except (RuntimeError, ValueError, OSError) as error:
            frames.damage.append(f"{name}: {str(error).splitlines()[0]}")
            if times is not None:
                next(times)
            continue
        shown.append(None if times is None else next(times))
        yield frame, size[0], shown[-1]
    if size is None:
        raise VideoError(f"no frame could be decoded: {frames.damage[0]}")
    _describe_restored(frames, size, shown, store)


def _describe_restored(
    frames: EncodedFrames, size: tuple[int, int], times: Sequence[float | None], store: FrameStore
) -> None:
    """Set the properties of frames whose source has no stream with a duration."""
    fps = frames.properties.get("fps")
    rate = float(fps) if fps else 0.0
    first, last = (times[0], times[-1]) if times else (None, None)
    if first is not None and last is not None:
        duration = last - first + 1.0 / (rate or 25.0)
    else:
        duration = len(times) / rate if rate else 0.0
    frames.properties.update(width=size[0], height=size[1], duration=duration, **store.properties)
