"""Options of the server; imports nothing heavy. The docstrings are the help texts."""

from __future__ import annotations

from dataclasses import dataclass, fields

from vidseg.engine.options import at_least

__all__ = ["ReplicaOptions", "ServeOptions"]


@dataclass(frozen=True)
class ServeOptions:
    """Storage, limits and batching of a server."""

    store: str = "vidseg_serve"
    """Folder of uploads, jobs and saved streams; one server at a time uses it, or several with --shared."""
    shared: bool = False
    """Let other servers use the store at the same time, on every machine that has the folder; each runs jobs of all."""
    workers: int = 4
    """Requests that are computed at the same time: each decodes its video, and their clips share batches."""
    queue: int = 32
    """Requests that wait for a worker; further ones get status 503 with Retry-After."""
    job_workers: int = 1
    """Jobs that run at the same time."""
    job_queue: int = 1000
    """Jobs that wait; further ones get status 503."""
    keep_hours: float = 24.0
    """Hours for which results of jobs and saved streams are kept."""
    streams: int = 16
    """Streams that are open at the same time."""
    batch_size: int = 16
    """Most clips of different requests that the network processes at once."""
    batch_delay: float = 0.002
    """Longest time in seconds that a clip waits for others to share its batch."""
    max_bytes: int = 512 << 20
    """Largest upload in bytes."""
    max_seconds: float = 600.0
    """Longest video of a request in seconds; a job may be longer."""
    max_job_seconds: float = 14_400.0
    """Longest video of a job in seconds."""
    max_pixels: int = 1 << 23
    """Largest frame in pixels."""
    max_frames: int = 1_000_000
    """Largest number of frames of a video, or columns of a file of features."""
    time_limit: float = 60.0
    """Longest time for the computation of a request in seconds."""
    job_time_limit: float = 14_400.0
    """Longest time for the computation of a job in seconds."""

    def __post_init__(self) -> None:
        counts = ("workers", "queue", "job_workers", "job_queue", "streams", "batch_size", "max_bytes", "max_frames")
        at_least(self, 1, *counts, "max_pixels")
        at_least(self, 0, "batch_delay")
        for name in ("keep_hours", "max_seconds", "max_job_seconds", "time_limit", "job_time_limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be greater than 0")


@dataclass(frozen=True)
class ReplicaOptions:
    """Replicas of a server on a Ray cluster, whose machines see models and store under the same paths."""

    ray: bool = False
    """Run replicas of the server on a Ray cluster, as many as the load needs; needs the extra ray."""
    cluster: str | None = None
    """Address of the cluster; default: RAY_ADDRESS, else the cluster of this machine, else a new one that ends with the
    command."""
    min_replicas: int = 1
    """Smallest number of replicas."""
    max_replicas: int = 4
    """Largest number of replicas."""
    requests_per_replica: float = 4.0
    """Requests and streams per replica, on average, above which Ray adds replicas, and below which it removes some."""
    replica_cpus: float = 1.0
    """Processors that Ray reserves for a replica."""
    replica_gpus: float = 0.0
    """GPUs that Ray reserves for a replica; 0.5: two replicas share one."""

    def __post_init__(self) -> None:
        at_least(self, 1, "min_replicas")
        at_least(self, 0, "replica_cpus", "replica_gpus")
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas={self.max_replicas} must be at least min_replicas={self.min_replicas}")
        if not self.requests_per_replica > 0:
            raise ValueError(f"requests_per_replica={self.requests_per_replica} must be greater than 0")
        if not self.ray and any(getattr(self, each.name) != each.default for each in fields(self)):
            raise ValueError("options of replicas need --ray")
