"""What a trained network says about videos that are files, without converting them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch

from vidseg.engine import distributed
from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.engine.options import TrainOptions, options_from
from vidseg.engine.runs import build_network, read_run
from vidseg.models import load_weights
from vidseg.tasks.recognition.data import make_loader
from vidseg.tasks.recognition.evaluation import evaluate
from vidseg.videos import open_videos
from vidseg.videos.decoding import VideoSource
from vidseg.videos.listing import find_jobs

__all__ = ["Prediction", "Predictions", "draw_prediction", "predict_videos"]


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one video, the likeliest first."""

    video: str
    """Path of the file."""
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Predictions:
    """What a network said about some videos; `str()` is a table."""

    videos: tuple[Prediction, ...]
    failed: int
    """Files that could not be read; the log names each."""

    def __str__(self) -> str:
        width = max(len(video.video) for video in self.videos)
        lines = []
        for video in self.videos:
            answers = (f"{name} {share:.3f}" for name, share in zip(video.classes, video.probabilities, strict=True))
            lines.append(f"{video.video:{width}}  {'  '.join(answers)}")
        return "\n".join(lines)


def predict_videos(
    source: str | Path,
    weights: str | Path,
    *,
    network: str | None = None,
    classes: Sequence[str] | None = None,
    changes: dict[str, Any] | None = None,
    clips: int = 1,
    crops: int = 1,
    top: int = 5,
    fuse: Literal["softmax", "logits"] = "softmax",
) -> Predictions:
    """The likeliest classes of videos.

    Args:
        source: a video file, or a folder of them.
        weights: folder of a run, one of its checkpoints, or any file of weights.
        network: name of the network; None takes it from the run or its checkpoint.
        classes: names of the classes; None takes them from there.
        changes: options of the run to change, such as clip_size or val_frame_interval.
        clips: clips of each video, spread over its length; 1 is the central one.
        crops: crops of each clip: 1, 3, 5 or 10.
        top: number of classes.
        fuse: how the views of a video become one.

    Raises:
        FileNotFoundError: no such weights or videos.
        ValueError: weights that say nothing of network or classes, or do not fill the network.
    """
    if top < 1:
        raise ValueError(f"top={top} must be at least 1")
    path, options, names = _trained(Path(weights), network, classes)
    options = options_from(changes or {}, defaults=options)
    model = build_network(options.network, len(names))
    load_weights(model, path, network=options.network.network)
    data = open_videos(source)
    listing = find_jobs(Path(source))
    device = distributed.join_group()
    plain = replace(options.data, backend="video", batch_size=max(1, min(options.data.batch_size, len(data))))
    loader = make_loader(data, plain, seed=0, train=False, clips=clips, crops=crops)
    result = evaluate(model.to(device), loader, device=device, fuse=fuse)
    shares, places = result.logits.softmax(dim=1).topk(min(top, len(names)), dim=1)
    videos = []
    for number, row, best in zip(result.numbers.tolist(), shares.tolist(), places.tolist(), strict=True):
        file = str(data[number].path)
        videos.append(Prediction(file, tuple(names[place] for place in best), tuple(row)))
    return Predictions(tuple(videos), failed=len(listing.jobs) + len(listing.problems) - len(data))


def draw_prediction(prediction: Prediction, out: Path) -> Path:
    """Write the video again, as H.264 without sound, with its likeliest classes written into each frame."""
    from PIL import Image, ImageDraw

    answers = zip(prediction.classes, prediction.probabilities, strict=True)
    text = "\n".join(f"{share:6.1%}  {name}" for name, share in answers)
    source = VideoSource(Path(prediction.video))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp{out.suffix}")
    try:
        with av.open(str(temporary), "w") as container:
            stream: Any = None
            for number, timed in enumerate(source):
                picture = Image.fromarray(timed.frame.to_ndarray(format="rgb24"))
                if stream is None:
                    rate = Fraction(float(source.properties["fps"] or 25)).limit_denominator(1001)
                    stream = container.add_stream("libx264", rate=rate)
                    stream.width, stream.height = (side - side % 2 for side in picture.size)
                    stream.pix_fmt = "yuv420p"
                    size = max(10, picture.height // 18)
                place = (size // 2, size // 2)
                ImageDraw.Draw(picture).multiline_text(
                    place, text, fill="white", stroke_width=max(1, size // 8), stroke_fill="black", font_size=size
                )
                pixels = np.asarray(picture)[: stream.height, : stream.width]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return out


def _trained(weights: Path, network: str | None, classes: Sequence[str] | None) -> tuple[Path, TrainOptions, list[str]]:
    """File of the weights, options, class names."""
    if weights.is_dir():
        options, names = read_run(weights)
        folder = CheckpointFolder(weights, options.network.network)
        found = folder.best if folder.best.is_file() else folder.newest()
        if found is None:
            raise FileNotFoundError(f"{weights}: no checkpoint {options.network.network}_*.pth in it")
        path = found
    else:
        if not weights.is_file():
            raise FileNotFoundError(f"no weights at {weights}")
        path, options, names = weights, TrainOptions(), []
        content = (
            None if weights.suffix == ".safetensors" else torch.load(weights, map_location="cpu", weights_only=True)
        )
        record = content.get("record") if isinstance(content, dict) else None
        if record:
            options, names = options_from(record["options"]), list(record["classes"])
        elif network is None or classes is None:
            raise ValueError(f"{weights} does not say of which network and classes it is: --network and --classes do")
    if network is not None:
        options = options_from({"network": network}, defaults=options)
    return path, options, list(classes) if classes is not None else names
