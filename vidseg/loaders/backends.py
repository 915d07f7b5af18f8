"""The backends by name: each turns plans into frames."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from vidseg.clips import BatchPlan, ColorPlan
from vidseg.frames.open_files import allow_open_files
from vidseg.labels import VideoDataset, open_dataset
from vidseg.loaders.database_backend import DatabaseFiller
from vidseg.loaders.field_backend import FieldFiller
from vidseg.loaders.modality import Frames, is_lossless
from vidseg.loaders.native_backend import CacheReport, NativeFiller
from vidseg.loaders.output import OutputForm, PixelNormalizer

__all__ = ["Filler", "FramesNormalizer", "check_name", "host_forms", "make_filler", "open_data"]


_FILES_OPEN = 64  # databases that the compiled library keeps open
_FILES_PER_THREAD = 2


class Filler(Protocol):
    """A backend: decodes the frames of a plan into one tensor, or into one for each of several modalities."""

    def fill(self, plan: BatchPlan, cancel: Tensor | None = None) -> tuple[Frames, Tensor]:
        """Fill a plan.

        Args:
            plan: plan of videos of the filler's data set.
            cancel: uint8 (1,); another thread sets it to 1 to make this call return early, with undefined results.

        Returns:
            The frames, in the filler's output form, and int64 (B, T), the number of the frame that each position shows.
        """
        ...

    def close(self) -> None:
        """Free caches and open resources."""
        ...

    @property
    def cache_report(self) -> CacheReport:
        """Statistics of the cache; zeros without one."""
        ...


def open_data(data: VideoDataset | str | Path) -> VideoDataset:
    """Open a folder with `open_dataset`; returns an open data set unchanged.

    Raises:
        FileNotFoundError: no such folder, or it has no catalog.
        TypeError: neither a data set nor a path.
    """
    if isinstance(data, (str, Path)):
        return open_dataset(data)
    if not isinstance(data, VideoDataset):
        raise TypeError(f"data is a {type(data).__name__}; pass a folder, or the result of vidseg.open_dataset")
    return data


def check_name(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    """Check that an argument has one of the allowed values.

    Raises:
        ValueError: it has not; the message has the argument, the value and the allowed values.
    """
    if value not in allowed:
        raise ValueError(f"{argument}={value!r} is not one of {', '.join(map(repr, allowed))}")


def make_filler(
    backend: str,
    data: VideoDataset,
    forms: Sequence[OutputForm],
    *,
    threads: int,
    enlarge: float = 1.0,
    on_error: Literal["raise", "replace"],
    cache: Literal["encoded", "decoded"] = "encoded",
    cache_bytes: int = 0,
    device: torch.device | None = None,
    to_host: bool = False,
) -> Filler:
    """Make the backend of a name.

    Args:
        backend: "native", "dali" or "video".
        data: the videos.
        forms: modality, type, layout and normalization of the frames; one for each modality.
        threads: number of decoding threads.
        enlarge: see `ClipLoader`; "native" only.
        on_error: "raise" or "replace".
        cache: "encoded" or "decoded".
        cache_bytes: size of the cache; "native" only.
        device: device that "dali" decodes on; None: see `DaliFiller`. The other backends decode on the CPU.
        to_host: return batches of "dali" in host memory.

    Raises:
        ValueError: an unknown name, or an option that the backend does not support.
        RuntimeError: the hard limit on open files (`ulimit -n`) is too small.
        ImportError: a package that the backend needs is not installed.
    """
    check_name("backend", backend, ("native", "dali", "video"))
    check_name("on_error", on_error, ("raise", "replace"))
    if not 1 <= enlarge <= 2:
        raise ValueError(f"enlarge={enlarge} must be 1 (never) to 2")
    if enlarge != 1 and backend != "native":
        raise ValueError(f"enlarge={enlarge}: only backend='native' enlarges stored copies, not {backend!r}")
    if cache_bytes and backend != "native":
        raise ValueError(f"cache_bytes={cache_bytes}: only backend='native' keeps frames in memory, not {backend!r}")
    others = [form.modality for form in forms if form.modality != "rgb"]
    if others and backend != "native":
        raise ValueError(
            f"modality={others[0]!r}: backend={backend!r} reads colors only; use backend='native' with videos that"
            " `vidseg convert` and `vidseg extract-flow` have processed"
        )
    allow_open_files(_FILES_OPEN + _FILES_PER_THREAD * threads, f"a loader with {threads} threads")
    if backend == "video":
        from vidseg.loaders.video_backend import VideoFiller

        return VideoFiller(data, forms[0], threads=threads, on_error=on_error)
    if not data.converted:
        raise ValueError(
            f"backend={backend!r} reads frame databases, and {data!r} has video files: use backend='video', or convert"
            " them with vidseg.convert_videos"
        )
    if backend == "dali":
        from vidseg.loaders.dali_backend import DaliFiller

        return DaliFiller(data, forms[0], threads=threads, device=device, on_error=on_error, to_host=to_host)
    for form in forms:
        if (cache_bytes or enlarge != 1) and is_lossless(data, form.modality):
            raise ValueError(
                f"cache_bytes={cache_bytes} and enlarge={enlarge}: {form.modality} is stored as float16, which is read"
                " without a cache and without smaller copies"
            )
    fillers: list[NativeFiller | FieldFiller | DatabaseFiller] = []
    for form in forms:
        if is_lossless(data, form.modality):
            fillers.append(FieldFiller(data, form, threads=threads, on_error=on_error))
            continue
        native = NativeFiller(
            data,
            form,
            threads=threads,
            enlarge=enlarge,
            on_error=on_error,
            cache=cache,
            cache_bytes=cache_bytes // len(forms),
        )
        fillers.append(DatabaseFiller(native, cached=cache_bytes > 0) if form.modality == "rgb" else native)
    return fillers[0] if len(fillers) == 1 else _PairedFiller(fillers)


class _PairedFiller:
    """Fills the same plan for several modalities."""

    def __init__(self, fillers: Sequence[NativeFiller | FieldFiller | DatabaseFiller]) -> None:
        self._fillers = fillers
        self._stack = max(filler.form.stack for filler in fillers)

    def fill(self, plan: BatchPlan, cancel: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        frames: dict[str, Tensor] = {}
        shown = torch.from_numpy(plan.frames.copy())
        for filler in self._fillers:
            # Colors are those of the first frame of each stack.
            step = self._stack // filler.form.stack
            part = replace(plan, frames=plan.frames[:, ::step])
            if filler.form.modality != "rgb":
                part = replace(part, colors=ColorPlan.none(len(plan)))
            frames[filler.form.modality], found = filler.fill(part, cancel)
            places = shown[:, ::step]
            places.copy_(torch.where(found == torch.from_numpy(part.frames), places, found))
        return frames, shown

    def close(self) -> None:
        for filler in self._fillers:
            filler.close()

    @property
    def cache_report(self) -> CacheReport:
        reports = [filler.cache_report for filler in self._fillers]
        return CacheReport(*(sum(getattr(one, field.name) for one in reports) for field in fields(CacheReport)))


def host_forms(data: VideoDataset, forms: Sequence[OutputForm], *, late: bool) -> tuple[OutputForm, ...]:
    """Return the forms that batches have in host memory.

    Args:
        data: the videos.
        forms: forms of the loader's batches.
        late: normalize on the device that batches are copied to; lossless databases are normalized before.
    """
    return tuple(form.as_pixels if late and not is_lossless(data, form.modality) else form for form in forms)


class FramesNormalizer:
    """Normalizes uint8 batches of one or several modalities on their device; see `PixelNormalizer`.

    Args:
        forms: forms of the results, one for each modality.
    """

    def __init__(self, forms: Sequence[OutputForm]) -> None:
        self._normalizers: dict[str, PixelNormalizer] = {form.modality: PixelNormalizer(form) for form in forms}

    def __call__(self, frames: Frames, plan: BatchPlan) -> Frames:
        """Return the samples of a batch, in the form of `Filler.fill`."""
        if isinstance(frames, Tensor):
            (normalize,) = self._normalizers.values()
            return normalize(frames, plan)
        return {name: self._normalizers[name](pixels, plan) for name, pixels in frames.items()}
