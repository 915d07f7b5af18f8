"""What a memory is worth: streaming networks trained end to end from pixels on synthetic untrimmed videos, on the CPU.

    python benchmarks/stream_learning.py [--quick] [--folder DIR] [--json]

The videos show a shape that moves in one of eight ways, with still pauses between; no single frame tells which. Every
network is trained alike, from scratch, on the frames of the training videos, window by window and many videos in each
step, and labels the test videos once, after its last epoch. "frame-wise" is the backbone of ETESVS and a linear layer
for each frame; "frame-wise + shift" gives it the temporal shift, so that it sees neighboring frames of its window;
"etesvs" adds the memory and the temporal convolutions. Exit status 1 where etesvs is not 15 points above frame-wise in
accuracy and in F1@25 (not checked with --quick, which only shows that everything runs). A folder that is given keeps
the videos and runs; run again, finished parts stay.
"""

import csv
import json
import os
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

import vidseg
from vidseg.convert import convert_videos
from vidseg.convert.synth import synthesize_videos
from vidseg.convert.synth_options import SynthOptions
from vidseg.labels import apply_segmentation
from vidseg.labels.catalog import read_catalog
from vidseg.labels.localization import LocalizedVideo, TimedLabel, frame_labels_of
from vidseg.tasks.streaming.recipes import StreamOptions
from vidseg.tasks.streaming.runs import train_stream

MARGIN = 15.0
STILL = "still"
NO_SHIFT = 10**6  # one in so many channels: none

NETWORKS: dict[str, tuple[str, int]] = {
    "frame-wise": ("mobilenet_v2_tsm_frames", NO_SHIFT),
    "frame-wise + shift": ("mobilenet_v2_tsm_frames", 3),
    "etesvs": ("etesvs", 3),
}
"""Network and shift_division by row."""


@dataclass
class Options:
    """Streaming networks against frame-wise classifiers."""

    rows: tuple[str, ...] = tuple(NETWORKS)
    """Networks to train."""
    folder: Path | None = None
    """Where everything is kept; default: a folder that is deleted at the end."""
    quick: bool = False
    """A few videos, two epochs."""
    videos: int = 256
    """Untrimmed videos, a quarter of them held out."""
    epochs: int = 12
    """Passes over the training videos."""
    width: float = 0.25
    """Of the backbone."""
    size: int = 40
    """Height and width of what the network sees, in pixels."""
    frames: int = 16
    """Frames of a window, all of which it sees."""
    group: int = 12
    """Videos that travel together and make one step."""
    lr: float = 2e-3
    """Learning rate of Adam; a tenth of it in the last quarter of the epochs."""
    threads: int | None = None
    """Threads of the network and of the decoder; default: one for each core."""
    seed: int = 1
    """Of everything."""
    json: bool = False
    """Print one JSON object instead of the table."""


def main() -> int:
    """Run all parts and print the table."""
    options = tyro.cli(Options, description=__doc__)
    unknown = set(options.rows) - set(NETWORKS)
    if unknown:
        print(f"no row {sorted(unknown)[0]!r}; there are {', '.join(NETWORKS)}", file=sys.stderr)
        return 2
    if options.quick:
        options = replace(options, videos=8, epochs=2, group=min(options.group, 4))
    if options.folder is not None:
        return _run(options, options.folder)
    with tempfile.TemporaryDirectory() as folder:
        return _run(options, Path(folder))


def _run(options: Options, folder: Path) -> int:
    import torch

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    data = _make_data(options, folder)
    rows: dict[str, dict[str, Any]] = {}
    for name in options.rows:
        start = time.perf_counter()
        run = folder / name.replace(" ", "")
        if not (run / "test.json").is_file():
            train_stream(_training(name, options, data, run))
        tested = json.loads((run / "test.json").read_text())
        rows[name] = {**tested["scores"], "videos": len(tested["videos"]), "seconds": time.perf_counter() - start}
        print(f"{name}: {rows[name]['seconds']:.0f} s", file=sys.stderr)
    above = _above(rows)
    if options.json:
        shown = asdict(options) | {"folder": str(options.folder)}
        print(json.dumps({"vidseg": vidseg.__version__, "options": shown, "rows": rows, "above": above}))
    else:
        _print_table(rows, options)
    if above is False and not options.quick:
        print(f"etesvs is not {MARGIN:g} points above frame-wise in accuracy and F1@25", file=sys.stderr)
        return 1
    return 0


def _training(name: str, options: Options, data: Path, out: Path) -> StreamOptions:
    network, division = NETWORKS[name]
    return StreamOptions(
        dataset=str(data),
        model=network,
        out=str(out),
        select="last",
        epochs=options.epochs,
        lr=options.lr,
        lr_steps=(3 * options.epochs // 4,),
        stride=options.frames,
        frames=options.frames,
        interval=1,
        size=options.size,
        group=options.group,
        update="window",
        clip_norm=5.0,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        width=options.width,
        network_option=(f"shift_division={division}", "dropout=0.0"),
        background=(STILL,),
        seed=options.seed,
        resume=out.is_dir(),
        threads=options.threads,
        cache_bytes=512 * 2**20,
        pictures=False,
        device="cpu",
    )


def _make_data(options: Options, folder: Path) -> Path:
    """Untrimmed videos as frame databases with frame labels."""
    # At ten frames a second a shape moves about two pixels of 40 from frame to frame.
    synth = SynthOptions(videos=0, untrimmed=options.videos, frames=32, width=48, height=48, fps=10, seed=options.seed)
    workers = options.threads or len(os.sched_getaffinity(0))
    synthesize_videos(folder / "synth", synth, workers=workers)
    data = folder / "data"
    report = convert_videos(folder / "synth/untrimmed", data, workers=workers)
    if not report.ok:
        raise RuntimeError(f"conversion failed: {report}")
    videos: dict[str, LocalizedVideo] = {}
    with (folder / "synth/segments.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            video = videos.setdefault(row["id"], LocalizedVideo([], split=row["split"]))
            video.segments.append(TimedLabel(row["label"], float(row["time_start"]), float(row["time_end"])))
    with closing(read_catalog(data)) as connection:
        counts = dict(connection.execute("SELECT path, frames FROM videos"))
    seconds = {path.rpartition("/")[2]: frames / synth.fps for path, frames in counts.items()}
    apply_segmentation(data, frame_labels_of(videos, rate=synth.fps, background=STILL, seconds=seconds))
    return data


def _above(rows: dict[str, dict[str, Any]]) -> bool | None:
    """Whether etesvs is well above the frame-wise classifier; None where one of them was not asked for."""
    if not {"frame-wise", "etesvs"} <= rows.keys():
        return None
    low, high = rows["frame-wise"], rows["etesvs"]
    return high["acc"] - low["acc"] >= MARGIN and high["f1"]["0.25"] - low["f1"]["0.25"] >= MARGIN


def _print_table(rows: dict[str, dict[str, Any]], options: Options) -> None:
    count = next(iter(rows.values()))["videos"]
    print(
        f"{count} held-out videos of {options.videos}; {options.epochs} epochs, width {options.width:g}, "
        f"{options.size} pixels, windows of {options.frames} frames, cpu, {Path(__file__).name} of vidseg "
        f"{vidseg.__version__}"
    )
    print(f"{'network':20}{'F1@10':>8}{'F1@25':>8}{'F1@50':>8}{'edit':>8}{'acc':>8}{'seconds':>9}")
    for name, row in rows.items():
        scores = [*row["f1"].values(), row["edit"], row["acc"]]
        print(f"{name:20}" + "".join(f"{score:8.2f}" for score in scores) + f"{row['seconds']:9.0f}")


if __name__ == "__main__":
    sys.exit(main())
