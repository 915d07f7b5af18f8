"""Hostile frame databases: schema, metadata, timestamps, rows and JPEGs of frames.db."""

from __future__ import annotations

import io
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from hostile import damage_bytes, damage_database
from inputs import Call, Target
from PIL import Image

from vidseg.frames import FrameDatabase, FrameDatabaseError, FrameWriter, StreamForm, StreamWriter
from vidseg.frames.packet_group import pack_group, unpack_group
from vidseg.labels.scan import scan_catalog

ERRORS = (FrameDatabaseError, FileNotFoundError)
_SEEDS: dict[str, bytes] = {}


def _jpeg(number: int, height: int, width: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (3, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(buffer, "JPEG", quality=50, progressive=number == 2)
    return buffer.getvalue()


def _seeds(folder: Path) -> dict[str, bytes]:
    if not _SEEDS:
        own, published = folder / "own.db", folder / "published.db"
        meta = {
            "fps": 25.0,
            "duration": 0.16,
            "height": 32,
            "width": 48,
            "source": "v.mp4",
            "damage": "[]",
            "options": "{}",
        }
        with FrameWriter(own, levels=1, meta=meta) as writer:
            for number in range(4):
                levels = [_jpeg(number, 16, 24)]
                writer.add(_jpeg(number, 32, 48), width=48, levels=levels, timestamp=number / 25)
        with closing(sqlite3.connect(published)) as connection:
            connection.execute("CREATE TABLE Images(ObjId TEXT, frames BLOB NOT NULL, size INT)")
            rows = [(f"clip/frame_{number:05d}", _jpeg(number, 32, 48), 48) for number in (2, 1, 3)]
            connection.executemany("INSERT INTO Images VALUES (?, ?, ?)", rows)
            connection.commit()
        coded = folder / "coded.db"
        with StreamWriter(
            coded, StreamForm(gop=3), meta={key: meta[key] for key in ("fps", "duration")}
        ) as stream_writer:
            for number in range(5):
                pixels = np.random.default_rng(number).integers(0, 256, (32, 48, 3), np.uint8)
                stream_writer.add_rgb(torch.from_numpy(pixels), timestamp=number / 25)
        _SEEDS.update(own=own.read_bytes(), published=published.read_bytes(), coded=coded.read_bytes())
    return _SEEDS


def make(draw: random.Random, folder: Path) -> tuple[str, bytes]:
    path = folder / "changed.db"
    seed = draw.choice(("own", "own", "published", "coded"))
    path.write_bytes(_seeds(folder)[seed])
    if draw.random() >= 0.3:
        damage_database(draw, path)
    elif seed == "coded":  # only a packet, with a right checksum
        with closing(sqlite3.connect(path)) as connection:
            row, blob = draw.choice(connection.execute("SELECT key_frame, packets FROM Stream").fetchall())
            packets = unpack_group(blob)
            place = draw.randrange(len(packets))
            packets[place] = damage_bytes(draw, packets[place])
            connection.execute("UPDATE Stream SET packets = ? WHERE key_frame = ?", (pack_group(packets), row))
            connection.commit()
    else:  # only a JPEG
        with closing(sqlite3.connect(path)) as connection:
            row, jpeg = draw.choice(connection.execute("SELECT rowid, frames FROM Images").fetchall())
            connection.execute("UPDATE Images SET frames = ? WHERE rowid = ?", (damage_bytes(draw, jpeg), row))
            connection.commit()
    return "frames.db", path.read_bytes()


def read_frames(path: Path) -> None:
    with FrameDatabase(path) as database:
        height, width = database.frame_size
        assert height > 0 and width > 0 and database.levels >= 0 and repr(database)
        frames = database.decode(range(min(len(database), 8)), size=(8, 12))
        assert frames.shape[1:] == (8, 12, 3)


def read_bytes(path: Path) -> None:
    with FrameDatabase(path) as database:
        for level in range(database.levels + 1):
            assert all(database.read([0, len(database) - 1], level=level))


def read_times(path: Path) -> None:
    with FrameDatabase(path) as database:
        times = database.timestamps
        assert times is None or np.isfinite(times).all()


def stream(path: Path) -> None:
    with FrameDatabase(path) as database:
        for number, frame in enumerate(database):
            assert frame.shape[2] == 3
            if number == 20:
                break


def verify(path: Path) -> None:
    with FrameDatabase(path) as database:
        if len(database) <= 1000:  # every frame is read
            assert all(isinstance(problem, str) and len(problem) < 2000 for problem in database.verify())


def scan(path: Path) -> None:
    root = path.parent / "data"
    folder = root / "jpg" / "run" / "v"
    folder.mkdir(parents=True)
    (folder / "frames.db").write_bytes(path.read_bytes())
    str(scan_catalog(root))


def calls(path: Path) -> Iterator[Call]:
    for read in (read_frames, read_bytes, read_times, stream, verify):
        yield Call(read.__name__, lambda read=read: read(path), ERRORS, str(path))
    yield Call("scan_catalog", lambda: scan(path), ERRORS, str(path.parent / "data"))


TARGET = Target(make, calls)
