"""A small data set of moving shapes, converted and split, for tests of what comes after conversion."""

from pathlib import Path

from vidseg.convert import ConvertOptions, convert_videos
from vidseg.convert.synth import SynthOptions, synthesize_videos
from vidseg.labels import apply_labels, read_label_csv


def shapes_dataset(folder: Path, *, videos: int = 16, frames: int = 20) -> Path:
    """The root of the data set; half of its videos are for testing."""
    options = SynthOptions(videos=videos, frames=frames, width=80, height=64, test_share=0.5)
    synthesize_videos(folder / "source", options, workers=1)
    report = convert_videos(folder / "source/videos", folder / "data", options=ConvertOptions(workers=1, levels=0))
    assert report.ok
    apply_labels(folder / "data", read_label_csv(folder / "source/labels.csv"))
    return folder / "data"
