"""`vidseg score`: segmental scores of predicted frame labels, from files."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from vidseg.labels.predictions import PairedLabels
    from vidseg.metrics.segmental import BoundaryScores, SegmentalScores

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Score predicted frame labels: accuracy, edit, F1 and boundaries, all in per cent.

    Files are `<video>.txt` with a class name a line (predictions also in MS-TCN's form, without extension), or
    `<video>-gt.txt` and `<video>-pred.txt` in one folder.
    """

    truth: Annotated[Positional[Path], arg(metavar="TRUTH")]
    """Folder of the true labels, such as groundTruth/, or of both."""
    predictions: Annotated[Positional[Path | None], arg(metavar="PREDICTIONS")] = None
    """Folder of the predicted labels."""
    mapping: Path | None = None
    """mapping.txt that says which classes there are; default: those found."""
    bundle: Path | None = None
    """Split whose videos are wanted, such as splits/test.split1.bundle; each missing one is named."""
    background: tuple[str, ...] = ("background",)
    """Classes whose frames are no segments. The default, which only some data sets have, is that of most tables."""
    overlaps: tuple[float, ...] = (0.1, 0.25, 0.5)
    """Thresholds of IoU for F1."""
    tolerance: int = 5
    """Frames that a boundary may be off."""
    truncate: bool = False
    """Cut two sides of unequal lengths to the shorter one, as the published evaluation does."""
    classes: bool = False
    """Print a table by class."""
    videos: bool = False
    """Print a table by video, worst first."""
    json: bool = False
    """Print one JSON object with everything."""

    def run(self) -> int:
        """Read, score and print."""
        from vidseg.labels.predictions import read_predictions
        from vidseg.metrics import SegmentalMeter, boundary_scores, label_boundaries

        labels = read_predictions(
            self.truth, self.predictions, mapping=self.mapping, bundle=self.bundle, truncate=self.truncate
        )
        background = [labels.classes.index(name) for name in self.background if name in labels.classes]
        meter = SegmentalMeter(background, self.overlaps)
        for name, truth, prediction in zip(labels.names, labels.truth, labels.prediction, strict=True):
            meter.update(truth, prediction, name=name)
        scores = meter.scores()
        boundaries = boundary_scores(
            labels.truth, [label_boundaries(video) for video in labels.prediction], tolerance=self.tolerance
        )
        if self.json:
            names = [labels.classes[number] for number in scores["classes"]["number"]]
            content: dict[str, Any] = {**scores, "classes": {"name": names, **scores["classes"]}}
            extra = {"boundaries": boundaries, "cut": labels.cut, "failed": labels.failed}
            print(json_format.dumps({**content, **extra}, ensure_ascii=False))
        else:
            print("\n".join(self._lines(labels, scores, boundaries)))
        for failed in labels.failed:
            print(f"vidseg score: {failed}", file=sys.stderr)
        if labels.failed:
            print(f"vidseg score: {len(labels.failed)} videos are not in the scores", file=sys.stderr)
        return 1 if labels.failed else 0

    def _lines(self, labels: PairedLabels, scores: SegmentalScores, boundaries: BoundaryScores) -> list[str]:
        head = ["acc", "edit", *(f"F1@{100 * overlap:g}" for overlap in self.overlaps)]
        row = [scores["acc"], scores["edit"], *scores["f1"].values()]
        lines = [f"{len(labels.names)} videos, {scores['frames']} frames, {len(labels.classes)} classes"]
        if labels.cut:
            lines.append(f"{len(labels.cut)} videos were cut to the shorter side, such as {labels.cut[0]}")
        lines += ["".join(f"{name:>8}" for name in head), "".join(f"{value:8.2f}" for value in row)]
        lines.append(
            f"boundaries within {self.tolerance} frames: precision {boundaries['precision']:.2f},"
            f" recall {boundaries['recall']:.2f}, F1 {boundaries['f1']:.2f}"
        )
        if self.classes:
            table = scores["classes"]
            names = [labels.classes[number] for number in table["number"]]
            width = max(5, *map(len, names))
            columns = ["frames", "acc", "prec.", "IoU", *head[2:]]
            lines += ["", f"{'class':{width}}" + "".join(f"{name:>9}" for name in columns)]
            for place, name in enumerate(names):
                cells = [f"{table[column][place]:9.2f}" for column in ("acc", "precision", "iou")]
                f1 = ["        -" if table["background"][place] else f"{f1[place]:9.2f}" for f1 in table["f1"].values()]
                lines.append(f"{name:{width}}{table['frames'][place]:9}{''.join([*cells, *f1])}")
        if self.videos:
            video = scores["videos"]
            width = max(5, *map(len, video["name"]))
            lines += ["", f"{'video':{width}}{'frames':>9}" + "".join(f"{name:>8}" for name in head)]
            for place in sorted(range(len(video["name"])), key=lambda place: video["acc"][place]):
                cells = [f"{value[place]:8.2f}" for value in (video["acc"], video["edit"], *video["f1"].values())]
                lines.append(f"{video['name'][place]:{width}}{video['frames'][place]:9}{''.join(cells)}")
        return lines
