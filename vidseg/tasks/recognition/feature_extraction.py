"""From frame databases to features: a recognition network on windows around every N-th frame of long videos.

Column k of a video's features is computed from the window around frame k * stride: `frames` frames, `interval` apart,
frame k * stride in their middle; where the window leaves the video, the first or last frame is repeated. Files are
`<video>.npy`, float32 (D, L), L = video frames / stride rounded up, as `vidseg.loaders.FeatureLoader` reads them.

Shapes: B windows, T frames of a window, D feature width, K classes, L columns.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidseg.clips import BatchPlan
from vidseg.clips.geometry import Geometry
from vidseg.clips.named_geometry import named_geometry
from vidseg.clips.plan import ColorPlan
from vidseg.engine.monitors import progress_bar
from vidseg.engine.runs import write_json
from vidseg.frames import FrameDatabaseError
from vidseg.frames.whole_file import whole_file
from vidseg.labels import VideoDataset
from vidseg.loaders.native_backend import NativeFiller
from vidseg.loaders.output import OutputForm
from vidseg.loaders.threads import default_threads
from vidseg.models import InputSpec
from vidseg.ops import window_gather
from vidseg.tasks.recognition.trained import RecognitionModel

__all__ = ["ExtractionReport", "centered_frames", "clip_outputs", "extract_features"]

logger = logging.getLogger(__name__)

Output = Literal["features", "logits", "probabilities"]

_RECORD = "extraction.json"


@dataclass
class ExtractionReport:
    """Counts of an extraction."""

    folder: str
    written: int = 0
    present: int = 0
    """Videos whose features existed already."""
    columns: int = 0
    """Columns of the files written."""
    failed: list[str] = field(default_factory=list)
    """`<video>: <reason>`."""

    def __str__(self) -> str:
        lines = [
            f"{self.folder}: {self.written} videos written, {self.columns} columns; {self.present} existed already"
        ]
        return "\n".join([*lines, *([f"{len(self.failed)} failed"] if self.failed else [])])


def centered_frames(spec: InputSpec, windows: range, stride: int, length: int) -> npt.NDArray[np.int64]:
    """Return the frame numbers (B, T) of windows of a video of `length` frames, none of them outside it."""
    offsets = (np.arange(spec.frames) - spec.frames // 2) * spec.interval
    places = np.array(windows, np.int64)[:, None] * stride + offsets
    return np.clip(places, 0, length - 1)


@contextmanager
def clip_outputs(model: nn.Module, classifier: nn.Module, output: Output = "features") -> Iterator[Any]:
    """Give a function from clips (B, C, T, H, W) to float32 (B, D) on the CPU.

    Args:
        model: network, in evaluation mode.
        classifier: its last layer, whose input the features are.
        output: "features", "logits" or "probabilities"; several positions of a clip are averaged.
    """
    seen: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        values = arguments[0].detach()
        # A linear layer has its channels last, a convolution behind the batch.
        seen.append(values if isinstance(classifier, nn.Linear) else values.flatten(2).transpose(1, 2))

    def output_of(clips: Tensor) -> Tensor:
        seen.clear()
        logits = model(clips)
        values = logits if output == "logits" else logits.softmax(dim=1) if output == "probabilities" else seen[-1]
        return values.flatten(1, -2).mean(dim=1).float().cpu() if values.dim() > 2 else values.float().cpu()

    hook = classifier.register_forward_pre_hook(keep)
    try:
        yield output_of
    finally:
        hook.remove()


def extract_features(
    data: VideoDataset,
    trained: RecognitionModel,
    out: str | Path,
    *,
    stride: int = 1,
    output: Output = "features",
    geometry: str | None = None,
    batch_size: int = 16,
    threads: int | None = None,
    overwrite: bool = False,
) -> ExtractionReport:
    """Write the features of every video; videos whose file exists already are skipped.

    A video that cannot be read is named in the report, and the other videos are extracted.

    Args:
        data: videos with frame databases.
        trained: a recognition network; its input spec defines how windows are cut and normalized.
        out: folder of the files; created if it does not exist.
        stride: video frames from one column to the next.
        output: "features", the input of the network's classifier; or its "logits" or "probabilities".
        geometry: which part of the frames is used, see `vidseg.clips.named_geometry`; None: as in the run's validation.
        batch_size: windows that the network sees at once.
        threads: decoding threads; None: one for each core.
        overwrite: write all files again.

    Raises:
        ValueError: the folder holds features of another extraction, or names of videos are not unique.
    """
    for name, value in (("batch_size", batch_size), ("stride", stride)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if output not in ("features", "logits", "probabilities"):
        raise ValueError(f"output={output!r} is not one of features, logits, probabilities")
    out, spec = Path(out), trained.input_spec
    names = [data.video_path(row).rpartition("/")[2] for row in range(len(data))]
    double = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if double is not None:
        raise ValueError(f"{data}: two videos are called {double!r}, and would have one file")
    shown = trained.geometry() if geometry is None else _geometry(geometry, spec)
    named = geometry or trained.val_geometry
    record = {"input": spec.as_dict(), "stride": stride, "output": output, "geometry": named, **trained.identity()}
    _claim(out, record, overwrite=overwrite)
    filler = NativeFiller(
        data,
        OutputForm(dtype=torch.uint8, layout="bthwc", color=spec.color),
        threads=threads or default_threads(),
    )
    report = ExtractionReport(str(out))
    counts = [-(-int(frames) // stride) for frames in data.frames]
    with (
        progress_bar(sum(counts), "windows") as bar,
        clip_outputs(trained.model, trained.features(), output) as output_of,
    ):
        for row, name in enumerate(names):
            path = out / f"{name}.npy"
            if not overwrite and _holds(path, counts[row]):
                report.present += 1
                bar.update(counts[row])
                continue
            try:
                columns = []
                for first in range(0, counts[row], batch_size):
                    windows = range(first, min(first + batch_size, counts[row]))
                    clips = _clips(
                        filler, row, windows, spec=spec, stride=stride, geometry=shown, device=trained.device
                    )
                    with torch.inference_mode():
                        columns.append(output_of(clips))
                    bar.update(len(windows))
            except FrameDatabaseError as error:
                report.failed.append(f"{name}: {error}")
                logger.error("%s: %s", name, error)
                continue
            _save(path, torch.cat(columns).T.contiguous().numpy())
            report.written += 1
            report.columns += counts[row]
    filler.close()
    return report


def _geometry(name: str, spec: InputSpec) -> Geometry:
    geometry = named_geometry(name, size=(spec.size, spec.size), train=False)
    if geometry.views > 1:
        raise ValueError(f"geometry={name!r} has {geometry.views} views; a column is made of one")
    return geometry


def _clips(
    filler: NativeFiller,
    video: int,
    windows: range,
    *,
    spec: InputSpec,
    stride: int,
    geometry: Geometry,
    device: torch.device,
) -> Tensor:
    """Normalized windows (B, 3, T, H, W) of a video on a device.

    A frame of several windows is decoded once and copied to the device once, as bytes; `window_gather` cuts the windows
    there.
    """
    data, one = filler.data, np.zeros(1, np.int64)
    size, length = (spec.size, spec.size), int(data.frames[video])
    wanted = np.unique(centered_frames(spec, windows, stride, length))
    plan = BatchPlan(
        epoch=0,
        index=0,
        height=spec.size,
        width=spec.size,
        videos=np.array([video], np.int64),
        views=one,
        labels=one - 1,
        frames=wanted[None],
        matrices=geometry.matrices(
            data.heights[[video]].astype(np.int64),
            data.widths[[video]].astype(np.int64),
            output=size,
            views=one,
            seed=0,
            epoch=0,
            samples=one,
        ),
        colors=ColorPlan.none(1),
    )
    shown = filler.fill(plan)[0].to(device)
    # Positions from the first to the last frame of the windows, outside the video too, at the distance that all windows
    # have in common; positions between windows show any frame.
    step = math.gcd(stride, spec.interval)
    starts = (np.array(windows) - windows[0]) * (stride // step)
    dilation = spec.interval // step
    count = int(starts[-1]) + (spec.frames - 1) * dilation + 1
    first = windows[0] * stride - spec.frames // 2 * spec.interval
    positions = np.clip(first + np.arange(count) * step, 0, length - 1)
    rows = np.searchsorted(wanted, positions).clip(max=len(wanted) - 1)
    if not np.array_equal(rows, np.arange(len(wanted))):
        shown = shown[:, torch.from_numpy(rows).to(device)]
    mean, std = ([255 * value for value in values] for values in (spec.mean, spec.std))
    if spec.color == "bgr":
        mean, std = mean[::-1], std[::-1]
    return window_gather(
        shown, torch.from_numpy(starts)[None].to(device), spec.frames, dilation=dilation, mean=mean, std=std
    )[0]


def _claim(out: Path, record: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder; refuse one with features of another extraction."""
    path = out / _RECORD
    if path.is_file() and not overwrite:
        known = json.loads(path.read_text())
        record = json.loads(json.dumps(record))
        for key in record.keys() | known.keys():
            if known.get(key) != record.get(key):
                raise ValueError(
                    f"{path}: the features there have {key}={known.get(key)!r}, now it is {record.get(key)!r};"
                    " choose another folder, or --overwrite them"
                )
    elif any(out.glob("*.npy")) and not overwrite:
        raise ValueError(f"{out}: holds features of another origin; choose another folder, or --overwrite them")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def _holds(path: Path, columns: int) -> bool:
    """Whether a file of that many columns is there; files are renamed when they are whole."""
    return path.is_file() and np.load(path, mmap_mode="r").shape[1:] == (columns,)


def _save(path: Path, columns: npt.NDArray[np.float32]) -> None:
    with whole_file(path, sync=True) as temporary, temporary.open("wb") as file:
        np.save(file, columns)
