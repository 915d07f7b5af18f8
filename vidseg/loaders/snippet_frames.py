"""Snippets of videos as pixels: short clips at even distances, as bytes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips import BatchPlan, ColorPlan
from vidseg.clips.draws import uniform
from vidseg.labels import VideoDataset
from vidseg.loaders.backends import make_filler
from vidseg.loaders.modality import joined
from vidseg.loaders.output import OutputForm
from vidseg.loaders.threads import default_threads

__all__ = ["Places", "SnippetFrames"]

Places = Literal["centers", "ends"]


class SnippetFrames:
    """The snippets of the videos of a data set.

    All snippets of a video share one crop, drawn once for each epoch in training, so that a video looks the same from
    one snippet to the next.

    Args:
        data: videos: frame databases, or video files (`vidseg.open_videos`).
        frames: T, frames of a snippet.
        interval: distance from one frame of a snippet to the next.
        count: snippets of a video, spread over it; None: one every `stride` frames.
        stride: frames from one snippet to the next, without `count`; None: `frames` * `interval`.
        places: with `count`, where the snippets are. "centers": each in the middle of an equal part of the video.
            "ends": the first one at the first frame and the last one at the last frame, as in ETAD.
        size: height and width in pixels.
        resize: short side of a frame before the crop; None: the crop covers the whole short side.
        train: random crops; else center crops.
        flip: mirror half of the training videos.
        seed: seed of crops and mirroring.
        threads: number of decoding threads. None: one for each available core.
        pin: allocate page-locked memory. None: where CUDA is available.

    Raises:
        ValueError: an argument out of range, or a video without frames.
    """

    def __init__(
        self,
        data: VideoDataset,
        *,
        frames: int = 16,
        interval: int = 1,
        count: int | None = None,
        stride: int | None = None,
        places: Places = "centers",
        size: int = 112,
        resize: int | None = None,
        train: bool = True,
        flip: bool = False,
        seed: int = 0,
        threads: int | None = None,
        pin: bool | None = None,
    ) -> None:
        if min(frames, interval, size, 1 if count is None else count, 1 if stride is None else stride) < 1:
            raise ValueError(
                f"frames={frames}, interval={interval}, count={count}, stride={stride} and size={size} must be at "
                "least 1"
            )
        if count is not None and stride is not None:
            raise ValueError(f"count={count} and stride={stride}: give one of them")
        if places not in ("centers", "ends"):
            raise ValueError(f"places={places!r} is not one of centers, ends")
        if resize is not None and resize < size:
            raise ValueError(f"resize={resize} must be at least size={size}")
        for video in np.flatnonzero((data.heights < 1) | (data.frames < 1))[:1].tolist():
            raise ValueError(f"{data.video_path(video)} has no frames in {data.root}; convert the video first")
        self.data, self.frames, self.interval, self.count = data, frames, interval, count
        self.stride, self.places, self.size, self.resize = stride or frames * interval, places, size, resize or size
        self.train, self.flip, self.seed = train, flip and train, seed
        pinned = torch.cuda.is_available() if pin is None else pin
        form, threads = OutputForm(dtype=torch.uint8, pin=pinned), threads or default_threads()
        backend = "native" if data.converted else "video"
        self._filler = make_filler(backend, data, [form], threads=threads, on_error="raise")

    def columns(self, video: int) -> int:
        """Return L, the number of snippets of a video."""
        if self.count is not None:
            return self.count
        covered = (self.frames - 1) * self.interval + 1
        return max(1, (int(self.data.frames[video]) - covered) // self.stride + 1)

    def starts(self, video: int) -> npt.NDArray[np.int64]:
        """Return the first frame of each snippet of a video, int64 (L,)."""
        count, length = self.columns(video), int(self.data.frames[video])
        if self.count is None:
            return np.arange(count) * self.stride
        covered = (self.frames - 1) * self.interval + 1
        if self.places == "ends" and count > 1:
            step = max(0, length - covered) / (count - 1)
            return np.rint(np.arange(count) * step).astype(np.int64)
        centers = (np.arange(count) + 0.5) * length / count
        return np.floor(centers - (self.frames * self.interval) / 2 + 0.5).astype(np.int64)

    def time_of(self, video: int) -> tuple[float, float]:
        """Return the time in seconds of position 0 and the seconds from one snippet to the next.

        Position n + 0.5 is the middle of snippet n.

        Raises:
            ValueError: the frame rate of the video is unknown.
        """
        rate, length = self.data[video].fps, int(self.data.frames[video])
        if not rate > 0:
            raise ValueError(f"{self.data.video_path(video)}: its frame rate is unknown; convert the video again")
        covered = self.frames * self.interval
        if self.count is None:
            step, first = float(self.stride), covered / 2
        elif self.places == "ends" and self.count > 1:
            step, first = max(0, length - (self.frames - 1) * self.interval - 1) / (self.count - 1), covered / 2
        else:
            step = length / self.count
            first = step / 2
        step = max(step, 1e-6)  # a video that is shorter than a snippet
        return (first - step / 2) / rate, step / rate

    def load(self, video: int, start: int, stop: int, *, epoch: int = 0, cancel: Tensor | None = None) -> Tensor:
        """Read snippets [start, stop) of a video, uint8 (L, 3, T, H, W); frames outside the video repeat its ends.

        Raises:
            FrameDatabaseError: a frame of a database cannot be read.
        VideoError: a video file cannot be decoded.
        """
        firsts = self.starts(video)[start:stop]
        places = firsts[:, None] + np.arange(self.frames) * self.interval
        count = len(firsts)
        plan = BatchPlan(
            epoch=epoch,
            index=0,
            height=self.size,
            width=self.size,
            videos=np.full(count, video, np.int64),
            views=np.zeros(count, np.int64),
            labels=np.full(count, -1, np.int64),
            frames=places.clip(0, int(self.data.frames[video]) - 1),
            matrices=np.repeat(self._matrix(video, epoch)[None], count, axis=0),
            colors=ColorPlan.none(count),
        )
        return joined(self._filler.fill(plan, cancel)[0])

    def _matrix(self, video: int, epoch: int) -> npt.NDArray[np.float64]:
        """Matrix (3, 3) from a point of the snippet to a point of the stored frame."""
        place = np.full(3, 0.5)
        if self.train:
            place = uniform(self.seed, epoch, [video], purpose="snippet crop", count=3)[0]
        height, width = int(self.data.heights[video]), int(self.data.widths[video])
        scale = min(height, width) / self.resize
        top, left = (height - self.size * scale) * place[0], (width - self.size * scale) * place[1]
        mirror = self.flip and place[2] < 0.5
        first = [-scale, 0, left + self.size * scale] if mirror else [scale, 0, left]
        return np.array([first, [0, scale, top], [0, 0, 1]])

    def close(self) -> None:
        """Free the memory of earlier snippets."""
        self._filler.close()
