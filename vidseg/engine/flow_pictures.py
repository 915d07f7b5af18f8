"""Pictures and videos of the motion in a video file or in the databases of a video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from vidseg.frames import FrameDatabase
from vidseg.frames.flow_database import FlowDatabase
from vidseg.frames.schema import DATABASE_NAME, DATABASE_NAMES
from vidseg.frames.whole_file import whole_file
from vidseg.plots.flow_coding import FlowPicture, flow_colors, flow_radius, flow_wheel, plot_flow, residual_colors
from vidseg.videos import LabeledVideoWriter, read_motion
from vidseg.videos.decoding import VideoSource

__all__ = ["draw_flow"]

_VIDEOS = {".mp4", ".mov", ".m4v", ".mkv", ".webm"}
_NAMES = {"flow": "optical flow", "motion": "motion vectors", "residual": "residuals"}
_SAMPLED = 24  # frames that determine the radius of a video


@dataclass(frozen=True, eq=False)
class _Shown:
    """Frame with its motion: where pixels move, (2, H, W), or a residual, (H, W, 3)."""

    number: int
    time: float
    kind: str
    frame: npt.NDArray[np.uint8] | None
    values: npt.NDArray[Any]


class _FileMotion:
    """Motion vectors or residuals of a video file."""

    def __init__(self, path: Path, modality: str, size: str) -> None:
        self._path, self._size = path, size
        self.modality, self.name, self.method = modality, path.name, ""

    def frames(self, most: int | None) -> Iterator[_Shown]:
        """Yield `most` evenly spaced frames, or all."""
        chosen = None if most is None else _spread(sum(1 for _ in VideoSource(self._path)), most)
        residual = self.modality == "residual"
        for motion in read_motion(self._path, pictures=True, residuals=residual, size=self._size):
            if chosen is None or motion.index in chosen:
                # A motion vector leads to where a pixel comes from.
                values = -motion.field if motion.residual is None else motion.residual
                yield _Shown(motion.index, motion.time, f" {motion.picture_type}", motion.picture, values)
            if chosen is not None and motion.index == max(chosen):
                return

    @property
    def fps(self) -> float:
        """Frame rate."""
        source = VideoSource(self._path)
        next(iter(source))
        return float(source.properties["fps"] or 25)


class _DatabaseMotion:
    """Rows of a flow.db, motion.db or residual.db, with the frames of a frames.db beside it."""

    def __init__(self, path: Path) -> None:
        self._rows = FlowDatabase(path)
        beside = self._rows.path.with_name(DATABASE_NAME)
        self._frames = FrameDatabase(beside) if beside.is_file() else None
        self.modality, self.name = self._rows.modality, self._rows.name
        self.method = f" ({self._rows.method})"
        times = self._rows.timestamps if self._frames is None else self._frames.timestamps
        self._times = np.arange(len(self._rows)) / self.fps if times is None else times

    def frames(self, most: int | None) -> Iterator[_Shown]:
        """Yield `most` evenly spaced frames, or all."""
        for number in sorted(_spread(len(self._rows), len(self._rows) if most is None else most)):
            frame = None if self._frames is None else self._frames.decode([number])[0].numpy()
            if self.modality == "residual":
                values = self._rows.residual([number])[0].permute(1, 2, 0).numpy()
            else:
                values = self._rows.flow([number])[0].numpy() * (-1 if self.modality == "motion" else 1)
            yield _Shown(number, float(self._times[number]), "", frame, values)

    @property
    def fps(self) -> float:
        """Frame rate."""
        rate = self._rows.meta.get("fps")
        return float(rate) if isinstance(rate, int | float) and rate > 0 else 25.0


def draw_flow(
    path: str | Path,
    out: str | Path,
    *,
    modality: str | None = None,
    frames: int = 6,
    radius: float | None = None,
    size: str = "256",
) -> Path:
    """Draw the motion of a video in the colors of `flow_colors` beside its frames, as a picture or a video.

    Colors show where pixels move: optical flow to the next frame, motion vectors from the frame before. Residuals are
    gray where they are 0.

    Args:
        path: a video file; a flow.db, motion.db or residual.db; or the folder of a video's databases.
        out: .png, .pdf or .svg for a picture of some frames; .mp4 or another container for H.264 video of all frames.
        modality: "flow", "motion" or "residual"; None: the motion vectors of a video file, or the first of these
            databases that is in the folder.
        frames: number of frames of a picture, evenly spaced, at least 1.
        radius: length in pixels that has full saturation; None: that of the longest vectors of some frames.
        size: size of the frames of a video file, as for a conversion.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: there is no such file or database.
        ValueError: `frames` or `radius` is out of range, residuals have a radius, or the file has no such modality.
        VideoError: the video cannot be decoded, or its codec exports no motion vectors.
    """
    if frames < 1:
        raise ValueError(f"frames is {frames}, must be at least 1")
    if radius is not None and not radius > 0:
        raise ValueError(f"radius is {radius}, must be greater than 0")
    path, out = Path(path), Path(out)
    motion = _open(path, modality, size)
    title = f"{' '.join(motion.name.split())}: {_NAMES[motion.modality]}{motion.method}"
    vectors = motion.modality != "residual"
    if radius is not None and not vectors:
        raise ValueError("residuals have no radius; leave it out")
    if out.suffix.lower() in _VIDEOS:
        if vectors and radius is None:
            radius = flow_radius([shown.values for shown in motion.frames(_SAMPLED)])
        return _write_video(motion, out, radius)
    chosen = list(motion.frames(frames))
    if vectors and radius is None:
        radius = flow_radius([shown.values for shown in chosen])
    pictures = [
        FlowPicture(f"{shown.time:.2f} s  #{shown.number}{shown.kind}", shown.frame, _colored(shown, radius))
        for shown in chosen
    ]
    return plot_flow(pictures, out, title=title, radius=radius)


def _open(path: Path, modality: str | None, size: str) -> _FileMotion | _DatabaseMotion:
    if path.is_dir():
        wanted = [modality] if modality is not None else list(_NAMES)
        for name in wanted:
            if (path / DATABASE_NAMES[name]).is_file():
                return _DatabaseMotion(path / DATABASE_NAMES[name])
        expected = " or ".join(DATABASE_NAMES[name] for name in wanted)
        raise FileNotFoundError(f"{path}: has no {expected}; `vidseg extract-flow` writes them")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".db":
        found = _DatabaseMotion(path)
        if modality not in (None, found.modality):
            raise ValueError(f"{path}: holds {found.modality}, not {modality}")
        return found
    if modality == "flow":
        raise ValueError(
            f"{path}: a video file has motion vectors and residuals; `vidseg extract-flow` computes optical flow"
        )
    return _FileMotion(path, modality or "motion", size)


def _spread(length: int, most: int) -> set[int]:
    """Return evenly spaced frame numbers; the first frame, which has no motion vectors, only if all are shown."""
    if most >= length:
        return set(range(length))
    return set(np.linspace(0, length - 1, most + 1)[1:].round().astype(int).tolist())


def _colored(shown: _Shown, radius: float | None) -> npt.NDArray[np.uint8]:
    return residual_colors(shown.values) if radius is None else flow_colors(shown.values, radius=radius)


def _write_video(motion: _FileMotion | _DatabaseMotion, out: Path, radius: float | None) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        whole_file(out, suffix=f".tmp{out.suffix}") as temporary,
        LabeledVideoWriter(temporary, fps=motion.fps) as writer,
    ):
        for shown in motion.frames(None):
            colors = _colored(shown, radius)
            text = f"#{shown.number}{shown.kind}"
            if radius is not None:
                side = max(16, min(colors.shape[:2]) // 4)
                colors[-side:, -side:] = flow_wheel(side)
                text += f"   edge of the wheel: {radius:.3g} pixels"
            pixels = colors if shown.frame is None else np.concatenate([shown.frame, colors], axis=1)
            writer.write(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"), shown.time, text)
    return out
