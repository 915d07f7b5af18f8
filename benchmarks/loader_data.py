"""Data of the loader benchmark: the same frames as videos, frame databases, published databases and JPEG files.

The videos are synthetic, with added grain that brings their JPEGs (340x256, quality 90) to 23 KB on average; frames of
real clips of that size have 15 to 24 KB, frames of a camera instead of compressed video about 30 KB. Every clip of a
pass has its own database. The databases are hard links to those of the distinct videos, so the files need little disk
and stay in the page cache: the benchmark measures loading, not the disk.
"""

import json
import os
import shutil
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vidseg.convert import convert_videos
from vidseg.convert.synth import ACTIONS, frame_planes
from vidseg.frames import FrameDatabase
from vidseg.frames.jpeg import recode_jpeg
from vidseg.labels import scan_catalog

__all__ = ["SEGMENT", "DataOptions", "Sources", "make_data"]

WIDTH, HEIGHT, FPS = 340, 256, 25
SEGMENT = 32
"""Frames of a record of the formats with shards."""


@dataclass(frozen=True)
class DataOptions:
    """Options of `make_data`: number of distinct videos, frames per video, number of videos of the data set, and folder
    of real clips that replace the synthetic videos ("": none)."""

    distinct: int = 48
    frames: int = 250
    videos: int = 24576
    clips: str = ""


@dataclass(frozen=True)
class Sources:
    """Folders of each format of the data."""

    folder: Path

    @property
    def dataset(self) -> Path:
        """Data set in vidseg's format, with its catalog."""
        return self.folder / "dataset"

    def video(self, name: str) -> Path:
        """Return the source video of the data set's video `name`."""
        return self.folder / "videos" / _class_of(name) / f"{_distinct(name)}.mp4"

    def published(self, name: str) -> Path:
        """Return the database of the same frames in the format of dataset2database 1.2."""
        return self.folder / "published" / _distinct(name) / "frames.db"

    def files(self, name: str) -> Path:
        """Return the folder of the same frames as JPEG files."""
        return self.folder / "files" / _distinct(name)

    def small(self, name: str) -> Path:
        """Return the folder of smaller JPEG files; `loader_formats.make_store` writes this format and the next ones."""
        return self.folder / "small" / _distinct(name)

    def gop12(self, name: str) -> Path:
        """Return the video with a key frame every 12 frames."""
        return self.folder / "gop12" / f"{_distinct(name)}.mp4"

    @property
    def tar(self) -> Path:
        """Folder of tar shards."""
        return self.folder / "tar"

    @property
    def mds(self) -> Path:
        """Folder of MosaicML streaming's shards."""
        return self.folder / "mds"

    @property
    def litdata(self) -> Path:
        """Folder of LitData's chunks."""
        return self.folder / "litdata"

    def bytes_per_frame(self, store: str) -> float:
        """Return the size on disk of a frame in one format, "dataset" or the name of a method or property."""
        folder = self.folder / ("videos" if store == "video" else store)
        # the databases of the data set are hard links to those of the first videos
        paths = folder.glob("jpg/*/*-00000/frames.db") if store == "dataset" else folder.rglob("*")
        size = sum(path.stat().st_size for path in paths if path.is_file())
        lengths = [sum(1 for _ in folder.iterdir()) for folder in (self.folder / "files").iterdir()]
        if store in ("tar", "mds", "litdata"):
            lengths = [length // SEGMENT * SEGMENT for length in lengths]
        return size / sum(lengths)


def make_data(folder: Path, options: DataOptions) -> Sources:
    """Write the data to `folder`, or reuse the data of an earlier call with equal options.

    Raises:
        FileExistsError: the folder holds data of other options.
        RuntimeError: a video cannot be converted.
    """
    sources, record = Sources(folder), folder / "options.json"
    if record.exists():
        if json.loads(record.read_text()) != asdict(options):
            raise FileExistsError(
                f"{folder} holds data of other options, {record.read_text().strip()}; choose another --data folder"
            )
        return sources
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds other files or incomplete data; remove the folder or choose another")
    folder.mkdir(parents=True, exist_ok=True)
    converted = folder / "converted"
    if options.clips:
        _link_clips(Path(options.clips), sources)
        report = convert_videos(folder / "videos", converted, levels=2)
    else:
        names = [f"{list(ACTIONS)[number % len(ACTIONS)]}-{number:03d}" for number in range(options.distinct)]
        with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(_write_video, [sources.video(name) for name in names], names, [options.frames] * len(names)))
        report = convert_videos(folder / "videos", converted, size="none", levels=2)
        if not report.ok:
            raise RuntimeError(f"the conversion failed:\n{report}")
    databases = {path.parent.name: path for path in sorted(converted.glob("jpg/*/*/frames.db"))}
    # damaged clips and those shorter than a clip of the benchmark are left out
    sound = {outcome.target.split("/")[-1] for outcome in report.outcomes if outcome.state == "converted"}
    databases = {
        name: path for name, path in databases.items() if name in sound and len(FrameDatabase(path)) >= SEGMENT
    }
    names = list(databases)
    if not names:
        raise RuntimeError(f"no video with at least {SEGMENT} frames could be converted:\n{report}")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(_write_plain, [sources] * len(names), names, [databases[name] for name in names]))
    for number in range(options.videos):
        name = names[number % len(names)]
        target = sources.dataset / "jpg" / _class_of(name) / f"{name}-{number // len(names):05d}"
        target.mkdir(parents=True)
        for file in ("frames.db", "n_frames"):
            os.link(databases[name].with_name(file), target / file)
    scan_catalog(sources.dataset)
    shutil.rmtree(converted)
    record.write_text(json.dumps(asdict(options)) + "\n")
    return sources


def _link_clips(clips: Path, sources: Sources) -> None:
    """Copy the videos below a folder to the places of the synthetic ones."""
    videos = sorted(
        path for path in clips.rglob("*") if path.suffix.lower() in (".avi", ".mkv", ".mov", ".mp4", ".webm")
    )
    if not videos:
        raise FileNotFoundError(f"{clips} has no .avi, .mkv, .mov, .mp4 or .webm files")
    for number, video in enumerate(videos):
        target = sources.video(f"clip-{number:03d}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(video, target)  # as .mp4: every decoder reads the format from the content


def _class_of(name: str) -> str:
    return name.split("-")[0]


def _distinct(name: str) -> str:
    return "-".join(name.split("-")[:2])


def _grain(rng: np.random.Generator) -> np.ndarray:
    """Return noise of three octaves, float32 (HEIGHT, WIDTH), deviation about 1."""
    octaves = []
    for side in (1, 2, 4):
        noise = rng.standard_normal((HEIGHT // side, WIDTH // side))
        octaves.append(np.kron(noise, np.ones((side, side))))
    return (sum(octaves) / np.sqrt(3)).astype(np.float32)


def _write_video(path: Path, name: str, frames: int) -> None:
    """Write one H.264 video with x264's default key frames, as in web videos."""
    rng = np.random.default_rng(int(name.split("-")[1]))
    grain = rng.uniform(3.5, 9.0) * _grain(rng)
    motion = np.tile(ACTIONS[_class_of(name)], (frames, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "veryfast", "crf": "20"}
        for number, (luma, blue, red) in enumerate(frame_planes(rng, motion, width=WIDTH, height=HEIGHT, fps=FPS)):
            luma = np.clip(luma + grain, 16, 235).astype(np.uint8)
            image = np.concatenate([plane.reshape(-1) for plane in (luma, blue, red)]).reshape(-1, WIDTH)
            frame = av.VideoFrame.from_ndarray(image, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_plain(sources: Sources, name: str, database: Path) -> None:
    """Write the published database and the folder of JPEG files, with equal pixels and without restart markers."""
    frames = FrameDatabase(database)
    jpegs = [recode_jpeg(jpeg, restart_interval=0) for jpeg in frames.read(range(len(frames)))]
    folder = sources.files(name)
    folder.mkdir(parents=True)
    for number, jpeg in enumerate(jpegs, start=1):
        (folder / f"frame_{number:05d}.jpg").write_bytes(jpeg)
    path = sources.published(name)
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA page_size=4096")
    connection.execute("CREATE TABLE Images(ObjId STRING, frames BLOB, size INT)")
    # dataset2database inserts files in directory order, which differs from frame order
    for number in np.random.default_rng(len(jpegs)).permutation(len(jpegs)).tolist():
        row = (f"{path.parent.name}/frame_{number + 1:05d}", jpegs[number], WIDTH)
        connection.execute("INSERT INTO Images VALUES (?, ?, ?)", row)
    connection.commit()
    connection.close()
