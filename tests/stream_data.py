"""Tiny videos of plain colors with frame labels, and the options of a small streaming run on them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vidseg.convert import convert_videos
from vidseg.labels import apply_segmentation
from vidseg.labels.segmentation_labels import SegmentationLabels
from vidseg.tasks.streaming.options import StreamingOptions
from vidseg.tasks.streaming.recipes import recipe_options

COLORS = np.array([(210, 40, 40), (40, 200, 60), (50, 70, 220)], np.uint8)
CLASSES = ["red", "green", "blue"]
FPS = 10


def labels_of(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return np.concatenate([np.repeat(label, rng.integers(5, 12)) for label in rng.permutation(3)])


def write_video(path: Path, labels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
        for number, label in enumerate(labels):
            picture = np.broadcast_to(COLORS[label], (40, 48, 3)).copy()
            picture[(3 * number) % 32 :][:8] //= 2
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def stream_dataset(root: Path, *, videos: int, train: int) -> Path:
    """Files in videos/, and their frame databases and labels in data/; returns `root`."""
    labels = {f"v{number}": labels_of(number) for number in range(videos)}
    for name, values in labels.items():
        write_video(root / f"videos/{name}.mkv", values)
    assert convert_videos(root / "videos", root / "data", workers=1).ok
    splits = {"train": list(labels)[:train], "test": list(labels)[train:]}
    apply_segmentation(root / "data", SegmentationLabels(CLASSES, labels, splits, FPS))
    return root


def tiny_options(dataset: Path, out: Path, network: str = "etesvs", **changes: object) -> StreamingOptions:
    """Options of a run that takes seconds."""
    values = {
        "network_option": ("width=0.1",),
        "size": 32,
        "stride": 8,
        "frames": 4,
        "interval": 2,
        "threads": 1,
        "device": "cpu",
        "pictures": False,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.3, 0.3, 0.3),
        "validation_share": 0.4,
    }
    return recipe_options("gtea", network, dataset=str(dataset), out=str(out), **(values | changes))
