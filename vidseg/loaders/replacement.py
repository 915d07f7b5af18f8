"""`on_error="replace"` for whole videos: clips of an unreadable video become clips of another one of its class."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from vidseg.clips import BatchPlan, BatchShape
from vidseg.clips.draws import uniform
from vidseg.clips.planner import ClipPlanner
from vidseg.frames import FrameDatabase, FrameDatabaseError
from vidseg.labels import VideoDataset
from vidseg.loaders.backends import Filler
from vidseg.loaders.modality import Frames, ModalityDatabases

__all__ = ["ReplacingFiller", "replaced_clips"]

logger = logging.getLogger(__name__)

_ALL_DAMAGED = "nor can any other frame of the video be read"


class ReplacingFiller:
    """Fills plans; where a video cannot be read, it plans a clip of another video of the same class instead.

    The replacement is a function of (seed, epoch, sample number) and of the videos that cannot be read. Each such video
    is logged once.

    Args:
        data: the videos.
        planner: plans the clips of the replacements.
        modalities: what the backend reads of each video.
    """

    def __init__(self, data: VideoDataset, planner: ClipPlanner, modalities: Sequence[str] = ("rgb",)) -> None:
        self.data, self.planner = data, planner
        self._colors = "rgb" in modalities
        self._others = [ModalityDatabases(data, one) for one in modalities if one != "rgb"]
        self._gone: dict[int, str] = {}  # video -> reason
        self._lock = threading.Lock()

    def fill(self, filler: Filler, plan: BatchPlan, cancel: Tensor | None = None) -> tuple[BatchPlan, Frames, Tensor]:
        """Fill a plan.

        Args:
            filler: the backend.
            plan: plan of the planner.
            cancel: see `Filler.fill`.

        Returns:
            The plan that was filled, and the results of `Filler.fill`.

        Raises:
            FrameDatabaseError: no video of a class can be read, or the error is not one of a whole video.
        """
        while True:
            filled = self._without_gone(plan)
            try:
                return filled, *filler.fill(filled, cancel)
            except RuntimeError as error:  # FrameDatabaseError, VideoError
                if not self._find_gone(filled, str(error)):
                    raise

    def _without_gone(self, plan: BatchPlan) -> BatchPlan:
        rows = [row for row, video in enumerate(plan.videos.tolist()) if video in self._gone]
        if not rows:
            return plan
        samples = self.planner.sample_numbers(plan.videos, plan.views)
        repeats = plan.repeats.copy()
        for row in rows:
            video = self._replacement(plan.epoch, int(samples[row]), int(plan.videos[row]))
            first, stop = self.planner.sample_range(video)
            samples[row] = first + int(plan.views[row]) % (stop - first)
            repeats[row] += 1  # another crop than that of the replacement's own turn
        shape = BatchShape(len(plan.videos), plan.frames.shape[1], plan.height, plan.width)
        made = self.planner.plan_samples(
            plan.epoch, samples, shape=shape, index=plan.index, valid=plan.valid, repeats=repeats
        )
        return replace(made, repeats=plan.repeats)

    def _replacement(self, epoch: int, sample: int, video: int) -> int:
        label = int(self.data.labels[video])
        others = np.flatnonzero(self.data.labels == label)
        order = np.argsort(uniform(self.planner.seed, epoch, [sample], purpose="replacement", count=len(others))[0])
        for other in others[order].tolist():
            if other not in self._gone and not self._check(other):
                return int(other)
        name = f"class {self.data.classes[label]!r}" if label >= 0 else "no class"
        raise FrameDatabaseError(
            f"{self.data.root}: no video of {name} can be read; the first is "
            f"{self.data.video_path(video)}: {self._gone[video]}"
        )

    def _find_gone(self, plan: BatchPlan, error: str) -> bool:
        """Return whether a video of the plan turns out to be unreadable."""
        found = False
        for video in np.unique(plan.videos).tolist():
            if video not in self._gone:
                found = bool(self._check(video, error)) or found
        return found

    def _check(self, video: int, error: str = "") -> str | None:
        """Return why a video cannot be read, and remember it; None if it can be opened."""
        path = self.data[video].path
        paths = [path] * self._colors + [databases.path(video) for databases in self._others]
        damaged = _ALL_DAMAGED in error and any(str(one) in error for one in paths)
        reason = f"it has no readable frame ({error})" if damaged else None
        try:
            for path in paths:
                with open(path, "rb") as file:
                    file.read(1)
            if self._colors and reason is None and self.data.converted:
                FrameDatabase(self.data[video].path)
            for databases in self._others if reason is None else ():
                databases.check([video])
        except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as problem:
            reason = os.strerror(problem.errno) if problem.errno else str(problem)
        except FrameDatabaseError as problem:
            reason = str(problem).removeprefix(f"{path}: ")
        if reason is not None:
            with self._lock:
                new = video not in self._gone
                self._gone[video] = reason
            if new:
                logger.warning(
                    "%s: cannot be read and is replaced by other videos of its class: %s",
                    self.data.video_path(video),
                    reason,
                )
        return reason


def replaced_clips(asked: BatchPlan, filled: BatchPlan) -> np.ndarray:
    """Return the number of frames of each clip that are of another video, int64 (B,)."""
    return np.where(asked.videos != filled.videos, asked.frames.shape[1], 0).astype(np.int64)
