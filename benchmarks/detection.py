"""Detection from pixels: peak memory and time of a training step by the number of snippets, and what detectors learn.

    python benchmarks/detection.py memory            # each row in a process of its own
    python benchmarks/detection.py learning          # trains every row on untrimmed videos of moving shapes

Memory is the growth of the process's resident memory during a step, without the frames themselves: a CPU run shows how
it depends on snippets and ratio, not what a GPU would need. The published figure of ETAD is 1.3 GB a video at a ratio
of 0.3, frames included (128 snippets of 16 x 112 x 112).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import vidseg

GRADIENTS = (("sampled", 0.1), ("sampled", 0.3), ("sampled", 1.0), ("recomputed", 1.0), ("all", 1.0), ("none", 0.0))


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_step(gradients: str, ratio: float, snippets: int, size: int, chunk: int) -> dict[str, Any]:
    """Memory and time of one training step of one video."""
    from vidseg.engine.task import Position
    from vidseg.loaders import DetectionBatch
    from vidseg.losses import create_loss
    from vidseg.models import create_model, model_input_spec
    from vidseg.models._snippets import SnippetDetector, SnippetEncoder
    from vidseg.tasks.detection.sampled_gradients import SnippetSampling
    from vidseg.tasks.detection.task import DetectionTask

    torch.set_num_threads(2)
    torch.manual_seed(0)
    encoder = SnippetEncoder(create_model("r3d_18", num_classes=1, width=0.25), model_input_spec("r3d_18"))
    network = {"maps": 64, "heads": 2, "levels": 4, "window": 9, "in_features": encoder.out_features}
    model = SnippetDetector(encoder, create_model("actionformer", num_classes=8, **network), chunk=chunk).train()
    frames = torch.randint(0, 256, (snippets, 3, 8, size, size), dtype=torch.uint8)
    batch = DetectionBatch.of_sample(frames, video=0, offset=0.0, scale=1.0)
    segments, labels = torch.tensor([[[4.0, 12.0], [20.0, 27.0]]]), torch.tensor([[1, 5]])
    batch = DetectionBatch(**{**dict(batch.items()), "segments": segments, "labels": labels})
    loss = create_loss("actionformer", num_classes=8)
    task = DetectionTask(loss, gradients=gradients, sampling=SnippetSampling(ratio))  # type: ignore[arg-type]
    before, start = peak_bytes(), time.perf_counter()
    task.train_batch(model, batch, Position(0, 0, 0), lambda loss: loss.backward())
    return {
        "gradients": gradients,
        "ratio": ratio,
        "snippets": snippets,
        "mb": (peak_bytes() - before) / 1e6,
        "seconds": time.perf_counter() - start,
        "frames_mb": frames.numel() / 1e6,
    }


def memory(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every row in a process of its own, so that none sees the memory of another."""
    rows = []
    for gradients, ratio in GRADIENTS:
        for snippets in arguments.snippets:
            words = ["step", gradients, str(ratio), str(snippets), str(arguments.size), str(arguments.chunk)]
            done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def print_memory(rows: list[dict[str, Any]], counts: list[int]) -> None:
    """Print megabytes and seconds of each kind of gradients by the number of snippets."""
    print(f"{'gradients':12}{'ratio':>6}" + "".join(f"{f'{count} snippets':>22}" for count in counts))
    for gradients, ratio in GRADIENTS:
        cells = ""
        for count in counts:
            row = next(r for r in rows if (r["gradients"], r["ratio"], r["snippets"]) == (gradients, ratio, count))
            cells += f"{row['mb']:12.0f} MB{row['seconds']:6.1f} s"
        print(f"{gradients:12}{ratio:6.1f}{cells}")


LEARNING = {
    "actionformer, ratio 0.3": ("actionformer", {"gradients": "sampled", "snippet_ratio": 0.3}),
    "actionformer, ratio 1.0": ("actionformer", {"gradients": "sampled", "snippet_ratio": 1.0}),
    "actionformer, frozen": ("actionformer", {"gradients": "none"}),
    "tridet, ratio 0.3": ("tridet", {"gradients": "sampled", "snippet_ratio": 0.3}),
    "etad, ratio 0.3": ("etad", {"gradients": "sampled", "snippet_ratio": 0.3}),
    "bmn, ratio 0.3": ("bmn", {"gradients": "sampled", "snippet_ratio": 0.3}),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "actionformer": {"network_option": ("maps=128", "heads=4", "levels=5", "window=9")},
    "tridet": {"network_option": ("maps=128", "hidden=192", "levels=5", "bins=8")},
    "etad": {
        "network_option": ("maps=64", "hidden=128", "roi_size=16", "class_agnostic=False"),
        "fit": "whole",
        "snippets": 64,
    },
    "bmn": {"network_option": ("hidden=64", "class_agnostic=False"), "fit": "whole", "snippets": 64},
}


def learning(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train every row on synthetic untrimmed videos, and score it on held-out ones."""
    from vidseg.convert.synth import synthesize_videos
    from vidseg.convert.synth_options import SynthOptions
    from vidseg.labels.detection_labels import apply_detection, read_detection_labels
    from vidseg.tasks.detection.recipes import recipe_options
    from vidseg.tasks.detection.runs import train_detection

    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="vidseg_detection_"))
    videos = SynthOptions(videos=0, untrimmed=arguments.videos, width=96, height=72, seed=arguments.seed)
    synthesize_videos(folder, videos)
    vidseg.convert_videos(folder / "untrimmed", folder / "data")
    apply_detection(folder / "data", read_detection_labels([folder / "segments.csv"]))
    rows = []
    for name in arguments.rows or LEARNING:
        network, chosen = LEARNING[name]
        values: dict[str, Any] = {
            "encoder": "r3d_18", "encoder_option": ("width=0.25",), "snippet_frames": 8, "snippet_interval": 2,
            "snippet_size": 48, "chunk": 32, "batch_size": 2, "epochs": arguments.epochs, "lr": 1e-3,
            "select": "last", "pictures": False, "device": "cpu", "overwrite": True, "seed": arguments.seed,
        }  # fmt: skip
        values |= {"snippet_stride": 8} if "snippets" not in NETWORKS[network] else {}
        values |= {**NETWORKS[network], **chosen}
        out = folder / "runs" / name.replace(",", "").replace(" ", "_")
        start, before = time.perf_counter(), time.process_time()
        train_detection(recipe_options("detection", network, dataset=str(folder / "data"), out=str(out), **values))
        scores = json.loads((out / "test.json").read_text())["scores"]
        rows.append(
            {
                "row": name,
                "map": scores["map"],
                "average": scores["average"],
                "seconds": time.perf_counter() - start,
                "cpu_seconds": time.process_time() - before,
            }
        )
        print_learning(rows[-1:], header=len(rows) == 1)
    return rows


def print_learning(rows: list[dict[str, Any]], *, header: bool) -> None:
    """Print the mAP of each row."""
    if header:
        print(f"{'row':28}{'mAP@0.5':>9}{'mAP 0.3-0.7':>13}{'minutes':>9}{'CPU min':>9}")
    for row in rows:
        print(
            f"{row['row']:28}{100 * row['map']['0.5']:9.1f}{100 * row['average']:13.1f}{row['seconds'] / 60:9.1f}"
            f"{row['cpu_seconds'] / 60:9.1f}",
            flush=True,
        )


def main() -> None:
    """Run the program."""
    if sys.argv[1:2] == ["step"]:
        gradients, ratio, *numbers = sys.argv[2:]
        print(json.dumps(measure_step(gradients, float(ratio), *map(int, numbers))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "learning"])
    parser.add_argument(
        "--snippets", type=int, nargs="+", default=[128, 512, 2048], help="memory: snippets of the video"
    )
    parser.add_argument("--size", type=int, default=48, help="memory: height and width of the frames")
    parser.add_argument("--chunk", type=int, default=16, help="memory: snippets in one pass of the encoder")
    parser.add_argument("--videos", type=int, default=160, help="learning: videos, a quarter of them for the test")
    parser.add_argument("--epochs", type=int, default=16, help="learning: passes over the videos")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", nargs="+", choices=list(LEARNING), help="learning: rows; default: all")
    parser.add_argument("--folder", help="learning: where videos and runs are kept; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    arguments = parser.parse_args()
    machine = {
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "versions": f"vidseg {vidseg.__version__}, Python {platform.python_version()}, torch {torch.__version__}",
    }
    print(machine["machine"], machine["versions"], sep="\n")
    rows = memory(arguments) if arguments.what == "memory" else learning(arguments)
    if arguments.what == "memory":
        print(f"frames: {rows[-1]['frames_mb'] / arguments.snippets[-1]:.3f} MB a snippet as bytes")
        print_memory(rows, arguments.snippets)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
