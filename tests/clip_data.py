"""A data set made of databases of many kinds, and plans made by hand, for the tests of the loaders."""

import io
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from conftest import write_published_database
from PIL import Image

from vidseg.clips import BatchPlan, ColorPlan
from vidseg.frames import FrameWriter, encode_rgb
from vidseg.labels import VideoDataset, VideoRecord, open_dataset, update_catalog

FRAMES = 6
HEIGHT, WIDTH = 90, 131
KINDS = ("automatic", "gray", "levels", "no_restart", "optimized", "progressive", "published", "sharp_chroma")


def natural(seed: int, *, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A picture with smooth areas, edges and some grain, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
    rgb = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    rgb[height // 4 : height // 2, width // 5 : width // 3] += 60
    return np.clip(rgb + rng.integers(-12, 13, rgb.shape), 0, 255).astype(np.uint8)


def _jpegs(kind: str, rgb: np.ndarray) -> list[bytes]:
    frame = torch.from_numpy(rgb)
    if kind in ("gray", "progressive"):
        buffer = io.BytesIO()
        image = Image.fromarray(rgb).convert("L" if kind == "gray" else "RGB")
        image.save(buffer, "JPEG", quality=88, progressive=kind == "progressive")
        return [buffer.getvalue()]
    options = {
        "automatic": {},
        "levels": {"levels": 2},
        "no_restart": {"restart_interval": 0},
        "optimized": {"optimize": True},
        "published": {"restart_interval": 0},
        "sharp_chroma": {"chroma": 444},
    }[kind]
    return encode_rgb(frame, 88, **options)


def clip_dataset(root: Path, kinds: Sequence[str] = KINDS) -> VideoDataset:
    """One video of each kind, in this order, classes 0 and 1 in turn."""
    records = []
    for number, kind in enumerate(kinds):
        folder = root / "jpg" / "ab"[number % 2] / f"{number}_{kind}"
        blobs = [_jpegs(kind, natural(100 * number + index)) for index in range(FRAMES)]
        if kind == "published":
            write_published_database(folder, [blob[0] for blob in blobs], width=WIDTH, order=[3, 0, 5, 1, 4, 2])
        else:
            with FrameWriter(folder / "frames.db", levels=len(blobs[0]) - 1) as writer:
                for whole, *levels in blobs:
                    writer.add(whole, width=WIDTH, levels=levels)
        records.append(
            VideoRecord(
                path=folder.relative_to(root).as_posix(),
                label="ab"[number % 2],
                frames=FRAMES,
                height=HEIGHT,
                width=WIDTH,
                fps=25.0,
                seconds=FRAMES / 25,
                size_bytes=(folder / "frames.db").stat().st_size,
            )
        )
    update_catalog(root, records)
    data = open_dataset(root)
    return data.subset(sorted(range(len(data)), key=lambda index: int(data[index].name.partition("_")[0])))


def crop(left: float, top: float, width: float, height: float, *, size: tuple[int, int], mirror: bool = False):
    """The matrix that shows a rectangle of the frame at `size` (H, W)."""
    across = width / size[1]
    matrix = np.array([[across, 0, left], [0, height / size[0], top], [0, 0, 1]])
    if mirror:
        matrix[0] = [-across, 0, left + width]
    return matrix


def hand_plan(
    matrices: Sequence[np.ndarray],
    *,
    size: tuple[int, int],
    videos: Sequence[int] | None = None,
    frames: Sequence[int] = (0,),
    colors: ColorPlan | None = None,
) -> BatchPlan:
    """One clip for each matrix."""
    clips = len(matrices)
    numbers = np.array(videos if videos is not None else [0] * clips, np.int64)
    return BatchPlan(
        epoch=0,
        index=0,
        height=size[0],
        width=size[1],
        videos=numbers,
        views=np.zeros(clips, np.int64),
        labels=np.zeros(clips, np.int64),
        frames=np.tile(np.array(frames, np.int64), (clips, 1)),
        matrices=np.stack(matrices).astype(np.float64),
        colors=ColorPlan.none(clips) if colors is None else colors,
    )


def break_row(path: Path, row: int, blob: object, *, table: str = "Images") -> None:
    """Put something else where a JPEG was."""
    connection = sqlite3.connect(path)
    column = "frames" if table == "Images" else "jpeg"
    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (blob, row))
    connection.commit()
    connection.close()
