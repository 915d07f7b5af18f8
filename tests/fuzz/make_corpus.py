"""Writes the seeds of the fuzzers: small JPEGs of many kinds, frame databases, planes.

Usage: make_corpus.py FOLDER   (a folder for each fuzzer: fill, baseline, table)
"""

import io
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vidseg.frames import FrameWriter, encode_rgb

HEAD = bytes([40, 3, 30, 2, 0, 1])  # the crop of fill_fuzzer.cpp: scales, offsets, bend; then the denominator


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def pillow_jpeg(mode: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(40, 70)).convert(mode).save(buffer, "JPEG", quality=80, **options)
    return buffer.getvalue()


def jpegs() -> dict[str, bytes]:
    frame = torch.from_numpy(picture(50, 68))
    return {
        "restart": encode_rgb(frame, 80, restart_interval=1)[0],
        "restart_444": encode_rgb(frame, 60, chroma=444, restart_interval=3)[0],
        "no_restart": encode_rgb(frame, 80, restart_interval=0)[0],
        "optimized": encode_rgb(frame, 80, restart_interval=1, optimize=True)[0],
        "one_pixel": encode_rgb(torch.zeros(1, 1, 3, dtype=torch.uint8), 80)[0],
        "progressive": pillow_jpeg("RGB", progressive=True),
        "gray": pillow_jpeg("L"),
        "cmyk": pillow_jpeg("CMYK"),
        "chroma_422": pillow_jpeg("RGB", subsampling="4:2:2"),
    }


def planes() -> dict[str, bytes]:
    """Width, height, kind of colors, strides; then Y, Cb and Cr in thirds of the bytes."""
    side, samples = 40, np.random.default_rng(0).integers(0, 256, 3 * 40 * 40, np.uint8).tobytes()
    return {str(kind): bytes([side - 1, side - 1, kind, side, side, side]) + samples for kind in range(8)}


def databases(folder: Path) -> dict[str, bytes]:
    blobs = [encode_rgb(torch.from_numpy(picture(32, 48, seed)), 50, levels=1) for seed in range(3)]
    path = folder / "frames.db"
    with FrameWriter(path, levels=1) as writer:
        for whole, half in blobs:
            writer.add(whole, width=48, levels=[half])
    own = path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA page_size=512")  # many pages in few bytes
        connection.execute("VACUUM")
    small = path.read_bytes()
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA page_size=1024")
    connection.execute("CREATE TABLE Images(ObjId TEXT, frames BLOB NOT NULL, size INT)")
    for number in (2, 1, 3):
        row = (f"clip/frame_{number:05d}", blobs[number - 1][0], 48)
        connection.execute("INSERT INTO Images VALUES(?, ?, ?)", row)
    connection.commit()
    connection.close()
    return {"own": own, "small": small, "published": path.read_bytes()}


def write(folder: Path, seeds: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds.items():
        (folder / name).write_bytes(data)


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        files = databases(Path(scratch))
    fill = {f"jpeg_{name}": b"\x00" + HEAD[:5] + b"\x00" + data for name, data in jpegs().items()}
    fill |= {f"jpeg_{name}_half": b"\x00" + HEAD[:4] + b"\x03\x01" + data for name, data in jpegs().items()}
    fill |= {f"database_{name}": b"\x01" + HEAD[:5] + data for name, data in files.items()}
    fill |= {f"planes_{name}": b"\x02" + HEAD[:5] + data for name, data in planes().items()}
    write(folder / "fill", fill)
    write(folder / "baseline", {name: bytes([64, 32, 128, 160]) + data for name, data in jpegs().items()})
    write(folder / "table", files)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
