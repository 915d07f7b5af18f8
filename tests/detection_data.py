"""A small data set of features with segments: columns inside a segment are the mean of its class plus noise."""

from pathlib import Path

import numpy as np

from vidseg.labels.catalog import write_catalog
from vidseg.labels.catalog_videos import VideoRecord, merge_staged, stage_records
from vidseg.labels.classes import add_classes

CLASSES = ("jump", "run", "throw")
SIZE = 8
FPS = 25.0


def made_segments(rng: np.random.Generator, seconds: float) -> list[tuple[float, float, int]]:
    """Segments without overlap, 2 to 6 s long, with pauses between them."""
    found, clock = [], float(rng.uniform(0.5, 2))
    while True:
        stop = clock + float(rng.uniform(2, 6))
        if stop > seconds:
            return found
        found.append((clock, stop, int(rng.integers(len(CLASSES)))))
        clock = stop + float(rng.uniform(1, 3))


def add_videos(root: Path, videos: dict[str, tuple[float, str, list]], *, size: tuple[int, int] = (0, 0)) -> None:
    """Put videos into the catalog: by name the duration in seconds, split, segments; height and width 0: no frames."""
    with write_catalog(root) as db:
        records = [
            VideoRecord(f"jpg/unlabeled/{name}", None, round(seconds * FPS), *size, FPS, seconds, 0, split)
            for name, (seconds, split, _) in videos.items()
        ]
        stage_records(db, records)
        merge_staged(db)
        ids = add_classes(db.conn, CLASSES)
        for name, (_, _, segments) in videos.items():
            (video,) = db.conn.execute("SELECT id FROM videos WHERE path = ?", (f"jpg/unlabeled/{name}",)).fetchone()
            db.conn.executemany(
                "INSERT INTO segments (video_id, start, stop, class_id) VALUES (?, ?, ?, ?)",
                [(video, start, stop, ids[CLASSES[label]]) for start, stop, label in segments],
            )


def made_features(segments, seconds: float, columns: int, *, seed: int = 0, noise: float = 0.3) -> np.ndarray:
    """Features (SIZE, columns) that show which class happens."""
    centers = (np.arange(columns) + 0.5) * seconds / columns
    features = np.random.default_rng(seed).normal(0, noise, (SIZE, columns)).astype(np.float32)
    for start, stop, label in segments:
        inside = (centers >= start) & (centers < stop)
        features[label, inside] += 1
        features[len(CLASSES) :, inside] += 0.5
    return features


def detection_dataset(root: Path, *, train: int = 6, test: int = 3, rate: float = 4.0, seed: int = 0) -> Path:
    """Write a data set with `rate` columns a second."""
    videos = {}
    (root / "features").mkdir(parents=True)
    for number in range(train + test):
        rng = np.random.default_rng((seed, number))
        seconds = float(rng.uniform(20, 40))
        segments = made_segments(rng, seconds)
        name = f"v{number}"
        videos[name] = (seconds, "train" if number < train else "test", segments)
        np.save(root / f"features/{name}.npy", made_features(segments, seconds, round(seconds * rate), seed=number))
    add_videos(root, videos)
    return root
