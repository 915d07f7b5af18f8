"""Detection from pixels: peak memory and time of a training step by the number of snippets, and accuracy of detectors.

    python benchmarks/detection.py memory            # each row in a process of its own
    python benchmarks/detection.py memory --published --snippets 128 --only "sampled 0.3"
    python benchmarks/detection.py learning          # trains every row on untrimmed videos of moving shapes

Memory is the growth of the process's resident memory during the first step, without the frames themselves: a CPU run
shows how it depends on snippets and ratio, not what a GPU would need. The row "detector" is a step of the detector on
features. Times are the median of the steps after the first. `--published` takes the encoder and the snippets of ETAD:
R(2+1)D-34 without gradients in stem and first two stages, 16 frames of 112 x 112, one snippet in a pass of the encoder.
The published figure is 1.3 GB a video at a ratio of 0.3, frames included, with 128 snippets.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import hardware

import vidseg

GRADIENTS = {
    "sampled 0.1": ("sampled", 0.1),
    "sampled 0.3": ("sampled", 0.3),
    "sampled 1.0": ("sampled", 1.0),
    "recomputed": ("recomputed", 1.0),
    "all": ("all", 1.0),
    "none": ("none", 0.0),
    "detector": ("detector", 0.0),
}


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_step(row: str, snippets: int, *, size: int, chunk: int, published: bool, steps: int) -> dict[str, Any]:
    """Memory and time of training steps of one video."""
    from vidseg.engine.task import Position
    from vidseg.loaders import DetectionBatch
    from vidseg.losses import create_loss
    from vidseg.models import create_model, model_input_spec
    from vidseg.models._snippets import SnippetDetector, SnippetEncoder
    from vidseg.tasks.detection.sampled_gradients import SnippetSampling
    from vidseg.tasks.detection.task import DetectionTask

    torch.set_num_threads(2)
    torch.manual_seed(0)
    gradients, ratio = GRADIENTS[row]
    name, options = ("ig65m_r2plus1d_34", {}) if published else ("r3d_18", {"width": 0.25})
    frames, size, chunk = (16, 112, 1) if published else (8, size, chunk)
    frozen = ("stem", "layer1", "layer2") if published else ()
    encoder = SnippetEncoder(create_model(name, num_classes=1, **options), model_input_spec(name), frozen=frozen)
    network = {"maps": 64, "heads": 2, "levels": 4, "window": 9, "in_features": encoder.out_features}
    detector = create_model("actionformer", num_classes=8, **network)
    loss = create_loss("actionformer", num_classes=8)
    position = Position(0, 0, 0)
    if gradients == "detector":
        model: Any = detector.train()
        inputs = torch.randn(encoder.out_features, snippets)
        task = DetectionTask(loss)
    else:
        model = SnippetDetector(encoder, detector, chunk=chunk).train()
        inputs = torch.randint(0, 256, (snippets, 3, frames, size, size), dtype=torch.uint8)
        task = DetectionTask(loss, gradients=gradients, sampling=SnippetSampling(ratio))  # type: ignore[arg-type]
    batch = DetectionBatch.of_sample(inputs, video=0, offset=0.0, scale=1.0)
    segments, labels = torch.tensor([[[4.0, 12.0], [20.0, 27.0]]]), torch.tensor([[1, 5]])
    batch = DetectionBatch(**{**dict(batch.items()), "segments": segments, "labels": labels})
    before, times, peak = peak_bytes(), [], 0
    for _ in range(1 + steps):
        start = time.perf_counter()
        task.train_batch(model, batch, position, lambda loss: loss.backward())
        times.append(time.perf_counter() - start)
        peak = peak or peak_bytes()
    return {
        "row": row,
        "snippets": snippets,
        "mb": (peak - before) / 1e6,
        "seconds": statistics.median(times[1:] or times),
        "frames_mb": inputs.numel() / 1e6 if gradients != "detector" else 0.0,
    }


def memory(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every row in a process of its own, so that none sees the memory of another."""
    rows = []
    for row in arguments.only or GRADIENTS:
        for snippets in arguments.snippets:
            words = ["step", "--only", row, "--snippets", str(snippets), "--size", str(arguments.size)]
            words += ["--chunk", str(arguments.chunk), "--steps", str(arguments.steps)]
            words += ["--published"] if arguments.published else []
            done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def print_memory(rows: list[dict[str, Any]], counts: list[int]) -> None:
    """Print megabytes and seconds of each kind of gradients by the number of snippets."""
    largest = max(rows, key=lambda row: row["frames_mb"])
    print(f"frames: {largest['frames_mb'] / largest['snippets']:.3f} MB a snippet as bytes")
    print(f"{'gradients':14}" + "".join(f"{f'{count} snippets':>24}" for count in counts))
    for name in dict.fromkeys(row["row"] for row in rows):
        cells = ""
        for count in counts:
            row = next(row for row in rows if (row["row"], row["snippets"]) == (name, count))
            cells += f"{row['mb']:12.0f} MB{row['seconds']:7.2f} s"
        print(f"{name:14}{cells}")


LEARNING: dict[str, tuple[str, dict[str, Any]]] = {
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
    """Train an encoder on trimmed videos and every row on untrimmed ones, and score it on held-out ones."""
    from vidseg.convert.synth import synthesize_videos
    from vidseg.convert.synth_options import SynthOptions
    from vidseg.labels import apply_labels, read_label_csv
    from vidseg.labels.detection_labels import apply_detection, read_detection_labels
    from vidseg.tasks.detection.recipes import recipe_options
    from vidseg.tasks.detection.runs import train_detection

    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="vidseg_detection_"))
    trimmed, untrimmed = folder / "trimmed_data", folder / "untrimmed_data"
    if not untrimmed.is_dir():
        made = SynthOptions(
            videos=arguments.trimmed, untrimmed=arguments.videos, width=96, height=72, seed=arguments.seed
        )
        synthesize_videos(folder, made)
        vidseg.convert_videos(folder / "videos", trimmed)
        apply_labels(trimmed, read_label_csv(folder / "labels.csv"))
        vidseg.convert_videos(folder / "untrimmed", untrimmed)
        apply_detection(untrimmed, read_detection_labels([folder / "segments.csv"]))
    weights = pretrained_encoder(trimmed, folder / "encoder", arguments)
    rows = []
    for name in arguments.rows or LEARNING:
        network, chosen = LEARNING[name]
        values: dict[str, Any] = {
            "encoder": "r3d_18", "encoder_option": ("width=0.25",), "snippet_frames": 8, "snippet_interval": 2,
            "snippet_size": 48, "chunk": 32, "batch_size": 2, "epochs": arguments.epochs, "lr": 1e-3,
            "backbone_lr": 0.1, "encoder_weights": str(weights), "select": "last", "pictures": False, "device": "cpu",
            "overwrite": True, "seed": arguments.seed,
        }  # fmt: skip
        values |= {"snippet_stride": 8} if "snippets" not in NETWORKS[network] else {}
        values |= {**NETWORKS[network], **chosen}
        out = folder / "runs" / name.replace(",", "").replace(" ", "_")
        start, before = time.perf_counter(), time.process_time()
        train_detection(recipe_options("detection", network, dataset=str(untrimmed), out=str(out), **values))
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


def pretrained_encoder(trimmed: Path, out: Path, arguments: argparse.Namespace) -> Path:
    """Train the encoder to classify trimmed videos, as published encoders were; returns its checkpoint."""
    from vidseg.tasks.recognition.recipes import recipe_options
    from vidseg.tasks.recognition.runs import train_recognition

    weights = out / "r3d_18_last.pth"
    if not weights.is_file():
        values = {
            "network": "r3d_18", "network_option": ("width=0.25",), "frames": 8, "interval": 2, "size": 48,
            "geometry": "center", "val_geometry": "center", "mirror": False, "optimizer": "adamw", "lr": 2e-3,
            "weight_decay": 0.01, "warmup_epochs": 1.0, "epochs": arguments.encoder_epochs, "batch_size": 16,
            "seed": arguments.seed, "device": "cpu", "overwrite": True,
        }  # fmt: skip
        train_recognition(recipe_options("synth", dataset=str(trimmed), out=str(out), **values))
    history = (out / "train.log").read_text()
    print("encoder:", next(line for line in reversed(history.splitlines()) if "(val)" in line).split(": ", 1)[1])
    return weights


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "learning", "step"], help="step: one row of memory in this process")
    parser.add_argument(
        "--snippets", type=int, nargs="+", default=[128, 512, 2048], help="memory: snippets of the video"
    )
    parser.add_argument("--size", type=int, default=48, help="memory: height and width of the frames")
    parser.add_argument("--chunk", type=int, default=16, help="memory: snippets in one pass of the encoder")
    parser.add_argument("--steps", type=int, default=3, help="memory: steps that are timed, after a first one")
    parser.add_argument("--published", action="store_true", help="memory: encoder and snippets of ETAD")
    parser.add_argument("--only", nargs="+", choices=list(GRADIENTS), help="memory: rows; default: all")
    parser.add_argument("--videos", type=int, default=160, help="learning: videos, a quarter of them for the test")
    parser.add_argument(
        "--trimmed", type=int, default=320, help="learning: trimmed videos that the encoder is trained on"
    )
    parser.add_argument("--encoder-epochs", type=int, default=24, help="learning: passes over the trimmed videos")
    parser.add_argument("--epochs", type=int, default=12, help="learning: passes over the untrimmed videos")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", nargs="+", choices=list(LEARNING), help="learning: rows; default: all")
    parser.add_argument("--folder", help="learning: where videos and runs are kept; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    arguments = parser.parse_args()
    if arguments.what == "step":
        row, snippets = arguments.only[0], arguments.snippets[0]
        options = {name: getattr(arguments, name) for name in ("size", "chunk", "published", "steps")}
        print(json.dumps(measure_step(row, snippets, **options)))
        return
    machine = {
        "machine": hardware(),
        "versions": f"vidseg {vidseg.__version__}, Python {platform.python_version()}, torch {torch.__version__}",
    }
    print(machine["machine"], machine["versions"], sep="\n")
    rows = memory(arguments) if arguments.what == "memory" else learning(arguments)
    if arguments.what == "memory":
        print_memory(rows, arguments.snippets)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
