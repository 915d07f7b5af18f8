"""A tiny data set of noise whose class, or frame label, is in its flow, its motion vectors and its residuals."""

from pathlib import Path

import numpy as np
import torch

from vidseg.frames import FlowForm, FlowWriter, FrameWriter, encode_rgb
from vidseg.labels import VideoRecord, apply_segmentation, update_catalog
from vidseg.labels.segmentation_labels import SegmentationLabels

HEIGHT, WIDTH, FRAMES, FPS = 40, 48, 12, 10
CLASSES = ["left", "right"]
FORMS = {
    "flow": FlowForm("flow", method="dis", levels=0),
    "motion": FlowForm("motion", method="motion-vectors", levels=0),
    "residual": FlowForm("residual", method="residual", levels=0),
}


def labels_of(number: int) -> np.ndarray:
    """Frame labels (FRAMES,) of a video for streaming: the class changes once."""
    change = 3 + 2 * (number % 4)
    return np.where(np.arange(FRAMES) < change, number % 2, 1 - number % 2)


def write_video(folder: Path, labels: np.ndarray, seed: int) -> None:
    """Write the four databases of a video; x of the flow is -8 for the label 0 and 8 for the label 1."""
    rng = np.random.default_rng(seed)
    with FrameWriter(folder / "frames.db", levels=0) as writer:
        for _ in labels:
            noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            writer.add(encode_rgb(torch.from_numpy(noise), 90)[0], width=WIDTH)
    for modality, form in FORMS.items():
        with FlowWriter(folder / f"{modality}.db", form) as writer:
            for label in labels:
                field = torch.from_numpy(rng.normal(0, 1, (form.channels, HEIGHT, WIDTH)).astype(np.float32))
                field[0] += 8 * (2 * int(label) - 1) * (4 if modality == "residual" else 1)
                writer.add_field(field)


def motion_dataset(root: Path, *, videos: int = 12, streams: bool = False) -> Path:
    """Videos of two classes with splits train and test; or with frame labels, for streaming."""
    records = []
    for number in range(videos):
        label = None if streams else CLASSES[number % 2]
        folder = root / "jpg" / (label or "all") / f"v{number}"
        write_video(folder, labels_of(number) if streams else np.full(FRAMES, number % 2), number)
        records.append(
            VideoRecord(
                path=folder.relative_to(root).as_posix(),
                label=label,
                frames=FRAMES,
                height=HEIGHT,
                width=WIDTH,
                fps=FPS,
                seconds=FRAMES / FPS,
                size_bytes=(folder / "frames.db").stat().st_size,
                split=None if streams else "test" if number % 12 >= 8 else "train",
            )
        )
    update_catalog(root, records)
    if streams:
        named = {f"v{number}": labels_of(number) for number in range(videos)}
        splits = {"train": list(named)[: videos * 2 // 3], "test": list(named)[videos * 2 // 3 :]}
        apply_segmentation(root, SegmentationLabels(CLASSES, named, splits, FPS))
    return root
