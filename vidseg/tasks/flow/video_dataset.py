"""A data set with the motion of some video files, for predictions of networks that see motion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidseg.convert import convert_videos
from vidseg.tasks.flow.extraction import extract_flow
from vidseg.tasks.flow.extraction_options import METHODS, NETWORKS, ExtractFlowOptions

__all__ = ["make_motion_dataset"]


def make_motion_dataset(
    source: str | Path, folder: str | Path, motion: Mapping[str, Mapping[str, Any]], *, workers: int | None = None
) -> int:
    """Convert video files, and extract their motion as that of a run was extracted.

    Args:
        source: a video file, or a folder of them.
        folder: folder of the data set to make.
        motion: method and bound of each modality, the entry `motion` of a run's record.
        workers: number of processes; None: one for each core.

    Returns:
        Number of videos that could not be read; the log names each.

    Raises:
        ValueError: the method is not known, or is a network, whose weights the record does not have; or no video could
            be read.
        FileNotFoundError: there is no such file.
    """
    for modality, facts in motion.items():
        method = facts.get("method")
        if method not in METHODS or method in NETWORKS:
            raise ValueError(
                f"{source}: the network was trained on {modality} of the method {method!r}, which cannot be computed "
                f"here: run `vidseg convert VIDEOS DATA` and `vidseg extract-flow DATA --method {method}` with the "
                "same weights, and predict DATA"
            )
    source, folder = Path(source), Path(folder)
    report = convert_videos(source, folder, workers=workers, levels=0)
    failed = sum(outcome.problem is not None for outcome in report.outcomes)
    if failed == len(report.outcomes):
        reason = next((outcome.problem for outcome in report.outcomes if outcome.problem is not None), "no video in it")
        raise ValueError(f"{source}: no video could be read: {reason}")
    for modality, facts in motion.items():
        options = ExtractFlowOptions(method=facts["method"], levels=0, workers=workers)
        if modality != "residual":
            options = replace(options, bound=float(facts["bound"]))
        videos = source if source.is_dir() else source.parent
        extracted = extract_flow(folder, options, videos=videos)
        failed = max(failed, sum(outcome.problem is not None for outcome in extracted.outcomes))
    return failed
