"""The backends by name: what turns plans into frames."""

from typing import Literal, Protocol

from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.labels import VideoDataset
from vidseg.loaders.native_backend import CacheReport, NativeFiller
from vidseg.loaders.output import OutputForm

__all__ = ["Filler", "check_name", "make_filler"]


class Filler(Protocol):
    """A backend: turns plans into frames."""

    def fill(self, plan: BatchPlan, cancel: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The frames of a plan, and which frame of its video each of them is, int64 (B, T)."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...

    @property
    def cache_report(self) -> CacheReport:
        """What its cache did."""
        ...


def check_name(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a name that is not one of those allowed.

    Raises:
        ValueError: names the argument, its value and what is allowed.
    """
    if value not in allowed:
        raise ValueError(f"{argument}={value!r} is not one of {', '.join(map(repr, allowed))}")


def make_filler(
    backend: str,
    data: VideoDataset,
    form: OutputForm,
    *,
    threads: int,
    enlarge: float = 1.0,
    on_error: Literal["raise", "replace"],
    cache: Literal["encoded", "decoded"] = "encoded",
    cache_bytes: int = 0,
) -> Filler:
    """The backend of a name.

    Raises:
        ValueError: an unknown name, or one that cannot do what is asked.
        ImportError: what the backend needs is not installed.
    """
    check_name("backend", backend, ("native", "dali", "video"))
    check_name("on_error", on_error, ("raise", "replace"))
    if not 1 <= enlarge <= 2:
        raise ValueError(f"enlarge={enlarge} must be 1 (never) to 2")
    if enlarge != 1 and backend != "native":
        raise ValueError(f"enlarge={enlarge}: only backend='native' enlarges stored copies, not {backend!r}")
    if cache_bytes and backend != "native":
        raise ValueError(f"cache_bytes={cache_bytes}: only backend='native' keeps frames in memory, not {backend!r}")
    if backend == "video":
        from vidseg.loaders.video_backend import VideoFiller

        return VideoFiller(data, form, threads=threads, on_error=on_error)
    if not data.converted:
        raise ValueError(
            f"backend={backend!r} reads frame databases, and {data!r} has video files: take backend='video', or convert"
            " them with vidseg.convert_videos"
        )
    if backend == "dali":
        from vidseg.loaders.dali_backend import DaliFiller

        return DaliFiller(data, form, threads=threads, on_error=on_error)
    return NativeFiller(
        data, form, threads=threads, enlarge=enlarge, on_error=on_error, cache=cache, cache_bytes=cache_bytes
    )
