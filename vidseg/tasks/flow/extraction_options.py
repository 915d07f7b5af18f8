"""Options of an extraction of flow and their checks. Imports no torch, which keeps `--help` fast."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

__all__ = ["CODEC", "METHODS", "NETWORKS", "ExtractFlowOptions", "Method"]

NETWORKS = ("raft_basic", "raft_small", "liteflownet3", "fastflownet")
"""Methods that are networks and need weights."""
CODEC = ("motion-vectors", "residual")
"""Methods that read the video file instead of its frames."""
METHODS = {
    **dict.fromkeys((*NETWORKS, "dis", "tvl1"), "flow"),
    "motion-vectors": "motion",
    "residual": "residual",
}
"""Modality that each method computes."""

Method = Literal["raft_basic", "raft_small", "liteflownet3", "fastflownet", "dis", "tvl1", "motion-vectors", "residual"]
_NO_JPEG = ("quality", "restart_interval", "optimize")  # have no effect on rows of float16


@dataclass(frozen=True, kw_only=True)
class ExtractFlowOptions:
    """Options of an extraction."""

    method: Method
    """Network (raft_basic, raft_small, liteflownet3, fastflownet), classical method (dis, tvl1), or the motion vectors
    or residuals that the video codec has stored."""
    weights: str | None = None
    """Weights of the network: folder of a run, one of its checkpoints, or a file of published weights."""
    bound: float = 20.0
    """Largest x and y of a stored vector in pixels; longer vectors are clamped. No effect on residuals and float16."""
    values: Literal["uint8", "float16"] = "uint8"
    """Stored values: 8 bits as JPEG, or float16 without loss, which takes about 20 times as many bytes."""
    quality: int = 90
    """JPEG quality, 1 to 100."""
    restart_interval: int = -1
    """Number of MCUs between JPEG restart markers, which allow a crop to be decoded alone; -1: automatic, 0: no
    markers."""
    optimize: bool = False
    """Compute Huffman tables for each frame; files are some percent smaller."""
    levels: int = 2
    """Number of smaller copies stored for each frame (1/2, 1/4, ... of the side), used for small training sizes."""
    accumulate: bool = False
    """Motion vectors and residuals to the last I-frame instead of the frame before."""
    size: str = "256"
    """Frame size for video files: maximum length of the short side in pixels, an exact WIDTHxHEIGHT, or "none"."""
    fps: float | None = None
    """Frames per second for video files, resampled by timestamp; default: every frame of the file once."""
    batch_size: int = 8
    """Pairs of frames that a network sees at once."""
    device: str | None = None
    """Device of the network, such as cpu, cuda or cuda:1; default: the accelerator if there is one."""
    workers: int | None = None
    """Number of worker processes; default: one per available processor, 1 for a network on an accelerator."""
    threads: int = 1
    """Threads of each worker for a network or a classical method, for few and long videos. Other numbers can give other
    bytes, because sums are computed in another order."""
    overwrite: bool = False
    """Extract again where a database exists."""
    time_limit: float | None = 604_800.0
    """Maximum time per video in seconds, by default a week; None: no limit."""
    stall_limit: float = 1800.0
    """Maximum time without a new frame in seconds; a worker that exceeds it is stopped."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", str(self.size))
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}, must be one of {', '.join(METHODS)}")
        if self.method in NETWORKS and self.weights is None:
            raise ValueError(
                f"{self.method} without weights computes random flow; give --weights FILE: a run of `vidseg train "
                "flow` or published weights, see docs/motion.md. dis and motion-vectors need no weights"
            )
        if self.method not in NETWORKS and self.weights is not None:
            raise ValueError(f"weights {self.weights}: the method {self.method} has none")
        if self.accumulate and self.method not in CODEC:
            raise ValueError(f"accumulate is for {' and '.join(CODEC)}, not for {self.method}")
        for name, low, high in (("quality", 1, 100), ("restart_interval", -1, 65535), ("levels", 0, 4)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}, must be between {low} and {high}")
        if self.values not in ("uint8", "float16"):
            raise ValueError(f"values is {self.values!r}, must be uint8 or float16")
        if not 0 < self.bound < 65504:
            raise ValueError(f"bound is {self.bound}, must be above 0 and below 65504 pixels")
        for name in ("fps", "batch_size", "workers", "threads", "time_limit", "stall_limit"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, must be greater than 0")

    @property
    def modality(self) -> str:
        """What the method computes: "flow", "motion" or "residual"."""
        return METHODS[self.method]

    def worker_count(self) -> int:
        """Return the number of workers to start."""
        return self.workers or len(os.sched_getaffinity(0))

    def recorded(self, *, video: bool) -> dict[str, object]:
        """Return the options that change the stored bytes.

        Args:
            video: whether the frames are those of a video file, with no frame database beside.
        """
        names = ["method", "values", "levels"]
        names += [] if self.modality == "residual" or self.values == "float16" else ["bound"]
        names += [] if self.values == "float16" else _NO_JPEG
        names += ["accumulate"] if self.method in CODEC else []
        names += ["size", "fps"] if video else []
        return {name: getattr(self, name) for name in names}
