"""Pixel statistics and class weights of a data set (`vidseg stats`)."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from vidseg.labels import VideoDataset
    from vidseg.labels.statistics import LabelStatistics, PixelStatistics

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Compute mean and deviation of the frames of DATA in RGB (0 to 1), and class weights for frame labels."""

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Folder of a data set."""
    split: str | None = None
    """Split to read, such as split1/train; default: all videos."""
    frames: int = 10
    """Number of random frames read per video."""
    seed: int = 0
    """Random seed of the choice of frames."""
    threads: int | None = None
    """Number of decoding threads; default: one per core."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> int:
        """Compute and print the statistics."""
        from vidseg.labels import open_dataset
        from vidseg.labels.counting import counted
        from vidseg.labels.segmentation_labels import has_frame_labels
        from vidseg.labels.statistics import label_statistics

        data = open_dataset(self.data, self.split)
        labeled = has_frame_labels(data.root)
        with_frames = any(video.height > 0 for video in data)
        if not with_frames and not labeled:
            raise ValueError(f"{data}: no frames and no frame labels; convert the videos with `vidseg convert`")
        pixels = self._pixels(data) if with_frames else None
        labels = label_statistics(data) if labeled else None
        if self.json:
            content: dict[str, Any] = {"pixels": pixels and asdict(pixels), "labels": None}
            if labels is not None:
                content["labels"] = {**asdict(labels), "segments": labels.segments}
            print(json_format.dumps(content, ensure_ascii=False))
        else:
            print("\n\n".join("\n".join(part) for part in (_pixel_lines(pixels), _label_lines(labels)) if part))
        failed = pixels.failed if pixels else []
        for item in failed:
            print(f"vidseg stats: {item}", file=sys.stderr)
        if failed:
            print(f"vidseg stats: {counted(len(failed), 'unreadable video')}", file=sys.stderr)
        return 1 if failed else 0

    def _pixels(self, data: VideoDataset) -> PixelStatistics:
        from tqdm import tqdm

        from vidseg.labels.statistics import pixel_statistics

        with tqdm(total=len(data), unit="video", disable=None) as bar:
            return pixel_statistics(
                data, frames_per_video=self.frames, seed=self.seed, threads=self.threads, progress=bar.update
            )


def _pixel_lines(pixels: PixelStatistics | None) -> list[str]:
    if pixels is None:
        return []
    from vidseg.labels.counting import counted

    rows = {"mean": pixels.mean, "std": pixels.std, "std within video": pixels.std_within}
    lines = [f"{counted(pixels.frames, 'frame')} of {counted(pixels.videos, 'video')}         red   green    blue"]
    width = lines[0].index("red") - 5
    return lines + [f"{name:{width}}" + "".join(f"{value:8.4f}" for value in values) for name, values in rows.items()]


def _label_lines(labels: LabelStatistics | None) -> list[str]:
    if labels is None:
        return []
    width = max(5, *map(len, labels.classes))
    lines = [f"{'class':{width}}{'frames':>10}{'segments':>10}{'weight':>10}"]
    for row in zip(labels.classes, labels.frames, labels.segments, labels.class_weights, strict=True):
        name, frames, segments, weight = row
        lines.append(f"{name:{width}}{frames:10}{segments:10}{weight:10.4f}")
    return [*lines, f"boundary weight: {labels.boundary_weight:.4f}"]
