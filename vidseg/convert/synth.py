"""Synthetic labeled videos: a textured shape moves over a textured, slowly drifting background.

The classes differ in motion only. Positions wrap around at the frame borders, sizes oscillate between two limits, and
every video starts at a random position and size. At each frame number all classes therefore have the same distribution
of still frames: a single frame carries no information about the class, and a network that scores above chance uses
motion.

Textures have the 1/f amplitude spectrum of natural images, so JPEG and H.264 sizes are realistic.
"""

import csv
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from vidseg.convert.synth_options import SynthOptions
from vidseg.frames.whole_file import whole_file, write_text
from vidseg.labels.counting import counted

__all__ = ["ACTIONS", "SynthOptions", "SynthReport", "frame_planes", "synthesize_videos", "trajectory"]

logger = logging.getLogger(__name__)

# Motion of each action: speed to the right, speed downwards, clockwise rotation about a center, periodic scaling,
# shaking along a line.
ACTIONS: dict[str, tuple[int, int, int, int, int]] = {
    "move_left": (-1, 0, 0, 0, 0),
    "move_right": (1, 0, 0, 0, 0),
    "move_up": (0, -1, 0, 0, 0),
    "move_down": (0, 1, 0, 0, 0),
    "orbit_clockwise": (0, 0, 1, 0, 0),
    "orbit_anticlockwise": (0, 0, -1, 0, 0),
    "pulse": (0, 0, 0, 1, 0),
    "shake": (0, 0, 0, 0, 1),
}
_SHAPES = ("disc", "square", "triangle", "ring", "star")

# Ranges of the random parameters of a video; lengths in units of the frame height.
_RADIUS = (0.1, 0.3)
_SPEED = (0.4, 0.6)  # per second
_ORBIT_RADIUS = (0.2, 0.28)
_PERIOD = (0.9, 1.2)  # seconds per rotation and per scaling cycle
_SHAKE_RATE = (2.0, 3.0)  # per second
_SHAKE_REACH = 0.12
_DRIFT = 0.04  # maximum drift of the background per second


@dataclass(frozen=True)
class SynthReport:
    """Content of the folder after `synthesize_videos`.

    Attributes:
        videos: number of trimmed videos.
        untrimmed: number of untrimmed videos.
        frames: number of frames of all videos.
        size_bytes: size of all videos.
        made: number of videos written by this call.
    """

    videos: int
    untrimmed: int
    frames: int
    size_bytes: int
    made: int
    """Number of videos written by this call; the others existed."""

    def __str__(self) -> str:
        return (
            f"{counted(self.videos, 'trimmed video')}, {counted(self.untrimmed, 'untrimmed video')}, "
            f"{counted(self.frames, 'frame')}, {self.size_bytes / 1e6:.1f} MB; {self.made} written by this call"
        )


@dataclass(frozen=True)
class _Segment:
    """Frames [start, stop) of a video that show `action`."""

    action: str
    start: int
    stop: int


@dataclass(frozen=True)
class _Video:
    path: str
    split: str
    number: tuple[int, int]
    """(kind, index); together with the seed, the random seed of this video."""
    frames: int
    segments: tuple[_Segment, ...]


def synthesize_videos(
    dst: str | Path, options: SynthOptions | None = None, *, workers: int | None = None, overwrite: bool = False
) -> SynthReport:
    """Write a synthetic data set of moving shapes: H.264 files and label tables.

    The folder contains `videos/<class>/<video>.mp4` with `labels.csv` (label, id, split) and, with `options.untrimmed`,
    `untrimmed/<video>.mp4` with `segments.csv` (label, id, time_start, time_end, split; times in seconds). `synth.json`
    stores the options. A second call with equal options writes only missing videos.

    Args:
        dst: output folder, created if needed.
        options: number, size and split of the videos.
        workers: number of processes; None: one per core, 1: the calling process.
        overwrite: replace the videos of an earlier call with other options.

    Returns:
        The number and size of the videos.

    Raises:
        FileExistsError: the folder holds other files, or videos of other options and `overwrite` is off.
    """
    dst, options = Path(dst), options or SynthOptions()
    _claim(dst, options, overwrite)
    videos = _plan(options)
    _write_tables(dst, options, videos)
    for leftover in (path for name in ("videos", "untrimmed") for path in (dst / name).rglob("*.part")):
        leftover.unlink()  # of an interrupted run
    missing = [video for video in videos if not (dst / video.path).exists()]
    for folder in {(dst / video.path).parent for video in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    logger.info("videos to write to %s: %d (existing: %d)", dst, len(missing), len(videos) - len(missing))
    workers = min(workers or os.cpu_count() or 1, max(1, len(missing)))
    if workers == 1:
        for video in tqdm(missing, unit="video", disable=None):
            _write_video(dst, options, video)
    else:
        # spawn: fork would copy the state of the caller's threads, such as torch's
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
        try:
            jobs = [pool.submit(_write_video, dst, options, video) for video in missing]
            for job in tqdm(as_completed(jobs), total=len(jobs), unit="video", disable=None):
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return SynthReport(
        videos=options.videos,
        untrimmed=options.untrimmed,
        frames=sum(video.frames for video in videos),
        size_bytes=sum((dst / video.path).stat().st_size for video in videos),
        made=len(missing),
    )


def _claim(dst: Path, options: SynthOptions, overwrite: bool) -> None:
    """Check that `dst` is new, empty, or the result of an earlier call, and store the options in it."""
    record = dst / "synth.json"
    dst.mkdir(parents=True, exist_ok=True)
    if record.exists():
        if json.loads(record.read_text()) == asdict(options):
            return
        if not overwrite:
            raise FileExistsError(f"{dst} holds videos of other options (see {record}); --overwrite replaces them")
        for name in ("videos", "untrimmed"):
            shutil.rmtree(dst / name, ignore_errors=True)
        for name in ("labels.csv", "segments.csv", "synth.json"):
            (dst / name).unlink(missing_ok=True)
    elif any(path.name != f".{record.name}.tmp" for path in dst.iterdir()):
        raise FileExistsError(f"{dst} holds files not written by vidseg synth; choose an empty folder")
    write_text(record, json.dumps(asdict(options), indent=2) + "\n")


def _plan(options: SynthOptions) -> list[_Video]:
    """Return the name, split and segments of every video."""
    videos = []
    actions = list(ACTIONS)
    for index in range(options.videos):
        action, number = actions[index % len(actions)], index // len(actions)
        in_class = len(range(index % len(actions), options.videos, len(actions)))
        split = "test" if number >= in_class - round(in_class * options.test_share) else "train"
        path = f"videos/{action}/{action}_{number:04d}.mp4"
        videos.append(_Video(path, split, (0, index), options.frames, (_Segment(action, 0, options.frames),)))
    for index in range(options.untrimmed):
        rng = np.random.default_rng((options.seed, 1, index, 0))
        segments, clock = [], 0
        for _ in range(rng.integers(3, 7)):
            start = clock + int(options.frames * rng.uniform(0.3, 0.8))
            clock = start + max(2, int(options.frames * rng.uniform(0.7, 1.3)))
            segments.append(_Segment(str(rng.choice(actions)), start, clock))
        frames = clock + int(options.frames * rng.uniform(0.3, 0.8))
        split = "test" if index >= options.untrimmed - round(options.untrimmed * options.test_share) else "train"
        videos.append(_Video(f"untrimmed/untrimmed_{index:04d}.mp4", split, (1, index), frames, tuple(segments)))
    return videos


def _write_tables(dst: Path, options: SynthOptions, videos: Sequence[_Video]) -> None:
    def write(name: str, header: list[str], rows: list[list[object]]) -> None:
        with whole_file(dst / name) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])

    trimmed = [video for video in videos if video.number[0] == 0]
    untrimmed = [video for video in videos if video.number[0] == 1]
    if trimmed:
        rows: list[list[object]] = [[v.segments[0].action, Path(v.path).stem, v.split] for v in trimmed]
        write("labels.csv", ["label", "id", "split"], rows)
    if untrimmed:
        rows = [
            [part.action, Path(video.path).stem, part.start / options.fps, part.stop / options.fps, video.split]
            for video in untrimmed
            for part in video.segments
        ]
        write("segments.csv", ["label", "id", "time_start", "time_end", "split"], rows)


def trajectory(
    rng: np.random.Generator, motion: np.ndarray, *, aspect: float, fps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute position and size of the shape in every frame.

    Args:
        rng: random generator for start, speed, orbit and sizes.
        motion: int (T, 5), the row of `ACTIONS` (zeros: no motion) between each frame and the one before it.
        aspect: frame width divided by frame height.
        fps: frames per second.

    Returns:
        x (T,) in [0, aspect), y (T,) in [0, 1) and radius (T,), all in units of the frame height.
    """
    start_x, start_y, turn, beat, swing, axis = rng.uniform(size=6)
    speed, orbit, period, rate = (rng.uniform(*span) for span in (_SPEED, _ORBIT_RADIUS, _PERIOD, _SHAKE_RATE))
    right, down, turns, pulses, shakes = np.cumsum(motion, axis=0).T / fps
    angle = 2 * np.pi * (turn + turns / period)
    shake = _SHAKE_REACH * np.sin(2 * np.pi * (swing + shakes * rate))
    x = start_x * aspect + speed * right + orbit * np.cos(angle) + shake * np.cos(2 * np.pi * axis)
    y = start_y + speed * down + orbit * np.sin(angle) + shake * np.sin(2 * np.pi * axis)
    size = np.abs(2 * ((beat + pulses / period) % 1.0) - 1)  # uniform over 0..1 for every motion
    return x % aspect, y % 1.0, _RADIUS[0] * (_RADIUS[1] / _RADIUS[0]) ** size


def _noise(rng: np.random.Generator, height: int, width: int, *, exponent: float = 1.0) -> np.ndarray:
    """Return float32 noise (height, width) with amplitude 1/f**exponent, mean 0 and deviation 1, periodic in both
    axes."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None, :] * height)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency**exponent
    noise = np.fft.irfft2(spectrum, s=(height, width))
    return (noise / noise.std()).astype(np.float32)


class _Texture:
    """Periodic YUV 4:2:0 picture, sampled with bilinear interpolation."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, *, luma: float, grain: float):
        # Patches with soft edges plus fine noise, as in natural images.
        patches = np.tanh(2 * _noise(rng, height, width, exponent=1.6))
        self._planes = [luma + 12 * patches + grain * _noise(rng, height, width, exponent=1.0)]
        for center in rng.uniform(112, 144, size=2):
            tint = rng.uniform(-6, 6) * patches[::2, ::2] + 0.4 * grain * _noise(
                rng, height // 2, width // 2, exponent=1.3
            )
            self._planes.append((center + tint).astype(np.float32))
        self._doubled = [np.tile(plane, (2, 2)) for plane in self._planes]

    def view(self, dx: float, dy: float) -> list[np.ndarray]:
        """Return the planes shifted by (dx, dy) luma pixels."""
        result = []
        for plane, doubled, scale in zip(self._planes, self._doubled, (1, 2, 2), strict=True):
            height, width = plane.shape
            top, left = (-dy / scale) % height, (-dx / scale) % width
            a, b = np.float32(top % 1), np.float32(left % 1)
            i, j = int(top) % height, int(left) % width  # the remainder of a tiny negative number equals the divisor
            rows = doubled[i : i + height + 1]
            columns = rows[:, j : j + width] * (1 - b) + rows[:, j + 1 : j + 1 + width] * b
            result.append(columns[:-1] * (1 - a) + columns[1:] * a)
        return result

    def sample(self, plane: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the values of `plane` at float positions v (rows) and u (columns), bilinear, in the shape of the
        positions."""
        picture = self._planes[plane]
        height, width = picture.shape
        i, j = np.floor(v).astype(np.intp), np.floor(u).astype(np.intp)
        a, b = (v - i).astype(np.float32), (u - j).astype(np.float32)
        i, j, i1, j1 = i % height, j % width, (i + 1) % height, (j + 1) % width
        upper = picture[i, j] * (1 - b) + picture[i, j1] * b
        lower = picture[i1, j] * (1 - b) + picture[i1, j1] * b
        return upper * (1 - a) + lower * a


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the signed distance from the edge of a shape of radius 1, negative inside."""
    if shape == "disc":
        return np.hypot(x, y) - 1
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.72) - 0.28
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.85
    if shape == "triangle":
        return np.maximum(np.abs(x) * 0.866 + y * 0.5, -y) - 0.55
    # star with five petals
    return np.hypot(x, y) - (0.72 + 0.28 * np.cos(5 * np.arctan2(y, x)))


def frame_planes(
    rng: np.random.Generator, motion: np.ndarray, *, width: int, height: int, fps: float
) -> Iterator[list[np.ndarray]]:
    """Yield the Y, U and V planes (4:2:0, limited range, uint8) of each frame of one video.

    Args:
        rng: random generator of the video.
        motion: int (T, 5), see `trajectory`.
        width: frame width in pixels, even.
        height: frame height in pixels, even.
        fps: frames per second.

    Yields:
        [Y (height, width), U (height / 2, width / 2), V (height / 2, width / 2)].
    """
    x, y, radius = trajectory(rng, motion, aspect=width / height, fps=fps)
    luma = rng.uniform(95, 140)
    contrast = rng.uniform(60, 80) * (1 if luma < 117 else -1)
    grain = rng.uniform(3, 7)  # gives JPEGs of 12 to 25 KB at 340x256 and quality 90, like natural video
    ground = _Texture(rng, height, width, luma=luma, grain=grain)
    skin = _Texture(rng, 128, 128, luma=luma + contrast, grain=grain)
    shape, turn = str(rng.choice(_SHAPES)), rng.uniform(0, 2 * np.pi)
    drift = rng.uniform(-_DRIFT, _DRIFT, size=2) * height / fps
    cos, sin = np.cos(turn), np.sin(turn)
    for frame in range(len(motion)):
        planes = ground.view(*(drift * frame))
        for index, plane in enumerate(planes):
            scale = 1 if index == 0 else 2
            rows, columns = plane.shape
            r = radius[frame] * height / scale
            center_x = x[frame] * height / scale
            center_y = y[frame] * height / scale
            reach = int(r) + 2
            j = np.arange(int(center_x) - reach, int(center_x) + reach + 1)
            i = np.arange(int(center_y) - reach, int(center_y) + reach + 1)
            dx, dy = ((j - center_x) / r)[None, :], ((i - center_y) / r)[:, None]
            u, v = dx * cos + dy * sin, dy * cos - dx * sin
            cover = np.clip(0.5 - _distance(shape, u, v) * r, 0, 1).astype(np.float32)
            # The texture rotates and scales with the shape.
            paint = skin.sample(index, u * (45 / scale), v * (45 / scale))
            place = np.ix_(i % rows, j % columns)
            plane[place] += cover * (paint - plane[place])
        yield [np.clip(plane + 0.5, 16, 235 if k == 0 else 240).astype(np.uint8) for k, plane in enumerate(planes)]


def _write_video(dst: Path, options: SynthOptions, video: _Video) -> None:
    """Render and encode one video; a temporary file is renamed when it is complete."""
    motion = np.zeros((video.frames, 5), dtype=np.int64)
    for part in video.segments:
        motion[part.start : part.stop] = ACTIONS[part.action]
    rng = np.random.default_rng((options.seed, *video.number, 1))
    path = dst / video.path
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=options.fps)
            stream.width, stream.height, stream.pix_fmt = options.width, options.height, "yuv420p"
            stream.time_base = Fraction(1, options.fps)
            stream.codec_context.thread_count = 1
            # mbtree of x264 build 165 is not deterministic, so it is disabled.
            stream.options = {"preset": "veryfast", "crf": "20", "x264-params": "mbtree=0"}
            planes = frame_planes(rng, motion, width=options.width, height=options.height, fps=options.fps)
            for number, (luma, blue, red) in enumerate(planes):
                image = np.concatenate([plane.reshape(-1) for plane in (luma, blue, red)])
                frame = av.VideoFrame.from_ndarray(image.reshape(-1, options.width), format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, options.fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
