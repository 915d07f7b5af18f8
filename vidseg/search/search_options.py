"""Options of one start of a search; imports nothing heavy. The docstrings are the help texts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vidseg.engine.options import at_least

__all__ = ["SearchOptions"]


@dataclass(frozen=True)
class SearchOptions:
    """How many trials run, for how long, where, and on what."""

    out: str | None = None
    """Folder of the search; default: results/<data set>/<name of the file>_search."""
    trials: int | None = None
    """Number of trials, those of earlier starts included; default: that of the file, else 20, or as many as --time
    allows."""
    time: float | None = None
    """Hours until the search stops; running trials stop and continue at the next start."""
    jobs: int | None = None
    """Trials that run at the same time; default: that of the file, else 1."""
    seed: int | None = None
    """Seed of the choice of values; default: that of the file, else 0."""
    repeat: int = 0
    """After the search: train the best values and the options without the search with so many seeds each, and compare
    them."""
    ray: bool = False
    """Run the trials on a Ray cluster: that of RAY_ADDRESS or one running on this machine, else one that is started
    here. All machines need the same paths."""
    cpus_per_trial: int | None = None
    """Processor threads of each trial; default: the processors of this machine divided by --jobs."""
    gpus_per_trial: float | None = None
    """GPUs of each trial, such as 0.5 for two trials on one GPU; default: the GPUs of this machine divided by --jobs;
    with --ray none."""
    overwrite: bool = False
    """Delete the search in the folder, its trials included, and start again."""

    def __post_init__(self) -> None:
        at_least(self, 1, "trials", "jobs", "cpus_per_trial")
        at_least(self, 0, "seed", "repeat")
        if self.repeat == 1:
            raise ValueError("repeat=1: a comparison needs at least 2 seeds")
        for name in ("time", "gpus_per_trial"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be above 0")
        if self.gpus_per_trial is not None and self.gpus_per_trial > 1 and self.gpus_per_trial % 1:
            raise ValueError(f"gpus_per_trial={self.gpus_per_trial}: a fraction up to 1, or a whole number")

    def folder(self, space: str | Path, data: str | Path) -> Path:
        """Return the folder of the search."""
        if self.out is not None:
            return Path(self.out)
        return Path("results") / Path(data).resolve().name / f"{Path(space).stem}_search"

    def threads(self, jobs: int) -> int:
        """Return the processor threads of each of `jobs` trials."""
        return self.cpus_per_trial or max(1, len(os.sched_getaffinity(0)) // jobs)
