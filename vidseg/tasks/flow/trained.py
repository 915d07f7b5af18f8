"""A trained flow network: the flow of picture pairs and of videos, tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidseg.engine import distributed
from vidseg.engine.trained import TrainedModel
from vidseg.engine.weight_source import test_name
from vidseg.frames.whole_file import whole_file
from vidseg.labels.flow_files import Flow, read_picture
from vidseg.labels.flow_pairs import FlowFolder, FlowSource
from vidseg.labels.json_files import write_json
from vidseg.loaders.flow_loader import FlowLoader
from vidseg.loaders.transfer import copy_ahead
from vidseg.models import window_flow
from vidseg.plots.flow_coding import FlowPicture, flow_colors, flow_radius, plot_flow
from vidseg.tasks.flow.options import SHAPES, FlowOptions
from vidseg.tasks.flow.runs import make_loader, make_source
from vidseg.tasks.flow.task import FlowTask
from vidseg.videos import LabeledVideoWriter, VideoSource
from vidseg.videos.decoding import VideoError
from vidseg.videos.orientation import frame_orientation

__all__ = ["FlowModel", "draw_video_flow"]

_FIRST_FRAMES = 24  # that determine the saturation of a drawn video
_PAIRS = 3  # in the picture of a test

Picture = str | Path | npt.NDArray[Any] | Tensor


class FlowModel(TrainedModel):
    """A network for optical flow; it takes pictures of any size."""

    task = "flow"

    def build(self) -> nn.Module:
        """See `TrainedModel.build`."""
        return self.create(None)

    def _class_count(self) -> int:
        return 0

    def predict(self, source: Picture, second: Picture | None = None) -> Flow:
        """Compute the flow from one picture to another, or of each frame of a video to the next.

        Args:
            source: first picture: file, uint8 (H, W, 3), or floating point (3, H, W) from 0 to 1; without `second` a
                video file.
            second: second picture of the same size.

        Returns:
            float32 (2, H, W), the displacement (x, y) of each pixel; for a video (T, 2, H, W), the last one repeated
            for the last frame, zero for a video of one frame.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a file or array is not a picture, or the sizes differ.
        """
        if second is None:
            if not isinstance(source, (str, Path)):
                raise ValueError("second is None: give the second picture, or a video file alone")
            return np.stack(list(self.video_flow(source)))
        pair = [_picture(one) for one in (source, second)]
        if pair[0].shape != pair[1].shape:
            sizes = " and ".join(f"{one.shape[2]} x {one.shape[1]}" for one in pair)
            raise ValueError(f"pictures of {sizes} pixels; flow needs two pictures of one size")
        with torch.inference_mode():
            flow = self.model(*(one[None].to(self.device) for one in pair)).flow[0]
        found: Flow = flow.float().cpu().numpy()
        return found

    def video_flow(self, path: str | Path, *, window: int = 8) -> Iterator[Flow]:
        """Yield the flow float32 (2, H, W) of each frame of a video to the next; the last one is repeated.

        Args:
            path: video file.
            window: frames that the network computes at once.

        Raises:
            FileNotFoundError: there is no such file.
            VideoError: the file is not a video, or has no frame.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        frames: list[Tensor] = []
        previous = last = None
        try:
            for timed in VideoSource(path):
                pixels = frame_orientation(timed.frame).apply(timed.frame.to_ndarray(format="rgb24"))
                frames.append(_picture(np.ascontiguousarray(pixels)))
                if len(frames) == window:
                    flows, previous = self._window(frames, previous)
                    frames = []
                    yield from flows
                    last = flows[-1] if flows else last
        except VideoError as error:
            raise VideoError(f"{path}: {error}") from error
        if frames:
            flows, previous = self._window(frames, previous)
            yield from flows
            last = flows[-1] if flows else last
        if previous is None:
            raise VideoError(f"{path}: no frame in it")
        yield np.zeros((2, *previous.shape[-2:]), np.float32) if last is None else last

    def _window(self, frames: list[Tensor], previous: Tensor | None) -> tuple[list[Flow], Tensor]:
        with torch.inference_mode():
            flows, last = window_flow(self.model, torch.stack(frames)[None].to(self.device), previous)
        return list(flows[0].float().cpu().numpy()), last

    def network_inputs(
        self, *_: Any, videos: int = 8, dataset: str | Path | None = None, split: str | None = None
    ) -> Iterator[list[tuple[Tensor, ...]]]:
        """See `TrainedModel.network_inputs`: pairs of pictures, for flow has no splits."""
        source, options, _split = self._pairs(dataset)
        pairs = itertools.islice(make_loader(source, options, train=False), videos)
        for batch in pairs:
            yield [(batch.first, batch.second)]

    def main_scores(self, *_: Any, dataset: str | Path | None = None, split: str | None = None) -> dict[str, float]:
        """See `TrainedModel.main_scores`; the end-point error is in pixels, and less is better."""
        source, options, _split = self._pairs(dataset)
        loader = make_loader(source, options, train=False)
        copy_ahead(loader, self.device)
        scores = FlowTask().evaluate(self.model, loader, device=self.device).scores
        return {"end-point error": scores.epe, "below 1 px": scores.within[0]}

    def test(self, *_: Any, dataset: str | Path | None = None, picture: bool = True, **__: Any) -> dict[str, Any]:
        """Compare with the true flow of held-out pairs; leaves test.json and pictures/test.png in the run's folder.

        Args:
            dataset: folder with all pairs to test on, or "shapes"; None: the data set of the run, whose held-out pairs
                of a folder are those of the validation.
            picture: draw the true and the predicted flow of the first pairs.

        Returns:
            The content of test.json.

        Raises:
            FileNotFoundError: there is no such folder, or it has no pairs.
            ValueError: the weights do not belong to a run, and no data set is given.
        """
        source, options, split = self._pairs(dataset)
        root = str(dataset or self.source.record["dataset"])
        loader = make_loader(source, options, train=False)
        copy_ahead(loader, self.device)
        result = FlowTask().evaluate(self.model, loader, device=self.device)
        report = {
            "task": self.task,
            "network": self.network,
            "dataset": root,
            "split": split,
            "pairs": result.pairs,
            "epoch": self.source.epoch,
            "checkpoint": self.source.path.name,
            "scores": result.scores.as_dict(),
            "text": str(result.scores),
        }
        if self.source.run is not None and distributed.is_first():
            other = "" if dataset is None else Path(root).name
            name = test_name(self.source, other)
            write_json(self.source.run / f"{name}.json", report)
            if picture:
                self._draw_pairs(loader, self.source.run / "pictures" / f"{name}.png")
        return report

    def _draw_pairs(self, loader: FlowLoader, out: Path) -> None:
        """Draw true and predicted flow of the first pairs of a loader."""
        pictures: list[FlowPicture] = []
        batches = iter(loader)
        with torch.inference_mode():
            while len(pictures) < 2 * _PAIRS and (batch := next(batches, None)) is not None:
                flows = FlowTask().forward(self.model, batch.to(self.device)).flow.float().cpu()
                columns = (batch.first.cpu(), batch.flow.cpu(), batch.known.cpu(), flows)
                for first, true, known, found in zip(*columns, strict=True):
                    if known.any():
                        pictures += _pair_pictures(first, true, known, found)
        plot_flow(pictures[: 2 * _PAIRS], out, title=f"{self.network}: true flow, and predicted flow beside it")

    def _pairs(self, dataset: str | Path | None) -> tuple[FlowSource, FlowOptions, str]:
        """The pairs of a test, the options of their loader, and which of the pairs they are."""
        record, options = self.source.record, self.options(FlowOptions())
        if not record and dataset is None:
            raise ValueError(f"{self.source.path}: holds weights alone; name the pairs to test on with --dataset")
        root = str(dataset or record["dataset"])
        if dataset is None or root == SHAPES:
            options = replace(options, data=replace(options.data, dataset=root))
            return make_source(options, "test"), options, "held out"
        return FlowFolder(root, passes=options.data.passes), options, "all"


def draw_video_flow(trained: FlowModel, path: str | Path, out: Path) -> Path:
    """Write the flow of a video as a video in the colors of `vidseg.plots.flow_coding`; it is complete or unchanged.

    Args:
        trained: network.
        path: video file.
        out: file to write; the extension selects the container. The length with full saturation is that of the longest
            vectors of the first frames.

    Returns:
        `out`.

    Raises:
        VideoError: the file is not a video, or has no frame.
    """
    flows = trained.video_flow(path)
    first = list(itertools.islice(flows, _FIRST_FRAMES))
    radius = flow_radius(first)
    source = VideoSource(Path(path))
    next(iter(source))
    fps = float(source.properties["fps"] or 25)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        whole_file(out, suffix=f".tmp{out.suffix}") as temporary,
        LabeledVideoWriter(temporary, fps=fps) as writer,
    ):
        for number, flow in enumerate(itertools.chain(first, flows)):
            frame = av.VideoFrame.from_ndarray(flow_colors(flow, radius=radius), format="rgb24")
            writer.write(frame, number / fps, f"#{number}   full color: {radius:.3g} pixels")
    return out


def _pair_pictures(first: Tensor, true: Tensor, known: Tensor, found: Tensor) -> list[FlowPicture]:
    """Pictures of the true and of the predicted flow; both have the saturation of the true one."""
    pixels = first.permute(1, 2, 0).contiguous().numpy()
    radius = flow_radius([true.numpy()])
    error = float(torch.linalg.vector_norm(found - true, dim=0)[known].mean())
    return [
        FlowPicture("true", pixels, flow_colors(true.numpy(), radius=radius)),
        FlowPicture(f"predicted, {error:.2f} px off", pixels, flow_colors(found.numpy(), radius=radius)),
    ]


def _picture(given: Picture) -> Tensor:
    """A picture as float32 (3, H, W) from 0 to 1."""
    name = "the given array"
    if isinstance(given, (str, Path)):
        name, given = str(given), read_picture(given)
    values = torch.as_tensor(given)
    if values.dtype == torch.uint8 and values.dim() == 3 and values.shape[2] == 3:
        return values.permute(2, 0, 1).float() / 255
    if values.is_floating_point() and values.dim() == 3 and values.shape[0] == 3:
        return values.float()
    raise ValueError(
        f"{name}: a picture of shape {tuple(values.shape)} and type {values.dtype}; expected uint8 (H, W, 3), or "
        "floating point (3, H, W) from 0 to 1"
    )
