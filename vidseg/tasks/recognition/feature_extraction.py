"""From frame databases to features: a recognition network on windows around every N-th frame of long videos.

Column k of a video's features is computed from the window around frame k * stride: `frames` frames, `interval` apart,
frame k * stride in their middle; where the window leaves the video, the first or last frame is repeated. Files are
`<video>.npy`, float32 (D, L), L = video frames / stride rounded up, as `vidseg.loaders.FeatureLoader` reads them. With
position="start" the window of column k begins at frame k * stride, and only whole windows have a column.

The features of several networks, such as those of RGB and of optical flow, are one behind the other in D.

Shapes: B windows, T frames of a window, D feature width, K classes, L columns.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidseg.clips.geometry import Geometry
from vidseg.clips.named_geometry import named_geometry
from vidseg.engine.monitors import progress_bar
from vidseg.frames import FrameDatabaseError
from vidseg.frames.whole_file import whole_file
from vidseg.labels import VideoDataset
from vidseg.labels.json_files import write_json
from vidseg.loaders.threads import default_threads
from vidseg.models import InputSpec
from vidseg.tasks.recognition.trained import RecognitionModel
from vidseg.tasks.recognition.video_windows import Position, VideoWindows

__all__ = ["ExtractionReport", "clip_outputs", "extract_features"]

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
    trained: RecognitionModel | Sequence[RecognitionModel],
    out: str | Path,
    *,
    stride: int = 1,
    position: Position = "center",
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
        trained: a recognition network, or several whose features are concatenated in this order; its input spec defines
            how windows are cut and normalized, and which database they are read from.
        out: folder of the files; created if it does not exist.
        stride: video frames from one column to the next.
        position: frame k * stride is in the "center" of the window of column k, or its "start".
        output: "features", the input of the network's classifier; or its "logits" or "probabilities".
        geometry: which part of the frames is used, see `vidseg.clips.named_geometry`; None: as in the run's validation.
        batch_size: windows that the network sees at once.
        threads: decoding threads; None: one for each core.
        overwrite: write all files again.

    Raises:
        ValueError: the folder holds features of another extraction, names of videos are not unique, or scores of
            several networks.
    """
    networks = [trained] if isinstance(trained, RecognitionModel) else list(trained)
    for name, value in (("batch_size", batch_size), ("stride", stride)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    for name, chosen, known in (("output", output, Output), ("position", position, Position)):
        if chosen not in get_args(known):
            raise ValueError(f"{name}={chosen!r} is not one of {', '.join(get_args(known))}")
    if not networks or (len(networks) > 1 and output != "features"):
        raise ValueError(f"output={output!r} of {len(networks)} networks: give one; features can be of several")
    out = Path(out)
    names = [data.video_path(row).rpartition("/")[2] for row in range(len(data))]
    double = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if double is not None:
        raise ValueError(f"{data}: two videos are called {double!r}, and would have one file")
    _claim(out, _record(networks, stride, position, output, geometry), overwrite=overwrite)
    report = ExtractionReport(str(out))
    longest = max(1 + (one.input_spec.frames * one.input_spec.stack - 1) * one.input_spec.interval for one in networks)
    counts = [_columns(int(frames), stride, longest if position == "start" else 1) for frames in data.frames]
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar(sum(counts), "windows"))
        streams = []
        for one in networks:
            output_of = stack.enter_context(clip_outputs(one.model, one.features(), output))
            shown = one.geometry() if geometry is None else _geometry(geometry, one.input_spec)
            windows = stack.enter_context(
                closing(VideoWindows(data, one.input_spec, shown, threads or default_threads()))
            )
            streams.append((one.device, windows, output_of))
        for row, name in enumerate(names):
            path = out / f"{name}.npy"
            if not overwrite and _holds(path, counts[row]):
                report.present += 1
                bar.update(counts[row])
                continue
            try:
                columns = []
                for first in range(0, counts[row], batch_size):
                    part = range(first, min(first + batch_size, counts[row]))
                    found = []
                    for device, windows, output_of in streams:
                        clips = windows.clips(row, part, stride, position, device=device)
                        with torch.inference_mode():
                            found.append(output_of(clips))
                    columns.append(torch.cat(found, dim=1))
                    bar.update(len(part))
            except FrameDatabaseError as error:
                report.failed.append(f"{name}: {error}")
                logger.error("%s: %s", name, error)
                continue
            _save(path, torch.cat(columns).T.contiguous().numpy())
            report.written += 1
            report.columns += counts[row]
    return report


def _record(
    networks: Sequence[RecognitionModel], stride: int, position: Position, output: Output, geometry: str | None
) -> dict[str, Any]:
    """What identifies an extraction; that of one network has the entries of earlier versions."""
    each = [
        {"input": one.input_spec.as_dict(), "geometry": geometry or one.val_geometry, **one.identity()}
        for one in networks
    ]
    common = {"stride": stride, "output": output} | ({} if position == "center" else {"position": position})
    return {**each[0], **common} if len(each) == 1 else {"networks": each, **common}


def _columns(frames: int, stride: int, window: int) -> int:
    """The number of windows that begin at multiples of the stride and fit, at least 1."""
    return max(1, -(-(frames - window + 1) // stride))


def _geometry(name: str, spec: InputSpec) -> Geometry:
    geometry = named_geometry(name, size=(spec.size, spec.size), train=False)
    if geometry.views > 1:
        raise ValueError(f"geometry={name!r} has {geometry.views} views; a column is made of one")
    return geometry


def _claim(out: Path, record: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder; refuse one with features of another extraction."""
    path = out / _RECORD
    if path.is_file() and not overwrite:
        known = json.loads(path.read_text())
        if isinstance(known.get("input"), dict):  # files of earlier versions lack fields that have their defaults
            known["input"] = InputSpec.from_dict(known["input"]).as_dict()
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
