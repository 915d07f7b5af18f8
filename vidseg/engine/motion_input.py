"""Modalities of a run: what its loaders read beside or instead of the frames, and how that was computed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidseg.frames import FlowDatabase
from vidseg.frames.schema import DATABASE_NAMES
from vidseg.labels import VideoDataset
from vidseg.models import InputSpec

__all__ = ["check_motion", "modality_options", "motion_sources"]

logger = logging.getLogger(__name__)


def modality_options(spec: InputSpec) -> dict[str, Any]:
    """Return the arguments `modality`, `mean` and `std` of a loader for an input spec.

    The mean and the standard deviation of a pair such as "rgb+flow" are those of its first part; loaders have their own
    for the second.
    """
    first, _, second = spec.modality.partition("+")
    if not second:
        return {"modality": first, "mean": spec.mean, "std": spec.std}
    return {"modality": (first, second), "mean": {first: spec.mean}, "std": {first: spec.std}}


def motion_sources(data: VideoDataset, spec: InputSpec) -> dict[str, dict[str, Any]]:
    """Return method and bound of each modality but RGB, from the databases of the first video.

    Args:
        data: videos, at least one.
        spec: how the network sees clips.

    Raises:
        FrameDatabaseError: a database is damaged.
    """
    found = {}
    for part in spec.modality.split("+"):
        path = Path(data.root) / data.video_path(0) / DATABASE_NAMES[part] if part not in ("rgb", "features") else None
        if path is not None and path.is_file():  # the loader names a missing one, with the remedy
            database = FlowDatabase(path)
            found[part] = {"method": database.method, "bound": database.bound}
    return found


def check_motion(record: Mapping[str, Any], data: VideoDataset, spec: InputSpec) -> None:
    """Refuse flow of another bound than that of the run, and warn about another method.

    Args:
        record: of the run; one without an entry `motion` passes.
        data: videos of a test.
        spec: how the network sees clips.

    Raises:
        ValueError: the bounds differ, so that equal vectors have different values.
    """
    known = record.get("motion") or {}
    for part, found in motion_sources(data, spec).items():
        trained = known.get(part, found)
        if found["bound"] != trained["bound"]:
            raise ValueError(
                f"{data.root}: its {part} has a bound of {found['bound']:g} pixels, that of the run has "
                f"{trained['bound']:g}; extract it with --bound {trained['bound']:g}"
            )
        if found["method"] != trained["method"]:
            logger.warning(
                "%s: its %s is of the method %s, the run was trained on %s", data.root, part, found["method"],
                trained["method"],
            )  # fmt: skip
