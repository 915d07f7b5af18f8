"""Scores of predictions in files: frame labels, detections, or scores of videos, which are fused first."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from vidseg.labels.predictions import PairedLabels
    from vidseg.metrics.segmental import BoundaryScores, SegmentalScores

__all__ = ["Command"]

_SCORES = (".npz", ".csv")


@dataclass(frozen=True)
class Command:
    """Score predictions in files.

    Frame labels: `vidseg score TRUTH PREDICTIONS` prints accuracy, edit score, F1 and boundaries in percent. Files are
    `<video>.txt` with one class name per line (predictions also in MS-TCN's format, without extension), or
    `<video>-gt.txt` and `<video>-pred.txt` in one folder.

    Detections: `vidseg score TRUTH RESULTS.json` prints mAP, recall, average recall of proposals and the cost of each
    kind of false positive. TRUTH is a data set, or annotation files in any form of `vidseg labels segments`;
    RESULTS.json has the official form of ActivityNet.

    Scores of videos: `vidseg score RUN1 RUN2 --weights 2 1` fuses the scores of tested recognition runs, or files of
    `vidseg test --dump` and `vidseg predict --dump`, and prints top-1, top-5 and mean class accuracy. `--tune` finds
    the weights on scores of a validation split.
    """

    files: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="TRUTH [PREDICTIONS] | TRUTH ... RESULTS.json | RUN|FILE.npz|csv ...")
    ] = ()
    """Folder of the true labels, such as groundTruth/, and folder of the predicted ones; a data set or annotation
    files, and the file of detections last; or recognition runs and files of scores."""
    protocol: str = "activitynet"
    """Detections: activitynet, thumos14, hacs, fineaction, epic, ego4d, multithumos or charades: IoU thresholds, and
    whether duplicated instances count."""
    thresholds: tuple[float, ...] = ()
    """Detections: IoU thresholds; default: those of the protocol."""
    split: str | None = None
    """Detections: split that is scored; default: the only one besides train that has segments."""
    blocked: Path | None = None
    """Detections: videos to leave out: one name per line, or a JSON list."""
    level: Literal["verb", "noun", "action"] = "verb"
    """Detections: classes of EPIC-Kitchens' annotation."""
    weights: tuple[float, ...] = ()
    """Scores of videos: weight of each run or file; default: all equal."""
    tune: tuple[Path, ...] = ()
    """Scores of videos: one file of validation scores for each run or file; the weights with the highest top-1 there
    are used. Its videos must not be scored."""
    fuse: Literal["softmax", "logits"] = "softmax"
    """Scores of videos: mean of probabilities (softmax) or of their logarithms (logits)."""
    dump: Path | None = None
    """Scores of videos: file for the fused scores, .npz or .csv."""
    mapping: Path | None = None
    """Frame labels: mapping.txt with the classes; default: classes found in the files. Detections: class list of
    annotation files with class numbers."""
    bundle: Path | None = None
    """Frame labels: split file whose videos are scored, such as splits/test.split1.bundle."""
    background: tuple[str, ...] = ("background",)
    """Frame labels: background classes, whose runs are not segments; unknown names are ignored."""
    overlaps: tuple[float, ...] = (0.1, 0.25, 0.5)
    """Frame labels: IoU thresholds of F1."""
    tolerance: int = 5
    """Frame labels: maximum distance of a correct boundary in frames."""
    truncate: bool = False
    """Frame labels: truncate videos of unequal lengths to the shorter side, as the published evaluation does."""
    classes: bool = False
    """Frame labels and detections: print a table of classes."""
    videos: bool = False
    """Frame labels: print a table of videos, lowest accuracy first."""
    json: bool = False
    """Print all results as one JSON object."""

    def run(self) -> int:
        """Read, score and print."""
        if not self.files:
            raise ValueError("give the folders TRUTH and PREDICTIONS, TRUTH and RESULTS.json, or files of scores")
        if self.files[-1].suffix == ".json":
            return self._detections()
        kinds = {path.suffix in _SCORES or (path / "scores.npz").is_file() for path in self.files}
        if kinds == {True}:
            return self._fused()
        if len(kinds) == 2 or len(self.files) > 2:
            given = " ".join(map(str, self.files))
            raise ValueError(f"{given}: give the folders TRUTH and PREDICTIONS, or files of scores, .npz or .csv")
        self._refuse_fusion()
        return self._frame_labels()

    def _refuse_fusion(self) -> None:
        for name in ("weights", "tune", "dump"):
            if getattr(self, name):
                raise ValueError(f"--{name} is for files of scores, .npz or .csv, and tested recognition runs")

    def _detections(self) -> int:
        from vidseg.tasks.detection.result_scores import score_files

        self._refuse_fusion()
        scores = score_files(
            self.files[:-1],
            self.files[-1],
            protocol=self.protocol,
            thresholds=self.thresholds,
            split=self.split,
            blocked=self.blocked,
            level=self.level,
            classes=self.mapping,
        )
        if self.json:
            print(json_format.dumps(scores.summary(), ensure_ascii=False))
        else:
            print("\n".join(scores.lines(classes=self.classes)))
        return 0

    def _fused(self) -> int:
        from vidseg.labels.counting import counted
        from vidseg.metrics.video_scores import (
            check_apart,
            check_suffix,
            find_weights,
            fuse_scores,
            read_scores,
            write_scores,
        )

        if self.dump is not None:
            check_suffix(self.dump)
        parts, weights = [read_scores(path) for path in self.files], self.weights
        tuned: dict[str, Any] = {}
        if self.tune:
            if self.weights:
                raise ValueError("--weights and --tune exclude each other")
            if len(self.tune) != len(self.files):
                raise ValueError(f"--tune: {len(self.tune)} files, expected one for each of the {len(self.files)} runs")
            held_out = [read_scores(path) for path in self.tune]
            for path, found in zip(self.tune, held_out, strict=True):
                check_apart(found, parts[0], str(path))
            weights, best = find_weights(held_out, how=self.fuse)
            tuned = {"weights": list(weights), "validation": best.summary()}
        fused = fuse_scores(parts, weights, how=self.fuse)
        summary = {**fused.summary(), **tuned}
        if self.dump is not None:
            write_scores(self.dump, fused)
        if self.json:
            print(json_format.dumps(summary))
        else:
            if tuned:
                found = tuned["validation"]
                print(
                    f"weights {' '.join(f'{weight:g}' for weight in weights)}: top-1 {found['top1']:.4f} on "
                    f"{counted(found['videos'], 'validation video')}"
                )
            print(
                f"top-1 {summary['top1']:.4f}   top-5 {summary['top5']:.4f}   mean class accuracy "
                f"{summary['mean_class_accuracy']:.4f}   {counted(len(self.files), 'network')}, "
                f"{counted(len(fused.videos), 'video')}"
            )
        return 0

    def _frame_labels(self) -> int:
        from vidseg.labels.counting import counted
        from vidseg.labels.predictions import read_predictions
        from vidseg.metrics import SegmentalMeter, boundary_scores, label_boundaries

        labels = read_predictions(
            self.files[0],
            self.files[1] if len(self.files) > 1 else None,
            mapping=self.mapping,
            bundle=self.bundle,
            truncate=self.truncate,
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
            print(f"vidseg score: {counted(len(labels.failed), 'video')} not scored", file=sys.stderr)
        return 1 if labels.failed else 0

    def _lines(self, labels: PairedLabels, scores: SegmentalScores, boundaries: BoundaryScores) -> list[str]:
        head = ["acc", "edit", *(f"F1@{100 * overlap:g}" for overlap in self.overlaps)]
        row = [scores["acc"], scores["edit"], *scores["f1"].values()]
        from vidseg.labels.counting import counted

        counts = (
            counted(len(labels.names), "video"),
            counted(scores["frames"], "frame"),
            counted(len(labels.classes), "class", "classes"),
        )
        lines = [", ".join(counts)]
        if labels.cut:
            lines.append(f"{counted(len(labels.cut), 'video')} truncated to the shorter side, such as {labels.cut[0]}")
        lines += ["".join(f"{name:>8}" for name in head), "".join(f"{value:8.2f}" for value in row)]
        lines.append(
            f"boundaries within {counted(self.tolerance, 'frame')}: precision {boundaries['precision']:.2f},"
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
