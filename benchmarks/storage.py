"""Bytes a frame, PSNR and clips/s of each way to store the same videos.

    python benchmarks/storage.py [--clips FOLDER] [--rows q90-levels,video,source] [--data FOLDER] [--json FILE]

The videos are synthetic, or those of `--clips`, each copied until there are `--videos`. A profile is converted with
`vidseg.convert_videos`; `source` reads the video files. PSNR is that of the mean squared error of RGB pixels, between
the stored frames and the source frames in the stored size, averaged over the videos; videos with an error below 0.01
count as 68 dB. Clips have 16 frames with intervals of 1 and 2, training plans with random resized crops, and normalized
float32 batches. The rows alternate within each round; the table shows medians. All files are in the page cache.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

import vidseg
from vidseg.convert import convert_videos
from vidseg.convert.synth import SynthOptions, synthesize_videos
from vidseg.frames import FrameDatabase
from vidseg.labels import VideoDataset, open_dataset
from vidseg.loaders import ClipLoader
from vidseg.videos import VideoSource, open_videos
from vidseg.videos.opening import VideoError
from vidseg.videos.upright import UprightFrames

CORES = len(os.sched_getaffinity(0))
PROFILES: dict[str, tuple[str, dict[str, Any]]] = {
    "q90-levels": ("JPEG quality 90, levels (default)", {}),
    "q90": ("JPEG quality 90", {"levels": 0}),
    "q75-levels": ("JPEG quality 75, levels", {"quality": 75}),
    "q75": ("JPEG quality 75", {"quality": 75, "levels": 0}),
    "video": ("--store video, H.264", {"store": "video"}),
    "hevc": ("--store video, HEVC", {"store": "video", "codec": "hevc"}),
}
NAMES = {**{name: what for name, (what, _) in PROFILES.items()}, "source": "source videos, backend='video'"}
FRAMES, BATCH = 16, 12
LEAST = 0.01  # mean squared error that counts for videos with less


def make_videos(folder: Path, clips: Path | None, count: int, frames: int) -> Path:
    """Write or copy the source videos.

    Raises:
        FileNotFoundError: `clips` has no videos.
    """
    if (folder / "videos").is_dir():  # of an earlier call
        return folder / "videos"
    if clips is None:
        made = folder / "synth"
        synthesize_videos(made, SynthOptions(videos=count, frames=frames, test_share=0))
        return (made / "videos").rename(folder / "videos")
    files = [path for path in sorted(clips.iterdir()) if path.is_file() and is_video(path)]
    if not files:
        raise FileNotFoundError(f"{clips}: no video files in this folder")
    target = folder / "videos"
    target.mkdir(parents=True)
    for number in range(count):
        source = files[number % len(files)]
        shutil.copyfile(source, target / f"{source.stem}-{number // len(files):03d}{source.suffix}")
    return target


def is_video(path: Path) -> bool:
    """Return whether a file has frames."""
    try:
        next(iter(VideoSource(path)))
    except VideoError:
        return False
    return True


def psnr(database: FrameDatabase, source: Path) -> float:
    """Return the PSNR of the stored frames of one video in dB."""
    upright = UprightFrames(size="256")
    errors = [
        float((stored.float() - upright.planes(item.frame).rgb().float()).square().mean())
        for stored, item in zip(database, VideoSource(source), strict=True)
    ]
    return float(10 * np.log10(255**2 / max(LEAST, np.mean(errors))))


def measure(data: VideoDataset, backend: str, size: int, batches: int) -> tuple[float, float]:
    """Return clips/s and CPU ms per clip of one pass; one batch before it is not counted."""
    order = np.resize(np.arange(len(data)), (batches + 1) * BATCH)
    options = {"frames": FRAMES, "interval": (1, 2), "size": size, "batch_size": BATCH, "sampler": order.tolist()}
    with ClipLoader(data, backend=backend, threads=CORES, pin=False, ahead_bytes=0, **options) as loader:
        batch = iter(loader)
        next(batch)
        began, cpu = time.perf_counter(), time.process_time()
        count = sum(len(one.frames) for one in batch)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return count / seconds, 1000 * cpu / count


def distinct(files: list[Path]) -> list[Path]:
    """Return the first copy of each video."""
    return [path for path in files if path.stem.rpartition("-")[2] in ("000", path.stem)]


def table(rows: list[dict[str, Any]], sizes: list[int]) -> str:
    """Return the rows as a table in Markdown."""
    sizes = sizes if rows[0]["clips"] else []
    heads = ["stored as", "KB a frame", "PSNR dB", *(f"{size} px, clips/s" for size in sizes)]
    heads += [f"{size} px, CPU ms a clip" for size in sizes]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for row in rows:
        quality = "" if row["psnr"] is None else f"{row['psnr']:.1f}"
        cells = [row["name"], f"{row['bytes'] / 1000:.1f}", quality]
        cells += [f"{row['clips'][str(size)]:.0f}" for size in sizes]
        cells += [f"{row['cpu_ms'][str(size)]:.1f}" for size in sizes]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder of video files instead of synthetic videos")
    parser.add_argument("--videos", type=int, default=48, help="number of videos")
    parser.add_argument("--frames", type=int, default=120, help="frames of a synthetic video")
    parser.add_argument("--rows", default=",".join(NAMES), help="rows, separated by commas")
    parser.add_argument("--sizes", default="112,224", help="sizes of the clips in pixels")
    parser.add_argument("--batches", type=int, default=4, help="batches of 12 clips of a pass")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each row; 0: sizes and PSNR only")
    parser.add_argument("--data", type=Path, help="folder to keep the videos and databases in, for further calls")
    parser.add_argument("--json", type=Path, help="file for the results as JSON")
    options = parser.parse_args()
    names, sizes = options.rows.split(","), [int(size) for size in options.sizes.split(",")]
    if unknown := set(names) - set(NAMES):
        parser.error(f"--rows {sorted(unknown)[0]}: not one of {', '.join(NAMES)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or Path(temporary)
        videos = make_videos(folder, options.clips, options.videos, options.frames)
        rows, sets = [], {}
        for name in names:
            if name == "source":
                sets[name] = open_videos(videos)
                size = sum(path.stat().st_size for path in videos.rglob("[!.]*") if path.is_file())
                row = {"psnr": None, "bytes": size / sets[name].frames.sum()}
            else:
                report = convert_videos(videos, folder / name, workers=CORES, **PROFILES[name][1])
                sets[name] = open_dataset(folder / name)
                stored = {Path(outcome.source): folder / name / "jpg" / outcome.target for outcome in report.outcomes}
                values = [psnr(FrameDatabase(stored[path]), path) for path in distinct(sorted(stored))]
                row = {"psnr": statistics.mean(values), "bytes": report.as_dict()["bytes"] / sets[name].frames.sum()}
            rows.append({"row": name, "name": NAMES[name], **row})
            print(f"{NAMES[name]}: {rows[-1]['bytes'] / 1000:.1f} KB a frame", file=sys.stderr)
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for _ in range(options.rounds):
            for size in sizes:
                for name in names:
                    backend = "video" if name == "source" else "native"
                    result = measure(sets[name], backend, size, options.batches)
                    found.setdefault((name, size), []).append(result)
        for row in rows:
            for key, place in (("clips", 0), ("cpu_ms", 1)):
                row[key] = {
                    str(size): statistics.median(one[place] for one in found[row["row"], size])
                    for size in sizes
                    if options.rounds
                }
    machine = f"{platform.machine()}, {CORES} cores, vidseg {vidseg.__version__}, torch {torch.__version__}, "
    machine += f"av {av.__version__}"
    print(machine, table(rows, sizes), sep="\n\n")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1, default=float) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
