"""A small data set for temporal segmentation, in the published form: features that carry the class, and noise."""

from pathlib import Path

import numpy as np

from vidseg.labels import apply_segmentation, read_segmentation

CLASSES = ("take", "open", "pour", "background")
SIZE = 8


def segmentation_dataset(root: Path, *, people: int = 2, videos: int = 4, noise: float = 0.4, seed: int = 0) -> Path:
    """mapping.txt, groundTruth/, splits/, features/ and catalog.db; split n tests person n."""
    rng = np.random.default_rng(seed)
    for folder in ("groundTruth", "splits", "features"):
        (root / folder).mkdir(parents=True)
    (root / "mapping.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(CLASSES)))
    means = np.eye(len(CLASSES), SIZE)
    names = [f"S{person}_Tea_{video}" for person in range(1, people + 1) for video in range(videos)]
    for name in names:
        labels = np.concatenate([np.repeat(number, rng.integers(10, 18)) for number in [3, *rng.permutation(4), 3]])
        (root / f"groundTruth/{name}.txt").write_text("".join(f"{CLASSES[number]}\n" for number in labels))
        features = means[labels].T + noise * rng.standard_normal((SIZE, len(labels)))
        np.save(root / f"features/{name}.npy", features.astype(np.float32))
    for person in range(1, people + 1):
        test = [name for name in names if name.startswith(f"S{person}_")]
        for part, chosen in (("test", test), ("train", [name for name in names if name not in test])):
            (root / f"splits/{part}.split{person}.bundle").write_text("".join(f"{name}.txt\n" for name in chosen))
    apply_segmentation(root, read_segmentation(root, rate=15.0), mapping=root / "mapping.txt")
    return root
