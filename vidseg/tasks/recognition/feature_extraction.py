"""From frame databases to features: a recognition network over windows around every so manieth frame of long videos.

Column k of a video's features is what the network sees around frame k * stride: `frames` frames, `interval` apart,
frame k * stride in their middle, the first or last frame again where the window leaves the video. Files are
`<video>.npy`, float32 (D, L), L = video frames / stride rounded up, as `vidseg.loaders.FeatureLoader` reads them.

Shapes: B windows, T frames of a window, D feature width, K classes, L columns.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
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
from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.engine.monitors import progress_bar
from vidseg.engine.runs import build_network, check_recognition, read_run
from vidseg.frames import FrameDatabaseError
from vidseg.labels import VideoDataset
from vidseg.loaders.native_backend import NativeFiller
from vidseg.loaders.output import MEAN, STD, OutputForm
from vidseg.models import classifier_name, create_model, load_weights, model_input_spec, named_for, read_state

__all__ = ["Extraction", "ExtractionReport", "centered_frames", "extract_features", "load_recognition"]

logger = logging.getLogger(__name__)

Output = Literal["features", "logits", "probabilities"]

_RECORD = "extraction.json"


@dataclass(frozen=True)
class Extraction:
    """What is extracted.

    Attributes:
        frames: T.
        interval: frames from one of these to the next.
        size: height and width that the network sees, in pixels.
        stride: video frames from one column to the next.
        geometry: which part of the frames is seen, see `vidseg.clips.named_geometry`.
        color: order of the channels.
        output: "features": what the network's classifier is given; "logits" or "probabilities": what it answers.
        mean: of R, G and B in 0..1, subtracted from the frames.
        std: of R, G and B, by which they are divided then.
    """

    frames: int = 16
    interval: int = 1
    size: int = 112
    stride: int = 1
    geometry: str | None = None
    color: Literal["rgb", "bgr"] = "rgb"
    output: Output = "features"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    def __post_init__(self) -> None:
        for name in ("frames", "interval", "size", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.output not in ("features", "logits", "probabilities"):
            raise ValueError(f"output={self.output!r} is neither features, logits nor probabilities")


@dataclass
class ExtractionReport:
    """What became of the videos of a data set."""

    folder: str
    written: int = 0
    present: int = 0
    """Videos whose features were there already."""
    columns: int = 0
    """Of the files written."""
    failed: list[str] = field(default_factory=list)
    """`<video>: <reason>`."""

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.written} videos written, {self.columns} columns; {self.present} were there"]
        return "\n".join([*lines, *([f"{len(self.failed)} failed"] if self.failed else [])])


def centered_frames(extraction: Extraction, windows: range, length: int) -> npt.NDArray[np.int64]:
    """Frame numbers (B, T) of windows of a video of `length` frames, none of them outside it."""
    offsets = (np.arange(extraction.frames) - extraction.frames // 2) * extraction.interval
    places = np.array(windows, np.int64)[:, None] * extraction.stride + offsets
    return np.clip(places, 0, length - 1)


def load_recognition(
    weights: str | Path, *, network: str | None = None
) -> tuple[nn.Module, dict[str, Any], dict[str, str]]:
    """A trained recognition network.

    Args:
        weights: folder of a run of `vidseg train`, whose best checkpoint is taken; or a file of weights.
        network: name of the network, for a file.

    Returns:
        The network; what its run says about `frames`, `interval`, `size`, `geometry` and `color`, or for a file what
        its publication says about `mean` and `std`; and what to record of it.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file without the network's name, or weights that do not fill it.
    """
    weights = Path(weights)
    seen: dict[str, Any] = {}
    if weights.is_dir():
        options, classes = read_run(weights)
        network, folder = options.network.network, CheckpointFolder(weights, options.network.network)
        found = folder.best if folder.best.is_file() else folder.newest()
        if found is None:
            raise FileNotFoundError(f"{weights}: no checkpoint {network}_*.pth in it")
        model, path, data = build_network(options.network, len(classes)), found, options.data
        seen = {"frames": data.clip_length, "interval": data.val_frame_interval[0], "size": data.clip_size}
        seen |= {"geometry": data.val_geometry, "color": data.color}
    else:
        if not weights.is_file():
            raise FileNotFoundError(f"{weights}: neither a run's folder nor a file of weights")
        if network is None:
            raise ValueError(f"{weights}: a file of weights does not say whose they are; name the network")
        check_recognition(network)
        with torch.device("meta"):
            model = create_model(network, num_classes=1)
        name, _ = _classifier(model)
        state = named_for(model, read_state(weights))
        if f"{name}.weight" not in state:
            raise ValueError(f"{weights}: has no {name}.weight, so these are not weights of {network}")
        model, path = create_model(network, num_classes=len(state[f"{name}.weight"])), weights
        spec = model_input_spec(network)
        seen = {"mean": spec.mean, "std": spec.std}
    load_weights(model, path, network=network)
    size = path.stat()
    return model, seen, {"network": network, "weights": str(path.resolve()), "bytes": str(size.st_size)}


def _classifier(model: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the layer whose input are the features."""
    name = classifier_name(model)
    if name is None:
        raise ValueError(f"{type(model).__name__} has no linear classifier, so what its features are is not clear")
    return name, model.get_submodule(name)


@contextmanager
def _answers(model: nn.Module, output: Output) -> Iterator[Any]:
    """A function from clips (B, C, T, H, W) to float32 (B, D) on the CPU."""
    seen: list[Tensor] = []
    classifier = _classifier(model)[1]

    def keep(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        values = arguments[0].detach()
        # A linear layer has its channels last, a convolution behind the batch.
        seen.append(values if isinstance(classifier, nn.Linear) else values.flatten(2).transpose(1, 2))

    def answer(clips: Tensor) -> Tensor:
        seen.clear()
        logits = model(clips)
        values = logits if output == "logits" else logits.softmax(dim=1) if output == "probabilities" else seen[-1]
        return values.flatten(1, -2).mean(dim=1).float().cpu() if values.dim() > 2 else values.float().cpu()

    hook = classifier.register_forward_pre_hook(keep)
    training = model.training
    model.eval()
    try:
        yield answer
    finally:
        hook.remove()
        model.train(training)


def extract_features(
    data: VideoDataset,
    model: nn.Module,
    out: str | Path,
    *,
    extraction: Extraction,
    batch_size: int = 16,
    threads: int | None = None,
    device: torch.device | str = "cpu",
    record: dict[str, str] | None = None,
    overwrite: bool = False,
) -> ExtractionReport:
    """Write the features of every video; videos whose file is there already are left out.

    A video that cannot be read is named in the report, and the others go on.

    Args:
        data: videos with frame databases.
        model: a recognition network, moved to `device`; its mode is restored.
        out: folder of the files, made where there is none.
        extraction: what is extracted.
        batch_size: windows that the network sees at once.
        threads: decoding threads; None: one for each core.
        device: where to compute.
        record: of the network; an earlier extraction into this folder must have had the same.
        overwrite: write all files again.

    Raises:
        ValueError: the folder holds features of another extraction, or names of videos are not unique.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    out = Path(out)
    names = [data.video_path(row).rpartition("/")[2] for row in range(len(data))]
    double = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if double is not None:
        raise ValueError(f"{data}: two videos are called {double!r}, and would have one file")
    geometry = _geometry(extraction)
    _claim(out, {**asdict(extraction), **(record or {})}, overwrite=overwrite)
    filler = NativeFiller(
        data,
        OutputForm(color=extraction.color, mean=extraction.mean, std=extraction.std),
        threads=threads or len(os.sched_getaffinity(0)),
    )
    report = ExtractionReport(str(out))
    counts = [-(-int(frames) // extraction.stride) for frames in data.frames]
    with progress_bar(sum(counts), "windows") as bar, _answers(model.to(device), extraction.output) as answer:
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
                    frames = centered_frames(extraction, windows, int(data.frames[row]))
                    clips = _clips(filler, row, frames, extraction, geometry)
                    with torch.inference_mode():
                        columns.append(answer(clips.to(device)))
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


def _geometry(extraction: Extraction) -> Geometry:
    geometry = named_geometry(extraction.geometry, size=(extraction.size, extraction.size), train=False)
    if geometry.views > 1:
        raise ValueError(f"geometry={extraction.geometry!r} has {geometry.views} views; a column is made of one")
    return geometry


def _clips(
    filler: NativeFiller, video: int, frames: npt.NDArray[np.int64], extraction: Extraction, geometry: Geometry
) -> Tensor:
    """The windows (B, 3, T, H, W) with these frames (B, T) of a video; a frame of several windows is decoded once."""
    data, one = filler.data, np.zeros(1, np.int64)
    distinct, places = np.unique(frames, return_inverse=True)
    plan = BatchPlan(
        epoch=0,
        index=0,
        height=extraction.size,
        width=extraction.size,
        videos=np.array([video], np.int64),
        views=one,
        labels=one - 1,
        frames=distinct[None],
        matrices=geometry.matrices(
            data.heights[[video]].astype(np.int64),
            data.widths[[video]].astype(np.int64),
            output=(extraction.size, extraction.size),
            views=one,
            seed=0,
            epoch=0,
            samples=one,
        ),
        colors=ColorPlan.none(1),
    )
    shown = filler.fill(plan)[0][0]
    return shown[:, torch.from_numpy(places.reshape(frames.shape))].transpose(0, 1)


def _claim(out: Path, record: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder; refuse one with features of another extraction."""
    path = out / _RECORD
    if path.is_file() and not overwrite:
        # Features from before mean and deviation could be chosen have the usual ones.
        known = {"mean": list(MEAN), "std": list(STD)} | json.loads(path.read_text())
        record = json.loads(json.dumps(record))
        for key in record.keys() | known.keys():
            if known.get(key) != record.get(key):
                raise ValueError(
                    f"{path}: the features there have {key}={known.get(key)!r}, now it is {record.get(key)!r}; take"
                    " another folder, or overwrite them"
                )
    elif any(out.glob("*.npy")) and not overwrite:
        raise ValueError(f"{out}: holds features that were not extracted here; take another folder, or overwrite them")
    out.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{_RECORD}.{os.getpid()}")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(path)


def _holds(path: Path, columns: int) -> bool:
    """Whether a file of that many columns is there; files are renamed when they are whole."""
    return path.is_file() and np.load(path, mmap_mode="r").shape[1:] == (columns,)


def _save(path: Path, columns: npt.NDArray[np.float32]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.save(file, columns)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
