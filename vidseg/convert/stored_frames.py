"""Frames that are JPEGs already: folders of JPEG files, and databases to convert again."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from vidseg.convert.convert_options import ConvertOptions
from vidseg.convert.encoding import EncodedFrames
from vidseg.frames import FrameDatabase, FrameDatabaseError, decode_jpeg, encode_rgb, recode_jpeg
from vidseg.frames.jpeg import resize_frame
from vidseg.labels.counting import counted
from vidseg.videos.frame_size import target_size
from vidseg.videos.listing import Job, numbered_jpegs
from vidseg.videos.opening import VideoError
from vidseg.videos.orientation import UPRIGHT, jpeg_orientation, jpeg_size

__all__ = ["stored_frames"]


def stored_frames(job: Job, options: ConvertOptions) -> EncodedFrames:
    """Return the frames of a folder of JPEGs or of a database, for a job of the kind "jpegs" or "database".

    Raises:
        VideoError: the source cannot be read.
    """
    return _jpeg_frames(job, options) if job.kind == "jpegs" else _database_frames(job, options)


def _jpeg_frames(job: Job, options: ConvertOptions) -> EncodedFrames:
    numbered = numbered_jpegs(Path(job.source))
    frames = EncodedFrames(iter(()), {"codec": "mjpeg", "container": "folder of JPEG files"})
    first, last = numbered[0][0], numbered[-1][0]
    missing = sorted(set(range(first, last + 1)) - {number for number, _ in numbered})
    if missing:
        frames.damage.append(f"{counted(len(missing), 'frame')} missing, first missing number {missing[0]}")
    blobs = ((path.read_bytes, path.name) for _, path in numbered)
    times = (index / options.fps for index in range(len(numbered))) if options.fps else None
    frames.properties["fps"] = options.fps
    frames.stream = _restored(blobs, times, options, frames)
    return frames


def _database_frames(job: Job, options: ConvertOptions) -> EncodedFrames:
    try:
        database = FrameDatabase(job.source)
    except (FrameDatabaseError, OSError) as error:
        raise VideoError(str(error)) from error
    if options.fps is not None:
        raise VideoError("--fps cannot resample a frame database; convert the original video with --fps")
    kept = ("fps", "codec", "container", "pixel_format", "source_width", "source_height", "source_sha256")
    frames = EncodedFrames(iter(()), {key: database.meta[key] for key in kept if key in database.meta})
    frames.damage += json.loads(database.meta["damage"]) if "damage" in database.meta else []
    blobs = ((lambda index=index: database.read([index])[0], f"frame {index}") for index in range(len(database)))
    times = None if database.timestamps is None else iter(database.timestamps.tolist())
    frames.stream = _restored(blobs, times, options, frames)
    return frames


def _restored(
    blobs: Iterator[tuple[Callable[[], bytes], str]],
    times: Iterator[float] | None,
    options: ConvertOptions,
    frames: EncodedFrames,
) -> Iterator[tuple[list[bytes], int, float | None]]:
    """Convert JPEGs of any encoder to the size, restart interval and levels of the options, upright by their EXIF tags.

    If neither size, quality nor orientation changes, the pixels stay bit-equal.
    """
    size, count, first, moment = None, 0, None, None
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
            jpegs = encode_rgb(
                image,
                options.quality,
                chroma=options.chroma,
                restart_interval=options.restart_interval,
                optimize=options.optimize,
                levels=options.levels,
            )
            if keep:
                jpegs[0] = recode_jpeg(jpeg, restart_interval=options.restart_interval, optimize=options.optimize)
        except (RuntimeError, ValueError, OSError) as error:
            frames.damage.append(f"{name}: {str(error).splitlines()[0]}")
            if times is not None:
                next(times)
            continue
        moment = None if times is None else next(times)
        first = moment if first is None else first
        count += 1
        yield jpegs, size[0], moment
    if size is None:
        raise VideoError(f"no frame could be decoded: {frames.damage[0]}")
    fps = frames.properties.get("fps")
    duration = moment - first + 1.0 / (fps or 25.0) if moment is not None and first is not None else 0.0  # type: ignore[operator]
    frames.properties.update(width=size[0], height=size[1], duration=duration or (count / fps if fps else 0.0))  # type: ignore[operator]
    frames.properties.update(chroma=options.chroma, restart_interval=options.restart_interval)
