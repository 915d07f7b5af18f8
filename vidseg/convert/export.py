"""Export of frame databases to JPEG files or video files."""

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from vidseg.frames import FrameDatabase, FrameDatabaseError, encode_planes
from vidseg.frames.schema import DATABASE_NAME
from vidseg.frames.whole_file import whole_file
from vidseg.labels.counting import counted
from vidseg.videos.opening import file_address

__all__ = ["export_frames", "find_databases"]

_TIME_BASE = Fraction(1, 90_000)
_DEFAULT_FPS = 25.0  # for databases without timestamps and frame rate
_BATCH = 32
_QUALITY = 95  # of the JPEGs of a video stream


def export_frames(source: str | Path, target: str | Path, *, form: str, overwrite: bool = False) -> str:
    """Write the frames of one database, or of all databases below a folder, as JPEG files or as videos.

    Files that an earlier export of the same frames has written are kept.

    JPEG files contain the stored bytes unchanged; those of a video stream have quality 95. They are named
    frame_%05d.jpg, counted from 1; the folder structure is kept. Videos are H.264 in MP4, one `<video>.mp4` per
    database, with the stored timestamps.

    Args:
        source: a frames.db, its folder, or a folder with databases at any depth.
        target: output folder.
        form: "jpeg" or "video".
        overwrite: replace existing files.

    Returns:
        A summary of the files written.

    Raises:
        FileNotFoundError: `source` holds no database.
        FileExistsError: an output file exists that is not of these frames, and `overwrite` is off.
        FrameDatabaseError: a database cannot be read.
    """
    source, target = Path(source), Path(target)
    videos = frames = kept = 0
    for path, relative in find_databases(source, DATABASE_NAME):
        database = FrameDatabase(path)
        place = target / relative
        if form == "jpeg":
            written = _export_jpegs(database, place, overwrite)
        else:
            written = _export_video(database, place.with_name(f"{place.name}.mp4"), overwrite)
        videos, frames, kept = videos + bool(written), frames + written, kept + (not written)
    kind = "JPEG files" if form == "jpeg" else "H.264"
    text = f"{counted(videos, 'video')}, {counted(frames, 'frame')} written to {target} as {kind}"
    return text + (f"; {counted(kept, 'video')} exported earlier" if kept else "")


def find_databases(source: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """Yield each database of that file name at or below `source`, with the place of its export in the output folder.

    Raises:
        FileNotFoundError: there is none.
    """
    if source.is_file() or (source / name).is_file():
        path = source / name if source.is_dir() else source
        yield path, Path(path.resolve().parent.name)
        return
    root = source / "jpg" if (source / "jpg").is_dir() else source
    paths = sorted(root.rglob(name))
    if not paths:
        raise FileNotFoundError(f"{source}: no {name} at or below this path")
    for path in paths:
        yield path, path.parent.relative_to(root)


def _export_jpegs(database: FrameDatabase, folder: Path, overwrite: bool) -> int:
    """Write the frames that are not there yet; returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for index, jpeg in enumerate(_jpegs(database)):
        path = folder / f"frame_{index + 1:05d}.jpg"
        if path.exists() and not overwrite:
            if path.read_bytes() != jpeg:
                raise FileExistsError(f"{path}: the file exists, with another frame; --overwrite replaces it")
            continue
        with whole_file(path) as temporary:
            temporary.write_bytes(jpeg)
        written += 1
    return written


def _jpegs(database: FrameDatabase) -> Iterator[bytes]:
    if database.coded is None:
        for index in range(len(database)):
            yield database.read([index])[0]
        return
    for _, planes in database.coded.frames(range(len(database))):
        yield encode_planes(
            planes.planes,
            planes.strides,
            width=planes.width,
            height=planes.height,
            quality=_QUALITY,
            chroma=planes.sampling,
            luma_weights=planes.luma_weights,
            full_range=planes.full_range,
            restart_interval=0,
        )[0]


def _export_video(database: FrameDatabase, path: Path, overwrite: bool) -> int:
    """Write the video if it is not there yet; returns the number of frames written."""
    times = _times(database)
    mark = _mark(database, times)
    if path.exists() and not overwrite:
        if _mark_of(path) != mark:
            raise FileExistsError(f"{path}: the file exists, and is no export of these frames; --overwrite replaces it")
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = database.frame_size
    try:
        with whole_file(path) as temporary, av.open(file_address(temporary), "w", format="mp4") as container:
            container.metadata["comment"] = mark
            stream = container.add_stream(
                "libx264", rate=Fraction(database.meta.get("fps") or _DEFAULT_FPS).limit_denominator(1001)
            )
            # 4:2:0 video needs even sides: an odd last row or column is dropped, a single one is repeated
            stream.width, stream.height = max(2, width // 2 * 2), max(2, height // 2 * 2)
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = stream.time_base = _TIME_BASE
            stream.options = {"crf": "18"}
            for start in range(0, len(database), _BATCH):
                indices = range(start, min(start + _BATCH, len(database)))
                for index, pixels in zip(indices, database.decode(indices).numpy(), strict=True):
                    frame = av.VideoFrame.from_ndarray(_fitted(pixels, stream.height, stream.width), format="rgb24")
                    frame.pts, frame.time_base = round(times[index] / _TIME_BASE), _TIME_BASE
                    container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise FrameDatabaseError(f"{database.path}: cannot be exported as video: {error}") from error
    return len(database)


def _mark(database: FrameDatabase, times: list[float]) -> str:
    """Return the text that an exported video has as its comment: a hash of the frames and times."""
    digest = hashlib.sha256(np.asarray(times, "<f8").tobytes())
    coded = database.coded
    rows = map(coded.row, range(-(-coded.count // coded.gop))) if coded is not None else _jpegs(database)
    for row in rows:
        digest.update(row)
    return f"vidseg export {digest.hexdigest()}"


def _mark_of(path: Path) -> str | None:
    """Return the comment of an existing video, or None."""
    try:
        with av.open(file_address(path)) as container:
            return container.metadata.get("comment")
    except (av.error.FFmpegError, OSError):
        return None


def _fitted(pixels: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return (H, W, 3) pixels of the given size; the last row and column are dropped or repeated."""
    missing = [(0, max(0, side - have)) for side, have in zip((height, width), pixels.shape, strict=False)]
    return np.ascontiguousarray(np.pad(pixels[:height, :width], [*missing, (0, 0)], mode="edge"))


def _times(database: FrameDatabase) -> list[float]:
    """Return the time of each frame in seconds since the first frame."""
    stored = database.timestamps
    if stored is None:
        fps = database.meta.get("fps") or _DEFAULT_FPS
        return [index / fps for index in range(len(database))]
    return list((stored - stored[0]).tolist())
