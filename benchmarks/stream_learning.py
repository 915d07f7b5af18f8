"""Effect of the recurrent memory: streaming networks trained from pixels on synthetic untrimmed videos, on the CPU.

    python benchmarks/stream_learning.py [--quick] [--folder DIR] [--json]

The videos show a shape that moves in one of eight ways, with pauses; single frames carry no information about the
class. Every network is trained from scratch with the same settings on the frames of the training videos, window by
window with many videos per step, and is evaluated on the test videos after its last epoch. "frame-wise" is the backbone
of ETESVS with a linear layer per frame; "frame-wise + shift" adds the temporal shift over neighboring frames of a
window; "etesvs" adds the memory and the temporal convolutions. Exit status 1 if etesvs is not 15 points above
frame-wise in accuracy and F1@25 (not checked with --quick, which only verifies that all parts run). A given folder
keeps videos and runs; a second run skips finished parts.
"""

import csv
import json
import os
import sys
import tempfile
import time
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
from vidseg.tasks.streaming.options import StreamingOptions
from vidseg.tasks.streaming.recipes import recipe_options
from vidseg.tasks.streaming.runs import train_streaming

MARGIN = 15.0
STILL = "still"
NO_SHIFT = 10**6  # shift one of so many channels, that is none

NETWORKS: dict[str, tuple[str, int]] = {
    "frame-wise": ("mobilenet_v2_tsm_frames", NO_SHIFT),
    "frame-wise + shift": ("mobilenet_v2_tsm_frames", 3),
    "etesvs": ("etesvs", 3),
}
"""Network and shift_division of each row."""


@dataclass
class Options:
    """Compare streaming networks with frame-wise classifiers."""

    rows: tuple[str, ...] = tuple(NETWORKS)
    """Rows to run."""
    folder: Path | None = None
    """Folder of data and runs; default: a temporary folder."""
    quick: bool = False
    """Use a few videos and two epochs."""
    videos: int = 256
    """Number of untrimmed videos, a quarter of them held out."""
    epochs: int = 12
    """Number of training epochs."""
    width: float = 0.25
    """Width factor of the backbone."""
    size: int = 40
    """Height and width of the input in pixels."""
    frames: int = 16
    """Frames per window, all of which are input."""
    group: int = 12
    """Videos per group, which form one training step."""
    lr: float = 2e-3
    """Learning rate of Adam, divided by 10 in the last quarter of the epochs."""
    threads: int | None = None
    """Threads of network and decoder; default: one per core."""
    seed: int = 1
    """Random seed."""
    json: bool = False
    """Print one JSON object instead of the table."""


def main() -> int:
    """Run all parts and print the table."""
    options = tyro.cli(Options, description=__doc__)
    unknown = set(options.rows) - set(NETWORKS)
    if unknown:
        print(f"unknown row {sorted(unknown)[0]!r}; expected one of {', '.join(NETWORKS)}", file=sys.stderr)
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
            train_streaming(_training(name, options, data, run))
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


def _training(name: str, options: Options, data: Path, out: Path) -> StreamingOptions:
    network, division = NETWORKS[name]
    return recipe_options(
        "gtea",
        network,
        dataset=str(data),
        out=str(out),
        select="last",
        epochs=options.epochs,
        lr=options.lr,
        lr_steps=(3 * options.epochs // 4,),
        stride=options.frames,
        frames=options.frames,
        interval=1,
        size=options.size,
        batch_size=options.group,
        weighting="video",
        update="window",
        clip_norm=5.0,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        network_option=(f"width={options.width}", f"shift_division={division}", "dropout=0.0"),
        background=(STILL,),
        seed=options.seed,
        resume=out.is_dir(),
        threads=options.threads,
        cache_bytes=512 * 2**20,
        pictures=False,
        device="cpu",
    )


def _make_data(options: Options, folder: Path) -> Path:
    """Write the untrimmed videos as frame databases with frame labels."""
    # At ten frames per second a shape moves about two of 40 pixels between frames.
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
    with read_catalog(data) as connection:
        counts = dict(connection.execute("SELECT path, frames FROM videos"))
    seconds = {path.rpartition("/")[2]: frames / synth.fps for path, frames in counts.items()}
    apply_segmentation(data, frame_labels_of(videos, rate=synth.fps, background=STILL, seconds=seconds))
    return data


def _above(rows: dict[str, dict[str, Any]]) -> bool | None:
    """Return whether etesvs is above the frame-wise classifier by the margin; None if one of them was not run."""
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
