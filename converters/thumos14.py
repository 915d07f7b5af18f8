"""THUMOS-14 as segmentation: 20 sports classes and `None`; 30 labels per second.

    python converters/thumos14.py annotation --dataset data/thumos14 --out data/thumos14

Reads the official temporal annotation: `<Class>_val.txt` and `<Class>_test.txt` with lines such as
`video_validation_0000053  67.5 75.9`; Ambiguous_* is ignored. As usual for THUMOS-14, the validation videos form the
split train and the test videos the split test. Every cliff dive is annotated as CliffDiving and as Diving; its frames
are labeled CliffDiving. A folder in MS-TCN's format (mapping.txt, groundTruth/, splits/) or a JSON file in
ActivityNet's format is read too.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vidseg.cli.converter import SegmentationConverter, known_seconds
from vidseg.cli.main import run_program

if TYPE_CHECKING:
    from vidseg.labels.localization import LocalizedVideo
    from vidseg.labels.segmentation_labels import SegmentationLabels

PARTS = {"val": "train", "test": "test"}
SUBSETS = {"validation": "train", "val": "train", "training": "train"}


@dataclass
class Thumos14(SegmentationConverter):
    """Write THUMOS-14's temporal annotation as frame labels to the catalog."""

    rate: float = 30.0
    """Labels per second."""
    background: tuple[str, ...] = ("None",)
    """Background classes."""

    def read(self) -> "SegmentationLabels":
        from vidseg.labels.localization import frame_labels_of, read_localization_json

        if (self.source / "groundTruth").is_dir():
            return super().read()
        if self.source.is_file():
            videos = read_localization_json(self.source, faults=self.faults)
            for video in videos.values():
                video.split = SUBSETS.get(video.split or "", video.split)
        else:
            videos = self._official()
        for video in videos.values():  # of two equal segments the later one in the list has priority
            video.segments.sort(key=lambda segment: segment.label == "CliffDiving")
        return frame_labels_of(
            videos, rate=self.rate, background="None", seconds=known_seconds(self.dataset), faults=self.faults
        )

    def _official(self) -> "dict[str, LocalizedVideo]":
        from vidseg.labels.localization import LocalizedVideo, TimedLabel
        from vidseg.labels.names import clean_name
        from vidseg.labels.thumos import read_thumos_text

        videos: dict[str, LocalizedVideo] = {}
        for ending, split in PARTS.items():
            files = sorted(path for path in self.source.rglob(f"*_{ending}.txt") if "Ambiguous" not in path.name)
            if not files:
                raise FileNotFoundError(f"{self.source}: no <Class>_{ending}.txt found; pass the annotation folder")
            for path in files:
                label = clean_name(path.name.removesuffix(f"_{ending}.txt"))
                for line, name, start, stop in read_thumos_text(path):
                    video = videos.setdefault(name, LocalizedVideo([], split=split))
                    times = self.faults.check(start, stop, place=f"{path}:{line}", label=label)
                    if times is not None:
                        video.segments.append(TimedLabel(label, *times))
        return dict(sorted(videos.items()))


if __name__ == "__main__":
    sys.exit(run_program(Thumos14))
