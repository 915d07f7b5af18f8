"""Report of a test on videos with several classes, or with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vidseg.labels import VideoDataset
from vidseg.tasks.recognition.target_kinds import ClassesEvaluation, ValueEvaluation
from vidseg.tasks.recognition.tested_weights import TestedWeights

__all__ = ["TargetReport", "target_report"]


@dataclass(frozen=True)
class TargetReport(TestedWeights):
    """Result of a test; `str()` is a table."""

    scores: dict[str, float]
    """By name: mAP, hit and loss; or MAE, R2 and loss."""
    average_precisions: dict[str, float | None]
    """By class, None for one without a positive video; empty for numbers."""
    task: str = "recognition"

    def __str__(self) -> str:
        width = max(map(len, (*self.average_precisions, "class")))
        lines = [f"{'class':{width}}  average precision"] if self.average_precisions else []
        for name, value in self.average_precisions.items():
            lines.append(f"{name:{width}}  {'-' if value is None else f'{value:.4f}'}")
        lines.append("   ".join(f"{name} {value:.4f}" for name, value in self.scores.items()))
        return "\n".join([*lines, *self.footer()])


def target_report(
    result: ClassesEvaluation | ValueEvaluation, data: VideoDataset, classes: Sequence[str], **facts: Any
) -> TargetReport:
    """Return the report of an evaluation.

    Args:
        result: predictions for the videos of `data`.
        data: the videos.
        classes: names of the network's classes.
        **facts: the other fields of the report.
    """
    precisions: dict[str, float | None] = {}
    if isinstance(result, ClassesEvaluation):
        names = ("mAP", "hit", "loss")
        values = result.precisions.tolist()
        precisions = {name: None if value != value else value for name, value in zip(classes, values, strict=True)}
    else:
        names = ("MAE", "R2", "loss")
    return TargetReport(
        dataset=str(data.root),
        videos=len(result.numbers),
        scores=dict(zip(names, result.values, strict=True)),
        average_precisions=precisions,
        **facts,
    )
