"""Two synthetic data sets of the search benchmarks, small enough that a training takes seconds.

planted_features: two classes share their features; a mark at the start of each segment tells which one it is, so a
network has to see as far as a segment is long. moving_shapes: videos of shapes that move in one of four directions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidseg.convert import ConvertOptions, convert_videos
from vidseg.convert.synth import SynthOptions, synthesize_videos
from vidseg.labels import apply_labels, apply_segmentation, read_label_csv, read_segmentation

__all__ = ["moving_shapes", "planted_features"]

CLASSES, FEATURES = 8, 12


def planted_features(root: Path, *, quick: bool = False) -> Path:
    """Write features of videos: noise around the mean of a pair of classes, and a mark where a segment starts."""
    rng = np.random.default_rng(7)
    counts = {"train": 6, "test": 4} if quick else {"train": 32, "test": 16}
    if root.is_dir():
        return root
    for folder in ("groundTruth", "splits", "features"):
        (root / folder).mkdir(parents=True)
    (root / "mapping.txt").write_text("".join(f"{number} class{number}\n" for number in range(CLASSES)))
    means = rng.standard_normal((CLASSES // 2, FEATURES))
    marks = 3 * rng.standard_normal((2, FEATURES))
    for split, count in counts.items():
        names = [f"{split}_{number}" for number in range(count)]
        for name in names:
            parts = rng.integers(CLASSES, size=6)
            lengths = rng.integers(20, 55, size=6)
            labels = np.repeat(parts, lengths)
            features = means[labels // 2] + 1.2 * rng.standard_normal((len(labels), FEATURES))
            for part, start in zip(parts, np.cumsum(lengths) - lengths, strict=True):
                features[start : start + 4] += marks[part % 2]
            np.save(root / f"features/{name}.npy", features.T.astype(np.float32))
            (root / f"groundTruth/{name}.txt").write_text("".join(f"class{number}\n" for number in labels))
        (root / f"splits/{split}.bundle").write_text("".join(f"{name}.txt\n" for name in names))
    apply_segmentation(root, read_segmentation(root, rate=15.0), mapping=root / "mapping.txt")
    return root


def moving_shapes(root: Path, *, quick: bool = False) -> Path:
    """Write and convert videos of shapes that move in one of four directions; half of the training is validation."""
    source, data = root / "source", root / "data"
    if data.is_dir():
        return data
    count = 48 if quick else 800
    synthesize_videos(source, SynthOptions(videos=count, frames=24, width=80, height=64, seed=5), workers=1)
    lines = (source / "labels.csv").read_text().splitlines()
    lines = [lines[0], *sorted(line for line in lines[1:] if line.startswith("move_"))]  # by class, for the splits
    kept = {line.split(",")[1] for line in lines}
    for path in (source / "videos").rglob("*.*"):
        if path.is_file() and path.stem not in kept:
            path.unlink()
    if not convert_videos(source / "videos", data, options=ConvertOptions(workers=1, levels=0)).ok:
        raise SystemExit(f"{source}: not all videos could be converted")
    train = [place for place, line in enumerate(lines) if line.endswith(",train")]
    for place in train[::2]:
        lines[place] = lines[place].removesuffix("train") + "val"
    (source / "labels.csv").write_text("\n".join(lines) + "\n")
    apply_labels(data, read_label_csv(source / "labels.csv"))
    return data
