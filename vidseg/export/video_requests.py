"""Predictions for the bytes of a video or for JPEG frames, as plain data: what a model server answers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from vidseg.clips.sampling import CenterClip, FrameSampling, SegmentSampling
from vidseg.engine.frame_preparer import FramePreparer
from vidseg.engine.trained import TrainedModel
from vidseg.frames.jpeg import decode_jpeg
from vidseg.videos import VideoError

__all__ = ["VideoRequests"]

_MOST_BYTES = 1 << 30
_MOST_FRAMES = 100_000
_TOP = 5
_FPS = 25.0


class VideoRequests:
    """Predictions of a recognition or streaming network for videos that arrive as bytes.

    Args:
        model: exported model, run or checkpoint.
        device: device to compute on.

    Raises:
        ValueError: the network does not read videos.
    """

    def __init__(self, model: str | Path, *, device: str = "cpu") -> None:
        from vidseg.tasks import load_trained

        self.trained: TrainedModel = load_trained(model, device=device)
        if self.trained.task not in ("recognition", "streaming"):
            raise ValueError(f"{model}: a network for {self.trained.task} does not read videos")

    def predict(
        self, *_: Any, video: bytes | None = None, frames: Sequence[bytes] | None = None, fps: float = _FPS
    ) -> dict[str, Any]:
        """Predict one video.

        Args:
            video: a video file.
            frames: JPEG frames in order, all of one size.
            fps: frames per second of `frames`.

        Returns:
            Recognition: "classes" and their "probabilities", the likeliest first. Streaming: "segments" with "label",
            "start" and "stop" in seconds.

        Raises:
            ValueError: neither or both are given, they are too large, or cannot be decoded.
        """
        if (video is None) == (frames is None):
            raise ValueError("give either a video or frames")
        if video is not None:
            if len(video) > _MOST_BYTES:
                raise ValueError(f"the video has {len(video)} bytes, at most {_MOST_BYTES} are read")
            with tempfile.NamedTemporaryFile(suffix=".video") as file:
                file.write(video)
                file.flush()
                try:
                    return self._described(self.trained.predict(file.name))
                except VideoError as error:
                    raise ValueError(f"the bytes are not a video that can be decoded: {error}") from error
        assert frames is not None
        if not 1 <= len(frames) <= _MOST_FRAMES:
            raise ValueError(f"{len(frames)} frames; expected 1 to {_MOST_FRAMES}")
        if self.trained.task == "recognition":
            return self._clip(frames)
        return self._stream(frames, fps)

    def _described(self, found: Any) -> dict[str, Any]:
        if self.trained.task == "streaming":
            segments = [{"label": name, "start": start, "stop": stop} for name, start, stop in found.segments()]
            return {"segments": segments}
        if not found.videos:
            raise ValueError("not a video that can be decoded")
        return {"classes": list(found.videos[0].classes), "probabilities": list(found.videos[0].probabilities)}

    def _clip(self, frames: Sequence[bytes]) -> dict[str, Any]:
        """The clip that `predict` takes of a video with these frames."""
        spec, prepare = self.trained.input_spec, FramePreparer(self.trained.input_spec)
        sampling: FrameSampling = CenterClip(spec.interval)
        if spec.sampling == "segments":
            sampling = SegmentSampling(clips=1, consecutive=spec.stack)
        one = np.array([0])
        counts = np.array([len(frames)])
        numbers = sampling.frames(counts, one, length=spec.frames, seed=0, epoch=0, samples=one)[0].tolist()
        pictures = {number: prepare(_frame(frames[number])) for number in set(numbers)}
        clip = torch.stack([pictures[number] for number in numbers], dim=1)[None]
        shares = self.trained.predict(clip)[0]
        best = shares.topk(min(_TOP, len(shares)))
        names = [self.trained.classes[place] for place in best.indices.tolist()]
        return {"classes": names, "probabilities": best.values.tolist()}

    def _stream(self, frames: Sequence[bytes], fps: float) -> dict[str, Any]:
        from vidseg.live.session import LiveSession

        session = LiveSession(self.trained)
        found = []
        for number, jpeg in enumerate(frames):
            found += session.push(_frame(jpeg), number / fps)
        found += session.finish()
        segments: list[dict[str, Any]] = []
        for each in found:
            label, stop = self.trained.classes[each.label], each.time + 1 / fps
            if segments and segments[-1]["label"] == label:
                segments[-1]["stop"] = stop
            else:
                segments.append({"label": label, "start": each.time, "stop": stop})
        return {"segments": segments}


def _frame(jpeg: bytes) -> av.VideoFrame:
    try:
        pixels = decode_jpeg(jpeg)
    except RuntimeError as error:
        raise ValueError(f"a frame is not a JPEG that can be decoded: {error}") from error
    return av.VideoFrame.from_ndarray(pixels.numpy(), format="rgb24")
