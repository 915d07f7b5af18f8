"""Reader and writer of flow.db, motion.db and residual.db: fields beside the frames of a video.

They have the schema of frames.db and one row for each frame, so that one plan serves frames and flow. See
docs/frame_databases.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex

import torch

from vidseg.frames.database import FrameDatabase
from vidseg.frames.flow_form import CHANNELS, FlowForm, from_bytes, from_levels
from vidseg.frames.schema import DATABASE_NAMES, FrameDatabaseError
from vidseg.frames.writer import FrameWriter

if TYPE_CHECKING:
    from vidseg.frames.database import Indices

__all__ = ["FlowDatabase", "FlowWriter", "open_database"]


class FlowDatabase(FrameDatabase):
    """The optical flow, motion vectors or residuals of one video.

    `flow([3])` is the motion from frame 3 to frame 4, float32 (1, 2, H, W) in pixels; the last row repeats the one
    before. Motion vectors of frame 3 lead from its pixels to where they were in frame 2, and are 0 where the codec has
    none. `decode` returns the stored 8-bit values.

    Args:
        path: a flow.db, motion.db or residual.db; or the folder of a flow.db.

    Raises:
        FileNotFoundError: no such file.
        FrameDatabaseError: not such a database.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        super().__init__(path / DATABASE_NAMES["flow"] if path.is_dir() else path)
        meta = self.meta
        bound = meta.get("bound")
        if meta.get("modality") not in CHANNELS or not isinstance(bound, int | float):
            raise FrameDatabaseError(
                f"{self.path}: has no optical flow, motion vectors or residuals; `vidseg extract-flow` computes them"
            )
        if not (math.isfinite(bound) and bound > 0) or meta.get("values") not in ("uint8", "float16"):
            raise FrameDatabaseError(
                f"{self.path}: the metadata have bound {bound!r:.40} and values {meta.get('values')!r:.40}, expected "
                "a positive number and uint8 or float16"
            )

    def __repr__(self) -> str:
        height, width = self.frame_size
        return f"FlowDatabase({str(self.path)!r}: {len(self)} fields of {width}x{height} by {self.method})"

    @property
    def modality(self) -> str:
        """What the rows are: "flow", "motion" or "residual"."""
        return str(self.meta["modality"])

    @property
    def method(self) -> str:
        """Name of the method that computed the rows, such as "raft_small" or "motion-vectors"."""
        return str(self.meta.get("method", ""))

    @property
    def bound(self) -> float:
        """Largest magnitude of a value: in pixels, or 255 for residuals. Rows of float16 can exceed it."""
        return float(self.meta["bound"])

    @property
    def values(self) -> str:
        """Type of the stored values: "uint8" (JPEG) or "float16"."""
        return str(self.meta["values"])

    def flow(self, indices: Indices, *, level: int = 0) -> torch.Tensor:
        """Read optical flow or motion vectors.

        Args:
            indices: frame numbers from 0, in any order, with or without repetitions.
            level: 0 for the full size, k for the copies with 1 / 2**k of the width and height.

        Returns:
            float32 (T, 2, H, W): x to the right and y down, in pixels of the full-size frame at each level.

        Raises:
            ValueError: the database holds residuals, does not have that level, or is closed.
            IndexError: an index is negative or not below `len(self)`.
            FrameDatabaseError: a row is missing or damaged; the message names it.
        """
        if self.modality == "residual":
            raise ValueError(f"{self.path}: holds residuals; read them with residual()")
        return self._fields(indices, level)

    def residual(self, indices: Indices, *, level: int = 0) -> torch.Tensor:
        """Read residuals: float32 (T, 3, H, W), RGB, -255 to 255.

        Arguments and errors are those of `flow`.
        """
        if self.modality != "residual":
            raise ValueError(f"{self.path}: holds {self.modality}; read it with flow()")
        return self._fields(indices, level)

    def decode(
        self, indices: Indices | SupportsIndex, size: int | tuple[int, int] | None = None, level: int | None = None
    ) -> torch.Tensor:
        """Decode the stored 8-bit values as if they were frames: uint8 (T, H, W, 3), the third channel of vectors 128.

        Arguments are those of `FrameDatabase.decode`.

        Raises:
            FrameDatabaseError: the rows are float16, or one is missing or damaged.
        """
        if self.values == "float16":
            raise FrameDatabaseError(f"{self.path}: its rows are float16 and no JPEGs; read them with flow()")
        return super().decode(indices, size, level)

    def decoded_size(self, index: int, level: int = 0) -> tuple[int, int]:
        """Decode one row, or one of its copies, and return its (height, width).

        Raises:
            FrameDatabaseError: it is missing or damaged.
        """
        height, width = self._fields([index], level).shape[2:]
        return height, width

    def _fields(self, indices: Indices, level: int) -> torch.Tensor:
        channels = CHANNELS[self.modality]
        if self.values == "uint8":
            stored = super().decode(indices, level=level)
            return from_levels(stored[..., :channels].permute(0, 3, 1, 2), self.bound).contiguous()
        numbers = list(indices)
        fields = []
        for index, row in zip(numbers, self.read(numbers, level=level), strict=True):
            try:
                field = from_bytes(row)
                expected = (channels, *(-(-side >> level) for side in self.frame_size))
                if field.shape != expected:
                    raise ValueError(f"a field of the shape {tuple(field.shape)}, expected {expected}")
            except ValueError as error:
                raise FrameDatabaseError(f"{self.path}: frame {index}: {error}") from error
            fields.append(field)
        if fields:
            return torch.stack(fields)
        return torch.empty((0, channels, *(-(-side >> level) for side in self.frame_size)))


class FlowWriter(FrameWriter):
    """Writes one flow.db, motion.db or residual.db, complete or not at all.

        with FlowWriter("data/jpg/run/clip_1/flow.db", FlowForm(method="dis")) as writer:
            writer.add_field(field, timestamp=0.0)

    Args:
        path: the database to write; an existing one is replaced.
        form: how the fields are stored.
        meta: additional entries of the meta table.

    Raises:
        OSError: the folder cannot be made or written to.
        FrameDatabaseError: SQLite cannot write, or reading back gives other data.
    """

    def __init__(
        self, path: str | Path, form: FlowForm, *, meta: Mapping[str, str | int | float | None] | None = None
    ) -> None:
        super().__init__(path, levels=form.levels, meta={**form.meta(), **(meta or {})})
        self.form = form
        self._size: tuple[int, ...] | None = None

    def __enter__(self) -> FlowWriter:
        return self

    def add_field(self, field: torch.Tensor, *, timestamp: float | None = None) -> None:
        """Append the field of one frame.

        Args:
            field: float (C, H, W), see `FlowForm.encode`; all of one size.
            timestamp: presentation time of the frame in seconds; for all frames or for none.

        Raises:
            ValueError: a wrong shape, or a value that is not finite.
            FrameDatabaseError: SQLite cannot write.
        """
        height, width = field.shape[-2:]
        if self._size not in (None, (height, width)):
            raise ValueError(f"{self.path}: frame {self.count} is {width}x{height} pixels, unlike those before")
        self._size = (height, width)
        self.meta.update(height=height, width=width)
        rows = self.form.encode(field)
        self.add(rows[0], width=width, timestamp=timestamp, levels=rows[1:])


def open_database(path: str | Path) -> FrameDatabase:
    """Open a frames.db as `FrameDatabase`, or a flow.db, motion.db or residual.db as `FlowDatabase`, by its name.

    Raises:
        FileNotFoundError: no such file.
        FrameDatabaseError: not such a database.
    """
    path = Path(path)
    beside = set(DATABASE_NAMES.values()) - {DATABASE_NAMES["rgb"]}
    return FlowDatabase(path) if path.name in beside else FrameDatabase(path)
