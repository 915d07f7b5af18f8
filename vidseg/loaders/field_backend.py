"""Fills plans from lossless databases of optical flow, motion vectors and residuals: rows of float16 instead of JPEGs.

Slower than the compiled fill: whole fields are decompressed, and resampled with torch. The rules are the same.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vidseg.clips import BatchPlan
from vidseg.frames import FlowDatabase, FrameDatabaseError
from vidseg.labels import VideoDataset
from vidseg.loaders.modality import ModalityDatabases, derivatives
from vidseg.loaders.native_backend import CacheReport
from vidseg.loaders.output import OutputForm

__all__ = ["FieldFiller", "resample_fields"]

_MOST_POINTS = 8  # per side of an output pixel, as in csrc/frames/sample.cpp


class FieldFiller:
    """Fills batches from databases of float16, with the interface of `NativeFiller`.

    Args:
        data: the videos of the plans.
        form: modality, type, layout and normalization of the batches.
        threads: number of clips that are filled at the same time.
        on_error: "raise" an error for a damaged frame, or "replace" it by the nearest readable frame.
    """

    def __init__(
        self,
        data: VideoDataset,
        form: OutputForm,
        *,
        threads: int,
        on_error: Literal["raise", "replace"] = "raise",
    ) -> None:
        self.data, self.form, self.threads, self.on_error = data, form, threads, on_error
        self._databases = ModalityDatabases(data, form.modality)

    def fill(self, plan: BatchPlan, cancel: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fill a plan; see `NativeFiller.fill`."""
        self._databases.check(plan.videos)
        out = torch.empty(self.form.shape(*plan.shape), dtype=self.form.dtype, pin_memory=self.form.pin)
        planes = out.permute(*(self.form.layout.index(axis) for axis in "bcthw"))
        shown = torch.from_numpy(plan.frames.copy())
        maps = self.form.stored_maps(plan)

        def work(clip: int) -> None:
            if cancel is None or not cancel.item():
                samples = self._clip(plan, clip, maps[clip], shown[clip])  # (T * L, C, H, W)
                planes[clip].copy_(samples.unflatten(0, (-1, self.form.stack)).permute(1, 2, 0, 3, 4).flatten(0, 1))

        with ThreadPoolExecutor(max(1, min(self.threads, len(plan))), thread_name_prefix="vidseg-fields") as pool:
            results = [pool.submit(work, clip) for clip in range(len(plan))]
        for result in results:
            result.result()
        return out, shown

    def close(self) -> None:
        """Do nothing: no file is open between batches."""

    @property
    def cache_report(self) -> CacheReport:
        """Zeros: this backend has no cache."""
        return CacheReport()

    def _clip(self, plan: BatchPlan, clip: int, maps: Tensor, shown: Tensor) -> Tensor:
        database = FlowDatabase(self._databases.path(int(plan.videos[clip])))
        numbers, places = np.unique(plan.frames[clip], return_inverse=True)
        fields = []
        for row, number in enumerate(numbers.tolist()):
            field, found = self._field(database, number)
            fields.append(field)
            shown[torch.from_numpy(places == row)] = found
        stored = resample_fields(torch.stack(fields), plan.matrices[clip], plan.height, plan.width)
        stored = stored * (127 / database.bound) + self.form.background  # as in 8 bits, without rounding
        samples = torch.einsum("cd,tdhw->tchw", maps[:, :-1], stored) + maps[:, -1, None, None]
        if self.form.dtype is torch.uint8:
            samples = (samples + 0.5).floor().clamp(0, 255)
        return samples[torch.from_numpy(places)]

    def _field(self, database: FlowDatabase, frame: int) -> tuple[Tensor, int]:
        """A field, or the nearest readable one, and its number."""
        read = database.residual if self.form.modality == "residual" else database.flow
        try:
            return read([frame])[0], frame
        except FrameDatabaseError as error:
            if self.on_error == "raise":
                raise
            for other in sorted(set(range(len(database))) - {frame}, key=lambda one: (abs(one - frame), one)):
                try:
                    return read([other])[0], other
                except FrameDatabaseError:
                    continue  # the error of the requested frame is raised
            raise FrameDatabaseError(f"{error}; nor can any other frame of the video be read") from None


def resample_fields(fields: Tensor, matrix: npt.NDArray[np.float64], height: int, width: int) -> Tensor:
    """Resample fields by the rules of the compiled `Sampler`; their values do not change direction or length.

    Args:
        fields: float32 (T, C, H, W).
        matrix: (3, 3), from a point of the output to a point of a field.
        height: of the output.
        width: of the output.

    Returns:
        float32 (T, C, height, width), 0 outside the field.
    """
    matrix = matrix / matrix[2, 2]
    if matrix[0, 1] == matrix[1, 0] == matrix[2, 0] == matrix[2, 1] == 0:
        across = _weights(matrix[0, 0], matrix[0, 2], fields.shape[3], width)
        down = _weights(matrix[1, 1], matrix[1, 2], fields.shape[2], height)
        return down @ fields @ across.T
    moved = derivatives(matrix[None], height, width)[0]
    points = min(max(math.ceil(np.hypot(*moved).max() - 0.1), 1), _MOST_POINTS)
    x, y = ((np.arange(side * points) + 0.5) / points for side in (width, height))
    flat = matrix @ np.stack([one.ravel() for one in np.broadcast_arrays(x, y[:, None], 1.0)])
    sides = np.array([[fields.shape[3]], [fields.shape[2]]])
    grid = torch.from_numpy(flat[:2] / flat[2] / sides * 2 - 1).float().T.reshape(1, len(y), len(x), 2)
    found = F.grid_sample(fields, grid.expand(len(fields), -1, -1, -1), padding_mode="zeros", align_corners=False)
    return F.avg_pool2d(found, points)


def _weights(step: float, start: float, inputs: int, outputs: int) -> Tensor:
    """Weights (outputs, inputs) of a bilinear filter that averages when shrinking; zeros for outputs outside."""
    centers = start + (np.arange(outputs)[:, None] + 0.5) * step
    weights = np.maximum(0.0, 1 - np.abs(np.arange(inputs) + 0.5 - centers) / max(1.0, abs(step)))
    inside = (centers >= 0) & (centers <= inputs)
    return torch.from_numpy(inside * weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)).float()
