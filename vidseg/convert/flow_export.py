"""Export of optical flow, motion vectors and residuals to JPEG files, NumPy arrays or .flo files."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vidseg.convert.export import find_databases
from vidseg.frames import FlowDatabase, encode_rgb
from vidseg.frames.schema import DATABASE_NAMES
from vidseg.frames.whole_file import whole_file
from vidseg.labels.counting import counted

__all__ = ["export_flow"]

_BATCH = 32
_QUALITY = 95  # of the JPEG files; OpenCV's default, with which the published ones were written
_FLO_MARK = struct.pack("<f", 202021.25)

Floats = npt.NDArray[np.float32]


def export_flow(
    source: str | Path, target: str | Path, *, form: str, modality: str = "flow", overwrite: bool = False
) -> str:
    """Write the fields of one database, or of all databases below a folder, in a published form.

    Files that an earlier export of the same fields has written are kept. The folder structure is kept.

    Args:
        source: a flow.db, its folder, or a folder with databases at any depth.
        target: output folder.
        form: "jpeg": two gray pictures for each frame, flow_x_%05d.jpg and flow_y_%05d.jpg, counted from 1, with
            -bound to bound mapped to 0 to 255, as TSN reads them; of residuals the stored JPEG. "npy": one array
            float32 (T, C, H, W) for each video. "flo": one file for each frame, flow_%05d.flo, as the Middlebury
            benchmark has them.
        modality: "flow", "motion" or "residual".
        overwrite: replace existing files.

    Returns:
        A summary of the files written.

    Raises:
        FileNotFoundError: `source` holds no database.
        FileExistsError: an output file exists that is not of these fields, and `overwrite` is off.
        ValueError: residuals have no such form.
        FrameDatabaseError: a database cannot be read.
    """
    if modality == "residual" and form == "flo":
        raise ValueError("form='flo': residuals are no vectors; export them as jpeg or npy")
    export = {"jpeg": _export_files, "flo": _export_files, "npy": _export_array}[form]
    videos = frames = kept = 0
    for path, relative in find_databases(Path(source), DATABASE_NAMES[modality]):
        database = FlowDatabase(path)
        written = export(database, Path(target) / relative, form, overwrite)
        videos, frames, kept = videos + bool(written), frames + written, kept + (not written)
    text = f"{counted(videos, 'video')}, {counted(frames, 'frame')} of {modality} written to {target} as {form}"
    return text + (f"; {counted(kept, 'video')} exported earlier" if kept else "")


def _fields(database: FlowDatabase) -> Iterator[Floats]:
    """Yield each field, float32 (C, H, W)."""
    read = database.residual if database.modality == "residual" else database.flow
    for start in range(0, len(database), _BATCH):
        yield from read(range(start, min(start + _BATCH, len(database)))).numpy()


def _export_files(database: FlowDatabase, folder: Path, form: str, overwrite: bool) -> int:
    """Write the files of the frames that are not there yet; returns the number of frames written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for index, field in enumerate(_fields(database)):
        number = f"{index + 1:05d}"
        if form == "flo":
            files = {f"{database.modality}_{number}.flo": _flo(field)}
        elif database.modality == "residual":
            files = {f"residual_{number}.jpg": _residual(database, index)}
        else:
            pictures = (_gray(values, database.bound) for values in field)
            files = {
                f"{database.modality}_{axis}_{number}.jpg": jpeg for axis, jpeg in zip("xy", pictures, strict=True)
            }
        new = [_write(folder / name, content, overwrite) for name, content in files.items()]
        written += any(new)
    return written


def _write(path: Path, content: bytes, overwrite: bool) -> bool:
    """Write a file unless it is there; returns whether it was written."""
    if path.exists() and not overwrite:
        if path.read_bytes() != content:
            raise FileExistsError(f"{path}: the file exists, with another field; --overwrite replaces it")
        return False
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
    return True


def _gray(values: Floats, bound: float) -> bytes:
    """Encode one component (H, W) as TSN's programs do: -bound is 0, bound is 255, 0 is 128."""
    levels = np.rint(np.clip((values + bound) * (255 / (2 * bound)), 0, 255)).astype(np.uint8)
    return encode_rgb(torch.from_numpy(np.repeat(levels[..., None], 3, axis=2)), _QUALITY, restart_interval=0)[0]


def _residual(database: FlowDatabase, index: int) -> bytes:
    if database.values == "float16":
        raise ValueError(f"{database.path}: its residuals are float16; export them as npy")
    return database.read([index])[0]


def _flo(field: Floats) -> bytes:
    _, height, width = field.shape
    return _FLO_MARK + struct.pack("<ii", width, height) + field.transpose(1, 2, 0).astype("<f4").tobytes()


def _export_array(database: FlowDatabase, place: Path, form: str, overwrite: bool) -> int:
    """Write the array of a video if it is not there yet; returns the number of frames written."""
    path = place.with_name(f"{place.name}.{form}")
    channels = 3 if database.modality == "residual" else 2
    shape = (len(database), channels, *database.frame_size)
    if path.exists() and not overwrite:
        if not _same_array(path, database, shape):
            raise FileExistsError(f"{path}: the file exists, with other fields; --overwrite replaces it")
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        for index, field in enumerate(_fields(database)):
            array[index] = field
        array.flush()
        del array
    return len(database)


def _same_array(path: Path, database: FlowDatabase, shape: tuple[int, ...]) -> bool:
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError):  # not such a file
        return False
    if array.shape != shape or array.dtype != np.float32:
        return False
    return all(np.array_equal(array[index], field) for index, field in enumerate(_fields(database)))
