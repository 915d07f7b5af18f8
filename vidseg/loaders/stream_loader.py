"""A loader of streams: the windows of groups of videos in temporal order, from frame databases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips import BatchPlan, ColorPlan
from vidseg.clips.draws import uniform
from vidseg.clips.stream_windows import Sampling, StreamItem, StreamPlan, WindowShape, window_labels
from vidseg.labels import VideoDataset
from vidseg.labels.segmentation_labels import FrameLabels
from vidseg.loaders.backends import FramesNormalizer, host_forms, make_filler
from vidseg.loaders.batch import FieldAccess
from vidseg.loaders.modality import Frames, Modality, as_modalities, joined
from vidseg.loaders.output import MEANS, STDS, Colors, make_forms, sample_type
from vidseg.loaders.prefetch import Prefetcher
from vidseg.loaders.threads import default_threads
from vidseg.loaders.transfer import DevicePrefetcher, copies_to, prefetch_to, resolve_device

__all__ = ["StreamBatch", "StreamLoader"]


@dataclass(eq=False)
class StreamBatch(FieldAccess):
    """Window k of B videos.

    `clips, mask, labels = batch` unpacks it.

    Attributes:
        clips: (B, C, T, H, W), normalized; black frames after the end of a video, or frames without motion. Of a loader
            with several modalities: a dict with one tensor for each.
        labels: int64 (B, T * R) at full frame rate, -100 for frames without a label.
        mask: bool (B, T), True for frames of the video.
        item: videos, window and group of the batch.

    Raises:
        ValueError: tensors of other shapes than the item has.
    """

    UNPACKED: ClassVar[tuple[str, ...]] = ("clips", "mask", "labels")

    clips: Frames
    labels: Tensor
    mask: Tensor
    item: StreamItem

    def __post_init__(self) -> None:
        batch, frames = self.item.frames.shape
        for clips in self.clips.values() if isinstance(self.clips, dict) else (self.clips,):
            if clips.dim() != 5 or (clips.shape[0], clips.shape[2]) != (batch, frames):
                raise ValueError(f"clips of shape {tuple(clips.shape)} for {batch} windows of {frames} frames")
        if self.mask.shape != (batch, frames):
            raise ValueError(f"a mask of shape {tuple(self.mask.shape)} for {batch} windows of {frames} frames")
        if self.labels.shape != (batch, frames * self.item.interval):
            raise ValueError(
                f"labels of shape {tuple(self.labels.shape)} for {batch} windows of {frames} x {self.item.interval}"
            )

    @property
    def inputs(self) -> Tensor:
        """The clips: the first argument of the model; the others are its state and `mask`.

        Several modalities are one behind the other in the channels.
        """
        return joined(self.clips)

    def __len__(self) -> int:
        return len(self.mask)


class StreamLoader:
    """Windows of groups of videos, with labels, masks and end-of-video marks.

    Frames are resized so that their short side has `resize` pixels, and cropped. For training, crop position and
    mirroring are drawn once per video and epoch, so that all windows of a video show the same region. Frames after the
    end of a video are black. Batches are made ahead of their use, within `ahead_bytes`.

    One iteration is one epoch. The next iteration is the next epoch, unless `set_epoch` chooses another.

    Args:
        data: videos with frame databases.
        shape: size and stride of the windows.
        modality: "rgb", "flow", "motion" or "residual", or several, such as ("rgb", "motion"); see `ClipLoader`.
        labels: (L,) class numbers of each video, -100 for frames without a label. None: the data set's frame labels.
        group: number of videos of one rank that are processed together.
        size: height and width of the clips in pixels; one number for a square.
        resize: short side of the whole frame before the crop, in pixels. None: 9/8 of the larger side of `size`.
        train: True: shuffled videos, random crops. False: sequential order, center crop.
        flip: mirror half of the training videos; only for labels that do not depend on left and right.
        sampling: which frames of a window; see `vidseg.clips.stream_windows.window_frames`.
        incomplete: what to do with a last group of too few videos; see `StreamPlan`.
        length_tolerance: accepted difference between the number of frames and of labels of a video; missing frames are
            black.
        seed: seed for order, crops, mirroring and frames.
        dtype: float32, float16 or bfloat16; a torch type or its name.
        mean: mean of R, G and B in 0..1, or of each modality; see `ClipLoader`. None: samples are pixel / 255, in 0..1.
        std: standard deviation of R, G and B in 0..1. None: as for `mean`.
        threads: number of decoding threads. None: one for each available core.
        ahead_bytes: bytes of batches that wait or are being made; at least one batch is always made.
        cache: keep "encoded" JPEGs or "decoded" frames in memory.
        cache_bytes: size of the cache; 0 for no cache.
        on_error: "raise" an error for a damaged frame, or "replace" it by the nearest readable frame.
        rank: index of this process.
        world_size: number of processes.
        pin: allocate batches in page-locked memory. None: where CUDA is available.
        device: copy batches to this device, one ahead of its use; see `ClipLoader`. None leaves them in host memory.

    Raises:
        ValueError: an argument out of range, no videos, or labels that do not match their video.
    """

    def __init__(
        self,
        data: VideoDataset,
        shape: WindowShape,
        *,
        modality: Modality | Sequence[Modality] = "rgb",
        labels: Sequence[npt.ArrayLike] | None = None,
        group: int = 1,
        size: int | tuple[int, int] = 224,
        resize: int | None = None,
        train: bool = True,
        flip: bool = False,
        sampling: Sampling = "uniform",
        incomplete: Literal["repeat", "drop"] = "repeat",
        length_tolerance: int = 8,
        seed: int = 0,
        dtype: torch.dtype | str = torch.float32,
        mean: Colors = MEANS,
        std: Colors = STDS,
        threads: int | None = None,
        ahead_bytes: int = 512 * 2**20,
        cache: Literal["encoded", "decoded"] = "encoded",
        cache_bytes: int = 0,
        on_error: Literal["raise", "replace"] = "raise",
        rank: int = 0,
        world_size: int = 1,
        pin: bool | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if len(data) == 0:
            raise ValueError(f"{data}: a loader needs at least one video")
        dtype = sample_type(dtype)
        if dtype is torch.uint8:
            raise ValueError("dtype=torch.uint8: streams are normalized; use float32, float16 or bfloat16")
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.resize = round(max(self.height, self.width) * 9 / 8) if resize is None else resize
        if min(self.height, self.width) < 1 or self.resize < max(self.height, self.width):
            raise ValueError(f"size={size} must be at least 1, and resize={self.resize} at least as large")
        self.data, self.shape, self.group, self.sampling = data, shape, group, sampling
        self.train, self.flip, self.incomplete, self.seed = train, flip and train, incomplete, seed
        self.rank, self.world_size, self.ahead_bytes = rank, world_size, ahead_bytes
        given = FrameLabels(data) if labels is None else labels
        self.labels = [np.asarray(given[index], np.int64) for index in range(len(data))]
        if labels is not None and len(labels) != len(data):
            raise ValueError(f"labels of {len(labels)} videos for {data}")
        self.lengths = np.array([len(one) for one in self.labels])
        _check_lengths(data, self.lengths, length_tolerance)
        self.threads = default_threads() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"threads={threads} must be at least 1")
        pinned = torch.cuda.is_available() if pin is None else pin
        self.forms = make_forms(as_modalities(modality), dtype=dtype, mean=mean, std=std, pin=pinned)
        self.form = self.forms[0]
        self._cache: dict[str, Any] = {"cache": cache, "cache_bytes": cache_bytes}
        self.on_error = on_error
        self.device = None if device is None else resolve_device(device)
        self._open_filler()
        self._sizes = np.array([(video.height, video.width) for video in data])
        self.epoch = 0
        self._resume = self._position = 0
        self._running: Prefetcher[StreamBatch] | DevicePrefetcher[StreamBatch] | None = None
        self.plan(0)  # checks the arguments

    def _open_filler(self) -> None:
        """Make the backend, with the form of the clips that it fills."""
        self._normalize = FramesNormalizer(self.forms)
        late = copies_to(self.device)  # normalized after the copy
        self._host_forms = host_forms(self.data, self.forms, late=late)
        self._filler = make_filler(
            "native", self.data, self._host_forms, threads=self.threads, on_error=self.on_error, **self._cache
        )

    def plan(self, epoch: int) -> StreamPlan:
        """Return the windows of an epoch for this rank; decodes nothing."""
        return StreamPlan(
            self.lengths,
            self.shape,
            group=self.group,
            video_frames=self.data.frames,
            sampling=self.sampling if self.train else "uniform",
            shuffle=self.train,
            seed=self.seed,
            epoch=epoch,
            rank=self.rank,
            ranks=self.world_size,
            incomplete=self.incomplete,
        )

    def __len__(self) -> int:
        """Number of windows in this epoch."""
        return len(self.plan(self.epoch))

    def __repr__(self) -> str:
        return f"StreamLoader({self.data!r}, epoch {self.epoch}: {len(self)} windows)"

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the next iteration; keeps a position of `load_state_dict` in the same epoch."""
        if epoch != self.epoch:
            self.epoch, self._resume, self._position = epoch, 0, 0

    def set_device(self, device: torch.device | str | None) -> None:
        """Copy batches to another device from the next iteration on, see `device`; empties the cache.

        Raises:
            ValueError: there is no such device.
        """
        found = None if device is None else resolve_device(device)
        self.close()
        self.device = found
        self._open_filler()

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the iteration: after the window that was yielded last."""
        return {"epoch": self.epoch, "item": self._position, "seed": self.seed, "videos": len(self.data)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the iteration at the position of a state; the windows before it are not decoded.

        Raises:
            ValueError: the state is of another seed or data set, or of a longer epoch.
        """
        if (state["seed"], state["videos"]) != (self.seed, len(self.data)):
            raise ValueError(
                f"the loader's state is of seed {state['seed']} and {state['videos']} videos, "
                f"but this loader has seed {self.seed} and {len(self.data)}"
            )
        count = len(self.plan(state["epoch"]))
        if not 0 <= state["item"] <= count:
            raise ValueError(f"the loader's state is at window {state['item']} of an epoch of {count} windows")
        self.epoch = state["epoch"]
        self._resume = self._position = state["item"]

    def __iter__(self) -> Iterator[StreamBatch]:
        self._stop_running()
        epoch, first = self.epoch, self._resume
        plan = self.plan(epoch)
        self._resume, self._position = 0, first
        cancel = torch.zeros(1, dtype=torch.uint8)

        def stop() -> None:
            cancel.fill_(1)

        pixels = self.shape.frames * self.height * self.width
        clip_bytes = sum(pixels * form.channels * form.dtype.itemsize for form in self._host_forms)
        filling = Prefetcher(
            lambda index: self._make(plan[index], epoch, cancel),
            lambda index: clip_bytes * self.group,
            first=first,
            stop=len(plan),
            limit=self.ahead_bytes,
            cancel=stop,
        )
        self._running = running = prefetch_to(
            self.device,
            filling,
            count=len(plan) - first,
            finish=lambda batch: replace(
                batch, clips=self._normalize(batch.clips, self._plan_clips(batch.item, slice(None), epoch))
            ),
        )
        for batch, _ in running:
            self._position = batch.item.index + 1
            yield batch
        if self.epoch == epoch:  # set_epoch has not been called during the iteration
            self.epoch, self._position = epoch + 1, 0

    def _make(self, item: StreamItem, epoch: int, cancel: Tensor) -> StreamBatch:
        batch, frames = item.frames.shape
        real = item.frames >= 0
        rows = np.flatnonzero(real.any(axis=1))
        if len(rows) == batch and real.all():
            clips = self._fill(item, rows, epoch, cancel)
        else:
            found: Frames = {} if len(rows) == 0 else self._fill(item, rows, epoch, cancel)
            empty: dict[str, Tensor] = {}
            for form in self._host_forms:
                nothing = form.empty.view(1, -1, 1, 1, 1)
                padded = nothing.expand(form.shape(batch, frames, self.height, self.width)).clone()
                if len(rows):
                    filled = found[form.modality] if isinstance(found, dict) else found
                    keep = torch.from_numpy(real[rows])[:, None, :, None, None]
                    padded[torch.from_numpy(rows)] = torch.where(keep, filled, nothing)
                empty[form.modality] = padded
            clips = empty if len(self.forms) > 1 else empty[self.form.modality]
        labels = [window_labels(self.shape, item.window, self.labels[video]) for video in item.videos]
        return StreamBatch(clips, torch.from_numpy(np.stack(labels)), torch.from_numpy(item.mask), item)

    def _fill(self, item: StreamItem, rows: npt.NDArray[np.int64], epoch: int, cancel: Tensor) -> Frames:
        """Decode clips of some of the item's videos; a missing frame repeats the one before it."""
        return self._filler.fill(self._plan_clips(item, rows, epoch), cancel)[0]

    def _plan_clips(self, item: StreamItem, rows: npt.NDArray[np.int64] | slice, epoch: int) -> BatchPlan:
        videos = item.videos[rows]
        return BatchPlan(
            epoch=epoch,
            index=item.index,
            height=self.height,
            width=self.width,
            videos=videos,
            views=np.zeros(len(videos), np.int64),
            labels=np.full(len(videos), -1, np.int64),
            frames=np.maximum.accumulate(item.frames[rows], axis=1),
            matrices=self._matrices(videos, epoch),
            colors=ColorPlan.none(len(videos)),
        )

    def _matrices(self, videos: npt.NDArray[np.int64], epoch: int) -> npt.NDArray[np.float64]:
        """Matrices (B, 3, 3) from a point of the clip to a point of the stored frame."""
        place = np.full((len(videos), 3), 0.5)
        if self.train:
            place = uniform(self.seed, epoch, videos, purpose="stream crop", count=3)
        height, width = self._sizes[videos].T
        scale = np.minimum(height, width) / self.resize
        top = (height - self.height * scale) * place[:, 0]
        left = (width - self.width * scale) * place[:, 1]
        mirror = self.flip & (place[:, 2] < 0.5)
        matrices = np.zeros((len(videos), 3, 3))
        matrices[:, 0, 0] = np.where(mirror, -scale, scale)
        matrices[:, 0, 2] = np.where(mirror, left + self.width * scale, left)
        matrices[:, 1, 1], matrices[:, 1, 2], matrices[:, 2, 2] = scale, top, 1
        return matrices

    def _stop_running(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def close(self) -> None:
        """End the iteration and free the cache; a later iteration has no cache."""
        self._stop_running()
        self._filler.close()

    def __enter__(self) -> StreamLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_lengths(data: VideoDataset, lengths: npt.NDArray[np.int64], tolerance: int) -> None:
    for index in np.flatnonzero(np.abs(lengths - data.frames) > tolerance)[:1]:
        raise ValueError(
            f"{data.root}: video {data.video_path(int(index))} has {int(data.frames[index])} frames and "
            f"{int(lengths[index])} labels, more than {tolerance} apart; labels must be at the frame rate of the video"
        )
